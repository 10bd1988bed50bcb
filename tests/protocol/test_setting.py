"""The setting's element: what is written reads the same, and nothing else is read."""

from pathlib import Path
from typing import Any

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import setting, xml
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.protocol.ephemeral import MAX_TIMER
from eph_e2ee.protocol.setting import (
    MAX_COUNTER,
    MAX_OFF,
    MAX_PAST,
    NAMESPACE,
    Past,
    Setting,
    Tag,
    fitting,
)

SCHEMA: Any = xmlschema.XMLSchema(str(Path(setting.__file__).with_name("setting.xsd")))

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
GOOD = {
    "counter": "7",
    "stamp": "2026-11-25T18:30:00.125Z",
    "author": ROSA,
    "device": "1234567890",
    "timer": "432000",
    "past": "6:604800 5:86400",
    "off": PETER,
}
SETTING = Setting(
    Tag(7, 1_795_631_400_125, ROSA, DeviceId(1_234_567_890), Seconds(432_000)),
    (Past(6, Seconds(604_800)), Past(5, Seconds(86_400))),
    (PETER,),
)
MALFORMED = (None, (Finding.MALFORMED_SETTING,))

COUNTERS = st.integers(0, MAX_COUNTER)
TIMERS = st.none() | st.integers(1, MAX_TIMER).map(Seconds)
JIDS = st.from_regex(r"[a-zé🐘.-]{1,20}@[a-z]{1,9}\.example", fullmatch=True).map(BareJid)
TAGS = st.builds(
    Tag,
    counter=COUNTERS,
    stamp=st.integers(0, 253_402_300_799_999),
    author=JIDS,
    device=st.integers(1, 2**31 - 1).map(DeviceId),
    timer=TIMERS,
)
SETTINGS = st.builds(
    Setting,
    tag=TAGS,
    past=st.lists(st.builds(Past, COUNTERS, TIMERS), max_size=MAX_PAST).map(tuple),
    off=st.lists(JIDS, max_size=MAX_PAST).map(tuple),
)


def element(**changed: str | None) -> xml.Element:
    attributes = {**GOOD, **changed}
    return xml.Element(
        f"{{{NAMESPACE}}}setting",
        {name: value for name, value in attributes.items() if value is not None},
    )


@given(SETTINGS)
def test_what_is_written_reads_the_same_and_is_valid(value: Setting) -> None:
    written = setting.write(value)
    assert setting.read((written,)) == (value, ())
    SCHEMA.validate(written)
    parsed = xml.parse(xml.serialize(written))
    assert setting.read((parsed,)) == (value, ())


def test_the_element_of_the_docstring() -> None:
    assert setting.read((element(),)) == (SETTING, ())
    assert xml.serialize(setting.write(SETTING)).decode() == (
        "<setting xmlns='eph-e2ee:agreement:0' counter='7' stamp='2026-11-25T18:30:00.125Z' "
        "author='rosa@example.org' device='1234567890' timer='432000' "
        "past='6:604800 5:86400' off='peter@example.org'/>"
    )


def test_off_is_a_timer_of_zero_and_nothing_else_is_needed() -> None:
    value, findings = setting.read((element(timer="0", past=None, off=None),))
    assert (value, findings) == (
        Setting(Tag(7, SETTING.tag.stamp, ROSA, SETTING.tag.device, None)),
        (),
    )


@pytest.mark.parametrize(
    "changed",
    [
        *({name: None} for name in ("counter", "stamp", "author", "device", "timer")),
        *({name: ""} for name in ("counter", "stamp", "author", "device", "timer")),
        {"counter": "-1"},
        {"counter": "x"},
        {"counter": "٣"},
        {"counter": str(MAX_COUNTER + 1)},
        {"counter": "9" * 5000},
        {"stamp": "2026-11-25T18:30:00Z"},
        {"stamp": "2026-11-25T18:30:00.125"},
        {"stamp": "2026-11-25T18:30:00.125+01:00"},
        {"stamp": "2026-11-25T18:30:00.125456Z"},
        {"stamp": "2026-02-30T18:30:00.125Z"},
        {"stamp": "0000-01-01T00:00:00.000Z"},
        {"stamp": "1795631400125"},
        {"author": "rosa@example.org/phone"},
        {"author": "rosa @example.org"},
        {"author": "rosa\n@example.org"},
        {"author": "r" * 4000},
        {"device": "0"},
        {"device": "2147483648"},
        {"device": "-5"},
        {"timer": "-1"},
        {"timer": "4294967296"},
        {"timer": "soon"},
        {"past": "6"},
        {"past": "6:"},
        {"past": ":5"},
        {"past": "6:+5"},
        {"past": "6:5:4"},
        {"past": "6:4294967296"},
        {"past": "9007199254740992:5"},
        {"past": "6:5,5:4"},
        {"past": "6:5\u20035:4"},
        {"past": " ".join(["6:5"] * (MAX_PAST + 1))},
        {"off": "peter@example.org/phone"},
        {"off": " ".join([PETER] * (MAX_PAST + 1))},
        {"until": "tomorrow"},
    ],
)
def test_f30_garbage_is_malformed_and_changes_nothing(changed: dict[str, str | None]) -> None:
    """F30: what cannot be read in every part is not read at all."""
    assert setting.read((element(**changed),)) == MALFORMED


