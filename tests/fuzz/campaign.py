"""Many inputs for one target: counted, timed, watched for what they leave behind."""

from __future__ import annotations

import gc
import json
import re
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from tests.fuzz.source import Source
from tests.fuzz.watching import Found

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.targets import Target

__all__ = ["LARGEST_GROWTH", "Campaign", "Report"]

MEASURES: Final = 8
"""How often it is looked what is left behind."""

LARGEST_GROWTH: Final = 200_000
"""Blocks of memory of Python's that a million inputs may leave behind: an entry in some table for
each fifth input would be as many. Libraries' caches of the latest thousand fill up within the first
measure, which does not count."""

SIGNIFICANT: Final = 20_000
"""Inputs from which on a growth means something."""


@dataclass
class Report:
    """What a campaign has come to.

    Attributes:
        target: its target's name.
        runs: inputs.
        seconds: how long they took.
        findings: how often each was found, by signature.
        known: what slixmpp does by itself, by signature.
        lines: lines of our own in the log.
        slowest: seconds of the slowest input.
        blocks: of Python's memory, at each measure.
        peak: kilobytes of memory that the process has had at most.
        sizes: the largest containers of long-lived objects.
        excessive: those above their limits.
        messages: messages that the application has seen.
        rejections: and rejections.
    """

    target: str
    runs: int = 0
    seconds: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    blocks: list[tuple[int, int]] = field(default_factory=list)
    peak: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    excessive: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    rejections: int = 0

    @property
    def growth(self) -> int | None:
        """Blocks that a million inputs leave behind; None where there were too few to tell."""
        if len(self.blocks) < 3 or self.blocks[-1][0] - self.blocks[1][0] < SIGNIFICANT:
            return None
        (first, before), (last, after) = self.blocks[1], self.blocks[-1]
        return round((after - before) * 1_000_000 / (last - first))

    @property
    def sound(self) -> bool:
        """Whether nothing was found, and nothing grows."""
        growing = self.growth is not None and self.growth > LARGEST_GROWTH
        return not (self.findings or self.excessive or growing)

    def to_json(self) -> str:
        """Write it."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        for name in ("findings", "known", "lines"):
            values[name] = Counter(values[name])
        return cls(**values)


class Campaign:
    """One target's inputs.

    Args:
        target: what takes them.
        runs: how many there will be.
        folder: where the first input of each finding is written.
    """

    def __init__(self, target: Target, runs: int, folder: Path) -> None:
        self.report = Report(target.name)
        self._target = target
        self._runs = runs
        self._folder = folder
        self._began = time.monotonic()
        self._paused = 0.0

    @property
    def over(self) -> bool:
        """Whether that was all."""
        return self.report.runs >= self._runs

    def one(self, data: bytes) -> None:
        """Have the target take the input that some choices make."""
        material = self._target.draw(Source(data))
        try:
            self._target.run(material)
        except Found as found:
            self._note(found, material)
        self.report.runs += 1
        if self.report.runs % max(1, self._runs // MEASURES) == 0:
            self._measure()

    def end(self) -> Report:
        """Close the target, and sum up."""
        report, watch = self.report, self._target.watch
        report.seconds = time.monotonic() - self._began - self._paused
        self._target.rest()
        report.lines, report.known, report.slowest = watch.lines, watch.known, watch.slowest
        report.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stage = self._target.stage
        if stage is not None:
            report.messages, report.rejections = stage.messages, stage.rejections
            largest = sorted(stage.census.sizes.items(), key=lambda item: -item[1])
            report.sizes = dict(largest[:12])
            report.excessive = stage.census.excessive
        return report

    def _note(self, found: Found, material: bytes) -> None:
        self.report.findings[found.signature] += 1
        if self.report.findings[found.signature] == 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"{self._target.name}." + re.sub(r"\W+", "-", found.signature)[:80]
            (self._folder / name).write_bytes(material)
            (self._folder / f"{name}.txt").write_text(str(found), encoding="utf-8")

    def _measure(self) -> None:
        """Look what is left when nothing runs."""
        began = time.monotonic()
        self._target.rest()
        gc.collect()
        self.report.blocks.append((self.report.runs, sys.getallocatedblocks()))
        self._paused += time.monotonic() - began
