"""Messages on a managed stream (XEP-0198): sent once the server has them, with slixmpp's plugin."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp.stanza import Message

from eph_e2ee.model import Delivery, Phase
from tests.flows.test_notices import bounced, until_told
from tests.xmpp.clients import TheirPlugin, plugged
from tests.xmpp.test_acks import Stream

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


@pytest.fixture
def stream(rosa: Party, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A stream whose server acknowledges nothing by itself."""
    made = Stream(rosa.client, monkeypatch)
    hand_over = rosa.client.send

    def send(data: Any, *rest: Any) -> None:
        if isinstance(data, Message):
            made.send(data)
        hand_over(data, *rest)

    monkeypatch.setattr(rosa.client, "send", send)
    made.begin()
    return made


def deliveries(party: Party) -> list[tuple[int, Delivery]]:
    return [(each.number, each.delivery) for each in party.events["delivery"]]


async def kept(party: Party, number: int) -> tuple[Phase, Delivery, int | None]:
    await party.chat._outgoing.note()
    entry = await party.vault.transact(lambda tx: tx.entry(number))
    assert entry is not None
    return entry.phase, entry.delivery, entry.deadline


async def test_a_message_is_sent_once_the_server_has_it(
    rosa: Party, peter: Party, stream: Stream
) -> None:
    """F17, F18: until then its timer does not run; then it has run since it was handed over."""
    sent = await rosa.chat.send(peter.jid, "text", timer=MINUTE)
    assert (sent.delivery, sent.phase, sent.deadline) == (Delivery.UNSENT, Phase.UNSENT, None)
    assert await kept(rosa, sent.number) == (Phase.UNSENT, Delivery.UNSENT, None)
    at = int(rosa.clock.now())
    rosa.passes(20)
    await stream.acknowledge(1)
    assert deliveries(rosa) == [(sent.number, Delivery.SENT)]
    assert await kept(rosa, sent.number) == (Phase.RUNNING, Delivery.SENT, at + 60)
    await stream.acknowledge(1)
    assert len(deliveries(rosa)) == 1


async def test_each_is_acknowledged_for_itself(rosa: Party, peter: Party, stream: Stream) -> None:
    """What stands between them, as a change of the timer, is nobody's message."""
    first = await rosa.chat.send(peter.jid, "first")
    await rosa.chat.set_timer(peter.jid, MINUTE)
    second = await rosa.chat.send(peter.jid, "second")
    await stream.acknowledge(2)
    assert deliveries(rosa) == [(first.number, Delivery.SENT)]
    await stream.acknowledge(3)
    assert deliveries(rosa) == [(each.number, Delivery.SENT) for each in (first, second)]


@pytest.fixture
async def pair(town: Town, rosa: Party) -> str:
    """Somebody with a device that looks no further than omemo:2: a message goes in two stanzas."""
    paul = await town.party("paul")
    await plugged(town.world, paul.name, TheirPlugin)
    await rosa.chat.devices(paul.jid)
    return paul.jid


async def test_a_message_in_two_stanzas_is_sent_with_the_second(
    rosa: Party, pair: str, stream: Stream
) -> None:
    sent = await rosa.chat.send(pair, "text", timer=MINUTE)
    at = int(rosa.clock.now())
    rosa.passes(20)
    await stream.acknowledge(1)
    assert deliveries(rosa) == []
    assert await kept(rosa, sent.number) == (Phase.UNSENT, Delivery.UNSENT, None)
    await stream.acknowledge(2)
    assert deliveries(rosa) == [(sent.number, Delivery.SENT)]
    assert await kept(rosa, sent.number) == (Phase.RUNNING, Delivery.SENT, at + 60)


async def test_a_half_that_is_lost_is_sent_again_with_the_other(
    rosa: Party, pair: str, stream: Stream
) -> None:
    """The half that has left is known by its id where it arrives once more (F36)."""
    sent = await rosa.chat.send(pair, "text")
    await stream.acknowledge(1)
    rosa.client.event("sm_failed", None)
    stream.begin()
    await stream.acknowledge(2)
    (unsent,) = await rosa.chat.unsent()
    again = await unsent.resend()
    assert (again.number, again.message_id) == (sent.number, sent.message_id)
    await stream.acknowledge(3)
    assert deliveries(rosa) == []
    await stream.acknowledge(4)
    assert deliveries(rosa) == [(sent.number, Delivery.SENT)]


async def test_all_attempts_are_acknowledged_before_it_is_sent(
    rosa: Party, pair: str, stream: Stream
) -> None:
    """Also where one half has come back: the other one is not taken for the next attempt."""
    sent = await rosa.chat.send(pair, "text")
    await stream.acknowledge(1)
    assert sent.message_id is not None
    rosa.client.receive(bounced(pair, sent.message_id))
    await until_told(rosa)
    assert deliveries(rosa) == [(sent.number, Delivery.FAILED)]
    await sent.resend()
    for count in (2, 3):
        await stream.acknowledge(count)
        assert deliveries(rosa) == [(sent.number, Delivery.FAILED)]
    await stream.acknowledge(4)
    assert deliveries(rosa)[1:] == [(sent.number, Delivery.SENT)]


@pytest.mark.parametrize("event", ["session_end", "sm_failed"])
async def test_what_was_not_acknowledged_may_not_have_left(
    event: str, rosa: Party, peter: Party, stream: Stream
) -> None:
    sent = await rosa.chat.send(peter.jid, "text", timer=MINUTE)
    rosa.client.event(event, None)
    stream.begin()
    await stream.acknowledge(1)
    assert deliveries(rosa) == []
    assert [each.number for each in await rosa.chat.unsent()] == [sent.number]
    again = await (await rosa.chat.unsent())[0].resend()
    assert again.message_id == sent.message_id
    await stream.acknowledge(2)
    assert deliveries(rosa) == [(sent.number, Delivery.SENT)]


async def test_a_stream_that_is_resumed_acknowledges_later(
    rosa: Party, peter: Party, stream: Stream
) -> None:
    sent = await rosa.chat.send(peter.jid, "text")
    rosa.client.event("disconnected", None)
    stream.begin()
    rosa.client.event("session_resumed", None)
    await stream.acknowledge(1)
    assert deliveries(rosa) == [(sent.number, Delivery.SENT)]


async def test_without_management_what_was_handed_over_is_sent(
    rosa: Party, peter: Party, stream: Stream
) -> None:
    stream.plugin.enabled_out = False
    sent = await rosa.chat.send(peter.jid, "text")
    assert sent.delivery is Delivery.SENT
    assert deliveries(rosa) == []
    assert (await kept(rosa, sent.number))[1] is Delivery.SENT
