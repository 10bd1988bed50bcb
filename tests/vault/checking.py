"""What must be true of a vault after a crash, and of everything that was ever written.

Every check returns findings: sentences on what is wrong. The tests want none; tests of the tests,
which make a mistake on purpose, want some.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged, VaultError, WrongRootKey
from eph_e2ee.vault.database import conversations, messages, state
from eph_e2ee.vault.keyfile import KeyFile, Opened, _open
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.opening import DATABASE
from eph_e2ee.vault.paths import Leaf, Region
from eph_e2ee.vault.primitives import unpad
from eph_e2ee.vault.records import value_kind
from eph_e2ee.vault.rootkey import FileRootKey
from eph_e2ee.vault.rows import open_content
from eph_e2ee.vault.vault import Vault
from tests.support.clock import START, ManualClock
from tests.vault.making import MINUTE, PETER, ROSA, new_message
from tests.vault.script import ALIVE, GONE, PLACES, Facts, clock_at, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Table

    from eph_e2ee.model import BareJid, Entry
    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.primitives import Secret
    from tests.support.carving import Row

__all__ = [
    "Expected",
    "after_crash",
    "after_erasing_everything",
    "all_keys",
    "exchanged",
    "number_in",
    "opened_by",
    "without_opening",
]

KEY_KIND: Final = b"content key"
PEERS: Final = (ROSA, PETER)


@dataclass(slots=True)
class Expected:
    """What may be, after the marks so far: of each message and value one of these.

    Attributes:
        now: the machine's time.
        messages: by the number in their text.
        values: by key.
        seen: replay ids that must be known.
        deadlines: of messages, where they are certain.
        places: where the root key may be.
        destroyed: messages that the vault has called destroyed.
        outdated: texts of values that the vault has called destroyed.
        database: where the database is; None for the vault's folder.
    """

    now: float = START
    messages: dict[int, frozenset[str]] = field(default_factory=dict)
    values: dict[str, frozenset[str | None]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    deadlines: dict[int, int] = field(default_factory=dict)
    places: tuple[str, ...] = PLACES[:1]
    destroyed: set[int] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)
    database: str | None = None
    _texts: set[str] = field(default_factory=set)

    def feed(self, mark: str) -> None:
        """Take a mark in."""
        fields = json.loads(mark)
        phase, self.now = fields.pop("phase"), fields.pop("now")
        facts = Facts.from_json(fields)
        if phase == "will":
            self._will(facts)
        elif phase == "did":
            self._did(facts)
        else:
            self.destroyed = {number for number, may in self.messages.items() if may == {GONE}}
            current = {text for may in self.values.values() for text in may if text}
            self.outdated = self._texts - current

    def alive(self, number: int) -> frozenset[str]:
        """Return what a message may be at this time."""
        if self.deadlines.get(number, self.now + 1) <= self.now:
            return frozenset({GONE})
        return self.messages.get(number, frozenset({GONE}))

    def _will(self, facts: Facts) -> None:
        for number, what in facts.messages.items():
            self.messages[number] = self.messages.get(number, frozenset({GONE})) | {what}
        for key, text in facts.values.items():
            self.values[key] = self.values.get(key, frozenset({None})) | {text}
            self._texts |= {text} if text else set()
        for number in facts.deadlines:
            self.deadlines.pop(number, None)
        if facts.place is not None:
            self.places = PLACES

    def _did(self, facts: Facts) -> None:
        self.messages |= {number: frozenset({what}) for number, what in facts.messages.items()}
        self.values |= {key: frozenset({text}) for key, text in facts.values.items()}
        self.seen |= set(facts.seen)
        self.deadlines |= facts.deadlines
        if facts.place is not None:
            self.places = (facts.place,)


def after_crash(home: Path, expected: Expected, rows: Sequence[Row]) -> list[str]:
    """Open the vault that a crash has left, and look at it; it is changed by that.

    Args:
        home: the folder that the vault is in.
        expected: what may be.
        rows: everything that was written until then.
    """
    try:
        vault, place = _open_vault(home, expected)
    except VaultError as error:
        return [f"it does not open: {type(error).__name__}: {error}"]
    try:
        alive, findings = vault.transact_sync(lambda tx: _look(tx, expected))
        values = vault.transact_sync(lambda tx: {key: tx.value(key) for key in expected.values})
        # Before it is closed: closing may seal everything anew.
        for keys in all_keys(home, [place]):
            findings += _opened_wrongly(keys, rows, alive, set(filter(None, values.values())))
    finally:
        vault.close_sync()
    findings += _values_wrong(values, expected)
    return findings


def after_erasing_everything(home: Path, expected: Expected, rows: Sequence[Row]) -> list[str]:
    """Open the vault that a crash has left, erase all that it holds, and let all timers run out.

    Then nothing opens, not even what was being written when it crashed, and was never stored.
    """
    vault, place = _open_vault(home, expected)
    for peer in PEERS:
        vault.transact_sync(partial(_clear, peer))
    vault.transact_sync(lambda tx: tx.put_values(dict.fromkeys(expected.values)))
    while vault.must_reseal:
        vault.run_alone_sync(lambda keeper: keeper.reseal())
    vault.close_sync()
    clock = clock_at(expected.now + MINUTE + 1)
    place_of_key, database = FileRootKey(home / place), expected.database
    Vault.open(home / "vault", clock=clock, root_key=place_of_key, database=database).close_sync()
    return [
        f"a row of {row.table} that was never stored opens"
        for keys in all_keys(home, [place])
        for row, _ in opened_by(keys, rows)
    ]


def _clear(peer: BareJid, transaction: Transaction) -> None:
    transaction.erase_conversation(peer)


def without_opening(home: Path, expected: Expected, rows: Sequence[Row]) -> list[str]:
    """Try every record with every key on the disk as it is, before a vault has mended anything.

    What was called destroyed must not open even then.
    """
    findings = []
    for keys in all_keys(home, PLACES):
        for row, plaintext in opened_by(keys, rows):
            if row.table == "state":
                text = unpad(plaintext).decode()
                if text in expected.outdated:
                    findings.append(f"a value called destroyed opens: {text[:30]}")
            elif (number := number_in(row, plaintext)) in expected.destroyed:
                findings.append(f"message {number} opens, though it was called destroyed")
    return findings


def all_keys(home: Path, places: Iterable[str]) -> Iterator[Keys]:
    """Yield the keys of every generation that any root key opens, in any slot."""
    folder = home / "vault"
    for place in places:
        with suppress(VaultError):
            root_key = FileRootKey(home / place)
            candidates = root_key.candidates()
            for opened in _generations(KeyFile(folder), candidates):
                yield Keys(KeyFile(folder), root_key, opened, ManualClock())


def _generations(key_file: KeyFile, candidates: tuple[Secret, ...]) -> Iterator[Opened]:
    for index in range(2):
        slot = key_file._inspect(index)
        opened = _open(slot, candidates) if slot.sealed else None
        if opened is not None:
            yield opened


def opened_by(keys: Keys, rows: Iterable[Row]) -> Iterator[tuple[Row, bytes]]:
    """Yield the rows that some keys open, each with what its leaf has sealed."""
    for row in rows:
        values = row.values
        if row.table == "messages" and values["sealed_key"] is not None:
            leaf = leaf_at(values["region"], values["leaf_group"], values["number"], values)
            sealed, kind = values["sealed_key"], KEY_KIND
        elif row.table == "state":
            leaf = leaf_at(Region.RATCHET, 0, values["sequence"], values)
            sealed, kind = values["sealed"], value_kind(values["hash"])
        else:
            continue
        if keys.alive(leaf):
            with suppress(Forgotten, VaultDamaged):
                yield row, keys.open(leaf, sealed, kind)


def exchanged(folder: Path) -> list[str]:
    """Make a vault, exchange rows in its database, and return what opens for all that."""
    vault = Vault.open(folder, clock=ManualClock())
    vault.transact_sync(lambda tx: tx.put_values({"first": "of first", "second": "of second"}))
    made = [new_message(f"of {to}", conversation=to, message_id=to) for to in PEERS]
    numbers = [each.number for each in vault.transact_sync(lambda tx: tx.add_many(made))]
    vault.close_sync()
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        _exchange(connection, state, ("epoch", "sequence", "sealed"))
        _exchange(connection, conversations, ("epoch", "sequence", "sealed"))
        _exchange(connection, messages, ("content",))
        connection.commit()
    vault = Vault.open(folder, clock=ManualClock())
    readings: list[Callable[[Transaction], object]] = [
        *(partial(_value, key) for key in ("first", "second")),
        *(partial(_body, number) for number in numbers),
    ]
    findings = []
    for reading in readings:
        with suppress(VaultDamaged):
            findings.append(f"an exchanged row opens: {vault.transact_sync(reading)}")
    vault.close_sync()
    return findings


def _exchange(connection: sqlite3.Connection, table: Table, columns: tuple[str, ...]) -> None:
    """Exchange some columns of the first two rows of a table."""
    key, names = next(iter(table.primary_key.columns)).name, ", ".join(columns)
    query = f"SELECT {key}, {names} FROM {table.name} LIMIT 2"  # noqa: S608  names of our own
    (one, *first), (other, *second) = connection.execute(query).fetchall()
    values = ", ".join(f"{column} = ?" for column in columns)
    change = f"UPDATE {table.name} SET {values} WHERE {key} = ?"  # noqa: S608  the same
    connection.executemany(change, [(*second, one), (*first, other)])


def _value(key: str, transaction: Transaction) -> object:
    return transaction.value(key)


def _body(number: int, transaction: Transaction) -> object:
    entry = transaction.entry(number)
    return entry and entry.content and entry.content.body


def leaf_at(region: int, group: int, sequence: int, values: dict[str, int]) -> Leaf:
    """Return the leaf of a row."""
    return Leaf(Region(region), group, sequence, values["epoch"])


def number_in(row: Row, content_key: bytes) -> int:
    """Return the number that a message's text tells, or -1 when only its key opens."""
    try:
        content = open_content(row.values["content"], content_key, row.values["number"])
    except VaultDamaged:
        return -1
    return int(content.body.split(" ")[0]) if content.body else -1


