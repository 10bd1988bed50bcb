"""What one archive has for us while we were away, page by page (XEP-0313).

Each page is stored in one transaction together with how far the archive was read: interrupted, the
next session goes on there. Nobody is told of a message before the end, since what was read or has
expired elsewhere may stand in a later page (F21); then those are told of that still live.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from eph_e2ee.clock import Clock
from eph_e2ee.errors import EphemeralError, VaultDamaged
from eph_e2ee.events import CatchUp
from eph_e2ee.incoming import Incoming, Received
from eph_e2ee.model import BareJid, Entry
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.archive import ArchiveUnavailable, Page, PositionLost
from eph_e2ee.xmpp.redaction import contained

__all__ = ["Backlog", "archive_of"]

log = logging.getLogger(__name__)

PAGE: Final = 100
"""Results that are asked for at once: more than most servers give."""

FIRST_LOOK: Final = 86_400.0
"""Seconds into the past that a vault looks which has never seen the archive. Its device is new, so
that little of it can be for it: what came while its keys were being published, by any clock."""

OVERLAP: Final = 3600.0
"""Seconds before the last message that is looked again when the archive has forgotten that one."""

TELL: Final = 200
"""Messages that are opened at once to be told of: memory is independent of their number."""

REMEMBERED: Final = 100_000
"""Messages of which more than the archive's copy is told: some 30 MB."""


@dataclass(frozen=True, slots=True)
class _Position:
    """How far an archive was read.

    Attributes:
        last: the id of the last result that was dealt with; None before the first.
        stamp: the time of that, in seconds since the epoch.
        untold: the number of the first message that nobody was told of; None outside of catching
            up.
    """

    last: str | None
    stamp: float
    untold: int | None = None

    @classmethod
    def from_json(cls, text: str) -> "_Position":
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            raise VaultDamaged("where reading of the archive stood is damaged") from None


