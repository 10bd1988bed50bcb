"""One long life of a vault, every byte that it ever wrote, and what an attacker makes of that."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from eph_e2ee.vault.primitives import KEY_SIZE, NONCE_SIZE, keyed_hash, unpad
from tests.support.carving import Carver, Row
from tests.support.replay import Contents, Disk
from tests.support.trace import Mark, Rename, Sync, Write
from tests.vault.checking import Expected, all_keys, number_in, opened_by
from tests.vault.crashing import recorded
from tests.vault.script import ALIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.support.trace import Operation

__all__ = ["Attack", "Life", "attack", "guessed_names", "leaks_in", "live", "repeated_nonces"]

SLOT_HEADER: Final = 38
"""Bytes of a slot of the key file before what is sealed begins."""

SENTINELS: Final = (b"sentinel", b"example.org", b"s\0e\0n\0t\0i\0n\0e\0l\0", b"the undone")
"""In every text, bare JID, message id and value of the programs, and a key of a value: none is so
short that it stands in many megabytes of noise by chance."""


@dataclass
class Life:
    """What was seen of a program.

    Attributes:
        home: where its files are.
        expected: what it said.
        rows: every version of every row that it wrote.
        slots: everything that it ever wrote to the key file.
        earlier: the keys' files, root key and all, at the time of each syncing of the root key.
        leaks: where something stood in clear.
        written: bytes.
    """

    home: Path
    expected: Expected = field(default_factory=Expected)
    rows: list[Row] = field(default_factory=list)
    slots: list[Write] = field(default_factory=list)
    earlier: list[Contents] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    written: int = 0


@dataclass(frozen=True, slots=True)
class Attack:
    """What some keys open.

    Attributes:
        attempted: versions of rows.
        wrongly: those that open and should not.
        lost: what should open and does not.
        alive: messages and values that are to open.
    """

    attempted: int
    wrongly: list[str]
    lost: list[str]
    alive: int


def live(
    folder: Path, count: int, *, mutation: str = "", database: str = "", seconds: float = 60
) -> Life:
    """Run the program of so many records, and look at all that it does to files."""
    life = Life(folder / "home")
    carver, keys = Carver(), Disk()
    for operation in recorded(
        "adversary", folder, count=count, mutation=mutation, database=database, seconds=seconds
    ):
        if not database:
            life.rows += carver.feed(operation)
        if isinstance(operation, Mark):
            life.expected.feed(operation.text)
        elif isinstance(operation, Write):
            life.written += len(operation.data)
            life.leaks += leaks_in(operation.path, operation.data)
        if _of_keys(operation):
            keys.play(operation)
            if isinstance(operation, Write) and not operation.path.endswith("root.key"):
                life.slots.append(operation)
            if isinstance(operation, Sync) and operation.path.endswith("root.key"):
                life.earlier.append(keys.written())
    life.rows += carver.complete()
    for path in life.home.rglob("*"):
        if path.is_file():
            life.leaks += leaks_in(path.name, path.read_bytes())
    return life


def leaks_in(name: str, data: bytes) -> list[str]:
    """Return what stands in clear in the bytes of a file."""
    return [f"{found!r} stands in {name}" for found in SENTINELS if found in data]


def attack(life: Life, home: Path) -> Attack:
    """Try every record ever written with the keys in a folder."""
    wrongly: list[str] = []
    right, alive = set(), _alive(life.expected)
    for keys in all_keys(home, ["vault"]):
        for row, plaintext in opened_by(keys, life.rows):
            found = _found(row, plaintext)
            right.add(found)
            if found not in alive:
                wrongly.append(f"opens: {str(found)[:40]}, row of operation {row.written}")
    lost = [f"does not open: {str(each)[:40]}" for each in alive - right]
    return Attack(len(life.rows), wrongly, lost, len(alive))


def repeated_nonces(life: Life) -> list[str]:
    """Return what was sealed under a nonce that something else was sealed under as well."""
    sealed = {
        value
        for row in life.rows
        for column in ("sealed_key", "content", "sealed")
        if isinstance(value := row.values.get(column), bytes)
    }
    sealed |= {write.data[SLOT_HEADER:] for write in life.slots}
    counts = Counter(each[:NONCE_SIZE] for each in sealed)
    return [f"a nonce was used {count} times" for count in counts.values() if count > 1]


def guessed_names(life: Life, names: Iterable[str]) -> list[str]:
    """Return the names that stand in rows as a hash that needs no key."""
    guesses = {guess: name for name in names for guess in _guesses(name.encode())}
    hashes = [row.values["hash"] for row in life.rows if "hash" in row.values]
    return sorted({f"{guesses[each]} can be guessed" for each in hashes if each in guesses})


def _guesses(name: bytes) -> Iterator[bytes]:
    for algorithm in sorted(hashlib.algorithms_guaranteed - {"shake_128", "shake_256"}):
        yield hashlib.new(algorithm, name, usedforsecurity=False).digest()[:16]
    yield hashlib.blake2b(name, digest_size=16).digest()
    for kind in ("state", "conversation", "replay"):
        yield keyed_hash(bytes(KEY_SIZE), kind, name.decode())


def _found(row: Row, plaintext: bytes) -> str:
    if row.table == "state":
        return unpad(plaintext).decode()
    return f"message {number_in(row, plaintext)}"


def _alive(expected: Expected) -> set[str]:
    values = {text for may in expected.values.values() for text in may if text is not None}
    return values | {
        f"message {number}" for number in expected.messages if ALIVE in expected.alive(number)
    }


def _of_keys(operation: Operation) -> bool:
    if isinstance(operation, Mark):
        return False
    paths = [operation.path, operation.new] if isinstance(operation, Rename) else [operation.path]
    names = [path.rpartition("/")[2] for path in paths]
    return operation.path in (".", "vault") or any(
        name.startswith(("keys", "root")) for name in names
    )
