"""The server's time: asked for without slixmpp's plugin, and whatever it answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement

import pytest

from eph_e2ee.xmpp import servertime
from eph_e2ee.xmpp.servertime import ServerTime
from tests.support.client import SECONDS
from tests.xmpp.clients import TestClient, World

if TYPE_CHECKING:
    from collections.abc import Callable

TIME = "{urn:xmpp:time}"
NOON = 1_750_075_200.0


class TimedWorld(World):
    """A server that answers XEP-0202 as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Element] = []
        self.answer: Callable[[Element], None] | None = lambda _: None

    def asked(self, client: TestClient, iq: Element) -> None:
        self.questions.append(iq)
        answer = Element("{jabber:client}iq", {"id": iq.get("id", ""), "type": "result"})
        answer.set("from", iq.get("to", ""))
        if self.answer is not None:
            self.answer(answer)
            client.receive(answer)


def says(utc: str | None, namespace: str = TIME) -> Callable[[Element], None]:
    """An answer with this text as its time."""

    def fill(answer: Element) -> None:
        time = SubElement(answer, f"{namespace}time")
        SubElement(time, f"{namespace}tzo").text = "+02:00"
        if utc is not None:
            SubElement(time, f"{namespace}utc").text = utc

    return fill


def error(answer: Element) -> None:
    answer.set("type", "error")
    condition = "{urn:ietf:params:xml:ns:xmpp-stanzas}service-unavailable"
    SubElement(SubElement(answer, "{jabber:client}error", {"type": "cancel"}), condition)


@pytest.fixture
def world() -> TimedWorld:
    return TimedWorld()


@pytest.fixture
async def client(world: TimedWorld) -> TestClient:
    made = world.client("rosa")
    made.bound = True
    return made


@pytest.fixture
def server(client: TestClient) -> ServerTime:
    return ServerTime(client, client.is_connected)


def traces(client: TestClient) -> tuple[Any, ...]:
    stream: Any = client
    handlers = [handler.name for handler in stream._XMLStream__handlers]
    events = {name: len(kept) for name, kept in stream._XMLStream__event_handlers.items() if kept}
    return handlers, events, list(client.scheduled_events), sorted(client.plugin)


@pytest.mark.parametrize(
    ("utc", "seconds"),
    [
        ("2025-06-16T12:00:00Z", NOON),
        (" 2025-06-16T12:00:00.250Z\n", NOON + 0.25),
        ("2025-06-16T14:00:00+02:00", NOON),
        ("2106-02-07T06:28:16Z", 2.0**32),
    ],
)
async def test_the_server_is_believed_to_the_word(
    utc: str, seconds: float, server: ServerTime, world: TimedWorld
) -> None:
    """XEP-0202 section 3; F16: also in 2106. This machine's own zone has no part in it."""
    world.answer = says(utc)
    assert await server.server_time() == seconds
    (question,) = world.questions
    assert (question.get("to"), question.get("type")) == ("example.org", "get")
    assert [child.tag for child in question] == [f"{TIME}time"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: None,
        error,
        says(None),
        says(""),
        says("noon"),
        says("2025-06-16T12:00:00"),
        says("2025-06-16T12:00:00ZZ"),
        says("2025-06-16"),
        says("9999-12-31T24:00:00Z"),
        says("2025-06-16T12:00:00Z", "{urn:example:other}"),
    ],
    ids=range(10),
)
async def test_a_bad_answer_is_none(
    answer: Callable[[Element], None], server: ServerTime, world: TimedWorld
) -> None:
    """Neither an exception nor, as a missing time is for slixmpp, the present."""
    world.answer = answer
    assert await server.server_time() is None


async def test_the_least_and_the_greatest_times_are_times(
    server: ServerTime, world: TimedWorld
) -> None:
    for utc in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
        world.answer = says(utc)
        assert isinstance(await server.server_time(), float)


async def test_a_server_that_is_silent_is_not_waited_for_long(
    server: ServerTime, world: TimedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servertime, "ANSWER", 0.001)
    world.answer = None
    async with asyncio.timeout(SECONDS):
        assert await server.server_time() is None


async def test_without_a_session_nobody_is_asked(
    server: ServerTime, client: TestClient, world: TimedWorld
) -> None:
    """Otherwise slixmpp keeps the question, and sends it with the next session."""
    client.bound = False
    assert await server.server_time() is None
    assert world.questions == []


async def test_it_leaves_nothing_behind(client: TestClient, world: TimedWorld) -> None:
    """Nor does it advertise, or answer, what time it is on this machine."""
    before = traces(client)
    server = ServerTime(client, client.is_connected)
    world.answer = says("2025-06-16T12:00:00Z")
    await server.server_time()
    world.answer = None
    asking = asyncio.create_task(server.server_time())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    server.detach()
    assert traces(client) == before


@pytest.mark.parametrize("event", ["session_bind", "session_resumed"])
async def test_it_tells_of_sessions(event: str, server: ServerTime, client: TestClient) -> None:
    told: list[str] = []
    server.on_session = lambda: told.append(event)
    client.event(event, client.boundjid)
    assert told == [event]
    server.detach()
    client.event(event, client.boundjid)
    assert told == [event]
