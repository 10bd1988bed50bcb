"""What an arrival becomes: whose it is, what it is known by, what the archive takes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest
from slixmpp import JID

from eph_e2ee.letters import Letters, archive_name, id_name, line_of
from eph_e2ee.model import (
    BareJid,
    Delivery,
    DeviceId,
    Direction,
    MessageId,
    Phase,
    Seconds,
    TimerChange,
)
from eph_e2ee.protocol import marks, setting
from eph_e2ee.protocol.setting import MAX_PAST, Setting, Tag
from eph_e2ee.xmpp.stanzas import Arrival, live
from tests.flows.test_incoming import body, sealed, timer
from tests.xmpp.clients import TheirPlugin, plugged

if TYPE_CHECKING:
    from eph_e2ee.letters import Letter
    from tests.flows.conftest import Party, Town

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
ANNA = BareJid("anna@example.org")
ROOM = BareJid("room@rooms.example.org")
LOCATION = Element("{http://jabber.org/protocol/geoloc}geoloc")


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    made = await town.party("peter")
    await rosa.chat.send(made.jid, "good morning")
    await town.deliver()
    made.events["message"].clear()
    return made


def letters(party: Party) -> Letters:
    return party.chat._incoming._letters


def arrival(sender: BareJid, recipient: BareJid, **more: Any) -> Arrival:
    made = Element("{jabber:client}message")
    return Arrival(made, sender, recipient, MessageId("7"), None, None, **more)


async def opened(rosa: Party, peter: Party, *content: Element) -> Letter:
    """A letter of rosa's to peter, with the true ratchets; it is not kept."""
    xml = await sealed(rosa, peter, *content)
    stanza: Any = peter.client.make_message(mto=PETER)
    stanza.xml = xml
    arrived = live(stanza, PETER)
    assert arrived is not None
    made = letters(peter)
    account = peter.chat._account
    pending = await account.begin_reading(
        [lambda: made.open(arrived, made.replay_ids(arrived))], lambda _: lambda _: None
    )
    await pending.finish()
    (letter,) = pending.value
    assert not isinstance(letter, Exception)
    return letter


async def test_whose_conversation_it_is(peter: Party) -> None:
    """F27: what our other devices send belongs to whom they sent it."""
    made = letters(peter)
    for sender, recipient, own, peer in [
        (ROSA, PETER, False, ROSA),
        (PETER, ROSA, True, ROSA),
        (PETER, PETER, False, PETER),
        (ROSA, ANNA, False, ROSA),
    ]:
        found = arrival(sender, recipient)
        assert (made.is_own(found), made.peer(found)) == (own, peer)
    assert made.peer(arrival(ROSA, ROOM, room=ROOM)) == ROOM
    assert made.peer(arrival(PETER, ROOM, room=ROOM)) == ROOM


async def test_what_a_second_delivery_is_known_by(rosa: Party, peter: Party) -> None:
    """F36: none of them is another conversation's, another sender's, another archive's."""
    made = letters(peter)
    found = arrival(ROSA, PETER)
    assert made.replay_ids(found) == (id_name(ROSA, MessageId("7")),)
    assert made.replay_ids(replace(found, message_id=MessageId(""))) == ()
    archived = replace(found, archive_id="a1")
    assert made.replay_ids(archived)[1:] == (archive_name("a1"),)
    in_room = replace(archived, room=ROOM)
    assert made.replay_ids(in_room)[1:] == (archive_name("a1", ROOM),)
    assert len({archive_name("a1"), archive_name("a1", ROOM), id_name(ROSA, MessageId("a1"))}) == 3
    encrypted = replace(found, xml=await sealed(rosa, peter, body("text")))
    key, name = made.replay_ids(encrypted)
    assert key.startswith("key ")
    assert name == id_name(ROSA, MessageId("7"))


async def test_a_letter_with_everything(rosa: Party, peter: Party) -> None:
    """Receipts, markers, settings and timers are no elements of the application's."""
    content = [body("text"), timer("60"), LOCATION, *marks.write_wanted()]
    content += marks.write_received([MessageId("8")])
    letter = await opened(rosa, peter, *content)
    assert letter.message is not None
    assert (letter.peer, letter.own, letter.rejected) == (ROSA, False, None)
    kept = letter.message.content
    assert (kept.body, len(kept.elements)) == ("text", 1)
    assert "geoloc" in kept.elements[0]
    assert (kept.sender, kept.device) == (ROSA, rosa.device)
    assert (letter.message.lifetime.phase, letter.message.lifetime.timer) == (Phase.UNREAD, 60)
    assert (letter.message.direction, letter.message.delivery) == (
        Direction.INCOMING,
        Delivery.RECEIVED,
    )
    assert letter.marks.received == ("8",)
    assert letter.marks.wants_receipt
    assert letter.change is not None
    assert (letter.change.old, letter.change.new, letter.change.author) == (None, 60, ROSA)
    assert (letter.change.own, letter.change.here, letter.change.authenticated) == (
        False,
        False,
        True,
    )
    assert "text" not in repr(letter)


async def test_marks_alone_are_no_message_and_no_word_on_the_timer(
    rosa: Party, peter: Party, town: Town
) -> None:
    """F24: a receipt carries no timer, and turns none off."""
    await rosa.chat.set_timer(PETER, timedelta(hours=1))
    await town.deliver()
    for content in (
        marks.write_received([MessageId("8")]),
        [marks.write_displayed(MessageId("8"))],
        marks.write_wanted(),
    ):
        letter = await opened(rosa, peter, *content)
        assert (letter.message, letter.change, letter.setting) == (None, None, None)
    assert await peter.chat.timer(ROSA) == timedelta(hours=1)


