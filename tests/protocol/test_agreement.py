"""The one timer of a conversation: adopted, changed, switched off, and never undone by an echo."""

import itertools
import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError, VaultDamaged, VaultTooNew
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement
from eph_e2ee.protocol.agreement import Agreement, Change, outgoing, receive, set_timer
from eph_e2ee.protocol.ephemeral import MAX_TIMER, Announcement, Kind

ROSA = BareJid("rosa@example.com")
PETER = BareJid("peter@example.com")
MOBILE, DESKTOP = DeviceId(1), DeviceId(2)
WEEK, FIVE_DAYS, DAY = Seconds(604800), Seconds(432000), Seconds(86400)
ABSENT = Announcement(Kind.ABSENT)
MALFORMED = Announcement(Kind.MALFORMED)
OFF = Announcement(Kind.OFF)
OPT_OUT = Announcement(Kind.OFF, opt_out=True)


def timer(seconds: Seconds | None) -> Announcement:
    return OFF if seconds is None else Announcement(Kind.TIMER, seconds)


def from_peter(
    state: Agreement,
    announcement: Announcement,
    stamp: float,
    device: DeviceId = DESKTOP,
) -> tuple[Agreement, Change | None]:
    return receive(state, announcement, author=PETER, device=device, stamp=stamp, own=False)


def ours(state: Agreement, seconds: Seconds | None, stamp: float) -> Agreement:
    return set_timer(state, seconds, author=ROSA, device=MOBILE, stamp=stamp)


def test_the_example_of_the_specification() -> None:
    """XEP-0466 section 4.1, seen by Rosa."""
    state, change = from_peter(Agreement(), timer(WEEK), 10)
    assert change == Change(None, WEEK, PETER, DESKTOP)
    assert outgoing(state) == (WEEK, False)
    state = ours(state, FIVE_DAYS, 20)
    assert outgoing(state) == (FIVE_DAYS, False)
    state, change = from_peter(state, timer(FIVE_DAYS), 30)
    assert (change, outgoing(state)) == (None, (FIVE_DAYS, False))


def test_nothing_is_on_before_anybody_says_so() -> None:
    assert outgoing(Agreement()) == (None, False)
    assert from_peter(Agreement(), ABSENT, 1) == (Agreement(), None)


def test_f24_absence_changes_nothing() -> None:
    """F24: one device without timers does not switch them off for all."""
    state = ours(Agreement(), WEEK, 1)
    assert from_peter(state, ABSENT, 2) == (state, None)


def test_f30_a_malformed_timer_changes_nothing() -> None:
    """F30: garbage leaves the setting, and what is known of the device, alone."""
    state = ours(Agreement(), WEEK, 1)
    assert from_peter(state, MALFORMED, 2) == (state, None)


def test_f22_an_echo_of_what_a_device_said_last_undoes_nothing() -> None:
    """F22: the peer's message in flight carries the old value, also long after our change."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state = ours(state, FIVE_DAYS, 20)
    for stamp in (19, 21, 1000):
        state, change = from_peter(state, timer(WEEK), stamp)
        assert (change, state.timer) == (None, FIVE_DAYS)


def test_f22_an_echo_of_our_own_old_setting_by_a_device_that_never_spoke() -> None:
    """F22: the peer has taken our first value over in silence, and missed the second."""
    state = ours(ours(Agreement(), WEEK, 10), FIVE_DAYS, 20)
    state, change = from_peter(state, timer(WEEK), 21)
    assert (change, state.timer) == (None, FIVE_DAYS)


def test_f22_an_echo_of_the_default_by_a_device_that_never_spoke() -> None:
    """F22: the account's default went out with a message, and was then changed."""
    state = ours(Agreement(timer=WEEK), FIVE_DAYS, 20)
    state, change = from_peter(state, timer(WEEK), 21)
    assert (change, state.timer) == (None, FIVE_DAYS)


def test_anybodys_first_announcement_replaces_the_default() -> None:
    _, change = from_peter(Agreement(timer=WEEK), timer(DAY), 1)
    assert change == Change(WEEK, DAY, PETER, DESKTOP)
    _, change = from_peter(Agreement(timer=WEEK), OPT_OUT, 1)
    assert change == Change(WEEK, None, PETER, DESKTOP)
    assert from_peter(Agreement(timer=WEEK), timer(WEEK), 1)[1] is None