def _open_vault(home: Path, expected: Expected) -> tuple[Vault, str]:
    """Open the vault with its root key in one of the places where it may be."""
    for place in expected.places:
        try:
            clock, root_key = clock_at(expected.now), FileRootKey(home / place)
            vault = Vault.open(
                home / "vault", clock=clock, root_key=root_key, database=expected.database
            )
        except (WrongRootKey, LocalProtocolError, VaultDamaged):
            if place == expected.places[-1]:
                raise
        else:
            return vault, place
    raise AssertionError


def _look(transaction: Transaction, expected: Expected) -> tuple[set[int], list[str]]:
    """Return the script's numbers of the messages that stand, and what is wrong with them."""
    entries = [entry for peer in PEERS for entry in _entries(transaction, peer)]
    standing = {_entry_number(entry): entry for entry in entries if entry.content is not None}
    findings = [
        found
        for number, entry in standing.items()
        for found in _entry_wrong(number, entry, expected)
    ]
    findings += [
        f"message {number} is lost"
        for number in expected.messages
        if expected.alive(number) == {ALIVE} and number not in standing
    ]
    findings += [
        f"{each} would be handed out again as new"
        for each in sorted(expected.seen)
        if not transaction.seen([each])
    ]
    return {entry.number for entry in standing.values()}, findings


