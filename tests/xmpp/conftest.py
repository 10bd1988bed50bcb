"""A vault for each test that wants one, and an in-process world of OMEMO accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp import devices, fetching, servertime
from tests.support.client import SECONDS
from tests.support.clock import ManualClock
from tests.xmpp.clients import World
from tests.xmpp.people import Person, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Let slixmpp-omemo 2.2 find its plugins in the way that slixmpp 1.17 would rather not see."""
    told = "ignore:Accessing plugins through the XMPP object:DeprecationWarning:slixmpp_omemo"
    config.addinivalue_line("filterwarnings", told)


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """Take no server for mute that stands still with its machine: the library waits ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "PATIENCE", SECONDS)
        patch.setattr(fetching, "PATIENCE", SECONDS)
        patch.setattr(servertime, "ANSWER", SECONDS)
        yield


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """An open vault, closed at the end."""
    vault = Vault.open(tmp_path / "vault", clock=ManualClock())
    yield vault
    vault.close_sync()


@pytest.fixture
def ratchets(vault: Vault) -> Ratchets:
    """The vault's storage for OMEMO."""
    return Ratchets(vault)


@pytest.fixture
def server() -> Server:
    """Where accounts publish their keys."""
    return Server()


@pytest.fixture
async def person(
    server: Server, tmp_path: Path
) -> AsyncIterator[Callable[[str], Awaitable[Person]]]:
    """Make accounts with a vault each, of which OMEMO is running."""
    made: list[Person] = []

    async def new(name: str) -> Person:
        made.append(Person(server, f"{name}@example.org", tmp_path / f"{name}.{len(made)}.vault"))
        await made[-1].start()
        return made[-1]

    yield new
    for each in made:
        await each.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Clients of slixmpp that are connected to each other by nothing but this process."""
    world = World()
    yield world
    await world.end()
