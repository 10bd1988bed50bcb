"""A running expiry that a test watches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.expiry import Expiry
from tests.support.client import SECONDS
from tests.support.clock import ManualServer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from eph_e2ee.events import Expired
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

__all__ = ["Nothing", "Watch"]


class Nothing:
    """Messages that have left: none, or some that cannot be noted."""

    def __init__(self) -> None:
        self.on_gathered: Callable[[], None] = lambda: None
        self.has_unnoted = False
        self.failure: Exception | None = None
        self.noted = 0

    async def note(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.has_unnoted = False
        self.noted += 1


class Watch:
    """A running expiry, what it has told, and how often it asked the vault for what."""

    def __init__(self, vault: Vault, clock: ManualClock, patch: pytest.MonkeyPatch) -> None:
        self.vault, self.clock, self._patch = vault, clock, patch
        self.left = Nothing()
        self.told: list[Expired] = []
        self.calls: list[str] = []
        self.failing: set[str] = set()
        for name in ("expire_due", "settle", "sweep", "scrub"):
            self._count(name)
        self.server = ManualServer()
        self.expiry = Expiry(vault, [self.left], clock, self.told.append, self.server)
        self.task = asyncio.create_task(self.expiry.run())

    def _count(self, name: str) -> None:
        inherited = getattr(self.vault, name)

        async def counted(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                raise VaultUnavailable("the disk is full")
            return await inherited(*arguments)

        self._patch.setattr(self.vault, name, counted)

    async def rest(self) -> None:
        """Return once it waits, for the clock or for something to happen."""
        async with asyncio.timeout(SECONDS):
            for _ in range(3):
                await self.vault.transact(lambda _: None)
                while self.expiry._woken.is_set() and not self.task.done():  # noqa: ASYNC110 -- a state
                    await asyncio.sleep(0)
                for _ in range(20):
                    await asyncio.sleep(0)

    def unsettled(self) -> bool:
        return self.vault.unsettled

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.rest()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
