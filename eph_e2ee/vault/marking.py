"""What others tell of messages that are in the vault, or not yet: read, delivered, displayed.

Works for `Vault.transact`, on its worker. A read that arrives before its message waits for it.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from eph_e2ee.errors import VaultDamaged
from eph_e2ee.events import Delivered
from eph_e2ee.model import BareJid, Delivery, Direction, Entry, Phase, Trust
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault.archive import Transaction

__all__ = [
    "MAXIMUM_WAITING",
    "Heard",
    "Waiting",
    "is_read_until",
    "last_read",
    "mark_delivered",
    "mark_failed",
    "mark_read",
]

MAXIMUM_WAITING: Final = 1000
"""Reads that wait for their message; the one that has waited for longest is given up. Its message
would then be shown as unread, and its timer start when it is read here."""

MAXIMUM_BEFORE: Final = 1000
"""Messages before a displayed one that are looked at: a marker covers all of them (XEP-0333)."""

WAITING: Final = "reads"
"""The value that keeps them."""

COVERING: Final = "until "
"""What the names begin with there of reads that are of all messages before theirs as well."""

UNTRUSTED: Final = (Trust.UNDECIDED, Trust.DISTRUSTED)

LOG = logging.getLogger(__name__)

ORDER: Final = (
    Delivery.FAILED,
    Delivery.UNSENT,
    Delivery.SENT,
    Delivery.DELIVERED,
    Delivery.DISPLAYED,
)
"""How far a message came, only ever further."""


class Heard(NamedTuple):
    """A read that has waited.

    Attributes:
        at: when it was, in seconds since the epoch; None where nobody has said.
        before: whether all unread ones before it in its conversation were read, too.
    """

    at: float | None
    before: bool = False


class Waiting:
    """Reads whose messages have not arrived, inside of one work.

    Args:
        vault: the work's transaction.
    """

    def __init__(self, vault: Transaction) -> None:
        self._vault = vault
        self._before = self._reads = _waiting(vault)

    def add(self, name: str, heard: Heard) -> None:
        """Let a read wait for the message with this replay id; of two, the earlier counts."""
        key = COVERING + name if heard.before else name
        others = {each: at for each, at in self._reads.items() if each != key}
        kept = list(others.items())[-MAXIMUM_WAITING + 1 :]
        known = [at for at in (heard.at, self._reads.get(key)) if at is not None]
        self._reads = {**dict(kept), key: min(known, default=None)}

    def take(self, names: Iterable[str]) -> list[Heard]:
        """Return the reads that have waited for the message with these replay ids."""
        keys = [(key, key != name) for name in names for key in (name, COVERING + name)]
        found = [Heard(self._reads[key], before) for key, before in keys if key in self._reads]
        if found:
            taken = {key for key, _ in keys}
            self._reads = {key: at for key, at in self._reads.items() if key not in taken}
        return found

    def write(self) -> None:
        """Write down what waits now."""
        if self._reads is not self._before:
            self._vault.put_value(WAITING, json.dumps(self._reads) if self._reads else None)


def mark_read(
    vault: Transaction,
    number: int,
    at: float,
    *,
    before: bool,
    conversation: BareJid | None = None,
) -> None:
    """Have the timer of a message run since `at`, in seconds; never later than it does already.

    Args:
        vault: the work's transaction.
        number: an incoming message; nothing happens to another one.
        at: when it was read.
        before: whether all unread ones before it in its conversation were, too. A message of a
            device that is not trusted covers no other: its place and its time are that device's.
        conversation: the one that it must be in; None where that is known.
    """
    with suppress(VaultDamaged):
        entry = vault.entry(number)
        if entry is None or entry.direction is not Direction.INCOMING:
            return
        if conversation not in (None, entry.conversation):
            return
        vault.apply(number, Event.READ, at)
        if not before or (entry.content is not None and entry.content.trust in UNTRUSTED):
            return
        for each in _unread(vault, entry, number - 1):
            # What came out of an archive later may have been sent before.
            if each.content is not None and each.content.sent_at <= _sent_at(entry):
                vault.apply(each.number, Event.READ, at)


def is_read_until(vault: Transaction, conversation: BareJid, number: int) -> bool:
    """Return whether no message of a conversation before this one is unread.

    What says "displayed up to here" would say more than is true otherwise (F18). Before it is what
    has come before it, and what was sent before it; many stamps are of whole seconds, so that one
    which has come later with the same stamp is none of those.
    """
    entry = vault.entry(number)
    if entry is None or entry.conversation != conversation:
        return False
    return not any(
        each.number <= number
        or (each.content is not None and each.content.sent_at < _sent_at(entry))
        for each in _unread(vault, entry, vault.next_number)
    )


def _unread(vault: Transaction, entry: Entry, until: int) -> Iterator[Entry]:
    """Yield the unread ones of a message's conversation, the newest first."""
    for each in vault.standings(entry.conversation, until, MAXIMUM_BEFORE):
        if each.phase is Phase.UNREAD and each.direction is Direction.INCOMING:
            with suppress(VaultDamaged):  # nobody can read it; it stops no other (F38)
                found = vault.entry(each.number)
                if found is not None:
                    yield found


