"""A clock that only moves forward, and that believes no great leap on one clock's word.

It has two times. `Clock.now` is the confirmed time: deadlines are made from it, and erasing goes by
it. `Clock.latest` is the latest time that it may be: what is shown goes by it. They differ only
while a leap is held back; then what may be overdue is not shown, and nothing of it is erased.

* Turned back, while it runs or between runs: the time goes on from the highest value ever shown,
  with the machine's boot time. No life is lengthened by it.
* Suspension: boot time counts it, the event loop's timers do not. It is no leap, however long.
* A reboot, or a machine that was switched off: only the wall clock tells how long that took.
* Turned forward by up to a day against boot time: believed (`MAXIMUM_LEAP`).
* Turned forward by more: held back, until the server's time confirms it (XEP-0202, `witness`) or a
  second opening finds the wall clock where the first one saw it (`resume`). Reading the clock
  again confirms nothing. A machine that was off for a week shows nothing that may be overdue,
  and destroys it a moment after it has a session.
* The server's time refutes a wall clock that is more than a day ahead of it: that one is ignored
  for as long as it runs on evenly, and messages are shown again. What was refuted confirms nothing
  at the next opening, which begins anew. A server that lies can move the time no further than our
  own wall clock shows, and can hold a leap back for as long as it is asked: it saves messages by
  the time that this machine was switched off, never by time that it has run. One that is a day or
  more behind the confirmed time is no witness at all.
* A first boot without a clock battery: a vault that is made in 1970 has nothing to compare with,
  and believes it. When the wall clock leaps to the present, that is held back as any leap. Timers
  that started before the leap was confirmed have deadlines in 1970: they are not shown from the
  leap on, and end when it is confirmed. There is little to lose: with such a clock TLS accepts no
  server's certificate, so that hardly a message can have come.
* A timer that is started while a leap is held back counts from the confirmed time, which may be too
  early: that message ends with the others when the leap is confirmed.
* 2038, 2106 and later are ordinary: no time is kept in 32 bits.

What it cannot notice: a wall clock that is wrong from the first, and leaps of less than a day each.
Where the system has no boot time that counts suspension, a suspension of more than a day is a leap.
"""

import asyncio
import json
import math
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from eph_e2ee.errors import VaultDamaged

__all__ = ["MAXIMUM_LEAP", "MAXIMUM_NAP", "Clock", "Reading", "Source", "SystemSource"]

MAXIMUM_LEAP: Final = 86_400.0
"""Seconds by which the wall clock may get ahead of boot time and be believed on its own word.

A wrong time zone or a clock that drifts stays within it, and a machine that is off at night too; a
dead battery, a wrong year or a spoofed time server does not. So a wrong clock costs a message a
day of its life at most.
"""

MAXIMUM_NAP: Final = 10.0
"""Seconds that a wait sleeps before it looks at the clock again.

The event loop's timers stand still while the machine is suspended and do not see the wall clock
move; this bounds how late a wait notices. It also keeps a timer of years out of the event loop.
"""

_MINIMUM_NAP: Final = 0.001
"""Seconds that a wait sleeps at least: the two clocks differ by less, and must not make it spin."""

_SLACK: Final = 60.0
"""Seconds by which a wall clock that runs on by itself may be set right: still the same clock."""

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
        doubt: what the wall clock said when that was a leap that was held back; None otherwise.
    """

    now: float
    boot: float
    boot_id: str
    doubt: float | None = None

    def to_json(self) -> str:
        """Return the reading as a JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Reading":
        """Return the reading that `to_json` wrote; older ones have no `doubt`.

        Raises:
            VaultDamaged: `to_json` did not write this.
        """
        try:
            reading = cls(**json.loads(text))
            doubt = 0.0 if reading.doubt is None else reading.doubt
            finite = all(map(math.isfinite, (reading.now, reading.boot, doubt)))
        except (ValueError, TypeError, OverflowError):
            raise VaultDamaged(_NOT_A_READING) from None
        if not finite or not isinstance(reading.boot_id, str):
            raise VaultDamaged(_NOT_A_READING)
        return reading


