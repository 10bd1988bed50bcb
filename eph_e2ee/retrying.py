"""When messages are opened again whose senders' keys could not be asked for.

Our stream hangs, or a distant server is slow: most of that is over within minutes.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Final

from eph_e2ee.errors import EphemeralError
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.downloads import FRESH
from eph_e2ee.xmpp.redaction import contained

__all__ = ["GIVEN_UP", "Retrying"]

FIRST: Final = FRESH
"""Seconds until the first attempt, doubled with each: before that nobody is asked again."""

LONGEST: Final = 3600.0
"""Seconds between two attempts, at most."""

GIVEN_UP: Final = 7 * 86_400.0
"""Seconds for which the keys for a message are asked for: a server that is away for longer may not
come back."""

MAXIMUM: Final = 1024
"""Accounts that are tried at times of their own; what more have sent waits for the next process."""


class Retrying:
    """Knows whose messages wait for keys, and tries them again and again while `run` runs.

    Args:
        account: tells whose keys could not be asked for.
        retry: opens what waits of an account, and has `account` tell if that was in vain.
    """

    def __init__(self, account: Account, retry: Callable[[BareJid], Awaitable[None]]) -> None:
        self._later = account.later
        self._retry = retry
        self._pauses: dict[BareJid, float] = {}
        self._handles: dict[BareJid, asyncio.TimerHandle] = {}
        self._due: dict[BareJid, None] = {}
        self._woken = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        account.on_unreachable = self.missed

    def missed(self, sender: BareJid) -> None:
        """The keys of an account could not be asked for: they are, some time later."""
        if sender in self._handles or len(self._handles) >= MAXIMUM:
            return
        pause = self._pauses.get(sender, FIRST)
        self._pauses[sender] = min(2 * pause, LONGEST)
        self._handles[sender] = self._later(pause, functools.partial(self._is_due, sender))

    def begin(self, reading: asyncio.Task[None] | None) -> None:
        """A session has begun, and the one before may have been what was wrong: try all again.

        Args:
            reading: what reads the archive of the session; nothing is tried before its end.
        """
        self._reading = reading
        self._pauses.clear()
        for sender in list(self._handles):
            self._is_due(sender)

    async def run(self) -> None:
        """Try whatever is due, one account after the other, until this is canceled."""
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                while self._due:
                    sender = next(iter(self._due))
                    del self._due[sender]
                    await self._tried(sender)
        finally:
            for handle in self._handles.values():
                handle.cancel()

    def _is_due(self, sender: BareJid) -> None:
        self._handles.pop(sender).cancel()
        self._due[sender] = None
        self._woken.set()

    @contained
    async def _tried(self, sender: BareJid) -> None:
        while self._reading is not None and not self._reading.done():
            await asyncio.wait({self._reading})
        try:
            await self._retry(sender)
        except EphemeralError:
            self.missed(sender)
        if sender not in self._handles:
            self._pauses.pop(sender, None)
