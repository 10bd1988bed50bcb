"""How far an archive is known, whatever has arrived from it and in whatever order."""

from typing import TYPE_CHECKING, Final

from eph_e2ee.xmpp.stanzas import Arrival, Way

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Seen"]

MAXIMUM_OPEN: Final = 10_000
"""Messages that wait behind one that could not be stored, before all of them are given up: they
are in the archive, and read from there with the next session."""


class Seen:
    """How far our archive is known, by what has arrived with its ids, whatever came first.

    Conversations are dealt with side by side. What is behind something that is not yet dealt with,
    or could not be stored, does not count: it would be missed after a crash.

    Attributes:
        last: the id of the last message with nothing missing before it; None for none yet.
        on_change: called when that is another one.
    """

    def __init__(self) -> None:
        self._open: dict[str, bool] = {}
        self.last: str | None = None
        self.on_change: Callable[[], None] = lambda: None

    def arrived(self, arrival: Arrival) -> None:
        """It is queued."""
        if len(self._open) >= MAXIMUM_OPEN:
            self._open = {"": False}  # nothing counts any more, until the archive is read again
        elif arrival.archive_id and arrival.way is not Way.ARCHIVE:
            self._open.setdefault(arrival.archive_id, False)

    def done(self, arrival: Arrival) -> None:
        """It is stored, or there is nothing of it to store."""
        if arrival.archive_id not in self._open:
            return
        self._open[arrival.archive_id] = True
        before = self.last
        while self._open and self._open[first := next(iter(self._open))]:
            self.last = first
            del self._open[first]
        if self.last != before:
            self.on_change()
