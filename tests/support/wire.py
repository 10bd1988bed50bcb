"""The wire between clients and the server: it records every byte, cuts, pauses and rewrites.

A test, or the demo, connects clients to `Wire.address` instead of the server's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final, Self

from tests.support.port import HOST, Port

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Direction", "Wire"]

CHUNK: Final = 65536
WAIT_SECONDS: Final = 60.0
"""How long `Direction.until` waits for bytes; on loopback they take milliseconds."""

ABORT_NOW: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends a reset, as a broken connection would."""


class Direction:
    """One way of the wire, over all of its connections: from the clients, or to them."""

    def __init__(self) -> None:
        self._record = bytearray()
        self._grown = asyncio.Event()
        self._old = b""
        self._new = b""

    @property
    def record(self) -> bytes:
        """Every byte as its sender sent it, before any rewriting."""
        return bytes(self._record)

    def replace(self, old: bytes, new: bytes) -> None:
        """From now on put `new` in the place of `old`, wherever chunks begin; empty: stop."""
        self._old, self._new = old, new

    async def until(self, expected: bytes, seconds: float = WAIT_SECONDS, *, start: int = 0) -> int:
        """Wait until the record holds bytes at or after `start`; return the place behind them.

        Canceling is safe.

        Raises:
            TimeoutError: they did not come.
        """
        async with asyncio.timeout(seconds):
            while (place := self._record.find(expected, start)) < 0:
                self._grown.clear()
                await self._grown.wait()
        return place + len(expected)

    def _pass(self, held: bytes, chunk: bytes) -> tuple[bytes, bytes]:
        """Record a chunk; return what goes on now, and an end that may begin a replacement."""
        self._record += chunk
        self._grown.set()
        if not self._old:
            return held + chunk, b""
        ready = (held + chunk).replace(self._old, self._new)
        for size in range(min(len(self._old) - 1, len(ready)), 0, -1):
            if ready.endswith(self._old[:size]):
                return ready[:-size], ready[-size:]
        return ready, b""


class Wire:
    """A proxy on a loopback port in front of a server's port; use it in an `async with`.

    Args:
        port: the server's port.

    Attributes:
        from_clients: what clients sent.
        to_clients: what the server sent.
    """

    def __init__(self, port: int) -> None:
        self.from_clients = Direction()
        self.to_clients = Direction()
        self._server_port = port
        self._port: Port | None = None
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._parked: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._port = Port()
        await self.restore()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut everything and stop listening."""
        await self.break_down()
        if self._port is not None:
            self._port.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for clients."""
        return HOST, self._port.number if self._port else 0

    @property
    def record(self) -> bytes:
        """Every byte of both directions, the clients' first."""
        return self.from_clients.record + self.to_clients.record

    async def cut(self) -> None:
        """Break all connections with a reset; new ones are taken at once."""
        self._parked.clear()
        tasks = list(self._connections)
        for writers in self._connections.values():
            for writer in writers:
                _abort(writer)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def break_down(self) -> None:
        """Break all connections and refuse new ones until `restore`."""
        listener, self._listener = self._listener, None
        if listener:
            listener.close()
        await self.cut()
        if listener:
            await listener.wait_closed()

    async def restore(self) -> None:
        """Take connections again, on the same port as before."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._connected, *self.address)

    def pause(self) -> None:
        """Record but hold back all bytes, as a network that lost its way would, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let the held bytes go on."""
        parked, self._parked = self._parked, []
        for target, data in parked:
            target.write(data)
        self._flowing.set()

    def inject_to_clients(self, data: bytes) -> None:
        """Send bytes to every client as if the server had; between stanzas only."""
        for client, *_ in self._connections.values():
            client.write(data)

    def inject_to_server(self, data: bytes) -> None:
        """Send bytes to the server as if each client had; between stanzas only."""
        for _, *servers in self._connections.values():
            for server in servers:
                server.write(data)

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Serve one connection until either end closes it or it is cut."""
        task = asyncio.current_task()
        if task is None:
            return
        writers = self._connections[task] = [client]
        try:
            answers, server = await asyncio.open_connection(HOST, self._server_port)
            writers.append(server)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._forward(reader, server, self.from_clients))
                both_ways.create_task(self._forward(answers, client, self.to_clients))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            # A broken connection is this class's business; its ends learn of it by the reset.
            for writer in writers:
                _abort(writer)
        finally:
            for writer in writers:
                writer.close()
            for writer in writers:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await writer.wait_closed()
            del self._connections[task]

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Pass bytes on in one direction until their end."""
        held = b""
        while chunk := await source.read(CHUNK):
            ready, held = direction._pass(held, chunk)
            if self._flowing.is_set():
                target.write(ready)
                await target.drain()
            else:
                self._parked.append((target, ready))
        await self._flowing.wait()
        target.write(held)
        if target.can_write_eof():
            target.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    link: socket.socket | None = writer.get_extra_info("socket")
    if link is not None and link.fileno() >= 0:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_NOW)
    writer.transport.abort()
