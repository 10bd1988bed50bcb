"""The life of a message: the table, and that nothing ever extends a deadline."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import Direction, Phase, Seconds
from eph_e2ee.protocol import lifetime
from eph_e2ee.protocol.ephemeral import MAX_TIMER
from eph_e2ee.protocol.lifetime import TABLE, Event, Lifetime, created, step

NOW = 1_800_000_000.0
TIMERS = st.none() | st.integers(1, MAX_TIMER).map(Seconds)
TIMES = st.floats(0, 2.0**34, allow_nan=False)
STEPS = st.lists(st.tuples(st.sampled_from(Event), TIMES), max_size=12)


def applied(life: Lifetime, event: Event, now: float) -> Lifetime:
    """Step, where the table has a row."""
    return step(life, event, now) if (life.phase, event) in TABLE else life


def remaining(life: Lifetime) -> float:
    return math.inf if life.deadline is None else life.deadline


@given(st.sampled_from(Direction), TIMERS, STEPS)
def test_no_events_ever_extend_a_deadline_or_change_the_timer(
    direction: Direction, timer: Seconds | None, steps: list[tuple[Event, float]]
) -> None:
    """F14, F29: whatever happens, in any order and with any clock, only ever shortens a life."""
    life = created(direction, timer)
    for event, now in steps:
        after = applied(life, event, now)
        assert remaining(after) <= remaining(life)
        assert after.timer == timer
        if life.phase is Phase.GONE:
            assert after == life
        if after.phase is Phase.RUNNING:
            assert after.timer is not None
            assert after.deadline is not None
        life = after


@given(st.integers(1, MAX_TIMER).map(Seconds), st.lists(TIMES, min_size=1, max_size=6))
def test_the_earliest_reading_counts_in_whatever_order_it_is_heard_of(
    timer: Seconds, times: list[float]
) -> None:
    life = created(Direction.INCOMING, timer)
    for now in times:
        life = step(life, Event.READ, now)
    assert life == Lifetime(Phase.RUNNING, timer, math.ceil(min(times)) + timer)


@given(st.integers(1, MAX_TIMER).map(Seconds), TIMES)
def test_a_life_lasts_its_timer_and_less_than_a_second_more(timer: Seconds, now: float) -> None:
    """F16: timers above 2**31 ms, deadlines beyond 2038 and 2106, all in whole seconds."""
    life = step(created(Direction.OUTGOING, timer), Event.SENT, now)
    assert life.deadline is not None
    assert life.deadline - timer == math.ceil(now)
    assert not life.is_due(math.nextafter(life.deadline, 0))
    assert life.is_due(life.deadline)


def test_f16_the_longest_timer_in_2105_is_an_ordinary_value() -> None:
    """F16: 2106 and the largest timer together."""
    life = step(created(Direction.INCOMING, Seconds(MAX_TIMER)), Event.READ, 2.0**32 - 1.5)
    assert life.deadline == 2**33 - 2
    assert step(life, Event.DUE, 2.0**33 - 2.5) == life
    assert step(life, Event.DUE, 2.0**33 - 2).phase is Phase.GONE


def test_an_incoming_message_waits_for_its_reader() -> None:
    """F14, F18: no clock, however far it jumps, runs for a message that nobody has seen."""
    life = created(Direction.INCOMING, Seconds(60))
    assert life == Lifetime(Phase.UNREAD, Seconds(60), None)
    assert not life.is_due(math.inf)
    assert step(life, Event.DUE, NOW) == life
    with pytest.raises(LocalProtocolError):
        step(life, Event.SENT, NOW)
    assert step(life, Event.READ, NOW) == Lifetime(Phase.RUNNING, Seconds(60), 1_800_000_060)


@pytest.mark.parametrize("event", [Event.SENT, Event.INTERRUPTED])
def test_f17_every_way_out_starts_the_timer_of_our_own_message(event: Event) -> None:
    """F17: also when nobody knows whether it left."""
    life = step(created(Direction.OUTGOING, Seconds(60)), event, NOW)
    assert life == Lifetime(Phase.RUNNING, Seconds(60), 1_800_000_060)
    assert step(life, Event.SENT, NOW + 30) == life


def test_reading_twice_changes_nothing() -> None:
    life = step(created(Direction.INCOMING, Seconds(60)), Event.READ, NOW)
    assert step(life, Event.READ, NOW + 59) == life


def test_f13_a_read_that_another_device_reports_counts_from_when_it_happened() -> None:
    """F13: a life begins at reading, and at no time that the sender gives."""
    life = step(created(Direction.INCOMING, Seconds(60)), Event.READ, NOW)
    assert step(life, Event.READ, NOW - 30).deadline == NOW + 30


def test_without_a_timer_it_is_read_and_stays() -> None:
    read = step(created(Direction.INCOMING, None), Event.READ, NOW)
    sent = step(created(Direction.OUTGOING, None), Event.SENT, NOW)
    assert read == sent == Lifetime(Phase.READ, None, None)
    with pytest.raises(LocalProtocolError):
        step(read, Event.DUE, NOW)
    assert step(read, Event.ERASED, NOW).phase is Phase.GONE


def test_a_half_second_is_rounded_up_for_the_reader() -> None:
    life = step(created(Direction.INCOMING, Seconds(1)), Event.READ, NOW + 0.001)
    assert life.deadline == NOW + 2


def test_too_early_a_sweep_takes_nothing() -> None:
    life = step(created(Direction.INCOMING, Seconds(60)), Event.READ, NOW)
    assert step(life, Event.DUE, NOW + 59.999) == life


def test_a_tombstone_says_when_it_disappeared() -> None:
    running = step(created(Direction.INCOMING, Seconds(60)), Event.READ, NOW)
    due = step(running, Event.DUE, NOW + 1000)
    erased = step(running, Event.ERASED, NOW + 10.5)
    assert due == Lifetime(Phase.GONE, Seconds(60), 1_800_000_060)
    assert erased == Lifetime(Phase.GONE, Seconds(60), 1_800_000_011)
    assert step(due, Event.READ, NOW) == due


@given(st.integers(1, MAX_TIMER).map(Seconds), st.integers(0, 2**34), TIMES, STEPS)
def test_f19_a_cap_ends_what_nobody_reads_and_nothing_else(
    timer: Seconds, cap: int, now: float, steps: list[tuple[Event, float]]
) -> None:
    """F19: read in time, a message lives as if there were no cap; read too late, not at all."""
    capped = created(Direction.INCOMING, timer, cap_until=cap)
    assert capped == Lifetime(Phase.UNREAD, timer, cap)
    read = step(capped, Event.READ, now)
    if now >= cap:
        assert read == capped
        assert read.is_due(now)
    else:
        assert read == step(created(Direction.INCOMING, timer), Event.READ, now)
    for event, moment in steps:
        after = applied(read, event, moment)
        assert after.phase is Phase.RUNNING or remaining(after) <= remaining(read)
        read = after


def test_f19_the_end_of_an_unread_life() -> None:
    """F19: at its cap, not a second before; and an erasure comes first."""
    life = created(Direction.INCOMING, Seconds(60), cap_until=2_000_000_000)
    assert step(life, Event.DUE, 1_999_999_999.9) == life
    assert step(life, Event.DUE, 2_000_000_000) == Lifetime(Phase.GONE, life.timer, 2_000_000_000)
    assert step(life, Event.ERASED, NOW) == Lifetime(Phase.GONE, life.timer, 1_800_000_000)
    late = step(life, Event.READ, 1_999_999_999)
    assert late == Lifetime(Phase.RUNNING, life.timer, 2_000_000_059)


@pytest.mark.parametrize(
    ("direction", "timer"),
    [
        (Direction.INCOMING, None),
        (Direction.OUTGOING, None),
        (Direction.OUTGOING, Seconds(60)),
    ],
)
def test_f19_what_has_no_timer_or_is_our_own_has_no_cap(
    direction: Direction, timer: Seconds | None
) -> None:
    """F18, F19: a permanent message waits for its reader for ever."""
    assert created(direction, timer, cap_until=5) == created(direction, timer)


@pytest.mark.parametrize("timer", [0, -1, 2**32])
def test_f30_zero_and_garbage_are_no_timers(timer: int) -> None:
    """F30: nothing is ever burned at once because of a zero."""
    with pytest.raises(LocalProtocolError):
        created(Direction.INCOMING, Seconds(timer))


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_a_missing_row_is_an_error(phase: Phase, event: Event) -> None:
    life = Lifetime(phase, Seconds(5), 5 if phase in {Phase.RUNNING, Phase.GONE} else None)
    if (phase, event) in TABLE:
        assert step(life, event, NOW).phase in {TABLE[phase, event], phase}
    else:
        with pytest.raises(LocalProtocolError, match="cannot happen"):
            step(life, event, NOW)


def test_the_table_can_always_end() -> None:
    for phase in Phase:
        assert lifetime.TABLE[phase, Event.ERASED] is Phase.GONE
