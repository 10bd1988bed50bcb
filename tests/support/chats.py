"""People who talk through eph_e2ee: an account, a client, a vault, and a clock moved by hand."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element, fromstring

from slixmpp import JID

import eph_e2ee
from eph_e2ee.model import BareJid, MessageId
from tests.support.client import PLUGINS, SECONDS, Happenings, connect, disconnect, new_client
from tests.support.clock import ManualClock, ManualSource

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from slixmpp import ClientXMPP

    from eph_e2ee import Chat, Message
    from eph_e2ee.xmpp.sealing import Sealed
    from tests.support.prosody import Account

__all__ = ["FENCE", "Party", "bodies", "body", "element", "fence", "meet", "residue", "together"]

FENCE: Final = "nothing after this"
"""The text of messages that only show that everything before them has been dealt with."""

NOW: Final = float(int(time.time()))
"""What everybody's clock shows at first: close to the server's, which nobody can move."""

TOGETHER_SECONDS: Final = 180.0
"""The limit of many things done at once; each takes milliseconds."""


class Party:
    """One device of an account and what happens to it; `arrive` and `leave` as often as one likes.

    Every arrival is a new process as far as the library can tell: a new client and a new clock, on
    the same vault and the same machine.

    Args:
        account: of the throwaway server.
        folder: of the vault.
        address: the server's or a wire's host and port.
        plugins: of slixmpp, registered before attaching.
        options: for `attach`.
    """

    client: ClientXMPP
    chat: Chat
    clock: ManualClock

    def __init__(
        self,
        account: Account,
        folder: Path,
        address: tuple[str, int],
        *,
        plugins: Sequence[str] = PLUGINS,
        **options: Any,
    ) -> None:
        self.account = account
        self.folder = folder
        self.address = address
        self.source = ManualSource(wall_time=NOW)
        self._plugins = plugins
        self._options = options
        self._attached = False

    @property
    def jid(self) -> str:
        """The bare JID."""
        return self.account.jid

    def attach(self) -> Chat:
        """Make a client, attach to it and watch its events; it does not connect."""
        self.clock = ManualClock(self.source)
        self.client = new_client(self.account, plugins=self._plugins)
        self.chat = eph_e2ee.attach(
            self.client, vault=self.folder, clock=self.clock, **self._options
        )
        self.messages = Happenings(self.client, "ephemeral_message")
        self.expired = Happenings(self.client, "ephemeral_expired")
        self.changes = Happenings(self.client, "ephemeral_timer_changed")
        self.unsupported = Happenings(self.client, "ephemeral_unsupported")
        self.rejected = Happenings(self.client, "ephemeral_rejected")
        self.progress = Happenings(self.client, "ephemeral_catch_up")
        self.started = Happenings(self.client, "omemo_initialized")
        self._attached = True
        return self.chat

    async def arrive(self, *, presence: bool = True) -> None:
        """Attach if need be, connect, and wait until OMEMO has started."""
        if not self._attached:
            self.attach()
        await connect(self.client, self.address, presence=presence)
        await self.started.next()

    async def leave(self) -> None:
        """Close the chat and the stream, as the end of a process would."""
        if self._attached:
            self._attached = False
            try:
                await self.chat.close()
            finally:
                await disconnect(self.client)

    async def restart(self) -> None:
        """Leave, and arrive again on the same vault."""
        await self.leave()
        await self.arrive()

    async def hear(self) -> Message:
        """The next message."""
        message: Message = await self.messages.next()
        return message

    async def read(self) -> Message:
        """The next message, marked as read."""
        message = await self.hear()
        await message.mark_read()
        return message

    async def passes(self, seconds: float) -> None:
        """Let time pass, after what has left is noted: the flow does so within a second."""
        await self.chat._expiry.note()
        self.clock.advance(seconds)

    def set_clock(self) -> None:
        """Have it show what the server's does: `NOW` is as old as the run, hours on a slow machine.

        Before the first arrival, where the server's word on time counts to the hour.
        """
        self.source.wall_time = float(int(time.time()))

    async def ping(self) -> None:
        """Return once the server has dealt with everything that was sent before."""
        domain = JID(self.client.boundjid.domain)
        await self.client.plugin["xep_0199"].ping(domain, timeout=SECONDS)

    async def settle(self) -> None:
        """Return once what has come is dealt with, and the server has answered what came of it."""
        while self.chat._incoming._waiting:
            await self.ping()
        await self.ping()

    async def history(self, other: Party) -> list[Message]:
        """All messages and tombstones with somebody, the oldest first; no lines of changes."""
        entries = await self.chat.history(other.jid, limit=10_000)
        return [entry for entry in entries[::-1] if entry.change is None]

    async def seal(self, recipient: Party, envelope: bytes) -> Sealed:
        """Encrypt any plaintext, sensible or not, with this account's true ratchets."""
        account = self.chat._account
        audience = await account.audience(BareJid(recipient.jid))

        def no_rows(_: Sealed) -> Callable[[Any], None]:
            return lambda _: None

        pending = await account.begin(lambda: account.seal(audience, envelope, None), no_rows)
        await pending.finish()
        return pending.value

    async def send_plaintext(self, recipient: Party, envelope: bytes) -> MessageId:
        """Send any plaintext in the way that messages go; its id."""
        sealed = await self.seal(recipient, envelope)
        account = self.chat._account
        message_id = account.new_id()
        account.send(await account.audience(BareJid(recipient.jid)), message_id, sealed, None)
        return message_id

    async def send_content(self, recipient: Party, *content: Element) -> MessageId:
        """Send elements in a correct envelope, as a client of another make would."""
        envelope = self.chat._account.build(list(content), to=BareJid(recipient.jid))
        return await self.send_plaintext(recipient, envelope)


def element(xml: str) -> Element:
    """An element from its text."""
    return fromstring(xml)  # noqa: S314 -- written by the test


def body(text: str) -> Element:
    """A body."""
    made = Element("{jabber:client}body")
    made.text = text
    return made


def bodies(messages: Sequence[Message]) -> list[str | None]:
    """The texts of messages; None for tombstones."""
    return [message.body for message in messages]


async def fence(sender: Party, recipient: Party) -> list[Message]:
    """Send a last message and wait for it: what came before it, and was not yet heard."""
    await sender.chat.send(recipient.jid, FENCE)
    before: list[Message] = []
    while (message := await recipient.hear()).body != FENCE:
        before.append(message)
    return before


async def meet(one: Party, other: Party) -> None:
    """Exchange a message each way, so that the key exchange is over."""
    await one.chat.send(other.jid, "good morning")
    await (await other.hear()).reply("good day")
    await one.hear()


async def together(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run them at once, within a limit."""
    async with asyncio.timeout(TOGETHER_SECONDS):
        return list(await asyncio.gather(*coroutines))


def residue(folder: Path, *texts: str) -> list[str]:
    """The files of a vault in which any of the texts stands, as UTF-8 or UTF-16."""
    needles = [text.encode(code) for text in texts for code in ("utf-8", "utf-16-le")]
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]
