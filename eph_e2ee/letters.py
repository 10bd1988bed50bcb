"""What an arrival becomes once it is open: a message, a change of the timer, marks on others.

Nothing here is written or told; `incoming.py` does that, after the commit.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from xml.etree.ElementTree import Element

from eph_e2ee.clear import ClearTimers, text_of
from eph_e2ee.clock import Clock
from eph_e2ee.conversations import Conversations
from eph_e2ee.errors import Reason, RemoteProtocolError, VaultDamaged
from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    MessageId,
    Phase,
    Seconds,
    TimerChange,
    Trust,
)
from eph_e2ee.optouts import Heard, OptOuts
from eph_e2ee.protocol import agreement, ephemeral, lifetime, marks, optout, setting, xml
from eph_e2ee.protocol.agreement import Agreement, Speech
from eph_e2ee.protocol.envelope import Envelope, Finding
from eph_e2ee.protocol.ephemeral import Announcement, Kind
from eph_e2ee.protocol.lifetime import Lifetime
from eph_e2ee.protocol.marks import Marks
from eph_e2ee.vault.archive import NewMessage
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened
from eph_e2ee.xmpp.stanzas import Arrival
from eph_e2ee.xmpp.trust import TRUSTED

__all__ = ["Letter", "Letters", "archive_name", "id_name", "line_of"]

BODY: Final = "{jabber:client}body"
LANGUAGE: Final = "{http://www.w3.org/XML/1998/namespace}lang"

WAITING: Final = {Reason.UNDECIDED, Reason.UNREACHABLE}
"""Why a message is not opened yet: nobody has decided on its device, or its keys are not here."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An arrival, opened: what is written with its commit, and what is told afterwards.

    Attributes:
        arrival: what arrived.
        peer: the conversation that it belongs to.
        own: whether another device of this account has sent it.
        namespace: the OMEMO namespace that it came in; empty where it was not opened.
        trust: how far the sending device is trusted.
        replay_ids: what a second delivery is known by; none where it was not opened.
        message: what the archive takes; None where there is nothing to keep.
        setting: the conversation's setting, as `Conversations.change` gave it.
        change: the change of the timer, to be told.
        marks: what it tells about other messages.
        opt_out: what it says about opting out of OMEMO.
        sent_at: when it was sent, in seconds since the epoch; never in the future.
        findings: what was accepted in it although it is not as it should be.
        rejected: why nothing of it is taken. Its key is spent all the same, unless it `waits`.
    """

    arrival: Arrival = field(repr=False)
    peer: BareJid
    own: bool
    namespace: str
    trust: Trust
    replay_ids: tuple[str, ...] = field(default=(), repr=False)
    message: NewMessage | None = None
    setting: str | None = field(default=None, repr=False)
    change: TimerChange | None = None
    marks: Marks = field(default_factory=Marks, repr=False)
    opt_out: Heard = field(default_factory=Heard)
    sent_at: float = 0.0
    findings: tuple[Finding, ...] = ()
    rejected: Reason | None = None

    @property
    def waits(self) -> bool:
        """Whether it is to be opened later: see `WAITING`."""
        return self.rejected in WAITING

    @property
    def believed(self) -> bool:
        """Whether it changes anything beside itself: what an untrusted device says does not."""
        return self.trust in TRUSTED


class Letters:
    """Makes letters of arrivals, under the lock of the OMEMO sessions."""

    def __init__(
        self,
        account: Account,
        conversations: Conversations,
        opt_outs: OptOuts,
        clock: Clock,
        *,
        unread_cap: Seconds | None = None,
        clear_timers: ClearTimers | None = None,
    ) -> None:
        self._account = account
        self._conversations = conversations
        self._opt_outs = opt_outs
        self._clock = clock
        self._unread_cap = unread_cap
        self._clear_timers = clear_timers or ClearTimers()

    def is_own(self, arrival: Arrival) -> bool:
        """Tell whether another device of this account has sent it to somebody else."""
        return arrival.sender == self._account.bare != arrival.recipient

    def peer(self, arrival: Arrival) -> BareJid:
        """The conversation that an arrival belongs to."""
        own = self.is_own(arrival)
        return arrival.room or (arrival.recipient if own else arrival.sender)

    def replay_ids(self, arrival: Arrival) -> tuple[str, ...]:
        """What a second delivery is known by: ratchet text, sender's id, our archive's id."""
        fingerprint = self._account.fingerprint(arrival)
        names = [f"key {fingerprint}"] if fingerprint else []
        if arrival.message_id:
            names.append(id_name(arrival.sender, arrival.message_id))
        if arrival.archive_id:
            names.append(archive_name(arrival.archive_id, arrival.room))
        return tuple(names)

    async def open(self, arrival: Arrival, replay_ids: tuple[str, ...]) -> Letter:
        """Decrypt, verify the envelope, take in the timer, and make of the rest what is archived.

        Raises:
            RemoteProtocolError: it does not open, or what is known of its conversation does not.
        """
        before = await self._before(self.peer(arrival))
        if arrival.sender == arrival.room:
            raise RemoteProtocolError(Reason.UNKNOWN_SENDER)  # a room that shows no real JIDs
        if arrival.room is None and self._account.members.is_room(self.peer(arrival)):
            raise RemoteProtocolError(Reason.PRIVATE_IN_ROOM)
        try:
            unsealed = await self._account.unseal(arrival)
        except RemoteProtocolError as error:
            if error.reason not in WAITING:
                raise
            # No failure: what was learnt of the device on the way is kept, to decide on it.
            waits = Letter(arrival, self.peer(arrival), self.is_own(arrival), "", Trust.UNDECIDED)
            return replace(waits, rejected=error.reason)
        letter = Letter(
            arrival,
            self.peer(arrival),
            self.is_own(arrival),
            unsealed.namespace,
            await self._account.devices.standing(unsealed.device),
            replay_ids,
        )
        if unsealed.plaintext is None:
            return letter  # an empty message: it turned the ratchet, that was all
        try:
            if unsealed.namespace == MODERN:
                return await self._read(letter, unsealed, unsealed.plaintext, before)
            return self._read_legacy(letter, unsealed, unsealed.plaintext, before)
        except RemoteProtocolError as error:
            return replace(letter, rejected=error.reason)

    async def _before(self, peer: BareJid) -> Agreement:
        """The setting as it stands; one that is damaged stops no other conversation (F38)."""
        with suppress(VaultDamaged):
            return await self._conversations.setting(peer)
        raise RemoteProtocolError(Reason.NOT_STORED)

    async def _read(
        self, letter: Letter, unsealed: Opened, plaintext: bytes, before: Agreement
    ) -> Letter:
        arrival = letter.arrival
        to = letter.peer if letter.own or arrival.room is not None else self._account.bare
        envelope = self._account.open(plaintext, arrival=arrival, to=to)
        await self._account.omemo.remember_reader(unsealed.device, envelope.content)
        claimed = envelope.affixes.time or arrival.sent_at
        marked = marks.read(envelope.content) if letter.believed else Marks()
        letter = replace(letter, sent_at=self._never_later(claimed), marks=marked)
        announcement = ephemeral.read(envelope.content)
        body, elements = _taken_apart(envelope.content)
        stated, malformed = setting.read(envelope.content)
        after, change = before, None
        # Receipts and the like are no part of the agreement: they never carry a timer.
        spoken = body is not None or announcement.kind is not Kind.ABSENT or stated is not None
        if spoken and letter.believed:
            speech = self._speech(letter, unsealed, announcement, claimed)
            speech = replace(speech, setting=stated)
            after, change = agreement.receive(before, speech, now=self._clock.now())
        timer = before.timer if announcement.kind is Kind.MALFORMED else announcement.timer
        kept = body is not None or elements
        return replace(
            letter,
            message=self._message(letter, unsealed, (body, elements), timer) if kept else None,
            setting=self._conversations.change(letter.peer, before, after),
            change=None if change is None else self._told(letter.peer, change),
            opt_out=await self._opt_out(letter, unsealed, envelope, speaks=bool(kept)),
            findings=_findings(envelope, announcement, arrival) + malformed,
        )

    async def _opt_out(
        self, letter: Letter, unsealed: Opened, envelope: Envelope, *, speaks: bool
    ) -> Heard:
        """What the peer says about opting out; nobody says so for a room, or for us.

        Who is not trusted neither blocks sending, nor takes back what another device has said.
        """
        own = letter.arrival.sender == self._account.bare
        if own or letter.arrival.room is not None or not letter.believed:
            return Heard()
        return await self._opt_outs.heard(
            letter.peer,
            envelope.content,
            device=DeviceId(unsealed.device.device_id),
            sent_at=letter.sent_at,
            speaks=speaks,
        )

    def forget(self, arrival: Arrival) -> None:
        """Read again what it has changed: the commit that held it has failed."""
        self._conversations.forget(self.peer(arrival))
        self._opt_outs.forget(self.peer(arrival))

    def _speech(
        self,
        letter: Letter,
        unsealed: Opened,
        announcement: Announcement,
        claimed: datetime | None,
    ) -> Speech:
        """What it says about the conversation's timer, by its own clock: its devices have one."""
        stamp = self._clock.now() if claimed is None else claimed.timestamp()
        return Speech(
            author=letter.arrival.sender,
            device=DeviceId(unsealed.device.device_id),
            stamp=stamp,
            announcement=announcement,
            own=letter.arrival.sender == self._account.bare,
            member=self._is_member(letter.arrival),
            accounts=None if letter.arrival.room else frozenset({self._account.bare, letter.peer}),
        )

    def _read_legacy(
        self, letter: Letter, unsealed: Opened, plaintext: bytes, before: Agreement
    ) -> Letter:
        """Legacy OMEMO: a body, and a timer that anybody on the way may have written.

        It is honoured, not below a floor, and changes the conversation's setting only if the
        application would have it so, and not on the word of a device that is not trusted.
        """
        announcement = ephemeral.read(list(letter.arrival.xml))
        if announcement.timer is not None:
            floored = max(announcement.timer, self._clear_timers.floor)
            announcement = replace(announcement, timer=floored)
        claimed = letter.arrival.sent_at
        letter = replace(letter, sent_at=self._never_later(claimed))
        after, change = before, None
        believed = self._clear_timers.believed and letter.believed
        if believed and announcement.kind is not Kind.ABSENT:
            speech = self._speech(letter, unsealed, announcement, claimed)
            after, change = agreement.receive(before, speech, now=self._clock.now())
        told = None if change is None else replace(change, authenticated=False)
        return replace(
            letter,
            message=self._message(letter, unsealed, (text_of(plaintext), ()), announcement.timer),
            setting=self._conversations.change(letter.peer, before, after),
            change=None if told is None else self._told(letter.peer, told),
            findings=() if announcement.timer is None else (Finding.CLEAR_TIMER,),
        )

    def _message(
        self,
        letter: Letter,
        unsealed: Opened,
        parts: tuple[str | None, tuple[Element, ...]],
        timer: Seconds | None,
    ) -> NewMessage:
        body, elements = parts
        direction = Direction.OUTGOING if letter.own else Direction.INCOMING
        life = lifetime.created(direction, timer, cap_until=self._cap_until())
        if letter.own:  # another device of ours has sent it: its timer runs since then
            life = lifetime.step(life, lifetime.Event.SENT, letter.sent_at)
        return NewMessage(
            conversation=letter.peer,
            direction=direction,
            lifetime=life,
            delivery=Delivery.SENT if letter.own else Delivery.RECEIVED,
            content=Content(
                body=body,
                elements=tuple(xml.serialize(element).decode() for element in elements),
                sender=letter.arrival.sender,
                device=DeviceId(unsealed.device.device_id),
                message_id=letter.arrival.message_id,
                sent_at=letter.sent_at,
                archive_id=letter.arrival.archive_id,
                wants_marker=letter.marks.wants_marker,
                trust=letter.trust,
            ),
            replay_ids=letter.replay_ids,
        )

    def _told(self, peer: BareJid, change: agreement.Change) -> TimerChange:
        own = change.author == self._account.bare
        return TimerChange(
            conversation=peer,
            old=change.old,
            new=change.new,
            author=change.author,
            device=change.device,
            own=own,
            here=own and change.device == self._account.device,
            authenticated=change.authenticated,
        )

    def _is_member(self, arrival: Arrival) -> bool:
        if arrival.room is None or arrival.member:
            return True
        return self._account.members.belongs(arrival.room, arrival.sender)

    def _never_later(self, claimed: datetime | None) -> float:
        """The authenticated time, else the servers', else now; never in the future (F13)."""
        now = self._clock.now()
        return now if claimed is None else min(now, claimed.timestamp())

    def _cap_until(self) -> int | None:
        """When a message that arrives now ends unread (F19)."""
        cap = self._unread_cap
        return None if cap is None else math.ceil(self._clock.now()) + cap