def test_f22_an_echo_of_a_setting_in_between() -> None:
    """F22: two quick changes of ours; the peer's message knows the first of them only."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state = ours(ours(state, FIVE_DAYS, 20), DAY, 21)
    state, change = from_peter(state, timer(FIVE_DAYS), 22)
    assert (change, state.timer) == (None, DAY)
    state, change = from_peter(state, timer(DAY), 23)
    assert (change, state.timer) == (None, DAY)


def test_who_has_seen_the_setting_changes_it_back_whatever_its_clock_says() -> None:
    state = ours(ours(Agreement(), WEEK, 100), DAY, 110)
    state, _ = from_peter(state, timer(DAY), 50)
    state, change = from_peter(state, timer(WEEK), 51)
    assert change == Change(DAY, WEEK, PETER, DESKTOP)
    assert state.timer == WEEK


def test_who_has_seen_a_setting_in_between_repeats_no_older_one() -> None:
    state = ours(ours(ours(Agreement(), WEEK, 10), FIVE_DAYS, 20), DAY, 30)
    state, _ = from_peter(state, timer(FIVE_DAYS), 31)
    state, change = from_peter(state, timer(WEEK), 32)
    assert change == Change(DAY, WEEK, PETER, DESKTOP)


def test_a_new_value_is_a_change() -> None:
    state = ours(Agreement(), WEEK, 10)
    state, change = from_peter(state, timer(DAY), 11)
    assert change == Change(WEEK, DAY, PETER, DESKTOP)
    assert (state.author, state.device, state.stamp) == (PETER, DESKTOP, 11)


def test_f23_two_changes_at_once_end_on_one_value() -> None:
    """F23: both take the later one; they do not swap."""
    rosa = set_timer(Agreement(), FIVE_DAYS, author=ROSA, device=MOBILE, stamp=100)
    peter = set_timer(Agreement(), WEEK, author=PETER, device=DESKTOP, stamp=100.5)
    rosa, _ = receive(rosa, timer(WEEK), author=PETER, device=DESKTOP, stamp=100.5, own=False)
    peter, _ = receive(peter, timer(FIVE_DAYS), author=ROSA, device=MOBILE, stamp=100, own=False)
    assert (rosa.timer, peter.timer) == (WEEK, WEEK)


def test_f23_two_changes_at_the_same_instant_end_on_one_value() -> None:
    """F23: the author decides where the clock does not."""
    rosa = set_timer(Agreement(), FIVE_DAYS, author=ROSA, device=MOBILE, stamp=100)
    peter = set_timer(Agreement(), WEEK, author=PETER, device=DESKTOP, stamp=100)
    rosa, _ = receive(rosa, timer(WEEK), author=PETER, device=DESKTOP, stamp=100, own=False)
    peter, _ = receive(peter, timer(FIVE_DAYS), author=ROSA, device=MOBILE, stamp=100, own=False)
    assert rosa.timer == peter.timer == FIVE_DAYS


def test_f25_a_returning_device_changes_nothing() -> None:
    """F25: after months it still sends what it announced last."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10, DESKTOP)
    state, _ = from_peter(state, timer(WEEK), 11, MOBILE)
    state, _ = from_peter(state, timer(DAY), 20, MOBILE)
    state = ours(state, None, 30)
    for stamp in (10_000_000, 10_000_001):
        state, change = from_peter(state, timer(WEEK), stamp, DESKTOP)
        assert (change, state.timer) == (None, None)


def test_f26_a_replay_of_the_archive_changes_nothing() -> None:
    """F26: what is older than the last one from that device is ignored, new or known."""
    history = [(timer(WEEK), 10), (timer(DAY), 20), (OFF, 30), (timer(FIVE_DAYS), 40)]
    state = Agreement()
    for announcement, stamp in history:
        state, _ = from_peter(state, announcement, stamp)
    for order in itertools.permutations(history):
        replayed = state
        for announcement, stamp in order:
            replayed, change = from_peter(replayed, announcement, stamp)
            assert change is None
        assert replayed == state


