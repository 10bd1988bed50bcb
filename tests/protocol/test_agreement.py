"""The one timer of a conversation: adopted, changed, switched off, and never undone by an echo."""

import itertools
from dataclasses import replace

import pytest

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement
from eph_e2ee.protocol.agreement import (
    Agreement,
    Change,
    Speech,
    announce,
    receive,
    set_timer,
)
from eph_e2ee.protocol.ephemeral import MAX_TIMER, Announcement, Kind
from eph_e2ee.protocol.setting import Setting, Tag

ROSA, PETER = BareJid("rosa@example.com"), BareJid("peter@example.com")
MOBILE, DESKTOP = DeviceId(1), DeviceId(2)
WEEK, FIVE_DAYS, DAY = Seconds(604800), Seconds(432000), Seconds(86400)
HOUR = 3600
ABSENT = Announcement(Kind.ABSENT)
MALFORMED = Announcement(Kind.MALFORMED)
OFF = Announcement(Kind.OFF)
OPT_OUT = Announcement(Kind.OFF, opt_out=True)
NOW = 1e9


def timer(seconds: Seconds | None) -> Announcement:
    return OFF if seconds is None else Announcement(Kind.TIMER, seconds)


def speech(said: Announcement, stamp: float, setting: Setting | None = None) -> Speech:
    return Speech(PETER, DESKTOP, stamp, said, setting)


def from_peter(
    state: Agreement, said: Announcement, stamp: float, device: DeviceId = DESKTOP
) -> tuple[Agreement, Change | None]:
    """Take in a message without a tag."""
    return receive(state, replace(speech(said, stamp), device=device), now=NOW)


def ours(state: Agreement, seconds: Seconds | None, stamp: float) -> Agreement:
    return set_timer(state, seconds, author=ROSA, device=MOBILE, stamp=stamp)


def theirs(state: Agreement, seconds: Seconds | None, stamp: float) -> Agreement:
    return set_timer(state, seconds, author=PETER, device=DESKTOP, stamp=stamp)


def told(state: Agreement, by: Agreement, stamp: float) -> tuple[Agreement, Change | None]:
    """Take in a message of Peter's that carries his tag."""
    _, setting = announce(by, author=PETER, device=DESKTOP, stamp=stamp)
    return receive(state, speech(timer(by.timer), stamp, setting), now=NOW)


def test_the_example_of_the_specification() -> None:
    """XEP-0466 section 4.1, seen by Rosa."""
    state, change = from_peter(Agreement(), timer(WEEK), 10)
    assert change == Change(None, WEEK, PETER, DESKTOP)
    state = ours(state, FIVE_DAYS, 20)
    assert (state.timer, state.opting_out) == (FIVE_DAYS, False)
    state, change = from_peter(state, timer(FIVE_DAYS), 30)
    assert (change, state.timer) == (None, FIVE_DAYS)


def test_nothing_is_on_before_anybody_says_so() -> None:
    assert (Agreement().timer, Agreement().opting_out) == (None, False)
    assert from_peter(Agreement(), ABSENT, 1) == (Agreement(), None)
    assert announce(Agreement(), author=ROSA, device=MOBILE, stamp=1) == (Agreement(), None)


def test_f24_absence_changes_nothing() -> None:
    """F24: one device without timers does not switch them off for all."""
    state = ours(Agreement(), WEEK, 1)
    assert from_peter(state, ABSENT, 2) == (state, None)


def test_f24_a_permanent_message_of_ours_still_tells_of_the_setting() -> None:
    """F24: a message without a timer beside a setting leaves that as it is."""
    peter = theirs(Agreement(), WEEK, 1)
    _, setting = announce(peter, author=PETER, device=DESKTOP, stamp=2)
    state, change = receive(Agreement(), speech(ABSENT, 2, setting), now=NOW)
    assert change == Change(None, WEEK, PETER, DESKTOP)
    assert state.tag == peter.tag


def test_f30_a_malformed_timer_changes_nothing() -> None:
    """F30: garbage leaves the setting, and what is known of the device, alone."""
    state = ours(Agreement(), WEEK, 1)
    assert from_peter(state, MALFORMED, 2) == (state, None)


@pytest.mark.parametrize("seconds", [0, -1, MAX_TIMER + 1])
def test_f30_no_zero_and_no_garbage_is_set(seconds: int) -> None:
    """F30: off is None."""
    with pytest.raises(LocalProtocolError):
        ours(Agreement(), Seconds(seconds), 1)


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


def test_f22_an_echo_of_a_default_that_went_out() -> None:
    """F22: the account's default went out with a message, and was then changed."""
    state, setting = announce(Agreement(default=WEEK), author=ROSA, device=MOBILE, stamp=10)
    assert setting == Setting(Tag(0, 10_000, ROSA, MOBILE, WEEK))
    state, change = from_peter(ours(state, FIVE_DAYS, 20), timer(WEEK), 21)
    assert (change, state.timer) == (None, FIVE_DAYS)


