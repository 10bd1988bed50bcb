"""Where the soak takes place: a server, five devices on it, and time that passes for all."""

from __future__ import annotations

import asyncio
import re
from random import Random
from typing import TYPE_CHECKING, Final

from tests.flows.soaking_devices import Ours, Plain
from tests.flows.soaking_ledger import Ledger
from tests.flows.soaking_server import Exchange
from tests.support.clock import START

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ACCOUNTS", "CAROL", "SKEW", "Scene"]

ALICE: Final = "alice@example.org"
BOB: Final = "bob@example.org"
CAROL: Final = "carol@example.org"
ACCOUNTS: Final = (ALICE, BOB, CAROL)

SKEW: Final = 150
"""Seconds by which a clock may be wrong, either way."""

LIMIT: Final = 60.0
"""Real seconds in which everything comes to rest, or hangs."""

LAST: Final = 40
"""Actions that are told of with a failure."""


class Scene:
    """The world, what was done in it, and what is known of it by looking from above.

    Args:
        seed: of all that is left to chance.
        folder: for the vaults.

    Attributes:
        gaps: whether devices may miss what others get: by sessions that do not read the archive, or
            by a server without carbons.
        carbons: whether the server has them, after the beginning.
        now: a clock that is right.
        stuck: the names of devices of which nothing arrives at the server for now.
        log: what was done.
        count: how many actions.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.random = random = Random(seed)  # noqa: S311 -- chance, no secret
        self.now = START
        self.server = Exchange(random, lambda: self.now)
        # With gaps, "read up to here" goes by the senders' clocks: those of an account agree then.
        self.gaps = random.random() < 0.6
        self.carbons = not self.gaps or random.random() < 0.6
        self.server.archives = {ALICE: [], BOB: []}
        self.ledger = Ledger()
        self.server.arrived = lambda xml: self.ledger.arrived(xml.get("id", ""))
        skews = {account: self._skew() for account in ACCOUNTS}
        self.ours = [
            Ours(
                self.server,
                account,
                resource,
                folder / resource,
                skews[account] if self.gaps else self._skew(),
            )
            for account, resource in (
                (ALICE, "alice-1"),
                (ALICE, "alice-2"),
                (BOB, "bob-1"),
                (BOB, "bob-2"),
            )
        ]
        for one, other in zip(self.ours[::2], self.ours[1::2], strict=True):
            one.receipts = other.receipts = random.random() < 0.5
        self.carol = Plain(self.server, CAROL, skews[CAROL])
        self.devices: list[Ours | Plain] = [*self.ours, self.carol]
        self.stuck: set[str] = set()
        self.log: list[str] = []
        self.count = 0

    def _skew(self) -> float:
        return self.random.choice((0, self.random.randint(-SKEW, SKEW)))

    async def close(self) -> None:
        for device in self.devices:
            if device.online:
                await device.leave()
        await self.server.end()

    def _explain(self, failure: BaseException) -> None:
        """Add the seed, the last actions, and all that concern the messages of the failure."""
        concerned = set(re.findall(r"message \d+\b", str(failure)))
        failure.add_note(f"seed {self.seed}, after {self.count} actions; the last {LAST}:")
        for number, line in enumerate(self.log, LAST - len(self.log)):
            if number >= 0 or concerned & set(re.findall(r"message \d+\b", line)):
                failure.add_note(line)

    def _note(self, text: str) -> None:
        self.log.append(f"{self.now - START:6.0f} s: {text}")

    async def settle(self) -> None:
        """Return once nothing moves any more, but for what is held up."""
        calm = 0
        async with asyncio.timeout(LIMIT):
            while calm < 2:
                moved = self._move()
                for device in self.devices:
                    await device.rest()
                for _ in range(10):
                    await asyncio.sleep(0)
                busy = any(device.is_busy() for device in self.devices)
                calm = 0 if moved or busy else calm + 1

    def _move(self) -> int:
        moved = 0
        devices = [each for each in self.devices if each.online and each.name not in self.stuck]
        self.random.shuffle(devices)
        for device in devices:
            moved += self.server.collect(device.client)
        for stream in list(self.server.streams.values()):
            if not stream.late:
                moved += len(stream.waiting)
                stream.move()
        return moved

    def _peers(self, device: Ours | Plain) -> list[str]:
        return [account for account in ACCOUNTS if account != device.account]

    def _somebody(self) -> Ours | Plain | None:
        """A device that is at work: online, and on a stream that lives."""
        able = [
            each
            for each in self.devices
            if each.online and not self.server.streams[each.client].dead
        ]
        return self.random.choice(able) if able else None

    async def _pass(self, seconds: float) -> None:
        self.now += seconds
        for device in self.devices:
            device.pass_time(seconds)
