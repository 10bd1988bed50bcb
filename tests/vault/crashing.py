"""From one recording of a program to the states that a crash can leave, and their checking."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.carving import Carver, Row
from tests.support.replay import Contents, Disk, materialise, torn
from tests.support.trace import Mark, Operation, Rename, Sync, Unlink, Write, read_trace, record
from tests.vault.checking import Expected, after_crash, without_opening
from tests.vault.script import ADDRESS, MUTATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.replay import Change

__all__ = [
    "Checker",
    "Moment",
    "command",
    "environment",
    "moments",
    "power_lost_states",
    "recorded",
    "torn_states",
]

TORN_PIECE: Final = 512
"""Bytes that a disk writes as one: no part of it is written without the rest."""

START: Final = """
import importlib.util, sys, types
found = importlib.util.find_spec("eph_e2ee")
package = sys.modules["eph_e2ee"] = types.ModuleType("eph_e2ee")
package.__path__ = found.submodule_search_locations
from tests.vault import script
script.main(sys.argv[1:])
"""
"""Begins a program without what `import eph_e2ee` brings along for XMPP: the vault needs none of
it, and it takes a second each time."""

KEY_FILES: Final = ("keys.0", "keys.1", "keys.new", "root.key", "root.key.new")


def command(program: str, folder: Path, count: int = 0) -> list[str]:
    """The command line of a program of `script.py`, with its files below a folder."""
    (folder / "home").mkdir(parents=True)
    words = [program, str(folder / "home"), str(folder / "marks"), "1", str(count)]
    return [sys.executable, "-c", START, *words]


def environment(mutation: str = "", database: str = "") -> Mapping[str, str]:
    """What the program is to know of its surroundings."""
    more = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | more | {MUTATION: mutation, ADDRESS: database}


def recorded(
    program: str,
    folder: Path,
    *,
    count: int = 0,
    mutation: str = "",
    database: str = "",
    seconds: float = 60,
) -> Iterator[Operation]:
    """Run a program, and yield what it did to the files of HOME."""
    log = folder / "log"
    record(command(program, folder, count), log, environment(mutation, database), seconds)
    yield from read_trace(log, folder / "home", folder / "marks")
    log.unlink()


@dataclass(frozen=True, slots=True)
class Moment:
    """Between two operations.

    Attributes:
        index: how many have been done.
        disk: what they did; it goes on with the next moment.
        expected: what may be.
        rows: every version of a row that has been written and synced.
        carver: it knows those that have only been written.
        following: the operation that comes next, if one does.
    """

    index: int
    disk: Disk
    expected: Expected
    rows: list[Row]
    carver: Carver
    following: Operation | None


def moments(operations: Sequence[Operation]) -> Iterator[Moment]:
    """Yield every moment of a recording. What they share changes from one to the next."""
    disk, expected, carver = Disk(), Expected(), Carver()
    rows: list[Row] = []
    for index, operation in enumerate(operations):
        yield Moment(index, disk, expected, rows, carver, operation)
        disk.play(operation)
        rows += carver.feed(operation)
        if isinstance(operation, Mark):
            expected.feed(operation.text)
    yield Moment(len(operations), disk, expected, rows, carver, None)


def power_lost_states(moment: Moment, *, full: bool) -> Iterator[tuple[str, Contents]]:
    """Yield the states that a loss of power between two operations can leave, with their kinds."""
    if not moment.disk.unsynced:
        return
    chance = random.Random(moment.index)  # noqa: S311  it picks what survives
    yield "power lost", moment.disk.power_lost(lambda _: ())
    yield "all but the last write", moment.disk.power_lost(lambda changes: changes[:-1], 1.0)
    yield "only the last write", moment.disk.power_lost(lambda changes: changes[-1:])

    def some(changes: Sequence[Change]) -> Sequence[Change]:
        return [change for change in changes if chance.random() < 0.5]

    for _ in range(8 if full else 1):
        yield "some of the writes", moment.disk.power_lost(some, chance.random())


def torn_states(moment: Moment, write: Write, *, full: bool) -> Iterator[tuple[str, Contents]]:
    """Yield the states in which only a part of the next write has reached the disk."""
    contents = moment.disk.written()
    old, name = contents.get(write.path), Path(write.path).name
    if old is None or name.endswith("-shm"):
        return
    of_keys = name in KEY_FILES
    for length in torn_lengths(len(write.data), of_keys=of_keys, full=full):
        kind = "torn key file" if of_keys else "torn database"
        yield kind, contents | {write.path: torn(old, write, length)}


def concerns_keys(operation: Operation | None) -> bool:
    """Return whether an operation changes a name, or a file of keys."""
    if isinstance(operation, Rename | Unlink):
        return True
    if not isinstance(operation, Write | Sync):
        return False
    return operation.path.rpartition("/")[2] in KEY_FILES


def torn_lengths(size: int, *, of_keys: bool, full: bool) -> Sequence[int]:
    """Return how much of a write of so many bytes is to have reached the disk."""
    if not of_keys:
        return range(TORN_PIECE, size, TORN_PIECE if full else 7 * TORN_PIECE)
    if full:
        return range(1, size)
    ends = {*range(1, 81), *range(size - 40, size), *range(128, size, 128)}
    return sorted(length for length in ends if 0 < length < size)


@dataclass
class Checker:
    """Checks states, each only once.

    Attributes:
        folder: where there is room for one at a time.
        tried: how many of each kind.
        findings: what was wrong, with the kind and the index of the moment.
    """

    folder: Path
    tried: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    _done: set[bytes] = field(default_factory=set)

    def check(self, moment: Moment, kind: str, contents: Contents) -> None:
        """Check one state that a crash at a moment may leave."""
        if "vault" not in contents:
            contents = contents | {"vault": None}
        if (digest := _digest(contents, moment.expected)) in self._done:
            return
        self._done.add(digest)
        materialise(contents, self.folder)
        self.look(moment, kind)

    def look(self, moment: Moment, kind: str) -> None:
        """Check what is in the folder."""
        self.tried[kind] += 1
        found = without_opening(self.folder, moment.expected, moment.rows)
        found += after_crash(self.folder, moment.expected, moment.rows)
        self.findings += [f"{kind}, {moment.index}: {each}" for each in found]

    def report(self) -> str:
        """Return the counts."""
        tried = ", ".join(f"{count} {kind}" for kind, count in sorted(self.tried.items()))
        return f"{sum(self.tried.values())} ({tried}); findings: {len(self.findings)}"


def _digest(contents: Contents, expected: Expected) -> bytes:
    digest = hashlib.sha256(repr(expected).encode())
    for path in sorted(contents):
        if not path.endswith("-shm"):
            digest.update(repr((path, len(contents[path] or b""))).encode())
            digest.update(contents[path] or b"")
    return digest.digest()
