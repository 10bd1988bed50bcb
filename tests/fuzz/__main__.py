"""The full campaign: `python -m tests.fuzz [--target NAME ...] [--runs N] [--jobs 2]`.

Each target has a process of its own, guided by coverage where atheris is installed (the dependency
group `fuzz`). What was found is written to a folder, to be kept as a case once it is mended.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.benchmarks.measure import say
from tests.fuzz.campaign import Report
from tests.fuzz.targets import NAMES

COVERAGE: Final = re.compile(r"cov: (\d+)")


def main() -> int:
    """Run the campaigns that were asked for; 1 when something was found."""
    options = _options()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"findings are written to {folder}")
    names = options.target or NAMES
    with ThreadPoolExecutor(options.jobs) as pool:
        sound = list(pool.map(lambda name: _run(name, folder, options), names))
    return 0 if all(sound) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--target", action="append", choices=NAMES, help="one of them, or more")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where findings go")
    parser.add_argument("--unguided", action="store_true", help="do without atheris")
    return parser.parse_args()


def _run(name: str, folder: Path, options: argparse.Namespace) -> bool:
    guided = "unguided" if options.unguided else "guided"
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(options.runs)]
    log = folder / f"{name}.log"
    report = folder / f"{name}.json"
    report.unlink(missing_ok=True)
    with log.open("wb") as written:
        subprocess.run(
            [*command, str(options.seed), str(folder), guided],
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    if not report.is_file():
        say(f"{name}: ended before its time\n{text[-3000:]}")
        return False
    found = Report.from_json(report.read_text(encoding="utf-8"))
    _tell(found, COVERAGE.findall(text))
    return found.sound


def _tell(report: Report, coverage: list[str]) -> None:
    rate = report.runs / max(report.seconds, 0.001)
    covered = f", coverage {coverage[0]} -> {coverage[-1]}" if coverage else ""
    say(f"{report.target}: {report.runs} inputs, {rate:.0f}/s{covered}")
    say(f"  slowest {report.slowest:.2f} s, peak {report.peak // 1024} MiB")
    if report.growth is not None:
        say(f"  {report.growth} blocks left behind by a million inputs")
    if report.messages:
        say(f"  {report.messages} messages and {report.rejections} rejections told of")
    for title, counted in (
        ("FOUND", report.findings),
        ("TOO LARGE", report.excessive),
        ("known", report.known),
        ("line", report.lines),
    ):
        for text, count in sorted(counted.items(), key=lambda item: -item[1]):
            say(f"  {title}: {text} ({count})")


if __name__ == "__main__":
    sys.exit(main())
