"""Between a program and its server: it counts what the program sends, and kills it at one of them.

A program that is killed there has the statement before it done, and this one not; or it has this
one done, and never hears of it. Counting here goes on through all connections of a program, where
a debugger's count begins anew with each thread.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import subprocess

__all__ = ["Relay"]

HOST: Final = "127.0.0.1"
PIECE: Final = 1 << 20
"""Bytes taken at once: more than a program here sends without waiting for an answer."""

STORING: Final = b"INSERT INTO messages"
"""It stands in full where it is first prepared."""

SECONDS: Final = 60
"""How long nobody may say anything: what a program here does by itself takes no second."""


class Relay:
    """One port of its own in front of a server's. A context manager.

    Args:
        port: the server's.

    Attributes:
        port: where the program is to connect.
        sent: how many times it has sent something.
        inserted: the first of these with the statement that stores messages; 0 for none.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._held = ExitStack()
        self._listener = self._held.enter_context(socket.create_server((HOST, 0)))
        self._client: socket.socket | None = None
        self._server: socket.socket | None = None
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self.inserted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        self._held.close()

    def carry(
        self, process: subprocess.Popen[bytes], at: int = 0, *, answered: bool = False
    ) -> bool:
        """Carry all that a program and the server say, until the program has ended.

        Args:
            process: the program.
            at: kill it when it sends something for this time; 0 for never.
            answered: let the server have that and answer it, which nobody hears any more.

        Returns:
            Whether it was killed.
        """
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                both = [each for each in (self._client, self._server) if each is not None]
                watched: list[socket.socket | int] = [*both, self._listener, ended]
                ready, _, _ = select.select(watched, [], [], SECONDS)
                assert ready, "the program and the server are both silent"
                doomed = answered and 0 < at <= self.sent
                if doomed or self._pass(ready, at if not answered else 0):
                    return True
                if ended in ready and self._client not in ready:
                    return False
        finally:
            process.kill()
            process.wait()
            os.close(ended)
            self._hang_up()

    def _pass(self, ready: list[socket.socket | int], at: int) -> bool:
        """Pass on what there is; return whether the program is to die instead."""
        if self._client is None or self._server is None:
            if self._listener in ready:
                self._client, _ = self._listener.accept()
                self._server = socket.create_connection((HOST, self._server_port))
        elif self._client in ready:
            data = _received(self._client)
            self.sent += bool(data)
            if STORING in data and not self.inserted:
                self.inserted = self.sent
            if data and self.sent == at:
                return True
            self._give(self._server, data)
        elif self._server in ready:
            self._give(self._client, _received(self._server))
        return False

    def _give(self, to: socket.socket, data: bytes) -> None:
        if data:
            to.sendall(data)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        for each in (self._client, self._server):
            if each is not None:
                each.close()
        self._client = self._server = None


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(PIECE)
    except ConnectionResetError:
        return b""
