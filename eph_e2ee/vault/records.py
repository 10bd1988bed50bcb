"""What every kind of row has in common: statements, intents to forget, conversations, values.

A value is a text under a key, sealed in the RATCHET region: what it held before an overwriting is
forgotten as a message is (F12).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    Connection,
    CursorResult,
    Executable,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import BareJid, Entry, Phase
from eph_e2ee.protocol.lifetime import Lifetime
from eph_e2ee.vault.database import conversations, intents, messages, meta, replays, state
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.keytree import Cut, Leaf, LeafCut, Region, pack_cut
from eph_e2ee.vault.primitives import pad, unpad

__all__ = ["CHANGE_META", "SEQUENCE", "Conversation", "Effects", "Records", "Shared", "leaf_for"]

SEQUENCE_BLOCK: Final = 1000
"""Sequence numbers reserved by one write of a meta row, so that a message does not cost one; a
restart skips what is left of a block."""

MAXIMUM_NAMES: Final = 10_000
"""Conversations kept in memory, so that it does not grow with the archive."""

MAXIMUM_KEYS: Final = 500
"""Values looked up by one statement: SQLite limits the parameters of a statement."""

STATE_GROUP: Final = 0
"""The one group of the RATCHET region."""

SEQUENCE: Final = "sequence"
"""The meta row with the first sequence number that is not reserved."""

FIND_NAME = select(conversations.c.number, conversations.c.kept_group).where(
    conversations.c.hash == bindparam("hash")
)
FIND_CONVERSATION = select(conversations).where(conversations.c.number == bindparam("number"))
ADD_CONVERSATION = insert(conversations)
MOVE_CONVERSATION = (
    update(conversations)
    .where(conversations.c.number == bindparam("of"))
    .values(kept_group=bindparam("group"))
)
FIND_STATE = select(state.c.hash, state.c.sequence).where(
    state.c.hash.in_(bindparam("hashes", expanding=True))
)
READ_STATE = select(state.c.sequence, state.c.sealed).where(state.c.hash == bindparam("hash"))
CHANGE_STATE = (
    update(state)
    .where(state.c.hash == bindparam("of"))
    .values(sequence=bindparam("new_sequence"), sealed=bindparam("new_sealed"))
)
DROP_STATE = delete(state).where(state.c.hash == bindparam("of"))
READ_META = select(meta.c.value).where(meta.c.name == bindparam("wanted"))
CHANGE_META = (
    update(meta).where(meta.c.name == bindparam("of")).values(value=bindparam("new_value"))
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A peer or a room.

    Attributes:
        number: what rows call it.
        jid: its bare JID.
        kept_group: the group of the KEPT region that its messages are sealed in; another one
            after each clearing.
    """

    number: int
    jid: BareJid = field(repr=False)
    kept_group: int


@dataclass(slots=True)
class Effects:
    """What a work, or a group of them, does beside its rows once it is committed.

    Attributes:
        changed: whether anything was written.
        intents: whether anything is to be forgotten.
        deadlines: whether the earliest deadline may be another.
        conversations: those found or made.
        damaged: the numbers of messages that did not open.
        endings: called on the worker with True after the commit, or False when it is lost.
    """

    changed: bool = False
    intents: bool = False
    deadlines: bool = False
    conversations: list[Conversation] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    endings: list[Callable[[bool], None]] = field(default_factory=list)

    def include(self, other: "Effects") -> None:
        """Add the effects of one more work."""
        self.changed |= other.changed
        self.intents |= other.intents
        self.deadlines |= other.deadlines
        self.conversations += other.conversations
        self.damaged |= other.damaged
        self.endings += other.endings

    def end(self, *, committed: bool) -> None:
        """Tell all that asked for it how it ended."""
        for ending in self.endings:
            ending(committed)


