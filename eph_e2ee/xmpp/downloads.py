"""Downloads that the next operations can use as well, for a short time.

A device's bundle is wanted twice at a first contact: when its list is taken in, for the identity
key, and when the session is built. Parsing one takes longer than all that it is parsed for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["FRESH", "MAXIMUM", "Downloads"]

FRESH: Final = 60.0
"""Seconds for which a download is good. Not longer: of the pre keys in a bundle others use some."""

MAXIMUM: Final = 256
"""Downloads that are kept, about 20 kB each; as many as one operation may fetch."""


class Downloads:
    """What was downloaded lately, by the names that operations have for it.

    Args:
        now: seconds of a clock that only moves forward; the event loop's, unless given.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now or _loop_time
        self._kept: OrderedDict[tuple[object, ...], tuple[float, object]] = OrderedDict()

    def keep(self, name: tuple[object, ...], value: object) -> None:
        """Keep what has just been downloaded."""
        self._kept.pop(name, None)
        self._kept[name] = self._now(), value
        if len(self._kept) > MAXIMUM:
            self._kept.popitem(last=False)

    def get(self, name: tuple[object, ...]) -> object | None:
        """What was downloaded under a name; None where it has to be downloaded."""
        now = self._now()
        while self._kept and now - next(iter(self._kept.values()))[0] >= FRESH:
            self._kept.popitem(last=False)
        found = self._kept.get(name)
        return None if found is None else found[1]

    def forget(self, *names: tuple[object, ...]) -> None:
        """Have these downloaded again."""
        for name in names:
            self._kept.pop(name, None)

    def clear(self) -> None:
        """Have everything downloaded again."""
        self._kept.clear()


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
