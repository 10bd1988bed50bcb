"""What every benchmark needs: counters, medians, a folder on a real disk, and DESIGN's targets."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "REPOSITORY",
    "SCRATCH",
    "Syncs",
    "Target",
    "Written",
    "judge",
    "median",
    "say",
    "scratch",
    "table",
]

REPOSITORY: Final = Path(__file__).parents[2]

SCRATCH: Final = Path("/var/tmp")  # noqa: S108 -- the folder for what must not lie in memory
"""A real disk by convention, where a machine's folder for temporary files may lie in memory."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the threads of this process have written since its start, as Linux counts it.

    Attributes:
        handed: bytes given to `write` calls (`wchar`): files, not sockets.
        stored: bytes of pages that these made dirty, to be written to a disk (`write_bytes`).
    """

    handed: int
    stored: int

    @classmethod
    def now(cls) -> Self:
        """Read the counters."""
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
        counters = {name: int(value) for name, value in (line.split(":") for line in lines)}
        return cls(counters["wchar"], counters["write_bytes"])

    def __sub__(self, other: Written) -> Written:
        return Written(self.handed - other.handed, self.stored - other.stored)


class Syncs:
    """Counts Python's calls of `os.fsync` and `os.fdatasync` in a `with`; SQLite's are its own."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        """Begin to count."""
        with ExitStack() as patches:
            for name in ("fsync", "fdatasync"):
                counted = self._counting(getattr(os, name))
                patches.enter_context(patch.object(os, name, counted))
            self._patches = patches.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Put both back."""
        self._patches.close()

    def _counting(self, sync: Callable[[Any], None]) -> Callable[[Any], None]:
        def counted(descriptor: Any) -> None:
            self.count += 1
            sync(descriptor)

        return counted


@dataclass(frozen=True, slots=True)
class Target:
    """A row of DESIGN.md section 6: a ratio or a number, and on which side of its limit it belongs.

    Attributes:
        what: in words.
        value: as measured.
        limit: the target.
        at_least: whether more is better.
        unit: `x` for a ratio of the two sides.
    """

    what: str
    value: float
    limit: float
    at_least: bool
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the value is on the right side, as far as its printed digits show."""
        value = float(_digits(self.value))
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.met else "NOT MET"
        value = f"{_digits(self.value)}{self.unit}"
        return f"  {self.what:<56} {value:>9}  target {sign} {self.limit:.4g}{self.unit}: {verdict}"


def judge(targets: Iterable[Target]) -> None:
    """Print where each target stands."""
    say("\nTargets of DESIGN.md section 6 (ratios of this run):")
    for target in targets:
        say(str(target))


def table(heads: Iterable[str], rows: Iterable[tuple[str, Sequence[float | None]]]) -> None:
    """Print numbers under heads; None is a dash."""
    say(" " * 54 + "".join(f"{head:>14}" for head in heads))
    for name, values in rows:
        cells = ("-" if value is None else _digits(value) for value in values)
        say(f"{name:<54}" + "".join(f"{cell:>14}" for cell in cells))


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """An empty folder that only its owner may enter, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _digits(value: float) -> str:
    """Three significant digits, and no exponent: a side that stood still for seconds is no zero."""
    for bound, form in ((100, ",.0f"), (10, ".1f"), (1, ".2f"), (0.1, ".3f")):
        if abs(value) >= bound:
            return format(value, form).replace(",", "" if value < 10_000 else "_")
    if not value or not math.isfinite(value):
        return format(value, ".3f")
    return format(value, f".{2 - math.floor(math.log10(abs(value)))}f")
