"""The messages: rows that come, move from leaf to leaf, and end as tombstones without content.

A message's content is sealed under a key of its own, and that key under a leaf of the key tree:
by its deadline while its timer runs, by its conversation otherwise. Reading therefore moves 32
bytes, whatever the size of the message.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Row

from eph_e2ee.errors import LocalProtocolError, VaultDamaged
from eph_e2ee.model import BareJid, Delivery, Entry, Phase
from eph_e2ee.protocol.lifetime import Event, Lifetime, step
from eph_e2ee.vault.database import messages, replays
from eph_e2ee.vault.ending import Ending
from eph_e2ee.vault.paths import GroupCut, Leaf, Region
from eph_e2ee.vault.primitives import KEY_SIZE, random_bytes
from eph_e2ee.vault.records import MAXIMUM_KEYS
from eph_e2ee.vault.rows import (
    DELIVERIES,
    DELIVERY_CODES,
    DIRECTION_CODES,
    DIRECTIONS,
    EMPTY_DUE,
    ERASE,
    ERASE_CONVERSATION,
    FIND_REPLAY,
    GONE_CODE,
    MOVE,
    PHASE_CODES,
    PHASES,
    READ,
    READ_BETWEEN,
    READ_ENDING,
    READ_PAGE,
    READ_STANDINGS,
    READ_UNSENT,
    SET_DELIVERY,
    Gone,
    NewMessage,
    Standing,
    delivery_after,
    find_replays,
    leaf_of,
    new_entry,
    open_content,
    seal_content,
    standing,
)
from eph_e2ee.vault.shared import Conversation

__all__ = ["KEY_KIND", "Gone", "NewMessage", "Standing", "Transaction"]

LOG = logging.getLogger(__name__)

MAXIMUM_NUMBER: Final = 2**63 - 1
"""No row has a greater number: a database's integers end here."""

KEY_KIND: Final = b"content key"
"""What a message's content key is sealed as."""


