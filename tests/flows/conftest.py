"""People with real vaults and real OMEMO, whose clients meet in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import eph_e2ee
from eph_e2ee.vault.vault import Vault
from tests.flows.watching import Watch
from tests.support.clock import ManualClock
from tests.xmpp.clients import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import timedelta
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Let slixmpp-omemo 2.2 find its plugins in the way that slixmpp 1.17 would rather not see."""
    told = "ignore:Accessing plugins through the XMPP object:DeprecationWarning:slixmpp_omemo"
    config.addinivalue_line("filterwarnings", told)


class Party:
    """One account with a chat, and the events that it was given."""

    EVENTS = ("message", "expired", "timer_changed", "unsupported", "rejected")

    def __init__(self, world: World, name: str, folder: Path, timer: timedelta | None) -> None:
        self.jid = f"{name}@example.org"
        self.clock = ManualClock()
        self.client = world.client(name)
        self.chat = eph_e2ee.attach(self.client, vault=folder, timer=timer, clock=self.clock)
        self.events: dict[str, list[Any]] = {event: [] for event in self.EVENTS}
        for event, heard in self.events.items():
            self.client.add_event_handler(f"ephemeral_{event}", heard.append)

    @property
    def vault(self) -> Vault:
        return self.chat._vault

    @property
    def bodies(self) -> list[str | None]:
        """The texts that have arrived."""
        return [message.body for message in self.events["message"]]

    async def idle(self) -> None:
        """Return once everything that has arrived is dealt with."""
        async with asyncio.timeout(10):
            while tasks := set(self.chat._incoming._tasks):
                await asyncio.wait(tasks)


class Town:
    """A world with people in it."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        self.people: list[Party] = []
        self._folder = folder

    async def party(self, name: str, timer: timedelta | None = None) -> Party:
        made = Party(self.world, name, self._folder / f"{name}.{len(self.people)}.vault", timer)
        self.people.append(made)
        await made.client.bind()
        return made

    async def deliver(self) -> None:
        """Carry messages until nobody answers any more."""
        while self.world.deliver():
            for each in self.people:
                await each.idle()

    async def end(self) -> None:
        for each in self.people:
            await each.chat.close()
        await self.world.end()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """Nobody yet."""
    town = Town(tmp_path)
    yield town
    await town.end()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def vault(tmp_path: Path, clock: ManualClock) -> Iterator[Vault]:
    """An open vault, closed at the end."""
    vault = Vault.open(tmp_path / "vault", clock=clock)
    yield vault
    vault.close_sync()


@pytest.fixture
async def watch(
    vault: Vault, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watch]:
    watch = Watch(vault, clock, monkeypatch)
    await watch.rest()
    yield watch
    await watch.stop()