def _entry_wrong(number: int, entry: Entry, expected: Expected) -> Iterator[str]:
    if entry.content is None or entry.content.body != text_of(number):
        yield f"message {number} has another text"
    if ALIVE not in expected.alive(number):
        yield f"message {number} is shown again"
    if entry.deadline != expected.deadlines.get(number, entry.deadline):
        yield f"message {number} has another deadline"


def _entries(transaction: Transaction, peer: BareJid) -> list[Entry]:
    return transaction.entries(peer, None, 100_000)


def _entry_number(entry: Entry) -> int:
    assert entry.content is not None
    return int((entry.content.body or "-1").split(" ")[0])


def _values_wrong(values: dict[str, str | None], expected: Expected) -> list[str]:
    return [
        f"the value of {key} is none that it may have"
        for key, text in values.items()
        if text not in expected.values[key]
    ]


def _opened_wrongly(
    keys: Keys, rows: Sequence[Row], alive: set[int], values: set[str]
) -> list[str]:
    findings = []
    for row, plaintext in opened_by(keys, rows):
        if row.table == "state":
            if unpad(plaintext).decode() not in values:
                findings.append(f"an old value opens: row of operation {row.written}")
        elif row.values["number"] not in alive:
            findings.append(f"message {row.values['number']} opens again")
    return findings
