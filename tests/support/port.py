"""A port on loopback that stays ours, also while nobody listens on it."""

from __future__ import annotations

import socket
from typing import Final

__all__ = ["HOST", "Port"]

HOST: Final = "127.0.0.1"


class Port:
    """One port, from its making until `close`; whoever binds it by its number may listen there.

    Between choosing a port and listening on it, and while a server is away, the system would give
    it to whoever wants any. It gives away none that is bound, and lets another socket bind and
    listen beside this one, which does not: every server here has SO_REUSEADDR as well.

    Attributes:
        number: the port's.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((HOST, 0))
        self.number: int = self._holder.getsockname()[1]

    def close(self) -> None:
        """Give it back; nobody listens on it any more."""
        self._holder.close()