def test_f22_an_echo_of_a_setting_in_between() -> None:
    """F22: two quick changes of ours; the peer's message knows the first of them only."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state = ours(ours(state, FIVE_DAYS, 20), DAY, 21)
    for value in (FIVE_DAYS, DAY):
        state, change = from_peter(state, timer(value), 22)
        assert (change, state.timer) == (None, DAY)


def test_f22_an_echo_of_a_setting_that_only_others_have_heard_of() -> None:
    """F22: a message of ours names what was set before, so its echo is known everywhere."""
    peter = theirs(theirs(theirs(Agreement(), WEEK, 10), FIVE_DAYS, 20), DAY, 30)
    state, _ = told(Agreement(), peter, 31)
    for value in (WEEK, FIVE_DAYS):
        _, change = from_peter(state, timer(value), 40, MOBILE)
        assert change is None


def test_f22_an_echo_of_what_came_too_late_to_hold() -> None:
    """F22: a change that lost against a later one is named as well."""
    peter = theirs(Agreement(), WEEK, 100)
    late = Speech(ROSA, DESKTOP, 50, timer(FIVE_DAYS))
    peter, change = receive(peter, late, now=NOW)
    assert (change, peter.timer) == (None, WEEK)
    state, _ = told(Agreement(), theirs(peter, DAY, 10), 110)
    _, change = from_peter(state, timer(FIVE_DAYS), 120, MOBILE)
    assert change is None


def test_f22_an_echo_of_what_was_overtaken() -> None:
    """F22: of a message that came after the device's next one, others may still be behind."""
    state, _ = from_peter(ours(Agreement(), WEEK, 10), timer(DAY), 30)
    state, change = from_peter(state, timer(FIVE_DAYS), 20)
    assert (change, state.timer) == (None, DAY)
    _, change = from_peter(state, timer(FIVE_DAYS), 40, MOBILE)
    assert change is None


def test_f22_a_client_that_took_ours_over_after_its_own_change_does_not_swap() -> None:
    """F22, F23: it had not seen ours when it changed; then it repeats ours, and no more."""
    state = ours(Agreement(), WEEK, 10)
    state, _ = from_peter(state, timer(DAY), 11)
    state, change = from_peter(state, timer(WEEK), 12)
    assert (change, state.timer) == (None, DAY)


def test_anybodys_first_announcement_replaces_the_default() -> None:
    _, change = from_peter(Agreement(default=WEEK), timer(DAY), 1)
    assert change == Change(WEEK, DAY, PETER, DESKTOP)
    _, change = from_peter(Agreement(default=WEEK), OPT_OUT, 1)
    assert change == Change(WEEK, None, PETER, DESKTOP)
    state, change = from_peter(Agreement(default=WEEK), timer(WEEK), 1)
    assert (change, state.tag) == (None, Tag(1, 1000, PETER, DESKTOP, WEEK))


def test_the_default_that_was_announced_first_holds() -> None:
    mine, _ = announce(Agreement(default=WEEK), author=ROSA, device=MOBILE, stamp=20)
    later, change = told(mine, Agreement(default=DAY), 30)
    assert (change, later.timer) == (None, WEEK)
    earlier, change = told(mine, Agreement(default=DAY), 10)
    assert change == Change(WEEK, DAY, PETER, DESKTOP)
    assert ours(earlier, WEEK, 40).timer == WEEK


def test_who_has_seen_the_setting_changes_it_back_whatever_its_clock_says() -> None:
    state = ours(ours(Agreement(), WEEK, 100), DAY, 110)
    state, _ = from_peter(state, timer(DAY), 50)
    state, change = from_peter(state, timer(WEEK), 51)
    assert change == Change(DAY, WEEK, PETER, DESKTOP)


def test_who_has_seen_a_setting_in_between_repeats_no_older_one() -> None:
    state = ours(ours(ours(Agreement(), WEEK, 10), FIVE_DAYS, 20), DAY, 30)
    state, _ = from_peter(state, timer(FIVE_DAYS), 31)
    _, change = from_peter(state, timer(WEEK), 32)
    assert change == Change(DAY, WEEK, PETER, DESKTOP)


def test_a_value_set_twice_is_confirmed_only_a_day_later() -> None:
    """Clocks are wrong by hours, so nothing else tells the one from the other."""
    state = ours(ours(ours(Agreement(), WEEK, 10), DAY, 20), WEEK, 30)
    early, _ = from_peter(state, timer(WEEK), 30 + 5 * HOUR)
    assert from_peter(early, timer(DAY), 31 + 5 * HOUR)[1] is None
    late, _ = from_peter(state, timer(WEEK), 30 + 24 * HOUR)
    change = from_peter(late, timer(DAY), 31 + 24 * HOUR)[1]
    assert change == Change(WEEK, DAY, PETER, DESKTOP)


