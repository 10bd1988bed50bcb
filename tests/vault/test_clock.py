"""What clocks do to a vault: nothing lives longer, and nothing dies of one wrong clock alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from eph_e2ee.clock import Reading
from eph_e2ee.model import Direction, Phase, Seconds
from eph_e2ee.protocol.ephemeral import MAX_TIMER
from eph_e2ee.protocol.lifetime import Event, created
from eph_e2ee.vault.archive import Gone
from eph_e2ee.vault.database import CLOCK, meta
from tests.support.clock import START, ManualClock, ManualSource
from tests.vault.making import MINUTE, ROSA, TEXT, add_read, adding, new_message, opened, texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eph_e2ee.vault.archive import NewMessage, Transaction
    from eph_e2ee.vault.vault import Vault

DAY = 86_400.0
WEEK = 7 * DAY
CAP = int(START) + int(WEEK)


def is_alive(vault: Vault) -> bool:
    """Whether a thief who takes the machine now could still open what has a deadline."""
    deadline = vault.earliest_deadline()
    assert deadline is not None
    return vault.transact_sync(lambda tx: tx.alive_until(deadline))


def doubt_on_disk(vault: Vault) -> float | None:
    """What the next opening would find of a leap that is held back, if this run ended now."""
    statement = select(meta.c.value).where(meta.c.name == CLOCK)
    text: str = vault.transact_sync(lambda tx: tx.read(statement).scalar_one())
    return Reading.from_json(text).doubt


async def forgotten(vault: Vault) -> list[Gone]:
    """What goes when everything due is forgotten."""
    await vault.expire_due()
    return list((await vault.sweep()).gone)


class Runs:
    """Runs of the program on one vault, each of which ends when the next begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._vaults: list[Vault] = []

    def open(self, clock: ManualClock) -> Vault:
        """The vault, opened with this clock."""
        self.close()
        self._vaults.append(opened(self._folder, clock))
        return self._vaults[-1]

    def again(self, source: ManualSource) -> tuple[Vault, ManualClock]:
        """The vault, opened with a clock that has not been read."""
        self.close()
        clock = ManualClock(source)
        return self.open(clock), clock

    def close(self) -> None:
        for vault in self._vaults:
            vault.close_sync()


@pytest.fixture
def runs(folder: Path) -> Iterator[Runs]:
    """None yet."""
    made = Runs(folder)
    yield made
    made.close()


class TestBackward:
    async def test_f14_while_it_runs(self, vault: Vault, clock: ManualClock) -> None:
        await vault.transact(add_read)
        clock.turn_wall(-30 * DAY)
        clock.advance(MINUTE - 1)
        assert texts(vault) == [TEXT]
        clock.advance(1)
        assert texts(vault) == [None]
        assert len(await forgotten(vault)) == 1

    @pytest.mark.parametrize("reboot", [False, True])
    def test_f14_between_runs(self, runs: Runs, clock: ManualClock, *, reboot: bool) -> None:
        """After a reboot nobody knows how long it was off; the time goes on from where it was."""
        first = runs.open(clock)
        first.transact_sync(add_read)
        first.close_sync()
        left = MINUTE
        if reboot:
            clock.reboot(-30 * DAY)
        else:
            clock.turn_wall(-30 * DAY)
            clock.suspend(10)
            left = Seconds(MINUTE - 10)
        second, clock = runs.again(clock.source)
        clock.advance(left - 1)
        assert texts(second) == [TEXT]
        clock.advance(1)
        assert texts(second) == [None]


