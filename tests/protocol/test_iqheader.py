"""The header of an IQ, repeated inside of the envelope that it carries."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from os import urandom
from xml.etree.ElementTree import SubElement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import envelope, iqheader, xml
from eph_e2ee.protocol.envelope import Expected
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.protocol.xml import Element

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
HEADER = IqHeader("get", "7c3a", f"{ROSA}/desk", f"{PETER}/phone")
NOW = datetime(2026, 7, 1, tzinfo=UTC)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))

EXPECTED = Expected(
    sender=ROSA,
    recipients=frozenset({PETER}),
    group=False,
    sent_at=NOW,
    margin=timedelta(hours=1),
    strict_time=True,
    normalise=BareJid,
)


def built(header: IqHeader | None) -> bytes:
    content = [Element("{urn:example:tea}tea")]
    return envelope.build(content, sender=ROSA, to=PETER, time=NOW, random=urandom, header=header)


def around(*affixes: Element) -> Element:
    made = Element("{urn:xmpp:sce:1}envelope")
    made.extend(affixes)
    return made


@given(st.builds(IqHeader, TEXTS, TEXTS, TEXTS, TEXTS))
def test_written_and_read(header: IqHeader) -> None:
    element = xml.parse(xml.serialize(iqheader.write(header)))
    assert iqheader.read(around(element)) == header


def test_it_looks_as_the_module_says() -> None:
    assert xml.serialize(iqheader.write(HEADER)) == (
        b"<iq xmlns='eph-e2ee:iq:0' type='get' id='7c3a' from='rosa@example.org/desk'"
        b" to='peter@example.org/phone'/>"
    )


def test_there_may_be_none() -> None:
    assert iqheader.read(around()) is None
    assert iqheader.read(around(Element("{urn:example}iq"))) is None
    nested = around()
    SubElement(nested, "{urn:xmpp:sce:1}content").append(iqheader.write(HEADER))
    assert iqheader.read(nested) is None


@pytest.mark.parametrize("missing", ["type", "id", "from", "to"])
def test_one_that_lacks_something(missing: str) -> None:
    element = iqheader.write(HEADER)
    del element.attrib[missing]
    with pytest.raises(RemoteProtocolError) as caught:
        iqheader.read(around(element))
    assert caught.value.reason is Reason.BAD_AFFIX


def test_several_are_none() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        iqheader.read(around(iqheader.write(HEADER), iqheader.write(HEADER)))
    assert caught.value.reason is Reason.BAD_AFFIX


def test_an_envelope_says_what_it_is_for() -> None:
    """Beside the content, not in it: an IQ has one child."""
    opened = envelope.read(built(HEADER))
    assert opened.affixes.header == HEADER
    assert [element.tag for element in opened.content] == ["{urn:example:tea}tea"]
    assert envelope.verify(opened, replace(EXPECTED, header=HEADER)) == ()


def test_an_envelope_need_not_say_so() -> None:
    opened = envelope.read(built(None))
    assert opened.affixes.header is None
    assert envelope.verify(opened, replace(EXPECTED, header=HEADER)) == ()
    assert envelope.verify(opened, EXPECTED) == ()


@pytest.mark.parametrize(
    "other",
    [
        None,
        replace(HEADER, kind="set"),
        replace(HEADER, iq_id="7c3b"),
        replace(HEADER, sender=f"{ROSA}/phone"),
        replace(HEADER, recipient=f"{PETER}/desk"),
    ],
)
def test_an_envelope_for_another_stanza(other: IqHeader | None) -> None:
    """None: it came in a message."""
    with pytest.raises(RemoteProtocolError) as caught:
        envelope.verify(envelope.read(built(HEADER)), replace(EXPECTED, header=other))
    assert caught.value.reason is Reason.WRONG_STANZA


def test_it_does_not_change_the_size() -> None:
    """It fits into what an envelope is padded to in any case."""
    header = IqHeader("result", "7" * 32, f"{ROSA}/{'d' * 36}", f"{PETER}/{'p' * 36}")
    size = len(built(header))
    assert envelope.MINIMUM_SIZE <= size <= envelope.MINIMUM_SIZE + envelope.MAX_PADDING
