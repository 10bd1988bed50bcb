"""Looking at an open vault from outside: what there is, and whether everything is as it should be.

Nothing here returns what a vault keeps: neither a text nor a name nor a hash, only numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Row, Select, Table, func, select

from eph_e2ee.clock import Reading
from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged
from eph_e2ee.model import Direction, Phase
from eph_e2ee.vault.archive import KEY_KIND, Transaction
from eph_e2ee.vault.database import (
    CLOCK,
    FORMAT,
    conversations,
    intents,
    messages,
    meta,
    replays,
    state,
)
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.paths import Region
from eph_e2ee.vault.primitives import unpad
from eph_e2ee.vault.purging import Progress, expire_now
from eph_e2ee.vault.records import name_kind, value_kind, value_leaf
from eph_e2ee.vault.rows import DIRECTIONS, EARLIEST, GONE_CODE, PHASES, leaf_of, open_content
from eph_e2ee.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Description", "Finding", "Findings", "count_rows", "describe", "verify"]

PAGE: Final = 500
"""Rows read at once, so that memory is independent of the archive; contents may be large."""

MAXIMUM_LISTED: Final = 20
"""Row numbers named of each kind of finding; the others are counted only."""

COUNT_MESSAGES = select(messages.c.phase, messages.c.direction, func.count()).group_by(
    messages.c.phase, messages.c.direction
)
OLDEST_GONE = select(func.min(messages.c.deadline)).where(messages.c.phase == GONE_CODE)
READ_CLOCK = select(meta.c.value).where(meta.c.name == CLOCK)

UNOPENED: Final = (Forgotten, VaultDamaged, LocalProtocolError, ValueError, TypeError)
"""What a row that is not as it was written can give; the last three are numbers out of range."""


@dataclass(frozen=True, slots=True)
class Description:
    """What there is in a vault.

    Attributes:
        engine: the database's name and version.
        format: of the database.
        database_bytes: what the database takes.
        conversations: peers and rooms.
        messages: those that are not tombstones, by direction and phase.
        tombstones: messages that are gone.
        replay_ids: hashes by which second deliveries are known.
        values: texts that python-omemo and the conversations keep.
        intents: erasures that are written down and not done.
        nodes: of the key tree.
        generation: of the key file.
        epochs: of each region the oldest in use and the current one.
        clock: what the clock showed when it was last written down.
        next_deadline: the first one to come, in seconds since the epoch.
        oldest_deadline: the first one of all tombstones that had one.
    """

    engine: str
    format: int
    database_bytes: int
    conversations: int
    messages: dict[tuple[Direction, Phase], int]
    tombstones: int
    replay_ids: int
    values: int
    intents: int
    nodes: int
    generation: int
    epochs: dict[Region, tuple[int, int]]
    clock: Reading
    next_deadline: int | None
    oldest_deadline: int | None


def describe(vault: Vault) -> Description:
    """Count what there is in a vault.

    Raises:
        VaultDamaged: what it keeps of its clock cannot be read.
        VaultUnavailable: the database refuses.
    """
    engine, size, nodes, generation = vault.run_alone_sync(
        lambda keeper: (
            keeper.database.engine,
            keeper.database.size(),
            keeper.keys.nodes,
            keeper.keys.generation,
        )
    )

    def work(transaction: Transaction) -> Description:
        counted = _count_messages(transaction)
        return Description(
            engine=engine,
            format=FORMAT,
            database_bytes=size,
            conversations=_count(transaction, conversations),
            messages={key: count for key, count in counted.items() if key[1] is not Phase.GONE},
            tombstones=sum(count for key, count in counted.items() if key[1] is Phase.GONE),
            replay_ids=_count(transaction, replays),
            values=_count(transaction, state),
            # Those that are done go with the next writing.
            intents=_count(transaction, intents) if vault.unsettled else 0,
            nodes=nodes,
            generation=generation,
            epochs=dict(transaction.all_epochs().spans),
            clock=Reading.from_json(transaction.read(READ_CLOCK).scalar() or ""),
            next_deadline=transaction.read(EARLIEST).scalar(),
            oldest_deadline=transaction.read(OLDEST_GONE).scalar(),
        )

    return vault.transact_sync(work)


@dataclass(slots=True)
class Finding:
    """Rows that are not as they should be.

    Attributes:
        count: how many.
        numbers: of the first of them, `MAXIMUM_LISTED` at most.
    """

    count: int = 0
    numbers: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Count one more."""
        self.count += 1
        if len(self.numbers) < MAXIMUM_LISTED:
            self.numbers.append(number)