def test_a_new_value_is_a_change() -> None:
    state, change = from_peter(ours(Agreement(), WEEK, 10), timer(DAY), 11)
    assert change == Change(WEEK, DAY, PETER, DESKTOP)
    assert state.tag == Tag(2, 11_000, PETER, DESKTOP, DAY)


@pytest.mark.parametrize(("stamp", "held"), [(100.5, WEEK), (100, FIVE_DAYS)])
def test_f23_two_changes_at_once_end_on_one_value(stamp: float, held: Seconds) -> None:
    """F23: both take the later one, or that of the greater name; they do not swap."""
    rosa, peter = ours(Agreement(), FIVE_DAYS, 100), theirs(Agreement(), WEEK, stamp)
    _, of_rosa = announce(rosa, author=ROSA, device=MOBILE, stamp=101)
    of_rosa_to_peter = Speech(ROSA, MOBILE, 101, timer(FIVE_DAYS), of_rosa)
    after_rosa, _ = told(rosa, peter, 101)
    after_peter, _ = receive(peter, of_rosa_to_peter, now=NOW)
    assert after_rosa.timer == after_peter.timer == held
    assert after_rosa.tag == after_peter.tag


def test_f23_two_changes_at_once_with_a_plain_client_end_on_one_value() -> None:
    """F23: the later clock wins where neither had seen the other's."""
    state = ours(Agreement(), FIVE_DAYS, 100)
    assert from_peter(state, timer(WEEK), 100.5)[0].timer == WEEK
    assert from_peter(state, timer(WEEK), 99.5)[0].timer == FIVE_DAYS


def test_f25_a_returning_device_changes_nothing() -> None:
    """F25: after months it still sends what it announced last."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state, _ = from_peter(state, timer(WEEK), 11, MOBILE)
    state, _ = from_peter(state, timer(DAY), 20, MOBILE)
    state = ours(state, None, 30)
    for stamp in (10_000_000, 10_000_001):
        state, change = from_peter(state, timer(WEEK), stamp)
        assert (change, state.timer) == (None, None)


def test_f25_a_returning_device_that_speaks_our_tag_changes_nothing() -> None:
    """F25: its tag is old, whatever its clock says now."""
    peter = theirs(Agreement(), WEEK, 10)
    state, _ = told(Agreement(), peter, 11)
    state = ours(state, DAY, 20)
    state, change = told(state, peter, 10_000_000)
    assert (change, state.timer) == (None, DAY)


def test_f26_a_replay_of_the_archive_changes_nothing() -> None:
    """F26: what is older than the last one from that device is ignored, new or known."""
    history = [(timer(WEEK), 10), (timer(DAY), 20), (OFF, 30), (timer(FIVE_DAYS), 40)]
    state = Agreement()
    for said, stamp in history:
        state, _ = from_peter(state, said, stamp)
    for order in itertools.permutations(history):
        replayed = state
        for said, stamp in order:
            replayed, change = from_peter(replayed, said, stamp)
            assert change is None
        assert replayed == state


def test_f26_a_replay_of_what_is_only_known_from_others() -> None:
    """F26: whose setting others have told of, has said everything older before."""
    peter = theirs(theirs(Agreement(), WEEK, 10), None, 30)
    state, _ = told(Agreement(), ours(peter, DAY, 5), 40)
    for said, stamp in ((timer(WEEK), 10), (timer(FIVE_DAYS), 3), (OFF, 30)):
        state, change = from_peter(state, said, stamp)
        assert (change, state.timer) == (None, DAY)


def test_f27_our_own_other_device_changes_the_setting() -> None:
    """F27: one's own other devices take part."""
    state = ours(Agreement(), WEEK, 10)
    other = Speech(ROSA, DESKTOP, 11, timer(DAY), own=True)
    state, change = receive(state, other, now=NOW)
    assert change == Change(WEEK, DAY, ROSA, DESKTOP)


def test_f28_who_is_no_member_changes_nothing() -> None:
    """F28: neither with a value nor with a tag."""
    state = ours(Agreement(), WEEK, 10)
    setting = Setting(Tag(9, 20_000, PETER, DESKTOP, DAY))
    for stranger in (speech(timer(DAY), 20), speech(timer(DAY), 20, setting)):
        assert receive(state, replace(stranger, member=False), now=NOW) == (state, None)


