"""An archive read after an absence: the vault against slixmpp-omemo 2.2 with a file and in memory.

`python -m tests.benchmarks.catching_up [--quick]`. Each run has new accounts and a process of its
own; the sides take turns, and the numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.archived import SIDES, Reading
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
from tests.support.prosody import Prosody

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

RUN_SECONDS: Final = 900.0
"""A run that takes longer is stuck: writing and reading 5000 messages take a minute."""

SETTINGS: Final = {
    # The archive alone has what was missed.
    "modules_disabled": '{ "s2s", "tls", "offline" }',
    # Prosody's files are read from their beginning for each page: that would be most of the time.
    "storage": '{ archive = "memory" }',
}

Readings = dict[str, list[Reading]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all sides in turns and print both the numbers and the target."""
    options = _options(arguments)
    counts = dict.fromkeys(SIDES, options.messages) | {"file": options.file_messages}
    readings: Readings = {side: [] for side in SIDES if counts[side]}
    with Prosody(settings=SETTINGS) as server, scratch(options.folder) as folder:
        for number in range(options.rounds):
            for side in readings:
                place = folder / f"{side}-{number}"
                place.mkdir()
                reading = _read(server, place, side, counts[side])
                readings[side].append(reading)
                say(f"# {place.name}: {_rate(reading):.0f}/s")
    _report(readings, counts)
    judge([Target("catching up, rate against memory", _ratio(readings, "memory"), 0.8, True)])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument(
        "--file-messages", type=int, default=300, help="for the JSON file, which is slow; 0: none"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round of few messages")
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.file_messages, options.rounds = 500, 50, 1
    return options


def _read(server: Prosody, folder: Path, side: str, messages: int) -> Reading:
    """Run one side in a process of its own, with new accounts."""
    accounts = [server.register(f"{name}-{folder.name}").jid for name in ("rosa", "peter")]
    command = [sys.executable, "-m", "tests.benchmarks.archived", "--side", side]
    command += ["--messages", str(messages), "--port", str(server.port), "--folder", str(folder)]
    done = subprocess.run(
        [*command, *accounts],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        timeout=RUN_SECONDS,
        check=True,
    )
    return Reading(**json.loads(done.stdout))


def _rate(reading: Reading) -> float:
    return reading.messages / reading.seconds


def _fetching(reading: Reading) -> float | None:
    return reading.messages / reading.fetching if reading.fetching else None


def _each(name: str) -> Callable[[Reading], float]:
    return lambda reading: float(getattr(reading, name)) / reading.messages


def _middle(readings: Readings, side: str, of: Callable[[Reading], float | None]) -> float | None:
    values = [value for reading in readings[side] if (value := of(reading)) is not None]
    return median(values) if values else None


def _ratio(readings: Readings, other: str) -> float:
    ours, theirs = _middle(readings, "vault", _rate), _middle(readings, other, _rate)
    return (ours or 0.0) / (theirs or float("nan"))


def _report(readings: Readings, counts: dict[str, int]) -> None:
    rounds = len(readings["vault"])
    say("\nAn archive of 100-byte messages is read, from the first query to the last event, over")
    say(f"Prosody on loopback, its archive in memory; medians of {rounds} rounds, sides in turns.")
    say("vault: eph_e2ee, omemo:2, timer of a week; told when all is durable and nothing follows.")
    say("file, memory: slixmpp-omemo 2.2, legacy OMEMO, with slixmpp's own reading of archives;")
    say("nothing durable (the file is not synced). Pages of 100 results on every side.")
    if "file" in readings:
        say(
            f"The file is written whole many times a message: it has only {counts['file']} to read."
        )
    measures: list[tuple[str, Callable[[Reading], float | None]]] = [
        ("messages a second", _rate),
        ("messages a second, fetched and not decrypted", _fetching),
        ("ms of processor time, a message", lambda reading: _each("processor")(reading) * 1000),
        ("bytes in write calls, a message", _each("handed")),
        ("bytes of dirty pages, a message", _each("stored")),
        ("database commits, a message", _each("commits")),
        ("syncs beside the database's, a message", _each("syncs")),
        ("rewrites of the whole file, a message", _each("rewrites")),
    ]
    rows = [(name, [_middle(readings, side, of) for side in readings]) for name, of in measures]
    say("")
    table([f"{side} ({counts[side]})" for side in readings], rows)
    if "file" in readings:
        say(f"\nrate against the JSON file: {_ratio(readings, 'file'):.1f}x")


if __name__ == "__main__":
    main()