class Shared:
    """What the transactions of one open vault share; used on the vault's worker only.

    Attributes:
        now: the clock's time.
    """

    def __init__(self, connection: Connection, keys: Keys, clock: Clock) -> None:
        self.connection = connection
        self.keys = keys
        self.now = clock.now
        self._insertions: dict[Table, str] = {}
        self.by_jid: dict[BareJid, Conversation] = {}
        self.by_number: dict[int, Conversation] = {}
        self.next_number = 1 + self._greatest(messages.c.number)
        self.next_intent = 1 + self._greatest(intents.c.id)
        self.next_group = 1 + self._greatest(conversations.c.kept_group)
        text = connection.execute(READ_META, {"wanted": SEQUENCE}).scalar_one()
        self.next_sequence = self.reserved = self._reserved = int(text)

    def _greatest(self, column: Any) -> int:
        return self.connection.execute(select(func.max(column))).scalar() or 0

    def insertion(self, table: Table) -> str:
        """Return the driver's statement that inserts a row; a replay id kept twice is kept once."""
        if table not in self._insertions:
            statement = insert(table)
            if table is replays:
                statement = statement.prefix_with("OR IGNORE", dialect="sqlite")
            self._insertions[table] = str(statement.compile(dialect=self.connection.dialect))
        return self._insertions[table]

    def committed(self, effects: Effects) -> None:
        """Keep what is true from now on."""
        self._reserved = self.reserved
        if len(self.by_number) > MAXIMUM_NAMES:
            self.by_jid.clear()
            self.by_number.clear()
        for conversation in effects.conversations:
            self.by_jid[conversation.jid] = conversation
            self.by_number[conversation.number] = conversation

    def undone(self) -> None:
        """Reserve again what a lost work or transaction may have reserved."""
        self.reserved = self._reserved


