"""The way out: compose, timer, envelope, OMEMO, archive, stream.

Nothing leaves before its ratchet and its archived copy are committed, and nothing ever leaves in
clear. Read `Outgoing.send` from top to bottom.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from eph_e2ee.clock import Clock
from eph_e2ee.conversations import Conversations
from eph_e2ee.drafts import Agreed, Draft, content_of
from eph_e2ee.errors import Cause, LocalProtocolError, NoEligibleDevices, VaultDamaged
from eph_e2ee.events import Delivered, LeftOut
from eph_e2ee.letters import id_name, line_of
from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    Direction,
    Entry,
    Legacy,
    MessageId,
    Seconds,
    TimerChange,
)
from eph_e2ee.optouts import OptOuts
from eph_e2ee.protocol import agreement, ephemeral, lifetime, marks, setting, xml
from eph_e2ee.protocol.agreement import Agreement
from eph_e2ee.protocol.setting import Setting
from eph_e2ee.unacknowledged import Unacknowledged, Waiting
from eph_e2ee.vault.archive import NewMessage, Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.warnings import Warnings
from eph_e2ee.xmpp.account import Account, Audience
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.sealing import Sealed

if TYPE_CHECKING:
    from eph_e2ee.xmpp.encrypting import Addressee

__all__ = ["Outgoing", "Sent"]


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A draft, sealed: its timer is frozen and its ratchet has turned, in memory."""

    draft: Draft
    message_id: MessageId
    timer: Seconds | None
    clear: Element | None = field(repr=False)
    change: TimerChange | None
    setting: str | None = field(repr=False)
    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a draft.

    Attributes:
        entry: the archived copy; None for a change of the timer without text.
        left_out: the devices, and the accounts as a whole, that it was not encrypted for.
    """

    entry: Entry | None
    left_out: frozenset[LeftOut] = frozenset()


class _Unconfirmed(Exception):
    """Some devices are taken for legacy ones, by lists that the server may be about to send on."""

    def __init__(self, accounts: frozenset[BareJid]) -> None:
        super().__init__()
        self.accounts = accounts


class Outgoing:
    """Sends. Owns no task."""

    def __init__(
        self,
        account: Account,
        vault: Vault,
        conversations: Conversations,
        opt_outs: OptOuts,
        clock: Clock,
        *,
        legacy: Legacy,
        receipts: bool = False,
    ) -> None:
        self._legacy = legacy
        self._receipts = receipts
        self._account = account
        self._vault = vault
        self._conversations = conversations
        self._opt_outs = opt_outs
        self._clock = clock
        self._left: list[tuple[int, float]] = []
        self._unacknowledged = Unacknowledged()
        self._confirmed: dict[BareJid, frozenset[Addressee]] = {}
        self._warnings = Warnings(account, legacy)
        self.on_gathered: Callable[[], None] = lambda: None
        account.acks.on_ack = self._acknowledged
        account.acks.on_lost = self._unacknowledged.clear

    async def send(self, draft: Draft) -> Sent:
        """Say it, to somebody or in a room.

        A session that ends meanwhile leaves it in the archive, unsent. So does a managed stream
        until the server has acknowledged it (XEP-0198). Canceling it is safe: either nothing has
        happened, or it is in the archive, unsent until it is known to have left.

        Raises:
            LocalProtocolError: an element or a timer that cannot be sent.
            NotSent: nothing left, nothing was archived.
            VaultError: nothing left, and nothing was half done.
        """
        self._account.check_session()
        audience = await self._account.audience(draft.recipient)
        try:
            pending = await self._begun(draft, audience)
            entry: Entry | None = await pending.finish()
        except BaseException:
            self._conversations.forget(draft.recipient)
            raise
        parcel = pending.value
        if self._account.has_session:
            confirmed = self._account.acks.active
            if entry is not None and confirmed:
                stanzas, now = len(parcel.sealed.stanzas), self._clock.now()
                waiting = Waiting(entry.number, entry.conversation, now, stanzas)
                self._unacknowledged.put(parcel.message_id, waiting)
            self._account.send(audience, parcel.message_id, parcel.sealed, parcel.clear)
            if entry is not None and not confirmed:
                entry = self._has_left(entry, self._clock.now())
        left_out = await self._tell(parcel, audience)
        return Sent(entry, left_out)

    async def signal(self, recipient: BareJid, content: list[Element]) -> bool:
        """Send what is for clients alone, in an envelope: no copy, no timer, nothing in clear.

        Devices that read no envelopes get nothing, and nobody is asked to decide on others.
        Canceling it is safe.

        Returns:
            Whether there was any device for it.

        Raises:
            NotSent: nothing left.
            VaultError: nothing left.
        """
        self._account.check_session()
        await self._opt_outs.check(recipient)
        audience = await self._account.audience(recipient)
        envelope = self._account.build(content, to=recipient)
        pending = await self._account.begin(
            lambda: self._sealed_signal(audience, envelope), lambda _: lambda _: None
        )
        await pending.finish()
        self._account.send(audience, self._account.new_id(), pending.value, None)
        return bool(pending.value.messages)

    async def note(self) -> None:
        """Start the timers of messages that have left; one write for all of them.

        Raises:
            VaultError: they stay noted, for the next time.
        """
        left, self._left = self._left, []
        if not left:
            return
        try:
            await self._vault.transact(lambda vault: _start(vault, left))
        except BaseException:
            self._left = left + self._left
            raise

    async def came_back(self, message_id: MessageId) -> None:
        """An error has come: note that it had left, before that it failed; no more is to be told.

        Raises:
            VaultError: it stays noted, for the next time.
        """
        waiting = self._unacknowledged.settle(message_id)
        if waiting is not None:
            self._note_left(waiting.number, waiting.at)
        await self.note()

    @property
    def has_unnoted(self) -> bool:
        """Whether messages have left whose timers are not yet running in the archive."""
        return bool(self._left)

    # -- one step each -------------------------------------------------------------------------

    async def _begun(self, draft: Draft, audience: Audience) -> Pending[_Parcel, Entry | None]:
        """Sealed, with its commit queued.

        Without a device, and before anything less than an envelope is sent to one, the lists are
        asked for once more: they come one by one, and in any order.
        """
        try:
            return await self._account.begin(lambda: self._sealed(draft, audience), self._archived)
        except NoEligibleDevices:
            doubtful = audience.jids
        except _Unconfirmed as unconfirmed:
            doubtful = unconfirmed.accounts
        await self._account.devices.prepare(doubtful, again=True)
        return await self._account.begin(
            lambda: self._sealed(draft, audience, confirmed=True), self._archived
        )

    async def _sealed(
        self, draft: Draft, audience: Audience, *, confirmed: bool = False
    ) -> _Parcel:
        """Under the lock: the timer that stands now is the message's own from here on (F29)."""
        await self._opt_outs.check(draft.recipient)
        before = await self._conversations.setting(draft.recipient)
        after, stated = self._announced(self._agreed(before, draft, audience))
        timer = after.timer if isinstance(draft.timer, Agreed) else draft.timer
        content = content_of(draft, timer, opting_out=after.opting_out)
        if stated is not None:
            content.append(setting.write(stated))
        if self._receipts and draft.is_said and not audience.room:
            content += marks.write_wanted()
        envelope = self._account.build(content, to=draft.recipient)
        sealed = await self._sealed_for(draft, audience, envelope)
        if audience.room and not sealed.messages and draft.is_said:
            raise NoEligibleDevices(frozenset({draft.recipient}), frozenset({Cause.NOBODY_ELSE}))
        self._confirm(draft.recipient, sealed, confirmed=confirmed)
        return _Parcel(
            draft=draft,
            message_id=draft.message_id or self._account.new_id(),
            timer=timer,
            clear=self._clear(timer),
            change=self._change(draft.recipient, before.timer, after.timer),
            setting=self._conversations.change(draft.recipient, before, after),
            sealed=sealed,
        )

    async def _sealed_signal(self, audience: Audience, envelope: bytes) -> Sealed:
        """Under the lock: no opt-out comes in between."""
        await self._opt_outs.check(audience.conversation)
        return await self._account.seal_if_read(audience, envelope, asking=False)

    async def _sealed_for(self, draft: Draft, audience: Audience, envelope: bytes) -> Sealed:
        if not draft.is_said and self._legacy is not Legacy.REFUSE:
            return await self._account.seal_if_read(audience, envelope)
        body = None if self._legacy is Legacy.REFUSE else draft.body
        return await self._account.seal(audience, envelope, body)

    def _confirm(self, recipient: BareJid, sealed: Sealed, *, confirmed: bool) -> None:
        devices = sealed.without_envelope
        unconfirmed = devices - self._confirmed.get(recipient, frozenset())
        if confirmed:
            self._confirmed[recipient] = devices
        elif unconfirmed:
            raise _Unconfirmed(frozenset(jid for jid, _ in unconfirmed))

    def _clear(self, timer: Seconds | None) -> Element | None:
        """The timer for legacy OMEMO, which has no other place for it."""
        if timer is None or self._legacy is not Legacy.DELIVER:
            return None
        return ephemeral.write(timer)

    def _agreed(self, setting: Agreement, draft: Draft, audience: Audience) -> Agreement:
        """The setting once this message is out; a timer of its own is a change (XEP-0466 3.3).

        Raises:
            LocalProtocolError: it changes the timer of a room that we do not belong to (F28).
        """
        permanent = draft.timer is None and draft.body is not None
        if isinstance(draft.timer, Agreed) or permanent or draft.number is not None:
            return setting
        if not audience.member and draft.timer != setting.timer:
            raise LocalProtocolError("only its members may change the timer of a room")
        return agreement.set_timer(
            setting,
            draft.timer,
            author=self._account.bare,
            device=self._account.device,
            stamp=self._clock.now(),
        )

    def _announced(self, state: Agreement) -> tuple[Agreement, Setting | None]:
        return agreement.announce(
            state,
            author=self._account.bare,
            device=self._account.device,
            stamp=self._clock.now(),
        )

    def _change(
        self, recipient: BareJid, old: Seconds | None, new: Seconds | None
    ) -> TimerChange | None:
        if old == new:
            return None
        own, device = self._account.bare, self._account.device
        return TimerChange(recipient, old, new, own, device, own=True, here=True)

    def _archived(self, parcel: _Parcel) -> Callable[[Transaction], Entry | None]:
        now = self._clock.now()

        def work(vault: Transaction) -> Entry | None:
            self._conversations.write(vault, parcel.draft.recipient, parcel.setting)
            if parcel.change is not None:
                vault.add(line_of(parcel.change, parcel.message_id, now))
            if not parcel.draft.is_said:
                return None
            if parcel.draft.number is not None:
                # Once more: what is heard of the first attempt from now on says nothing of this.
                vault.set_delivery(parcel.draft.number, Delivery.UNSENT)
                return vault.entry(parcel.draft.number)
            return vault.add(self._message(parcel, now))

        return work

    def _message(self, parcel: _Parcel, now: float) -> NewMessage:
        return NewMessage(
            conversation=parcel.draft.recipient,
            direction=Direction.OUTGOING,
            lifetime=lifetime.created(Direction.OUTGOING, parcel.timer),
            delivery=Delivery.UNSENT,
            content=Content(
                body=parcel.draft.body,
                elements=tuple(xml.serialize(item).decode() for item in parcel.draft.elements),
                sender=self._account.bare,
                device=self._account.device,
                message_id=parcel.message_id,
                sent_at=now,
            ),
            # By this a receipt, an error, and our archive's copy are known to be of this message.
            replay_ids=(id_name(self._account.bare, parcel.message_id),),
        )

    def _acknowledged(self, message_id: MessageId) -> None:
        waiting = self._unacknowledged.acknowledged(message_id)
        if waiting is not None:
            self._note_left(waiting.number, waiting.at)
            told = Delivered(waiting.number, waiting.conversation, Delivery.SENT)
            self._account.emit("ephemeral_delivery", told)

    def _note_left(self, number: int, at: float) -> None:
        self._left.append((number, at))
        self.on_gathered()

    def _has_left(self, entry: Entry, now: float) -> Entry:
        self._note_left(entry.number, now)
        started = lifetime.step(
            lifetime.Lifetime(entry.phase, entry.timer, entry.deadline), lifetime.Event.SENT, now
        )
        return replace(
            entry, phase=started.phase, deadline=started.deadline, delivery=Delivery.SENT
        )

    async def _tell(self, parcel: _Parcel, audience: Audience) -> frozenset[LeftOut]:
        """Tell the application of the change, and of whom it does not reach; returns these."""
        if parcel.change is not None:
            self._account.emit("ephemeral_timer_changed", parcel.change)
        return await self._warnings.tell(
            parcel.sealed,
            audience,
            spoken=parcel.draft.is_said,
            timed=parcel.timer is not None,
        )


def _start(vault: Transaction, left: list[tuple[int, float]]) -> None:
    for number, at in left:
        with suppress(VaultDamaged):  # nobody can read it any more; it stops no other (F38)
            vault.note_sent(number, at)