def _sent_at(entry: Entry) -> float:
    """When a message was sent; of one that is gone that is not known, and anything was before."""
    return math.inf if entry.content is None else entry.content.sent_at


def last_read(vault: Transaction, conversation: BareJid, number: int) -> int | None:
    """Return the last message that was read with all before it; None if it is before this one.

    Messages are read in any order: the one that was in the way may be read after later ones.
    """
    entry = vault.entry(number)
    if entry is None or not is_read_until(vault, conversation, number):
        return None
    unread = list(_unread(vault, entry, vault.next_number))
    end = min((each.number for each in unread), default=vault.next_number)
    sent = min((_sent_at(each) for each in unread), default=math.inf)
    for each in vault.standings(conversation, end - 1, MAXIMUM_BEFORE):
        if each.number <= number:
            break
        if each.direction is Direction.INCOMING and each.phase is not Phase.GONE:
            with suppress(VaultDamaged):
                found = vault.entry(each.number)
                if found is not None and found.content is not None and _sent_at(found) <= sent:
                    return each.number
    return number


def mark_delivered(
    vault: Transaction, conversation: BareJid, number: int, delivery: Delivery
) -> list[Delivered]:
    """Note how far the peer says that a message of ours came; one displayed, with all before it.

    Returns:
        Those that it is news of, the oldest first. None for another conversation's message.
    """
    count = MAXIMUM_BEFORE if delivery is Delivery.DISPLAYED else 1
    found = [
        each
        for each in vault.standings(conversation, number, count)
        if each.direction is Direction.OUTGOING and each.delivery in ORDER
    ]
    if not any(each.number == number for each in found):
        return []
    # One that has not left, or has come back, cannot have been displayed: the marker is of one that
    # came after it.
    news = [
        each.number
        for each in found
        if ORDER.index(each.delivery) < ORDER.index(delivery)
        and (each.number == number or each.delivery not in (Delivery.UNSENT, Delivery.FAILED))
    ]
    return [_told(vault, conversation, each, delivery) for each in reversed(news)]


def mark_failed(vault: Transaction, conversation: BareJid, number: int) -> list[Delivered]:
    """Note that a server could not bring a message of ours to the peer (RFC 6120 section 8.3).

    Returns:
        It, unless the peer is known to have it, or it is another conversation's.
    """
    standing = vault.standings(conversation, number, 1)
    if not standing or standing[0].number != number:
        return []
    if standing[0].delivery not in (Delivery.SENT, Delivery.UNSENT):
        return []
    return [_told(vault, conversation, number, Delivery.FAILED)]


def _told(vault: Transaction, conversation: BareJid, number: int, delivery: Delivery) -> Delivered:
    if delivery is not Delivery.FAILED:
        with suppress(VaultDamaged):  # nobody can read it; what carries the news is kept (F38)
            entry = vault.entry(number)
            if entry is not None and entry.delivery is Delivery.UNSENT:
                vault.apply(number, Event.SENT, vault.now())  # it has left, whatever was known here
    vault.set_delivery(number, delivery)
    return Delivered(number, conversation, delivery)


def _waiting(vault: Transaction) -> dict[str, float | None]:
    """Return what waits; one value that is damaged must not close the way for every message."""
    try:
        return _reads(vault.value(WAITING))
    except VaultDamaged as error:
        LOG.warning("reads that waited for their messages are lost: %s", error)
        return {}


def _reads(text: str | None) -> dict[str, float | None]:
    try:
        reads = {} if text is None else json.loads(text)
        return {str(name): None if at is None else float(at) for name, at in reads.items()}
    except (ValueError, TypeError, AttributeError):
        raise VaultDamaged("the reads that wait for messages are damaged") from None
