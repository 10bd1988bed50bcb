"""Reading anywhere starts the timer everywhere: what was read here is told to our other devices.

In an envelope to our own account, message by message, with the time (`protocol/marks.py`); and to
the server, which keeps for devices that come later how far each conversation was read (XEP-0490).
The peer is told of deliveries and of reading only if the application wants that.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from eph_e2ee.errors import EphemeralError, LocalProtocolError, VaultDamaged, VaultError
from eph_e2ee.model import BareJid, Content, Entry, MessageId
from eph_e2ee.outgoing import Outgoing
from eph_e2ee.protocol import marks
from eph_e2ee.protocol.marks import MAX_MARKS, Read
from eph_e2ee.protocol.xml import Element
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.marking import last_read
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.redaction import contained

__all__ = ["Reading"]

log = logging.getLogger(__name__)

UNTOLD: Final = "untold reads"
"""The value that keeps what could not be told yet: a machine may be offline for weeks."""

PORTION: Final = 50
"""Messages that one envelope marks: some 5 kB."""

LONGEST: Final = 8 * 1024
"""Characters of their ids, and of whose they are: a peer chooses them, and whichever it chooses, an
envelope takes them (`envelope.MAX_BUILT`). In XML one may be six."""

Unread = tuple[BareJid, MessageId, int]
"""The conversation, the message, and when it was read, in milliseconds since the epoch."""


class Archived(Protocol):
    """How much of our archive is here.

    Attributes:
        task: the one that reads, or has read.
    """

    task: asyncio.Task[None] | None

    @property
    def complete(self) -> bool:
        """Whether all of it is, and stays so."""

    @property
    def has_gap(self) -> bool:
        """Whether there is an archive, and something in it may be missing here."""


Looked = Callable[[], Archived]


class _Place(NamedTuple):
    """How far a conversation was read. Nothing here outlives a message but its ids."""

    number: int
    message_id: MessageId
    archive_id: str | None
    wants_marker: bool


class Reading:
    """Tells what was read and what has arrived. Its task gathers while it sends.

    Attributes:
        backlog: what our archive has for us. While that is not all here, nobody is told how far a
            conversation was read: there may be something before it that nobody has seen (F18).
    """

    def __init__(
        self,
        account: Account,
        vault: Vault,
        outgoing: Outgoing,
        *,
        receipts: bool,
        places: bool = True,
    ) -> None:
        self._account = account
        self._vault = vault
        self._outgoing = outgoing
        self._receipts = receipts
        self._publishing = places
        self._reads: list[Unread] = []
        self._places: dict[BareJid, _Place] = {}
        self._arrived: dict[BareJid, list[MessageId]] = {}
        self._kept = False
        self._woken = asyncio.Event()
        self.backlog: Looked

    def note_read(self, entry: Entry, at: float) -> None:
        """A message was read here, and its timer runs: it is to be told."""
        content = entry.content
        if content is None or not content.message_id:
            return  # gone, or nameless
        if marks.is_id(content.message_id):
            self._reads.append((content.sender, content.message_id, round(at * 1000)))
            self._woken.set()
        if content.sender != entry.conversation:
            return  # in a room, whose members read for themselves
        place = _place(entry.number, content)
        self._places[entry.conversation] = place
        self._woken.set()

    def note_received(self, entry: Entry) -> None:
        """A message has arrived whose sender asks for a receipt."""
        content = entry.content
        if self._receipts and content is not None and marks.is_id(content.message_id):
            self._arrived.setdefault(entry.conversation, []).append(content.message_id)
            self._woken.set()

    def wake(self) -> None:
        """There is a session again."""
        self._woken.set()

    async def run(self) -> None:
        """Tell, whenever there is something to tell and a session, until it is cancelled."""
        await self._load()
        while True:
            await self._woken.wait()
            self._woken.clear()
            untold = self._reads or self._places or self._arrived
            if untold and self._account.has_session:
                await self._account.omemo.running()
                await self._tell()
            if self._reads or self._kept:
                await self._keep()

    async def close(self) -> None:
        """Keep what could not be told for the next session."""
        if self._reads:
            await self._keep()

    @contained
    async def _tell(self) -> None:
        """Tell all; readings that could not be told wait for the next occasion."""
        arrived, self._arrived = self._arrived, {}
        places, self._places = self._places, {}
        for conversation, ids in arrived.items():
            while ids:
                count = _fitting(ids)
                await self._signal(conversation, marks.write_received(ids[:count]))
                del ids[:count]
        await self._tell_devices()
        for conversation, place in places.items():
            await self._tell_place(conversation, place)

    async def _tell_place(self, conversation: BareJid, place: _Place) -> None:
        """Say up to which message a conversation was displayed, if that is true."""

        def work(vault: Transaction) -> _Place | None:
            last = last_read(vault, conversation, place.number)
            entry = None if last is None or last == place.number else vault.entry(last)
            if entry is None or entry.content is None:
                return None if last is None else place
            return _place(entry.number, entry.content)

        try:
            true = await self._vault.transact(work)
        except VaultError as error:
            log.warning("what was read could not be told: %s", type(error).__name__)
            return
        if true is None:
            return
        if self._receipts and true.wants_marker and not self.backlog().has_gap:
            await self._signal(conversation, [marks.write_displayed(true.message_id)])
            true = true._replace(wants_marker=False)
        if self._publishing and true.archive_id is not None and self.backlog().complete:
            await self._account.displayed.publish(conversation, true.archive_id)
            true = true._replace(archive_id=None)
        self._tell_later(conversation, true)

    def _tell_later(self, conversation: BareJid, place: _Place) -> None:
        """Have what is left to be said of a place wait for the archive, while that is read."""
        left = (self._receipts and place.wants_marker) or (self._publishing and place.archive_id)
        task = self.backlog().task
        if left and task is not None and not task.done():
            self._places.setdefault(conversation, place)
            task.add_done_callback(lambda _: self._woken.set())

    async def _tell_devices(self) -> None:
        """Tell our other devices, as long as that works; with none there is nothing to do."""
        own = self._account.bare
        while self._reads:
            count = _fitting([f"{jid}{message_id}" for jid, message_id, _ in self._reads[:PORTION]])
            try:
                alone = not await self._account.devices.has_readers(own)
            except EphemeralError:
                return
            content = [marks.write_read(read) for read in _gathered(self._reads[:count])]
            if not alone and not await self._signal(own, content):
                return
            del self._reads[:count]

    async def _signal(self, recipient: BareJid, content: list[Element]) -> bool:
        """Send some marks; False: they are to be sent again. What cannot be written never is."""
        try:
            await self._outgoing.signal(recipient, content)
        except LocalProtocolError:
            log.warning("a marker was given up: no envelope takes it")
        except EphemeralError as error:
            log.warning("a marker was not sent: %s", type(error).__name__)
            return False
        return True

    async def _load(self) -> None:
        try:
            text = await self._vault.transact(lambda vault: vault.value(UNTOLD))
            kept = _unpacked(text)
        except VaultError as error:
            log.warning("what was read could not be told: %s", type(error).__name__)
            return
        self._kept = text is not None
        self._reads[:0] = kept
        self._woken.set()

    async def _keep(self) -> None:
        """Write down what is still to be told, the newest of it."""
        reads = self._reads = self._reads[-MAX_MARKS:]
        text = json.dumps(reads) if reads else None
        try:
            await self._vault.transact(lambda vault: vault.put_value(UNTOLD, text))
        except VaultError as error:
            log.warning("what was read could not be kept: %s", type(error).__name__)
        else:
            self._kept = bool(reads)


def _place(number: int, content: Content) -> _Place:
    wants_marker = content.wants_marker and marks.is_id(content.message_id)
    return _Place(number, content.message_id, content.archive_id, wants_marker)


def _fitting(names: Sequence[str]) -> int:
    """How many of the first go together; one does, however long it is."""
    return max(1, sum(size <= LONGEST for size in accumulate(map(len, names[:PORTION]))))


def _gathered(reads: list[Unread]) -> list[Read]:
    """Messages of a conversation that were read at one moment, together."""
    together: dict[tuple[BareJid, int], list[MessageId]] = {}
    for conversation, message_id, stamp in reads:
        together.setdefault((conversation, stamp), []).append(message_id)
    return [
        Read(conversation, tuple(ids), stamp) for (conversation, stamp), ids in together.items()
    ]


def _unpacked(text: str | None) -> list[Unread]:
    try:
        items = [] if text is None else json.loads(text)
        reads = [(BareJid(jid), MessageId(each), int(stamp)) for jid, each, stamp in items]
        return [read for read in reads if marks.is_id(read[1])]
    except (ValueError, TypeError):
        raise VaultDamaged("the reads that are still to be told are damaged") from None
