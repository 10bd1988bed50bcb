"""When a session begins, when we are available, and when a room is entered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from xml.etree.ElementTree import fromstring

import pytest
from slixmpp import JID
from slixmpp.stanza import Message, Presence

from eph_e2ee.xmpp.lifecycle import Lifecycle
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slixmpp.xmlstream import StanzaBase

    from tests.xmpp.clients import TestClient, World

ROOM = "room@rooms.example.org"


@pytest.fixture
def client(world: World) -> TestClient:
    return world.client("rosa")


@pytest.fixture
def told(client: TestClient) -> Iterator[list[object]]:
    """What was told; the lifecycle is detached at the end."""
    told: list[object] = []
    lifecycle = Lifecycle(client)
    lifecycle.on_session = told.append
    lifecycle.on_available = lambda: told.append("available")
    lifecycle.on_joined = told.append
    yield told
    lifecycle.detach()


async def leaves(client: TestClient, stanza: StanzaBase) -> None:
    """Have a stanza go out through slixmpp's own queue."""
    client.waiting_queue.put_nowait((stanza, True))
    client.waiting_queue.put_nowait((Message(client), True))  # type: ignore[no-untyped-call]
    sent: list[object] = []
    client.send_raw = sent.append  # type: ignore[method-assign, assignment]
    task = client.loop.create_task(client.run_filters())
    async with asyncio.timeout(SECONDS):
        while len(sent) < 2:  # noqa: ASYNC110 -- a list is no event
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)


async def test_we_become_available_once_a_session(client: TestClient, told: list[object]) -> None:
    """Only the presence that everybody gets makes a server deliver messages."""
    client.event("session_bind", client.boundjid)
    for kind, to in (("unavailable", ""), ("", ROOM), ("subscribe", "peter@example.org")):
        stanza = client.make_presence(pto=to or None)
        if kind:
            stanza["type"] = kind
        await leaves(client, stanza)
    assert told == [True]
    for _ in range(2):
        await leaves(client, client.make_presence())
    assert told == [True, "available"]
    client.event("session_resumed", None)
    await leaves(client, client.make_presence())
    assert told == [True, "available", False]
    client.event("session_bind", client.boundjid)
    await leaves(client, client.make_presence())
    assert told == [True, "available", False, True, "available"]


def presence(client: TestClient, *codes: str, kind: str = "") -> Presence:
    status = "".join(f"<status code='{code}'/>" for code in codes)
    made = Presence(client)
    made["from"] = f"{ROOM}/rosa"
    if kind:
        made["type"] = kind
    made.appendxml(fromstring(f"<x xmlns='http://jabber.org/protocol/muc#user'>{status}</x>"))  # noqa: S314 -- the test's own text
    return made


async def test_a_room_is_entered_once_until_it_is_left(
    client: TestClient, told: list[object]
) -> None:
    client.register_plugin("xep_0045")
    client.plugin["xep_0045"].rooms[None][JID(ROOM)] = {}
    client.event("groupchat_presence", presence(client))
    assert told == []
    for codes in (["100", "110"], ["110", "303"]):
        client.event("groupchat_presence", presence(client, *codes))
    assert told == [ROOM]
    client.event("groupchat_presence", presence(client, "110", kind="unavailable"))
    client.event("groupchat_presence", presence(client, "110"))
    assert told == [ROOM, ROOM]


@pytest.mark.parametrize("with_rooms", [False, True])
async def test_nobody_else_has_us_enter_a_room(
    with_rooms: bool,  # noqa: FBT001 -- a parameter
    client: TestClient,
    told: list[object],
) -> None:
    """Anybody's presence can look like one: its archive would be read, and kept in mind."""
    if with_rooms:
        client.register_plugin("xep_0045")
    client.event("groupchat_presence", presence(client, "110"))
    assert told == []