@dataclass(frozen=True, slots=True)
class _Testimony:
    """The server's time, with the machine's clocks when it was heard; all in seconds."""

    time: float
    wall: float
    boot: float
    boot_id: str

    def elapsed(self, reading: Reading) -> float:
        """Return the seconds since then; 0 when they cannot be known."""
        return _elapsed(self.boot, self.boot_id, reading.boot, reading.boot_id)


class Clock:
    """A clock that only moves forward. Any thread may read it.

    Args:
        source: where it looks.
        last: what it showed when it was last persisted; None when nothing is known.
    """

    def __init__(self, source: Source | None = None, last: Reading | None = None) -> None:
        self._source: Source = SystemSource() if source is None else source
        self._lock = threading.Lock()
        self._last: Reading | None = None
        self._testimony: _Testimony | None = None
        if last is not None:
            self.resume(last)

    def now(self) -> float:
        """Return the confirmed time in seconds since the epoch: never less than before."""
        return self.reading().now

    def latest(self) -> float:
        """Return the latest time that it may be; it is `now` unless a leap is held back."""
        with self._lock:
            return self._latest(self._advance())

    @property
    def doubted(self) -> bool:
        """Whether a leap of the wall clock is held back that nobody has refuted."""
        with self._lock:
            reading = self._advance()
            return self._latest(reading) > reading.now

    def reading(self) -> Reading:
        """Return the time together with what it takes to continue from it after a restart.

        A doubt that the server has refuted is none for the next opening.
        """
        with self._lock:
            reading = self._advance()
            doubted = self._latest(reading) > reading.now
            return reading if doubted else Reading(reading.now, reading.boot, reading.boot_id)

    def resume(self, last: Reading) -> None:
        """Continue from a persisted reading: the time is not before it from now on.

        This is an opening: a leap that `last` doubted, and that still stands, is confirmed. The
        wall clock is judged against `last`, unless this clock was read before.
        """
        with self._lock:
            resumed = self._read(last, opening=True)
            if self._last is not None:
                resumed = max(self._read(self._last), resumed, key=_time)
            self._last = resumed

    def witness(self, time: float) -> None:
        """Take in what time the server says it is now; it decides on a leap that is held back.

        Args:
            time: seconds since the epoch, finite.
        """
        with self._lock:
            reading = self._advance()
            if time >= reading.now - MAXIMUM_LEAP:
                wall = self._source.wall()
                self._testimony = _Testimony(time, wall, reading.boot, reading.boot_id)

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

    def _advance(self) -> Reading:
        self._last = self._read(self._last)
        return self._last

    def _read(self, last: Reading | None, *, opening: bool = False) -> Reading:
        """Return the time that follows on a reading."""
        wall, boot, boot_id = self._source.wall(), self._source.boot(), self._source.boot_id()
        if last is None:
            return Reading(wall, boot, boot_id)
        passed = _elapsed(last.boot, last.boot_id, boot, boot_id)
        reading = Reading(last.now + passed, boot, boot_id, wall)
        if opening and last.doubt is not None and wall >= last.doubt - _SLACK:
            reading = replace(reading, now=max(reading.now, wall))
        if _is_leap(reading) and self._testimony is not None:
            witnessed = self._testimony.time + self._testimony.elapsed(reading)
            reading = replace(reading, now=max(reading.now, min(wall, witnessed)))
        if _is_leap(reading):
            return reading
        return Reading(max(reading.now, wall), boot, boot_id)

    def _latest(self, reading: Reading) -> float:
        """Return the latest time that it may be, at a reading that was just made."""
        if reading.doubt is None:
            return reading.now
        testimony = self._testimony
        if testimony is None:
            return reading.doubt
        # What was said of one wall clock says nothing of one that has been moved since: the machine
        # may have stood still in a way that boot time does not count.
        moved = reading.doubt - (testimony.wall + testimony.elapsed(reading))
        return reading.now if abs(moved) <= _SLACK else reading.doubt


def _elapsed(start: float, start_id: str, end: float, end_id: str) -> float:
    # A boot time that went back under the same id is no measure of anything.
    return max(0.0, end - start) if start_id == end_id else 0.0


def _is_leap(reading: Reading) -> bool:
    return reading.doubt is not None and reading.doubt > reading.now + MAXIMUM_LEAP


def _time(reading: Reading) -> float:
    return reading.now
