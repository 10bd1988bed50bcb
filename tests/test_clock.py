"""The clock only moves forward, whatever happens to the machine's clocks."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.clock import MAXIMUM_NAP, Clock, Reading, SystemSource
from eph_e2ee.errors import VaultDamaged
from tests.support.clock import ManualClock, ManualSource

HOUR = 3600.0


class TestNow:
    def test_is_the_wall_clock_as_long_as_that_goes_forward(self) -> None:
        clock = ManualClock()
        assert clock.now() == clock.source.wall()
        clock.advance(HOUR)
        clock.turn_wall(5 * HOUR)
        assert clock.now() == clock.source.wall()

    def test_turned_back_it_goes_on_at_its_own_pace(self) -> None:
        """F14: turning the clock back does not keep a message."""
        clock = ManualClock()
        before = clock.now()
        clock.turn_wall(-30 * 24 * HOUR)
        assert clock.now() == before
        clock.advance(60.0)
        assert clock.now() == before + 60.0

    def test_suspension_counts_although_the_wall_clock_was_turned_back(self) -> None:
        """F15: the time that a machine was suspended is time that has passed."""
        clock = ManualClock()
        before = clock.now()
        clock.turn_wall(-HOUR)
        clock.suspend(8 * HOUR)
        assert clock.now() == before + 8 * HOUR

    def test_a_boot_time_that_goes_back_takes_nothing_away(self) -> None:
        clock = ManualClock()
        before = clock.now()
        clock.source.boot_time -= 500.0
        clock.turn_wall(-HOUR)
        assert clock.now() == before
        clock.advance(1.0)
        assert clock.now() == before + 1.0

    def test_only_this_machine_is_asked(self) -> None:
        """F13: no sender's time has a way into the clock; two sources are all that it reads."""
        clock = ManualClock()
        clock.resume(Reading(clock.now() - HOUR, 0.0, "another boot"))
        assert clock.now() == clock.source.wall()

    @pytest.mark.parametrize("wall", [2.0**31 - 1, 2.0**32 - 1, 2.0**32 + 2.0**31, 2.0**40])
    def test_2038_and_2106_are_ordinary(self, wall: float) -> None:
        """F16: no time is kept in 32 bits."""
        clock = ManualClock(ManualSource(wall_time=wall))
        clock.advance(2.0)
        assert clock.now() == wall + 2.0
        assert Reading.from_json(clock.reading().to_json()).now == wall + 2.0

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["advance", "suspend", "turn_wall", "reboot", "restart"]),
                st.floats(0, 1e6),
                st.booleans(),
            ),
            max_size=30,
        )
    )
    def test_never_goes_back_and_never_stands_while_the_machine_is_up(
        self, steps: list[tuple[str, float, bool]]
    ) -> None:
        """F14: through every turn, suspension, restart and reboot."""
        clock = ManualClock()
        last = clock.now()
        for step, seconds, back in steps:
            if step == "restart":
                clock = ManualClock(clock.source, clock.reading())
                continue
            moved = -seconds if step == "turn_wall" and back else seconds
            getattr(clock, step)(moved)
            now = clock.now()
            passed = seconds if step in {"advance", "suspend"} else 0.0
            assert now >= last + passed - 1e-3
            assert clock.latest() >= max(now, clock.source.wall())
            assert clock.doubted == (clock.latest() > now)
            last = now


class TestRestart:
    def test_a_clock_turned_back_meanwhile_changes_nothing(self) -> None:
        """F14: the reading that was persisted, and the time since boot, hold across a restart."""
        source = ManualSource()
        last = ManualClock(source).reading()
        source.wall_time -= 24 * HOUR
        source.boot_time += 90.0
        assert ManualClock(source, last).now() == last.now + 90.0
        resumed = ManualClock(source)
        resumed.resume(last)
        assert resumed.now() == last.now + 90.0

    def test_after_a_reboot_the_wall_clock_counts(self) -> None:
        before = ManualClock()
        last = before.reading()
        before.reboot(HOUR)
        before.source.boot_time = 1e9  # means nothing under another boot id
        assert ManualClock(before.source, last).now() == last.now + HOUR

    def test_after_a_reboot_with_the_clock_turned_back_the_high_water_counts(self) -> None:
        """F14: a dead clock battery does not keep a message either."""
        before = ManualClock()
        last = before.reading()
        before.reboot(HOUR)
        before.turn_wall(-before.source.wall())
        clock = ManualClock(before.source, last)
        assert clock.now() == last.now
        clock.advance(10.0)
        assert clock.now() == last.now + 10.0

    def test_resuming_from_the_past_changes_nothing(self) -> None:
        clock = ManualClock()
        old = clock.reading()
        clock.turn_wall(HOUR)
        ahead = clock.now()
        clock.turn_wall(-HOUR)
        clock.resume(old)
        assert clock.now() == ahead

    def test_a_reading_survives_its_json(self) -> None:
        for doubt in (None, 1_850_000_000.5):
            reading = Reading(1_750_000_000.123456, 12.5, "boot-1", doubt)
            assert Reading.from_json(reading.to_json()) == reading

    def test_a_reading_of_an_older_version_has_no_doubt(self) -> None:
        text = '{"now": 1.0, "boot": 2.0, "boot_id": "x"}'
        assert Reading.from_json(text) == Reading(1.0, 2.0, "x", None)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "null",
            "{}",
            '{"now": 1, "boot": 2}',
            '{"now": 1, "boot": 2, "boot_id": 3}',
            '{"now": "1", "boot": 2, "boot_id": "x"}',
            '{"now": NaN, "boot": 2, "boot_id": "x"}',
            '{"now": 1, "boot": Infinity, "boot_id": "x"}',
            '{"now": 1, "boot": 2, "boot_id": "x", "more": 4}',
            '{"now": 1, "boot": 2, "boot_id": "x", "doubt": NaN}',
            '{"now": 1, "boot": 2, "boot_id": "x", "doubt": "3"}',
            '{"now": 1, "boot": 2, "boot_id": "x", "doubt": []}',
            f'{{"now": {10**400}, "boot": 2, "boot_id": "x"}}',
            b"\xff",
        ],
    )
    def test_what_is_no_reading_is_damage(self, text: str | bytes) -> None:
        with pytest.raises(VaultDamaged):
            Reading.from_json(text)


