"""Marks on other messages: every form, its limits, and whatever else may stand in their place."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.model import BareJid, MessageId, StateName
from eph_e2ee.protocol import ephemeral, marks, stamps, xml
from eph_e2ee.protocol.marks import MAX_ID, MAX_MARKS, NAMESPACE, Marks, Read

ROSA = BareJid("rosa@example.org")
STAMP = "2026-11-25T18:30:00.125Z"
RECEIPTS, MARKERS = "urn:xmpp:receipts", "urn:xmpp:chat-markers:0"
STATES = "http://jabber.org/protocol/chatstates"

IDS = st.text(min_size=1, max_size=20).map(MessageId)
READS = st.builds(
    Read,
    st.text(min_size=1, max_size=20).map(BareJid),
    st.lists(IDS, min_size=1, max_size=4).map(tuple),
    st.integers(0, 253_402_300_799_999),
)


def parsed(content: str) -> list[Element]:
    return list(xml.parse(f"<content xmlns='urn:xmpp:sce:1'>{content}</content>".encode()))


def read(content: str) -> Marks:
    return marks.read(parsed(content))


def displayed(message_id: str) -> str:
    return f"<displayed xmlns='{MARKERS}' id='{message_id}'/>"


def reading(inside: str, attributes: str = f"conversation='{ROSA}' stamp='{STAMP}'") -> str:
    return f"<read xmlns='{NAMESPACE}' {attributes}>{inside}</read>"


@given(st.lists(IDS, max_size=4), st.lists(IDS, max_size=4), st.lists(READS, max_size=3))
def test_what_is_written_reads_the_same(
    received: list[MessageId], shown: list[MessageId], reads: list[Read]
) -> None:
    content = marks.write_received(received)
    content += [marks.write_displayed(each) for each in shown]
    content += [marks.write_read(each) for each in reads]
    found = marks.read(content)
    assert found == Marks(tuple(received), tuple(shown), tuple(reads))
    assert bool(found) == bool(received or shown or reads)


def test_the_forms_on_the_wire() -> None:
    """XEP-0184, XEP-0333, and the one of our own."""
    written = [
        *marks.write_received([MessageId("7")]),
        marks.write_displayed(MessageId("8")),
        marks.write_read(Read(ROSA, (MessageId("9"),), stamps.read(STAMP) or 0)),
        *marks.write_wanted(),
    ]
    assert [xml.serialize(each).decode() for each in written] == [
        f"<received xmlns='{RECEIPTS}' id='7'/>",
        f"<displayed xmlns='{MARKERS}' id='8'/>",
        (
            f"<read xmlns='{NAMESPACE}' conversation='{ROSA}' stamp='{STAMP}'>"
            f"<displayed xmlns='{MARKERS}' id='9'/></read>"
        ),
        f"<request xmlns='{RECEIPTS}'/>",
        f"<markable xmlns='{MARKERS}'/>",
    ]


def test_each_wish_is_heard_by_itself() -> None:
    receipt, marker = marks.write_wanted()
    assert marks.read([receipt]) == Marks(wants_receipt=True)
    assert marks.read([marker]) == Marks(wants_marker=True)
    assert not marks.read([receipt, marker])


@pytest.mark.parametrize("name", ["active", "composing", "paused", "inactive", "gone"])
def test_what_somebody_is_doing(name: StateName) -> None:
    """XEP-0085 section 3: five states, of which the first counts."""
    assert read(f"<{name} xmlns='{STATES}'/>") == Marks(state=name)
    assert (
        read(f"<x xmlns='{STATES}'/><{name} xmlns='{STATES}'/><gone xmlns='{STATES}'/>").state
        == name
    )
    assert not read(f"<{name} xmlns='{STATES}'/>")  # it says nothing of other messages
    assert read(f"<{name} xmlns='{MARKERS}'/>").state is None


@pytest.mark.parametrize(
    "content",
    [
        displayed(""),
        f"<displayed xmlns='{MARKERS}'/>",
        f"<received xmlns='{RECEIPTS}' ID='7'/>",
        "<displayed xmlns='urn:xmpp:chat-markers:1' id='7'/>",
        "<displayed xmlns='jabber:client' id='7'/>",
        f"<acknowledged xmlns='{MARKERS}' id='7'/>",
        f"<x xmlns='urn:example'>{displayed('7')}{reading(displayed('7'))}</x>",
        displayed("7" * (MAX_ID + 1)),
        reading(""),
        reading(displayed("7"), ""),
        reading(displayed("7"), f"conversation='{ROSA}'"),
        reading(displayed("7"), f"conversation='' stamp='{STAMP}'"),
        reading(displayed("7"), f"stamp='{STAMP}'"),
        reading(displayed("7"), f"conversation='{ROSA}' stamp='now'"),
        reading(displayed("7"), f"conversation='{ROSA}' stamp='2026-11-25T18:30:00Z'"),
        reading("<displayed id='7'/>"),
        reading(f"<received xmlns='{RECEIPTS}' id='7'/>"),
        reading(f"<x xmlns='urn:example'>{displayed('7')}</x>"),
        (
            f"<read xmlns='eph-e2ee:read:1' conversation='{ROSA}' stamp='{STAMP}'>"
            f"{displayed('7')}</read>"
        ),
    ],
)
def test_what_is_malformed_or_anothers_marks_nothing(content: str) -> None:
    assert not read(content)


def test_what_is_malformed_takes_no_other_along() -> None:
    """F38."""
    good = reading(displayed("7") + displayed("") + displayed("8"))
    found = read(displayed("") + reading("") + good + reading(displayed("9"), "") + displayed("1"))
    stamp = stamps.read(STAMP)
    assert found == Marks(displayed=(MessageId("1"),), read=(Read(ROSA, ("7", "8"), stamp),))  # type: ignore[arg-type]


def test_the_longest_id() -> None:
    assert read(displayed("7" * MAX_ID)).displayed == ("7" * MAX_ID,)


def test_a_message_marks_so_many_and_no_more() -> None:
    """A peer does not choose how much work a message is."""
    many = [MessageId(f"{number}") for number in range(MAX_MARKS + 5)]
    content = marks.write_received(many) + [marks.write_displayed(each) for each in many]
    half = len(many) // 2
    content += [marks.write_read(Read(ROSA, tuple(each), 5)) for each in (many[:half], many[half:])]
    content.append(marks.write_read(Read(ROSA, (MessageId("late"),), 5)))
    found = marks.read(content)
    assert found.received == found.displayed == tuple(many[:MAX_MARKS])
    assert [each for part in found.read for each in part.message_ids] == many[:MAX_MARKS]


def test_marks_are_no_elements_of_the_applications() -> None:
    """Whatever is written here, and the rest of both specifications."""
    own = [
        *marks.write_wanted(),
        *marks.write_received([MessageId("7")]),
        marks.write_displayed(MessageId("7")),
        marks.write_read(Read(ROSA, (MessageId("7"),), 5)),
        Element(f"{{{MARKERS}}}acknowledged"),
        Element(f"{{{MARKERS}}}received"),
        Element(f"{{{STATES}}}composing"),
        Element("{urn:xmpp:tm:1}trust-message"),
    ]
    assert all(marks.is_mark(each) for each in own)
    others = [
        Element("{jabber:client}body"),
        Element("displayed"),
        Element("{jabber:client}read"),
        Element(f"{{{MARKERS}0}}displayed"),
        Element("{urn:xmpp:receipts:1}received"),
        ephemeral.write(ephemeral.checked_timer(60)),
    ]
    assert not any(marks.is_mark(each) for each in others)


TAGS = st.sampled_from(
    [
        f"{{{RECEIPTS}}}received",
        f"{{{RECEIPTS}}}request",
        f"{{{MARKERS}}}displayed",
        f"{{{MARKERS}}}markable",
        f"{{{NAMESPACE}}}read",
        f"{{{STATES}}}composing",
        f"{{{STATES}}}other",
        "other",
    ]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["id", "stamp", "conversation", "x"]),
    st.text(max_size=30) | st.just(STAMP) | st.just("9999-99-99T99:99:99.999Z"),
)


@st.composite
def elements(draw: st.DrawFn) -> Element:
    element = Element(draw(TAGS), draw(ATTRIBUTES))
    for _ in range(draw(st.integers(0, 3))):
        SubElement(element, draw(TAGS), draw(ATTRIBUTES))
    return element


@given(st.lists(elements(), max_size=5))
def test_anything_is_read_without_an_error(content: list[Element]) -> None:
    found = marks.read(content)
    ids = [*found.received, *found.displayed, *(i for each in found.read for i in each.message_ids)]
    assert all(0 < len(each) <= MAX_ID for each in ids)
    assert all(each.conversation and each.message_ids for each in found.read)
