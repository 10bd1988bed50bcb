"""The same messages in a vault and in plain SQLite, in clear."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Final

from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    MessageId,
    Phase,
    Seconds,
)
from eph_e2ee.protocol.lifetime import Lifetime
from eph_e2ee.vault.archive import NewMessage
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "BATCH",
    "PLAIN_INSERT",
    "PLAIN_REPLAY",
    "TIMER",
    "batches",
    "fill_plain",
    "fill_vault",
    "fresh_copy",
    "open_plain",
    "open_vault",
    "plain_rows",
]

BATCH: Final = 4000
"""Rows of one transaction, as `Vault.sweep` has them."""

TIMER: Final = Seconds(86_400)

PEER: Final = BareJid("rosa@example.org")
TEXT: Final = "m" * 100

SCHEMA: Final = """
CREATE TABLE messages (
    number INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, direction INTEGER NOT NULL,
    phase INTEGER NOT NULL, delivery INTEGER NOT NULL, timer INTEGER, deadline INTEGER,
    body TEXT, sender TEXT, device INTEGER, message_id TEXT, sent_at REAL
);
CREATE INDEX by_conversation ON messages (conversation, number);
CREATE INDEX by_deadline ON messages (deadline) WHERE phase = 3;
CREATE INDEX unsent ON messages (number) WHERE delivery = 0 AND phase <> 4;
CREATE TABLE replays (id TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""
"""The columns and indexes of the vault's tables, with the text where the vault has ciphertext."""

PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = OFF",
    "cache_size = -16384",
)
"""As durable as the vault, with the same cache, and nothing is overwritten."""

PLAIN_INSERT: Final = "INSERT INTO messages VALUES (?, 1, 0, 3, 2, ?, ?, ?, ?, ?, ?, ?)"
PLAIN_REPLAY: Final = "INSERT OR IGNORE INTO replays VALUES (?, ?)"


def batches(count: int, deadline: int) -> Iterator[list[NewMessage]]:
    """So many messages, read already, which all disappear at the same second."""
    numbers = iter(range(count))
    while chosen := list(itertools.islice(numbers, BATCH)):
        yield [_message(number, deadline) for number in chosen]


def _message(number: int, deadline: int) -> NewMessage:
    # Ids as they come in life: in no order, which is what an index of them costs.
    chance = hashlib.blake2b(b"%d" % number).hexdigest()
    message_id, archive_id = chance[:32], chance[32:52]
    return NewMessage(
        conversation=PEER,
        direction=Direction.INCOMING,
        lifetime=Lifetime(Phase.RUNNING, TIMER, deadline),
        delivery=Delivery.RECEIVED,
        content=Content(TEXT, (), PEER, DeviceId(7), MessageId(message_id), 1_750_000_000.5),
        replay_ids=(f"key {chance}", f"id {PEER} {message_id}", f"archive {archive_id}"),
    )


def plain_rows(
    new: list[NewMessage], first: int
) -> tuple[list[tuple[object, ...]], list[tuple[str | bytes, int]]]:
    """What plain SQLite keeps of messages: their rows, and the ids that tell a replay."""
    rows: list[tuple[object, ...]] = []
    ids: list[tuple[str | bytes, int]] = []
    for number, message in enumerate(new, first):
        content, life = message.content, message.lifetime
        text = (content.body, content.sender, content.device, content.message_id, content.sent_at)
        rows.append((number, life.timer, life.deadline, *text))
        ids += [(replay_id, number) for replay_id in message.replay_ids]
    return rows, ids


def open_plain(path: Path) -> sqlite3.Connection:
    """A plain database, made when it is missing."""
    missing = not path.exists()
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    if missing:
        connection.executescript(SCHEMA)
    return connection


def open_vault(path: Path) -> tuple[Vault, ManualClock]:
    """A vault and the clock that it goes by."""
    clock = ManualClock()
    return Vault.open(path, clock=clock), clock


def fill_vault(path: Path, count: int) -> None:
    """Make a vault of so many messages, in batches, that disappear in `TIMER` seconds."""
    vault, clock = open_vault(path)
    for new in batches(count, int(clock.now()) + TIMER):
        vault.transact_sync(lambda transaction, new=new: transaction.add_many(new))  # type: ignore[misc]
    vault.close_sync()


def fill_plain(path: Path, count: int) -> None:
    """Make a plain database of the same messages."""
    connection = open_plain(path)
    first, deadline = 1, int(ManualClock().now()) + TIMER
    for new in batches(count, deadline):
        rows, ids = plain_rows(new, first)
        first += len(new)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(PLAIN_INSERT, rows)
        connection.executemany(PLAIN_REPLAY, ids)
        connection.execute("COMMIT")
    connection.close()


def fresh_copy(original: Path, copy: Path) -> Path:
    """Copy a closed vault or database, and have nothing else of it waiting for the disk."""
    if original.is_dir():
        shutil.copytree(original, copy)
    else:
        shutil.copy2(original, copy)
    for path in [copy, *copy.rglob("*")] if copy.is_dir() else [copy]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return copy
