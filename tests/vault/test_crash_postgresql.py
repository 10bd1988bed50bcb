"""A process with a vault on a PostgreSQL server is killed at each thing that it does.

At each call that changes a file of the folder, at each message to the server, and when the server
has done what such a message says, and nobody hears of it. After each of these crashes the vault
opens by itself, nothing that was erased opens again, nothing else is lost, and no message that
was handed out is handed out again as new (F1, F2, F6, F11, F12, F44).
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from eph_e2ee.vault.keeper import Keeper
from tests.support.decoding import WITNESSED, Witness, sealed
from tests.support.postgresql import Server, Site
from tests.support.relay import Relay
from tests.support.trace import call_of, kill_at
from tests.vault.checking import (
    Expected,
    after_crash,
    after_erasing_everything,
    without_opening,
)
from tests.vault.crashing import command, environment, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    Tell = Callable[[str], None]

MESSAGES: Final = 4
"""Messages at which a process is killed, spread over all; with `--full` it is every one."""

ANSWERED: Final = 25
"""With `--full`, of so many messages one is also done before the process is killed. That leaves the
server as a crash before the next message does; only a write to a file may lie in between."""

MISTAKEN: Final = (0.6, 0.65, 0.7, 0.75)
"""Where in the program a process that makes a mistake is killed, until that is found."""

CALLS: Final = {"pwrite64": (2, 9), "fsync": (3,), "rename": (1,), "unlink": (1,)}
"""Calls at which one is killed; strace counts them by thread, so by each opening of the vault."""


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a process is to be killed.

    Attributes:
        at: the number of the message to the server, or of the call.
        answered: whether the server is to do what the message says.
        call: the name of the call; empty for a message.
        mutation: the mistake that the process makes.
    """

    at: int
    answered: bool = False
    call: str = ""
    mutation: str = ""


@dataclass
class Tried:
    """What became of crashes.

    Attributes:
        killed: how many there were, by kind.
        waited: vaults that a session of the dead process still had, beyond the time of a lock.
        rows: versions of rows that were tried in the end, of all crashes.
        never_committed: those of them that the server's own log has not.
        findings: what was wrong, with the crash.
    """

    killed: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    rows: int = 0
    never_committed: int = 0
    findings: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Return the counts."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.killed.items()))
        return (
            f"{self.killed.total()} ({kinds}); records attempted: {self.rows}, of them never "
            f"committed: {self.never_committed}; findings: {len(self.findings)}; sessions that "
            f"had to be ended: {self.waited}"
        )


@pytest.fixture(scope="module")
def witnessed() -> Iterator[Server]:
    """A server that forgets nothing."""
    with Server(WITNESSED) as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(witnessed: Server, tmp_path_factory: pytest.TempPathFactory) -> Relay:
    """What was counted of the program when nobody has killed it."""
    site = Site(witnessed, witnessed.make_database())
    relay, _ = relayed(site, tmp_path_factory.mktemp("whole") / "life", Crash(0))
    witnessed.drop_database(site.name)
    return relay


@pytest.fixture(scope="module")
def messages(undisturbed: Relay) -> int:
    """How many messages the program sends to the server when nobody kills it."""
    return undisturbed.sent


