"""Leaps of the wall clock: held back, until the server or a second opening says the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.clock import MAXIMUM_LEAP, Reading
from tests.support.clock import START, ManualClock, ManualSource

HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY


def running() -> ManualClock:
    """A clock that has been read."""
    clock = ManualClock()
    clock.now()
    return clock


def opened(source: ManualSource, last: Reading) -> ManualClock:
    """The clock of another process, as a vault resumes it."""
    clock = ManualClock(source)
    clock.resume(Reading.from_json(last.to_json()))
    return clock


def leapt(seconds: float = YEAR) -> ManualClock:
    """A clock that holds a leap back."""
    clock = running()
    clock.turn_wall(seconds)
    assert clock.doubted
    return clock


class TestHeldBack:
    def test_a_leap_of_a_day_is_believed_and_not_a_second_more(self) -> None:
        """F14."""
        believed, held = running(), running()
        believed.turn_wall(MAXIMUM_LEAP)
        held.turn_wall(MAXIMUM_LEAP + 1)
        assert believed.now() == believed.latest() == START + MAXIMUM_LEAP
        assert (held.now(), held.latest()) == (START, START + MAXIMUM_LEAP + 1)
        assert (believed.doubted, held.doubted) == (False, True)

    def test_meanwhile_the_confirmed_time_goes_on_with_the_machine(self) -> None:
        clock = leapt()
        clock.advance(HOUR)
        clock.suspend(HOUR)
        assert clock.now() == START + 2 * HOUR
        assert clock.latest() == START + 2 * HOUR + YEAR

    def test_reading_it_again_confirms_nothing(self) -> None:
        """F14: only an opening does, or the server."""
        clock = leapt()
        for _ in range(100):
            clock.reading()
            clock.advance(1.0)
        assert clock.now() == START + 100
        assert clock.doubted

    def test_turned_right_again_it_is_forgotten(self) -> None:
        clock = leapt()
        clock.turn_wall(-YEAR)
        clock.advance(5.0)
        assert clock.now() == clock.latest() == START + 5
        assert clock.reading().doubt is None

    @pytest.mark.parametrize("days", [0.5, 7, 3650])
    def test_suspension_is_no_leap_however_long(self, days: float) -> None:
        """F15: boot time counts it."""
        clock = running()
        clock.suspend(days * DAY)
        assert clock.now() == clock.latest() == START + days * DAY

    def test_after_a_night_off_the_wall_clock_is_believed(self) -> None:
        before = running()
        last = before.reading()
        before.reboot(12 * HOUR)
        assert opened(before.source, last).now() == START + 12 * HOUR

    @pytest.mark.parametrize("same_boot", [True, False])
    def test_a_leap_between_runs_is_held_back_too(self, *, same_boot: bool) -> None:
        """F14: also on a clock that nobody has read before."""
        before = running()
        last = before.reading()
        if same_boot:
            before.turn_wall(7 * DAY)
        else:
            before.reboot(7 * DAY)
        clock = opened(before.source, last)
        assert (clock.now(), clock.latest()) == (START, START + 7 * DAY)
        assert clock.reading().doubt == START + 7 * DAY

    def test_without_any_reading_there_is_nothing_to_compare_with(self) -> None:
        clock = ManualClock(ManualSource(wall_time=0.0))
        assert clock.now() == clock.latest() == 0.0

    def test_a_clock_that_was_read_before_does_not_go_back(self) -> None:
        clock = running()
        clock.resume(Reading(START - YEAR, 0.0, "another boot"))
        assert clock.now() == START
        assert not clock.doubted

    @pytest.mark.parametrize("year", [2.0**31, 2.0**32, 2.0**33])
    def test_years_beyond_2038_and_2106_are_held_back_and_confirmed_as_any(
        self, year: float
    ) -> None:
        """F16."""
        clock = leapt(year - START)
        assert (clock.now(), clock.latest()) == (START, year)
        clock.witness(year)
        assert clock.now() == clock.latest() == year


class TestWitness:
    def test_confirms_a_leap(self) -> None:
        clock = leapt(7 * DAY)
        clock.advance(5.0)
        clock.witness(START + 7 * DAY + 4)
        assert clock.now() == clock.latest() == START + 7 * DAY + 5
        assert clock.reading().doubt is None

    def test_refutes_a_wrong_wall_clock_for_as_long_as_that_runs_on(self) -> None:
        clock = leapt(YEAR)
        clock.witness(START + 1)
        assert clock.now() == clock.latest() == START + 1
        clock.advance(3 * DAY)
        clock.suspend(3 * DAY)
        assert clock.now() == clock.latest() == START + 6 * DAY + 1
        assert not clock.doubted

    @pytest.mark.parametrize("moved", [-7 * DAY, 7 * DAY])
    def test_says_nothing_of_a_wall_clock_that_was_moved_since(self, moved: float) -> None:
        """F15: a virtual machine that stood still, and boot time with it."""
        clock = leapt(YEAR)
        clock.witness(START)
        clock.turn_wall(moved)
        assert clock.doubted
        assert clock.latest() == START + YEAR + moved

    def test_heard_before_the_leap_it_refutes_nothing(self) -> None:
        clock = running()
        clock.witness(START)
        clock.turn_wall(7 * DAY)
        assert clock.doubted
        clock.turn_wall(-7 * DAY)
        assert not clock.doubted

    def test_heard_before_the_clock_is_set_right_it_confirms_that(self) -> None:
        """It goes on with boot time: nobody need be asked again."""
        clock = running()
        clock.witness(START + 7 * DAY)
        assert clock.now() == clock.latest() == START
        clock.advance(2 * DAY)
        clock.turn_wall(7 * DAY)
        assert clock.now() == clock.latest() == START + 9 * DAY

    def test_may_say_that_half_of_a_leap_is_true(self) -> None:
        """A machine that was off for a week, with a clock that is a year ahead."""
        clock = leapt(YEAR)
        clock.witness(START + 7 * DAY)
        assert clock.now() == clock.latest() == START + 7 * DAY
        clock.advance(60.0)
        assert clock.now() == clock.latest() == START + 7 * DAY + 60

    def test_is_none_when_it_is_a_day_behind_what_is_confirmed(self) -> None:
        """F14: a server without a clock battery brings nothing overdue back."""
        clock = leapt(7 * DAY)
        clock.witness(START - MAXIMUM_LEAP - 1)
        assert clock.doubted
        clock.witness(0.0)
        assert clock.doubted

    @given(st.floats(-1e6, 1e6), st.floats(-1e7, 1e7), st.floats(0, 1e6))
    def test_never_moves_the_time_beyond_our_own_wall_clock_nor_back(
        self, leap: float, witnessed: float, later: float
    ) -> None:
        """F13: no server's clock decides."""
        clock = running()
        clock.turn_wall(leap)
        before = clock.now()
        clock.witness(START + witnessed)
        assert before <= clock.now() <= max(before, clock.source.wall())
        if abs(leap) <= MAXIMUM_LEAP:
            assert clock.now() == clock.latest() == before
        clock.advance(later)
        assert before + later - 1e-3 <= clock.now()
        assert clock.now() <= max(before + later + 1e-3, clock.source.wall())