@dataclass(slots=True)
class Findings:
    """What verifying has found.

    Attributes:
        messages: rows of messages that were looked at.
        values: texts of python-omemo and the conversations that were looked at.
        conversations: names that were looked at.
        unopened_messages: messages that should open, and do not.
        living_tombstones: tombstones whose key is not gone, or that still hold something.
        unopened_values: texts that do not open; they have no numbers.
        unopened_names: conversations whose name does not open.
    """

    messages: int = 0
    values: int = 0
    conversations: int = 0
    unopened_messages: Finding = field(default_factory=Finding)
    living_tombstones: Finding = field(default_factory=Finding)
    unopened_values: int = 0
    unopened_names: Finding = field(default_factory=Finding)

    @property
    def clean(self) -> bool:
        """Whether everything is as it should be."""
        return not (
            self.unopened_messages.count
            or self.living_tombstones.count
            or self.unopened_values
            or self.unopened_names.count
        )


def count_rows(vault: Vault) -> int:
    """Return how many rows `verify` is going to look at.

    Raises:
        VaultUnavailable: the database refuses.
    """
    return vault.transact_sync(
        lambda transaction: (
            sum(_count(transaction, each) for each in (messages, state))
            + _count(transaction, conversations)
        )
    )


def verify(vault: Vault, progress: Progress) -> Findings:
    """Forget what is due, then see whether all that lives opens, and nothing that is gone.

    Args:
        vault: one that nobody else is using meanwhile.
        progress: told of every row that was looked at.

    Raises:
        VaultError: the disk, the database or the root key's place refused.
    """
    expire_now(vault, _unheard)
    keys = vault.run_alone_sync(lambda keeper: keeper.keys)
    found = Findings()
    looks: dict[Table, Callable[[Transaction, Row[Any]], None]] = {
        messages: lambda transaction, row: _look_at_message(transaction, row, keys, found),
        state: lambda transaction, row: _look_at_value(transaction, row, found),
        conversations: lambda transaction, row: _look_at_name(transaction, row, keys, found),
    }
    for table, look in looks.items():
        for count in _pages(vault, table, look):
            progress(count)
    return found


def _pages(
    vault: Vault, table: Table, look: Callable[[Transaction, Row[Any]], None]
) -> Iterator[int]:
    """Look at every row of a table, a page in each transaction; yield the number of each page's."""
    (key,) = table.primary_key.columns
    statement: Select[Any] = select(table).order_by(key).limit(PAGE)

    def work(transaction: Transaction) -> tuple[int, Any]:
        rows = transaction.read(statement).all()
        for row in rows:
            look(transaction, row)
        return len(rows), getattr(rows[-1], key.name) if rows else None

    count, last = vault.transact_sync(work)
    while count:
        yield count
        statement = select(table).where(key > last).order_by(key).limit(PAGE)
        count, last = vault.transact_sync(work)


def _look_at_message(transaction: Transaction, row: Row[Any], keys: Keys, found: Findings) -> None:
    found.messages += 1
    if row.phase == GONE_CODE:
        if not _is_dead(row, keys):
            found.living_tombstones.add(row.number)
        return
    try:
        key = transaction.open(leaf_of(row), row.sealed_key, KEY_KIND)
        open_content(row.content, key, row.number)
    except UNOPENED:
        found.unopened_messages.add(row.number)


def _is_dead(row: Row[Any], keys: Keys) -> bool:
    """Return whether nothing is left of a message, and no key that could open a copy of it."""
    if row.content is not None or row.sealed_key is not None:
        return False
    try:
        return not keys.alive(leaf_of(row))
    except UNOPENED:
        return False


def _look_at_value(transaction: Transaction, row: Row[Any], found: Findings) -> None:
    found.values += 1
    try:
        leaf = value_leaf(row.sequence, row.epoch)
        unpad(transaction.open(leaf, row.sealed, value_kind(row.hash)))
    except UNOPENED:
        found.unopened_values += 1


def _look_at_name(transaction: Transaction, row: Row[Any], keys: Keys, found: Findings) -> None:
    found.conversations += 1
    try:
        leaf = value_leaf(row.sequence, row.epoch)
        name = unpad(transaction.open(leaf, row.sealed, name_kind(row.number))).decode()
        whole = keys.hash("conversation", name) == row.hash
    except UNOPENED:
        whole = False
    if not whole:
        found.unopened_names.add(row.number)


def _count(transaction: Transaction, table: Table) -> int:
    return int(transaction.read(select(func.count()).select_from(table)).scalar_one())


def _count_messages(transaction: Transaction) -> Counter[tuple[Direction, Phase]]:
    rows = cast("Sequence[tuple[int, int, int]]", transaction.read(COUNT_MESSAGES).all())
    return Counter(
        {(DIRECTIONS[direction], PHASES[phase]): count for phase, direction, count in rows}
    )


def _unheard(_: int) -> None:
    """Take no note of progress."""
