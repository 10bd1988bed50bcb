"""The way in: stream, OMEMO, envelope, timer, archive, event.

Whatever a peer sends ends as a stored message or as `ephemeral_rejected`; nothing of it raises into
slixmpp. Read `Incoming._take`, `_open` and `_filed` from top to bottom. What a message becomes
stands in `letters.py`, what it says of other messages in `notices.py`.
"""

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eph_e2ee import optouts
from eph_e2ee.conversations import Conversations
from eph_e2ee.errors import EphemeralError, Reason, RemoteProtocolError, VaultError
from eph_e2ee.events import ChatState, Delivered, Rejection
from eph_e2ee.filing import added
from eph_e2ee.halves import Halves
from eph_e2ee.letters import Letter, Letters
from eph_e2ee.model import BareJid, Entry, StateName
from eph_e2ee.notices import Notices
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.queues import Queues
from eph_e2ee.seen import Seen
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.marking import Waiting
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.parcel import is_empty
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.stanzas import Arrival, Way

__all__ = ["Incoming", "Received"]

log = logging.getLogger(__name__)

Named = tuple[Arrival, tuple[str, ...]]
"""An arrival, and what a second delivery of it is known by."""

Outcome = Letter | RemoteProtocolError
Write = Callable[[Transaction], None]
Note = Callable[[Transaction, list[Entry]], None]


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it goes to the application.

    Attributes:
        number: of the archive's copy.
        entry: the archive's copy; None while nobody is told of it.
        findings: what was accepted in it although it is not as it should be.
        encrypted_with: the OMEMO namespace; None where that is not known any more.
        wants_receipt: whether its sender asks for a receipt; in a room nobody gives one.
    """

    number: int
    entry: Entry | None = None
    findings: tuple[Finding, ...] = ()
    encrypted_with: str | None = None
    wants_receipt: bool = False


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where what was opened goes.

    Attributes:
        tell: called with each message that was kept.
        new: whether our device is too new for the archive to have much for it.
        note: called in each commit with what it keeps.
    """

    tell: Callable[[Received], None]
    new: bool = False
    note: Note = lambda *_: None


@dataclass(frozen=True, slots=True)
class _Filed:
    """What a commit gave: the archive's copies, one an outcome, and what is known of ours."""

    entries: list[Entry | None]
    delivered: list[Delivered]
    waited: list[Arrival]


