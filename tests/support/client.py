"""slixmpp clients for the throwaway server, and waiting for what happens to them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, Self

from slixmpp import ClientXMPP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from tests.support.prosody import Account

__all__ = [
    "PLUGINS",
    "SECONDS",
    "ConnectionFailed",
    "Happenings",
    "allow_plaintext",
    "connect",
    "disconnect",
    "new_client",
    "new_context",
    "online",
    "subscribe_mutually",
]

SECONDS: Final = 60.0
"""The limit of every wait here; on loopback each takes milliseconds, on a machine that stands still
for a while as long as that."""

PLUGINS: Final = ("xep_0030", "xep_0199")
"""Service discovery and ping: what every client answers."""

REFUSALS: Final = ("failed_all_auth", "connection_failed")
"""Events that mean that no session will start."""


class ConnectionFailed(Exception):
    """A client got no session."""


class Happenings:
    """The events of some names at a client, in order, from this object's making to its end.

    Unlike a disposable handler, it misses nothing that happens before the wait begins.

    Args:
        client: the client.
        names: of the events.
        wanted: only events whose data it accepts.
    """

    def __init__(
        self, client: ClientXMPP, *names: str, wanted: Callable[[Any], bool] | None = None
    ) -> None:
        self.all: list[Any] = []
        self._client = client
        self._names = names
        self._wanted = wanted
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()
        for name in names:
            client.add_event_handler(name, self._happened)

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self.close()

    async def next(self, seconds: float = SECONDS) -> Any:
        """Return the next event's data, waiting for it; each is returned once.

        Canceling is safe.

        Raises:
            TimeoutError: none came.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._waiting.get()
        except TimeoutError:
            raise TimeoutError(f"no {' or '.join(self._names)} within {seconds} s") from None

    def close(self) -> None:
        """Stop listening; what has come stays in `all`."""
        for name in self._names:
            self._client.del_event_handler(name, self._happened)

    def _happened(self, data: Any) -> None:
        """Keep one event."""
        if self._wanted is None or self._wanted(data):
            self.all.append(data)
            self._waiting.put_nowait(data)


def allow_plaintext(client: ClientXMPP) -> None:
    """Let a client log in without TLS; only ever for the throwaway server on loopback."""
    client.enable_plaintext = True
    client.enable_starttls = False
    client.enable_direct_tls = False
    mechanisms = client.plugin["feature_mechanisms"]
    mechanisms.config["unencrypted_plain"] = True
    mechanisms.config["unencrypted_scram"] = True
    # slixmpp computes SCRAM's ten thousand rounds in Python, on the event loop.
    mechanisms.use_mech = "PLAIN"


def new_context() -> ssl.SSLContext:
    """A context without the system's certificates: to read them takes longer than the login."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def new_client(
    account: Account, *, resource: str = "", plugins: Sequence[str] = PLUGINS
) -> ClientXMPP:
    """Return a client of an account that is ready to `connect`; needs a running event loop."""
    jid = f"{account.jid}/{resource}" if resource else account.jid
    client = ClientXMPP(jid, account.password, ssl_context=new_context())
    allow_plaintext(client)
    for name in plugins:
        client.register_plugin(name)
    return client


async def connect(
    client: ClientXMPP, address: tuple[str, int], *, presence: bool = True, seconds: float = SECONDS
) -> None:
    """Connect and wait until a session has started or, after a cut, been resumed.

    Args:
        client: not connected.
        address: the server's or the wire's host and port.
        presence: fetch the roster and become available once a session starts; messages sent
            to the client from then on are not stored as offline ones.
        seconds: the limit.

    Raises:
        ConnectionFailed: the server refused, or cannot be reached.
        TimeoutError: neither happened in time.
    """
    with (
        Happenings(client, "session_start") as started,
        Happenings(client, "session_resumed") as resumed,
        Happenings(client, *REFUSALS) as refused,
    ):
        attempt = client.connect(*address)
        try:
            await _first_of((started, resumed, refused), seconds)
        except TimeoutError:
            attempt.cancel()
            raise
        if refused.all:
            client.cancel_connection_attempt()
            raise ConnectionFailed(f"no session for {client.boundjid.bare}: {refused.all[0]}")
        if presence and started.all:
            await asyncio.wait_for(client.get_roster(), seconds)
            await _become_available(client, seconds)


async def disconnect(client: ClientXMPP) -> None:
    """Close the stream cleanly and end the tasks that slixmpp leaves running.

    A server that is slow is waited for: slixmpp would break the line after two seconds, and what
    others send then is for somebody who is still there.
    """
    client.cancel_connection_attempt()
    if client.is_connected():
        await client.disconnect(wait=SECONDS)
    sender = client._run_out_filters
    if sender is not None:
        sender.cancel()
        await asyncio.wait([sender])
    for name in list(client.scheduled_events):
        client.cancel_schedule(name)


@contextlib.asynccontextmanager
async def online(client: ClientXMPP, address: tuple[str, int]) -> AsyncIterator[ClientXMPP]:
    """Connect a client for the time of a block."""
    try:
        await connect(client, address)
        yield client
    finally:
        await disconnect(client)


async def subscribe_mutually(one: ClientXMPP, other: ClientXMPP) -> None:
    """Let one client ask the other for its presence; slixmpp accepts and asks back by itself."""
    with (
        Happenings(one, "presence_subscribed") as accepted,
        Happenings(other, "presence_subscribed") as accepted_back,
    ):
        one.send_presence(pto=other.boundjid.bare, ptype="subscribe")
        await accepted.next()
        await accepted_back.next()


async def _become_available(client: ClientXMPP, seconds: float) -> None:
    """Send initial presence and wait until the server reflects it."""

    def is_own(presence: Any) -> bool:
        return bool(presence["from"] == client.boundjid)

    with Happenings(client, "presence_available", wanted=is_own) as reflected:
        client.send_presence()
        await reflected.next(seconds)


async def _first_of(happenings: Sequence[Happenings], seconds: float) -> None:
    """Wait until something has happened in any of them."""
    tasks = [asyncio.ensure_future(each.next(seconds)) for each in happenings]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
