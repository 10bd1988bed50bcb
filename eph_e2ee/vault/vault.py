"""The vault: one worker thread, group commits, and "the one safe order" of forgetting.

1. One transaction: rows changed, and what is to be forgotten written down as intents; commit.
2. Cut the tree; write it as the next generation under a fresh root key; sync.
3. Replace the root key, overwrite the old one; sync. From here the records are gone for good.
4. Drop the intents in the next transaction; scrub the database's files at leisure.

On opening, what was left of this is done before anything can be read.
"""

import asyncio
import logging
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sqlalchemy import bindparam, delete, select
from sqlalchemy.exc import SQLAlchemyError

from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultDamaged, VaultError
from eph_e2ee.model import Erasure
from eph_e2ee.vault.archive import Gone, Transaction
from eph_e2ee.vault.database import Database, intents, reported_as
from eph_e2ee.vault.keytree import Cut, Region, UntilCut, unpack_cut
from eph_e2ee.vault.opening import CLOCK, open_files
from eph_e2ee.vault.records import CHANGE_META, Effects, Shared
from eph_e2ee.vault.rootkey import FileRootKey, RootKey
from eph_e2ee.vault.worker import Job, Worker

__all__ = ["Swept", "Vault"]

LOG = logging.getLogger(__name__)

T = TypeVar("T")

SWEEP_ROWS: Final = 4000
"""Rows that one batch of cleaning up takes: some ten milliseconds, after which messages that wait
have their turn."""

CLOCK_SECONDS: Final = 1.0
"""How far the clock moves before a commit writes it down again."""

