"""Messages that wait for somebody to decide on their device: as they came, still encrypted.

Nothing of them can be shown by accident, nothing that they say counts, and no key of theirs is
spent: they are opened once the device is trusted, in their order, as if they had just come.

So do those whose sender's keys could not be asked for. They are not left to the archive, which goes
on behind them: not every server has one, and it would be read from there each time.
"""

import asyncio
import hashlib
import json
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from eph_e2ee.clock import Clock
from eph_e2ee.errors import (
    EphemeralError,
    LocalProtocolError,
    RemoteProtocolError,
    VaultClosed,
    VaultDamaged,
    VaultError,
)
from eph_e2ee.incoming import Incoming, Received
from eph_e2ee.model import BareJid, Entry, MessageId, Seconds
from eph_e2ee.protocol import xml
from eph_e2ee.retrying import GIVEN_UP, Retrying
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.parcel import OLD, sending_device
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.stanzas import Arrival, Way

__all__ = ["Withheld"]

MOST_OF_ONE: Final = 64
"""Messages of one account that wait: anybody can write to us, and nobody has seen these yet. The
first ones stay, for the others need the keys that they bring."""

LARGEST_OF_ONE: Final = 256 * 1024
"""Characters of what waits of one account: a message as large as servers let pass, or many."""

LARGEST: Final = 4 * LARGEST_OF_ONE
"""Characters of all that wait together; every further message has them written anew. Beyond it the
account with most of them gives way, so that whoever makes up accounts leaves the others a place."""

WAITING: Final = "withheld messages"
"""The value of the vault that keeps them."""

UNTOLD: Final = "untold withheld messages"
"""The value with the numbers of those that were opened, until somebody has been told."""


class _Item(NamedTuple):
    """One message, as JSON has it.

    Attributes:
        arrived: when, in seconds since the epoch.
        device: the one that says it has sent it; None where it says nothing sensible, or its keys
            are not here.
        stanza: the `<message/>` element.
        rest: the other fields of an `Arrival`, in their order.
        digest: of what is encrypted in it: a copy has the same.
        keyless: whether it waits for its sender's keys, and not for anybody to decide.
    """

    arrived: float
    device: int | None
    stanza: str
    rest: list[Any]
    digest: str = ""
    keyless: bool = False

    def is_over(self, now: float, cap: float | None) -> bool:
        """Whether it has waited for long enough."""
        age = now - self.arrived
        return (cap is not None and age >= cap) or (self.keyless and age >= GIVEN_UP)


