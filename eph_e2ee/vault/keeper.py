"""What the worker of a vault does: group commits, and "the one safe order" of forgetting.

1. One transaction: rows changed, and what is to be forgotten written down as intents; commit.
2. Cut the tree; write it as the next generation under a fresh root key; sync.
3. Replace the root key, overwrite the old one; sync. From here the records are gone for good.
4. Drop the intents in the next transaction; scrub the database's files at leisure.

On opening, what was left of this is done before anything can be read.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import URL, bindparam, delete, select

from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import Erasure
from eph_e2ee.vault import resealing
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.database import CLOCK, Database, intents, reported_as
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.keytree import MAXIMUM_NODE
from eph_e2ee.vault.opening import open_files
from eph_e2ee.vault.paths import Cut, LeafCut, Region, unpack_cut
from eph_e2ee.vault.records import CHANGE_META
from eph_e2ee.vault.rootkey import RootKey
from eph_e2ee.vault.shared import Effects, Shared
from eph_e2ee.vault.worker import Job

if TYPE_CHECKING:
    import asyncio

__all__ = ["MAXIMUM_KEY_FILE", "MAXIMUM_NODES", "Keeper"]

LOG = logging.getLogger(__name__)

T = TypeVar("T")

CLOCK_SECONDS: Final = 1.0
"""How far the clock moves before a commit writes it down again."""

MANY_NODES: Final = 8192
"""Nodes of the key tree from which on a region is sealed anew, at leisure: some 400 kB, which each
erasure writes."""

MAXIMUM_NODES: Final = 16_384
"""Nodes that a key file never has more of: whoever forgets very much here and there at once waits
until what is left has been sealed anew."""

MAXIMUM_KEY_FILE: Final = MAXIMUM_NODES * MAXIMUM_NODE + 8192
"""Bytes that each slot of the key file has at most: 776 KiB of nodes, and what goes with them."""

READ_INTENTS = select(intents).where(intents.c.id > bindparam("after")).order_by(intents.c.id)
DROP_INTENTS = delete(intents).where(intents.c.id <= bindparam("last"))


class Keeper:
    """An open vault as its worker sees it: all methods belong on that thread.

    Attributes:
        unsettled: whether a commit has left something to forget.
        crowded: the region that is to be sealed anew, if one is.
        earliest: the first deadline of all messages that are not tombstones yet.
        damaged: the numbers of the messages that did not open.
        cut_until: everything with a deadline up to this has been forgotten.
        listener: what is told of changes, and on which event loop.
        closed_with: what became of the last erasures.
        held: what is closed at the end.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._database: Database
        self._shared: Shared
        self._settled = 0
        self._dropped = 0
        self._clock_written = 0.0
        self._doubted = True
        self._interrupted = False
        self._moved_to = dict.fromkeys(Region, 0)
        self.held = ExitStack()
        self.unsettled = False
        self.crowded: Region | None = None
        self.earliest: int | None = None
        self.damaged: frozenset[int] = frozenset()
        self.cut_until = 0
        self.listener: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None
        self.closed_with = Erasure.PENDING

    @property
    def database(self) -> Database:
        """The open vault's database."""
        return self._database

    @property
    def keys(self) -> Keys:
        """The open vault's keys."""
        return self._shared.keys

    def serve(self, group: list[Job[Any]]) -> None:
        """Run the jobs of a group, which share a transaction, or one that runs alone."""
        if not group[0].alone:
            self._commit(group)
            return
        try:
            group[0].succeed(group[0].work())
        except BaseException as error:  # noqa: BLE001  whoever asked for it hears of it
            group[0].fail(reported_as(error))

    def start(self, path: Path, root_key: RootKey, database: str | URL | None) -> None:
        """Open the files, and finish what an earlier run has left to forget."""
        files = open_files(path, root_key, self._clock, self.held, database)
        self._database, keys = files
        with self._database.connection.begin():
            self._shared = Shared(self._database, keys, self._clock)
        self.unsettled = self._shared.next_intent > 1
        self.crowded = self._shared.epochs.unfinished()
        self._interrupted = self._database.interrupted
        self._transact(Transaction.start_unsent)
        self.expire()
        if self._clock.doubted:
            with self._database.connection.begin():
                self._keep_house()

    def finish(self) -> None:
        """Settle and close; what the disk refuses now is done at the next opening."""
        try:
            if self._interrupted:
                self._begin_all()
            self.closed_with = self.settle()
            with self._database.connection.begin():
                self._keep_house()
            self.scrub()
            self._database.release()
        except Exception as error:  # noqa: BLE001  any database's: the next opening does the rest
            told = reported_as(error)
            LOG.warning("the vault could not be settled at its end: %s", type(told).__name__)
        finally:
            self.held.close()

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
                effects.deadlines |= self._shared.refresh()
                for job in group:
                    self._attempt(job, effects)
                if effects.changed:
                    self._keep_house()
                if effects.deadlines:
                    earliest = Transaction(self._shared).earliest_deadline()
        except BaseException as error:  # noqa: BLE001  every job hears of it; the worker goes on
            self._shared.undone()
            self._shared.doubtful = True
            for job in group:
                job.fail(reported_as(error))
            effects.end(committed=False)
            self._clock_written, self._doubted = 0.0, True
            self.unsettled |= effects.intents
            if effects.sealed and not self._interrupted:
                self._interrupted = True
                self._tell()
            return
        self._shared.committed(effects)
        self.damaged |= effects.damaged
        if effects.changed:
            self._dropped = self._settled
        if effects.deadlines:
            effects.deadlines, self.earliest = earliest != self.earliest, earliest
        self.unsettled |= effects.intents
        effects.end(committed=True)
        if effects.intents or effects.deadlines:
            self._tell()

    def _attempt(self, job: Job[Any], effects: Effects) -> None:
        execute, transaction = self._database.execute_plain, Transaction(self._shared)
        number, sequence = self._shared.next_number, self._shared.next_sequence
        execute("SAVEPOINT work")
        try:
            job.succeed(job.work(transaction))
        except BaseException as error:  # noqa: BLE001  whoever asked for it hears of it
            job.fail(reported_as(error))
            self._shared.undone()
            transaction.effects.end(committed=False)
            lost = transaction.effects.sealed
            effects.sealed += lost
            # A full disk may have ended the whole transaction: then this raises, and all fail.
            execute("ROLLBACK TO SAVEPOINT work")
            first = dict.fromkeys(Region, number) | {Region.RATCHET: sequence}
            fresh = [leaf for leaf in lost if leaf.sequence >= first[leaf.region]]
            # Others may be given out again, to the same messages: they cannot be cut one by one.
            self._interrupted |= len(fresh) < len(lost)
            self._shared.orphans += fresh
            effects.intents |= bool(lost)
        else:
            effects.include(transaction.effects)
        execute("RELEASE SAVEPOINT work")

    def _keep_house(self) -> None:
        """Write what goes along with any commit that writes: settled intents out, the time in."""
        connection = self._database.connection
        if self._settled > self._dropped:
            connection.execute(DROP_INTENTS, {"last": self._settled})
        reading = self._clock.reading()
        doubted = reading.doubt is not None
        # Without a doubt that stands, or with one that is refuted, the next opening would err.
        if doubted or self._doubted or reading.now - self._clock_written >= CLOCK_SECONDS:
            connection.execute(CHANGE_META, {"of": CLOCK, "new_value": reading.to_json()})
            self._clock_written, self._doubted = reading.now, doubted

    def settle(self) -> Erasure:
        """Do steps 2 and 3 for whatever commits have left to forget."""
        last, keys = self._cut(), self._shared.keys
        while (region := keys.crowded(MAXIMUM_NODES)) is not None:
            while self._reseal_region(region):
                pass
            last = self._cut()
        if last > self._settled or self._shared.orphans:
            keys.write()
            self._settled = last
            self._shared.orphans.clear()
        self.unsettled = False
        if self.crowded is None:
            self.crowded = keys.crowded(MANY_NODES)
        return Erasure.DESTROYED

    def _cut(self) -> int:
        """Cut what is to be forgotten, in memory; return the last intent that belongs to it."""
        with self._database.connection.begin():
            rows = self._database.connection.execute(READ_INTENTS, {"after": self._settled}).all()
        self._shared.keys.cut(_cuts(rows))
        self._shared.doomed.clear()
        self._shared.keys.cut(map(LeafCut, self._shared.orphans))
        return rows[-1].id if rows else self._settled

    @property
    def must_reseal(self) -> bool:
        """Whether `reseal` has anything to do."""
        return self._interrupted or self.crowded is not None

    def reseal(self) -> bool:
        """Do one step of sealing regions anew; return whether there is more to do."""
        if self._interrupted:
            self._begin_all()
        elif self.crowded is not None and self._reseal_region(self.crowded):
            return True
        self.crowded = self._shared.epochs.unfinished()
        return self.crowded is not None

    def _begin_all(self) -> None:
        self._transact(resealing.begin_all)
        # What has moved already is in an epoch that is to be given up as well.
        self._moved_to = dict.fromkeys(Region, 0)
        self._interrupted = False

    def _reseal_region(self, region: Region) -> bool:
        """Do one step of sealing a region anew; return whether there is more to do."""

        def work(transaction: Transaction) -> int | None:
            if not resealing.is_begun(transaction, region):
                resealing.begin(transaction, region)
                return None if region is Region.RATCHET else 0
            after = self._moved_to[region]
            reached = resealing.move(transaction, region, after, resealing.BATCH)
            if reached is None:
                resealing.finish(transaction, region)
            return reached

        reached = self._transact(work)
        self._moved_to[region] = reached or 0
        return reached is not None

    def change_root_key(self, new: RootKey) -> None:
        """Settle, and keep the root key in another place from now on."""
        self.settle()
        self._shared.keys.change_root_key(new)

    def expire(self) -> Erasure:
        """Do steps 1 to 3 for everything that is due."""
        now = int(self._clock.now())

        def work(transaction: Transaction) -> None:
            transaction.effects.deadlines = True
            transaction.intend_until(now)

        self._transact(work)
        self.cut_until = now
        return self.settle()

    def scrub(self) -> bool:
        """Empty the database's log; False when that is not possible, or not now."""
        emptied = self._database.scrub()
        if not emptied and self._database.scrubs:
            LOG.warning("another program reads the vault's database: its log was not emptied")
        return emptied

    def compact(self) -> None:
        """Write the whole database anew, without what was deleted; it takes its time.

        Raises:
            VaultUnavailable: the database refuses.
        """
        self._database.compact()

    def _tell(self) -> None:
        if self.listener is None:
            return
        loop, listener = self.listener
        try:
            loop.call_soon_threadsafe(listener)
        except RuntimeError:
            # The loop has been closed: nobody listens any more.
            self.listener = None


def _cuts(rows: Any) -> list[Cut]:
    """Return the intents of some rows; one that cannot be read does not stop the others."""
    cuts = []
    for row in rows:
        try:
            cuts.append(unpack_cut(row.cut))
        except VaultDamaged:
            LOG.warning("intent %d of the vault cannot be read", row.id)
    return cuts
