"""What the tests of the vault are made of."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    Entry,
    MessageId,
    Seconds,
)
from eph_e2ee.protocol.lifetime import Event, created
from eph_e2ee.vault.archive import NewMessage, Transaction
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock

ROSA = BareJid("rosa-sentinel@example.org")
PETER = BareJid("peter-sentinel@example.org")
TEXT = "sentinel plaintext of a message"
MINUTE = Seconds(60)


def new_message(
    text: str = TEXT,
    *,
    conversation: BareJid = ROSA,
    direction: Direction = Direction.INCOMING,
    timer: Seconds | None = MINUTE,
    message_id: str = "sentinel-id",
) -> NewMessage:
    """A message that has just arrived, or that was just composed."""
    outgoing = direction is Direction.OUTGOING
    return NewMessage(
        conversation,
        direction,
        created(direction, timer),
        Delivery.UNSENT if outgoing else Delivery.RECEIVED,
        Content(text, ("<a xmlns='b'/>",), conversation, DeviceId(7), MessageId(message_id), 1.5),
        (f"{conversation} {message_id}",),
    )


def adding(text: str = TEXT, message_id: str = "sentinel-id") -> Callable[[Transaction], int]:
    """A work that adds an unread message and returns its number."""
    return lambda transaction: transaction.add(new_message(text, message_id=message_id)).number


def reading(message_id: str) -> Callable[[Transaction], int]:
    """A work that adds a message and reads it, so that its timer runs; returns its number."""
    return lambda transaction: add_read(transaction, message_id=message_id)


def add_read(transaction: Transaction, text: str = TEXT, message_id: str = "sentinel-id") -> int:
    """Add a message and read it, so that its timer runs; returns its number."""
    number = transaction.add(new_message(text, message_id=message_id)).number
    transaction.apply(number, Event.READ, transaction.now())
    return number


def texts(vault: Vault, conversation: BareJid = ROSA) -> list[str | None]:
    """The texts of a conversation, the newest first; None for a tombstone."""
    return bodies(vault.transact_sync(lambda tx: tx.entries(conversation, None, 1000)))


def bodies(entries: Iterable[Entry]) -> list[str | None]:
    """The texts of entries; None for a tombstone."""
    return [None if entry.content is None else entry.content.body for entry in entries]


def opened(folder: Path, clock: ManualClock) -> Vault:
    """The vault in a folder."""
    return Vault.open(folder, clock=clock)


def every_byte(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def hold(vault: Vault) -> threading.Event:
    """Keep the worker busy until the event is set, so that works queue up behind."""
    begun, release = threading.Event(), threading.Event()

    def work(_: Transaction) -> None:
        begun.set()
        release.wait()

    vault.transact(work)
    await asyncio.to_thread(begun.wait)
    return release