def test_f28_a_setting_of_somebody_who_takes_no_part_changes_nothing() -> None:
    """F28: between two, only the two are authors."""
    state = ours(Agreement(), WEEK, 10)
    setting = Setting(Tag(9, 20_000, BareJid("mallory@example.com"), DESKTOP, DAY))
    told_of = replace(speech(timer(DAY), 20, setting), accounts=frozenset({ROSA, PETER}))
    assert receive(state, told_of, now=NOW) == (state, None)
    assert receive(state, replace(told_of, accounts=None), now=NOW)[0].timer == DAY


def test_what_somebody_else_passes_on_is_marked() -> None:
    setting = Setting(Tag(1, 20_000, ROSA, DESKTOP, DAY))
    passed_on = speech(timer(DAY), 20, setting)
    change = receive(Agreement(), passed_on, now=NOW)[1]
    assert change == Change(None, DAY, ROSA, DESKTOP, authenticated=False)
    own = replace(passed_on, author=ROSA, device=MOBILE, own=True)
    assert receive(Agreement(), own, now=NOW)[1] == replace(change, authenticated=True)


def test_a_counter_out_of_all_proportion_is_not_believed() -> None:
    state = ours(Agreement(), WEEK, 10)
    for counter, held in ((agreement.MAX_JUMP + 2, WEEK), (agreement.MAX_JUMP + 1, DAY)):
        setting = Setting(Tag(counter, 20_000, PETER, DESKTOP, DAY))
        after, _ = receive(state, speech(timer(DAY), 20, setting), now=NOW)
        assert after.timer == held


def test_a_stamp_in_the_future_does_not_hold_for_ever() -> None:
    """Whoever has seen it counts further, and of it no more than a margin is left."""
    state, _ = from_peter(ours(Agreement(), WEEK, NOW), timer(DAY), NOW + 10**9)
    assert state.tag is not None
    assert state.tag.stamp == 1000 * NOW + agreement.MARGIN
    assert ours(state, FIVE_DAYS, NOW).timer == FIVE_DAYS


def test_switched_off_by_the_peer() -> None:
    state = ours(Agreement(), WEEK, 10)
    state, change = from_peter(state, OPT_OUT, 20)
    assert change == Change(WEEK, None, PETER, DESKTOP)
    assert (state.timer, state.opting_out) == (None, False)
    state, change = from_peter(ours(state, DAY, 30), OPT_OUT, 31)
    assert (change, state.timer) == (None, DAY)


def test_our_opt_out_ends_with_the_first_message_without_a_timer() -> None:
    """PROTOCOL section 1: repeated until the peer has stopped."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state = ours(state, None, 20)
    state, _ = from_peter(state, timer(WEEK), 21)
    assert state.opting_out
    state, _ = from_peter(state, ABSENT, 19)
    assert state.opting_out
    state, change = from_peter(state, ABSENT, 22)
    assert (change, state.opting_out) == (None, False)


def test_our_opt_out_waits_for_every_device_in_use() -> None:
    """PROTOCOL section 1: from each active peer device."""
    state, _ = from_peter(Agreement(), timer(WEEK), 10)
    state, _ = from_peter(state, timer(WEEK), 11, MOBILE)
    state, _ = from_peter(ours(state, None, 20), ABSENT, 22)
    assert state.opting_out
    assert not from_peter(state, ABSENT, 23, MOBILE)[0].opting_out


def test_our_own_other_device_does_not_end_our_opt_out() -> None:
    state = ours(ours(Agreement(), WEEK, 10), None, 20)
    state, _ = receive(state, Speech(ROSA, DESKTOP, 21, ABSENT, own=True), now=NOW)
    assert state.opting_out
    assert not from_peter(state, OFF, 22)[0].opting_out


def test_a_new_timer_ends_an_opt_out() -> None:
    state = ours(ours(Agreement(), WEEK, 10), None, 20)
    assert not ours(state, DAY, 30).opting_out
    assert not from_peter(state, timer(DAY), 31)[0].opting_out


def test_setting_what_is_set_changes_nothing() -> None:
    state = ours(Agreement(), WEEK, 10)
    assert ours(state, WEEK, 20) == state
    assert ours(Agreement(), None, 20) == Agreement()


def test_our_change_is_the_latest_even_with_a_slow_clock() -> None:
    state, _ = from_peter(Agreement(), timer(WEEK), 100)
    changed = ours(state, DAY, 50)
    assert changed.tag is not None
    assert state.tag is not None
    assert changed.tag.rank > state.tag.rank


def test_f29_a_message_keeps_the_timer_it_was_given() -> None:
    """F29: the state is a value; what was taken from it does not change with it."""
    state = ours(Agreement(), WEEK, 10)
    _, frozen = announce(state, author=ROSA, device=MOBILE, stamp=10)
    later, _ = from_peter(state, timer(DAY), 11)
    assert announce(state, author=ROSA, device=MOBILE, stamp=12) == (state, frozen)
    assert (state.timer, later.timer) == (WEEK, DAY)
