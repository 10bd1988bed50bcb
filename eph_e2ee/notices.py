"""What is said of messages that are in the archive: read, delivered, displayed, failed.

By a letter's marks, by our archive, by our other devices through the server, by an error.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from eph_e2ee.clear import SHORTEST_CLEAR_TIMER
from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultDamaged
from eph_e2ee.events import Delivered
from eph_e2ee.letters import Letter, archive_name, id_name
from eph_e2ee.model import BareJid, Delivery, Entry, MessageId
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.marking import Heard, Waiting, mark_delivered, mark_failed, mark_read
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.stanzas import Arrival, Way

__all__ = ["Notices"]


class Notices:
    """Writes down what is heard of messages, and tells of ours.

    `applied` and `left` are parts of works for the vault's worker, `tell` comes after their commit.

    Args:
        account: where errors and the server's word come from.
        vault: the archive.
        clock: what readings are measured by.
        believing: whether the server is believed how far a conversation was read.

    Attributes:
        on_bounced: awaited with the id of a message of ours that has come back, before that counts.
    """

    def __init__(
        self, account: Account, vault: Vault, clock: Clock, *, believing: bool = True
    ) -> None:
        self._believing = believing
        self._account = account
        self._vault = vault
        self._clock = clock
        self.on_bounced: Callable[[MessageId], Awaitable[None]] = _nothing

    def applied(self, vault: Transaction, letter: Letter, waiting: Waiting) -> list[Delivered]:
        """Do what a letter says of others. Our own devices read, a peer's receive and display."""
        if letter.arrival.room is not None:
            return []  # what is marked in a room, nobody else need have seen
        if letter.arrival.sender != self._account.bare:
            return self._delivered(vault, letter)
        now = self._clock.now()
        for read in letter.marks.read:
            at = min(now, read.stamp / 1000)
            for each in read.message_ids:
                _read(vault, id_name(read.conversation, each), at, waiting)
        if letter.own:  # a marker for the peer: what clients of other makes leave it at
            for each in letter.marks.displayed:
                _read(vault, id_name(letter.peer, each), letter.sent_at, waiting, to=letter.peer)
        return []

    def left(self, vault: Transaction, copy: Arrival) -> list[Delivered]:
        """Know by an archive's copy of a message of ours that it has left, if it was in doubt."""
        if copy.way is not Way.ARCHIVE or copy.sender != self._account.bare:
            return []
        number = vault.find(id_name(copy.sender, copy.message_id)) or 0
        standings = vault.standings(copy.recipient, number, 1)
        if [(each.number, each.delivery) for each in standings] != [(number, Delivery.UNSENT)]:
            return []
        now = self._clock.now()
        sent_at = now if copy.sent_at is None else min(now, copy.sent_at.timestamp())
        with suppress(VaultDamaged):  # nobody can read it any more; it stops no other (F38)
            entry = vault.entry(number)
            if entry is not None and entry.content is not None:
                # No server's clock ends it before its time (F13): it was written here, and then.
                sent_at = max(sent_at, entry.content.sent_at)
            vault.note_sent(number, sent_at)
            return [Delivered(number, copy.recipient, Delivery.SENT)]
        return []

    def tell(self, delivered: Sequence[Delivered]) -> None:
        """Tell the application how far messages of ours came."""
        for each in delivered:
            self._account.emit("ephemeral_delivery", each)

    @contained
    async def bounced(self, sender: BareJid, message_id: MessageId) -> None:
        """Note that a message of ours has come back as an error (RFC 6120 section 8.3)."""

        def found(vault: Transaction) -> Entry | None:
            entry = vault.entry(vault.find(id_name(self._account.bare, message_id)) or 0)
            # Its recipient says so, or our own server on the way there.
            speaks = entry is not None and sender in (entry.conversation, *self._account.servers)
            return entry if speaks else None

        entry = await self._vault.transact(found) if message_id else None
        if entry is not None:
            conversation, number = entry.conversation, entry.number
            await self.on_bounced(message_id)
            self.tell(
                await self._vault.transact(lambda vault: mark_failed(vault, conversation, number))
            )

    @contained
    async def displayed(self, conversation: BareJid, archive_id: str) -> None:
        """Note that a conversation was read elsewhere up to a message (XEP-0490).

        It is the server's word, and says nothing of when: the timers run from a moment later, so
        that no server burns messages unread.
        """
        if not self._believing:
            return
        at = self._clock.now() + SHORTEST_CLEAR_TIMER

        def work(vault: Transaction) -> None:
            number = vault.find(archive_name(archive_id)) or 0
            entry = vault.entry(number)
            if entry is None:
                waiting = Waiting(vault)
                waiting.add(archive_name(archive_id), Heard(None, before=True))
                waiting.write()
            elif entry.conversation == conversation:
                mark_read(vault, number, at, before=True)

        await self._vault.transact(work)

    def _delivered(self, vault: Transaction, letter: Letter) -> list[Delivered]:
        received = self._numbers(vault, letter.marks.received)
        # One displayed stands for all before it: a peer cannot have us look again for each.
        displayed = sorted(self._numbers(vault, letter.marks.displayed))[-1:]
        marked = [(number, Delivery.DELIVERED) for number in received]
        marked += [(number, Delivery.DISPLAYED) for number in displayed]
        return [
            told
            for number, delivery in marked
            for told in mark_delivered(vault, letter.peer, number, delivery)
        ]

    def _numbers(self, vault: Transaction, ids: Sequence[MessageId]) -> list[int]:
        """The messages of ours with these ids, each once."""
        found = (vault.find(id_name(self._account.bare, each)) for each in dict.fromkeys(ids))
        return [number for number in found if number]


def _read(
    vault: Transaction, name: str, at: float, waiting: Waiting, *, to: BareJid | None = None
) -> None:
    """Start the timer of a message, now or when it comes.

    A marker `to` a peer covers all before it. In a room the peer may have sent something under the
    same id, which is not what the marker is of.
    """
    number = vault.find(name)
    if number is None:
        waiting.add(name, Heard(at, before=to is not None))
    else:
        mark_read(vault, number, at, before=to is not None, conversation=to)


async def _nothing(_: MessageId) -> None:
    """Nobody has to know first."""
