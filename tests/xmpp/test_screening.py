"""Stanzas that slixmpp's handlers do not survive: they never see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring

import pytest
from slixmpp.exceptions import IqError
from slixmpp.stanza import Message, Presence

from eph_e2ee.xmpp.screening import MAX_DEPTH, MAX_ITEMS, screened
from tests.support.client import SECONDS
from tests.xmpp.clients import OurPlugin, TestClient, World

if TYPE_CHECKING:
    from slixmpp.xmlstream import StanzaBase

PETER = "peter@example.org"
CLIENT = "xmlns='jabber:client'"
DELAY = "<delay xmlns='urn:xmpp:delay' stamp='{}'/>"
BODY = "<body>sentinel</body>"


@pytest.fixture
async def client(world: World) -> TestClient:
    made = world.client("rosa")
    made.plug(OurPlugin)
    made.register_plugin("xep_0045")
    return made


def stanza(client: TestClient, xml: str) -> StanzaBase:
    """A stanza as slixmpp makes one."""
    made: StanzaBase = client._build_stanza(fromstring(xml))  # noqa: S314 -- written by the test
    return made


def event(*items: str, beside: str = "", node: str = "urn:example") -> str:
    return (
        f"<message {CLIENT} from='{PETER}'>{beside}"
        f"<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='{node}'>"
        f"{''.join(items)}</items></event></message>"
    )


def nested(levels: int) -> str:
    return "<x xmlns='urn:example'>" * levels + "</x>" * levels


@pytest.mark.parametrize(
    "xml",
    [
        f"<message {CLIENT} from='{PETER}/x' to='rosa@example.org' id='7'>{BODY}</message>",
        f"<message {CLIENT}>{BODY}</message>",
        f"<message {CLIENT} from=''>{nested(MAX_DEPTH - 1)}</message>",
        f"<presence {CLIENT} from='{PETER}'><x xmlns='urn:example'/></presence>",
        f"<iq {CLIENT} type='get' id='7'><x xmlns='urn:example'/></iq>",
        event("<item/>", beside=DELAY.format("never")),
        event("<item/>", "<item/>", beside=DELAY.format("2026-01-02T03:04:05Z")),
        event(*["<item/>"] * MAX_ITEMS),
        "<a xmlns='urn:xmpp:sm:3' h='7'/>",
    ],
)
async def test_what_slixmpp_can_deal_with_stays_as_it_is(client: TestClient, xml: str) -> None:
    made = stanza(client, xml)
    before = str(made)
    assert screened(made) is made
    assert str(made) == before


@pytest.mark.parametrize(
    "xml",
    [
        f"<message {CLIENT} from='@' id='7'>{BODY}</message>",
        f"<message {CLIENT} from='{PETER}' to='{PETER}/' id='7'>{BODY}</message>",
        f"<presence {CLIENT} from='a b@example.org'>{BODY}</presence>",
        f"<iq {CLIENT} type='get' from='@@' id='7'>{BODY}</iq>",
        f"<message {CLIENT} from='{PETER}'>{nested(MAX_DEPTH)}</message>",
        f"<iq {CLIENT} type='set' from='{PETER}'>{nested(MAX_DEPTH)}</iq>",
        event("<item/>", "<item/>", beside=DELAY.format("never")),
        event("<item/>", "<item/>", beside=DELAY.format("0001-01-01T00:00:00+14:00")),
        event(*["<item/>"] * (MAX_ITEMS + 1)),
    ],
)
async def test_what_it_cannot_deal_with_is_an_error_of_nobodys(
    client: TestClient, caplog: pytest.LogCaptureFixture, xml: str
) -> None:
    """F42: nothing of it is raised, logged, or answered."""
    emptied = screened(stanza(client, xml))
    assert isinstance(emptied, Message | Presence) or emptied.name == "iq"
    assert (emptied.xml.get("type"), emptied.xml.get("from"), len(emptied.xml)) == (
        "error",
        None,
        0,
    )
    client.receive(xml)
    await asyncio.sleep(0)
    assert client.sent == []
    assert caplog.records == []


async def test_an_error_of_no_known_kind_is_an_error_all_the_same(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6120 section 8.3.3: otherwise it would be waited for, as for no answer."""

    def answer(asking: TestClient, iq: Element) -> None:
        inside = "<error type='cancel'><x xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
        asking.receive(f"<iq {CLIENT} type='error' id='{iq.get('id')}'>{inside}</iq>")

    monkeypatch.setattr(world, "asked", answer)
    question: Any = client.make_iq_get()
    async with asyncio.timeout(SECONDS):
        with pytest.raises(IqError) as caught:
            await question.send()
    assert caught.value.condition == "undefined-condition"


async def test_statuses_that_are_no_numbers_are_left_out(client: TestClient) -> None:
    """XEP-0045's plugin takes them for numbers."""
    codes = "".join(f"<status code='{code}'/>" for code in ("110", "x", "", "9" * 10, "\u0661"))
    inside = f"<x xmlns='http://jabber.org/protocol/muc#user'>{codes}<status/></x>"
    made: Any = screened(stanza(client, f"<presence {CLIENT} from='{PETER}'>{inside}</presence>"))
    assert made["muc"]["status_codes"] == {110}


async def test_it_ends_with_the_plugin(client: TestClient) -> None:
    stream: Any = client
    assert screened in stream._XMLStream__filters["in"]
    stream.plugin.disable("xep_0384")
    assert screened not in stream._XMLStream__filters["in"]
