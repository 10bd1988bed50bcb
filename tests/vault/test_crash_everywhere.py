"""The vault dies at every write, sync, rename and statement, killed or without power.

After each of these crashes it opens by itself, nothing that was erased opens again, nothing else
is lost, and no message that was handed out is handed out again as new (F1, F2, F6, F11, F44).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.replay import Contents, materialise
from tests.support.trace import (
    Create,
    Mark,
    Operation,
    Write,
    call_of,
    kill_at,
    read_trace,
)
from tests.vault.checking import after_erasing_everything
from tests.vault.crashing import (
    KEY_FILES,
    Checker,
    command,
    concerns_keys,
    environment,
    moments,
    power_lost_states,
    recorded,
    torn_states,
)
from tests.vault.watching import leaks_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tell = Callable[[str], None]

POWER_EVERY = 4
"""Of so many moments one is looked at for a loss of power, beside all that concern the keys."""

RENEWAL = 3
"""Writes of a renewal: the tree, the new root key, the end of the old one."""

KILLS = {"pwrite64": 9, "fsync": 5, "fdatasync": 4, "ftruncate": 2, "unlink": 2, "rename": 1}
"""Real processes that are killed, by the call that they are killed at."""


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """What the program did that has a little of everything."""
    return list(recorded("crash", tmp_path_factory.mktemp("recorded")))


def test_the_recording_has_every_kind_of_operation(operations: list[Operation]) -> None:
    names = {type(each).__name__ for each in operations}
    assert names == {"Create", "Mark", "Rename", "Sync", "Truncate", "Unlink", "Write"}
    written = {each.path for each in operations if isinstance(each, Write)}
    assert {"vault/vault.db", "vault/vault.db-wal", "vault/keys.0", "vault/keys.1"} <= written
    assert {"vault/root.key", "elsewhere/root.key"} <= written
    phases = [json.loads(each.text)["phase"] for each in operations if isinstance(each, Mark)]
    assert phases.count("will") == phases.count("did") > 20
    assert phases.count("settled") > 10


def test_f44_a_killed_process_leaves_a_vault_that_goes_on(
    operations: list[Operation], fast_folder: Path, tell: Tell
) -> None:
    """Between any two operations."""
    checker = Checker(fast_folder / "state")
    for moment in moments(operations):
        checker.check(moment, "killed", moment.disk.written())
    tell(f"crash points, killed: {checker.report()}")
    assert checker.findings == []
    assert checker.tried["killed"] > 300


def test_f44_a_loss_of_power_leaves_a_vault_that_goes_on(
    operations: list[Operation], fast_folder: Path, tell: Tell, *, full: bool
) -> None:
    """Of what was not synced nothing is left, or some, or all but the last."""
    checker = Checker(fast_folder / "state")
    for moment in moments(operations):
        if full or moment.index % POWER_EVERY == 0 or concerns_keys(moment.following):
            for kind, contents in power_lost_states(moment, full=full):
                checker.check(moment, kind, contents)
    tell(f"crash points, power lost: {checker.report()}")
    assert checker.findings == []
    assert set(checker.tried) >= {"power lost", "only the last write", "some of the writes"}


def test_f44_a_torn_write_of_a_key_leaves_a_vault_that_goes_on(
    operations: list[Operation], fast_folder: Path, tell: Tell, *, full: bool
) -> None:
    """Of the slots of the key file and of the root key, at every length with `--full`."""
    checker = Checker(fast_folder / "state")
    writes = [index for index, each in enumerate(operations) if _is_of_keys(each)]
    for moment in moments(operations):
        last = moment.index in writes[-RENEWAL:]
        if isinstance(moment.following, Write) and (last or (full and moment.index in writes)):
            for kind, contents in torn_states(moment, moment.following, full=full and last):
                checker.check(moment, kind, contents)
    tell(f"crash points, torn: {checker.report()}")
    assert checker.findings == []


def test_f44_torn_pages_of_the_database_are_mended(
    operations: list[Operation], fast_folder: Path, tell: Tell, *, full: bool
) -> None:
    checker = Checker(fast_folder / "state")
    writes = 0
    for moment in moments(operations):
        write = moment.following
        if isinstance(write, Write) and not _is_of_keys(write):
            writes += 1
            if full or writes % 8 == 0:
                for kind, contents in torn_states(moment, write, full=full):
                    checker.check(moment, kind, contents)
    tell(f"crash points, torn: {checker.report()}")
    assert checker.findings == []


@pytest.mark.parametrize("table", ["messages", "state"])
def test_f12_what_a_crash_kept_from_being_stored_ends_with_everything_else(
    operations: list[Operation], fast_folder: Path, tell: Tell, table: str
) -> None:
    """Rows that stand in the log without the commit that was to follow."""
    opened = tried = 0
    for moment in moments(operations):
        if rows := [row for row in moment.carver.in_flight() if row.table == table]:
            materialise(moment.disk.written(), fast_folder / "state")
            tried += 1
            opened += bool(after_erasing_everything(fast_folder / "state", moment.expected, rows))
    tell(f"crash points with rows of {table} in flight: {tried}, where one opens later: {opened}")
    assert tried > 0
    assert opened == 0


def test_f44_a_process_that_is_really_killed_leaves_a_vault_that_goes_on(
    operations: list[Operation], fast_folder: Path, tell: Tell, *, full: bool
) -> None:
    """And it leaves the very files that the recording of it foretells."""
    points = [
        (call, number)
        for call, count in longest_life(operations).items()
        for number in range(1, count + 1, 1 if full else -(-count // KILLS[call]))
    ]
    killed = 0
    with ThreadPoolExecutor(2) as pool:
        left = pool.map(lambda point: killed_folder(fast_folder, *point), points)
        for point, folder in zip(points, left, strict=True):
            if folder is not None:
                killed += 1
                assert found_in(folder) == [], f"killed at {point}"
                shutil.rmtree(folder)
    tell(f"crash points, processes really killed: {killed}")
    assert killed > len(points) * 9 // 10


def longest_life(operations: list[Operation]) -> Counter[str]:
    """How many calls of each kind one opening makes at most: strace counts by thread and call."""
    begun = [index for index, each in enumerate(operations) if each == Create("vault/vault.db-wal")]
    ends = [*begun[1:], len(operations)]
    most: Counter[str] = Counter()
    for start, end in zip(begun, ends, strict=True):
        calls = (call_of(each) for each in operations[start:end])
        most |= Counter(call for call in calls if call is not None)
    return most


def killed_folder(folder: Path, call: str, number: int) -> Path | None:
    """Kill the program at one of its calls; None when it came to its end before."""
    place = folder / f"{call}-{number}"
    killed = kill_at(call, number, command("crash", place), place / "log", environment())
    return place if killed else None


def found_in(folder: Path) -> list[str]:
    """What is wrong with the vault that a killed process has left."""
    done = list(read_trace(folder / "log", folder / "home", folder / "marks"))
    *_, last = moments(done)
    foretold = {path: content for path, content in last.disk.written().items() if _plain(path)}
    really: Contents = {
        str(path.relative_to(folder / "home")): None if path.is_dir() else path.read_bytes()
        for path in [folder / "home", *(folder / "home").rglob("*")]
        if _plain(path.name)
    }
    assert foretold == really
    clear = [
        leak
        for path in (folder / "home").rglob("*-shm")
        for leak in leaks_in(path.name, path.read_bytes())
    ]
    assert clear == []
    checker = Checker(folder / "home")
    checker.look(last, "killed")
    return checker.findings


def _plain(path: str) -> bool:
    return not path.endswith("-shm")


def _is_of_keys(operation: Operation) -> bool:
    return isinstance(operation, Write) and operation.path.rpartition("/")[2] in KEY_FILES
