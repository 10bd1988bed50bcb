"""What a command shows: data on standard output, talk and progress on standard error."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from tqdm import tqdm

__all__ = ["moment", "progress", "show", "tell"]

PROGRAM: Final = "eph-e2ee"


def show(options: argparse.Namespace, data: Mapping[str, object]) -> None:
    """Write data to standard output: as JSON, or a line for each of its leaves."""
    if options.json:
        sys.stdout.write(json.dumps(data) + "\n")
        return
    for name, value in _leaves(data):
        sys.stdout.write(f"{name}: {_word(value)}\n")


def tell(options: argparse.Namespace, text: str) -> None:
    """Write a line to standard error, unless nobody wants to hear it."""
    if not options.quiet:
        sys.stderr.write(f"{PROGRAM}: {text}\n")


def complain(text: str) -> None:
    """Write a line to standard error that nobody may miss."""
    sys.stderr.write(f"{PROGRAM}: {text}\n")


@contextmanager
def progress(
    options: argparse.Namespace, what: str, total: int | None = None
) -> Iterator[Callable[[int], object]]:
    """Show a bar on standard error while a block runs, if that is a terminal.

    Args:
        options: `--quiet` and `--json` show none.
        what: is being done.
        total: rows to come, if that is known.
    """
    silent = options.quiet or options.json or not sys.stderr.isatty()
    with tqdm(
        total=total, desc=what, unit=" rows", file=sys.stderr, disable=silent, leave=False
    ) as bar:
        yield bar.update


def moment(seconds: float | None) -> dict[str, object] | None:
    """Return a time as data: in seconds since the epoch, and as ISO 8601 writes it."""
    if seconds is None:
        return None
    try:
        written: str | None = datetime.fromtimestamp(int(seconds), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        # Deadlines may lie further ahead than calendars go.
        written = None
    return {"seconds": int(seconds), "time": written}


def _leaves(data: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in data.items():
        if isinstance(value, Mapping) and not value.keys() >= {"seconds", "time"}:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{value['time'] or 'beyond the year 9999'} ({value['seconds']})"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
