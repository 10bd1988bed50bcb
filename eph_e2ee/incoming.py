"""The way in: stream, OMEMO, envelope, timer, archive, event.

Whatever a peer sends ends as a stored message or as `ephemeral_rejected`; nothing of it raises into
slixmpp. Read `Incoming._take` and `Incoming._open` from top to bottom.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from xml.etree.ElementTree import Element

from eph_e2ee.clock import Clock
from eph_e2ee.conversations import Conversations
from eph_e2ee.errors import Reason, RemoteProtocolError, VaultError
from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    Entry,
    Rejection,
    Seconds,
    TimerChange,
)
from eph_e2ee.protocol import agreement, ephemeral, lifetime, xml
from eph_e2ee.protocol.agreement import Change
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.protocol.ephemeral import Kind
from eph_e2ee.vault.archive import NewMessage, Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.parcel import MODERN, Opened
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.stanzas import Arrival

__all__ = ["Incoming", "Received"]

BATCH: Final = 64
"""Messages of one conversation that may share a commit; the first does not wait for a burst."""

SHORTEST_CLEAR_TIMER: Final = Seconds(5)
"""The floor of a timer that stood in clear beside legacy OMEMO: no server burns messages unread."""

BODY: Final = "{jabber:client}body"
QUIET: Final = frozenset({Reason.DUPLICATE})
"""Not worth an event: it has been dealt with before."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it goes to the application.

    Attributes:
        entry: the archive's copy.
        findings: what was accepted in it although it is not as it should be.
        encrypted_with: the OMEMO namespace.
    """

    entry: Entry
    findings: tuple[Finding, ...]
    encrypted_with: str


@dataclass(frozen=True, slots=True)
class _Letter:
    """An arrival, opened: what is written with its commit, and what is told afterwards.

    Attributes:
        message: what the archive takes; None where there is nothing to keep.
        setting: the conversation's setting, as `Conversations.change` gave it.
        change: the change of the timer, to be told.
        rejected: why nothing of it is taken. Its key is spent all the same.
    """

    arrival: Arrival
    opened: Opened
    replay_ids: tuple[str, ...]
    message: NewMessage | None = None
    setting: str | None = None
    change: Change | None = None
    findings: tuple[Finding, ...] = ()
    rejected: Reason | None = None


class Incoming:
    """Receives. Owns one task for each conversation that has something waiting."""

    def __init__(
        self,
        account: Account,
        vault: Vault,
        conversations: Conversations,
        clock: Clock,
        deliver: Callable[[Received], None],
        *,
        unread_cap: Seconds | None = None,
    ) -> None:
        self._account = account
        self._vault = vault
        self._conversations = conversations
        self._clock = clock
        self._deliver = deliver
        self._unread_cap = unread_cap
        self._waiting: dict[BareJid, deque[Arrival]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, arrival: Arrival) -> None:
        """Queue an arrival behind the others of its conversation; it never raises."""
        peer = self._peer(arrival)
        queue = self._waiting.get(peer)
        if queue is not None:
            queue.append(arrival)
            return
        self._waiting[peer] = deque([arrival])
        task = asyncio.ensure_future(self._drain(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Stop reading; what is waiting is in the server's archive still."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, peer: BareJid) -> None:
        queue = self._waiting[peer]
        try:
            while queue:
                await self._take([queue.popleft() for _ in range(min(BATCH, len(queue)))])
        finally:
            del self._waiting[peer]

    @contained
    async def _take(self, batch: list[Arrival]) -> None:
        """Drop replays, open the others in order, then tell of each once it is committed."""
        await self._account.omemo.running()
        opening: list[Pending[_Letter, Entry | None]] = []
        try:
            fresh = await self._unseen(batch)
        except VaultError:
            for arrival in batch:
                self._reject(arrival, Reason.NOT_STORED)
            return
        for arrival, replay_ids in fresh:
            await self._open(arrival, replay_ids, opening)
        for pending in opening:
            await self._finish(pending)

    async def _unseen(self, batch: list[Arrival]) -> list[tuple[Arrival, tuple[str, ...]]]:
        """Those that were never archived, alive or gone, each with its ids (F36)."""
        named = [(arrival, self._replay_ids(arrival)) for arrival in batch]
        known = await self._vault.transact(lambda vault: [vault.seen(ids) for _, ids in named])
        fresh: list[tuple[Arrival, tuple[str, ...]]] = []
        taken: set[str] = set()
        for (arrival, ids), seen in zip(named, known, strict=True):
            if not seen and taken.isdisjoint(ids):
                fresh.append((arrival, ids))
                taken.update(ids)
        return fresh

    @contained
    async def _open(
        self,
        arrival: Arrival,
        replay_ids: tuple[str, ...],
        opening: list[Pending[_Letter, Entry | None]],
    ) -> None:
        """Decrypt and verify under the lock, and queue ratchet and message for one commit.

        One that fails for whatever reason takes no other along.
        """
        try:
            pending = await self._account.begin_reading(
                lambda: self._letter(arrival, replay_ids), self._archived
            )
        except RemoteProtocolError as error:
            self._reject(arrival, error.reason)
        except VaultError:
            self._reject(arrival, Reason.NOT_STORED)
        else:
            opening.append(pending)

    async def _letter(self, arrival: Arrival, replay_ids: tuple[str, ...]) -> _Letter:
        letter = _Letter(arrival, await self._account.unseal(arrival), replay_ids)
        try:
            if letter.opened.namespace == MODERN:
                return await self._read(letter)
            return self._read_legacy(letter)
        except RemoteProtocolError as error:
            return replace(letter, rejected=error.reason)

    async def _read(self, letter: _Letter) -> _Letter:
        """Verify the envelope, take in the timer, and make of the rest what is archived."""
        arrival, plaintext = letter.arrival, letter.opened.plaintext
        if plaintext is None:
            return letter  # an empty message: it turned the ratchet, that was all
        own, peer = self._is_own(arrival), self._peer(arrival)
        to = peer if own else self._account.bare
        envelope = self._account.open(plaintext, arrival=arrival, to=to)
        await self._account.omemo.remember_reader(letter.opened.device)
        sent_at = self._sent_at(arrival, envelope.affixes.time)
        announcement = ephemeral.read(envelope.content)
        body, elements = _taken_apart(envelope.content)
        before = await self._conversations.setting(peer)
        after, change = before, None
        if body is not None or announcement.kind is not Kind.ABSENT:
            after, change = agreement.receive(
                before,
                announcement,
                author=arrival.sender,
                device=DeviceId(letter.opened.device.device_id),
                stamp=sent_at,
                own=own,
            )
        timer = before.timer if announcement.kind is Kind.MALFORMED else announcement.timer
        kept = body is not None or elements
        return replace(
            letter,
            message=self._message(letter, body, elements, timer, sent_at) if kept else None,
            setting=self._conversations.change(peer, before, after),
            change=change,
            findings=envelope.findings + announcement.findings + _tampering(arrival),
        )

    def _read_legacy(self, letter: _Letter) -> _Letter:
        """Legacy OMEMO: a body, and a timer that anybody on the way may have written.

        It is honoured, not below a floor, and never changes the conversation's setting.
        """
        if letter.opened.plaintext is None:
            return letter
        timer = ephemeral.read(list(letter.arrival.xml)).timer
        if timer is not None:
            timer = max(timer, SHORTEST_CLEAR_TIMER)
        sent_at = self._sent_at(letter.arrival, None)
        message = self._message(letter, _text(letter.opened.plaintext), (), timer, sent_at)
        findings = () if timer is None else (Finding.CLEAR_TIMER,)
        return replace(letter, message=message, findings=findings)

    def _message(
        self,
        letter: _Letter,
        body: str | None,
        elements: tuple[Element, ...],
        timer: Seconds | None,
        sent_at: float,
    ) -> NewMessage:
        own = self._is_own(letter.arrival)
        direction = Direction.OUTGOING if own else Direction.INCOMING
        life = lifetime.created(direction, timer, cap_until=self._cap_until())
        if own:  # another device of ours has sent it: its timer runs since then
            life = lifetime.step(life, lifetime.Event.SENT, sent_at)
        return NewMessage(
            conversation=self._peer(letter.arrival),
            direction=direction,
            lifetime=life,
            delivery=Delivery.SENT if own else Delivery.RECEIVED,
            content=Content(
                body=body,
                elements=tuple(xml.serialize(element).decode() for element in elements),
                sender=letter.arrival.sender,
                device=DeviceId(letter.opened.device.device_id),
                message_id=letter.arrival.message_id,
                sent_at=sent_at,
            ),
            replay_ids=letter.replay_ids,
        )

    def _archived(self, letter: _Letter) -> Callable[[Transaction], Entry | None]:
        peer = self._peer(letter.arrival)

        def work(vault: Transaction) -> Entry | None:
            self._conversations.write(vault, peer, letter.setting)
            if letter.message is not None:
                return vault.add(letter.message)
            if letter.opened.plaintext is not None:
                vault.remember(letter.replay_ids)
            return None

        return work

    @contained
    async def _finish(self, pending: Pending[_Letter, Entry | None]) -> None:
        """Committed: now it may be told, first of the timer, then of the message."""
        letter = pending.value
        peer = self._peer(letter.arrival)
        try:
            entry = await pending.finish()
        except VaultError:
            self._conversations.forget(peer)
            self._reject(letter.arrival, Reason.NOT_STORED)
            return
        if letter.rejected is not None:
            self._reject(letter.arrival, letter.rejected)
        if letter.change is not None:
            self._account.emit("ephemeral_timer_changed", self._told(peer, letter.change))
        if entry is not None and entry.content is not None:
            self._deliver(Received(entry, letter.findings, letter.opened.namespace))
        await _published(pending)

    def _told(self, peer: BareJid, change: Change) -> TimerChange:
        own = change.author == self._account.bare
        return TimerChange(peer, change.old, change.new, change.author, change.device, own=own)

    def _reject(self, arrival: Arrival, reason: Reason) -> None:
        if reason in QUIET or (reason is Reason.NOT_FOR_THIS_DEVICE and self._is_own(arrival)):
            return
        self._account.emit(
            "ephemeral_rejected", Rejection(reason, arrival.sender, arrival.message_id)
        )

    def _is_own(self, arrival: Arrival) -> bool:
        return arrival.sender == self._account.bare != arrival.recipient

    def _peer(self, arrival: Arrival) -> BareJid:
        return arrival.recipient if self._is_own(arrival) else arrival.sender

    def _sent_at(self, arrival: Arrival, claimed: datetime | None) -> float:
        """The authenticated time, else the servers', else now; never in the future (F13)."""
        now = self._clock.now()
        moment = claimed or arrival.sent_at
        return now if moment is None else min(now, moment.timestamp())

    def _cap_until(self) -> int | None:
        """When a message that arrives now ends unread (F19)."""
        cap = self._unread_cap
        return None if cap is None else math.ceil(self._clock.now()) + cap

    def _replay_ids(self, arrival: Arrival) -> tuple[str, ...]:
        """What a second delivery is known by: ratchet text, sender's id, our archive's id."""
        fingerprint = self._account.fingerprint(arrival)
        ids = {
            "key": fingerprint,
            f"id {arrival.sender}": arrival.message_id,
            "archive": arrival.archive_id,
        }
        return tuple(f"{kind} {value}" for kind, value in ids.items() if value)


@contained
async def _published(pending: Pending[_Letter, Entry | None]) -> None:
    """Upload our new bundle after a key exchange; the next start mends a failure."""
    await pending.publish()


def _taken_apart(content: tuple[Element, ...]) -> tuple[str | None, tuple[Element, ...]]:
    """The text, and the elements beside it and the timer's own."""
    bodies = [element for element in content if element.tag == BODY]
    others = (
        element
        for element in content
        if element.tag != BODY and not ephemeral.is_ephemeral(element)
    )
    return (bodies[0].text or "") if bodies else None, tuple(others)


def _tampering(arrival: Arrival) -> tuple[Finding, ...]:
    """An outer element is the server's word, not the peer's: reported, not obeyed (F31)."""
    outside = any(ephemeral.is_ephemeral(element) for element in arrival.xml)
    return (Finding.OUTER_EPHEMERAL,) if outside else ()


def _text(plaintext: bytes) -> str:
    text = plaintext.decode(errors="replace")
    if "\ufffd" in text and "\ufffd".encode() not in plaintext:
        raise RemoteProtocolError(Reason.MALFORMED_BODY)
    return text
