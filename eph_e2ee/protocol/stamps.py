"""DateTime of XEP-0082 in UTC, with milliseconds: the form in which our own elements give times."""

import re
from datetime import UTC, datetime, timedelta

__all__ = ["read", "write"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


def read(text: str) -> int | None:
    """Return the milliseconds since the epoch; None for what `write` did not make."""
    if not _STAMP.fullmatch(text):
        return None
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def write(milliseconds: int) -> str:
    """Write a time.

    Raises:
        OverflowError: it lies beyond the year 9999, or before the year 1.
    """
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
