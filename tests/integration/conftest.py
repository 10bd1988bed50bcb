"""Fixtures of the integration tests: people with vaults, whose chats are closed at the end."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import xeddsa

from eph_e2ee.xmpp import devices, fetching, servertime
from tests.integration.devices import NewDevice
from tests.support.chats import Party
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.prosody import Account, Prosody


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
    """Take no server for mute that stands still with its machine: the library waits ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "PATIENCE", SECONDS)
        patch.setattr(fetching, "PATIENCE", SECONDS)
        patch.setattr(servertime, "ANSWER", SECONDS)
        yield


class NewParty(Protocol):
    """Makes a party that has left by the test's end."""

    def __call__(
        self, name: str, *, address: tuple[str, int] | None = ..., **options: Any
    ) -> Party:
        """Return somebody who has not arrived yet."""
        ...


@pytest.fixture
async def party(
    prosody: Prosody, account: Callable[[str], Account], tmp_path: Path
) -> AsyncIterator[NewParty]:
    """Make people, each with an account and a vault of their own."""
    made: list[Party] = []

    def new(name: str, *, address: tuple[str, int] | None = None, **options: Any) -> Party:
        own = account(name)
        folder = tmp_path / f"{own.name}.vault"
        made.append(Party(own, folder, address or prosody.address, **options))
        return made[-1]

    yield new
    for each in made:
        await each.leave()


@pytest.fixture
async def pair(party: NewParty) -> tuple[Party, Party]:
    """Two strangers, both online."""
    rosa, peter = party("rosa"), party("peter")
    await rosa.arrive()
    await peter.arrive()
    return rosa, peter


@pytest.fixture
async def device(
    prosody: Prosody, account: Callable[[str], Account], tmp_path: Path
) -> AsyncIterator[NewDevice]:
    """Make devices, each with a vault of its own."""
    async with NewDevice(prosody, account, tmp_path) as new:
        yield new
