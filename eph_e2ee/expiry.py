"""The end: deadline, erase, tombstone, event. The only code that waits on a clock.

It needs no network (F37), and no message stops it (F38): what is due is cut in one step, whatever
its rows hold. Only a leap of the wall clock that `clock.py` holds back waits for the server's word.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from eph_e2ee.clock import MAXIMUM_NAP, Clock
from eph_e2ee.errors import VaultClosed, VaultError
from eph_e2ee.events import Expired
from eph_e2ee.model import Erasure
from eph_e2ee.vault.vault import Vault

__all__ = ["Expiry"]

log = logging.getLogger(__name__)

GATHER: Final = 1.0
"""Seconds for which erasures may be gathered: a burst costs one replacement of the root key."""

RETRY: Final = 5.0
"""Seconds until a disk that refused is tried again. Nothing due is shown in the meantime."""

ASK_AGAIN: Final = 60.0
"""Seconds until a server that did not settle a doubt of the clock is asked again."""


class Gathering(Protocol):
    """Something that is written down at leisure: timers of what has left, say."""

    on_gathered: Callable[[], None]

    @property
    def has_unnoted(self) -> bool:
        """Whether there is anything."""

    async def note(self) -> None:
        """Write it down.

        Raises:
            VaultError: it stays, for the next time.
        """


class TimeServer(Protocol):
    """Somebody else's clock."""

    on_session: Callable[[], None]

    async def server_time(self) -> float | None:
        """Return its time in seconds since the epoch; None when it gives none."""


class Expiry:
    """Owns the tasks that forget and that have the clock's doubts settled."""

    def __init__(
        self,
        vault: Vault,
        gathering: Sequence[Gathering],
        clock: Clock,
        tell: Callable[[Expired], None],
        server: TimeServer,
    ) -> None:
        self._vault = vault
        self._gathering = gathering
        self._clock = clock
        self._tell = tell
        self._server = server
        self._woken = asyncio.Event()
        self._session = asyncio.Event()
        self._gathered_at: float | None = None

    async def run(self) -> None:
        """Forget what is due, whenever it is; until it is cancelled."""
        self._vault.on_change = self._woken.set
        for each in self._gathering:
            each.on_gathered = self._woken.set
        self._server.on_session = self._session.set
        async with asyncio.TaskGroup() as tasks:
            settling = tasks.create_task(self._settle_doubts())
            await self._forget()
            settling.cancel()

    async def _forget(self) -> None:
        """Forget what is due, whenever it is, until the vault is closed."""
        while True:
            self._woken.clear()
            try:
                until = await self._pass()
            except VaultClosed:
                return
            except Exception as error:  # noqa: BLE001 -- whatever it is, forgetting must go on
                log.warning("the vault could not forget yet: %s", type(error).__name__)
                until = self._clock.now() + RETRY
            await self._clock.wait(self._woken, until)

    async def settle(self) -> Erasure:
        """Destroy the keys of everything that was erased, now.

        Returns:
            `PENDING` when the disk refused: `run` tries again.
        """
        try:
            return await self._vault.settle()
        except VaultError as error:
            log.warning("the vault could not forget yet: %s", type(error).__name__)
            return Erasure.PENDING

    async def note(self) -> None:
        """Note what was gathered, now; the next opening does what the disk refuses."""
        try:
            await self._note()
        except VaultError as error:
            log.warning("the vault could not be written: %s", type(error).__name__)

    async def _note(self) -> None:
        for each in self._gathering:
            await each.note()

    async def _settle_doubts(self) -> None:
        """Ask the server whenever a session begins, or a doubt arises during one."""
        while True:
            self._session.clear()
            if self._clock.doubted:
                await self._ask()
            again = ASK_AGAIN if self._clock.doubted else MAXIMUM_NAP
            await self._clock.wait(self._session, self._clock.now() + again)

    async def _ask(self) -> None:
        """Have the server's time decide on a leap that is held back, and forget what is due."""
        try:
            time = await self._server.server_time()
        except Exception as error:  # noqa: BLE001 -- whatever it is, forgetting must go on
            log.warning("the server could not be asked for its time: %s", type(error).__name__)
            return
        if time is not None:
            self._clock.witness(time)
            self._woken.set()

    async def _pass(self) -> float | None:
        """Do what is due; when to look again, None for when something changes."""
        if self._is_due(self._vault.earliest_deadline()):
            await self._expire()
        if self._vault.unsettled or any(each.has_unnoted for each in self._gathering):
            if self._gathered_at is None:
                self._gathered_at = self._clock.now() + GATHER
            elif self._is_due(self._gathered_at):
                self._gathered_at = None
                try:
                    await self._note()
                finally:  # erasures wait for nothing that cannot be written
                    await self._vault.settle()
        else:
            self._gathered_at = None
        if self._vault.must_reseal:
            await self._vault.reseal()
            return self._clock.now()  # there may be more of it, and what is due comes first
        moments = (self._vault.earliest_deadline(), self._gathered_at)
        return min((moment for moment in moments if moment is not None), default=None)

    async def _expire(self) -> None:
        """Cut first, for all of them at once; rows and events afterwards, in batches."""
        await self._vault.expire_due()
        while (swept := await self._vault.sweep()).rows:
            for gone in swept.gone:
                self._tell(Expired(gone.number, gone.conversation, gone.direction))
        await self._vault.scrub()

    def _is_due(self, moment: float | None) -> bool:
        return moment is not None and self._clock.now() >= moment
