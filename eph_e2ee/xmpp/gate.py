"""OMEMO operations, one at a time.

python-omemo is not re-entrant: once its storage really waits, concurrent encrypts share one message
key and concurrent decrypts roll the ratchet back (F43). So every operation runs alone, under one
lock, and in three steps:

1. under the lock: load, compute, store; no network. What would have to be downloaded ends the
   operation, is fetched without the lock, and the operation starts again;
2. commit: what was stored becomes durable, together with the caller's own rows;
3. only then: what python-omemo wanted to send or publish meanwhile goes out, the newest last.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import omemo
from omemo.storage import Storage

from eph_e2ee.errors import EphemeralError, RemoteProtocolError
from eph_e2ee.xmpp.downloads import Downloads
from eph_e2ee.xmpp.gathered import Gathered
from eph_e2ee.xmpp.together import together
from eph_e2ee.xmpp.uploads import Name, Uploads

__all__ = ["Absent", "Gate", "Pending", "Transactional", "Unit"]

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Result = TypeVar("Result")
Work = Callable[[Any], Any]

MAXIMUM_FETCHES = 256
"""Rounds of downloads for one operation. Whoever needs more is publishing devices to slow us down;
what is known to be needed together is one round."""


@runtime_checkable
class Transactional(Protocol):
    """A storage that gathers what is stored and writes it in one commit."""

    @property
    def lost(self) -> bool:
        """Whether the last commit has failed, so that nothing more can be built on it."""

    def commit_with(self, work: Work | None) -> Awaitable[Any]:
        """Queue everything pending, and `work` with it, for one commit; await it for its result."""

    def discard(self) -> None:
        """Forget what is pending."""

    def savepoint(self) -> object:
        """What is pending now, to `restore` it."""

    def restore(self, savepoint: Any) -> None:
        """Forget what has been stored since a savepoint."""

    def forget_cached(self) -> None:
        """Read everything again: a commit has failed."""


class Absent(Exception):
    """Something has to be downloaded before the operation can go on; `wanted` names all of it."""

    def __init__(self, wanted: Mapping[Name, Callable[[], Awaitable[Any]]]) -> None:
        super().__init__()
        self.wanted = wanted


Leaving = dict[Name, Callable[[], Awaitable[None]]]
"""What waits for a commit, by a name under which the newest alone counts."""


@dataclass(slots=True)
class Unit:
    """One operation under the lock: what it fetched, and what may leave after its commit.

    Attributes:
        number: which one it is in the order in which the lock is held.
    """

    number: int = 0
    fetched: dict[Name, object] = field(default_factory=dict)
    messages: Leaving = field(default_factory=dict)
    uploads: Leaving = field(default_factory=dict)


@dataclass(slots=True)
class Pending(Generic[Value, Result]):
    """An operation that is queued for its commit, in the order in which the lock was held.

    Attributes:
        value: what the operation returned.
    """

    value: Value = field(repr=False)
    _written: Awaitable[Result] = field(repr=False)
    _unit: Unit = field(repr=False)
    _uploads: Uploads = field(repr=False)
    _forget: Callable[[], Awaitable[None]] = field(repr=False)

    async def finish(self) -> Result:
        """Wait for the commit, then send the messages that waited for it.

        Raises:
            VaultError: nothing was committed and nothing has left; the operation can be repeated.
        """
        try:
            result = await self._written
        except EphemeralError:
            await self._forget()
            raise
        for send in self._unit.messages.values():
            # One that does not leave is a message that the peer skips; ours is open and stored.
            if isinstance(outcome := await _outcome(send), omemo.OMEMOException):
                log.warning("an empty message was not sent: %s", type(outcome).__name__)
        return result

    async def publish(self) -> None:
        """Upload the bundles and device lists that waited for the commit, or newer ones.

        Canceling it is safe: see `uploads.Uploads`.

        Raises:
            OMEMOException: the first failure, after all were tried; the next start mends it.
        """
        await self._uploads.publish(self._unit.number, self._unit.uploads)


class Gate:
    """The one lock of a session manager, re-entrant within a task.

    Attributes:
        storage: where operations load and store; what belongs to them, and nobody else, is kept
            there.
        downloads: what later operations need not download again.
    """

    def __init__(self, storage: Storage) -> None:
        kept = storage if isinstance(storage, Transactional) else Gathered(storage)
        self.storage: Storage = kept
        self._commits: Transactional = kept
        self.downloads = Downloads()
        self._uploads = Uploads()
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._unit: Unit | None = None

    @property
    def unit(self) -> Unit | None:
        """The operation that this task runs under the lock, if it does."""
        return self._unit if self._owner is asyncio.current_task() else None

    async def begin(
        self,
        operation: Callable[[], Awaitable[Value]],
        work: Callable[[Value], Work] | None = None,
    ) -> Pending[Value, Any]:
        """Run `operation` alone and queue its commit; `work(value)` is written with it.

        Canceling it is safe: what was stored is discarded unless the commit has been queued.

        Raises:
            Exception: whatever `operation` raises, after everything it stored was discarded.
        """
        unit = Unit()
        for _ in range(MAXIMUM_FETCHES):
            try:
                async with self._held(unit):
                    value = await operation()
                    written = self._commit(unit, None if work is None else work(value))
                    return Pending(value, written, unit, self._uploads, self._forget)
            except Absent as absent:
                unit.fetched.update(await _fetched(absent))
        raise omemo.OMEMOException("more device lists and bundles than one operation may fetch")

    async def begin_many(
        self,
        operations: Sequence[Callable[[], Awaitable[Value]]],
        work: Callable[[list[Value | RemoteProtocolError]], Work],
    ) -> Pending[list[Value | RemoteProtocolError], Any]:
        """Run the first operations, each for itself, and queue one commit for all of them.

        One that a peer's bytes make fail takes no other along. It ends before one that has to wait
        for a download, unless that is the first: call it again with the rest.

        Raises:
            Exception: whatever else one of them raises, after everything was discarded.
        """

        async def together() -> list[Value | RemoteProtocolError]:
            outcomes: list[Value | RemoteProtocolError] = []
            for operation in operations:
                try:
                    outcomes.append(await self._attempt(operation))
                except RemoteProtocolError as error:
                    outcomes.append(error)
                except Absent:
                    if not outcomes:
                        raise
                    break
            return outcomes

        return await self.begin(together, work)

    def _commit(self, unit: Unit, work: Work | None) -> Awaitable[Any]:
        """Queue the commit of an operation.

        In a vault all wait for what came before, since a commit that fails takes back what they may
        have read. An application's storage takes nothing back: who only reads waits for nothing.
        """
        commits = self._commits
        changes = work is not None or unit.messages or unit.uploads
        if isinstance(commits, Gathered) and not commits.pending and not changes:
            return commits.try_again()
        return commits.commit_with(work)

    async def _attempt(self, operation: Callable[[], Awaitable[Value]]) -> Value:
        """Run a part of an operation; what it stored before it raised is forgotten."""
        unit, storage = self._unit, self._commits
        if unit is None:
            return await operation()
        savepoint, messages, uploads = storage.savepoint(), dict(unit.messages), dict(unit.uploads)
        try:
            return await operation()
        except BaseException:
            storage.restore(savepoint)
            unit.messages, unit.uploads = messages, uploads
            raise

    async def run(self, operation: Callable[[], Awaitable[Value]]) -> Value:
        """Run `operation` alone, commit, and let out what waited; within itself, just run it."""
        if self.unit is not None:
            return await operation()
        pending = await self.begin(operation)
        await pending.finish()
        await pending.publish()
        return pending.value

    @asynccontextmanager
    async def _held(self, unit: Unit) -> AsyncIterator[None]:
        async with self._lock:
            self._owner, self._unit = asyncio.current_task(), unit
            unit.number = next(self._numbers)
            unit.messages.clear()
            unit.uploads.clear()
            try:
                if self._commits.lost:
                    self._commits.forget_cached()  # whoever waited for that commit has gone
                yield
            except BaseException:
                self._commits.discard()
                raise
            finally:
                self._owner = self._unit = None

    async def _forget(self) -> None:
        """Read everything again, but not while an operation is half done: it would keep half."""
        async with self._lock:
            self._commits.forget_cached()


async def _fetched(absent: Absent) -> dict[Name, object]:
    """What each download gave."""
    fetches = absent.wanted.values()
    outcomes = await together(functools.partial(_outcome, fetch) for fetch in fetches)
    return dict(zip(absent.wanted, outcomes, strict=True))


async def _outcome(fetch: Callable[[], Awaitable[Any]]) -> object:
    """What a download gave, or the exception that it ended with: the operation decides."""
    try:
        return await fetch()
    except omemo.OMEMOException as failure:
        return failure