class TestSecondOpening:
    def test_confirms_a_leap(self) -> None:
        """F14: a machine that never meets its server forgets all the same."""
        first = leapt(7 * DAY)
        last = first.reading()
        second = opened(first.source, last)
        assert second.now() == second.latest() == START + 7 * DAY
        assert second.reading().doubt is None

    def test_of_a_machine_that_was_off_each_time(self) -> None:
        before = running()
        last = before.reading()
        before.reboot(7 * DAY)
        first = opened(before.source, last)
        assert first.doubted
        first.advance(60.0)
        last = first.reading()
        first.reboot(7 * DAY)
        second = opened(first.source, last)
        assert second.now() == second.latest() == START + 14 * DAY + 60

    def test_on_another_wall_time_than_the_doubted_one_does_not(self) -> None:
        """The clock was wrong once, and is wrong in another way now."""
        clock = leapt(YEAR)
        last = clock.reading()
        clock.turn_wall(-YEAR / 2)
        again = opened(clock.source, last)
        assert again.doubted
        assert again.now() == START
        assert again.reading().doubt == START + YEAR / 2

    def test_after_the_clock_was_set_right_changes_nothing(self) -> None:
        clock = leapt(YEAR)
        last = clock.reading()
        clock.turn_wall(-YEAR)
        again = opened(clock.source, last)
        assert again.now() == again.latest() == START

    @pytest.mark.parametrize(("seconds", "confirmed"), [(-59.0, True), (-61.0, False)])
    def test_allows_for_a_clock_that_was_set_a_little(
        self, seconds: float, *, confirmed: bool
    ) -> None:
        clock = leapt(YEAR)
        last = clock.reading()
        clock.turn_wall(seconds)
        assert opened(clock.source, last).doubted is not confirmed

    def test_a_clock_that_the_server_refuted_is_doubted_anew(self) -> None:
        """F14: a machine with a wrong clock may be started as often as it likes."""
        clock = leapt(YEAR)
        clock.witness(START)
        again = opened(clock.source, clock.reading())
        assert again.now() == START
        assert again.doubted
        confirmed = opened(clock.source, again.reading())
        assert confirmed.now() == START + YEAR

    def test_that_leaps_once_more_is_held_back_once_more(self) -> None:
        clock = leapt(YEAR)
        again = opened(clock.source, clock.reading())
        again.turn_wall(YEAR)
        assert (again.now(), again.latest()) == (START + YEAR, START + 2 * YEAR)
