"""A message, as `Chat` gives it to the application."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol
from xml.etree.ElementTree import Element

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.events import LeftOut
from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    Entry,
    Erasure,
    MessageId,
    Phase,
    Seconds,
    TimerChange,
    Trust,
)
from eph_e2ee.protocol import xml
from eph_e2ee.protocol.envelope import Finding

__all__ = ["Conversing", "Message", "delta"]


class Conversing(Protocol):
    """What a message needs of its `Chat`."""

    async def send(
        self, jid: str, body: str | None = None, *, elements: Sequence[Element] = ()
    ) -> "Message":
        """Send a message."""

    async def start_timer(self, entry: Entry) -> Entry:
        """Have a message's own timer run from now, unless it runs already."""

    async def send_again(self, entry: Entry, content: Content) -> "Message":
        """Send what the archive holds under the id that it was given first."""

    async def erase_entry(self, entry: Entry) -> tuple[Entry, Erasure]:
        """Forget a message; its tombstone, and what became of its keys."""


class Message:
    """A message as the application sees it, or the tombstone of one. It never prints its text.

    Attributes:
        findings: what was accepted in it although it is not as it should be; empty from history.
        encrypted_with: the OMEMO namespace that it came in; None for one of ours and from history.
        left_out: the devices, and accounts as a whole, that a message just sent does not reach;
            empty from history.
    """

    def __init__(
        self,
        chat: "Conversing",
        entry: Entry,
        findings: tuple[Finding, ...] = (),
        encrypted_with: str | None = None,
        left_out: frozenset[LeftOut] = frozenset(),
    ) -> None:
        self._chat = chat
        self._entry = entry
        self.findings = findings
        self.encrypted_with = encrypted_with
        self.left_out = left_out

    def __repr__(self) -> str:
        return f"<Message {self.number}: {self.direction.value}, {self.phase.value}>"

    def is_of(self, chat: Conversing) -> bool:
        """Whether it is a message of this `Chat`, and not of another or an earlier one."""
        return self._chat is chat

    @property
    def number(self) -> int:
        """Its number in the vault; `ephemeral_expired` gives it again."""
        return self._entry.number

    @property
    def conversation(self) -> BareJid:
        """The bare JID of the peer or the room."""
        return self._entry.conversation

    @property
    def direction(self) -> Direction:
        """Which way it went."""
        return self._entry.direction

    @property
    def phase(self) -> Phase:
        """Where it stands, as of the last call on this object; `GONE` for a tombstone."""
        return self._entry.phase

    @property
    def delivery(self) -> Delivery:
        """How far it came."""
        return self._entry.delivery

    @property
    def body(self) -> str | None:
        """The text; None for a message without one and for a tombstone."""
        return None if self._entry.content is None else self._entry.content.body

    @property
    def elements(self) -> tuple[Element, ...]:
        """The other elements of its content."""
        content = self._entry.content
        texts = () if content is None else content.elements
        return tuple(xml.read_back(text.encode()) for text in texts)

    @property
    def sender(self) -> BareJid | None:
        """The bare JID that OMEMO authenticated; None for a tombstone."""
        return None if self._entry.content is None else self._entry.content.sender

    @property
    def device(self) -> DeviceId | None:
        """The sending device; None for a tombstone."""
        return None if self._entry.content is None else self._entry.content.device

    @property
    def trust(self) -> Trust | None:
        """How far its device was trusted when it arrived; None for a tombstone and one of ours.

        `UNDECIDED` and `DISTRUSTED` are to be shown as such.
        """
        return None if self._entry.content is None else self._entry.content.trust

    @property
    def message_id(self) -> MessageId | None:
        """Its sender's id of it; None for a tombstone."""
        return None if self._entry.content is None else self._entry.content.message_id

    @property
    def sent_at(self) -> datetime | None:
        """When it was sent, in UTC; None for a tombstone."""
        content = self._entry.content
        return None if content is None else datetime.fromtimestamp(content.sent_at, UTC)

    @property
    def change(self) -> TimerChange | None:
        """The change of the timer that this line of the history tells of; None for a message.

        Such a line has no text and does not itself disappear.
        """
        return None if self._entry.content is None else self._entry.content.change

    @property
    def timer(self) -> timedelta | None:
        """Its own timer, frozen since it was sent; None for a permanent message."""
        return delta(self._entry.timer)

    @property
    def deadline(self) -> float | None:
        """When it disappears, or did, in seconds since the epoch; None while no timer runs."""
        return self._entry.deadline

    async def mark_read(self) -> None:
        """Say that somebody has seen it: its timer starts, here and on our other devices.

        They are told as soon as there is a session. Saying so again changes nothing.

        Raises:
            VaultError: its timer could not be started.
        """
        if self.direction is Direction.INCOMING:
            self._entry = await self._chat.start_timer(self._entry)

    async def reply(self, body: str, *, elements: Sequence[Element] = ()) -> "Message":
        """Send a text to the same conversation; see `Chat.send`."""
        return await self._chat.send(self.conversation, body, elements=elements)

    async def resend(self) -> "Message":
        """Send one of ours again that may not have left or has failed, under its own id and timer.

        A peer that has it already drops this one.

        Raises:
            LocalProtocolError: it is neither unsent nor failed, or it has disappeared.
            NotSent, VaultError: as for `Chat.send`.
        """
        content = self._entry.content
        if self.delivery not in (Delivery.UNSENT, Delivery.FAILED) or content is None:
            raise LocalProtocolError("only a message that is unsent or failed can be sent again")
        return await self._chat.send_again(self._entry, content)

    async def erase(self) -> Erasure:
        """Forget it here; see `Chat.erase`. This object is a tombstone's from then on."""
        self._entry, erasure = await self._chat.erase_entry(self._entry)
        return erasure


def delta(timer: Seconds | None) -> timedelta | None:
    """A timer as applications see it."""
    return None if timer is None else timedelta(seconds=timer)