class TestForward:
    async def test_f14_up_to_a_day_is_believed(self, vault: Vault, clock: ManualClock) -> None:
        await vault.transact(add_read)
        clock.turn_wall(DAY)
        assert texts(vault) == [None]
        assert len(await forgotten(vault)) == 1

    async def test_f14_more_is_held_back_neither_shown_nor_erased(
        self, vault: Vault, clock: ManualClock
    ) -> None:
        """Turned right again, the message is there, with what is left of its time."""
        await vault.transact(add_read)
        clock.turn_wall(WEEK)
        assert await forgotten(vault) == []
        assert texts(vault) == [None]
        assert is_alive(vault)
        clock.turn_wall(-WEEK)
        assert texts(vault) == [TEXT]
        clock.advance(MINUTE)
        assert len(await forgotten(vault)) == 1

    async def test_f20_the_servers_time_confirms_it(self, vault: Vault, clock: ManualClock) -> None:
        await vault.transact(add_read)
        clock.turn_wall(WEEK)
        clock.witness(START + WEEK)
        assert len(await forgotten(vault)) == 1

    async def test_f14_the_servers_time_refutes_it(self, vault: Vault, clock: ManualClock) -> None:
        await vault.transact(add_read)
        clock.turn_wall(WEEK)
        clock.witness(START)
        assert texts(vault) == [TEXT]
        clock.advance(MINUTE - 1)
        assert await forgotten(vault) == []
        assert texts(vault) == [TEXT]
        clock.advance(1)
        assert texts(vault) == [None]
        assert len(await forgotten(vault)) == 1

    async def test_f14_being_read_again_and_again_confirms_nothing(
        self, vault: Vault, clock: ManualClock
    ) -> None:
        await vault.transact(add_read)
        clock.turn_wall(WEEK)
        for second in range(MINUTE - 1):
            await vault.transact(adding(message_id=f"{second}"))
            assert await forgotten(vault) == []
            clock.advance(1)
        assert is_alive(vault)

    def test_f14_a_second_opening_confirms_it(self, runs: Runs, clock: ManualClock) -> None:
        """Then it is gone before anything can be read."""
        first = runs.open(clock)
        first.transact_sync(add_read)
        clock.turn_wall(WEEK)
        second, _ = runs.again(clock.source)
        assert texts(second) == [None]
        assert not is_alive(second)

    def test_f14_or_one_after_a_crash(self, runs: Runs, clock: ManualClock) -> None:
        """What was doubted is on disk with the opening, or with the next commit, at once."""
        first = runs.open(clock)
        first.transact_sync(add_read)
        assert doubt_on_disk(first) is None
        clock.turn_wall(WEEK)
        first.transact_sync(adding(message_id="another"))
        assert doubt_on_disk(first) == START + WEEK
        clock.turn_wall(-WEEK)
        clock.advance(1)
        first.close_sync()
        clock.reboot(WEEK)
        second, clock = runs.again(clock.source)
        assert doubt_on_disk(second) == clock.source.wall()
        assert is_alive(second)
        third, _ = runs.again(clock.source)
        assert not is_alive(third)

    def test_f14_what_was_unread_survives_even_a_wrong_clock_that_is_believed(
        self, runs: Runs, clock: ManualClock
    ) -> None:
        first = runs.open(clock)
        first.transact_sync(adding())
        clock.turn_wall(10 * 365 * DAY)
        second, _ = runs.again(clock.source)
        assert texts(second) == [TEXT]


class TestTimeThatPassed:
    async def test_f15_a_week_of_suspension_is_no_leap(
        self, vault: Vault, clock: ManualClock
    ) -> None:
        await vault.transact(add_read)
        clock.suspend(WEEK)
        assert texts(vault) == [None]
        assert len(await forgotten(vault)) == 1

    def test_f20_a_week_switched_off_is_held_back_until_the_server_confirms_it(
        self, runs: Runs, clock: ManualClock
    ) -> None:
        first = runs.open(clock)
        first.transact_sync(add_read)
        first.close_sync()
        clock.reboot(WEEK)
        second, clock = runs.again(clock.source)
        assert texts(second) == [None]
        assert is_alive(second)
        clock.witness(START + WEEK)
        third, _ = runs.again(clock.source)
        assert not is_alive(third)

    def test_f20_or_until_the_next_opening_without_any_network(
        self, runs: Runs, clock: ManualClock
    ) -> None:
        first = runs.open(clock)
        first.transact_sync(add_read)
        first.close_sync()
        clock.reboot(WEEK)
        second, clock = runs.again(clock.source)
        assert is_alive(second)
        second.close_sync()
        clock.reboot(WEEK)
        third, _ = runs.again(clock.source)
        assert texts(third) == [None]
        assert not is_alive(third)

    def test_f14_a_night_switched_off_is_no_leap(self, runs: Runs, clock: ManualClock) -> None:
        first = runs.open(clock)
        first.transact_sync(add_read)
        first.close_sync()
        clock.reboot(DAY / 2)
        second, _ = runs.again(clock.source)
        assert not is_alive(second)

    async def test_a_first_boot_without_a_clock_battery(self, runs: Runs) -> None:
        """In 1970; then the clock is set. What ran before ends, the rest stays and goes on."""
        clock = ManualClock(ManualSource(wall_time=5.0))
        vault = runs.open(clock)
        await vault.transact(add_read)
        unread = await vault.transact(adding(message_id="unread"))
        clock.turn_wall(START)
        assert texts(vault) == [TEXT, None]
        assert await forgotten(vault) == []
        assert is_alive(vault)
        clock.witness(START + 6)
        assert len(await forgotten(vault)) == 1
        entry = await vault.transact(lambda tx: tx.apply(unread, Event.READ, tx.now()))
        assert entry.deadline == START + 5 + MINUTE
        assert texts(vault) == [TEXT, None]


