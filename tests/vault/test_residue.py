"""What the bytes of a vault's folder tell: nothing in clear, and after forgetting nothing at all.

The attacker of these tests has every file, at any time, and at the end the keys as well.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import Forgotten, VaultDamaged, VaultError
from eph_e2ee.model import Direction, Erasure
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.paths import Leaf, Region
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.vault.rootkey import FileRootKey
from tests.vault.making import (
    MINUTE,
    PETER,
    ROSA,
    TEXT,
    add_read,
    adding,
    every_byte,
    new_message,
)

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

SENTINELS = (b"sentinel", b"example.org")
"""In every text, bare JID, id and value here; in a megabyte of noise four letters stand by chance
once in four thousand runs."""


def assert_nothing_in_clear(folder: Path) -> None:
    for name, content in every_byte(folder).items():
        for encoding in ("utf-8", "utf-16-le"):
            for sentinel in SENTINELS:
                found = sentinel.decode().encode(encoding) in content
                assert not found, f"{sentinel!r} stands in {name} as {encoding}"


async def test_f1_f4_f5_f6_nothing_stands_in_clear_in_any_file_at_any_time(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    ratchets = Ratchets(vault)
    many = [new_message(f"{TEXT} {i}", message_id=f"sentinel-{i}") for i in range(300)]
    numbers = [e.number for e in await vault.transact(lambda tx: tx.add_many(many))]
    await vault.transact(lambda tx: tx.add(new_message(conversation=PETER)))
    await ratchets.store("sentinel key", "sentinel value")
    await ratchets.commit()
    await vault.transact(lambda tx: tx.put_value(f"agreement:{ROSA}", "sentinel agreement"))
    assert_nothing_in_clear(folder)

    def read_half_and_erase_some(tx: Transaction) -> None:
        for number in numbers[::2]:
            tx.apply(number, Event.READ, tx.now())
        for number in numbers[::7]:
            tx.erase(number)

    await vault.transact(read_half_and_erase_some)
    await vault.settle()
    clock.advance(MINUTE)
    await vault.expire_due()
    while (await vault.sweep(40)).rows:
        assert_nothing_in_clear(folder)
    await vault.transact(lambda tx: tx.erase_conversation(PETER))
    await vault.scrub()
    assert_nothing_in_clear(folder)
    assert await vault.close() is Erasure.DESTROYED
    assert_nothing_in_clear(folder)
    assert not [name for name in every_byte(folder) if "wal" in name or "journal" in name]


def open_everything(database: Path, folder: Path, clock: ManualClock) -> list[bytes]:
    """Every secret of a copy of the database that the keys in a folder open."""
    root_key = FileRootKey(folder)
    opened_file = KeyFile(folder).read(root_key.candidates())
    keys = Keys(KeyFile(folder), root_key, opened_file, clock)
    found: list[bytes] = []
    with closing(sqlite3.connect(database)) as connection:
        for number, region, group, sealed in connection.execute(
            "SELECT number, region, leaf_group, sealed_key FROM messages WHERE content NOT NULL"
        ):
            found += attempt(keys, Leaf(Region(region), group, number), sealed, b"content key")
        for name, sequence, sealed in connection.execute(
            "SELECT hash, sequence, sealed FROM state"
        ):
            leaf = Leaf(Region.RATCHET, 0, sequence)
            found += attempt(keys, leaf, sealed, b"state" + name)
    return found


def attempt(keys: Keys, leaf: Leaf, sealed: bytes, kind: bytes) -> list[bytes]:
    try:
        return [keys.open(leaf, sealed, kind)]
    except (Forgotten, VaultDamaged):
        return []


def copy_of_database(folder: Path, to: Path) -> Path:
    """A consistent copy, the log included, as a backup or a forensic image has it."""
    to.mkdir()
    for path in folder.glob("vault.db*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, to)
    return to / "vault.db"


async def test_f11_a_copy_of_the_database_taken_before_is_worthless_after_expiry(
    vault: Vault, folder: Path, clock: ManualClock, tmp_path: Path
) -> None:
    await vault.transact(adding("unread when copied, then read", "1"))
    early = copy_of_database(folder, tmp_path / "early")
    await vault.transact(lambda tx: tx.apply(1, Event.READ, tx.now()))
    await vault.transact(add_read)
    outgoing = new_message(direction=Direction.OUTGOING, message_id="3")
    await vault.transact(lambda tx: tx.apply(tx.add(outgoing).number, Event.SENT, tx.now()))
    late = copy_of_database(folder, tmp_path / "late")
    await vault.settle()
    # The copies are good: before its time comes, each message opens.
    assert len(open_everything(late, folder, clock)) == 3
    clock.advance(MINUTE)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert open_everything(early, folder, clock) == []
    assert open_everything(late, folder, clock) == []


async def test_a_copy_is_worthless_after_erasing_a_message_or_a_conversation(
    vault: Vault, folder: Path, clock: ManualClock, tmp_path: Path
) -> None:
    for index in range(6):
        await vault.transact(adding(str(index), str(index)))
    await vault.transact(lambda tx: tx.add(new_message(conversation=PETER)))
    copy = copy_of_database(folder, tmp_path / "copy")
    assert len(open_everything(copy, folder, clock)) == 7
    await vault.transact(lambda tx: tx.erase(3))
    await vault.settle()
    assert len(open_everything(copy, folder, clock)) == 6
    await vault.transact(lambda tx: tx.erase_conversation(ROSA))
    await vault.settle()
    assert len(open_everything(copy, folder, clock)) == 1


async def test_f12_overwritten_ratchet_values_never_open_again(
    vault: Vault, folder: Path, clock: ManualClock, tmp_path: Path
) -> None:
    ratchets = Ratchets(vault)
    copies = []
    for step in range(4):
        await ratchets.store("session", {"chain": step})
        await ratchets.commit()
        copies.append(copy_of_database(folder, tmp_path / str(step)))
    await vault.settle()
    found = [len(open_everything(copy, folder, clock)) for copy in copies]
    assert found == [0, 0, 0, 1]
    await ratchets.delete("session")
    await ratchets.commit()
    await vault.settle()
    assert open_everything(copies[-1], folder, clock) == []


async def test_the_old_key_file_is_worthless_with_the_new_root_key(
    vault: Vault, folder: Path, tmp_path: Path
) -> None:
    await vault.transact(add_read)
    shutil.copytree(folder, tmp_path / "before", ignore=shutil.ignore_patterns("*.db*", "lock"))
    await vault.transact(lambda tx: tx.erase(1))
    await vault.settle()
    shutil.copy(folder / "root.key", tmp_path / "before")
    root_key = FileRootKey(tmp_path / "before")
    with pytest.raises(VaultError):
        KeyFile(tmp_path / "before").read(root_key.candidates())