def test_switched_off_by_the_peer() -> None:
    state = ours(Agreement(), WEEK, 10)
    state, change = from_peter(state, OPT_OUT, 20)
    assert change == Change(WEEK, None, PETER, DESKTOP)
    assert outgoing(state) == (None, False)
    state = ours(state, DAY, 30)
    state, change = from_peter(state, OPT_OUT, 31)
    assert (change, state.timer) == (None, DAY)


def test_our_opt_out_ends_with_the_first_message_without_a_timer() -> None:
    """PROTOCOL section 1: repeated until the peer has stopped."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state = ours(state, None, 20)
    assert outgoing(state) == (None, True)
    state, change = from_peter(state, timer(WEEK), 21)
    assert (change, outgoing(state)) == (None, (None, True))
    state, change = from_peter(state, ABSENT, 19)
    assert outgoing(state) == (None, True)
    state, change = from_peter(state, ABSENT, 22)
    assert (change, outgoing(state)) == (None, (None, False))


def test_our_own_other_device_does_not_end_our_opt_out() -> None:
    state = ours(ours(Agreement(), WEEK, 10), None, 20)
    state, _ = receive(state, ABSENT, author=ROSA, device=DESKTOP, stamp=21, own=True)
    assert outgoing(state) == (None, True)
    state, _ = receive(state, OFF, author=PETER, device=DESKTOP, stamp=22, own=False)
    assert outgoing(state) == (None, False)


def test_f27_our_own_other_device_changes_the_setting() -> None:
    """F27: one's own other devices take part."""
    state = ours(Agreement(), WEEK, 10)
    state, change = receive(state, timer(DAY), author=ROSA, device=DESKTOP, stamp=11, own=True)
    assert change == Change(WEEK, DAY, ROSA, DESKTOP)


def test_a_new_timer_ends_an_opt_out() -> None:
    state = ours(ours(Agreement(), WEEK, 10), None, 20)
    assert outgoing(ours(state, DAY, 30)) == (DAY, False)
    state, _ = from_peter(state, timer(DAY), 31)
    assert outgoing(state) == (DAY, False)


def test_setting_what_is_set_changes_nothing() -> None:
    state = ours(Agreement(), WEEK, 10)
    assert ours(state, WEEK, 20) == state
    assert ours(Agreement(), None, 20) == Agreement()


def test_our_change_is_the_latest_even_with_a_slow_clock() -> None:
    state, _ = from_peter(Agreement(), timer(WEEK), 100)
    assert ours(state, DAY, 50).stamp == 100


@pytest.mark.parametrize("seconds", [0, -1, MAX_TIMER + 1])
def test_f30_no_zero_and_no_garbage_is_set(seconds: int) -> None:
    """F30: off is None."""
    with pytest.raises(LocalProtocolError):
        ours(Agreement(), Seconds(seconds), 1)


def test_f29_a_message_keeps_the_timer_it_was_given() -> None:
    """F29: the state is a value; what was taken from it does not change with it."""
    state = ours(Agreement(), WEEK, 10)
    frozen = outgoing(state)
    later, _ = from_peter(state, timer(DAY), 11)
    assert (frozen, outgoing(state), outgoing(later)) == (
        (WEEK, False),
        (WEEK, False),
        (DAY, False),
    )


def test_invented_devices_do_not_fill_the_vault() -> None:
    state = ours(Agreement(), WEEK, 10)
    for number in range(agreement.MAX_HEARD + 50):
        state, _ = from_peter(state, timer(Seconds(number + 1)), 20 + number, DeviceId(number + 1))
    assert len(state.heard) == agreement.MAX_HEARD
    assert len(state.recent) == agreement.MAX_RECENT
    assert min(heard.device for heard in state.heard) == 51
    assert len(state.to_json()) < 40_000


TIMERS = st.sampled_from([None, Seconds(60), WEEK, FIVE_DAYS, DAY, Seconds(MAX_TIMER)])
DEVICES = st.sampled_from([(PETER, MOBILE), (PETER, DESKTOP), (ROSA, DESKTOP)])


@dataclass(frozen=True)
class Said:
    """Something that a device announces, or (without a device) that we set."""

    device: tuple[BareJid, DeviceId] | None
    announcement: Announcement
    stamp: float


