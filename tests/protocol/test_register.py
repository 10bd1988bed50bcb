"""What is known of a conversation's timer: a value, small, that survives being stored."""

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import VaultDamaged, VaultTooNew
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement
from eph_e2ee.protocol.agreement import Agreement, Change, Speech, announce, receive, set_timer
from eph_e2ee.protocol.ephemeral import MAX_TIMER, Announcement, Kind
from eph_e2ee.protocol.setting import MAX_OFF, MAX_PAST, Past, Setting, Tag, fitting

ROSA, PETER = BareJid("rosa@example.com"), BareJid("peter@example.com")
MOBILE, DESKTOP = DeviceId(1), DeviceId(2)
WEEK, FIVE_DAYS, DAY = Seconds(604800), Seconds(432000), Seconds(86400)
OFF = Announcement(Kind.OFF)
OPT_OUT = Announcement(Kind.OFF, opt_out=True)
NOW = 4e9

TIMERS = st.sampled_from([None, Seconds(60), WEEK, FIVE_DAYS, DAY, Seconds(MAX_TIMER)])
DEVICES = st.sampled_from([(PETER, MOBILE), (PETER, DESKTOP), (ROSA, DESKTOP)])


@dataclass(frozen=True)
class Event:
    """Something that a device says, with its tag or without, or (without a device) that we set."""

    device: tuple[BareJid, DeviceId] | None
    announcement: Announcement
    stamp: float
    tag: Tag | None = None


def timer(seconds: Seconds | None) -> Announcement:
    return OFF if seconds is None else Announcement(Kind.TIMER, seconds)


ANNOUNCEMENTS = st.sampled_from(
    [Announcement(Kind.ABSENT), Announcement(Kind.MALFORMED), OPT_OUT]
) | TIMERS.map(timer)
STAMPS = st.integers(0, 2 * 10**9)
TAGS = st.builds(
    Tag,
    counter=st.integers(0, 9),
    stamp=STAMPS.map(lambda stamp: 1000 * stamp),
    author=st.sampled_from([ROSA, PETER]),
    device=st.sampled_from([MOBILE, DESKTOP]),
    timer=TIMERS,
)
EVENTS = st.builds(Event, st.none() | DEVICES, ANNOUNCEMENTS, STAMPS, st.none() | TAGS)


def ours(state: Agreement, seconds: Seconds | None, stamp: float) -> Agreement:
    return set_timer(state, seconds, author=ROSA, device=MOBILE, stamp=stamp)


def taken(state: Agreement, event: Event) -> tuple[Agreement, Change | None]:
    if event.device is None:
        return ours(state, event.announcement.timer, event.stamp), None
    setting = None if event.tag is None else Setting(event.tag)
    own = event.device[0] == ROSA
    speech = Speech(*event.device, event.stamp, event.announcement, setting, own=own)
    return receive(state, speech, now=NOW)


def played(events: list[Event]) -> Agreement:
    state = Agreement()
    for event in events:
        state, _ = taken(state, event)
    return state


@given(st.lists(EVENTS, max_size=12))
def test_json_round_trip(events: list[Event]) -> None:
    state = played(events)
    assert Agreement.from_json(state.to_json()) == state
    assert Agreement.from_json(state.lasting.to_json()) == state.lasting


@given(st.lists(EVENTS, max_size=10), EVENTS)
def test_f26_a_duplicate_changes_nothing(events: list[Event], event: Event) -> None:
    """F26: `receive` is idempotent, with a tag and without."""
    once, _ = taken(played(events), event)
    twice, change = taken(once, event)
    assert change is None
    assert (twice.tag, twice.opting_out) == (once.tag, once.opting_out)


@given(st.lists(EVENTS, max_size=10), EVENTS)
def test_a_change_is_told_exactly_when_there_is_one(events: list[Event], event: Event) -> None:
    state = played(events)
    after, change = taken(state, event)
    if event.device is not None:
        assert (change is not None) == (after.timer != state.timer)
        if change is not None:
            assert (change.old, change.new) == (state.timer, after.timer)


