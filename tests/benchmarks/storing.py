"""Storing messages in batches, as a catch-up from the archive does, against plain SQLite in clear.

`python -m tests.benchmarks.storing [--quick]`. The same messages, with the ids that tell a replay;
both sides commit each batch to the disk.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.measure import SCRATCH, Target, judge, median, say, scratch, table
from tests.benchmarks.rows import (
    BATCH,
    PLAIN_INSERT,
    PLAIN_REPLAY,
    TIMER,
    batches,
    open_plain,
    open_vault,
    plain_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eph_e2ee.vault.archive import NewMessage

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Store the same messages in turns and print both the numbers and the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round of 8000 messages")
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.rounds = 2 * BATCH, 1
    vault, plain = [], []
    for _ in range(options.rounds):
        with scratch(options.folder) as folder:
            vault.append(options.messages / _into_vault(folder / "vault", options.messages))
            plain.append(options.messages / _into_plain(folder / "plain", options.messages))
    say(f"storing {options.messages} messages in batches of {BATCH}, medians of {options.rounds}")
    rates = [median(vault), median(plain)]
    table(["vault", "plain"], [("messages a second", rates)])
    judge([Target("storing in batches against plain SQLite", rates[0] / rates[1], 0.4, True)])


def _into_vault(path: Path, count: int) -> float:
    """The seconds that a new vault takes; making the messages is not counted."""
    vault, clock = open_vault(path)
    made = list(batches(count, int(clock.now()) + TIMER))
    start = time.perf_counter()
    for new in made:
        vault.transact_sync(lambda transaction, new=new: transaction.add_many(new))  # type: ignore[misc]
    seconds = time.perf_counter() - start
    vault.close_sync()
    return seconds


def _into_plain(path: Path, count: int) -> float:
    """The seconds that a new plain database takes for the same."""
    connection, first = open_plain(path), 1
    made: list[list[NewMessage]] = list(batches(count, TIMER))
    start = time.perf_counter()
    for new in made:
        rows, ids = plain_rows(new, first)
        first += len(new)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(PLAIN_INSERT, rows)
        connection.executemany(PLAIN_REPLAY, ids)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


if __name__ == "__main__":
    main()
