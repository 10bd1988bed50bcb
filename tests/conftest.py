"""Fixtures for every test: the throwaway server, its accounts, clients and the wire."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support import client as clients
from tests.support.prosody import Account, Prosody
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from slixmpp import ClientXMPP

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--full`: the tests that try everything try all of it, instead of a fair sample."""
    parser.addoption("--full", action="store_true", help="run the long tests at full length")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the long tests are to run at full length."""
    return bool(request.config.getoption("--full"))


class NewClient(Protocol):
    """Makes a client that is disconnected at the test's end."""

    def __call__(
        self, account: Account, *, resource: str = ..., plugins: Sequence[str] = ...
    ) -> ClientXMPP:
        """Return a client that is not yet connected."""
        ...


@pytest.fixture(scope="session")
def prosody_process() -> Iterator[Prosody]:
    """One server for all tests; without it they fail, they do not skip."""
    with Prosody() as server:
        yield server


@pytest.fixture
def prosody(prosody_process: Prosody) -> Iterator[Prosody]:
    """The server, running and doing no harm to any message."""
    yield prosody_process.start()
    if prosody_process.running:
        prosody_process.interfere()
        prosody_process.discard()


@pytest.fixture
def account(prosody: Prosody) -> Callable[[str], Account]:
    """Make an account whose JID no other test has."""

    def new(name: str) -> Account:
        return prosody.register(f"{name}-{next(_numbers)}")

    return new


@pytest.fixture
async def client() -> AsyncIterator[NewClient]:
    """Make clients; whatever is still connected at the end is disconnected."""
    made: list[ClientXMPP] = []

    def new(
        account: Account, *, resource: str = "", plugins: Sequence[str] = clients.PLUGINS
    ) -> ClientXMPP:
        made.append(clients.new_client(account, resource=resource, plugins=plugins))
        return made[-1]

    yield new
    for each in made:
        await clients.disconnect(each)


@pytest.fixture
async def wire(prosody: Prosody) -> AsyncIterator[Wire]:
    """The recorded wire in front of the server."""
    async with Wire(prosody.port) as between:
        yield between
