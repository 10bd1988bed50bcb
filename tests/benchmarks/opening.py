"""Opening a vault of very many messages against opening an empty one.

`python -m tests.benchmarks.opening [--messages 1000000] [--quick]`. Every opening has a process of
its own, so that its memory can be told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
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
from tests.benchmarks.rows import fill_vault, open_vault

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "open_alone"]

OPENING_SECONDS: Final = 60.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Open both in turns and print both the numbers and the targets."""
    options = _options(arguments)
    if options.opened:
        sys.stdout.write(json.dumps(_opened(options.opened)))
        return
    times: dict[int, list[float]] = defaultdict(list)
    memory: dict[int, list[float]] = defaultdict(list)
    sizes = (0, options.messages)
    with scratch(options.folder) as folder:
        start = time.perf_counter()
        for size in sizes:
            fill_vault(folder / f"vault-{size}", size)
        say(f"# filled with {options.messages} messages in {time.perf_counter() - start:.0f} s")
        for _ in range(options.rounds):
            for size in sizes:
                seconds, kibibytes = open_alone(folder / f"vault-{size}")
                times[size].append(seconds)
                memory[size].append(kibibytes)
    opened = [median(times[size]) * 1000 for size in sizes]
    grown = [median(memory[size]) for size in sizes]
    table(
        [str(size) for size in sizes],
        [("opening, ms", opened), ("memory taken by it, KiB", grown)],
    )
    ratio = opened[1] / opened[0]
    judge([Target(f"opening {options.messages} messages against none", ratio, 3, False)])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="three rounds of 10000 messages")
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.rounds = 10_000, 3
    return options


def open_alone(folder: Path) -> tuple[float, float]:
    """Open a vault in a process of its own: seconds, and KiB by which that process grew."""
    command = [sys.executable, "-m", "tests.benchmarks.opening", "--opened", str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, timeout=OPENING_SECONDS, check=True
    )
    seconds, kibibytes = json.loads(done.stdout)
    return seconds, kibibytes


def _opened(folder: Path) -> tuple[float, float]:
    """Seconds, and KiB by which the process grew."""
    before = _resident()
    start = time.perf_counter()
    vault, _ = open_vault(folder)
    seconds = time.perf_counter() - start
    grown = _resident() - before
    vault.close_sync()
    return seconds, grown


def _resident() -> float:
    """KiB of this process that are in memory."""
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith("VmRSS:"))


if __name__ == "__main__":
    main()