class Incoming:
    """Receives. Owns one task for each conversation that has something waiting.

    Attributes:
        on_message: called with each message that was kept.
        on_withheld: called in the commit with what has to wait, and with that of it whose sender's
            keys could not be asked for; which of them have waited before and are no news.
    """

    def __init__(
        self,
        account: Account,
        vault: Vault,
        conversations: Conversations,
        letters: Letters,
        notices: Notices,
    ) -> None:
        self._account = account
        self._vault = vault
        self._conversations = conversations
        self._letters = letters
        self._notices = notices
        self._waiting = Queues()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[BareJid] = set()
        self._released = asyncio.Event()
        self.on_message: Callable[[Received], None] = lambda _: None
        self.on_withheld: Callable[..., list[Arrival]] = lambda *_: []
        self._seen: dict[BareJid, Seen] = {}
        self._halves = Halves(account.later, self._not_for_us)

    def accept(self, arrival: Arrival) -> None:
        """Queue an arrival behind the others of its conversation; it never raises."""
        self.seen(arrival.room).arrived(arrival)
        peer = self._letters.peer(arrival)
        begins = peer not in self._waiting
        for given_up in self._waiting.put(peer, arrival):
            self._reject(given_up, Reason.NOT_STORED, _Sink(self.on_message))
            other = self._letters.peer(given_up)
            if other in self._waiting and not self._waiting.waits(other):
                self._released.set()  # it has nothing to wait for any more
        if begins and peer in self._waiting:
            task = asyncio.ensure_future(self._drain(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def seen(self, room: BareJid | None) -> Seen:
        """How far an archive is known by what has arrived: a room's, or our own account's."""
        return self._seen.setdefault(room or self._account.bare, Seen())

    def hold(self, archive: BareJid) -> None:
        """Let what arrives wait: an archive is being read, and what stands there came before it.

        A ratchet opens messages that come too early only up to a limit. What is known of the
        archive by other ways begins anew.

        Args:
            archive: a room's JID, for what comes from it; or our own, for everything.
        """
        self._seen[archive] = Seen()
        self._held.add(archive)

    def release(self, archive: BareJid) -> None:
        """Go on with what has waited."""
        self._held.discard(archive)
        self._released.set()

    async def stop(self) -> None:
        """Stop reading; what is waiting is in the server's archive still."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._halves.stop()

    async def take_archived(
        self,
        arrivals: Sequence[Arrival],
        write: Write,
        *,
        new: bool,
        note: Note = lambda *_: None,
    ) -> list[Received]:
        """Deal with what an archive has given.

        Args:
            arrivals: the oldest first.
            write: goes with the last of it.
            new: whether our device is too new for the archive to have much for it: then what is
                not for this device is no news.
            note: goes with each part of it, and is given what of that is kept.

        Returns:
            The messages that were kept, which nobody has been told of.

        Raises:
            VaultError: not all was stored; what was is known again when it is read once more.
        """
        kept: list[Received] = []
        sink = _Sink(kept.append, new, note)
        await self._acquainted(arrivals)
        fresh, again = await self._unseen(arrivals)
        while again:
            await self._open(fresh, sink)
            fresh, again = await self._unseen(again)
        await self._open(fresh, sink, write)
        return kept

    async def _drain(self, peer: BareJid) -> None:
        try:
            while batch := await self._next(peer):
                await self._take(batch)
                self._waiting.done(peer)
        finally:
            self._waiting.end(peer)

    async def _next(self, peer: BareJid) -> list[Arrival]:
        """What a conversation has to be dealt with, once its archive has been read."""
        while self._waiting.waits(peer) and not self._held.isdisjoint({self._account.bare, peer}):
            self._released.clear()
            await self._released.wait()
        return self._waiting.take(peer)

    @contained
    async def _take(self, batch: list[Arrival]) -> None:
        """Drop replays, open the others in order, then tell of each once it is committed."""
        await self._account.omemo.running()
        await self._acquainted(batch)
        again, sink = batch, _Sink(self.on_message)
        fresh: deque[Named] = deque()
        try:
            while again:
                fresh, again = await self._unseen(again)
                await self._open(fresh, sink)
        except Exception as error:  # whatever it is, each of them is told of
            reason = Reason.NOT_STORED if isinstance(error, VaultError) else Reason.NOT_OPENED
            for arrival in [*(arrival for arrival, _ in fresh), *again]:
                self._reject(arrival, reason, sink)
            raise
        for arrival in batch:
            self.seen(arrival.room).done(arrival)

    @contained
    async def _acquainted(self, batch: Sequence[Arrival]) -> None:
        """Have the lists of rooms at hand where no presence says who belongs; or go on without."""
        for room in {each.room for each in batch if not each.member}:
            if room is not None:
                await self._account.members.known(room)

    async def _unseen(self, batch: Sequence[Arrival]) -> tuple[deque[Named], list[Arrival]]:
        """Those that were never archived, alive or gone, each with its ids (F36).

        And those that may be second deliveries of them, or other halves: it will be known then.
        """
        named = [(arrival, self._letters.replay_ids(arrival)) for arrival in batch]

        def work(vault: Transaction) -> tuple[list[bool], list[Delivered]]:
            known = [vault.seen(ids) for _, ids in named]
            copies = [arrival for arrival, seen in zip(batch, known, strict=True) if seen]
            return known, [told for copy in copies for told in self._notices.left(vault, copy)]

        known, delivered = await self._vault.transact(work)
        self._notices.tell(delivered)
        fresh: deque[Named] = deque()
        again: list[Arrival] = []
        taken: set[str] = set()
        for (arrival, ids), seen in zip(named, known, strict=True):
            if not seen and taken.isdisjoint(ids):
                fresh.append((arrival, ids))
                taken.update(ids)
            elif not seen:
                again.append(arrival)
        return fresh, again

    async def _open(self, fresh: deque[Named], sink: _Sink, write: Write | None = None) -> None:
        """Decrypt and verify under the lock; ratchets and messages in one commit for many.

        `fresh` holds what is left to be done, also when it raises. One that fails, for whatever
        reason, takes no other along. `write` goes with the last commit.
        """
        while fresh:
            try:
                count = await self._open_together(list(fresh), sink, write)
            except RemoteProtocolError as error:
                self._reject(fresh.popleft()[0], error.reason, sink)
                continue
            except EphemeralError:
                raise
            except Exception as error:  # noqa: BLE001 -- the one place where remote input is opened
                if len(fresh) == 1:
                    # No traceback: it would quote the exception's text.
                    log.error("a message could not be opened: %s", type(error).__name__)  # noqa: TRY400 -- as said
                    self._reject(fresh.popleft()[0], Reason.NOT_OPENED, sink)
                while len(fresh) > 1:  # whichever it was, the others open without it
                    await self._open(deque([fresh[0]]), sink)
                    fresh.popleft()
                continue
            if count == len(fresh):
                write = None
            for _ in range(count):
                fresh.popleft()
        if write is not None:
            await self._vault.transact(write)

    async def _open_together(self, fresh: list[Named], sink: _Sink, write: Write | None) -> int:
        """Open as many of the first as need no download; return how many that were."""

        def filed(outcomes: list[Outcome]) -> Callable[[Transaction], _Filed]:
            return self._filed(outcomes, sink, write if len(outcomes) == len(fresh) else None)

        operations = [functools.partial(self._letters.open, *named) for named in fresh]
        try:
            pending = await self._account.begin_reading(operations, filed)
            await self._finish(fresh, pending, sink)
        except BaseException:
            # The settings that were taken in may not have been written.
            for arrival, _ in fresh:
                self._letters.forget(arrival)
            raise
        return len(pending.value)

    def _filed(
        self, outcomes: list[Outcome], sink: _Sink, write: Write | None
    ) -> Callable[[Transaction], _Filed]:
        """What is written of many letters, in one transaction."""
        letters = [outcome for outcome in outcomes if isinstance(outcome, Letter)]
        settings = {letter.peer: letter.setting for letter in letters if letter.setting}
        withheld = [letter.arrival for letter in letters if letter.waits]
        missed = [each.arrival for each in letters if each.rejected is Reason.UNREACHABLE]

        def work(vault: Transaction) -> _Filed:
            waiting = Waiting(vault)
            for peer, text in settings.items():
                self._conversations.write(vault, peer, text)
            for letter in letters:
                optouts.write(vault, letter.peer, letter.opt_out.state)
            kept = added(vault, letters, waiting)
            sink.note(vault, [entry for entry in kept if entry is not None])
            entries = iter(kept)
            delivered = [
                each for letter in letters for each in self._notices.applied(vault, letter, waiting)
            ]
            waiting.write()
            waited = self.on_withheld(vault, withheld, missed) if withheld else []
            if write is not None:
                write(vault)
            copies = [next(entries) if isinstance(each, Letter) else None for each in outcomes]
            return _Filed(copies, delivered, waited)

        return work

    async def _finish(
        self,
        fresh: list[Named],
        pending: Pending[list[Outcome], _Filed],
        sink: _Sink,
    ) -> None:
        """Committed: now it may be told, first of the timer, then of the message."""
        filed = await pending.finish()
        told = zip(fresh, pending.value, filed.entries, strict=False)
        for (arrival, _), outcome, entry in told:
            if isinstance(outcome, RemoteProtocolError):
                self._reject(arrival, outcome.reason, sink)
            elif arrival not in filed.waited:
                self._tell(outcome, entry, sink)
        self._notices.tell(filed.delivered)
        await _published(pending)

    def _tell(self, letter: Letter, entry: Entry | None, sink: _Sink) -> None:
        self._halves.taken(letter.arrival)
        if letter.rejected is not None:
            self._reject(letter.arrival, letter.rejected, sink)
        if letter.change is not None:
            self._account.emit("ephemeral_timer_changed", letter.change)
        if letter.opt_out.told is not None:
            self._account.emit("ephemeral_opt_out", letter.opt_out.told)
        self._tell_state(letter.arrival, letter.peer, letter.marks.state)
        if entry is not None and entry.content is not None:
            unanswered = letter.own or letter.arrival.room is not None
            wants_receipt = letter.marks.wants_receipt and not unanswered
            sink.tell(
                Received(entry.number, entry, letter.findings, letter.namespace, wants_receipt)
            )

    def _tell_state(self, arrival: Arrival, peer: BareJid, state: StateName | None) -> None:
        """Tell what somebody else is doing now, and not what he was doing."""
        is_live = arrival.way is not Way.ARCHIVE and arrival.sent_at is None
        if state is not None and is_live and arrival.sender != self._account.bare:
            told = ChatState(peer, arrival.sender, state)
            self._account.emit("ephemeral_chat_state", told)

    def _reject(self, arrival: Arrival, reason: Reason, sink: _Sink) -> None:
        if reason is not Reason.NOT_FOR_THIS_DEVICE:
            self._account.emit(
                "ephemeral_rejected", Rejection(reason, arrival.sender, arrival.message_id)
            )
        elif not (sink.new or arrival.sender == self._account.bare or is_empty(arrival.xml)):
            # Nobody encrypts for the device that it writes on; an empty one is for one.
            self._halves.put(arrival)

    def _not_for_us(self, arrival: Arrival) -> None:
        rejection = Rejection(Reason.NOT_FOR_THIS_DEVICE, arrival.sender, arrival.message_id)
        self._account.emit("ephemeral_rejected", rejection)


@contained
async def _published(pending: Pending[list[Outcome], _Filed]) -> None:
    """Upload our new bundle after a key exchange; the next start mends a failure."""
    await pending.publish()