class Withheld:
    """Keeps what has to wait, and opens it when it need not any more.

    Args:
        account: where trust is known.
        vault: where it waits.
        incoming: what opens it.
        clock: what its arrival is measured by.
        unread_cap: how long messages with a timer are kept that nobody reads; any of these may
            have one.

    Attributes:
        is_left: called in a commit: whether somebody else tells of what is kept of a conversation.
        retrying: opens again what waits for keys.
    """

    def __init__(
        self,
        account: Account,
        vault: Vault,
        incoming: Incoming,
        clock: Clock,
        unread_cap: Seconds | None,
    ) -> None:
        self._account = account
        self._vault = vault
        self._incoming = incoming
        self._clock = clock
        self._unread_cap = unread_cap
        self._opening = asyncio.Lock()
        # By the vault's worker alone, where a work that was queued before a cancellation runs
        # before everything of the next reopening.
        self._due: set[tuple[BareJid, str]] = set()
        self._told: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_left: Callable[[Transaction, BareJid], bool] = lambda *_: False
        self.retrying = Retrying(account, self.reopen)
        incoming.on_withheld = self.keep

    def keep(
        self, vault: Transaction, arrivals: Sequence[Arrival], keyless: Sequence[Arrival] = ()
    ) -> list[Arrival]:
        """Have arrivals wait behind the others, as far as there is room; of copies the first.

        What is being opened and comes here instead waits on: its device is undecided again, or is
        another one than it says.

        What does not open any more stops nobody (F38): nothing is added to it.

        Of some the sender's keys could not be asked for: they are `keyless`. Returned are those
        that have waited before, and for the same.
        """
        waited = []
        with suppress(VaultDamaged):
            items = before = self._alive(vault)
            known = {(each.keyless, _name(each)) for each in before}
            for arrival in arrivals:
                item = _packed(arrival, self._clock.now(), self._account.fingerprint(arrival))
                if item is not None:
                    if arrival in keyless:
                        item = item._replace(keyless=True, device=None)
                    if (item.keyless, _name(item)) in known:
                        waited.append(arrival)
                    items = _with(items, item)
                    self._due.discard(_name(item))
            if items is not before:
                _write(vault, items)
        return waited

    async def reopen(self, sender: BareJid) -> None:
        """Open what waits of an account, but for what comes from devices still to be decided on.

        Canceling it is safe: what has begun goes on, and all that is opened is told of.

        Raises:
            NotSent: OMEMO does not run; all waits still.
            VaultError: not all was stored; what was not waits still.
        """
        task = self._account.start(self._reopen(sender))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task})
        if task.cancelled():
            raise VaultClosed("the chat was closed: what is withheld waits for the next one")
        task.result()

    @contained
    async def begin(self) -> None:
        """Do so for all: trust may have been decided on just before the last session ended.

        What was opened by then, and nobody was told of, comes first.
        """
        await self._account.omemo.running()
        async with self._opening:
            await self._tell([])
        items = await self._vault.transact(self._alive)
        for sender in dict.fromkeys(map(_sender, items)):
            await self.reopen(sender)

    async def stop(self) -> None:
        """Open nothing any more; who has not been told is told at the next beginning."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self, vault: Transaction, conversation: BareJid) -> None:
        """Forget what waits of a conversation, inside of a work of the vault."""
        own = self._account.bare
        with suppress(VaultDamaged):  # nobody can read it any more
            _write(vault, [each for each in _read(vault) if _peer(each, own) != conversation])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

    async def _reopen(self, sender: BareJid) -> None:
        async with self._opening:
            try:
                opened = await self._opened(sender)
            except EphemeralError:
                with suppress(VaultError):  # the first one says more
                    await self._tell([])  # of what was stored before that
                raise
            await self._tell(opened)

    async def _opened(self, sender: BareJid) -> list[Received]:
        """What of an account could be opened, which nobody has been told of."""
        if all(_sender(item) != sender for item in await self._vault.transact(self._alive)):
            return []
        undecided = await self._account.devices.undecided(sender)

        def chosen(vault: Transaction) -> list[_Item]:
            own = [item for item in self._alive(vault) if _sender(item) == sender]
            items = [item for item in own if item.device not in undecided]
            self._due = set(map(_name, items))
            return items

        due = await self._vault.transact(chosen)

        def drop(vault: Transaction) -> None:
            gone = [item for item in due if _name(item) in self._due]
            _write(vault, [item for item in self._alive(vault) if item not in gone])

        arrivals = [_unpacked(item) for item in due]
        return await self._incoming.take_archived(arrivals, drop, new=False, note=self._note)

    def _note(self, vault: Transaction, entries: list[Entry]) -> None:
        """Note with what is opened that somebody is to be told, whatever ends us before that."""
        with suppress(VaultDamaged):  # nobody can read the note any more
            numbers = [
                entry.number
                for entry in entries
                if entry.content is not None and not self.is_left(vault, entry.conversation)
            ]
            if numbers:
                _write_untold(vault, [*_untold(vault), *numbers])

    async def _tell(self, opened: list[Received]) -> None:
        """Tell of all that is noted, each once, also where the vault does not take that it was."""
        known = {each.number: each for each in opened}

        def noted(vault: Transaction) -> tuple[list[int], list[Entry]]:
            numbers = sorted(_untold(vault))
            return numbers, [
                entry for each in numbers for entry in vault.entries_between(each, each + 1)
            ]

        numbers, entries = await self._vault.transact(noted)
        for entry in entries:
            if entry.content is not None and entry.number not in self._told:
                self._told.add(entry.number)
                received = known.get(entry.number, Received(entry.number))
                self._incoming.on_message(replace(received, entry=entry))
        if numbers:
            with suppress(VaultError):  # the next time
                await self._vault.transact(lambda vault: _strike(vault, numbers))
                self._told.clear()

    def _alive(self, vault: Transaction) -> list[_Item]:
        """What waits; what nobody has read within the cap is forgotten (F19)."""
        items, now = _read(vault), self._clock.now()
        alive = [item for item in items if not item.is_over(now, self._unread_cap)]
        if len(alive) != len(items):
            _write(vault, alive)
        return alive


def _read(vault: Transaction) -> list[_Item]:
    text = vault.value(WAITING)
    try:
        return [] if text is None else [_Item(*item) for item in json.loads(text)]
    except (ValueError, TypeError):
        raise VaultDamaged("the messages that are withheld are damaged: restore them") from None


def _write(vault: Transaction, items: list[_Item]) -> None:
    text = json.dumps(items, ensure_ascii=False) if items else None
    if text is not None or vault.value(WAITING) is not None:
        vault.put_value(WAITING, text)


def _untold(vault: Transaction) -> list[int]:
    text = vault.value(UNTOLD)
    try:
        return [] if text is None else [operator.index(each) for each in json.loads(text)]
    except (ValueError, TypeError):
        raise VaultDamaged(
            "the list of messages to tell of is damaged: the history has them"
        ) from None


def _write_untold(vault: Transaction, numbers: list[int]) -> None:
    vault.put_value(UNTOLD, json.dumps(numbers) if numbers else None)


def _strike(vault: Transaction, numbers: list[int]) -> None:
    _write_untold(vault, [each for each in _untold(vault) if each not in numbers])


def _sender(item: _Item) -> BareJid:
    return BareJid(item.rest[0])


def _name(item: _Item) -> tuple[BareJid, str]:
    """What a message and its copies share, and no other that waits."""
    return _sender(item), item.digest


def _with(items: list[_Item], item: _Item) -> list[_Item]:
    """The items with another one; as they were, if it is a copy or has no room.

    Where all together are too large, the account with most loses its last one, until they fit. If
    that account is its own, nobody loses any.
    """
    own = [each for each in items if _sender(each) == _sender(item)]
    same = next((each for each in own if each.digest == item.digest), None)
    if same is not None and same.keyless != item.keyless:  # what it waits for is another thing now
        changed = same._replace(keyless=item.keyless, device=item.device)
        return [changed if each is same else each for each in items]
    if same is not None or len(own) >= MOST_OF_ONE or _size([*own, item]) > LARGEST_OF_ONE:
        return items
    kept = [item, *items]  # in front, where of two accounts with as much it is the one to go
    excess = _size(kept) - LARGEST
    while excess > 0:
        sizes = Counter[BareJid]()
        for each in kept:
            sizes[_sender(each)] += len(each.stanza)
        ((most, _),) = sizes.most_common(1)
        if most == _sender(item):
            return items
        last = max(place for place, each in enumerate(kept) if _sender(each) == most)
        excess -= len(kept.pop(last).stanza)
    return [*kept[1:], item]


def _size(items: list[_Item]) -> int:
    return sum(len(item.stanza) for item in items)


def _packed(arrival: Arrival, now: float, fingerprint: str | None) -> _Item | None:
    try:
        data = xml.serialize(arrival.xml)
        xml.parse(data)
    except (LocalProtocolError, RemoteProtocolError):  # larger or deeper than any message
        return None
    sent_at = datetime.fromtimestamp(now, UTC) if arrival.sent_at is None else arrival.sent_at
    rest = [
        arrival.sender,
        arrival.recipient,
        arrival.message_id,
        arrival.archive_id,
        sent_at.isoformat(),
        arrival.way.value,
        arrival.room,
        arrival.member,
    ]
    digest = _digest(arrival, fingerprint)
    return _Item(now, sending_device(arrival.xml), data.decode(), rest, digest)


def _digest(arrival: Arrival, fingerprint: str | None) -> str:
    """What copies of a message share, whatever servers have written beside it."""
    if fingerprint is None:  # legacy OMEMO
        encrypted = arrival.xml.findall(f"{{{OLD}}}encrypted")
        fingerprint = "".join(xml.serialize(each).decode() for each in encrypted)
    return hashlib.sha256(fingerprint.encode()).hexdigest()


def _unpacked(item: _Item) -> Arrival:
    sender, recipient, message_id, archive_id, sent_at, way, room, member = item.rest
    return Arrival(
        xml=xml.parse(item.stanza.encode()),
        sender=BareJid(sender),
        recipient=BareJid(recipient),
        message_id=MessageId(message_id),
        archive_id=archive_id,
        sent_at=datetime.fromisoformat(sent_at),
        way=Way(way),
        room=None if room is None else BareJid(room),
        member=member,
    )


def _peer(item: _Item, own: BareJid) -> BareJid:
    """The conversation that a message belongs to: see `Letters.peer`."""
    sender, recipient, *_, room, _ = item.rest
    return BareJid(room or (recipient if sender == own else sender))