ANNOUNCEMENTS = st.sampled_from([ABSENT, MALFORMED, OPT_OUT]) | TIMERS.map(timer)
SAID = st.builds(Said, st.none() | DEVICES, ANNOUNCEMENTS, st.floats(0, 2e9))


def played(events: list[Said]) -> Agreement:
    state = Agreement()
    for said in events:
        state, _ = taken(state, said)
    return state


def taken(state: Agreement, said: Said) -> tuple[Agreement, Change | None]:
    if said.device is None:
        return ours(state, said.announcement.timer, said.stamp), None
    author, device = said.device
    return receive(
        state,
        said.announcement,
        author=author,
        device=device,
        stamp=said.stamp,
        own=author == ROSA,
    )


@given(st.lists(SAID, max_size=12))
def test_json_round_trip(events: list[Said]) -> None:
    state = played(events)
    assert Agreement.from_json(state.to_json()) == state


@given(st.lists(SAID, max_size=10), SAID)
def test_a_duplicate_changes_nothing(events: list[Said], said: Said) -> None:
    once, _ = taken(played(events), said)
    twice, change = taken(once, said)
    assert change is None
    assert (twice.timer, twice.counter, outgoing(twice)) == (
        once.timer,
        once.counter,
        outgoing(once),
    )


@given(st.lists(SAID, max_size=10), SAID)
def test_a_change_is_told_exactly_when_there_is_one(events: list[Said], said: Said) -> None:
    state = played(events)
    after, change = taken(state, said)
    if said.device is None:
        return
    assert (change is not None) == (after.timer != state.timer) == (after.counter > state.counter)
    if change is not None:
        assert (change.old, change.new) == (state.timer, after.timer)
        assert (change.author, change.device) == said.device


VALUES = st.integers(1, 9).map(Seconds)


@given(
    st.lists(SAID, max_size=8),
    DEVICES,
    st.lists(VALUES, min_size=2, max_size=6, unique=True),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_f22_no_echo_undoes_a_change(
    events: list[Said],
    device: tuple[BareJid, DeviceId],
    values: list[Seconds],
    behind: list[int],
) -> None:
    """F22: a device that is behind our changes, and catches up at any pace, undoes none of them."""
    state, _ = taken(played(events), Said(device, timer(values[0]), 3e9))
    for number, value in enumerate(values[1:], 1):
        state = ours(state, value, 3e9 + number)
    for number, index in enumerate(sorted(min(i, len(values) - 1) for i in behind)):
        state, change = taken(state, Said(device, timer(values[index]), 3e9 + 10 + number))
        assert change is None
        assert state.timer == values[-1]


def test_a_value_set_twice_is_confirmed_only_by_a_later_message() -> None:
    state = ours(ours(ours(Agreement(), WEEK, 10), DAY, 20), WEEK, 30)
    early, _ = from_peter(state, timer(WEEK), 15)
    assert from_peter(early, timer(DAY), 25)[1] is None
    late, _ = from_peter(state, timer(WEEK), 31)
    assert from_peter(late, timer(DAY), 32)[1] == Change(WEEK, DAY, PETER, DESKTOP)


def test_the_json_holds_a_version() -> None:
    assert json.loads(Agreement().to_json())["version"] == 1
    with pytest.raises(VaultTooNew):
        Agreement.from_json(Agreement().to_json().replace('"version":1', '"version":2'))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        '{"version":1}',
        '{"version":"1"}',
        ours(Agreement(), WEEK, 1).to_json().replace("604800", "0"),
        ours(Agreement(), WEEK, 1).to_json().replace("604800", '"604800"'),
        Agreement().to_json().replace('"recent":[]', '"recent":5'),
        Agreement().to_json().replace('"counter":0', '"count":0'),
    ],
)
def test_a_damaged_text_is_an_error_and_never_an_empty_agreement(text: str) -> None:
    with pytest.raises(VaultDamaged) as caught:
        Agreement.from_json(text)
    assert caught.value.__cause__ is None


def test_it_is_a_value() -> None:
    state = ours(Agreement(), WEEK, 10)
    assert hash(state) == hash(replace(state))