class Records:
    """One work's view of the vault. It is of no use after the work has returned.

    Attributes:
        effects: what the vault does about this work after the commit.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._keys = shared.keys
        self.effects = Effects()

    def now(self) -> float:
        """Return the vault's time, seconds since the epoch."""
        return self._shared.now()

    def read(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a statement that changes nothing."""
        return self._shared.connection.execute(statement, parameters)

    def read_plain(self, statement: str, parameters: Sequence[Any]) -> CursorResult[Any]:
        """Do the same with a statement of the driver's, which SQLAlchemy made once."""
        return self._shared.connection.exec_driver_sql(statement, tuple(parameters))

    def change(
        self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | Mapping[str, Any]
    ) -> CursorResult[Any] | None:
        """Run a statement that writes, once for each of the parameters; none at all is fine."""
        if not parameters:
            return None
        self.effects.changed = True
        return self._shared.connection.execute(statement, parameters)

    def insert_many(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows that give every column of a table in its order.

        SQLAlchemy makes the statement, once, and is spared the rows: converting each of many
        costs it more than SQLite's own work on them.
        """
        if rows:
            self.effects.changed = True
            self._shared.connection.exec_driver_sql(self._shared.insertion(table), list(rows))

    def intend(self, cuts: Iterable[Cut]) -> None:
        """Write down what the next settling is to forget."""
        rows = [
            (number, pack_cut(cut)) for number, cut in enumerate(cuts, self._shared.next_intent)
        ]
        if rows:
            self._shared.next_intent += len(rows)
            self.insert_many(intents, rows)
            self.effects.intents = True

    def on_end(self, ending: Callable[[bool], None]) -> None:
        """Have `ending` called on the worker: True after the commit, False when it is lost."""
        self.effects.endings.append(ending)

    # Values.

    def value(self, key: str) -> str | None:
        """Return the text under a key.

        Raises:
            VaultDamaged: it does not open.
            VaultUnavailable: the database refuses.
        """
        name = self._keys.hash("state", key)
        row = self.read(READ_STATE, {"hash": name}).first()
        if row is None:
            return None
        return unpad(self._keys.open(_leaf(row.sequence), row.sealed, b"state" + name)).decode()

    def put_value(self, key: str, text: str | None) -> None:
        """Put a text under a key, or with None remove it; what was there before is forgotten.

        Raises:
            VaultUnavailable: the database refuses.
        """
        self.put_values({key: text})

    def put_values(self, values: Mapping[str, str | None]) -> None:
        """Do the same for many keys with a fixed number of statements.

        Raises:
            VaultUnavailable: the database refuses.
        """
        texts = {self._keys.hash("state", key): text for key, text in values.items()}
        old = self._sequences(list(texts))
        kept = {name: text for name, text in texts.items() if text is not None}
        rows = []
        for (name, text), sequence in zip(kept.items(), self._reserve(len(kept)), strict=True):
            sealed = self._keys.seal(_leaf(sequence), pad(text.encode()), b"state" + name)
            rows.append((name, sequence, sealed))
        self.change(
            CHANGE_STATE,
            [
                {"of": name, "new_sequence": sequence, "new_sealed": sealed}
                for name, sequence, sealed in rows
                if name in old
            ],
        )
        self.insert_many(
            state,
            [(name, sequence, sealed) for name, sequence, sealed in rows if name not in old],
        )
        self.change(DROP_STATE, [{"of": name} for name in old if name not in kept])
        self.intend(LeafCut(_leaf(sequence)) for sequence in old.values())

    def _sequences(self, names: list[bytes]) -> dict[bytes, int]:
        """Return where the values that exist are sealed."""
        found: dict[bytes, int] = {}
        for start in range(0, len(names), MAXIMUM_KEYS):
            rows = self.read(FIND_STATE, {"hashes": names[start : start + MAXIMUM_KEYS]})
            found |= {row.hash: row.sequence for row in rows}
        return found

    def _reserve(self, count: int) -> range:
        """Return sequence numbers that have never been used, not even before a crash."""
        shared = self._shared
        start, end = shared.next_sequence, shared.next_sequence + count
        if end > shared.reserved:
            value = str(end + SEQUENCE_BLOCK)
            self.change(CHANGE_META, {"of": SEQUENCE, "new_value": value})
            shared.reserved = end + SEQUENCE_BLOCK
        shared.next_sequence = end
        return range(start, end)

    # Conversations.

    def find_conversation(self, jid: BareJid) -> Conversation | None:
        """Return a conversation, if anything was ever kept of it."""
        for known in self.effects.conversations[::-1]:
            if known.jid == jid:
                return known
        if (cached := self._shared.by_jid.get(jid)) is not None:
            return cached
        row = self.read(FIND_NAME, {"hash": self._keys.hash("conversation", jid)}).first()
        if row is None:
            return None
        return self._known(Conversation(row.number, jid, row.kept_group))

    def conversation(self, jid: BareJid) -> Conversation:
        """Return a conversation; a new one is written down."""
        found = self.find_conversation(jid)
        if found is not None:
            return found
        number = self._shared.next_group
        self._shared.next_group += 1
        (sequence,) = self._reserve(1)
        row = {
            "number": number,
            "hash": self._keys.hash("conversation", jid),
            "kept_group": number,
            "sequence": sequence,
            "sealed": self._keys.seal(_leaf(sequence), pad(jid.encode()), _name(number)),
        }
        self.change(ADD_CONVERSATION, row)
        return self._known(Conversation(number, jid, number))

    def numbered(self, number: int) -> Conversation:
        """Return the conversation that rows call by this number.

        Raises:
            VaultDamaged: its name does not open.
        """
        if (cached := self._shared.by_number.get(number)) is not None:
            return cached
        row = self.read(FIND_CONVERSATION, {"number": number}).first()
        if row is None:
            raise VaultDamaged(f"conversation {number} is missing from the vault: restore it")
        jid = unpad(self._keys.open(_leaf(row.sequence), row.sealed, _name(number))).decode()
        return self._known(Conversation(number, BareJid(jid), row.kept_group))

    def regroup(self, conversation: Conversation) -> None:
        """Seal a conversation's messages in a new group from now on, as the old one is cut."""
        group = self._shared.next_group
        self._shared.next_group += 1
        self.change(MOVE_CONVERSATION, {"of": conversation.number, "group": group})
        self._known(Conversation(conversation.number, conversation.jid, group))

    def _known(self, conversation: Conversation) -> Conversation:
        self.effects.conversations.append(conversation)
        return conversation


def _leaf(sequence: int) -> Leaf:
    return Leaf(Region.RATCHET, STATE_GROUP, sequence)


def _name(number: int) -> bytes:
    return b"conversation %d" % number


def leaf_for(number: int, stands: Entry | Lifetime, conversation: Conversation) -> Leaf:
    """Return the leaf that seals a message's key: by its deadline while its timer runs."""
    if stands.phase is Phase.RUNNING and stands.deadline is not None:
        return Leaf(Region.EXPIRING, stands.deadline, number)
    return Leaf(Region.KEPT, conversation.kept_group, number)