class Transaction(Ending):
    """What a work given to `Vault.transact` can do. It is of no use after the work has returned.

    Each method may raise VaultUnavailable when the database refuses; nothing of the work is done
    then.
    """

    def add(self, message: NewMessage) -> Entry:
        """Keep a message. One whose time is over already leaves a tombstone only (F21)."""
        return self.add_many([message])[0]

    def add_many(self, new: Sequence[NewMessage]) -> list[Entry]:
        """Keep many messages, in their order, with two statements for all of them."""
        now = self.now()
        entries: list[Entry] = []
        rows: list[tuple[Any, ...]] = []
        hashes: list[tuple[bytes, int]] = []
        for message in new:
            conversation = self.conversation(message.conversation)
            entry = new_entry(self._next_number(), message, now)
            while self._is_spent(leaf := self._leaf_for(entry.number, entry, conversation)):
                entry = replace(entry, number=self._next_number())
            entries.append(entry)
            rows.append(self._new_row(entry, conversation, leaf))
            hashes += [
                (self._keys.hash("replay", replay_id), entry.number)
                for replay_id in message.replay_ids
            ]
        self.insert_many(messages, rows)
        self.insert_many(replays, hashes)
        self.effects.deadlines |= any(entry.deadline is not None for entry in entries)
        return entries

    def remember(self, replay_ids: Sequence[bytes | str]) -> None:
        """Know a delivery again of which nothing is kept, a change of the timer, say."""
        self.insert_many(replays, [(self._keys.hash("replay", each), 0) for each in replay_ids])

    def seen(self, replay_ids: Sequence[bytes | str]) -> bool:
        """Return whether a message with any of these ids was kept, even if it is gone (F36)."""
        hashes = [self._keys.hash("replay", each) for each in replay_ids]
        groups = [hashes[at : at + MAXIMUM_KEYS] for at in range(0, len(hashes), MAXIMUM_KEYS)]
        return any(self.read_plain(find_replays(len(group)), group).first() for group in groups)

    def find(self, replay_id: bytes | str) -> int | None:
        """Return the number of the message that was kept with this id among its own."""
        parameters = {"hash": self._keys.hash("replay", replay_id)}
        found: int | None = self.read(FIND_REPLAY, parameters).scalar()
        return found

    def entry(self, number: int) -> Entry | None:
        """Return a message or its tombstone; None for a number that was never given.

        Raises:
            VaultDamaged: the row does not open.
        """
        row = self.read(READ, {"number": number}).first()
        return None if row is None else self._entry(row, self.numbered(row.conversation).jid)

    def entries(self, conversation: BareJid, before: int | None, limit: int) -> list[Entry]:
        """Return up to `limit` messages and tombstones of a conversation, the newest first.

        A row that does not open is skipped, logged by its number, and counted among
        `Vault.damaged` (F38).

        Args:
            conversation: the bare JID of the peer or the room.
            before: only those with a smaller number; None begins with the newest.
            limit: at least 1.
        """
        found = self.find_conversation(conversation)
        if found is None:
            return []
        entries: list[Entry] = []
        bound = MAXIMUM_NUMBER if before is None else before
        while len(entries) < limit:
            count = limit - len(entries)
            page = {"of": found.number, "before": bound, "count": count}
            rows = self.read(READ_PAGE, page).all()
            entries += self._readable(rows, conversation)
            if len(rows) < count:
                break
            bound = rows[-1].number
        return entries

    @property
    def next_number(self) -> int:
        """The number of the next message: none that is kept later has a smaller one."""
        return self._shared.next_number

    def entries_between(self, first: int, end: int) -> list[Entry]:
        """Return the messages and tombstones of all conversations from a number to before another.

        The oldest come first. A row that does not open is skipped, as in `entries`.
        """
        return self._readable(self.read(READ_BETWEEN, {"first": first, "end": end}).all())

    def standings(self, conversation: BareJid, until: int, limit: int) -> list[Standing]:
        """Return where the messages of a conversation stand, the newest first; none is opened.

        Args:
            conversation: the bare JID of the peer or the room.
            until: only those with this number or a smaller one.
            limit: at least 1.
        """
        found = self.find_conversation(conversation)
        if found is None:
            return []
        page = {"of": found.number, "until": until, "count": limit}
        return [standing(row) for row in self.read(READ_STANDINGS, page)]

    def set_delivery(self, number: int, delivery: Delivery) -> None:
        """Write down how far a message of ours came, whatever else has become of it."""
        self.change(SET_DELIVERY, {"of": number, "new_delivery": DELIVERY_CODES[delivery]})

    def unsent(self) -> list[Entry]:
        """Return the messages of ours that have not left this machine, the oldest first.

        One whose time is over is not among them, swept or not: it must not be sent any more.
        """
        entries = self._readable(self.read(READ_UNSENT).all())
        return [entry for entry in entries if entry.phase is not Phase.GONE]

    def apply(self, number: int, event: Event, now: float) -> Entry:
        """Take a message one step through its life, and return what it is then.

        A timer that starts moves the message to the leaf of its deadline; the leaf it leaves is
        to be forgotten. Nothing happens to one that is gone.

        Args:
            number: the message.
            event: what has happened to it.
            now: when, in seconds since the epoch.

        Raises:
            LocalProtocolError: there is no such message, or nothing of the kind can happen to it.
            VaultDamaged: the row does not open.
        """
        row = self._existing(number)
        entry = self._entry(row, self.numbered(row.conversation).jid)
        if entry.phase is Phase.GONE:
            return entry
        after = self._step(row, event, now)
        return replace(
            entry,
            phase=after.phase,
            deadline=after.deadline,
            delivery=delivery_after(row, event),
            content=None if after.phase is Phase.GONE else entry.content,
        )

    def note_sent(self, number: int, now: float) -> None:
        """Do the same for a message of ours that has left, without opening what it holds.

        Args:
            number: the message.
            now: when it left, in seconds since the epoch.

        Raises:
            LocalProtocolError: there is no such message.
            VaultDamaged: its key does not open, or its conversation's name.
        """
        row = self._existing(number)
        if self._stands(row, self.now()):
            self._step(row, Event.SENT, now)

    def erase(self, number: int) -> None:
        """Make a tombstone of a message: unreadable from the commit on, gone from the settling on.

        Raises:
            LocalProtocolError: there is no such message.
        """
        row = self._existing(number)
        if row.phase != GONE_CODE:
            self._erase(row)

    def erase_conversation(self, jid: BareJid) -> None:
        """Do the same for all messages of a conversation; its settings stay."""
        conversation = self.find_conversation(jid)
        if conversation is None:
            return
        ending = self.read(READ_ENDING, {"of": conversation.number}).all()
        self.change(ERASE_CONVERSATION, {"of": conversation.number, "at": int(self.now())})
        self.intend(
            GroupCut(Region.KEPT, conversation.kept_group, epoch)
            for epoch in self.epochs(Region.KEPT)
        )
        self.intend(cut for row in ending for cut in self.cuts(leaf_of(row)))
        self.regroup(conversation)
        self.effects.deadlines = True

    # For the vault itself.

    def start_unsent(self) -> None:
        """Start the timers of messages that may have left just before the process died (F17).

        They are still shown as unsent. A damaged one does not stop the others (F38).
        """
        for entry in self.unsent():
            if entry.phase is Phase.UNSENT and entry.timer is not None:
                self._step(self._existing(entry.number), Event.INTERRUPTED, self.now())

    def _next_number(self) -> int:
        number = self._shared.next_number
        self._shared.next_number += 1
        return number

    def _leaf_for(self, number: int, stands: Entry | Lifetime, conversation: Conversation) -> Leaf:
        """Return the leaf that seals a message's key: by its deadline, once it has one."""
        if stands.deadline is None:
            epoch = self.epochs(Region.KEPT)[-1]
            return Leaf(Region.KEPT, conversation.kept_group, number, epoch)
        epoch = self.epochs(Region.EXPIRING)[-1]
        leaf = Leaf(Region.EXPIRING, stands.deadline, number, epoch)
        while self._is_spent(leaf):
            # It was this message's before, and is forgotten: so its key goes a second early.
            leaf = replace(leaf, group=leaf.group - 1)
        return leaf

    def _new_row(self, entry: Entry, conversation: Conversation, leaf: Leaf) -> tuple[Any, ...]:
        """Return the columns of `messages` in their order."""
        sealed_key, content = None, None
        if entry.content is not None:
            key = random_bytes(KEY_SIZE)
            sealed_key = self.seal(leaf, key, KEY_KIND)
            content = seal_content(entry.content, key, entry.number)
        return (
            entry.number,
            conversation.number,
            DIRECTION_CODES[entry.direction],
            PHASE_CODES[entry.phase],
            DELIVERY_CODES[entry.delivery],
            entry.timer,
            entry.deadline,
            leaf.region.value,
            leaf.epoch,
            leaf.group,
            sealed_key,
            content,
        )

    def _readable(self, rows: Sequence[Row[Any]], jid: BareJid | None = None) -> list[Entry]:
        entries = []
        for row in rows:
            try:
                name = jid or self.numbered(row.conversation).jid
                entries.append(self._entry(row, name))
            except VaultDamaged:
                LOG.warning("message %d does not open", row.number)
                self.effects.damaged.add(row.number)
        return entries

    def _entry(self, row: Row[Any], jid: BareJid) -> Entry:
        """Return what a row says now: past its deadline it has no content, swept or not."""
        content = None
        if self._stands(row, self.latest()):
            key = self._keys.open(leaf_of(row), row.sealed_key, KEY_KIND)
            content = open_content(row.content, key, row.number)
        return Entry(
            number=row.number,
            conversation=jid,
            direction=DIRECTIONS[row.direction],
            phase=Phase.GONE if content is None else PHASES[row.phase],
            delivery=DELIVERIES[row.delivery],
            timer=row.timer,
            deadline=row.deadline,
            content=content,
        )

    def _stands(self, row: Row[Any], now: float) -> bool:
        """Return whether a message is neither gone nor due, whatever the sweep has done."""
        if row.content is None or (row.deadline is not None and row.deadline <= now):
            return False
        return self._keys.alive(leaf_of(row))

    def _existing(self, number: int) -> Row[Any]:
        row = self.read(READ, {"number": number}).first()
        if row is None:
            raise LocalProtocolError(f"there is no message {number}")
        return row

    def _step(self, row: Row[Any], event: Event, now: float) -> Lifetime:
        """Take a message that stands one step; return where it stands then."""
        conversation, delivery = self.numbered(row.conversation), delivery_after(row, event)
        before = Lifetime(PHASES[row.phase], row.timer, row.deadline)
        after = step(before, event, now)
        if after == before and delivery is DELIVERIES[row.delivery]:
            return after
        if after.phase is Phase.GONE:
            self._erase(row)
            return replace(after, deadline=int(self.now()))
        if after.is_due(self.now()):
            # Read on another device so long ago, or sent just before the machine was suspended.
            self._empty(row, after, delivery)
            return replace(after, phase=Phase.GONE)
        self._move(row, after, delivery, self._leaf_for(row.number, after, conversation))
        return after

    def _move(self, row: Row[Any], after: Lifetime, delivery: Delivery, leaf: Leaf) -> None:
        """Write down what a message is now, and seal its key under another leaf if need be."""
        old, sealed = leaf_of(row), row.sealed_key
        if leaf != old:
            sealed = self.seal(leaf, self._keys.open(old, sealed, KEY_KIND), KEY_KIND)
            self.intend(self.cuts(old))
            self.effects.deadlines = True
        values = {
            "phase": PHASE_CODES[after.phase],
            "delivery": DELIVERY_CODES[delivery],
            "deadline": after.deadline,
            "region": leaf.region.value,
            "epoch": leaf.epoch,
            "leaf_group": leaf.group,
            "sealed_key": sealed,
        }
        new_values = {f"new_{name}": value for name, value in values.items()}
        self.change(MOVE, {"of": row.number, **new_values})

    def _empty(self, row: Row[Any], after: Lifetime, delivery: Delivery) -> None:
        """Forget a message whose time is over already; the next sweep tells of it."""
        values = {"new_deadline": after.deadline, "new_delivery": DELIVERY_CODES[delivery]}
        epoch = self.epochs(Region.EXPIRING)[-1]
        self.change(EMPTY_DUE, {"of": row.number, "new_epoch": epoch, **values})
        self.intend(self.cuts(leaf_of(row)))
        self.effects.deadlines = True

    def _erase(self, row: Row[Any]) -> None:
        self.change(ERASE, {"of": row.number, "at": int(self.now())})
        self.intend(self.cuts(leaf_of(row)))
        self.effects.deadlines |= row.region == Region.EXPIRING
