"""A clock that only moves forward.

Its time is the greatest of the wall clock, the highest value it has ever shown, and the last
value plus the time the machine has been up since (suspension included). Turning the wall clock
back, suspending the machine and restarting the process therefore never lengthen a message's
life. Across a reboot only the wall clock and the persisted high water are left.
"""

import asyncio
import json
import math
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from eph_e2ee.errors import VaultDamaged

__all__ = ["MAXIMUM_NAP", "Clock", "Reading", "Source", "SystemSource"]

MAXIMUM_NAP: Final = 10.0
"""Seconds that a wait sleeps before it looks at the clock again.

The event loop's timers stand still while the machine is suspended and do not see the wall clock
move; this bounds how late a wait notices. It also keeps a timer of years out of the event loop.
"""

_MINIMUM_NAP: Final = 0.001
"""Seconds that a wait sleeps at least: the two clocks differ by less, and must not make it spin."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_NOT_A_READING: Final = "a clock reading cannot be read; restore the vault from a backup"


class Source(Protocol):
    """Where a clock looks."""

    def wall(self) -> float:
        """Return the wall clock: seconds since the epoch, which may jump either way."""

    def boot(self) -> float:
        """Return seconds that only grow, suspension included, comparable within one boot id."""

    def boot_id(self) -> str:
        """Return what names this run of the machine."""


class SystemSource:
    """The machine's clocks.

    Without CLOCK_BOOTTIME the monotonic clock stands in, which misses suspension; without the
    kernel's boot id a random one stands in, so that readings of other processes are not compared.
    """

    def __init__(self) -> None:
        self._boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        try:
            self._boot_id = _BOOT_ID.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            self._boot_id = secrets.token_hex(16)

    def wall(self) -> float:
        """Return the wall clock: seconds since the epoch, which may jump either way."""
        return time.time()

    def boot(self) -> float:
        """Return seconds since the machine was started, suspension included."""
        return time.clock_gettime(self._boot_clock)

    def boot_id(self) -> str:
        """Return the kernel's random name for this run of the machine."""
        return self._boot_id


@dataclass(frozen=True, slots=True)
class Reading:
    """What a clock showed, to be persisted and handed to `Clock.resume` later.

    Attributes:
        now: the clock's time in seconds since the epoch.
        boot: the source's boot time at that moment, in seconds.
        boot_id: which run of the machine `boot` belongs to.
    """

    now: float
    boot: float
    boot_id: str

    def to_json(self) -> str:
        """Return the reading as a JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Reading":
        """Return the reading that `to_json` wrote.

        Raises:
            VaultDamaged: `to_json` did not write this.
        """
        try:
            reading = cls(**json.loads(text))
            finite = math.isfinite(reading.now) and math.isfinite(reading.boot)
        except (ValueError, TypeError):
            raise VaultDamaged(_NOT_A_READING) from None
        if not finite or not isinstance(reading.boot_id, str):
            raise VaultDamaged(_NOT_A_READING)
        return reading


class Clock:
    """A clock that only moves forward. Any thread may read it.

    Args:
        source: where it looks.
        last: what it showed when it was last persisted; None when nothing is known.
    """

    def __init__(self, source: Source | None = None, last: Reading | None = None) -> None:
        self._source: Source = SystemSource() if source is None else source
        self._lock = threading.Lock()
        self._last = last

    def now(self) -> float:
        """Return the time in seconds since the epoch: never less than any value before."""
        return self.reading().now

    def reading(self) -> Reading:
        """Return the time together with what it takes to continue from it after a restart."""
        with self._lock:
            self._last = self._read(self._last)
            return self._last

    def resume(self, last: Reading) -> None:
        """Continue from a persisted reading as well: the time is not before it from now on."""
        with self._lock:
            self._last = max(self._read(self._last), self._read(last), key=_time)

    async def wait(self, event: asyncio.Event, until: float | None = None) -> None:
        """Return when the event is set, or when it is `until`; with None only the event counts.

        At most `MAXIMUM_NAP` seconds pass before a moved wall clock, or a machine that was
        suspended, is noticed. Cancelling is safe.

        Args:
            event: anything that should end the wait early; it is left as it is.
            until: seconds since the epoch on this clock.
        """
        if until is None:
            await event.wait()
            return
        while not event.is_set() and (left := until - self.now()) > 0:
            await self._nap(event, min(max(left, _MINIMUM_NAP), MAXIMUM_NAP))

    async def _nap(self, event: asyncio.Event, seconds: float) -> None:
        """Sleep until the event is set, or for so long on the event loop's clock."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def _read(self, last: Reading | None) -> Reading:
        wall, boot, boot_id = self._source.wall(), self._source.boot(), self._source.boot_id()
        if last is None:
            return Reading(wall, boot, boot_id)
        # A boot time that went back under the same id is no measure of anything.
        elapsed = max(0.0, boot - last.boot) if boot_id == last.boot_id else 0.0
        return Reading(max(wall, last.now + elapsed), boot, boot_id)


def _time(reading: Reading) -> float:
    return reading.now
