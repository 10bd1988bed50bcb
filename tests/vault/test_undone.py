"""Retries, refusals and commits of unknown outcome, in places where a leaf could be given twice."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from eph_e2ee.clock import Reading
from eph_e2ee.errors import VaultError, VaultUnavailable
from eph_e2ee.model import Direction, Erasure, Seconds
from eph_e2ee.protocol.lifetime import Event, created
from eph_e2ee.vault import keeper, resealing
from eph_e2ee.vault.database import CLOCK, messages, meta
from eph_e2ee.vault.paths import Region
from tests.vault.making import MINUTE, ROSA, adding, hold, new_message, opened, texts
from tests.vault.test_resealing import COUNT, erase, fill, keys, leaves, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

DAY = Seconds(86_400)
LIVING = [f"text {i}" for i in range(COUNT - 1, 0, -2)]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that some hundred messages reach, and batches that take several steps."""
    monkeypatch.setattr(keeper, "MANY_NODES", 150)
    monkeypatch.setattr(keeper, "MAXIMUM_NODES", 5000)
    monkeypatch.setattr(resealing, "BATCH", 7)


@contextmanager
def commit_answer_lost(vault: Vault) -> Iterator[None]:
    """Have the database commit, and the answer never come."""
    dialect = vault._keeper.database.connection.engine.dialect
    commit = dialect.do_commit

    def committed(connection: Any) -> None:
        commit(connection)
        raise dialect.loaded_dbapi.OperationalError("no answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "do_commit", committed)
        yield


@contextmanager
def refused(vault: Vault) -> Iterator[None]:
    """Have every commit fail, and be undone."""

    def refuse() -> None:
        raise VaultUnavailable("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault._keeper, "_keep_house", refuse)
        yield


@contextmanager
def commit_refused(vault: Vault) -> Iterator[None]:
    """Have the database undo whatever it is to commit."""
    dialect = vault._keeper.database.connection.engine.dialect

    def refuse(connection: Any) -> None:
        dialect.do_rollback(connection)
        raise dialect.loaded_dbapi.OperationalError("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "do_commit", refuse)
        yield


def written(vault: Vault) -> Reading:
    """The clock's reading that the database has."""
    text = select(meta.c.value).where(meta.c.name == CLOCK)
    return Reading.from_json(vault.transact_sync(lambda tx: tx.read(text).scalar_one()))


def failing(work: Callable[[Transaction], object]) -> Callable[[Transaction], None]:
    """A work that is undone after all that it has done."""

    def undone(tx: Transaction) -> None:
        work(tx)
        raise ZeroDivisionError

    return undone


def living(vault: Vault) -> list[str]:
    return [text for text in texts(vault) if text is not None]


async def crowded(vault: Vault, *, read: bool = False) -> list[int]:
    numbers = fill(vault, read=read)
    erase(vault, numbers[::2])
    await vault.settle()
    return numbers


async def test_a_commit_that_fails_while_a_region_moves_loses_nothing_that_has_moved(
    vault: Vault,
) -> None:
    await crowded(vault)
    for _ in range(4):
        assert await vault.reseal()
    with refused(vault), pytest.raises(VaultUnavailable):
        vault.transact_sync(adding("lost", "lost"))
    await settled(vault)
    assert living(vault) == LIVING


@pytest.mark.parametrize("settles", [True, False])
async def test_a_batch_that_was_undone_moves_when_it_is_tried_again(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, *, settles: bool
) -> None:
    await crowded(vault)
    assert await vault.reseal()
    move = resealing.move

    def broken(*given: Any) -> None:
        move(*given)
        raise VaultUnavailable("the statement took too long")

    with monkeypatch.context() as patch:
        patch.setattr(resealing, "move", broken)
        with pytest.raises(VaultUnavailable):
            await vault.reseal()
    if settles:
        assert await vault.settle() is Erasure.DESTROYED
    await settled(vault)
    assert living(vault) == LIVING


@pytest.mark.parametrize("settles", [True, False])
async def test_reading_that_was_undone_can_be_repeated_in_the_same_second(
    vault: Vault, *, settles: bool
) -> None:
    number = vault.transact_sync(adding("kept"))

    def read(tx: Transaction) -> None:
        tx.apply(number, Event.READ, tx.now())

    with pytest.raises(ZeroDivisionError):
        vault.transact_sync(failing(read))
    if settles:
        await vault.settle()
    vault.transact_sync(read)
    await settled(vault)
    assert living(vault) == ["kept"]


async def test_a_message_kept_in_one_commit_with_the_clearing_before_it_stays(
    vault: Vault,
) -> None:
    vault.transact_sync(adding("old", "1"))
    release = await hold(vault)
    cleared = vault.transact(lambda tx: tx.erase_conversation(ROSA))
    added = vault.transact(adding("new", "2"))
    release.set()
    await asyncio.gather(cleared, added)
    assert await vault.settle() is Erasure.DESTROYED
    assert texts(vault) == ["new", None]


async def test_a_value_can_be_put_after_one_was_undone_settled_and_the_vault_closed(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    with pytest.raises(ZeroDivisionError):
        vault.transact_sync(failing(lambda tx: tx.put_value("key", "undone")))
    await vault.settle()
    await vault.close()
    again = opened(folder, clock)
    try:
        again.transact_sync(lambda tx: tx.put_value("key", "kept"))
        assert again.transact_sync(lambda tx: tx.value("key")) == "kept"
    finally:
        again.close_sync()


async def test_values_survive_a_sealing_anew_that_was_undone_before_the_vault_was_closed(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    vault.transact_sync(lambda tx: tx.put_values({"one": "1", "two": "2"}))
    # Values so many that they need more sequence numbers than are reserved.
    vault.transact_sync(lambda tx: tx.put_values({f"key {i}": "0" for i in range(997)}))
    with pytest.raises(ZeroDivisionError):
        vault.transact_sync(failing(lambda tx: resealing.begin(tx, Region.RATCHET)))
    await vault.settle()
    await vault.close()
    again = opened(folder, clock)
    try:
        again.transact_sync(lambda tx: resealing.begin(tx, Region.RATCHET))
        await again.settle()
        assert again.transact_sync(lambda tx: tx.value("one")) == "1"
    finally:
        again.close_sync()


async def test_a_clearing_whose_commit_had_no_answer_costs_no_later_message(vault: Vault) -> None:
    vault.transact_sync(adding("old", "1"))
    with commit_answer_lost(vault), pytest.raises(VaultUnavailable):
        vault.transact_sync(lambda tx: tx.erase_conversation(ROSA))
    vault.transact_sync(adding("new", "2"))
    assert await vault.settle() is Erasure.DESTROYED
    assert texts(vault) == ["new", None]


@pytest.mark.parametrize("region", [*Region, None])
async def test_f12_values_put_after_a_sealing_anew_without_an_answer_are_kept(
    vault: Vault, region: Region | None
) -> None:
    vault.transact_sync(lambda tx: tx.put_value("key", "old"))
    vault.transact_sync(adding("kept"))

    def begin(tx: Transaction) -> None:
        resealing.begin_all(tx) if region is None else resealing.begin(tx, region)

    with commit_answer_lost(vault), pytest.raises(VaultUnavailable):
        vault.transact_sync(begin)
    vault.transact_sync(lambda tx: tx.put_value("key", "new"))
    assert await vault.settle() is Erasure.DESTROYED
    vault.transact_sync(lambda tx: tx.put_value("other", "value"))
    await settled(vault)
    assert vault.transact_sync(lambda tx: tx.value("key")) == "new"
    assert vault.transact_sync(lambda tx: tx.value("other")) == "value"
    assert living(vault) == ["kept"]


async def test_f38_a_damaged_row_left_behind_by_a_sealing_anew_stops_no_expiry(
    vault: Vault, clock: ManualClock
) -> None:
    numbers = fill(vault, read=True)
    last = numbers[1]  # read last, so that its deadline is the latest
    damaged = update(messages).where(messages.c.number == last)
    vault.transact_sync(lambda tx: tx.change(damaged, {"sealed_key": bytes(60)}))
    erase(vault, numbers[::2])
    await settled(vault)
    due = [leaf for number, leaf in leaves(vault).items() if number != last]
    clock.advance(DAY)
    assert await vault.expire_due() is Erasure.DESTROYED
    while (await vault.sweep(1000)).rows:
        pass
    assert await vault.settle() is Erasure.DESTROYED
    assert not any(keys(vault).alive(leaf) for leaf in due)


async def test_what_a_closed_vault_had_yet_to_seal_anew_is_sealed_anew_at_the_next_opening(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    vault.transact_sync(adding("kept", "1"))
    with refused(vault), pytest.raises(VaultUnavailable):
        vault.transact_sync(adding("lost", "2"))
    before = leaves(vault)
    await vault.close()
    again = opened(folder, clock)
    try:
        await settled(again)
        assert not any(keys(again).alive(leaf) for leaf in before.values())
        assert living(again) == ["kept"]
    finally:
        again.close_sync()


def test_a_work_that_takes_its_whole_transaction_along_is_sealed_anew_as_well(
    vault: Vault,
) -> None:
    """A full disk ends a transaction, savepoints and all."""

    def work(tx: Transaction) -> None:
        tx.add(new_message())
        tx._shared.database.execute_plain("ROLLBACK")
        raise ZeroDivisionError

    with pytest.raises((VaultError, ZeroDivisionError)):
        vault.transact_sync(work)
    assert vault.must_reseal


async def test_who_forgets_is_told_of_a_commit_that_failed(vault: Vault) -> None:
    """There is something to seal anew, and nobody else may come for a long time."""
    told = asyncio.Event()
    vault.on_change = told.set
    with refused(vault), pytest.raises(VaultUnavailable):
        await vault.transact(adding())
    await asyncio.wait_for(told.wait(), 10)
    vault.on_change = None


async def test_a_deadline_whose_commit_had_no_answer_is_known_after_the_next_commit(
    vault: Vault, clock: ManualClock
) -> None:
    number = vault.transact_sync(adding())
    with commit_answer_lost(vault), pytest.raises(VaultUnavailable):
        vault.transact_sync(lambda tx: tx.apply(number, Event.READ, clock.now()))
    await settled(vault)
    assert vault.earliest_deadline() == int(clock.now()) + MINUTE
    clock.advance(MINUTE)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert (await vault.sweep(10)).rows == 1


def test_f14_a_doubt_that_was_refuted_is_written_down_again_after_a_refused_commit(
    vault: Vault, clock: ManualClock
) -> None:
    """The next opening would confirm it."""
    right = clock.now()
    clock.turn_wall(10 * DAY)
    vault.transact_sync(adding("1", "1"))
    assert written(vault).doubt is not None
    clock.witness(right)
    assert not clock.doubted
    with commit_refused(vault), pytest.raises(VaultUnavailable):
        vault.transact_sync(adding("2", "2"))
    vault.transact_sync(adding("3", "3"))
    assert written(vault).doubt is None


@pytest.mark.parametrize("settle", [False, True])
async def test_a_deadline_may_go_back_to_a_second_that_it_has_had(
    vault: Vault, clock: ManualClock, *, settle: bool
) -> None:
    """The leaf of that second is forgotten for this message: the one of the second before seals."""
    capped = created(Direction.INCOMING, MINUTE, cap_until=int(clock.now()) + MINUTE + 10)
    message = replace(new_message("read twice"), lifetime=capped)
    number = vault.transact_sync(lambda tx: tx.add(message).number)
    vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now() + 20))
    if settle:
        assert await vault.settle() is Erasure.DESTROYED
    entry = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now() + 10))
    assert entry.deadline == capped.deadline
    assert await vault.settle() is Erasure.DESTROYED
    assert texts(vault) == ["read twice"]
    clock.advance(MINUTE + 10)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert not any(keys(vault).alive(leaf) for leaf in leaves(vault).values())
    assert texts(vault) == [None]
