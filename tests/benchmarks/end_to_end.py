"""1:1 messages over a real Prosody: the vault against slixmpp-omemo 2.2 with a file and in memory.

`python -m tests.benchmarks.end_to_end [--quick]`. Both clients of a run share a process; the sides
take turns, and the numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measure import (
    REPOSITORY,
    SCRATCH,
    Target,
    judge,
    median,
    say,
    scratch,
    table,
)
from tests.benchmarks.talking import Run
from tests.support.prosody import Prosody

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

SIDES: Final = ("vault", "file", "memory")
MODES: Final = ("burst", "one")

RUN_SECONDS: Final = 300.0
"""A run that takes longer is stuck: 1000 messages take the slowest side a minute."""

MOST_EMPTY: Final = 40
"""Empty messages for 1000 of ours."""

Runs = dict[tuple[str, str], list[Run]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all sides in turns and print both the numbers and the targets."""
    options = _options(arguments)
    counts = dict.fromkeys(SIDES, options.messages) | {"file": options.file_messages}
    runs: Runs = {(mode, side): [] for mode in MODES for side in SIDES}
    with Prosody() as server, scratch(options.folder) as folder:
        for number in range(options.rounds):
            for mode, side in runs:
                name = f"{side}-{mode}-{number}"
                place = folder / name
                place.mkdir()
                run = _run(server, place, (mode, side), counts[side])
                runs[mode, side].append(run)
                say(f"# {name}: {run.messages / run.seconds:.0f}/s")
    _report(runs, counts)
    judge(_targets(runs))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument(
        "--file-messages", type=int, default=150, help="for the JSON file, which is slow"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round of few messages")
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.file_messages, options.rounds = 200, 50, 1
    return options


def _run(server: Prosody, folder: Path, what: tuple[str, str], messages: int) -> Run:
    """Run one side in a process of its own, with new accounts."""
    mode, side = what
    accounts = [server.register(f"{name}-{folder.name}").jid for name in ("rosa", "peter")]
    command = [sys.executable, "-m", "tests.benchmarks.talking", "--side", side, "--mode", mode]
    command += ["--messages", str(messages), "--port", str(server.port), "--folder", str(folder)]
    done = subprocess.run(
        [*command, *accounts],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        timeout=RUN_SECONDS,
        check=True,
    )
    return Run(**json.loads(done.stdout))


def _middle(runs: Runs, mode: str, side: str, of: Callable[[Run], float]) -> float:
    return median(of(run) for run in runs[mode, side])


def _rate(run: Run) -> float:
    return run.messages / run.seconds


def _each(name: str) -> Callable[[Run], float]:
    """A count for a message and a side: two accounts share a process."""
    return lambda run: float(getattr(run, name)) / run.messages / 2


def _beside(run: Run) -> float:
    """Commits, a message and side, that no message asked for.

    Gathered ones, at most one a second; two as a vault is closed; one as an empty message arrives.
    """
    return (run.seconds + 2 + run.empties / 2) / run.messages


def _report(runs: Runs, counts: dict[str, int]) -> None:
    rounds = len(runs["burst", "vault"])
    say(f"\n1:1 over Prosody on loopback, 100 bytes, medians of {rounds} rounds, sides in turns.")
    say("vault: eph_e2ee, omemo:2, timer of a week, durable on both sides before it is sent/told.")
    say("file, memory: slixmpp-omemo 2.2, legacy OMEMO, nothing durable (the file is not synced).")
    measures: list[tuple[str, Callable[[Run], float]]] = [
        ("messages a second", _rate),
        ("median from send to event, ms; 0 in a burst", lambda run: run.latency * 1000),
        ("empty OMEMO messages", lambda run: float(run.empties)),
        ("bytes in write calls, a message and side", _each("handed")),
        ("bytes of dirty pages, a message and side", _each("stored")),
        ("database commits, a message and side", _each("commits")),
        ("syncs beside the database's, a message and side", _each("syncs")),
        ("rewrites of the whole file, a message and side", _each("rewrites")),
    ]
    for mode in MODES:
        title = {"burst": "in a burst", "one": "one at a time"}[mode]
        rows = [(name, [_middle(runs, mode, side, of) for side in SIDES]) for name, of in measures]
        say(f"\n{title}")
        table([f"{side} ({counts[side]})" for side in SIDES], rows)


def _targets(runs: Runs) -> list[Target]:
    def ratio(mode: str, other: str, of: Callable[[Run], float]) -> float:
        return _middle(runs, mode, "vault", of) / (_middle(runs, mode, other, of) or float("nan"))

    def ours(mode: str, of: Callable[[Run], float]) -> float:
        return _middle(runs, mode, "vault", of)

    targets = [
        Target("burst, rate against the JSON file", ratio("burst", "file", _rate), 10, True),
        Target("burst, rate against memory", ratio("burst", "memory", _rate), 1.0, True),
        Target(
            "one at a time, latency against the JSON file",
            ratio("one", "file", lambda run: run.latency),
            0.5,
            False,
        ),
    ]
    for mode in MODES:
        written = ratio(mode, "file", _each("handed"))
        commits = ours(mode, _each("commits"))
        most = 1 + ours(mode, _beside)
        empties = ours(mode, lambda run: run.empties / run.messages * 1000)
        targets += [
            Target(f"{mode}: bytes written against the JSON file", written, 0.02, False),
            Target(f"{mode}: database commits, a message and side", commits, most, False, ""),
            Target(f"{mode}: empty messages in 1000", empties, MOST_EMPTY, False, ""),
        ]
    return targets


if __name__ == "__main__":
    main()
