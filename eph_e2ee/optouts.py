"""Conversations whose peer has opted out of OMEMO: nothing is sent before that is confirmed.

What the peer gave as a reason is told once and not kept: it would outlive every timer.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from eph_e2ee.errors import OptedOut, VaultDamaged
from eph_e2ee.events import OptOut
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.protocol import optout
from eph_e2ee.protocol.optout import Event, Phase, State
from eph_e2ee.remembered import Remembered
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account

__all__ = ["Heard", "OptOuts", "write"]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message says about opting out.

    Attributes:
        state: what is to be written with it; None for nothing.
        told: what the application is told, once that is committed.
    """

    state: str | None = None
    told: OptOut | None = field(default=None, repr=False)


class OptOuts:
    """Knows where sending is blocked. States are changed under the lock of the OMEMO sessions."""

    def __init__(self, account: Account, vault: Vault) -> None:
        self._account = account
        self._vault = vault
        self._remembered = Remembered[State]()
        account.omemo.answers = self._answers

    async def check(self, conversation: BareJid) -> None:
        """Let a message pass, or not.

        Raises:
            OptedOut: the peer has opted out, and that is not confirmed.
            VaultError: what is known of it cannot be read; nothing may be sent either.
        """
        if await self.blocked(conversation):
            raise OptedOut("the peer asks for plain text: nothing is sent until that is confirmed")

    async def blocked(self, conversation: BareJid) -> bool:
        """Whether sending is blocked.

        Raises:
            VaultError: what is known of it cannot be read.
        """
        return (await self._state(conversation)).phase is Phase.BLOCKED

    async def heard(
        self,
        conversation: BareJid,
        content: Sequence[Element],
        *,
        device: DeviceId,
        sent_at: float,
        speaks: bool,
    ) -> Heard:
        """Take in a message of the peer's.

        Args:
            conversation: the peer.
            content: the elements of the verified envelope.
            device: the sending device.
            sent_at: when it was sent, in seconds since the epoch; not in the future.
            speaks: whether it says anything to people.
        """
        request = optout.read(content)
        if request is None and not speaks:
            return Heard()
        before = State()
        with suppress(VaultDamaged):  # sending stays blocked, until this is written or confirmed
            before = await self._state(conversation)
        event = Event.MESSAGE if request is None else Event.OPT_OUT
        after = optout.step(before, event, round(sent_at * 1000))
        if after == before:
            return Heard()
        self._remembered.put(conversation, after)
        told = None if request is None else OptOut(conversation, device, request.reason)
        return Heard(after.to_json(), told)

    async def confirm(self, conversation: BareJid) -> None:
        """Let messages pass again. Canceling it is safe.

        Raises:
            VaultError: sending stays blocked.
        """
        try:
            pending = await self._account.begin(
                lambda: self._confirmed(conversation),
                lambda state: lambda vault: write(vault, conversation, state.to_json()),
            )
            await pending.finish()
        except BaseException:
            self.forget(conversation)
            raise

    def forget(self, conversation: BareJid) -> None:
        """Read the state again: the commit that held it has failed."""
        self._remembered.forget(conversation)

    async def _answers(self, conversation: BareJid) -> bool:
        """Whether OMEMO may answer by itself: not where a message could not be sent either."""
        return not await self.blocked(conversation)

    async def _confirmed(self, conversation: BareJid) -> State:
        before = State()
        with suppress(VaultDamaged):  # confirming mends it
            before = await self._state(conversation)
        after = optout.step(before, Event.CONFIRMED)
        self._remembered.put(conversation, after)
        return after

    async def _state(self, conversation: BareJid) -> State:
        return await self._remembered.get(conversation, lambda: self._read(conversation))

    async def _read(self, conversation: BareJid) -> State:
        text = await self._vault.transact(lambda vault: vault.value(_key(conversation)))
        return State() if text is None else State.from_json(text)


def write(vault: Transaction, conversation: BareJid, state: str | None) -> None:
    """Write what `OptOuts.heard` gave, inside of a work of the vault."""
    if state is not None:
        vault.put_value(_key(conversation), state)


def _key(conversation: BareJid) -> str:
    return f"opt-out:{conversation}"
