"""How far conversations were read: published as XEP-0490 has it, heard from ourselves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, tostring

import pytest

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.displayed import NODE, Displayed
from tests.xmpp.test_servertime import traces

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient, World

OWN, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
EVENT = "http://jabber.org/protocol/pubsub#event"
Heard = list[tuple[BareJid, str]]


@pytest.fixture
async def client(world: World) -> TestClient:
    made = world.client("rosa")
    for plugin in ("xep_0060", "xep_0004", "xep_0115"):
        made.register_plugin(plugin)
    made.bound = True
    return made


@pytest.fixture
def displayed(client: TestClient) -> Displayed:
    return Displayed(client, lambda: OWN)


@pytest.fixture
def heard(displayed: Displayed) -> Heard:
    told: Heard = []
    displayed.listen(lambda conversation, archive_id: told.append((conversation, archive_id)))
    return told


def place(archive_id: str = "a9", by: str = OWN) -> str:
    stanza_id = f"<stanza-id xmlns='urn:xmpp:sid:0' id='{archive_id}' by='{by}'/>"
    return f"<displayed xmlns='{NODE}'>{stanza_id}</displayed>"


def item(payload: str = "", name: str = PETER) -> str:
    return f"<item id='{name}'>{payload or place()}</item>"


def event(items: str, sender: str = f"from='{OWN}'", node: str = NODE) -> str:
    inside = f"<event xmlns='{EVENT}'><items node='{node}'>{items}</items></event>"
    return f"<message xmlns='jabber:client' {sender} type='headline'>{inside}</message>"


@pytest.mark.parametrize("sender", [f"from='{OWN}'", ""])
async def test_our_other_devices_are_heard(sender: str, client: TestClient, heard: Heard) -> None:
    client.receive(event(item() + item(place("a7"), "Anna@Example.org/x"), sender))
    assert heard == [(PETER, "a9"), ("anna@example.org", "a7")]


@pytest.mark.parametrize(
    "sender",
    ["peter@example.org", "example.org", "pubsub.example.org", "rosa@example.net", "@", ""],
)
async def test_nobody_else_tells_what_we_have_read(
    sender: str, client: TestClient, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """F18: a peer could start the timers of messages that nobody has seen."""
    client.receive(event(item(), f"from='{sender}'"))
    assert heard == []
    assert client.sent == []
    assert not caplog.records


@pytest.mark.parametrize(
    "stanza",
    [
        event(""),
        event(item(), node="urn:xmpp:omemo:2:devices"),
        event(item(place(by=PETER))),
        event(item(place(by="room@rooms.example.org"))),
        event(item(place(by=""))),
        event(item(place(""))),
        event(item(f"<displayed xmlns='{NODE}'/>")),
        event(item("<displayed xmlns='urn:xmpp:chat-markers:0' id='7'/>")),
        event(item(name="@")),
        event(item(name="")),
        event(item(name="x" * 1100)),
        event("<retract id='peter@example.org'/>"),
        event(f"<x xmlns='urn:example'>{item()}</x>"),
        f"<message xmlns='jabber:client' from='{OWN}'><event xmlns='{EVENT}'/></message>",
        (
            f"<message xmlns='jabber:client' from='{OWN}'><event xmlns='{EVENT}'>"
            f"<purge node='{NODE}'/></event></message>"
        ),
    ],
)
async def test_what_is_malformed_tells_nothing(
    stanza: str, client: TestClient, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    client.receive(stanza)
    assert heard == []
    assert client.sent == []
    assert not caplog.records


async def test_what_is_malformed_takes_no_other_along(client: TestClient, heard: Heard) -> None:
    """F38."""
    client.receive(event(item(name="@") + item(place(by=PETER)) + item()))
    assert heard == [(PETER, "a9")]


async def test_a_place_is_published_for_ourselves_alone(
    displayed: Displayed, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XEP-0490 section 3: with our archive's id, the archive's name, and the node closed."""
    questions: list[Element] = []
    asked = world.asked

    def listening(client: TestClient, iq: Element) -> None:
        questions.append(iq)
        asked(client, iq)

    monkeypatch.setattr(world, "asked", listening)
    assert await displayed.publish(PETER, "a9")
    (payload,) = world.items[OWN, NODE].values()
    assert set(world.items[OWN, NODE]) == {PETER}
    assert [(child.tag, child.attrib) for child in payload] == [
        ("{urn:xmpp:sid:0}stanza-id", {"id": "a9", "by": OWN})
    ]
    (question,) = questions
    fields = {
        field.get("var"): field.findtext("{jabber:x:data}value")
        for field in question.iter("{jabber:x:data}field")
    }
    assert fields["pubsub#access_model"] == "whitelist"
    assert fields["pubsub#persist_items"] == "true"
    assert fields["pubsub#send_last_published_item"] == "never"
    assert question.get("to") in (None, OWN)


async def test_what_was_published_is_fetched(displayed: Displayed) -> None:
    assert await displayed.fetch() == []
    await displayed.publish(PETER, "a9")
    await displayed.publish(BareJid("anna@example.org"), "a7")
    await displayed.publish(PETER, "a10")
    assert sorted(await displayed.fetch()) == [("anna@example.org", "a7"), (PETER, "a10")]


async def test_a_server_that_refuses(displayed: Displayed, world: World) -> None:
    world.failing = {NODE}
    assert not await displayed.publish(PETER, "a9")
    assert await displayed.fetch() == []


async def test_a_publication_is_heard_by_the_others(
    displayed: Displayed, client: TestClient, heard: Heard
) -> None:
    await displayed.publish(PETER, "a9")
    assert heard == [(PETER, "a9")]
    assert client.sent == []


async def test_the_interest_is_told_on_each_bind_and_withdrawn(
    displayed: Displayed, client: TestClient
) -> None:
    """F46: without it no event ever comes; STYLE 13: afterwards all is as before."""
    disco: Any = client.plugin.get("xep_0030", None)

    async def interested() -> bool:
        info = await disco.get_info(jid=client.boundjid, local=True)
        return f"{NODE}+notify" in tostring(info.xml).decode()

    before = traces(client)
    displayed.listen(lambda _conversation, _archive_id: None)
    assert not await interested()
    client.event("session_bind", client.boundjid)
    assert await interested()
    displayed.stop()
    assert not await interested()
    assert traces(client) == before
    displayed.stop()