def id_name(sender: BareJid, message_id: MessageId) -> str:
    """The replay id of a message by its sender's id of it."""
    return f"id {sender} {message_id}"


def archive_name(archive_id: str, room: BareJid | None = None) -> str:
    """The replay id of a message by our own archive's id of it, or by a room's."""
    return f"archive {archive_id}" if room is None else f"archive {room} {archive_id}"


def line_of(change: TimerChange, message_id: MessageId, at: float) -> NewMessage:
    """The line of the history that tells of a change; it does not itself disappear."""
    direction = Direction.OUTGOING if change.own else Direction.INCOMING
    return NewMessage(
        conversation=change.conversation,
        direction=direction,
        lifetime=Lifetime(Phase.READ, None, None),
        delivery=Delivery.RECEIVED,
        content=Content(
            body=None,
            elements=(),
            sender=change.author,
            device=change.device,
            message_id=message_id,
            sent_at=at,
            change=change,
        ),
    )


def _taken_apart(content: tuple[Element, ...]) -> tuple[str | None, tuple[Element, ...]]:
    """The text, and the elements beside it, without the timer's own and the marks.

    A text may come in several languages (RFC 6121 section 5.2.3); the one that names none is taken,
    else the first. What is called a body in another namespace is an element like any other.
    """
    bodies = [element for element in content if element.tag == BODY]
    bodies.sort(key=lambda element: LANGUAGE in element.attrib)
    others = (element for element in content if element.tag != BODY and not _is_ours(element))
    return (bodies[0].text or "") if bodies else None, tuple(others)


def _is_ours(element: Element) -> bool:
    """Tell whether an element is dealt with here, and none of the application's."""
    known = (ephemeral.is_ephemeral, setting.is_setting, marks.is_mark, optout.is_opt_out)
    return any(knows(element) for knows in known)


def _findings(
    envelope: Envelope, announcement: Announcement, arrival: Arrival
) -> tuple[Finding, ...]:
    """What is reported; an outer element is the server's word, and is not obeyed (F31).

    Beside legacy OMEMO one has its place, for those who read nothing else.
    """
    legacy = arrival.xml.find(f"{{{OLD}}}encrypted") is not None
    outside = not legacy and any(ephemeral.is_ephemeral(element) for element in arrival.xml)
    tampering = (Finding.OUTER_EPHEMERAL,) if outside else ()
    return envelope.findings + announcement.findings + tampering
