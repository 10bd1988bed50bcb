"""What every kind of row has in common: statements, intents to forget, conversations, values.

A value is a text under a key, sealed in the RATCHET region: what it held before an overwriting is
forgotten as a message is (F12).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeGuard

from sqlalchemy import (
    CursorResult,
    Executable,
    Select,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import BareJid
from eph_e2ee.vault.database import conversations, intents, meta, state
from eph_e2ee.vault.epochs import Epochs
from eph_e2ee.vault.paths import MAXIMUM_SEQUENCE, Cut, Leaf, LeafCut, Region, pack_cut
from eph_e2ee.vault.primitives import pad, unpad
from eph_e2ee.vault.shared import SEQUENCE, Conversation, Effects, Shared

__all__ = ["CHANGE_META", "Records", "changed_value", "name_kind", "value_kind", "value_leaf"]

SEQUENCE_BLOCK: Final = 1000
"""Sequence numbers reserved by one write of a meta row, so that a message does not cost one; a
restart skips what is left of a block."""

MAXIMUM_KEYS: Final = 500
"""Values looked up by one statement: SQLite limits the parameters of a statement."""

STATE_GROUP: Final = 0
"""The one group of the RATCHET region."""

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
FIND_STATE = select(state.c.hash, state.c.epoch, state.c.sequence).where(
    state.c.hash.in_(bindparam("hashes", expanding=True))
)
READ_STATE = select(state.c.epoch, state.c.sequence, state.c.sealed).where(
    state.c.hash == bindparam("hash")
)
CHANGE_STATE = (
    update(state)
    .where(state.c.hash == bindparam("of"))
    .values(
        epoch=bindparam("new_epoch"),
        sequence=bindparam("new_sequence"),
        sealed=bindparam("new_sealed"),
    )
)
DROP_STATE = delete(state).where(state.c.hash == bindparam("of"))
CHANGE_META = (
    update(meta).where(meta.c.name == bindparam("of")).values(value=bindparam("new_value"))
)


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
        """Return the vault's time, seconds since the epoch: what is forgotten goes by it."""
        return self._shared.clock.now()

    def latest(self) -> float:
        """Return the latest time that it may be: what is shown goes by it (`clock.py`)."""
        return self._shared.clock.latest()

    def read(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a statement that changes nothing."""
        return self._shared.connection.execute(statement, parameters)

    def read_plain(self, statement: Select[Any], parameters: Sequence[Any]) -> CursorResult[Any]:
        """Do the same with a statement that SQLAlchemy puts into the driver's words only once."""
        plain = self._shared.plain(statement)
        return self._shared.connection.exec_driver_sql(plain, tuple(parameters))

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
            plain = self._shared.database.insertion(table)
            self._shared.connection.exec_driver_sql(plain, list(rows))

    def seal(self, leaf: Leaf, plaintext: bytes, kind: bytes) -> bytes:
        """Seal a secret of a row under a leaf, which is forgotten should the work be undone.

        Raises:
            Forgotten: the leaf has been cut.
        """
        self.effects.sealed.append(leaf)
        return self._keys.seal(leaf, plaintext, kind)

    def open(self, leaf: Leaf, sealed: bytes, kind: bytes) -> bytes:
        """Open what `seal` made.

        Raises:
            Forgotten: the leaf has been cut.
            VaultDamaged: it was not sealed for this leaf and kind.
        """
        return self._keys.open(leaf, sealed, kind)

    def all_epochs(self) -> Epochs:
        """Return the epochs in use of all regions."""
        return self._shared.epochs

    def epochs(self, region: Region) -> range:
        """Return the epochs of a region that are in use, the current one last."""
        return self._shared.epochs.of(region)

    def cuts(self, leaf: Leaf) -> list[LeafCut]:
        """Return what forgets a row's leaf, and the one that it had before a sealing anew."""
        return [
            LeafCut(Leaf(leaf.region, leaf.group, leaf.sequence, epoch))
            for epoch in self.epochs(leaf.region)
            if epoch <= leaf.epoch
        ]

    def intend(self, cuts: Iterable[Cut]) -> None:
        """Write down what the next settling is to forget."""
        meant = list(cuts)
        rows = [
            (number, pack_cut(cut)) for number, cut in enumerate(meant, self._shared.next_intent)
        ]
        if rows:
            self._shared.doomed.update(each.leaf for each in meant if _may_return(each))
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
        leaf = value_leaf(row.sequence, row.epoch)
        return unpad(self._keys.open(leaf, row.sealed, value_kind(name))).decode()

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
        old = self._value_leaves(list(texts))
        kept = {name: text for name, text in texts.items() if text is not None}
        rows = []
        for (name, text), leaf in zip(kept.items(), self.new_leaves(len(kept)), strict=True):
            sealed = self.seal(leaf, pad(text.encode()), value_kind(name))
            rows.append((name, leaf.epoch, leaf.sequence, sealed))
        self.change(CHANGE_STATE, [changed_value(row) for row in rows if row[0] in old])
        self.insert_many(state, [row for row in rows if row[0] not in old])
        self.change(DROP_STATE, [{"of": name} for name in old if name not in kept])
        self.intend(LeafCut(leaf) for leaf in old.values())

    def _value_leaves(self, names: list[bytes]) -> dict[bytes, Leaf]:
        """Return where the values that exist are sealed."""
        found: dict[bytes, Leaf] = {}
        for start in range(0, len(names), MAXIMUM_KEYS):
            rows = self.read(FIND_STATE, {"hashes": names[start : start + MAXIMUM_KEYS]})
            found |= {row.hash: value_leaf(row.sequence, row.epoch) for row in rows}
        return found

    def new_leaves(self, count: int, epoch: int | None = None) -> list[Leaf]:
        """Return leaves for values that have never been used, not even before a crash."""
        shared = self._shared
        current = self.epochs(Region.RATCHET)[-1] if epoch is None else epoch
        leaves: list[Leaf] = []
        end = shared.next_sequence
        while len(leaves) < count:
            leaf = value_leaf(end, current)
            end += 1
            if not self._is_spent(leaf):
                leaves.append(leaf)
        if end > shared.reserved:
            value = str(end + SEQUENCE_BLOCK)
            self.change(CHANGE_META, {"of": SEQUENCE, "new_value": value})
            shared.reserved = end + SEQUENCE_BLOCK
        shared.next_sequence = end
        return leaves

    def _is_spent(self, leaf: Leaf) -> bool:
        """Return whether a leaf has been a row's before, and is forgotten or about to be."""
        if leaf in self._shared.doomed:
            return True
        end = Leaf(leaf.region, leaf.group, MAXIMUM_SEQUENCE, leaf.epoch)
        return not self._keys.alive(leaf) and self._keys.alive(end)

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
        (leaf,) = self.new_leaves(1)
        row = {
            "number": number,
            "hash": self._keys.hash("conversation", jid),
            "kept_group": number,
            "epoch": leaf.epoch,
            "sequence": leaf.sequence,
            "sealed": self.seal(leaf, pad(jid.encode()), name_kind(number)),
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
        leaf = value_leaf(row.sequence, row.epoch)
        jid = unpad(self._keys.open(leaf, row.sealed, name_kind(number))).decode()
        return self._known(Conversation(number, BareJid(jid), row.kept_group))

    def regroup(self, conversation: Conversation) -> None:
        """Seal a conversation's messages in a new group from now on, as the old one is cut."""
        group = self._shared.next_group
        self._shared.next_group += 1
        self.change(MOVE_CONVERSATION, {"of": conversation.number, "group": group})
        # Another work of the same commit must not find the group that is cut.
        self._shared.by_jid.pop(conversation.jid, None)
        self._shared.by_number.pop(conversation.number, None)
        self._known(Conversation(conversation.number, conversation.jid, group))

    def _known(self, conversation: Conversation) -> Conversation:
        self.effects.conversations.append(conversation)
        return conversation


def _may_return(cut: Cut) -> TypeGuard[LeafCut]:
    """Return whether a cut is of a leaf that its message can be moved to once more."""
    return isinstance(cut, LeafCut) and cut.leaf.region is Region.EXPIRING


def value_leaf(sequence: int, epoch: int) -> Leaf:
    """Return the leaf that seals a value, or a conversation's name."""
    return Leaf(Region.RATCHET, STATE_GROUP, sequence, epoch)


def value_kind(name: bytes) -> bytes:
    """Return what binds a value to its key."""
    return b"state" + name


def name_kind(number: int) -> bytes:
    """Return what binds a conversation's name to its number."""
    return b"conversation %d" % number


def changed_value(row: tuple[bytes, int, int, bytes]) -> dict[str, Any]:
    """Return the parameters of `CHANGE_STATE` for a row of values."""
    name, epoch, sequence, sealed = row
    return {"of": name, "new_epoch": epoch, "new_sequence": sequence, "new_sealed": sealed}
