"""Connections that break: stream management, a second session, and starts that fail at first."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp.exceptions import IqError

from eph_e2ee import Delivery, NotConnected, NotSent
from tests.support.chats import Party, bodies, fence, meet
from tests.support.client import PLUGINS, Happenings, connect

if TYPE_CHECKING:
    from tests.integration.conftest import NewParty
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
MANAGED = (*PLUGINS, "xep_0198")
MESSAGE = re.compile(rb"<message\b.*?</message>", re.DOTALL)
PAYLOAD = re.compile(rb"<payload>([^<]*)</payload>")


async def arrive_managed(somebody: Party) -> None:
    """Arrive, and wait until the server manages the stream."""
    somebody.attach()
    with Happenings(somebody.client, "sm_enabled") as managed:
        await somebody.arrive()
        await managed.next()


async def lose(somebody: Party, wire: Wire) -> None:
    """Break the connection down and wait until the client has noticed."""
    with Happenings(somebody.client, "disconnected") as lost:
        await wire.break_down()
        await lost.next()


async def resume(somebody: Party, wire: Wire) -> None:
    """Restore the connection; the session goes on."""
    await wire.restore()
    with Happenings(somebody.client, "session_resumed") as resumed:
        await connect(somebody.client, wire.address)
        await resumed.next()


async def test_what_the_network_lost_is_sent_again_encrypted(party: NewParty, wire: Wire) -> None:
    """F39: stream management sends again what was lost; nothing of it in clear, nothing twice."""
    rosa, peter = party("rosa", address=wire.address, plugins=MANAGED), party("peter")
    await arrive_managed(rosa)
    await peter.arrive()
    await meet(rosa, peter)
    wire.pause()
    texts = [f"into the dark {number}" for number in range(5)]
    for text in texts:
        sent = await rosa.chat.send(peter.jid, text)
        assert sent.message_id is not None
        await wire.from_clients.until(sent.message_id.encode())
    await lose(rosa, wire)
    wire.resume()
    place = len(wire.from_clients.record)
    await resume(rosa, wire)
    assert [(await peter.hear()).body for _ in texts] == texts
    again = MESSAGE.findall(wire.from_clients.record[place:])
    assert len(again) >= len(texts)
    assert all(PAYLOAD.search(stanza) for stanza in again)
    for absent in (b"into the dark", b"<body", b"<envelope", b"<ephemeral"):
        assert absent not in wire.record
    assert await fence(rosa, peter) == []
    assert bodies(await peter.history(rosa))[2:-1] == texts
    assert peter.rejected.all == []


@pytest.mark.core
async def test_what_came_meanwhile_is_heard_once(party: NewParty, wire: Wire) -> None:
    rosa, peter = party("rosa"), party("peter", address=wire.address, plugins=MANAGED)
    await rosa.arrive()
    await arrive_managed(peter)
    await meet(rosa, peter)
    await lose(peter, wire)
    texts = [f"while you were away {number}" for number in range(5)]
    for text in texts:
        await rosa.chat.send(peter.jid, text)
    await resume(peter, wire)
    assert [(await peter.hear()).body for _ in texts] == texts
    assert await fence(rosa, peter) == []
    assert peter.rejected.all == []


async def test_what_is_delivered_again_is_heard_once(party: NewParty, wire: Wire) -> None:
    """F36, F43: the server repeats whatever was not acknowledged when the line broke."""
    rosa, peter = party("rosa"), party("peter", address=wire.address, plugins=MANAGED)
    await rosa.arrive()
    await arrive_managed(peter)
    await meet(rosa, peter)
    await peter.settle()  # the three messages are the last stanzas that he has counted
    # The server never hears that they have arrived.
    wire.from_clients.replace(b"<a ", b"<r ")
    for number in range(3):
        await rosa.chat.send(peter.jid, f"twice {number}")
    assert [(await peter.hear()).body for _ in range(3)] == [f"twice {n}" for n in range(3)]
    await lose(peter, wire)
    wire.from_clients.replace(b"", b"")
    place = len(wire.to_clients.record)
    peter.client.plugin["xep_0198"].handled -= 3
    await resume(peter, wire)
    assert await fence(rosa, peter) == []
    assert len(MESSAGE.findall(wire.to_clients.record[place:])) == 4
    assert bodies(await peter.history(rosa))[2:-1] == [f"twice {n}" for n in range(3)]
    assert peter.rejected.all == []


async def test_a_second_session_of_the_same_client(party: NewParty, wire: Wire) -> None:
    """F46: without stream management a broken connection begins anew, features and all."""
    rosa, peter = party("rosa"), party("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    for number in range(2):
        await lose(peter, wire)
        with pytest.raises(NotConnected):
            await peter.chat.send(rosa.jid, "nobody carries this")
        await rosa.chat.send(peter.jid, f"to the next session {number}")
        await wire.restore()
        await connect(peter.client, wire.address)
        assert (await peter.hear()).body == f"to the next session {number}"
        await peter.chat.send(rosa.jid, "back again")
        assert (await rosa.hear()).body == "back again"
        info = await rosa.client.plugin["xep_0030"].get_info(jid=peter.client.boundjid)
        assert {"urn:xmpp:sce:1", "urn:xmpp:ephemeral:0", "urn:xmpp:omemo:2:devices+notify"} <= set(
            info["disco_info"]["features"]
        )
    assert await fence(rosa, peter) == []
    assert b"nobody carries this" not in wire.record


async def test_offline_is_an_error_and_costs_nothing(pair: tuple[Party, Party]) -> None:
    """F39: without a session nothing is encrypted, kept or queued in clear."""
    rosa, peter = pair
    await meet(rosa, peter)
    await rosa.leave()
    rosa.attach()
    with pytest.raises(NotConnected):
        await rosa.chat.send(peter.jid, "hello?")
    with pytest.raises(NotConnected):
        await rosa.chat.set_timer(peter.jid, None if await rosa.chat.timer(peter.jid) else DAY)
    assert await rosa.chat.timer(peter.jid) is None
    await rosa.arrive()
    await rosa.chat.send(peter.jid, "hello!")
    assert (await peter.hear()).body == "hello!"
    assert bodies(await rosa.history(peter))[2:] == ["hello!"]


class Refusing:
    """A filter that refuses everything that a client publishes, as long as it likes."""

    def __init__(self, somebody: Party, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused = 0
        self.refusing = True
        client: Any = somebody.client
        failure: Any = IqError
        pubsub = client.plugin["xep_0060"]
        publish = pubsub.publish

        async def refuse(*args: Any, **options: Any) -> Any:
            if not self.refusing:
                return await publish(*args, **options)
            self.refused += 1
            raise failure(client.make_iq_error("1", type="wait", condition="resource-constraint"))

        monkeypatch.setattr(pubsub, "publish", refuse)


async def test_a_failed_start_is_tried_again(
    party: NewParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F39, F46: a server that refuses our keys at first is asked again."""
    rosa, peter = party("rosa"), party("peter")
    await peter.arrive()
    rosa.attach()
    server = Refusing(rosa, monkeypatch)
    await connect(rosa.client, rosa.address)
    with pytest.raises(NotSent):
        await rosa.chat.send(peter.jid, "too early")
    assert server.refused > 0
    assert rosa.started.all == []
    assert await rosa.history(peter) == []
    server.refusing = False
    await rosa.chat.send(peter.jid, "in time")
    assert (await peter.hear()).body == "in time"
    await rosa.started.next()
    await (await peter.history(rosa))[0].reply("so it is")
    assert (await rosa.hear()).body == "so it is"


