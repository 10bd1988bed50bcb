"""People with real vaults and real OMEMO, whose clients meet in this process."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import pytest
import xeddsa

import eph_e2ee
from eph_e2ee import halves
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp import devices, fetching, servertime
from tests.flows.watching import Watch
from tests.support.client import SECONDS
from tests.support.clock import ManualClock, ManualSource
from tests.xmpp.clients import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import timedelta
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Let slixmpp-omemo 2.2 find its plugins in the way that slixmpp 1.17 would rather not see."""
    told = "ignore:Accessing plugins through the XMPP object:DeprecationWarning:slixmpp_omemo"
    config.addinivalue_line("filterwarnings", told)


@pytest.fixture(autouse=True, scope="session")
def quick_public_keys() -> Iterator[None]:
    """Compute each public key once: python-x3dh does so some twenty times at every start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            xeddsa, "priv_to_curve25519_pub", functools.cache(xeddsa.priv_to_curve25519_pub)
        )
        yield


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """Take nobody for mute who stands still with this machine: the library waits a few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (devices, fetching, halves):
            patch.setattr(module, "PATIENCE", SECONDS)
        patch.setattr(servertime, "ANSWER", SECONDS)
        yield


class Party:
    """One account with a chat, and the events that it was given.

    Args:
        world: where its client is.
        name: the account's.
        folder: of the vault.
        source: of its clock.
        options: for `attach`.
    """

    EVENTS = (
        *("message", "expired", "timer_changed", "delivery"),
        *("catch_up", "unsupported", "rejected", "skipped", "opt_out", "chat_state"),
    )

    def __init__(
        self,
        world: World,
        name: str,
        folder: Path,
        source: ManualSource | None = None,
        **options: Any,
    ) -> None:
        self.name, self.folder, self.options = name, folder, options
        self.jid = f"{name}@example.org"
        self.clock = ManualClock(source)
        self.client = world.client(name)
        self.chat = eph_e2ee.attach(self.client, vault=folder, clock=self.clock, **options)
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

    @property
    def device(self) -> int:
        """The id of its OMEMO device."""
        return self.chat._account.device

    async def idle(self) -> None:
        """Return once everything that has arrived is dealt with, and what is to be told is told."""
        async with asyncio.timeout(SECONDS):
            await self.caught_up()
            while tasks := set(self.chat._incoming._tasks):
                await asyncio.wait(tasks)
            while not self._has_told():
                await self.vault.transact(lambda _: None)

    def _has_told(self) -> bool:
        """Whether the task that tells of readings waits for the next one."""
        waits: Any = self.chat._tasks[1].get_coro()
        waiting = getattr(waits.cr_await, "__qualname__", "") == "Event.wait"
        return self.chat._tasks[1].done() or (waiting and not self.chat._reading._woken.is_set())

    async def caught_up(self) -> None:
        """Return once the archives have been read, as far as they can be."""
        async with asyncio.timeout(SECONDS):
            for backlog in self.chat._catching_up._backlogs.values():
                if backlog.task is not None:
                    await asyncio.wait({backlog.task})

    def offline(self) -> None:
        """End the session with the server."""
        self.client.bound = False
        self.client.event("session_end", None)

    async def online(self) -> None:
        """Begin a new one, and read what was missed."""
        self.client.bound = True
        self.client.event("session_bind", self.client.boundjid)
        await self.caught_up()

    def passes(self, seconds: float) -> None:
        """Let time pass here; every other machine has its own."""
        self.clock.advance(seconds)


class Town:
    """A world with people in it."""

    def __init__(self, folder: Path, world: World) -> None:
        self.world = world
        self.people: list[Party] = []
        self._folder = folder

    async def party(self, name: str, timer: timedelta | None = None, **options: Any) -> Party:
        folder = self._folder / f"{name}.{len(self.people)}.vault"
        return await self._arrive(Party(self.world, name, folder, timer=timer, **options))

    async def again(self, party: Party, *, bind: bool = True) -> Party:
        """End a process, and begin another one on its vault and its machine."""
        await party.chat.close()
        party.client.stopped, party.client.bound = True, False
        self.people.remove(party)
        source = party.clock.source
        made = Party(self.world, party.name, party.folder, source, **party.options)
        return await self._arrive(made, bind=bind)

    async def _arrive(self, made: Party, *, bind: bool = True) -> Party:
        self.people.append(made)
        if bind:
            await made.client.bind()
            await made.caught_up()
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
def world() -> World:
    """A server without archives."""
    return World()


@pytest.fixture
async def town(tmp_path: Path, world: World) -> AsyncIterator[Town]:
    """Nobody yet."""
    town = Town(tmp_path, world)
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