def test_f44_a_process_killed_at_a_message_to_the_server_leaves_a_vault_that_goes_on(
    witnessed: Server, tmp_path: Path, messages: int, tell: Tell, *, full: bool
) -> None:
    """Before the server has it, and after it has been done."""
    step = 1 if full else messages // MESSAGES
    numbers = range(1 if full else step // 2, messages + 1, step)
    answered = numbers[::ANSWERED] if full else numbers
    crashes = [Crash(number) for number in numbers]
    crashes += [Crash(number, answered=True) for number in answered]
    tried = look_at(witnessed, tmp_path, crashes)
    tell(f"PostgreSQL, crash points, of {messages} messages: {tried.report()}")
    assert tried.findings == []
    # Of two messages that are sent at once, the relay may see one.
    assert tried.killed.total() > len(crashes) * 9 // 10
    assert tried.never_committed > 0


def test_f44_a_process_killed_at_a_call_leaves_a_vault_on_a_server_that_goes_on(
    witnessed: Server, tmp_path: Path, tell: Tell, *, full: bool
) -> None:
    """Of its own, on the files of the keys."""
    calls = all_calls(witnessed, tmp_path / "recorded") if full else CALLS
    tried = look_at(
        witnessed,
        tmp_path,
        (Crash(number, call=call) for call, numbers in calls.items() for number in numbers),
    )
    tell(f"PostgreSQL, crash points, of calls: {tried.report()}")
    assert tried.findings == []
    assert tried.killed.total() >= 4


def all_calls(server: Server, folder: Path) -> dict[str, Sequence[int]]:
    """Return the numbers of all calls that change a file, whichever thread makes them."""
    site = Site(server, server.make_database())
    operations = recorded("crash", folder, database=site.address)
    counts = Counter(filter(None, map(call_of, operations)))
    server.drop_database(site.name)
    return {call: range(1, count + 1) for call, count in counts.items()}


@pytest.mark.parametrize(
    ("mutation", "finding"),
    [
        ("forget_the_intents", "it was called destroyed"),
        ("keep_spent_values", "a value called destroyed opens"),
    ],
)
def test_f44_the_crash_test_of_a_server_finds(
    mutation: str, finding: str, witnessed: Server, tmp_path: Path, messages: int
) -> None:
    found: list[str] = []
    for share in MISTAKEN:
        crash = Crash(int(messages * share), mutation=mutation)
        found += look_at(witnessed, tmp_path, [crash]).findings
        if any(finding in each for each in found):
            return
    pytest.fail(f"not found: {found}")


def test_f12_without_sealing_anew_what_was_in_flight_would_open(
    witnessed: Server, tmp_path: Path, undisturbed: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the search for rows that were never committed knows how to find them."""
    monkeypatch.setattr(Keeper, "must_reseal", property(lambda _: False))
    findings: list[str] = []
    for start in range(undisturbed.inserted, undisturbed.inserted + 9, 3):
        crashes = [Crash(number, answered=True) for number in range(start, start + 3)]
        findings = look_at(witnessed, tmp_path, crashes).findings
        if findings:
            break  # whether a row was in flight at a crash is the machine's doing as well
    assert {each.rpartition("that was ")[2] for each in findings} == {"never stored opens"}


def look_at(server: Server, folder: Path, crashes: Iterable[Crash]) -> Tried:
    """Let each crash happen to a process of its own, and look at what it leaves."""
    tried = Tried()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda crash: look(server, folder, crash, tried), crashes))
    return tried


def look(server: Server, folder: Path, crash: Crash, tried: Tried) -> None:
    """Look at what one crash leaves; a process that came to its end before does not count."""
    with database(server) as (site, witness):
        place = folder / f"{crash.call}-{crash.at}-{crash.answered}"
        if run(site, place, crash):
            tried.killed[_kind(crash)] += 1
            found = wrong_with(site, witness, place, tried)
            tried.findings += [f"{crash}: {each}" for each in found]
        shutil.rmtree(place)


@contextmanager
def database(server: Server) -> Iterator[tuple[Site, Witness]]:
    """Make a database, and see all that it is given."""
    site = Site(server, server.make_database())
    witness = Witness(site)
    yield site, witness
    site.disconnect()
    witness.close()
    server.drop_database(site.name)


def run(site: Site, place: Path, crash: Crash) -> bool:
    """Run the program until the crash; return whether it was killed."""
    if not crash.call:
        return relayed(site, place, crash)[1]
    surroundings, words = environment(crash.mutation, site.address), command("crash", place)
    return kill_at(crash.call, crash.at, words, place / "log", surroundings)


def relayed(site: Site, place: Path, crash: Crash) -> tuple[Relay, bool]:
    """Run the program until the crash, at a message; return also what was counted."""
    with Relay(site.server.port) as relay:
        address = site.address.replace(f":{site.server.port}/", f":{relay.port}/")
        surroundings = environment(crash.mutation, address)
        process = subprocess.Popen(command("crash", place), env=surroundings)
        killed = relay.carry(process, crash.at, answered=crash.answered)
    assert killed or process.returncode == 0
    return relay, killed


def wrong_with(site: Site, witness: Witness, place: Path, tried: Tried) -> list[str]:
    """Return what is wrong with the vault that a killed process has left."""
    home, expected = place / "home", Expected(database=site.address)
    if (place / "marks").exists():
        for mark in (place / "marks").read_text().splitlines():
            expected.feed(mark)
    committed = witness.committed()
    found = without_opening(home, expected, committed)
    opened = after_crash(home, expected, committed)
    if any("VaultInUse" in each for each in opened):
        # The server has not seen yet that the process is dead: a machine under load.
        tried.waited += 1
        site.disconnect()
        opened = after_crash(home, expected, committed)
    # By now the dead process's last commit has ended, one way or the other.
    committed, sent = witness.committed(), witness.sent()
    tried.never_committed += len(sealed(sent) - sealed(committed))
    tried.rows += len(committed) + len(sent)
    return found + opened + after_erasing_everything(home, expected, [*committed, *sent])


def _kind(crash: Crash) -> str:
    if crash.call:
        return f"at {crash.call}"
    return "after a message was answered" if crash.answered else "before a message"
