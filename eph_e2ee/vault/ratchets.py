"""python-omemo's storage in the vault: live values in memory, one write at the commit.

What is stored waits until a flow takes it along into its own transaction, so that a ratchet and
the message that moved it are committed together or not at all. Values are kept as JSON text and
parsed on demand: python-omemo's own storage copies them deeply on each way in and out.
"""

import asyncio
import enum
import json
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar, cast

from omemo.storage import Maybe, Nothing, Storage
from omemo.types import JSONType

from eph_e2ee.errors import VaultError, VaultUnavailable
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.records import Records
from eph_e2ee.vault.vault import Vault

__all__ = ["ACCOUNTS", "PREFIX", "Changes", "Ratchets", "listed_account"]

T = TypeVar("T")
U = TypeVar("U")

PREFIX: Final = "omemo:"
"""Sets python-omemo's keys apart from other values of the vault."""

ACCOUNTS: Final = "/eph_e2ee/accounts"
"""The key of the accounts with a device list: the vault hashes its keys, and cannot tell."""

_DEVICE_LIST: Final = re.compile(r"/devices/([^/]+)/list")

MAXIMUM_LIVE: Final = 32 * 1024 * 1024
"""Characters kept in memory, keys and values: some thousand sessions, about 5 kB each. A value that
is kept parsed as well takes up to twice its share."""

IMMUTABLE: Final = (str, int, float, bool, bytes, type(None))
"""What everybody can be given the same of."""


_UNKNOWN: Final = object()


class _Stage(enum.Enum):
    """How far changes have come."""

    TAKEN = "taken"
    WRITTEN = "written"
    COMMITTED = "committed"
    LOST = "lost"


class Changes:
    """Values on their way into one transaction.

    Changes build on those taken before them. When earlier ones were lost, later ones must not be
    written: the database would hold half of a ratchet's step.
    """

    def __init__(self, values: dict[str, str | None], previous: "Changes | None") -> None:
        self.values = values
        self._previous = previous
        self._stage = _Stage.TAKEN

    def __repr__(self) -> str:
        return f"<Changes: {len(self.values)} values, {self._stage.value}>"

    @property
    def written(self) -> bool:
        """Whether a read of the vault that is asked for from now on sees them."""
        return self._stage in (_Stage.WRITTEN, _Stage.COMMITTED)

    @property
    def committed(self) -> bool:
        """Whether the database has them for good."""
        return self._stage is _Stage.COMMITTED

    @property
    def lost(self) -> bool:
        """Whether their commit has failed."""
        return self._stage is _Stage.LOST

    def write(self, transaction: Records) -> None:
        """Write them in a transaction, on the vault's worker.

        Raises:
            VaultUnavailable: earlier changes were lost, or the database refuses.
        """
        transaction.on_end(self._end)
        if self._previous is not None and not self._previous.written:
            raise VaultUnavailable("an earlier step of the OMEMO ratchets was lost: try again")
        transaction.put_values({PREFIX + key: text for key, text in self.values.items()})
        self._stage = _Stage.WRITTEN

    def _end(self, committed: bool) -> None:  # noqa: FBT001  the vault's one argument
        self._stage = _Stage.COMMITTED if committed else _Stage.LOST
        if committed:
            self._previous = None
            # The database has them: spent keys must not wait here for the next changes.
            self.values = {}


