"""What is due: never shown, cut at once, swept in batches, and the same after a restart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eph_e2ee.model import Direction, Erasure, Phase
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault.archive import Gone
from tests.vault.making import MINUTE, ROSA, add_read, adding, new_message, opened, reading, texts

IN = Direction.INCOMING

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


async def test_f21_what_is_due_shows_nothing_before_any_sweep(
    vault: Vault, clock: ManualClock
) -> None:
    number = await vault.transact(add_read)
    clock.suspend(MINUTE)
    entry = await vault.transact(lambda tx: tx.entry(number))
    assert entry is not None
    assert (entry.phase, entry.content) == (Phase.GONE, None)


async def test_expiry_makes_tombstones_in_batches(vault: Vault, clock: ManualClock) -> None:
    numbers = [await vault.transact(reading(str(i))) for i in range(5)]
    later = await vault.transact(lambda tx: tx.add(new_message("unread", message_id="9")).number)
    assert vault.earliest_deadline() == int(clock.now()) + MINUTE
    clock.advance(MINUTE)
    assert await vault.expire_due() is Erasure.DESTROYED
    batches = [await vault.sweep(2) for _ in range(4)]
    assert [batch.rows for batch in batches] == [2, 2, 1, 0]
    gone = [each for batch in batches for each in batch.gone]
    assert sorted(each.number for each in gone) == numbers
    assert {(each.conversation, each.direction) for each in gone} == {(ROSA, Direction.INCOMING)}
    assert vault.earliest_deadline() is None
    entry = await vault.transact(lambda tx: tx.entry(later))
    assert entry is not None
    assert entry.phase is Phase.UNREAD


async def test_f17_read_so_long_ago_that_it_is_over_is_told_of_and_stops_no_other(
    vault: Vault, clock: ManualClock
) -> None:
    """Another device read it, or it left just before the machine was suspended."""
    other = await vault.transact(reading("other"))
    late = await vault.transact(adding(message_id="late"))
    then = clock.now()
    clock.suspend(2 * MINUTE)
    entry = await vault.transact(lambda tx: tx.apply(late, Event.READ, then + 1))
    assert (entry.phase, entry.content) == (Phase.GONE, None)
    shown = await vault.transact(lambda tx: tx.entry(late))
    assert shown is not None
    assert (shown.phase, shown.content) == (Phase.GONE, None)
    await vault.expire_due()
    swept = await vault.sweep()
    assert {gone.number for gone in swept.gone} == {other, late}
    assert (await vault.sweep()).rows == 0
    assert vault.earliest_deadline() is None


async def test_a_sweep_that_comes_first_removes_nothing(vault: Vault, clock: ManualClock) -> None:
    await vault.transact(add_read)
    clock.advance(MINUTE)
    assert (await vault.sweep()).rows == 0
    assert vault.earliest_deadline() is not None


def test_f20_deadlines_survive_a_restart(folder: Path, clock: ManualClock) -> None:
    first = opened(folder, clock)
    first.transact_sync(add_read)
    deadline = first.earliest_deadline()
    first.close_sync()
    clock.advance(MINUTE - 1)
    second = opened(folder, clock)
    assert second.earliest_deadline() == deadline
    assert texts(second) == ["sentinel plaintext of a message"]
    second.close_sync()
    clock.advance(1)
    third = opened(folder, clock)
    assert texts(third) == [None]
    assert not third.unsettled
    third.close_sync()


def test_f15_overdue_is_cut_while_opening_and_swept_later(folder: Path, clock: ManualClock) -> None:
    first = opened(folder, clock)
    number = first.transact_sync(add_read)
    first.close_sync()
    clock.advance(MINUTE)
    second = opened(folder, clock)
    deadline = second.earliest_deadline()
    assert deadline is not None
    assert not second.transact_sync(lambda tx: tx.alive_until(deadline))

    async def sweep() -> list[int]:
        return [each.number for each in (await second.sweep()).gone]

    assert asyncio.run(sweep()) == [number]
    second.close_sync()


def test_f17_an_unsent_message_counts_down_from_the_opening(
    folder: Path, clock: ManualClock
) -> None:
    outgoing = new_message(direction=Direction.OUTGOING)
    permanent = new_message(direction=Direction.OUTGOING, timer=None, message_id="2")
    first = opened(folder, clock)
    first.transact_sync(lambda tx: tx.add_many([outgoing, permanent]))
    assert first.earliest_deadline() is None
    first.close_sync()
    clock.advance(1000)
    second = opened(folder, clock)
    unsent = second.transact_sync(lambda tx: tx.unsent())
    assert [(entry.phase, entry.timer) for entry in unsent] == [
        (Phase.RUNNING, MINUTE),
        (Phase.UNSENT, None),
    ]
    assert second.earliest_deadline() == int(clock.now()) + MINUTE
    second.close_sync()
    clock.advance(MINUTE)
    third = opened(folder, clock)
    assert [entry.timer for entry in third.transact_sync(lambda tx: tx.unsent())] == [None]
    third.close_sync()


def test_f14_the_time_survives_a_restart_and_a_clock_turned_back(
    folder: Path, clock: ManualClock
) -> None:
    first = opened(folder, clock)
    first.transact_sync(lambda tx: tx.put_value("any", "write"))
    clock.advance(50)
    first.transact_sync(lambda tx: tx.put_value("another", "write"))
    first.close_sync()
    shown = clock.now()
    turned = type(clock)(clock.source)
    turned.reboot(-10_000)
    second = opened(folder, turned)
    assert turned.now() >= shown
    second.close_sync()


async def test_no_row_loses_its_deadline_before_its_key_is_meant_to_go(
    vault: Vault, clock: ManualClock
) -> None:
    number = await vault.transact(add_read)
    await vault.settle()
    clock.advance(MINUTE)
    until = int(clock.now())
    assert await vault.transact(lambda tx: tx.sweep(until, 10)) == (1, [Gone(number, ROSA, IN)])
    assert vault.unsettled
