"""The vault: what may be asked of it, from an event loop or without one.

What is asked for is done by one worker thread, in the order of asking: `keeper.py`.
"""

import asyncio
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from sqlalchemy import URL

from eph_e2ee.clock import Clock
from eph_e2ee.model import Erasure
from eph_e2ee.vault.archive import Gone, Transaction
from eph_e2ee.vault.keeper import Keeper
from eph_e2ee.vault.rootkey import FileRootKey, RootKey
from eph_e2ee.vault.worker import Job, Worker

__all__ = ["Swept", "Vault"]

T = TypeVar("T")

SWEEP_ROWS: Final = 4000
"""Rows that one batch of cleaning up takes: some ten milliseconds, after which messages that wait
have their turn."""


@dataclass(frozen=True, slots=True)
class Swept:
    """One batch of cleaning up.

    Attributes:
        rows: how many rows became tombstones; 0 when nothing was left.
        gone: those of them whose conversation can be named.
    """

    rows: int
    gone: tuple[Gone, ...]


class Vault:
    """An open vault; `Vault.open` makes one. Close it: unclosed ones give a ResourceWarning.

    All methods but `open`, `transact_sync` and `close_sync` belong on an event loop. Futures that
    they return can be cancelled at any time: what was asked for is done all the same.
    """

    def __init__(self, clock: Clock) -> None:
        self._closed = False
        self._keeper = Keeper(clock)
        self._worker = Worker(self._keeper.serve, self._keeper.held.close)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        root_key: RootKey | None = None,
        database: str | URL | None = None,
    ) -> Self:
        """Open the vault in a folder, or make one in a folder that is missing or empty.

        Blocks until what was to be forgotten, and everything overdue, has been: a few syncs.

        Args:
            path: the folder; nobody else may enter it.
            clock: it is resumed from what the vault last wrote down.
            root_key: where the root key is; a file in the folder by default.
            database: the address of a PostgreSQL database, `postgresql://user@host/name`, that
                keeps the rows; by default a file in the folder does.

        Raises:
            LocalProtocolError: the address cannot be used, or the vault's database is elsewhere.
            VaultInUse: another process, or another part of this one, has it open.
            VaultDamaged, VaultForeign, VaultTooNew, WrongRootKey: as their names say. No file has
                been changed.
            VaultUnavailable: the disk refuses, or others can enter the folder.
        """
        vault = cls(clock)
        place = FileRootKey(path) if root_key is None else root_key
        try:
            vault._run_alone(lambda: vault._keeper.start(path, place, database))
        except BaseException:
            vault._abandon()
            vault._worker.join()
            raise
        return vault

    # What callers ask for.

    def transact(self, work: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Run `work` on the worker in a transaction; the future resolves after the commit.

        Works run in the order of these calls. Those that wait together share one commit, and the
        failure of one harms no other. `work` must not block on this vault.

        Raises, when awaited:
            VaultUnavailable: the database refused; nothing of the work is done.
            Whatever `work` raises; nothing of the work is done.

        Raises, when called:
            VaultClosed: the vault is closed.
        """
        return self._put(Job(work, alone=False))

    def transact_sync(self, work: Callable[[Transaction], T]) -> T:
        """Do the same for code without an event loop; blocks.

        Raises:
            VaultClosed: the vault is closed.
            VaultUnavailable: the database refused; nothing of the work is done.
        """
        job = Job(work, alone=False)
        future = job.on_thread()
        self._worker.put(job)
        return future.result()

    def run_alone_sync(self, work: Callable[[Keeper], T]) -> T:
        """Run `work` on the worker, outside of any transaction; blocks. For the operator's tools.

        Raises:
            VaultClosed: the vault is closed.
            Whatever `work` raises.
        """
        return self._run_alone(lambda: work(self._keeper))

    def settle(self) -> asyncio.Future[Erasure]:
        """Forget for good whatever commits have left to forget: three syncs for all of it.

        Raises, when awaited:
            VaultError: the disk or the root key's place refused. The intents are kept, the vault
                goes on, and settling can be repeated.
        """
        return self._put(Job(self._keeper.settle, alone=True))

    def expire_due(self) -> asyncio.Future[Erasure]:
        """Forget for good everything whose deadline has come: four syncs for any number.

        The rows stay until `sweep`, unreadable.

        Raises, when awaited:
            VaultError: as for `settle`; nothing overdue is shown in any case.
        """
        return self._put(Job(self._keeper.expire, alone=True))

    def reseal(self) -> asyncio.Future[bool]:
        """Do one step of sealing anew, when the key tree has grown large or a commit was cut short.

        Returns, when awaited:
            Whether there is more to do; `settle` belongs after the last step.

        Raises, when awaited:
            VaultError: as for `settle`.
        """
        return self._put(Job(self._keeper.reseal, alone=True))

    def change_root_key(self, new: RootKey) -> asyncio.Future[None]:
        """Keep the root key in another place from now on; what the old one held opens nothing.

        Raises, when awaited:
            LocalProtocolError: it is the same place, or keeps the root key of another vault;
                nothing was changed.
            VaultError: a place refused. The vault goes on with the one that opens it. When that
                is the old one, call it again; otherwise only destroying the old one has failed.
        """
        return self._put(Job(lambda: self._keeper.change_root_key(new), alone=True))

    def sweep(self, rows: int = SWEEP_ROWS) -> asyncio.Future[Swept]:
        """Make tombstones of one batch of the rows that `expire_due` has made unreadable."""

        def work(transaction: Transaction) -> Swept:
            count, gone = transaction.sweep(self._keeper.cut_until, rows)
            return Swept(count, tuple(gone))

        return self.transact(work)

    def scrub(self) -> asyncio.Future[bool]:
        """Empty the database's log, as a second line.

        False when an open reader stood in the way, and on PostgreSQL, where nobody can promise
        what becomes of old pages.

        Raises, when awaited:
            VaultUnavailable: the disk refuses.
        """
        return self._put(Job(self._keeper.scrub, alone=True))

    async def close(self) -> Erasure:
        """Finish what is queued, settle, and close. Cancelling is safe: closing goes on.

        Returns:
            PENDING when the disk refused to settle; the next opening does it.
        """
        self._closed = True
        job = Job(self._keeper.finish, alone=True)
        future = job.on_loop()
        if self._worker.finish(job):
            await asyncio.shield(future)
        await asyncio.to_thread(self._worker.join)
        return self._keeper.closed_with

    def close_sync(self) -> Erasure:
        """Do the same for code without an event loop; blocks."""
        self._closed = True
        self._worker.finish(Job(self._keeper.finish, alone=True))
        self._worker.join()
        return self._keeper.closed_with

    @property
    def unsettled(self) -> bool:
        """Whether a commit has left something to forget."""
        return self._keeper.unsettled

    @property
    def must_reseal(self) -> bool:
        """Whether `reseal` has anything to do."""
        return self._keeper.must_reseal

    @property
    def damaged(self) -> frozenset[int]:
        """The numbers of the messages that did not open, as far as they were asked for (F38)."""
        return self._keeper.damaged

    def earliest_deadline(self) -> int | None:
        """Return the first deadline of all messages that are not tombstones yet. It is cheap.

        It lies in the past while `sweep` has not come to everything that is due.
        """
        return self._keeper.earliest

    @property
    def on_change(self) -> Callable[[], None] | None:
        """Called on the event loop that set it, when there is more to forget or at another time."""
        return None if self._keeper.listener is None else self._keeper.listener[1]

    @on_change.setter
    def on_change(self, listener: Callable[[], None] | None) -> None:
        loop = None if listener is None else asyncio.get_running_loop()
        self._keeper.listener = None if loop is None or listener is None else (loop, listener)

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn("a vault was never closed", ResourceWarning, source=self, stacklevel=1)
            self._abandon()

    def _abandon(self) -> None:
        self._closed = True
        self._worker.finish(Job(_nothing, alone=True))

    def _put(self, job: Job[T]) -> asyncio.Future[T]:
        future = job.on_loop()
        self._worker.put(job)
        return future

    def _run_alone(self, work: Callable[[], T]) -> T:
        job = Job(work, alone=True)
        future = job.on_thread()
        self._worker.put(job)
        return future.result()


def _nothing() -> None:
    """End the worker of a vault that nobody holds any more."""