class Ratchets(Storage):
    """The storage of one account's OMEMO, on the event loop.

    `take`, `discard` and `forget_cached` belong under the lock that keeps the steps of the session
    manager apart: no step may be half done when they are called.

    Args:
        vault: where committed values are.
    """

    def __init__(self, vault: Vault) -> None:
        super().__init__(disable_cache=True)
        self._vault = vault
        self._live: OrderedDict[str, str | None] = OrderedDict()
        self._live_size = 0
        self._pending: dict[str, str | None] = {}
        # Immutable values with the text that each was parsed from. A key is here only while it is
        # among those that live, so that no secret stays longer for being parsed.
        self._parsed: dict[str, tuple[str, Maybe[JSONType]]] = {}
        self._leaving: deque[Changes] = deque()
        self._last: Changes | None = None

    def __repr__(self) -> str:
        return f"<Ratchets: {len(self._live)} live, {len(self._pending)} pending>"

    @property
    def pending(self) -> bool:
        """Whether anything has been stored or deleted since the last `take`."""
        return bool(self._pending)

    @property
    def lost(self) -> bool:
        """Whether the last commit has failed, and `forget_cached` not been called since."""
        return self._last is not None and self._last.lost

    def take(self) -> Changes:
        """Let what is pending leave for a commit; loads go on seeing it.

        The caller has `Changes.write` called in a transaction, and calls `forget_cached` when that
        fails. Until then later changes are refused as well.
        """
        changes = Changes(self._pending, self._last)
        self._pending = {}
        if changes.values:
            # They are written in their order: behind one that is not, none is.
            while self._leaving and self._leaving[0].written:
                self._leaving.popleft()
            self._leaving.append(changes)
            self._last = changes
            for key, text in changes.values.items():
                self._keep(key, text)
        return changes

    def discard(self) -> None:
        """Forget what is pending: the step that stored it has failed."""
        self._pending = {}

    def savepoint(self) -> dict[str, str | None]:
        """Return what is pending now, to `restore` it."""
        return dict(self._pending)

    def restore(self, savepoint: dict[str, str | None]) -> None:
        """Forget what has been stored since a savepoint: one of several steps has failed."""
        self._pending = savepoint

    def forget_cached(self) -> None:
        """Read everything from the vault again, for a commit has failed.

        What is pending is forgotten as well.
        """
        self._live.clear()
        self._live_size = 0
        self._parsed.clear()
        self._pending = {}
        self._leaving.clear()
        self._last = None

    def commit_with(
        self, work: Callable[[Transaction], T] | None = None
    ) -> asyncio.Future[T | None]:
        """Queue what is pending, and `work` with it, for one commit. Cancelling is safe.

        Without either it waits for what has been queued before, and fails with it: whoever changed
        nothing has seen that as well.

        The caller calls `forget_cached` when it fails.

        Raises, when awaited:
            VaultError: nothing of it was written.
        """
        changes = self.take()
        settled = self._last is None or self._last.committed
        if settled and not changes.values and work is None:
            nothing: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return nothing

        def together(transaction: Transaction) -> T | None:
            changes.write(transaction)
            return None if work is None else work(transaction)

        return self._vault.transact(together)

    def holds(self, texts: Mapping[str, str | None]) -> bool:
        """Tell whether these are the values of these keys; not where one would have to be read.

        To be asked for is to be used: what is held stays in memory.
        """
        pending, live = self._pending, self._live
        for key, text in texts.items():
            if key in live:
                live.move_to_end(key)
            if pending.get(key, live.get(key, _UNKNOWN)) != text:
                return False
        return True

    def texts(self, keys: Iterable[str]) -> dict[str, str | None] | None:
        """The values of keys as JSON text; None where one of them would have to be read."""
        found: dict[str, str | None] = {}
        for key in keys:
            known, found[key] = self._visible(key)
            if not known:
                return None
        return found

    def put_text(self, key: str, text: str) -> None:
        """Store a value that is JSON text already, written as this class writes it."""
        self._put(key, text)

    async def commit(self) -> None:
        """Commit what is pending, for callers outside of a flow. Cancelling is safe.

        Raises:
            VaultError: it could not be; everything is read from the vault again.
        """
        try:
            await self.commit_with()
        except VaultError:
            self.forget_cached()
            raise

    async def _load(self, key: str) -> Maybe[JSONType]:
        text = await self._text(key)
        if text is None:
            return Nothing()
        known = self._parsed.get(key)
        if known is not None and known[0] == text:
            return known[1]
        value = _just(lambda: cast("JSONType", json.loads(text)))
        if isinstance(value, _Same) and key in self._live and key not in self._pending:
            self._parsed[key] = text, value
        return value

    async def _store(self, key: str, value: JSONType) -> None:
        self._put(key, json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        account = listed_account(key)
        if account is not None:
            known = (await self.load_list(ACCOUNTS, str)).maybe([])
            if account not in known:
                await self._store(ACCOUNTS, [*known, account])

    async def _delete(self, key: str) -> None:
        self._put(key, None)

    def _put(self, key: str, text: str | None) -> None:
        known, last = self._taken(key)
        if known and last == text:
            # Ten of twelve values that python-omemo stores for a message have not changed.
            self._pending.pop(key, None)
        else:
            self._pending[key] = text

    async def _text(self, key: str) -> str | None:
        known, text = self._visible(key)
        if known:
            return text
        read = await self._vault.transact(lambda transaction: transaction.value(PREFIX + key))
        known, text = self._visible(key)
        if known:
            # It was stored while it was read.
            return text
        self._keep(key, read)
        return read

    def _visible(self, key: str) -> tuple[bool, str | None]:
        """Return whether a value is known without a read, and what it is."""
        if key in self._pending:
            return True, self._pending[key]
        return self._taken(key)

    def _taken(self, key: str) -> tuple[bool, str | None]:
        if key in self._live:
            self._live.move_to_end(key)
            return True, self._live[key]
        for changes in reversed(self._leaving):
            # Those that are written are in the vault, for any read from now on. The worker empties
            # them once they are committed, at any moment: hence one look at the values.
            values = changes.values
            if key in values and not changes.written:
                return True, values[key]
        return False, None

    def _keep(self, key: str, text: str | None) -> None:
        self._drop(key)
        self._live[key] = text
        self._live_size += _size(key, text)
        while self._live_size > MAXIMUM_LIVE:
            self._drop(next(iter(self._live)))

    def _drop(self, key: str) -> None:
        if key in self._live:
            self._live_size -= _size(key, self._live.pop(key))
            self._parsed.pop(key, None)


def listed_account(key: str) -> str | None:
    """The account whose device list a key is of; None for any other key."""
    found = _DEVICE_LIST.fullmatch(key)
    return None if found is None else found[1]


def _size(key: str, text: str | None) -> int:
    return len(key) + len(text or "")


def _just(make: Callable[[], T]) -> Maybe[T]:
    """Return a value that nobody can change for another.

    It is made at once, so that `make` raises where the value was asked for.
    """
    value = make()
    return _Same(value) if isinstance(value, IMMUTABLE) else _Fresh(make, value)


class _There(Maybe[T]):
    """A value that is there: python-omemo's `Just`, without its deep copies."""

    @property
    def is_just(self) -> bool:
        return True

    @property
    def is_nothing(self) -> bool:
        return False

    def maybe(self, default: object) -> T:  # noqa: ARG002  python-omemo's signature
        return self.from_just()

    def fmap(self, function: Callable[[T], U]) -> Maybe[U]:
        return _just(lambda: function(self.from_just()))


class _Same(_There[T]):
    """One immutable value for all that ask."""

    def __init__(self, value: T) -> None:
        self._value = value

    def from_just(self) -> T:
        return self._value


class _Fresh(_There[T]):
    """A mutable value, made anew for each that asks.

    Args:
        make: makes the value.
        first: one that it has made, for the first that asks.
    """

    def __init__(self, make: Callable[[], T], first: T) -> None:
        self._make = make
        self._made = [first]

    def from_just(self) -> T:
        return self._made.pop() if self._made else self._make()
