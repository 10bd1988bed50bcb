"""What we publish, one upload at a time, so that what is published last is the newest.

Each operation publishes what it saw. A server that is slow with one upload, or wants it repeated,
must not get it after a newer one: a spent pre key would come back, and a fresh one be missing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import omemo

__all__ = ["Name", "Uploads"]

Name = tuple[object, ...]
"""What a download, or what waits for a commit, is known by."""

Upload = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Turn:
    """One attempt, for all who wait for it: whether it was made, and how it failed."""

    made: bool = False
    failure: omemo.OMEMOException | None = None


@dataclass(slots=True)
class _Place:
    """What is to be published under a name; `upload` is None once the newest is."""

    number: int = 0
    upload: Upload | None = field(default=None, repr=False)
    turn: _Turn | None = None


class Uploads:
    """The uploads of a gate; of several that wait under one name only the newest is made."""

    def __init__(self) -> None:
        self._places: dict[Name, _Place] = {}
        self._lock = asyncio.Lock()

    async def publish(self, number: int, uploads: Mapping[Name, Upload]) -> None:
        """Make the uploads of an operation, or those that have replaced them; one is made once.

        Canceling it is safe: what others wait for is left to them.

        Args:
            number: a higher one for what is newer; the order in which the lock was held.
            uploads: by name, what has been committed.

        Raises:
            OMEMOException: the first failure, after all were tried. Call it again to repeat them.
        """
        waiting = [self._waiting(name, number, upload) for name, upload in uploads.items()]
        failures = [
            failure
            for place, turn in waiting
            if (failure := await self._taken(place, turn)) is not None
        ]
        if failures:
            raise failures[0]

    def _waiting(self, name: Name, number: int, upload: Upload) -> tuple[_Place, _Turn]:
        place = self._places.setdefault(name, _Place())
        if number > place.number:
            place.number, place.upload = number, upload
        if place.turn is None:
            place.turn = _Turn()
        return place, place.turn

    async def _taken(self, place: _Place, turn: _Turn) -> omemo.OMEMOException | None:
        if place.upload is not None and not turn.made:
            async with self._lock:
                if not turn.made:
                    await _make(place, turn)
        return turn.failure


async def _make(place: _Place, turn: _Turn) -> None:
    number, upload = place.number, place.upload
    if place.turn is turn:
        place.turn = None  # what comes from now on is too late for this one
    if upload is not None:
        try:
            await upload()
        except omemo.OMEMOException as failure:
            turn.failure = failure
        else:
            if place.number == number:
                place.upload = None
    turn.made = True
