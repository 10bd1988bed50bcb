"""Stanzas that hold nothing for this device, while the other half of the message may be coming.

Whoever writes to devices with and without envelopes may send two stanzas of one id, each for some
of the devices. That one of them is not for us is no news then.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from eph_e2ee.xmpp.stanzas import Arrival

__all__ = ["Halves"]

PATIENCE: Final = 1.0
"""Seconds that the other half has; it is sent in the same breath."""

MAXIMUM_WAITING: Final = 256
"""Halves that wait; the oldest is told of when there are more. Anybody can send such."""

Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class Halves:
    """What was not for this device waits here until its other half comes, or does not.

    Args:
        later: calls something after some seconds, as an event loop does.
        tell: called with what was in vain.
    """

    def __init__(self, later: Later, tell: Callable[[Arrival], None]) -> None:
        self._later = later
        self._tell = tell
        self._waiting: OrderedDict[tuple[Any, ...], tuple[Arrival, asyncio.TimerHandle]] = (
            OrderedDict()
        )

    def put(self, arrival: Arrival) -> None:
        """It was not for this device. A second one of that id was its other half, and neither."""
        name = _name(arrival)
        if not arrival.message_id or name in self._waiting:
            self._tell(arrival)
            self.taken(arrival)
            return
        if len(self._waiting) >= MAXIMUM_WAITING:
            self._in_vain(next(iter(self._waiting)))
        handle = self._later(PATIENCE, lambda: self._in_vain(name))
        self._waiting[name] = arrival, handle

    def taken(self, arrival: Arrival) -> None:
        """One that was for this device has come: the other half is not told of."""
        _, handle = self._waiting.pop(_name(arrival), (None, None))
        if handle is not None:
            handle.cancel()

    def stop(self) -> None:
        """Tell of nothing any more."""
        for _, handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()

    def _in_vain(self, name: tuple[Any, ...]) -> None:
        arrival, handle = self._waiting.pop(name)
        handle.cancel()
        self._tell(arrival)


def _name(arrival: Arrival) -> tuple[Any, ...]:
    return arrival.room, arrival.sender, arrival.message_id