class Backlog:
    """Reads an archive, our own account's or a room's, whenever it is asked to.

    Args:
        archive: our own bare JID, or the room's.

    Attributes:
        task: the one that reads, or has read.
        on_seen: called when something has arrived that need not be read again.
        after: run between the last page and the telling.
    """

    def __init__(
        self, archive: BareJid, account: Account, vault: Vault, incoming: Incoming, clock: Clock
    ) -> None:
        self._archive = archive
        self._account = account
        self._vault = vault
        self._incoming = incoming
        self._clock = clock
        self._noted: str | None = None
        # All before this number that was to be told was, by this process.
        self._told = 0
        # By the vault's worker alone: the `untold` whose telling is over, also where it still
        # stands in the vault, which has not taken that.
        self._over: int | None = None
        self._whole = False
        self._complete = False
        self._known = False
        self._stale = False
        self._before: Callable[[], Awaitable[bool]] = _whole
        self._tasks: set[asyncio.Task[None]] = set()
        self.task: asyncio.Task[None] | None = None
        self.on_seen: Callable[[], None] = lambda: None
        self.after: Callable[[], Awaitable[None]] = _nothing

    def begin(self, before: Callable[[], Awaitable[bool]], *, read: bool) -> None:
        """Read what was missed; until then let what arrives wait.

        Args:
            before: run first; whether everything that the archive gets arrives here as well. If
                not, nothing that arrives tells how far the archive was seen.
            read: whether to read the archive at all.
        """
        self._before = before
        self._incoming.hold(self._archive)
        self._whole = self._complete = False
        self._start(self._run(self._cancel(), before, read=read))

    def refresh(self) -> None:
        """Read what may have come since, once more or as the reading that goes on ends."""
        if self.task is not None and not self.task.done():
            self._stale = True
        elif self.task is not None:
            self.begin(self._before, read=True)

    def stop(self) -> None:
        """Stop reading, and let flow what has waited; the next time it goes on where it stood."""
        if self.task is not None and not self.task.done():
            self._start(self._stopped(self._cancel()))
        self._whole = False

    async def close(self) -> None:
        """Stop reading, and return when nothing goes on any more; nobody is told of anything."""
        await asyncio.gather(*self._cancel(), return_exceptions=True)

    @property
    def complete(self) -> bool:
        """Whether everything that the archive has is here, and stays so."""
        return self._complete

    @property
    def has_gap(self) -> bool:
        """Whether there is an archive, and something in it may be missing here."""
        return self._known and not self._complete

    @property
    def has_unnoted(self) -> bool:
        """Whether more of the archive has been seen than is written down."""
        return self._whole and self._incoming.seen(self._archive).last != self._noted

    def tells(self, vault: Transaction) -> bool:
        """Whether a reading tells of what is kept now, inside of a work of the vault."""
        position = self._position(vault)
        return position is not None and position.untold not in {None, self._over}

    async def note(self) -> None:
        """Write down how far the archive was seen.

        Raises:
            VaultError: it stays to be noted.
        """
        last = self._incoming.seen(self._archive).last
        if last is not None:
            position = _Position(last, self._clock.now())
            await self._vault.transact(lambda vault: self._write(vault, position))
            self._noted = last

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.task = self._account.start(coroutine)
        self._tasks.add(self.task)
        self.task.add_done_callback(self._tasks.discard)

    def _cancel(self) -> tuple[asyncio.Task[None], ...]:
        """Cancel all that goes on: the last may not have begun to wait for those before it."""
        for task in self._tasks:
            task.cancel()
        return tuple(self._tasks)

    async def _run(
        self,
        previous: tuple[asyncio.Task[None], ...],
        before: Callable[[], Awaitable[bool]],
        *,
        read: bool,
    ) -> None:
        """Catch up, and let everything flow again whatever comes of it."""
        await asyncio.gather(*previous, return_exceptions=True)
        report = CatchUp(self._archive, 0, 0, None, done=False, complete=False)
        try:
            whole = await before()
            if read:
                await self._account.omemo.running()
                report = await self._catch_up(report, whole=whole)
                while self._stale and report.complete:
                    report = await self._catch_up(replace(report, complete=False), whole=whole)
        except EphemeralError as error:
            log.warning("an archive was not read to its end: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001 -- what a server sends ends here
            # No traceback: it would quote the exception's text.
            log.error("an archive could not be read: %s", type(error).__name__)  # noqa: TRY400 -- as said
        await self._tell_rest()
        if read:
            self._account.emit("ephemeral_catch_up", replace(report, done=True))
        self._incoming.release(self._archive)

    async def _stopped(self, previous: tuple[asyncio.Task[None], ...]) -> None:
        """Hold nothing back any more: nobody knows whether it will ever be read again."""
        await asyncio.gather(*previous, return_exceptions=True)
        await self._tell_rest()
        self._incoming.release(self._archive)

    async def _catch_up(self, report: CatchUp, *, whole: bool) -> CatchUp:
        self._stale = False
        position = await self._begun()
        received: dict[int, Received] = {}
        async with self._account.omemo.history_sync():
            position, report = await self._read(position, report, received)
        self._complete = whole and report.complete
        await self.after()
        await self._tell(position, received)
        seen = self._incoming.seen(self._archive)
        self._noted = seen.last
        # With a gap before it, nothing that arrives from now on tells how far the archive was seen.
        self._whole = self._complete
        seen.on_change = self.on_seen
        return report

    @contained
    async def _tell_rest(self) -> None:
        """Tell of what an earlier reading has kept, if this one has not: it ends here.

        What arrives from now on is told at once, and must not be told again by the next reading.
        """
        position = await self._vault.transact(self._position)
        if position is None:
            return
        self._known = self._known or position.last is not None
        if position.untold is not None:
            await self._account.omemo.running()
            await self._tell(position, {})

    async def _begun(self) -> _Position:
        """Where to go on; from now on nobody is told of what is kept."""
        now = self._clock.now()

        def work(vault: Transaction) -> _Position:
            position = self._position(vault) or _Position(None, now - FIRST_LOOK)
            if position.untold in {None, self._over}:
                position = replace(position, untold=vault.next_number)
                # Should this fail, what the vault still has is over as before.
                self._over = None if position.untold == self._over else self._over
                self._write(vault, position)
            return position

        return await self._vault.transact(work)

    async def _read(
        self, position: _Position, report: CatchUp, received: dict[int, Received]
    ) -> tuple[_Position, CatchUp]:
        """Read pages to the end, asking for the next one while one is dealt with."""
        asked, new = self._ask(position), position.last is None
        try:
            while not report.complete:
                page = await asked
                self._known = True
                read = position
                if page.last is not None:
                    read = replace(position, last=page.last, stamp=self._clock.now())
                if not page.complete:
                    asked = self._ask(read)
                kept = await self._take(page, read, new=new)
                position = read
                _remember(received, kept)
                report = replace(
                    report,
                    fetched=report.fetched + page.fetched,
                    stored=report.stored + len(kept),
                    total=report.total or page.total,
                    complete=page.complete,
                )
                self._account.emit("ephemeral_catch_up", report)
        except ArchiveUnavailable as error:
            log.warning("an archive was not read to its end: %s", type(error).__name__)
        finally:
            asked.cancel()
        return position, report

    def _ask(self, position: _Position) -> asyncio.Task[Page]:
        task = asyncio.ensure_future(self._page(position))
        # It may fail while nobody awaits it any more.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _page(self, position: _Position) -> Page:
        pages, last = self._account.archive, position.last
        start = datetime.fromtimestamp(position.stamp, UTC) if last is None else None
        with suppress(PositionLost):
            return await pages.page(self._archive, after=last, start=start, size=PAGE)
        start = datetime.fromtimestamp(position.stamp - OVERLAP, UTC)
        return await pages.page(self._archive, after=None, start=start, size=PAGE)

    async def _take(self, page: Page, position: _Position, *, new: bool) -> list[Received]:
        return await self._incoming.take_archived(
            page.arrivals, lambda vault: self._write(vault, position), new=new
        )

    async def _tell(self, position: _Position, received: dict[int, Received]) -> None:
        """Tell of what was kept and still lives, in the order of its arrival.

        Each once, also where this is cut short, or the vault does not take that it is done.
        """
        while True:
            first = max(self._told, position.untold or 0)
            found = await self._vault.transact(functools.partial(self._next, position, first))
            if found is None:
                return
            entries, self._told = found
            for entry in entries:
                known = received.get(entry.number, Received(entry.number))
                self._incoming.on_message(replace(known, entry=entry))

    def _next(
        self, position: _Position, first: int, vault: Transaction
    ) -> tuple[list[Entry], int] | None:
        """What is to be told next, and the number behind it; None if that was all: it is noted.

        What was withheld and is opened while others are told of is among it.
        """
        end = min(first + TELL, vault.next_number)
        over = position.untold == self._over
        entries = [] if over else self._found(vault, first, end)
        if not over and (entries or end < vault.next_number):
            return entries, end
        self._over = position.untold
        self._write(vault, replace(position, untold=None))
        return None

    def _found(self, vault: Transaction, first: int, end: int) -> list[Entry]:
        """What has come out of this archive, or could have, and not from this device."""
        own, device = self._account.bare, self._account.device
        archives: dict[BareJid, BareJid] = {}
        found = []
        for entry in vault.entries_between(first, end):
            content, conversation = entry.content, entry.conversation
            if content is None or content.change is not None:
                continue
            if conversation not in archives:
                archives[conversation] = archive_of(vault, conversation, own)
            ours = (content.sender, content.device) == (own, device)
            if archives[conversation] == self._archive and not ours:
                found.append(entry)
        return found

    def _position(self, vault: Transaction) -> _Position | None:
        text = vault.value(_key(self._archive))
        return None if text is None else _Position.from_json(text)

    def _write(self, vault: Transaction, position: _Position) -> None:
        vault.put_value(_key(self._archive), json.dumps(asdict(position)))


def archive_of(vault: Transaction, conversation: BareJid, own: BareJid) -> BareJid:
    """Which archive has a conversation: each room that was ever read has one of its own."""
    return own if vault.value(_key(conversation)) is None else conversation


def _remember(received: dict[int, Received], kept: list[Received]) -> None:
    """Keep what is to be told beside the messages, without their texts: some may expire before."""
    room = max(0, REMEMBERED - len(received))
    received.update((each.number, replace(each, entry=None)) for each in kept[:room])


def _key(archive: BareJid) -> str:
    return f"archive:{archive}"


async def _whole() -> bool:
    """Nothing is to be done, and nothing is missing."""
    return True


async def _nothing() -> None:
    """Nothing is to be done."""
