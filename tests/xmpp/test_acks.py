"""What the server has taken: asked behind each message, and told once, by slixmpp's own plugin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest
from slixmpp.stanza import Iq, Message

from eph_e2ee.xmpp.acks import Acks

if TYPE_CHECKING:
    from eph_e2ee.model import MessageId
    from tests.xmpp.clients import TestClient, World

SM = "urn:xmpp:sm:3"


class Stream:
    """A managed stream: what goes out passes slixmpp's filters, and asks are counted."""

    def __init__(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        client.register_plugin("xep_0198")
        client.bound = True
        self.client = client
        self.plugin: Any = client.plugin.get("xep_0198", None)
        self.asked = 0
        monkeypatch.setattr(client, "send_raw", self._raw)

    def _raw(self, data: str) -> None:
        assert data == f'<r xmlns="{SM}" />'
        self.asked += 1

    def begin(self) -> None:
        """What slixmpp does when the server has enabled management."""
        self.plugin.enabled_in = self.plugin.enabled_out = True

    def send(self, stanza: Any) -> None:
        """Write a stanza as slixmpp does: through its last filters."""
        stream: Any = self.client
        for each in stream._XMLStream__filters["out_sync"]:
            stanza = each(stanza)
        assert stanza is not None

    def message(self, message_id: str) -> None:
        self.send(Message(self.client, sto="peter@example.org", sid=message_id))  # type: ignore[no-untyped-call]

    async def acknowledge(self, count: int) -> None:
        self.client.receive(Element(f"{{{SM}}}a", {"h": str(count)}))
        await asyncio.sleep(0)


@pytest.fixture
async def stream(world: World, monkeypatch: pytest.MonkeyPatch) -> Stream:
    return Stream(world.client("rosa"), monkeypatch)


@pytest.fixture
def acks(stream: Stream) -> Acks:
    return Acks(stream.client)


@pytest.fixture
def told(acks: Acks) -> list[MessageId | None]:
    """What was told: ids of messages, and None for a stream that has ended for good."""
    heard: list[MessageId | None] = []
    acks.on_ack = heard.append
    acks.on_lost = lambda: heard.append(None)
    return heard


async def test_each_message_is_told_once_in_its_order(
    stream: Stream, acks: Acks, told: list[MessageId | None]
) -> None:
    active = [acks.active]
    stream.begin()
    active.append(acks.active)
    assert active == [False, True]
    for number in range(3):
        stream.message(f"{number}")
    await stream.acknowledge(2)
    await stream.acknowledge(2)
    assert told == ["0", "1"]
    await stream.acknowledge(3)
    assert told == ["0", "1", "2"]


async def test_only_messages_are_told_of(stream: Stream, told: list[MessageId | None]) -> None:
    stream.begin()
    stream.send(Iq(stream.client, stype="get", sid="question"))  # type: ignore[no-untyped-call]
    stream.message("0")
    await stream.acknowledge(2)
    assert told == ["0"]


async def test_one_answer_is_asked_for_behind_a_burst(
    stream: Stream, told: list[MessageId | None]
) -> None:
    """F17: slixmpp asks after every fifth; the last four would stay in doubt."""
    stream.begin()
    stream.plugin.window = stream.plugin.window_counter = 100  # so that it does not ask itself
    for number in range(4):
        stream.message(f"{number}")
    assert stream.asked == 0
    await asyncio.sleep(0)
    assert stream.asked == 1
    stream.message("4")
    await asyncio.sleep(0)
    assert stream.asked == 2
    assert told == []


async def test_without_management_nothing_is_asked(stream: Stream, acks: Acks) -> None:
    """The application decides on the plugin."""
    stream.message("0")
    await asyncio.sleep(0)
    assert stream.asked == 0
    assert not acks.active
    manager: Any = stream.client.plugin
    manager.disable("xep_0198")
    assert not acks.active
    stream.message("1")
    await asyncio.sleep(0)
    assert stream.asked == 0


@pytest.mark.parametrize("ends", ["disconnected", "disabled"])
async def test_a_stream_that_ends_before_it_is_asked(
    ends: str, stream: Stream, told: list[MessageId | None]
) -> None:
    stream.begin()
    stream.message("0")
    if ends == "disconnected":
        stream.client.bound = False
    else:
        stream.plugin.enabled_out = False
    await asyncio.sleep(0)
    assert stream.asked == 0
    stream.client.bound = True
    stream.begin()
    stream.message("1")
    await asyncio.sleep(0)
    assert stream.asked == 1
    assert told == []


@pytest.mark.parametrize("event", ["sm_failed", "session_end"])
async def test_the_end_of_a_stream_is_told(
    event: str, stream: Stream, told: list[MessageId | None]
) -> None:
    """What was not acknowledged may not have left."""
    stream.begin()
    stream.message("0")
    stream.client.event(event, None)
    assert told == [None]


async def test_a_stream_that_is_resumed_loses_nothing(
    stream: Stream, told: list[MessageId | None]
) -> None:
    stream.begin()
    stream.message("0")
    stream.client.event("disconnected", None)
    stream.begin()
    await stream.acknowledge(1)
    assert told == ["0"]


async def test_after_the_end_nothing_is_told_and_nothing_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(world.client("peter"), monkeypatch)
    inside: Any = stream.client
    before = list(inside._XMLStream__filters["out_sync"])
    acks = Acks(stream.client)
    told: list[object] = []
    acks.on_ack = told.append
    acks.on_lost = lambda: told.append(None)
    acks.detach()
    assert inside._XMLStream__filters["out_sync"] == before
    stream.begin()
    stream.message("0")
    await stream.acknowledge(1)
    stream.client.event("session_end", None)
    assert told == []
    assert stream.asked == 0
