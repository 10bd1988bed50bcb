"""Transactions of the vault's worker, settling, expiry, and its end."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.model import Erasure, Seconds
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault import keyfile, keyslots
from eph_e2ee.vault.database import intents
from eph_e2ee.vault.privatefile import write_through
from tests.vault.making import (
    MINUTE,
    PETER,
    ROSA,
    add_read,
    adding,
    hold,
    new_message,
    opened,
    reading,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from eph_e2ee.vault.worker import Job
    from tests.support.clock import ManualClock

    Write = Callable[[int, int, bytes], None]


def count_commits(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many works each commit had."""
    groups: list[int] = []
    commit = vault._keeper._commit

    def counted(group: list[Job[Any]]) -> None:
        groups.append(len(group))
        commit(group)

    monkeypatch.setattr(vault._keeper, "_commit", counted)
    return groups


async def test_works_that_wait_share_a_commit_in_the_order_of_the_calls(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = count_commits(vault, monkeypatch)
    release = await hold(vault)
    added = [vault.transact(adding(str(i))) for i in range(5)]
    release.set()
    numbers = list(await asyncio.gather(*added))
    assert numbers == sorted(numbers)
    assert groups == [1, 5]


async def test_a_work_that_fails_harms_no_other(vault: Vault) -> None:
    def failing(tx: Transaction) -> None:
        tx.add(new_message("half done", conversation=PETER))
        tx.put_value("key", "half done")
        raise KeyError

    release = await hold(vault)
    before = vault.transact(lambda tx: tx.add(new_message("before")))
    failed = vault.transact(failing)
    after = vault.transact(lambda tx: tx.add(new_message("after", conversation=PETER)))
    release.set()
    with pytest.raises(KeyError):
        await failed
    await asyncio.gather(before, after)
    assert await vault.transact(lambda tx: tx.value("key")) is None
    names = await vault.transact(lambda tx: [e.content for e in tx.entries(PETER, None, 9)])
    assert [content and content.body for content in names] == ["after"]


async def test_a_cancelled_work_runs_all_the_same(vault: Vault) -> None:
    release = await hold(vault)
    future = vault.transact(lambda tx: tx.put_value("key", "value"))
    future.cancel()
    release.set()
    assert await vault.transact(lambda tx: tx.value("key")) == "value"


def test_a_group_is_bounded(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eph_e2ee.vault.worker.MAXIMUM_GROUP", 2)
    groups = count_commits(vault, monkeypatch)

    async def main() -> None:
        release = await hold(vault)
        futures = [vault.transact(lambda tx: tx.value("key")) for _ in range(4)]
        release.set()
        await asyncio.gather(*futures)

    asyncio.run(main())
    assert groups == [1, 2, 2]


def test_reading_writes_nothing(vault: Vault, folder: Path) -> None:
    vault.transact_sync(lambda tx: tx.add(new_message()))
    before = (folder / "vault.db-wal").read_bytes()
    vault.transact_sync(lambda tx: tx.entries(ROSA, None, 10))
    assert (folder / "vault.db-wal").read_bytes() == before


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file of this process grow beyond what the log has now."""
    size = (folder / "vault.db-wal").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_full_disk_fails_the_whole_group_and_leaves_the_vault_usable(
    vault: Vault, folder: Path
) -> None:
    await vault.transact(lambda tx: tx.add(new_message("before", conversation=PETER)))

    def put_lost(tx: Transaction) -> int:
        tx.put_values({str(key): "lost" for key in range(50)})
        return 0

    release = await hold(vault)
    works = [
        vault.transact(adding("lost")),
        vault.transact(put_lost),
    ]
    with full_disk(folder):
        release.set()
        results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(result) for result in results] == [VaultUnavailable] * 2
    assert await vault.transact(lambda tx: (tx.entries(ROSA, None, 10), tx.value("1"))) == (
        [],
        None,
    )
    await vault.transact(lambda tx: tx.add(new_message("after")))
    await vault.transact(lambda tx: tx.put_value("1", "after"))
    assert await vault.transact(lambda tx: tx.value("1")) == "after"


async def test_settling_destroys_and_is_repeatable(vault: Vault) -> None:
    number = await vault.transact(adding())
    unsettled = [vault.unsettled]
    await vault.transact(lambda tx: tx.erase(number))
    unsettled.append(vault.unsettled)
    assert await vault.settle() is Erasure.DESTROYED
    unsettled.append(vault.unsettled)
    assert unsettled == [False, True, False]
    assert await vault.settle() is Erasure.DESTROYED


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each sync of the key file and the root key; SQLite's own are not seen."""
    done: list[str] = []

    def counted(where: str, write: Write) -> Write:
        def watched(descriptor: int, offset: int, data: bytes) -> None:
            done.append(where)
            write(descriptor, offset, data)

        return watched

    for place in (keyfile, keyslots):
        monkeypatch.setattr(place, "write_through", counted(place.__name__, write_through))
    return done


@pytest.mark.parametrize("count", [1, 300])
async def test_forgetting_takes_one_commit_and_three_syncs_for_any_number(
    vault: Vault,
    clock: ManualClock,
    syncs: list[str],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for index in range(count):
        await vault.transact(reading(str(index)))
    await vault.settle()
    clock.advance(MINUTE)
    syncs.clear()
    groups = count_commits(vault, monkeypatch)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert groups == [1]
    assert [place.rpartition(".")[2] for place in syncs] == ["keyfile", "keyslots", "keyslots"]


async def test_settling_without_intents_writes_nothing(vault: Vault, syncs: list[str]) -> None:
    await vault.transact(lambda tx: tx.add(new_message()))
    await vault.settle()
    assert syncs == []


@pytest.mark.parametrize("step", range(3))
async def test_a_settling_that_fails_keeps_its_intents_and_is_repeated(
    vault: Vault, folder: Path, clock: ManualClock, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await vault.transact(lambda tx: tx.add(new_message("kept", message_id="1")).number)
    number = await vault.transact(lambda tx: tx.add(new_message("erased")).number)
    await vault.transact(lambda tx: tx.erase(number))
    steps = iter(range(100))

    def refused(descriptor: int, offset: int, data: bytes) -> None:
        if next(steps) == step:
            raise OSError(28, "No space left on device")
        write_through(descriptor, offset, data)

    for place in (keyfile, keyslots):
        monkeypatch.setattr(place, "write_through", refused)
    with pytest.raises(VaultUnavailable, match="No space left"):
        await vault.settle()
    assert vault.unsettled
    entry = await vault.transact(lambda tx: tx.entry(kept))
    assert entry is not None
    assert entry.content is not None
    assert await vault.settle() is Erasure.DESTROYED
    await vault.close()
    again = opened(folder, clock)
    assert texts(again) == [None, "kept"]
    again.close_sync()


async def test_settled_intents_are_dropped_with_the_next_commit(vault: Vault) -> None:
    async def kept() -> int:
        count = select(func.count()).select_from(intents)
        return await vault.transact(lambda tx: int(tx.read(count).scalar_one()))

    number = await vault.transact(lambda tx: tx.add(new_message()).number)
    await vault.transact(lambda tx: tx.erase(number))
    await vault.settle()
    assert await kept() == 1
    await vault.transact(lambda tx: tx.value("a read drops nothing"))
    assert await kept() == 1
    await vault.transact(lambda tx: tx.add(new_message()))
    assert await kept() == 0


async def test_the_listener_hears_of_intents_and_deadlines_on_its_loop(vault: Vault) -> None:
    heard: list[int] = []
    vault.on_change = lambda: heard.append(threading.get_ident())
    number = await vault.transact(lambda tx: tx.add(new_message()).number)
    await vault.transact(lambda tx: tx.value("key"))
    assert heard == []
    await vault.transact(lambda tx: tx.apply(number, Event.READ, tx.now()))
    assert heard == [threading.get_ident()]
    await vault.transact(lambda tx: tx.erase(number))
    assert len(heard) == 2
    vault.on_change = None
    await vault.transact(add_read)
    assert len(heard) == 2


async def test_f2_a_scrub_that_a_reader_stops_says_so(
    vault: Vault, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(folder / "vault.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM messages").fetchall()
        await vault.transact(add_read)
        assert await vault.scrub() is False
    assert "not emptied" in caplog.text
    assert await vault.scrub() is True


async def test_a_statement_that_the_database_refuses_is_unavailable_without_its_parameters(
    vault: Vault,
) -> None:
    with pytest.raises(VaultUnavailable) as caught:
        await vault.transact(lambda tx: tx.read(text("SELECT nothing"), {"x": "sentinel"}))
    assert "sentinel" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_transaction_that_the_database_has_ended_fails_all_of_its_works(
    vault: Vault,
) -> None:
    """As a full disk may do it: the savepoint, which the driver is asked for, is gone."""

    def ended(tx: Transaction) -> None:
        add_read(tx)
        vault._keeper._database.execute_plain("ROLLBACK")
        raise ValueError("sentinel")

    release = await hold(vault)
    lost, failed = vault.transact(adding("lost")), vault.transact(ended)
    release.set()
    for outcome in await asyncio.gather(lost, failed, return_exceptions=True):
        assert isinstance(outcome, VaultUnavailable)
        assert (outcome.__cause__, outcome.__context__) == (None, None)
    assert texts(vault) == []
    await vault.transact(adding("afterwards"))
    assert texts(vault) == ["afterwards"]


def test_timers_beyond_every_32_bit_limit_are_ordinary(vault: Vault) -> None:
    """F16: timers above 2**31 milliseconds, and deadlines after 2038 and 2106."""
    timer = Seconds(2**32 - 1)
    number = vault.transact_sync(lambda tx: tx.add(new_message(timer=timer)).number)
    entry = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now()))
    assert entry.deadline is not None
    assert entry.deadline > 2**32
    assert texts(vault) == ["sentinel plaintext of a message"]


def test_the_files_are_private(vault: Vault, folder: Path) -> None:
    vault.transact_sync(add_read)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.path.lexists(folder / "vault.db-wal")