def test_it_has_neither_text_nor_children() -> None:
    spoken, parent = element(), element()
    spoken.text = "x"
    parent.append(element())
    assert setting.read((spoken,)) == setting.read((parent,)) == MALFORMED


def test_several_are_as_good_as_none() -> None:
    assert setting.read((element(), element())) == MALFORMED


def test_other_elements_are_not_read() -> None:
    others = (xml.Element("setting"), xml.Element("{urn:xmpp:ephemeral:0}ephemeral"))
    assert setting.read(others) == (None, ())
    assert setting.read(()) == (None, ())
    assert [setting.is_setting(each) for each in (*others, element())] == [False, False, True]


VALUES = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.from_regex(r"\s*[+-]?[0-9]{1,17}(:[0-9]{0,11})?\s*", fullmatch=True),
    st.sampled_from([*GOOD.values(), "6:0  5:7\t4:1", " 5 ", "2026-06-30T24:00:00.000Z"]),
)


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), VALUES, min_size=1, max_size=3))
def test_what_the_schema_refuses_is_refused_and_nothing_raises(
    changed: dict[str, str | None],
) -> None:
    one = element(**changed)
    value, findings = setting.read((one,))
    assert (value is None) == bool(findings)
    if not SCHEMA.is_valid(one):
        assert value is None


def test_it_is_small() -> None:
    """It goes with every message: below 700 bytes with all that it can name of the past."""
    past = tuple(Past(9_000 - number, Seconds(MAX_TIMER)) for number in range(MAX_PAST))
    tag = Tag(9_001, SETTING.tag.stamp, ROSA, SETTING.tag.device, Seconds(MAX_TIMER))
    written = setting.write(Setting(tag, past, (ROSA, PETER)))
    assert len(xml.serialize(written)) < 700


def test_the_first_accounts_that_fit_are_named() -> None:
    """Whose they are anybody may say, and each message of ours repeats them."""
    usual = [BareJid(f"{number:02}{'a' * 46}@example.org") for number in range(MAX_PAST)]
    long = BareJid("a" * 3062)
    assert fitting(usual) == tuple(usual)
    assert fitting([long, ROSA, long, PETER, ROSA]) == (ROSA, PETER)
    most, more = BareJid("a" * (MAX_OFF - 2)), BareJid("a" * (MAX_OFF - 1))
    assert fitting([more, most, ROSA]) == (most,)
    for written in ("é" * (MAX_OFF // 2), "'" * (MAX_OFF // 5)):
        assert fitting([BareJid(written)]) == ()


@given(st.lists(st.text("a'&é🐘", min_size=1, max_size=400).map(BareJid), max_size=40))
def test_what_fits_is_small_and_fits_again(accounts: list[BareJid]) -> None:
    kept = fitting(accounts)
    assert fitting(kept) == kept
    bare, full = (setting.write(Setting(SETTING.tag, (), off)) for off in ((), kept))
    assert len(xml.serialize(full)) - len(xml.serialize(bare)) <= MAX_OFF + len(" off=''")


def test_the_order_is_counter_then_stamp_then_author_then_device_then_value() -> None:
    tags = [
        Tag(0, 9, ROSA, DeviceId(2), Seconds(9)),
        Tag(0, 8, PETER, DeviceId(1), Seconds(1)),
        Tag(1, 1, ROSA, DeviceId(2), Seconds(9)),
        Tag(2, 1, ROSA, DeviceId(2), Seconds(9)),
        Tag(2, 2, PETER, DeviceId(2), Seconds(9)),
        Tag(2, 2, ROSA, DeviceId(1), Seconds(9)),
        Tag(2, 2, ROSA, DeviceId(2), None),
        Tag(2, 2, ROSA, DeviceId(2), Seconds(1)),
    ]
    assert sorted(tags, key=lambda tag: tag.rank) == tags


@given(TAGS, TAGS)
def test_two_tags_of_one_rank_are_one(one: Tag, other: Tag) -> None:
    assert (one.rank == other.rank) == (one == other)
