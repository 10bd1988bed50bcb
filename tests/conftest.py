"""Fixtures for every test: the throwaway server, its accounts, clients and the wire.

Tests run with Prosody, and those marked `core` with ejabberd as well; `--server` names the one
server for all of them. Tests marked `prosody` then run with no other.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest
import x3dh.base_state
from hypothesis import HealthCheck, settings

from tests.support import client as clients
from tests.support.ejabberd import Ejabberd
from tests.support.prosody import Prosody
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from slixmpp import ClientXMPP

    from tests.support.server import Account, Server

SERVERS: Final[dict[str, type[Server]]] = {"prosody": Prosody, "ejabberd": Ejabberd}

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--full`, for the tests that try everything, and `--server`."""
    parser.addoption("--full", action="store_true", help="run the long tests at full length")
    parser.addoption(
        "--server", choices=list(SERVERS), help="the server of all tests (default: prosody)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Have hypothesis try the same inputs each time, and take the time that it needs.

    So a run fails by what has changed, and not by chance. With `--full` the inputs are others.
    """
    full = config.getoption("--full")
    health = [HealthCheck.too_slow]
    settings.register_profile(
        "suite", deadline=None, derandomize=not full, suppress_health_check=health
    )
    settings.load_profile("suite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the core scenarios on every server, unless one is chosen."""
    chosen = metafunc.config.getoption("--server")
    core = any(metafunc.definition.iter_markers("core"))
    if core and chosen is None and "make" in metafunc.fixturenames:
        metafunc.parametrize("make", list(SERVERS), scope="session")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only Prosody does."""
    chosen = item.config.getoption("--server") or "prosody"
    for mark in item.iter_markers("prosody"):
        if chosen != "prosody":
            (reason,) = mark.args
            pytest.skip(reason)


class _Dealer:
    """`secrets`, but for one-time keys, which are dealt in turn."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def choice(self, keys: Sequence[bytes]) -> bytes:
        """One of a bundle's, another one than the last time."""
        return sorted(keys)[next(self._numbers) % len(keys)]

    def __getattr__(self, name: str) -> Any:
        return getattr(secrets, name)


@pytest.fixture(autouse=True, scope="session")
def one_time_keys_in_turn() -> Iterator[None]:
    """Have no two devices draw the same one-time key of a third: one pair in a hundred would.

    The second message does not open then. XEP-0384 leaves it to chance, and python-omemo as well.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(x3dh.base_state, "secrets", _Dealer())
        yield


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


class NewServer(Protocol):
    """Makes a server that has ended by the end of all tests."""

    def __call__(self, **options: Any) -> Server:
        """Return a server that runs; the options are those of `Server`."""
        ...


@pytest.fixture(scope="session")
def make(request: pytest.FixtureRequest) -> str:
    """Which server it is."""
    return request.config.getoption("--server") or "prosody"


@pytest.fixture
def new_server(make: str) -> Iterator[NewServer]:
    """Start further servers; without one the test fails, it does not skip."""
    with contextlib.ExitStack() as running:

        def new(**options: Any) -> Server:
            return running.enter_context(SERVERS[make](**options))

        yield new


@pytest.fixture(scope="session")
def _processes() -> Iterator[dict[str, Server]]:
    """One of each kind that was wanted, for all tests."""
    started: dict[str, Server] = {}
    yield started
    for each in started.values():
        each.close()


@pytest.fixture(scope="session")
def server_process(make: str, _processes: dict[str, Server]) -> Server:
    """One server for all tests; without it they fail, they do not skip."""
    if make not in _processes:
        _processes[make] = SERVERS[make]()
    return _processes[make].start()


@pytest.fixture
def server(server_process: Server) -> Iterator[Server]:
    """The server, running and doing no harm to any message."""
    yield server_process.start()
    if server_process.running:
        server_process.interfere()
        server_process.discard()


@pytest.fixture(scope="session")
def prosody_process(server_process: Server) -> Server:
    """The server by the name that it had when it was always a Prosody."""
    return server_process


@pytest.fixture
def prosody(server: Server) -> Server:
    """The server by the name that it had when it was always a Prosody."""
    return server


@pytest.fixture
def account(server: Server) -> Callable[[str], Account]:
    """Make an account whose JID no other test has."""

    def new(name: str) -> Account:
        return server.register(f"{name}-{next(_numbers)}")

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
async def wire(server: Server) -> AsyncIterator[Wire]:
    """The recorded wire in front of the server."""
    async with Wire(server.port) as between:
        yield between