@given(st.lists(EVENTS, max_size=6), st.lists(TAGS, max_size=6), st.data())
def test_f23_tags_end_on_the_greatest_in_any_order(
    events: list[Event], tags: list[Tag], data: st.DataObject
) -> None:
    """F23: `receive` is commutative, and associative, among messages with a tag."""
    state = played(events)
    ends = set()
    for order in (tags, data.draw(st.permutations(tags))):
        after = state
        for tag in order:
            after, _ = taken(after, Event((PETER, DESKTOP), timer(tag.timer), 5, tag))
        ends.add(after.tag)
    known = [tag for tag in (*tags, state.tag) if tag is not None]
    assert ends == {max(known, key=lambda tag: tag.rank, default=None)}


VALUES = st.lists(st.integers(1, 9).map(Seconds), min_size=2, max_size=6, unique=True)


@given(
    st.lists(EVENTS, max_size=8),
    DEVICES,
    VALUES,
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_f22_no_echo_undoes_a_change(
    events: list[Event],
    device: tuple[BareJid, DeviceId],
    values: list[Seconds],
    behind: list[int],
) -> None:
    """F22: a device that is behind our changes, and catches up at any pace, undoes none of them."""
    state, _ = taken(played(events), Event(device, timer(values[0]), 3e9))
    for number, value in enumerate(values[1:], 1):
        state = ours(state, value, 3e9 + number)
    for number, index in enumerate(sorted(min(i, len(values) - 1) for i in behind)):
        state, change = taken(state, Event(device, timer(values[index]), 3e9 + 10 + number))
        assert change is None
        assert state.timer == values[-1]


def test_invented_devices_do_not_fill_the_vault() -> None:
    state = ours(Agreement(), WEEK, 10)
    for number in range(agreement.MAX_HEARD + 50):
        device = (PETER, DeviceId(number + 1))
        state, _ = taken(state, Event(device, timer(Seconds(number + 1)), 20 + number))
    assert len(state.heard) == agreement.MAX_HEARD
    assert len(state.said) == agreement.MAX_SAID
    assert min(heard.device for heard in state.heard) == 51
    assert len(state.to_json()) < 50_000


def test_a_message_names_what_was_set_before_and_who_had_opted_out() -> None:
    state, _ = taken(ours(Agreement(), WEEK, 10), Event((PETER, DESKTOP), OPT_OUT, 20))
    _, setting = announce(ours(state, DAY, 30), author=ROSA, device=MOBILE, stamp=31)
    assert setting == Setting(Tag(3, 30_000, ROSA, MOBILE, DAY), (Past(1, WEEK),), (PETER,))
    for number in range(2 * MAX_PAST):
        state = ours(state, Seconds(number + 1), 40 + number)
    _, setting = announce(state, author=ROSA, device=MOBILE, stamp=99)
    assert setting is not None
    assert len(setting.past) == MAX_PAST
    assert setting.past[0] == Past(state.tag.counter - 1 if state.tag else 0, Seconds(31))


def passed_on(
    state: Agreement, *off: BareJid, counter: int = 1, accounts: frozenset[BareJid] | None = None
) -> Agreement:
    """Take in a message that says who had turned timers off."""
    setting = Setting(Tag(counter, 20_000, PETER, DESKTOP, WEEK), (), off)
    speech = Speech(PETER, DESKTOP, 20, timer(WEEK), setting, accounts=accounts)
    return receive(state, speech, now=NOW)[0]


def named(state: Agreement) -> tuple[BareJid, ...]:
    """Who had turned timers off, as the next message says."""
    _, setting = announce(state, author=ROSA, device=MOBILE, stamp=30)
    return () if setting is None else setting.off


LONG = tuple(BareJid(f"{number:02}{'a' * 3060}") for number in range(MAX_PAST))


def test_where_it_is_known_who_takes_part_no_other_has_turned_timers_off() -> None:
    both = frozenset({ROSA, PETER})
    state = passed_on(Agreement(), BareJid("maria@example.com"), PETER, *LONG[:3], accounts=both)
    assert named(state) == (PETER,)


def test_those_who_are_said_to_have_turned_timers_off_make_no_message_large() -> None:
    """In a room any member may name anybody; what anybody says stays with every message."""
    state = passed_on(Agreement(), *LONG[:-1], PETER)
    assert named(state) == (PETER,)
    assert len(state.to_json()) < 1000
    for number in range(8):
        some = (BareJid(f"{number}.{each}{'a' * 100}") for each in range(MAX_PAST))
        state = passed_on(state, *some, counter=number + 2)
    assert sum(map(len, named(state))) <= MAX_OFF
    assert named(state)[0] == PETER
    assert len(state.to_json()) < 8000


def test_a_setting_that_was_kept_with_too_much_has_less_once_it_is_read() -> None:
    """What was heard of has the same number as before."""
    short = [BareJid(f"{number:02}@example.com") for number in range(MAX_PAST)]
    state = ours(passed_on(ours(Agreement(), DAY, 1), *short, counter=2), FIVE_DAYS, 25)
    text = state.to_json()
    for one, other in zip(short[1:], LONG, strict=False):
        text = text.replace(f'"{one}"', f'"{other}"')
    read = Agreement.from_json(text)
    assert named(read) == (short[0],)
    assert len(read.to_json()) < len(state.to_json())
    assert [(number, said.counter, said.timer) for number, said in read.numbered()] == [
        (number, said.counter, said.timer) for number, said in state.numbered()
    ]
    assert (read.tag, read.count, read.current) == (state.tag, state.count, state.current)
    assert Agreement.from_json(read.to_json()) == read


JIDS = st.sampled_from([ROSA, PETER, *(BareJid("b" * size) for size in (1, 30, 400, 700, 3000))])


@given(st.lists(st.tuples(st.lists(JIDS, max_size=MAX_PAST), EVENTS), max_size=12))
def test_what_is_kept_of_them_always_fits(told: list[tuple[list[BareJid], Event]]) -> None:
    """So that what was stored reads the same, whatever was forgotten since."""
    state = Agreement()
    for number, (off, event) in enumerate(told):
        state, _ = taken(passed_on(state, *off, counter=number), event)
        hearsay = [said.author for said in state.said if said.is_hearsay and said.author]
        assert fitting(hearsay) == tuple(hearsay)
        assert Agreement.from_json(state.to_json()) == state


def test_the_json_holds_a_version() -> None:
    version = json.loads(Agreement().to_json())["version"]
    assert version == 2
    with pytest.raises(VaultTooNew):
        Agreement.from_json(Agreement().to_json().replace('"version":2', '"version":3'))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        '{"version":2}',
        '{"version":"2"}',
        ours(Agreement(), WEEK, 1).to_json().replace("604800", "0"),
        ours(Agreement(), WEEK, 1).to_json().replace("604800", '"604800"'),
        Agreement().to_json().replace('"said":[]', '"said":5'),
        Agreement().to_json().replace('"count":0', '"counter":0'),
    ],
)
def test_a_damaged_text_is_an_error_and_never_an_empty_agreement(text: str) -> None:
    with pytest.raises(VaultDamaged) as caught:
        Agreement.from_json(text)
    assert caught.value.__cause__ is None


def test_it_is_a_value() -> None:
    state = ours(Agreement(), WEEK, 10)
    assert hash(state) == hash(replace(state))


def test_f22_what_is_heard_of_after_the_setting_does_not_confirm_it() -> None:
    """F22: found by the exhaustive search, among two plain clients that a message overtook."""
    third = (BareJid("maria@example.com"), MOBILE)
    state, _ = taken(Agreement(), Event((PETER, DESKTOP), OFF, 121))
    for device, value, stamp in (
        ((PETER, DESKTOP), WEEK, 120),
        (third, WEEK, 1),
        (third, DAY, 60),
    ):
        state, change = taken(state, Event(device, timer(value), stamp))
        assert (change, state.timer) == (None, None)