async def test_a_failed_start_is_tried_again_by_itself(
    party: NewParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry is scheduled; here its time is brought forward."""
    rosa, peter = party("rosa"), party("peter")
    await peter.arrive()
    rosa.attach()
    server = Refusing(rosa, monkeypatch)
    scheduled: list[Any] = []
    schedule = rosa.client.schedule

    def noted(name: str, seconds: int, callback: Any, *args: Any, **options: Any) -> None:
        if name.startswith("eph_e2ee"):
            scheduled.append((seconds, callback))
            seconds = 3600
        schedule(name, seconds, callback, *args, **options)

    monkeypatch.setattr(rosa.client, "schedule", noted)
    await connect(rosa.client, rosa.address)
    with pytest.raises(NotSent):
        await rosa.chat.send(peter.jid, "too early")
    server.refusing = False
    ((seconds, again),) = scheduled
    assert seconds == 5
    again()
    await rosa.started.next()
    await rosa.chat.send(peter.jid, "in time")
    assert (await peter.hear()).body == "in time"


async def test_messages_wait_for_a_start_that_failed(
    pair: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives while OMEMO cannot start yet must not be lost."""
    rosa, peter = pair
    await meet(rosa, peter)
    await peter.leave()
    await rosa.chat.send(peter.jid, "before your start")
    peter.attach()
    sessions = peter.chat._account.omemo
    start = sessions._start
    refusing = [True]
    asked = asyncio.Event()

    async def fail_once() -> Any:
        if refusing:
            refusing.clear()
            await asked.wait()
            while not peter.chat._incoming._waiting:
                await peter.ping()
            raise NotSent("the server is not ready")
        return await start()

    monkeypatch.setattr(sessions, "_start", fail_once)
    await connect(peter.client, peter.address)
    failing = asyncio.ensure_future(sessions.get_session_manager())
    asked.set()
    with pytest.raises(NotSent):
        await failing
    await sessions.get_session_manager()
    assert (await peter.hear()).body == "before your start"


async def test_a_line_that_breaks_costs_no_later_message(party: NewParty, wire: Wire) -> None:
    """F43: what was on the line may be lost without stream management; the ratchet goes on."""
    rosa, peter = party("rosa", address=wire.address), party("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    wire.pause()
    sent = await rosa.chat.send(peter.jid, "half way")
    assert sent.delivery is Delivery.SENT
    await lose(rosa, wire)
    wire.resume()
    await wire.restore()
    await connect(rosa.client, wire.address)
    missed = await fence(rosa, peter)
    assert bodies(missed) in ([], ["half way"])
    assert bodies(await rosa.history(peter))[2:-1] == ["half way"]
    assert peter.rejected.all == []
