"""A clock that a test moves by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eph_e2ee.clock import Clock, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["START", "ManualClock", "ManualServer", "ManualSource"]

START = 1_750_000_000.0


@dataclass
class ManualSource:
    """A machine's clocks, moved by hand. Several clocks on one source are one machine's."""

    wall_time: float = START
    boot_time: float = 1_000.0
    running_time: float = 0.0
    boots: int = 1

    def wall(self) -> float:
        return self.wall_time

    def boot(self) -> float:
        return self.boot_time

    def boot_id(self) -> str:
        return f"boot-{self.boots}"


class ManualClock(Clock):
    """A clock on a manual source. Its waits take no real time: they end when it is advanced."""

    def __init__(self, source: ManualSource | None = None, last: Reading | None = None) -> None:
        self.source = ManualSource() if source is None else source
        self.naps: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        super().__init__(self.source, last)

    def advance(self, seconds: float) -> None:
        """Let time pass as it does on a running machine, and end the naps that are over."""
        self.source.running_time += seconds
        self.suspend(seconds)
        for end, sleeper in self._sleepers:
            if end <= self.source.running_time:
                sleeper.get_loop().call_soon_threadsafe(_wake, sleeper)

    def suspend(self, seconds: float) -> None:
        """Let time pass while the machine sleeps: the event loop's timers do not see it."""
        self.source.wall_time += seconds
        self.source.boot_time += seconds

    def turn_wall(self, seconds: float) -> None:
        """Turn the wall clock, forward or (negative) back."""
        self.source.wall_time += seconds

    def reboot(self, seconds: float) -> None:
        """Switch the machine off for so long, and on again."""
        self.source.wall_time += seconds
        self.source.boot_time = 0.0
        self.source.boots += 1

    async def _nap(self, event: asyncio.Event, seconds: float) -> None:
        self.naps.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        nap = (self.source.running_time + seconds, sleeper)
        self._sleepers.append(nap)
        awakened = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({awakened, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.remove(nap)
            awakened.cancel()


class ManualServer:
    """A server whose time the test sets; None gives no time.

    Attributes:
        time: what it says.
        failure: raised instead.
        asked: how often it was asked.
    """

    def __init__(self) -> None:
        self.on_session: Callable[[], None] = lambda: None
        self.time: float | None = None
        self.failure: Exception | None = None
        self.asked = 0

    async def server_time(self) -> float | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return self.time


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