async def test_the_time_of_sending_is_never_in_the_future(rosa: Party, peter: Party) -> None:
    """F13."""
    rosa.clock.turn_wall(30)
    letter = await opened(rosa, peter, body("text"))
    assert letter.sent_at == peter.clock.now()
    made = letters(peter)
    assert made._never_later(None) == peter.clock.now()
    past = datetime.fromtimestamp(peter.clock.now() - 5, UTC)
    assert made._never_later(past) == peter.clock.now() - 5


async def test_a_letter_of_our_own_device_has_been_sent(peter: Party, town: Town) -> None:
    """F27: its timer runs since then, and it is not to be read by anybody here."""
    other = await town.party("peter")
    await other.chat.send(ROSA, "from the other", timer=timedelta(minutes=1))
    stanza = other.client.sent[-1]
    carried = town.world.carry(stanza, other.client, peter.client)
    arrived = live(carried, PETER)
    assert arrived is not None
    peter.passes(20)
    made = letters(peter)
    pending = await peter.chat._account.begin_reading(
        [lambda: made.open(arrived, made.replay_ids(arrived))], lambda _: lambda _: None
    )
    await pending.finish()
    (letter,) = pending.value
    assert not isinstance(letter, Exception)
    assert letter.own
    assert letter.message is not None
    life = letter.message.lifetime
    assert (life.phase, life.deadline) == (Phase.RUNNING, other.clock.now() + 60)
    assert letter.message.delivery is Delivery.SENT
    assert letter.change is not None
    assert (letter.change.own, letter.change.here) == (True, False)


@pytest.mark.parametrize("own", [False, True])
def test_the_line_of_a_change_does_not_disappear(own: bool) -> None:  # noqa: FBT001 -- a case, no switch
    """Signal#5628."""
    change = TimerChange(ROSA, Seconds(60), None, ROSA, DeviceId(7), own=own)
    line = line_of(change, MessageId("7"), 5.0)
    assert (line.lifetime.phase, line.lifetime.timer, line.lifetime.deadline) == (
        Phase.READ,
        None,
        None,
    )
    assert line.direction is (Direction.OUTGOING if own else Direction.INCOMING)
    assert (line.content.body, line.content.elements, line.content.change) == (None, (), change)
    assert line.replay_ids == ()


async def test_the_life_of_an_unread_letter_can_be_capped(rosa: Party, town: Town) -> None:
    """F19: of one with a timer, counted from its arrival here."""
    anna = await town.party("anna", unread_cap=timedelta(days=1))
    await rosa.chat.send(anna.jid, "capped", timer=timedelta(minutes=1))
    await rosa.chat.send(anna.jid, "permanent", timer=None)
    await town.deliver()
    capped, permanent = anna.events["message"]
    assert (capped.phase, capped.deadline) == (Phase.UNREAD, anna.clock.now() + 86_400)
    assert (permanent.phase, permanent.deadline) == (Phase.UNREAD, None)


@pytest.mark.parametrize(("level", "after"), [("trusted", 60), ("distrusted", None)])
async def test_a_timer_in_clear_is_no_distrusted_devices_to_change(
    level: str, after: int | None, town: Town
) -> None:
    """The message has it all the same."""
    paul = BareJid("paul@example.org")
    client, plugin = await plugged(town.world, "paul", TheirPlugin)
    peter = await town.party("peter", clear_changes=True)
    (device,) = await peter.chat.devices(paul)
    await peter.chat.trust(paul, device.device, level)
    await plugin.refresh_device_lists({JID(PETER)})
    stanza = client.make_message(mto=PETER, mbody="text", mtype="chat")
    encrypted, _ = await plugin.encrypt_message(stanza, JID(PETER))
    xml = town.world.carry(encrypted, client, peter.client).xml
    xml.append(timer("60"))
    peter.client.receive(xml)
    await peter.idle()
    expected = None if after is None else timedelta(seconds=after)
    assert await peter.chat.timer(paul) == expected
    assert len(peter.events["timer_changed"]) == (after is not None)
    assert [message.timer for message in peter.events["message"]] == [timedelta(minutes=1)]


async def test_no_setting_of_a_peer_makes_our_messages_large(
    rosa: Party, peter: Party, town: Town
) -> None:
    """Whom it names there, nobody knows of."""
    tag = Tag(1, round(peter.clock.now() * 1000), ROSA, DeviceId(rosa.device), Seconds(60))
    off = tuple(BareJid(f"{number:02}{'a' * 3060}") for number in range(MAX_PAST))
    planted = setting.write(Setting(tag, (), off))
    peter.client.receive(await sealed(rosa, peter, body("hello"), planted))
    await peter.idle()
    assert (peter.bodies, peter.events["rejected"]) == (["hello"], [])
    await peter.chat.send(rosa.jid, "hello")
    assert [each.timer for each in await peter.chat.history(rosa.jid, limit=1)] == [
        timedelta(minutes=1)
    ]
    again = await town.again(peter)
    await again.chat.send(rosa.jid, "hello again")
    assert max(len(str(stanza)) for stanza in again.client.sent + peter.client.sent) < 4096
