"""What the transactions of one open vault share, and what one of them does beside its rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Executable, Select, bindparam, func, select

from eph_e2ee.clock import Clock
from eph_e2ee.model import BareJid
from eph_e2ee.vault.database import Database, conversations, intents, messages, meta
from eph_e2ee.vault.epochs import EPOCHS, Epochs
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.paths import Leaf

__all__ = ["SEQUENCE", "Conversation", "Effects", "Shared"]

MAXIMUM_NAMES: Final = 10_000
"""Conversations kept in memory, so that it does not grow with the archive."""

SEQUENCE: Final = "sequence"
"""The meta row with the first sequence number that is not reserved."""

READ_META = select(meta.c.value).where(meta.c.name == bindparam("wanted"))


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
        sealed: the leaves that something was sealed under.
        epochs: those that hold from the commit on, when they are others.
    """

    changed: bool = False
    intents: bool = False
    deadlines: bool = False
    conversations: list[Conversation] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    endings: list[Callable[[bool], None]] = field(default_factory=list)
    sealed: list[Leaf] = field(default_factory=list)
    epochs: Epochs | None = None

    def include(self, other: "Effects") -> None:
        """Add the effects of one more work."""
        self.changed |= other.changed
        self.intents |= other.intents
        self.deadlines |= other.deadlines
        self.conversations += other.conversations
        self.damaged |= other.damaged
        self.endings += other.endings
        self.sealed += other.sealed
        self.epochs = other.epochs or self.epochs

    def end(self, *, committed: bool) -> None:
        """Tell all that asked for it how it ended."""
        for ending in self.endings:
            ending(committed)


class Shared:
    """What the transactions of one open vault share; used on the vault's worker only.

    Attributes:
        clock: what the vault's time comes from.
        epochs: which epochs of the key tree are in use.
        orphans: leaves of works that were undone. What they sealed may stand in a file for all
            that, so that they are to be forgotten with the next settling.
        doomed: leaves of deadlines that the next settling forgets: nothing may be sealed there.
    """

    def __init__(self, database: Database, keys: Keys, clock: Clock) -> None:
        self.database = database
        self.connection = connection = database.connection
        self.keys = keys
        self.clock = clock
        self.orphans: list[Leaf] = []
        self.doomed: set[Leaf] = set()
        self._plain: dict[Executable, str] = {}
        self.by_jid: dict[BareJid, Conversation] = {}
        self.by_number: dict[int, Conversation] = {}
        self.next_number = 1 + self._greatest(messages.c.number)
        self.next_intent = 1 + self._greatest(intents.c.id)
        self.next_group = 1 + self._greatest(conversations.c.kept_group)
        text = connection.execute(READ_META, {"wanted": SEQUENCE}).scalar_one()
        self.next_sequence = self.reserved = self._reserved = int(text)
        self.doubtful = True
        self.refresh()

    def refresh(self) -> bool:
        """After a commit of unknown outcome read again what it may have changed."""
        if not self.doubtful:
            return False
        self.by_jid.clear()
        self.by_number.clear()
        row = self.connection.execute(READ_META, {"wanted": EPOCHS}).scalar()
        self.epochs = Epochs.from_json(row)
        self.doubtful = False
        return True

    def _greatest(self, column: Any) -> int:
        return self.connection.execute(select(func.max(column))).scalar() or 0

    def plain(self, statement: Select[Any]) -> str:
        """Return a statement, which must be the same object each time, in the driver's words."""
        if statement not in self._plain:
            self._plain[statement] = self.database.plain(statement)
        return self._plain[statement]

    def committed(self, effects: Effects) -> None:
        """Keep what is true from now on."""
        self._reserved = self.reserved
        self.epochs = effects.epochs or self.epochs
        if len(self.by_number) > MAXIMUM_NAMES:
            self.by_jid.clear()
            self.by_number.clear()
        for conversation in effects.conversations:
            self.by_jid[conversation.jid] = conversation
            self.by_number[conversation.number] = conversation

    def undone(self) -> None:
        """Reserve again what a lost work or transaction may have reserved."""
        self.reserved = self._reserved