class TestWait:
    async def test_ends_with_the_event(self) -> None:
        clock, event = ManualClock(), asyncio.Event()
        for until in (None, clock.now() + 5.0):
            event.clear()
            waiting = asyncio.create_task(clock.wait(event, until))
            await pause()
            assert not waiting.done()
            event.set()
            await waiting

    async def test_returns_at_once_when_it_is_time_already(self) -> None:
        clock = ManualClock()
        await clock.wait(asyncio.Event(), clock.now())
        assert clock.naps == []

    async def test_ends_at_its_time_and_not_before(self) -> None:
        clock = ManualClock()
        waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + 3.0))
        await pause()
        clock.advance(2.5)
        await pause()
        assert not waiting.done()
        clock.advance(0.5)
        await waiting

    async def test_a_timer_of_a_hundred_years_never_reaches_the_event_loop(self) -> None:
        """F16: timers beyond 2**31 milliseconds do not fire at once."""
        clock = ManualClock()
        century = 100 * 365 * 24 * HOUR
        waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + century))
        for _ in range(5):
            clock.advance(30 * 24 * HOUR)
            await pause()
            assert not waiting.done()
        assert set(clock.naps) == {MAXIMUM_NAP}
        clock.advance(century)
        await waiting

    @pytest.mark.parametrize("change", ["suspend", "turn_wall"])
    async def test_a_jump_is_noticed_after_a_nap_at_the_latest(self, change: str) -> None:
        """F15: on waking, what is overdue is due within seconds."""
        clock = ManualClock()
        waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + 8 * HOUR))
        await pause()
        getattr(clock, change)(9 * HOUR)
        await pause()
        assert not waiting.done()
        clock.advance(MAXIMUM_NAP)
        await waiting

    async def test_does_not_spin(self) -> None:
        clock = ManualClock()
        waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + 3.0))
        await pause()
        assert clock.naps == [3.0]
        clock.turn_wall(3.0 - 1e-6)
        clock.advance(0.0)
        await pause()
        assert clock.naps == [3.0]
        clock.advance(3.0)
        await waiting
        last = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + 1e-6))
        await pause()
        assert clock.naps == [3.0, 0.001]
        clock.advance(0.001)
        await last

    async def test_cancelling_leaves_nothing_behind(self) -> None:
        clock = ManualClock()
        waiting = asyncio.create_task(clock.wait(asyncio.Event(), clock.now() + 3.0))
        await pause()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await pause()
        assert clock._sleepers == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_on_the_machine_itself(self) -> None:
        """The one wait here that takes real time, a few milliseconds."""
        clock = Clock()
        until = clock.now() + 0.005
        await clock.wait(asyncio.Event(), until)
        assert clock.now() >= until
        event = asyncio.Event()
        waiting = asyncio.create_task(clock.wait(event, clock.now() + HOUR))
        await pause()
        event.set()
        await waiting


class TestSystemSource:
    def test_reads_this_machine(self) -> None:
        source = SystemSource()
        assert abs(source.wall() - time.time()) < 5.0
        first = source.boot()
        assert source.boot() >= first
        assert source.boot_id() == SystemSource().boot_id()
        assert source.boot_id()

    def test_without_a_boot_id_no_two_processes_share_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("eph_e2ee.clock._BOOT_ID", _Missing())
        monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
        source = SystemSource()
        assert source.boot_id() != SystemSource().boot_id()
        assert source.boot() <= time.clock_gettime(time.CLOCK_MONOTONIC)


class _Missing:
    def read_text(self, _encoding: str) -> str:
        raise FileNotFoundError


async def pause() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)
