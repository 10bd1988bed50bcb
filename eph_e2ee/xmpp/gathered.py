"""An application's storage for python-omemo, with what it lacks: commits.

python-omemo stores a step value by value. A step that ends in the middle, since a message does not
open or somebody cancels it, would leave half of itself behind, and a ratchet that goes back by that
uses a key twice. Here its values are gathered, and written once it is whole: those that have
changed, which are two of twelve for a message.

A process that is killed while it writes can leave half a step all the same: that is for the storage
to prevent.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from omemo.storage import Just, Maybe, Nothing, Storage, StorageException
from omemo.types import JSONType

from eph_e2ee.errors import VaultError
from eph_e2ee.xmpp.fronting import Front

__all__ = ["Gathered", "is_of_storage"]

Value = TypeVar("Value")

NOTE: Final = "raised by the storage that the application has given to OMEMO"
"""On whatever it raises: storages have exceptions of their own, for which no peer is to blame."""


class _Change(Protocol):
    """What becomes of a value, in the way in which it was stored."""

    def seen(self) -> Maybe[JSONType]:
        """The value as `load` gives it."""

    async def write(self, kept: Storage, key: str) -> None:
        """Write it, if it is not there already."""


@dataclass(frozen=True, slots=True)
class _Value:
    value: JSONType = field(repr=False)

    def seen(self) -> Maybe[JSONType]:
        return Just(self.value)

    async def write(self, kept: Storage, key: str) -> None:
        known = await kept.load(key)
        if known.is_nothing or known.from_just() != self.value:
            await kept.store(key, self.value)


@dataclass(frozen=True, slots=True)
class _Bytes:
    value: bytes = field(repr=False)

    def seen(self) -> Maybe[JSONType]:
        return Just(base64.urlsafe_b64encode(self.value).decode("ascii"))

    async def write(self, kept: Storage, key: str) -> None:
        if (await kept.load_bytes(key)).maybe(None) != self.value:
            await kept.store_bytes(key, self.value)


@dataclass(frozen=True, slots=True)
class _Gone:
    def seen(self) -> Maybe[JSONType]:
        return Nothing()

    async def write(self, kept: Storage, key: str) -> None:
        await kept.delete(key)


class Gathered(Front):
    """A storage that gathers what is stored: see `gate.Transactional`.

    What the other storage refuses stays here, is loaded from here, and is written with the next
    commit: the steps that follow are built on it.

    Args:
        kept: where everything ends; asked for what is not here.
    """

    def __init__(self, kept: Storage) -> None:
        super().__init__(kept)
        self._pending: dict[str, _Change] = {}
        self._leaving: dict[str, _Change] = {}
        self._lock = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Gathered: {len(self._pending)} pending, {len(self._leaving)} leaving>"

    @property
    def pending(self) -> bool:
        """Whether anything has been stored or deleted since the last commit."""
        return bool(self._pending)

    @property
    def lost(self) -> bool:
        """Nothing is: what was refused is still to be written."""
        return False

    def commit_with(self, work: Callable[[Any], Any] | None = None) -> Awaitable[None]:
        """Queue everything pending for writing; await it for the outcome. Canceling that is safe.

        Raises, when awaited:
            Exception: whatever the other storage raises.

        Raises:
            TypeError: there is `work`, which only a vault can do in the same transaction.
        """
        if work is not None:
            raise TypeError("this storage writes nothing beside its values")
        # Behind what has been refused, in the order in which it was stored.
        for key in self._pending:
            self._leaving.pop(key, None)
        self._leaving |= self._pending
        self._pending = {}
        return asyncio.shield(self._written_soon())

    def try_again(self) -> Awaitable[None]:
        """Have what was refused written, for an operation that waits for none of it."""
        if self._leaving and not self._writing:
            self._written_soon()
        nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def discard(self) -> None:
        """Forget what is pending: the step that stored it has failed."""
        self._pending = {}

    def savepoint(self) -> object:
        """What is pending now, to `restore` it."""
        return dict(self._pending)

    def restore(self, savepoint: Any) -> None:
        """Forget what has been stored since a savepoint."""
        self._pending = savepoint

    def forget_cached(self) -> None:
        """Nothing is cached."""

    async def store_bytes(self, key: str, value: bytes) -> None:
        """Store bytes, which end as bytes."""
        self._put(key, _Bytes(value))

    async def _write(self) -> None:
        async with self._lock:
            for key, change in list(self._leaving.items()):
                await self._answer(change.write(self._behind, key))
                if self._leaving.get(key) is change:  # and no newer one
                    del self._leaving[key]

    def _written_soon(self) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._write())
        self._writing.add(task)
        task.add_done_callback(self._written)
        return task

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it hears of it, if anybody does

    async def _answer(self, asked: Awaitable[Value]) -> Value:
        try:
            return await asked
        except Exception as error:  # whatever it is, it is told of as the storage's
            if not is_of_storage(error):
                error.add_note(NOTE)
            raise

    def _holds(self, key: str) -> bool:
        return key in self._pending or key in self._leaving

    async def _load(self, key: str) -> Maybe[JSONType]:
        for changes in (self._pending, self._leaving):
            if key in changes:
                return changes[key].seen()
        return await super()._load(key)

    async def _store(self, key: str, value: JSONType) -> None:
        self._put(key, _Value(deepcopy(value)))

    async def _delete(self, key: str) -> None:
        self._put(key, _Gone())

    def _put(self, key: str, change: _Change) -> None:
        self._pending.pop(key, None)
        self._pending[key] = change


def is_of_storage(error: Exception) -> bool:
    """Tell whether the storage has failed, and not a peer or the network."""
    known = isinstance(error, StorageException | VaultError)
    return known or NOTE in getattr(error, "__notes__", ())
