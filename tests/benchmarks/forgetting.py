"""Forgetting one due message against very many, and the clean-up of rows against plain SQLite.

`python -m tests.benchmarks.forgetting [--messages 1000000] [--quick]`. The cut makes the messages
unreadable for good; the clean-up of their rows comes afterwards, at leisure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eph_e2ee.model import Erasure
from tests.benchmarks.measure import (
    REPOSITORY,
    SCRATCH,
    Syncs,
    Target,
    judge,
    median,
    say,
    scratch,
    table,
)
from tests.benchmarks.rows import (
    BATCH,
    TIMER,
    batches,
    fill_plain,
    fill_vault,
    fresh_copy,
    open_plain,
    open_vault,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

__all__ = ["main"]

TRACE_SECONDS: Final = 120.0

DELETE: Final = """
DELETE FROM messages WHERE number IN (
    SELECT number FROM messages WHERE deadline <= ? AND phase = 3 ORDER BY deadline LIMIT ?
)"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything in turns and print both the numbers and the targets."""
    options = _options(arguments)
    if options.traced:
        asyncio.run(_traced(options.traced))
        return
    with scratch(options.folder) as folder:
        _measure(folder, options.messages, (options.rounds, options.cuts))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000, help="due at the same second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cuts", type=int, default=5, help="of one message, in a round")
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round of 10000 messages")
    parser.add_argument("--traced", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.rounds = 10_000, 1
    return options


def _measure(folder: Path, messages: int, turns: tuple[int, int]) -> None:
    rounds, single_cuts = turns
    start = time.perf_counter()
    for count in (1, messages):
        fill_vault(folder / f"vault-{count}", count)
    fill_plain(folder / "plain", messages)
    say(f"# filled with {messages} messages in {time.perf_counter() - start:.0f} s")
    cuts: dict[int, list[float]] = defaultdict(list)
    sweeps, deletes, syncs = [], [], 0
    for _ in range(rounds):
        for count in [*[1] * single_cuts, messages]:
            copy = fresh_copy(folder / f"vault-{count}", folder / "copy")
            cut, swept, counted = asyncio.run(_forget(copy, count))
            shutil.rmtree(copy)
            cuts[count].append(cut)
            syncs = max(syncs, counted)
        sweeps.append(swept)
        copy = fresh_copy(folder / "plain", folder / "copy")
        deletes.append(_delete(copy, messages))
        copy.unlink()
        say(f"# round: cut {cut * 1000:.1f} ms, rows {swept:.1f} s, DELETE {deletes[-1]:.1f} s")
    traced = [_trace(folder, count) for count in (1, messages)]
    one, many = median(cuts[1]), median(cuts[messages])
    _report(messages, {1: one, messages: many}, traced, syncs)
    say(f"\nclean-up of {messages} rows in batches of {BATCH}, and plain SQLite's DELETE in clear")
    rates = [messages / median(sweeps), messages / median(deletes)]
    table(["vault", "plain"], [("rows a second", rates)])
    judge(
        [
            Target(f"time of the cut, {messages} messages against 1", many / one, 2, False),
            Target("syncs of a cut, at most", max([syncs, *filter(None, traced)]), 4, False, ""),
            Target("clean-up of rows, rate against DELETE", rates[0] / rates[1], 0.5, True),
        ]
    )


def _report(messages: int, cuts: dict[int, float], traced: list[float | None], syncs: int) -> None:
    say("\nthe cut: `expire_due()`, after which no key on this machine opens them")
    rows: list[tuple[str, Sequence[float | None]]] = [
        ("ms, median", [cuts[1] * 1000, cuts[messages] * 1000]),
        ("syncs of the process (strace; - where it is missing)", traced),
        ("of these by Python, at most", [float(syncs)] * 2),
    ]
    table(["1", str(messages)], rows)


async def _in_use(folder: Path) -> tuple[Vault, ManualClock]:
    """Open a vault in which something has been forgotten since, as in one that is in use.

    The first cut after an opening has new files' names to sync as well.
    """
    vault, clock = open_vault(folder)
    for new in batches(1, int(clock.now()) + 1):
        await vault.transact(lambda transaction, new=new: transaction.add_many(new))  # type: ignore[misc]
    clock.advance(1)
    await vault.expire_due()
    await vault.sweep(BATCH)
    return vault, clock


async def _forget(folder: Path, messages: int) -> tuple[float, float, int]:
    """Let the time come; the seconds of the cut and of the clean-up, and the cut's syncs."""
    vault, clock = await _in_use(folder)
    clock.advance(TIMER)
    with Syncs() as syncs:
        start = time.perf_counter()
        reached = await vault.expire_due()
        cut = time.perf_counter() - start
    if reached is not Erasure.DESTROYED:
        raise RuntimeError("the cut did not destroy the keys")
    start, rows = time.perf_counter(), 0
    while swept := (await vault.sweep(BATCH)).rows:
        rows += swept
    seconds = time.perf_counter() - start
    await vault.close()
    if rows != messages:
        raise RuntimeError(f"{rows} rows were cleaned up, not {messages}")
    return cut, seconds, syncs.count


def _delete(path: Path, messages: int) -> float:
    """Delete the rows of a plain database in batches; the seconds it took."""
    connection = open_plain(path)
    due = 2**40
    start, rows = time.perf_counter(), 0
    while deleted := connection.execute(DELETE, (due, BATCH)).rowcount:
        rows += deleted
    seconds = time.perf_counter() - start
    connection.close()
    if rows != messages:
        raise RuntimeError(f"{rows} rows were deleted, not {messages}")
    return seconds


def _trace(folder: Path, count: int) -> float | None:
    """Count all syncs of a cut, SQLite's as well, where strace is installed and allowed."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    copy = fresh_copy(folder / f"vault-{count}", folder / "copy")
    calls = folder / "calls"
    traced = [strace, "-f", "-o", str(calls), "-e", "trace=fsync,fdatasync,kill"]
    command = [sys.executable, "-m", "tests.benchmarks.forgetting", "--traced", str(copy)]
    done = subprocess.run(
        [*traced, *command],
        cwd=REPOSITORY,
        timeout=TRACE_SECONDS,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    shutil.rmtree(copy)
    if done.returncode != 0:
        return None
    _, between, _ = calls.read_text("ascii", errors="replace").split(" kill(")
    return float(between.count("sync("))


async def _traced(folder: Path) -> None:
    """Cut between two signals that do nothing but show in the trace."""
    vault, clock = await _in_use(folder)
    clock.advance(TIMER)
    os.kill(os.getpid(), 0)
    await vault.expire_due()
    os.kill(os.getpid(), 0)
    await vault.close()


if __name__ == "__main__":
    main()