READ_INTENTS = select(intents).where(intents.c.id > bindparam("after")).order_by(intents.c.id)
DROP_INTENTS = delete(intents).where(intents.c.id <= bindparam("last"))


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
        self._clock = clock
        self._held = ExitStack()
        self._database: Database
        self._shared: Shared
        self._settled = 0
        self._dropped = 0
        self._cut_until = 0
        self._clock_written = 0.0
        self._unsettled = False
        self._earliest: int | None = None
        self._damaged: frozenset[int] = frozenset()
        self._listener: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None
        self._closed_with = Erasure.PENDING
        self._closed = False
        self._worker = Worker(self._serve, self._held.close)

    @classmethod
    def open(cls, path: Path, *, clock: Clock, root_key: RootKey | None = None) -> Self:
        """Open the vault in a folder, or make one in a folder that is missing or empty.

        Blocks until what was to be forgotten, and everything overdue, has been: a few syncs.

        Args:
            path: the folder; nobody else may enter it.
            clock: it is resumed from what the vault last wrote down.
            root_key: where the root key is; a file in the folder by default.

        Raises:
            VaultInUse: another process, or another part of this one, has it open.
            VaultDamaged, VaultForeign, VaultTooNew, WrongRootKey: as their names say. No file has
                been changed.
            VaultUnavailable: the disk refuses, or others can enter the folder.
        """
        vault = cls(clock)
        place = FileRootKey(path) if root_key is None else root_key
        try:
            vault._run_alone(lambda: vault._start(path, place))
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

    def settle(self) -> asyncio.Future[Erasure]:
        """Forget for good whatever commits have left to forget: three syncs for all of it.

        Raises, when awaited:
            VaultError: the disk or the root key's place refused. The intents are kept, the vault
                goes on, and settling can be repeated.
        """
        return self._put(Job(self._settle, alone=True))

    def expire_due(self) -> asyncio.Future[Erasure]:
        """Forget for good everything whose deadline has come: four syncs for any number.

        The rows stay until `sweep`, unreadable.

        Raises, when awaited:
            VaultError: as for `settle`; nothing overdue is shown in any case.
        """
        return self._put(Job(self._expire, alone=True))

    def sweep(self, rows: int = SWEEP_ROWS) -> asyncio.Future[Swept]:
        """Make tombstones of one batch of the rows that `expire_due` has made unreadable."""

        def work(transaction: Transaction) -> Swept:
            count, gone = transaction.sweep(self._cut_until, rows)
            return Swept(count, tuple(gone))

        return self.transact(work)

    def scrub(self) -> asyncio.Future[bool]:
        """Empty the database's log, as a second line; False when an open reader stood in the way.

        Raises, when awaited:
            VaultUnavailable: the disk refuses.
        """
        return self._put(Job(self._scrub, alone=True))

    async def close(self) -> Erasure:
        """Finish what is queued, settle, and close. Cancelling is safe: closing goes on.

        Returns:
            PENDING when the disk refused to settle; the next opening does it.
        """
        job = Job(self._finish, alone=True)
        future = job.on_loop()
        if self._worker.finish(job):
            await asyncio.shield(future)
        await asyncio.to_thread(self._worker.join)
        return self._closed_with

    def close_sync(self) -> Erasure:
        """Do the same for code without an event loop; blocks."""
        self._worker.finish(Job(self._finish, alone=True))
        self._worker.join()
        return self._closed_with

    @property
    def unsettled(self) -> bool:
        """Whether a commit has left something to forget."""
        return self._unsettled

    @property
    def damaged(self) -> frozenset[int]:
        """The numbers of the messages that did not open, as far as they were asked for (F38)."""
        return self._damaged

    def earliest_deadline(self) -> int | None:
        """Return the first deadline of all messages that are not tombstones yet. It is cheap.

        It lies in the past while `sweep` has not come to everything that is due.
        """
        return self._earliest

    @property
    def on_change(self) -> Callable[[], None] | None:
        """Called on the event loop that set it, when there is more to forget or at another time."""
        return None if self._listener is None else self._listener[1]

    @on_change.setter
    def on_change(self, listener: Callable[[], None] | None) -> None:
        loop = None if listener is None else asyncio.get_running_loop()
        self._listener = None if loop is None or listener is None else (loop, listener)

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

    # What the worker does.

    def _serve(self, group: list[Job[Any]]) -> None:
        if not group[0].alone:
            self._commit(group)
            return
        try:
            group[0].succeed(group[0].work())
        except BaseException as error:  # noqa: BLE001  whoever asked for it hears of it
            group[0].fail(reported_as(error))

    def _start(self, path: Path, root_key: RootKey) -> None:
        self._database, keys = open_files(path, root_key, self._clock, self._held)
        with self._database.connection.begin():
            self._shared = Shared(self._database.connection, keys, self._clock)
        self._unsettled = self._shared.next_intent > 1
        self._transact(Transaction.start_unsent)
        self._expire()

    def _finish(self) -> None:
        """Settle and close; what the disk refuses now is done at the next opening."""
        self._closed = True
        try:
            self._closed_with = self._settle()
            with self._database.connection.begin():
                self._keep_house()
            self._scrub()
        except (VaultError, SQLAlchemyError) as error:
            LOG.warning("the vault could not be settled at its end: %s", type(error).__name__)
        finally:
            self._held.close()

    def _transact(self, work: Callable[[Transaction], T]) -> T:
        """Commit a work of the vault's own, on the worker."""
        job = Job(work, alone=False)
        future = job.on_thread()
        self._commit([job])
        job.deliver()
        return future.result()

    def _commit(self, group: list[Job[Any]]) -> None:
        """Run works in one transaction, each in its savepoint.

        A work that fails is undone alone; when the commit fails, all are.
        """
        effects = Effects()
        try:
            with self._database.connection.begin():
                for job in group:
                    self._attempt(job, effects)
                if effects.changed:
                    self._keep_house()
                if effects.deadlines:
                    earliest = Transaction(self._shared).earliest_deadline()
        except BaseException as error:  # noqa: BLE001  every job hears of it; the worker goes on
            self._shared.undone()
            for job in group:
                job.fail(reported_as(error))
            effects.end(committed=False)
            return
        self._shared.committed(effects)
        self._damaged |= effects.damaged
        if effects.changed:
            self._dropped = self._settled
        if effects.deadlines:
            effects.deadlines, self._earliest = earliest != self._earliest, earliest
        self._unsettled |= effects.intents
        effects.end(committed=True)
        if effects.intents or effects.deadlines:
            self._tell()

    def _attempt(self, job: Job[Any], effects: Effects) -> None:
        # Past SQLAlchemy, which costs more than the savepoint itself.
        driver, transaction = self._database.driver, Transaction(self._shared)
        driver.execute("SAVEPOINT work")
        try:
            job.succeed(job.work(transaction))
        except BaseException as error:  # noqa: BLE001  whoever asked for it hears of it
            job.fail(reported_as(error))
            self._shared.undone()
            transaction.effects.end(committed=False)
            # A full disk may have ended the whole transaction: then this raises, and all fail.
            driver.execute("ROLLBACK TO SAVEPOINT work")
        else:
            effects.include(transaction.effects)
        driver.execute("RELEASE SAVEPOINT work")

    def _keep_house(self) -> None:
        """Write what goes along with any commit that writes: settled intents out, the time in."""
        connection = self._database.connection
        if self._settled > self._dropped:
            connection.execute(DROP_INTENTS, {"last": self._settled})
        reading = self._clock.reading()
        if reading.now - self._clock_written >= CLOCK_SECONDS:
            connection.execute(CHANGE_META, {"of": CLOCK, "new_value": reading.to_json()})
            self._clock_written = reading.now

    def _settle(self) -> Erasure:
        with self._database.connection.begin():
            rows = self._database.connection.execute(READ_INTENTS, {"after": self._settled}).all()
        if rows:
            self._shared.keys.forget(_cuts(rows))
            self._settled = rows[-1].id
        self._unsettled = False
        return Erasure.DESTROYED

    def _expire(self) -> Erasure:
        now = int(self._clock.now())

        def work(transaction: Transaction) -> None:
            transaction.effects.deadlines = True
            if transaction.alive_until(now):
                transaction.intend([UntilCut(Region.EXPIRING, now)])

        self._transact(work)
        self._cut_until = now
        return self._settle()

    def _scrub(self) -> bool:
        emptied = self._database.scrub()
        if not emptied:
            LOG.warning("another program reads the vault's database: its log was not emptied")
        return emptied

    def _tell(self) -> None:
        if self._listener is None:
            return
        loop, listener = self._listener
        try:
            loop.call_soon_threadsafe(listener)
        except RuntimeError:
            # The loop has been closed: nobody listens any more.
            self._listener = None


def _cuts(rows: Any) -> list[Cut]:
    """Return the intents of some rows; one that cannot be read does not stop the others."""
    cuts = []
    for row in rows:
        try:
            cuts.append(unpack_cut(row.cut))
        except VaultDamaged:
            LOG.warning("intent %d of the vault cannot be read", row.id)
    return cuts


def _nothing() -> None:
    """End the worker of a vault that nobody holds any more."""