class TestFarFuture:
    @pytest.mark.parametrize("year", [2**31, 2**32, 2**33], ids=["2038", "2106", "2242"])
    @pytest.mark.parametrize("timer", [MINUTE, Seconds(2**31 // 1000 + 1), Seconds(MAX_TIMER)])
    def test_f16_deadlines_are_ordinary_values(self, runs: Runs, year: int, timer: Seconds) -> None:
        """Across the year, a restart, and the whole of the longest timer."""
        clock = ManualClock(ManualSource(wall_time=year - 30.0))
        first = runs.open(clock)
        first.transact_sync(lambda tx: _read(tx, new_message(timer=timer)))
        assert first.earliest_deadline() == year - 30 + timer
        clock.advance(timer - 1)
        second, clock = runs.again(clock.source)
        assert texts(second) == [TEXT]
        clock.advance(1)
        assert texts(second) == [None]
        third, _ = runs.again(clock.source)
        assert not is_alive(third)


def _read(transaction: Transaction, message: NewMessage) -> None:
    number = transaction.add(message).number
    transaction.apply(number, Event.READ, transaction.now())


class TestUnreadCap:
    """F19: never opened, and gone all the same."""

    @staticmethod
    def capped(timer: Seconds | None = MINUTE, message_id: str = "1") -> NewMessage:
        life = created(Direction.INCOMING, timer, cap_until=CAP)
        return replace(new_message(message_id=message_id), lifetime=life)

    async def test_f19_at_its_cap_it_goes_and_is_told_of(
        self, vault: Vault, clock: ManualClock
    ) -> None:
        entry = await vault.transact(lambda tx: tx.add(self.capped()))
        assert (entry.phase, entry.deadline) == (Phase.UNREAD, CAP)
        assert vault.earliest_deadline() == CAP
        clock.advance(WEEK - 1)
        assert texts(vault) == [TEXT]
        assert await forgotten(vault) == []
        clock.advance(1)
        assert texts(vault) == [None]
        assert await forgotten(vault) == [Gone(entry.number, ROSA, Direction.INCOMING)]
        assert vault.earliest_deadline() is None

    async def test_f19_read_in_time_it_has_all_of_its_own_timer(
        self, vault: Vault, clock: ManualClock
    ) -> None:
        entry = await vault.transact(lambda tx: tx.add(self.capped()))
        clock.advance(WEEK - 1)
        read = await vault.transact(lambda tx: tx.apply(entry.number, Event.READ, tx.now()))
        assert (read.phase, read.deadline) == (Phase.RUNNING, CAP - 1 + MINUTE)
        await vault.settle()
        clock.advance(MINUTE - 1)
        assert texts(vault) == [TEXT]
        clock.advance(1)
        assert len(await forgotten(vault)) == 1

    async def test_f19_read_too_late_it_stays_gone(self, vault: Vault, clock: ManualClock) -> None:
        entry = await vault.transact(lambda tx: tx.add(self.capped()))
        clock.suspend(WEEK)
        late = await vault.transact(lambda tx: tx.apply(entry.number, Event.READ, tx.now()))
        assert (late.phase, late.content) == (Phase.GONE, None)
        assert len(await forgotten(vault)) == 1

    async def test_f18_without_a_timer_there_is_no_cap(
        self, vault: Vault, clock: ManualClock
    ) -> None:
        await vault.transact(lambda tx: tx.add(self.capped(timer=None)))
        assert vault.earliest_deadline() is None
        clock.advance(100 * WEEK)
        assert await forgotten(vault) == []
        assert texts(vault) == [TEXT]

    def test_f20_it_survives_a_restart(self, runs: Runs, clock: ManualClock) -> None:
        first = runs.open(clock)
        first.transact_sync(lambda tx: tx.add(self.capped()))
        clock.advance(WEEK - 1)
        second, clock = runs.again(clock.source)
        assert texts(second) == [TEXT]
        assert is_alive(second)
        clock.advance(1)
        third, _ = runs.again(clock.source)
        assert texts(third) == [None]
        assert not is_alive(third)
