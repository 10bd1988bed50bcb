"""How a vault grows: from a thousand messages to a million, and under the worst erasing.

`python -m tests.benchmarks.growth [--largest 1000000] [--svg FILE] [--quick]`. Numbers as text, and
on request the same as a picture.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eph_e2ee.vault.keeper import MAXIMUM_KEY_FILE
from tests.benchmarks.drawing import Curve, picture
from tests.benchmarks.measure import SCRATCH, Target, judge, median, say, scratch, table
from tests.benchmarks.opening import open_alone
from tests.benchmarks.rows import BATCH, TIMER, fill_vault, open_vault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault

__all__ = ["main"]

SMALLEST: Final = 1000
ERASURES: Final = 20
HOSTILE: Final = 100_000
KEY_FILES: Final = ("keys.0", "keys.1")

Row = tuple[str, list[float]]


@dataclass(frozen=True, slots=True)
class Grown:
    """What was measured of a vault of so many messages whose timers run."""

    storing: float
    opening: float
    memory: float
    erasing: float
    expiring: float
    cleaning: float
    database: float
    keys: float


TITLES: Final = {
    "storing": "storing, µs a message",
    "opening": "opening, ms",
    "memory": "memory taken by opening, KiB",
    "erasing": "forgetting one message, ms",
    "expiring": "forgetting all that is due, ms",
    "cleaning": "rows made tombstones, µs each",
    "database": "database, bytes a message",
    "keys": "key file, bytes",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size, then the worst erasing; print everything."""
    options = _options(arguments)
    sizes = [SMALLEST]
    while sizes[-1] * 10 <= options.largest:
        sizes.append(sizes[-1] * 10)
    with scratch(options.folder) as folder:
        grown = [_grow(folder / "vault", size) for size in sizes]
        table(
            [f"{size:,}" for size in sizes],
            [
                (TITLES[field.name], [getattr(each, field.name) for each in grown])
                for field in fields(Grown)
            ],
        )
        _hostile(folder / "vault", options.hostile)
    if options.svg:
        options.svg.write_text(_drawn(sizes, grown), "utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument(
        "--hostile", type=int, default=HOSTILE, help="messages, half of them erased"
    )
    parser.add_argument("--svg", type=Path, help="where to draw the curves")
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="up to 10000 messages")
    options = parser.parse_args(arguments)
    if options.quick:
        options.largest, options.hostile = 10_000, 10_000
    return options


def _grow(folder: Path, size: int) -> Grown:
    start = time.perf_counter()
    fill_vault(folder, size)
    storing = time.perf_counter() - start
    database = (folder / "vault.db").stat().st_size
    opened = [open_alone(folder) for _ in range(5)]
    vault, clock = open_vault(folder)
    erasing = median(_erase(vault, number) for number in range(1, 2 * ERASURES, 2))
    keys = _key_file(folder)
    clock.advance(TIMER)
    start = time.perf_counter()
    vault.run_alone_sync(lambda keeper: keeper.expire())
    expiring = time.perf_counter() - start
    start, swept = time.perf_counter(), 0
    while rows := vault.transact_sync(lambda tx: tx.sweep(int(tx.now()), BATCH))[0]:
        swept += rows
    cleaning = time.perf_counter() - start
    vault.close_sync()
    shutil.rmtree(folder)
    return Grown(
        storing=storing / size * 1e6,
        opening=median(seconds for seconds, _ in opened) * 1000,
        memory=median(grown for _, grown in opened),
        erasing=erasing * 1000,
        expiring=expiring * 1000,
        cleaning=cleaning / swept * 1e6,
        database=database / size,
        keys=keys,
    )


def _erase(vault: Vault, number: int) -> float:
    start = time.perf_counter()
    vault.transact_sync(lambda tx: tx.erase(number))
    vault.run_alone_sync(lambda keeper: keeper.settle())
    return time.perf_counter() - start


def _key_file(folder: Path) -> int:
    return max((folder / name).stat().st_size for name in KEY_FILES if (folder / name).exists())


def _hostile(folder: Path, count: int) -> None:
    """Erase every second message, some at a time, as the task that forgets would have it done."""
    fill_vault(folder, count)
    vault, _ = open_vault(folder)
    largest = steps = 0
    longest, start = 0.0, time.perf_counter()
    for first in range(1, count, 2000):
        begun = time.perf_counter()
        portion = range(first, min(first + 2000, count + 1), 2)
        vault.transact_sync(functools.partial(_erase_some, portion))
        vault.run_alone_sync(lambda keeper: keeper.settle())
        longest = max(longest, time.perf_counter() - begun)
        largest = max(largest, _key_file(folder))
        while vault.must_reseal:
            vault.run_alone_sync(lambda keeper: keeper.reseal())
            steps += 1
    seconds = time.perf_counter() - start
    nodes = vault.run_alone_sync(lambda keeper: keeper.keys.nodes)
    generations = vault.run_alone_sync(lambda keeper: keeper.keys.generation)
    vault.close_sync()
    say(f"\nevery second message of {count:,} erased, in portions of 1,000")
    rows: list[Row] = [
        ("seconds in all", [seconds]),
        ("longest wait for a settling, s", [longest]),
        ("steps of sealing anew", [float(steps)]),
        ("generations of the key file", [float(generations)]),
        ("largest key file, bytes", [float(largest)]),
        ("nodes at the end", [float(nodes)]),
    ]
    table(["vault"], rows)
    what = "largest key file under the worst erasing, KiB"
    judge([Target(what, largest / 1024, MAXIMUM_KEY_FILE / 1024, False, "")])


def _erase_some(numbers: range, transaction: Transaction) -> None:
    for number in numbers:
        transaction.erase(number)


def _drawn(sizes: list[int], grown: list[Grown]) -> str:
    curves = [
        Curve(title, [(size, getattr(each, name)) for size, each in zip(sizes, grown, strict=True)])
        for name, title in TITLES.items()
    ]
    return picture(curves, "messages in the vault; both axes logarithmic")


if __name__ == "__main__":
    main()
