"""A vault whose rows are on a PostgreSQL server: copies, owners, lost connections, crashes."""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, select

from eph_e2ee.errors import VaultInUse, VaultUnavailable
from eph_e2ee.model import Erasure
from eph_e2ee.vault.database import messages, state
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.postgresql import parse_address
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.vault.records import value_leaf
from eph_e2ee.vault.rootkey import FileRootKey
from eph_e2ee.vault.rows import leaf_of
from eph_e2ee.vault.vault import Vault
from tests.support.postgresql import Server, Site
from tests.vault.making import (
    MINUTE,
    PETER,
    TEXT,
    add_read,
    adding,
    new_message,
    texts,
)
from tests.vault.processes import OPEN, run
from tests.vault.test_residue import SENTINELS, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction
    from tests.support.clock import ManualClock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the keys are."""
    return tmp_path / "vault"


@pytest.fixture
def vault(folder: Path, clock: ManualClock, site: Site) -> Iterator[Vault]:
    """An open vault on the server."""
    vault = Vault.open(folder, clock=clock, database=site.address)
    yield vault
    vault.close_sync()


def open_dump(server: Server, dump: str, folder: Path, clock: ManualClock) -> list[bytes]:
    """Every secret of a dump that the keys in a folder open."""
    root_key, restored = FileRootKey(folder), server.make_database()
    server.restore(dump, restored)
    keys = Keys(KeyFile(folder), root_key, KeyFile(folder).read(root_key.candidates()), clock)
    (schema,) = Site(server, restored).schemas()
    engine = create_engine(
        parse_address(server.address(restored)),
        connect_args={"options": f"-c search_path={schema}"},
    )
    found: list[bytes] = []
    with engine.connect() as connection:
        for row in connection.execute(select(messages).where(messages.c.content.is_not(None))):
            found += attempt(keys, leaf_of(row), row.sealed_key, b"content key")
        for row in connection.execute(select(state)):
            leaf = value_leaf(row.sequence, row.epoch)
            found += attempt(keys, leaf, row.sealed, b"state" + row.hash)
    engine.dispose()
    server.drop_database(restored)
    return found


# Copies.


async def test_f11_a_dump_taken_before_expiry_opens_nothing_that_has_expired(
    vault: Vault, site: Site, folder: Path, clock: ManualClock
) -> None:
    await vault.transact(add_read)
    await vault.transact(lambda tx: tx.add(new_message("stays", message_id="2", timer=None)))
    dump = site.dump()
    assert len(open_dump(site.server, dump, folder, clock)) == 2
    clock.advance(MINUTE)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert len(open_dump(site.server, dump, folder, clock)) == 1
    assert texts(vault) == ["stays", None]


async def test_f11_f12_a_dump_opens_nothing_that_was_erased_or_overwritten(
    vault: Vault, site: Site, folder: Path, clock: ManualClock
) -> None:
    ratchets = Ratchets(vault)
    await vault.transact(lambda tx: [add_read(tx, message_id=str(i)) for i in range(3)])
    await ratchets.store("session", {"chain": 0})
    await ratchets.commit()
    dump = site.dump()
    assert len(open_dump(site.server, dump, folder, clock)) == 4
    await ratchets.store("session", {"chain": 1})
    await ratchets.commit()
    await vault.settle()
    assert len(open_dump(site.server, dump, folder, clock)) == 3
    await vault.transact(lambda tx: tx.erase(2))
    await vault.settle()
    assert len(open_dump(site.server, dump, folder, clock)) == 2


async def test_f1_f10_nothing_stands_in_clear_on_the_server_or_in_a_dump(
    folder: Path, clock: ManualClock
) -> None:
    """The server logs every statement with its parameters, and its own log is searched too."""
    with Server() as server:
        site = Site(server, server.make_database())
        vault = Vault.open(folder, clock=clock, database=site.address)
        await live(vault, clock)
        everything = server.every_byte() | {"dump": site.dump().encode()}
        assert any(b"INSERT INTO messages" in content for content in everything.values())
        assert_nothing_in_clear(everything)
        await vault.close()
        assert_nothing_in_clear(server.every_byte())


async def live(vault: Vault, clock: ManualClock) -> None:
    """Have something of every kind in a vault, read, erased, expired and still there."""
    ratchets = Ratchets(vault)
    await vault.transact(lambda tx: [add_read(tx, message_id=f"sentinel-{i}") for i in range(50)])
    await vault.transact(lambda tx: tx.add(new_message(conversation=PETER)))
    await ratchets.store("sentinel key", "sentinel value")
    await ratchets.commit()
    await vault.transact(lambda tx: tx.erase(7))
    clock.advance(MINUTE)
    await vault.expire_due()
    assert (await vault.sweep()).rows == 49


def assert_nothing_in_clear(files: dict[str, bytes]) -> None:
    for file, content in files.items():
        for sentinel in SENTINELS:
            for encoding in ("utf-8", "utf-16-le"):
                spelled = sentinel.decode().encode(encoding)
                assert spelled not in content, f"{sentinel!r} stands in {file}"
                # As the server's log spells bytes.
                assert spelled.hex().encode() not in content, f"{sentinel!r} stands in {file}"


# Owners.


def test_two_processes_with_vaults_in_one_database_do_not_see_each_other(
    vault: Vault, site: Site, folder: Path
) -> None:
    vault.transact_sync(adding("mine"))
    add = "vault.transact_sync(adding(argument)); print(texts(vault)); vault.close_sync()"
    other = folder.with_name("other")
    assert run(OPEN + add, other, site.address, "theirs") == (0, "['theirs']")
    assert run(OPEN + add, other, site.address, "again") == (0, "['again', 'theirs']")
    assert texts(vault) == ["mine"]
    assert len(site.schemas()) == 2


def test_a_vault_is_opened_once_also_from_a_copy_of_its_folder(
    vault: Vault, folder: Path, site: Site, clock: ManualClock
) -> None:
    with pytest.raises(VaultInUse):
        Vault.open(folder, clock=clock, database=site.address)
    assert run(OPEN, folder, site.address) == (1, "VaultInUse")
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert run(OPEN, copy, site.address) == (1, "VaultInUse")
    with pytest.raises(VaultInUse, match="another machine"):
        Vault.open(copy, clock=clock, database=site.address)
    vault.transact_sync(adding())
    vault.close_sync()
    again = Vault.open(folder, clock=clock, database=site.address)
    assert texts(again) == [TEXT]
    again.close_sync()


async def test_an_owner_that_came_while_the_connection_was_lost_is_the_owner(
    vault: Vault, site: Site, folder: Path, clock: ManualClock
) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    site.disconnect()
    other = await asyncio.to_thread(Vault.open, copy, clock=clock, database=site.address)
    with pytest.raises(VaultUnavailable):
        await vault.transact(adding("lost"))
    with pytest.raises(VaultInUse):
        await vault.transact(adding("lost"))
    await other.close()
    with pytest.raises(VaultInUse, match="elsewhere"):
        await vault.transact(adding("lost"))


def test_another_applications_tables_are_left_alone(
    site: Site, folder: Path, clock: ManualClock
) -> None:
    site.run("CREATE TABLE messages (theirs text)")
    site.run("CREATE SCHEMA eph_e2ee_theirs CREATE TABLE state (theirs text)")
    site.run("INSERT INTO messages VALUES ('a')")
    before = site.dump()
    vault = Vault.open(folder, clock=clock, database=site.address)
    vault.transact_sync(add_read)
    vault.close_sync()
    (mine,) = set(site.schemas()) - {"eph_e2ee_theirs"}
    site.run(f"DROP SCHEMA {mine} CASCADE")
    assert site.dump() == before


# Connections that are lost.


async def test_a_vault_outlives_the_restart_of_its_server(vault: Vault, site: Site) -> None:
    await vault.transact(adding("before", "1"))
    await asyncio.to_thread(site.server.restart)
    with pytest.raises(VaultUnavailable, match="is lost"):
        await vault.transact(adding("lost", "2"))
    await vault.transact(adding("after", "3"))
    assert texts(vault) == ["after", "before"]
    await vault.transact(lambda tx: tx.erase(1))
    assert await vault.settle() is Erasure.DESTROYED


async def test_a_server_that_is_away_is_unavailable_until_it_is_back(
    vault: Vault, site: Site
) -> None:
    await asyncio.to_thread(site.server.stop)
    for _ in range(3):
        with pytest.raises(VaultUnavailable):
            await vault.transact(adding("lost"))
    with pytest.raises(VaultUnavailable):
        await vault.expire_due()
    await asyncio.to_thread(site.server.start)
    await vault.transact(adding("after"))
    assert texts(vault) == ["after"]


def test_closing_while_the_server_is_away_says_pending_and_the_next_opening_does_it(
    vault: Vault, site: Site, folder: Path, clock: ManualClock
) -> None:
    vault.transact_sync(add_read)
    vault.transact_sync(lambda tx: tx.erase(1))
    site.server.stop()
    try:
        assert vault.close_sync() is Erasure.PENDING
        with pytest.raises(VaultUnavailable, match="cannot be reached"):
            Vault.open(folder, clock=clock, database=site.address)
    finally:
        site.server.start()
    again = Vault.open(folder, clock=clock, database=site.address)
    assert not again.unsettled
    again.close_sync()


async def test_a_session_that_is_ended_within_a_transaction_leaves_nothing_half_done(
    vault: Vault, site: Site
) -> None:
    def ended(tx: Transaction) -> None:
        tx.add(new_message("half done"))
        tx.put_value("key", "half done")
        site.disconnect()
        tx.put_value("other", "half done")

    with pytest.raises(VaultUnavailable) as caught:
        await vault.transact(ended)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert await vault.transact(lambda tx: (tx.value("key"), tx.value("other"))) == (None, None)
    await vault.transact(adding("after"))
    assert texts(vault) == ["after"]


# Crashes.


def test_f44_a_crash_between_the_commit_and_the_settling_is_finished_at_the_next_opening(
    site: Site, folder: Path, clock: ManualClock
) -> None:
    crash = """
vault.transact_sync(adding("kept", "1"))
number = vault.transact_sync(adding("erased", "2"))
vault.transact_sync(lambda tx: tx.erase(number))
die()
"""
    assert run(OPEN + crash, folder, site.address) == (-signal.SIGKILL, "")
    dump = site.dump()
    vault = Vault.open(folder, clock=clock, database=site.address)
    assert not vault.unsettled
    assert texts(vault) == [None, "kept"]
    assert len(open_dump(site.server, dump, folder, clock)) == 1
    vault.close_sync()
