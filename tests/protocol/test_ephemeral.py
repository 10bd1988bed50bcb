"""The ephemeral element: every lexical form of a timer, off, and the three forms of opting out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import Seconds
from eph_e2ee.protocol import ephemeral, xml
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.protocol.ephemeral import Announcement, Kind

TIMERS = st.integers(1, ephemeral.MAX_TIMER).map(Seconds)
SPACE = st.text(st.sampled_from(" \t\r\n"), max_size=3)


def read(content: str) -> Announcement:
    root = xml.parse(f"<content xmlns='urn:xmpp:sce:1'>{content}</content>".encode())
    return ephemeral.read(tuple(root))


def element(timer: str) -> str:
    return f"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer={xml.quoted(timer)}/>"


@given(TIMERS)
def test_what_is_written_reads_the_same(timer: Seconds) -> None:
    written = ephemeral.write(timer)
    assert ephemeral.read((written,)) == Announcement(Kind.TIMER, timer)
    assert xml.serialize(written).decode() == element(str(timer))


@given(
    st.integers(0, ephemeral.MAX_TIMER),
    SPACE,
    st.sampled_from(["", "+"]),
    st.integers(0, 50),
    SPACE,
)
def test_every_lexical_form(
    before_value: int, before: str, sign: str, zeros: int, after: str
) -> None:
    """F16: values above 2**31 milliseconds and above 2**31 seconds are ordinary ones."""
    text = f"{before}{sign}{'0' * zeros}{before_value}{after}"
    assert ephemeral.parse_timer(text) == before_value


@given(st.text(max_size=12) | st.from_regex(r"\s*[+-]?[0-9]{1,12}\s*", fullmatch=True))
def test_any_text_is_a_timer_or_a_value_error(text: str) -> None:
    try:
        timer = ephemeral.parse_timer(text)
    except ValueError:
        return
    assert 0 <= timer <= ephemeral.MAX_TIMER
    assert int(text) == timer
    assert text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+",
        "-",
        "--0",
        "+-0",
        "1.0",
        "1e3",
        "0x10",
        "1_000",
        "1 000",
        "five",
        "P7D",
        "4294967296",
        "99999999999",
        "9" * 5000,
        "NaN",
        "true",
        "٣",
        "١٢",
        "1\xa0",
        "\u20031",
    ],
)
def test_f30_garbage_is_malformed_and_changes_nothing(text: str) -> None:
    """F30: negatives and garbage are neither a timer nor "burn now"."""
    with pytest.raises(ValueError, match="xs:unsignedInt"):
        ephemeral.parse_timer(text)
    assert read(element(text)) == Announcement(Kind.MALFORMED, findings=(Finding.MALFORMED_TIMER,))


@pytest.mark.parametrize("text", ["0", "-0", "+0", "000", " -000 "])
def test_f30_zero_means_off_and_never_burn_now(text: str) -> None:
    """F30: a timer of zero on a message switches timers off, and the message stays."""
    assert read(element(text)) == Announcement(Kind.OFF)


def test_f16_the_largest_timers() -> None:
    """F16: 24.8 days in milliseconds, 2**31 and 2**32 - 1 seconds."""
    for timer in (2_147_484, 2**31 - 1, 2**31, 2**32 - 1):
        assert read(element(str(timer))).timer == timer


def test_f24_no_element_says_nothing() -> None:
    """F24: absence is not off."""
    assert read("<body xmlns='jabber:client'>x</body>") == Announcement(Kind.ABSENT)


def test_an_element_without_its_attribute_is_malformed() -> None:
    content = "<ephemeral xmlns='urn:xmpp:ephemeral:0' xmlns:x='u' x:timer='5'/>"
    assert read(content).kind is Kind.MALFORMED


def test_other_namespaces_are_other_elements() -> None:
    content = "<ephemeral timer='5'/><ephemeral xmlns='urn:xmpp:ephemeral:1' timer='5'/>"
    upload = "<ephemeral xmlns='urn:xmpp:http:upload:purpose:0' expire-before='x'/>"
    assert read(content + upload) == Announcement(Kind.ABSENT)


@pytest.mark.parametrize("outer", ["reference", "system-message", "message"])
def test_a_nested_element_does_not_count(outer: str) -> None:
    assert read(f"<{outer} xmlns='u'>{element('5')}</{outer}>") == Announcement(Kind.ABSENT)


@given(st.lists(st.integers(0, ephemeral.MAX_TIMER), min_size=2, max_size=5))
def test_of_several_the_shortest_above_zero_wins(timers: list[int]) -> None:
    announcement = read("".join(element(str(timer)) for timer in timers))
    assert announcement.findings == (Finding.SEVERAL_EPHEMERALS,)
    assert announcement.timer == min((timer for timer in timers if timer), default=None)
    assert announcement.kind is (Kind.TIMER if any(timers) else Kind.OFF)


def test_a_malformed_one_beside_a_good_one_is_only_reported() -> None:
    assert read(element("x") + element("60")) == Announcement(
        Kind.TIMER, Seconds(60), findings=(Finding.SEVERAL_EPHEMERALS, Finding.MALFORMED_TIMER)
    )


@pytest.mark.parametrize(
    "content",
    [
        "<i-want-out xmlns='urn:xmpp:ephemeral:0'/>",
        "<i-want-out xmlns='jabber:client'/>",
        "<i-want-out/>",
        "<i-want-out xmlns=''/>",
        element("0") + "<i-want-out xmlns='urn:xmpp:ephemeral:0'/>",
    ],
)
def test_every_form_of_opting_out(content: str) -> None:
    assert read(content) == Announcement(Kind.OFF, None, opt_out=True)


def test_f31_what_is_ephemeral_is_known_wherever_it_stands() -> None:
    """F31: on an outer stanza it can be told apart, to be ignored and reported."""
    own = (ephemeral.write(Seconds(5)), *ephemeral.write_off(), xml.Element("i-want-out"))
    assert all(ephemeral.is_ephemeral(part) for part in own)
    assert ephemeral.is_ephemeral(xml.Element("{jabber:client}i-want-out"))
    assert not ephemeral.is_ephemeral(xml.Element("{jabber:client}body"))
    assert not ephemeral.is_ephemeral(xml.Element("{urn:xmpp:http:upload:purpose:0}ephemeral"))


def test_a_timer_wins_over_an_opt_out() -> None:
    assert read(element("60") + "<i-want-out/>") == Announcement(
        Kind.TIMER, Seconds(60), findings=(Finding.CONTRADICTING_OPT_OUT,)
    )


def test_our_own_off_and_opt_out_read_as_such() -> None:
    assert ephemeral.read(ephemeral.write_off()) == Announcement(Kind.OFF, None, opt_out=True)
    assert ephemeral.read((ephemeral.write_opt_out(),)).kind is Kind.OFF
    assert [xml.serialize(part) for part in ephemeral.write_off()] == [
        b"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='0'/>",
        b"<i-want-out xmlns='urn:xmpp:ephemeral:0'/>",
    ]


@pytest.mark.parametrize("timer", [0, -1, 2**32, True, 1.5])
def test_f30_we_write_no_zero_and_no_garbage(timer: int) -> None:
    """F30: what others must not believe we do not send."""
    with pytest.raises(LocalProtocolError):
        ephemeral.write(Seconds(timer))


@pytest.mark.parametrize("timer", [5, 0, 2.5, "7d", True, None])
def test_a_number_is_no_timer_of_an_application(timer: Any) -> None:
    with pytest.raises(TypeError, match="give a timer as a timedelta"):
        ephemeral.seconds(timer)
