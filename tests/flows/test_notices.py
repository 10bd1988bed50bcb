"""What is said of messages that are here: by peers, by our own devices, by servers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from sqlalchemy import bindparam, update

from eph_e2ee.clear import SHORTEST_CLEAR_TIMER
from eph_e2ee.events import ChatState
from eph_e2ee.model import BareJid, Delivery, MessageId, Phase, Trust
from eph_e2ee.protocol import marks
from eph_e2ee.protocol.marks import Read
from eph_e2ee.vault.database import messages
from tests.flows.archiving import Shelves, rejections
from tests.flows.test_incoming import body, sealed

if TYPE_CHECKING:
    from eph_e2ee.message import Message
    from tests.flows.conftest import Party, Town

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
MINUTE = timedelta(minutes=1)
STATES = "{http://jabber.org/protocol/chatstates}"


@pytest.fixture
def world() -> Shelves:
    return Shelves()


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


async def told(rosa: Party, peter: Party, *content: Element, number: int = 0) -> None:
    """Have a peer's client say something of messages."""
    peter.client.receive(await sealed(rosa, peter, *content, number=number))
    await peter.idle()


def named(message: Message) -> MessageId:
    assert message.message_id is not None
    return message.message_id


def deliveries(party: Party) -> list[tuple[int, Delivery]]:
    return [(each.number, each.delivery) for each in party.events["delivery"]]


async def delivery(party: Party, message: Message) -> Delivery:
    entry = await party.vault.transact(lambda tx: tx.entry(message.number))
    assert entry is not None
    return entry.delivery


# -- by the peer -----------------------------------------------------------------------------------


async def test_a_peer_says_how_far_messages_came(rosa: Party, peter: Party) -> None:
    first, second = [await peter.chat.send(ROSA, text) for text in ("first", "second")]
    await told(rosa, peter, *marks.write_received([named(first)]))
    await told(rosa, peter, marks.write_displayed(named(second)), number=1)
    await told(rosa, peter, *marks.write_received([named(second)]), number=2)
    assert deliveries(peter) == [
        (first.number, Delivery.DELIVERED),
        (first.number, Delivery.DISPLAYED),
        (second.number, Delivery.DISPLAYED),
    ]
    assert peter.events["message"] == []


async def test_a_peer_says_nothing_of_others(rosa: Party, peter: Party, town: Town) -> None:
    """Not of a message to somebody else, of its own, of one that never was; nor reads for us."""
    anna = await town.party("anna")
    other = await peter.chat.send(anna.jid, "to anna")
    await rosa.chat.send(PETER, "unread")
    await town.deliver()
    (unread,) = peter.events["message"]
    ids = (named(other), named(unread), MessageId("unknown"))
    content = [*marks.write_received(ids), *(marks.write_displayed(each) for each in ids)]
    content.append(marks.write_read(Read(ROSA, ids, 5)))
    await told(rosa, peter, *content)
    assert deliveries(peter) == []
    (entry, *_) = await peter.chat.history(ROSA)
    assert entry.phase is Phase.UNREAD
    await peter.chat._outgoing.note()
    assert await delivery(peter, other) is Delivery.SENT


async def test_f38_a_word_on_a_damaged_message_stops_nothing(rosa: Party, peter: Party) -> None:
    sent = await peter.chat.send(ROSA, "damaged")
    damaged = update(messages).where(messages.c.number == bindparam("damaged"))
    values = {"damaged": sent.number, "sealed_key": b"spoiled" * 9}
    await peter.vault.transact(lambda tx: tx.change(damaged, values))
    await told(rosa, peter, *marks.write_received([named(sent)]), body("beside it"))
    assert peter.bodies == ["beside it"]
    assert rejections(peter) == []


# -- for the moment --------------------------------------------------------------------------------


async def test_typing_is_no_message(rosa: Party, peter: Party) -> None:
    """QXmpp puts chat states into envelopes: Kaidan's users would fill histories by typing."""
    before = await peter.chat.history(ROSA)
    await told(rosa, peter, Element(f"{STATES}composing"))
    await told(rosa, peter, body("typed"), Element(f"{STATES}active"), number=1)
    await told(rosa, peter, Element("{urn:xmpp:tm:1}trust-message"), number=2)
    assert peter.events["chat_state"] == [
        ChatState(ROSA, ROSA, "composing"),
        ChatState(ROSA, ROSA, "active"),
    ]
    (message,) = peter.events["message"]
    assert (message.body, message.elements) == ("typed", ())
    assert len(await peter.chat.history(ROSA)) == len(before) + 1
    assert rejections(peter) == []


async def test_what_somebody_was_doing_is_not_told(rosa: Party, peter: Party, town: Town) -> None:
    """Late, or by another device of our own, it is no news; nor is it anybody's message."""
    late = await sealed(rosa, peter, Element(f"{STATES}composing"))
    SubElement(late, "{urn:xmpp:delay}delay", {"stamp": "2026-11-25T18:30:00Z"})
    peter.client.receive(late)
    await peter.idle()
    desk = await town.party("peter")
    await told(desk, peter, Element(f"{STATES}composing"), number=1)
    assert peter.events["chat_state"] == []
    assert peter.events["message"] == []
    assert rejections(peter) == []


# -- by our own devices ----------------------------------------------------------------------------


async def test_our_other_device_reads_for_us(rosa: Party, peter: Party, town: Town) -> None:
    """F27: what it names, since when it says, never later, and not in the future."""
    other = await town.party("peter")
    await rosa.chat.send(PETER, "first", timer=MINUTE)
    await rosa.chat.send(PETER, "second")
    await town.deliver()
    first, second = peter.events["message"]
    now = int(peter.clock.now())
    await told(other, peter, marks.write_read(Read(ROSA, (named(first),), (now - 20) * 1000)))
    await told(
        other, peter, marks.write_read(Read(ROSA, (named(second),), (now + 500) * 1000)), number=1
    )
    second_now, first_now, *_ = await peter.chat.history(ROSA)
    assert (first_now.phase, first_now.deadline) == (Phase.RUNNING, now + 40)
    assert (second_now.phase, second_now.deadline) == (Phase.RUNNING, now + 60)


async def test_a_reading_at_no_sensible_time_stops_nothing(
    rosa: Party, peter: Party, town: Town
) -> None:
    """F38: also when it has waited for its message; the others come all the same."""
    other = await town.party("peter")
    for number, stamp in enumerate((0, -1, -62_135_596_800_000)):
        here = MessageId(f"made {number}")
        await told(rosa, peter, body("here"), TIMER, number=number)
        ids = (here, MessageId(f"made 7{number}"))
        await told(other, peter, marks.write_read(Read(ROSA, ids, stamp)), number=number)
        peter.client.receive(await sealed(rosa, peter, body("later"), TIMER, number=70 + number))
        await told(rosa, peter, body("beside it"), TIMER, number=80 + number)
        beside, later, first, *_ = await peter.chat.history(ROSA)
        assert beside.phase is Phase.UNREAD
        assert (later.phase, later.body) == (Phase.GONE, None)
        assert first.body is None
    assert peter.bodies == ["here", "beside it"] * 3
    assert rejections(peter) == []
    await peter.vault.expire_due()


TIMER = Element("{urn:xmpp:ephemeral:0}ephemeral", {"timer": "60"})


async def test_a_reading_waits_for_its_message(rosa: Party, peter: Party, town: Town) -> None:
    """Also across the end of the process (F20)."""
    other = await town.party("peter")
    stamp = int(peter.clock.now() - 20) * 1000
    await told(other, peter, marks.write_read(Read(ROSA, (MessageId("made 7"),), stamp)))
    again = await town.again(peter)
    await told(rosa, again, body("text"), TIMER, number=7)
    (message,) = again.events["message"]
    assert (message.phase, message.deadline) == (Phase.RUNNING, stamp // 1000 + 60)


async def test_a_marker_to_the_peer_tells_our_other_devices(
    rosa: Party, peter: Party, town: Town
) -> None:
    """What a client of another make leaves it at: XEP-0333, and all before it."""
    other = await town.party("peter")
    await rosa.chat.send(PETER, "first", timer=MINUTE)
    await rosa.chat.send(PETER, "second")
    await town.deliver()
    _, second = peter.events["message"]
    await other.chat._outgoing.signal(ROSA, [marks.write_displayed(named(second))])
    await town.deliver()
    phases = [each.phase for each in await peter.chat.history(ROSA)][:2]
    assert phases == [Phase.RUNNING, Phase.RUNNING]
    assert deliveries(rosa)[-1][1] is Delivery.DISPLAYED


# -- by servers ------------------------------------------------------------------------------------


def bounced(sender: str, message_id: str | None) -> Element:
    named = {} if message_id is None else {"id": message_id}
    made = Element("{jabber:client}message", {"type": "error", "from": sender, **named})
    SubElement(made, "{jabber:client}error", {"type": "cancel"})
    return made


async def until_told(party: Party) -> None:
    while party.chat._account._telling:
        await party.vault.transact(lambda _: None)


async def test_a_message_that_comes_back_has_failed(peter: Party) -> None:
    """Its recipient says so, or one of its clients, or our own server; each attempt for itself."""
    sent = await peter.chat.send(ROSA, "text")
    for sender in ("rosa@example.org", "rosa@example.org/x", "example.org", ""):
        peter.events["delivery"].clear()
        peter.client.receive(bounced(sender, named(sent)))
        await until_told(peter)
        assert deliveries(peter) == [(sent.number, Delivery.FAILED)]
        # That it has left is written down at leisure, and says nothing of what came afterwards.
        await peter.chat._outgoing.note()
        assert await delivery(peter, sent) is Delivery.FAILED
        (kept, *_) = await peter.chat.history(ROSA)
        assert (await kept.resend()).number == sent.number
    await peter.chat._outgoing.note()
    assert await delivery(peter, sent) is Delivery.SENT


async def test_nobody_else_makes_a_message_fail(peter: Party) -> None:
    sent = await peter.chat.send(ROSA, "text")
    await peter.chat._outgoing.note()
    for sender in ("anna@example.org", "example.net", "@", "rosa@example.net"):
        for message_id in (named(sent), "unknown", "", None):
            peter.client.receive(bounced(sender, message_id))
    await until_told(peter)
    assert deliveries(peter) == []
    assert await delivery(peter, sent) is Delivery.SENT
    assert peter.client.sent[1:] == []


async def test_what_the_peer_has_shown_did_not_fail(rosa: Party, peter: Party) -> None:
    """A copy for one of its clients has, perhaps."""
    sent = await peter.chat.send(ROSA, "text")
    await told(rosa, peter, marks.write_displayed(named(sent)))
    peter.client.receive(bounced(ROSA, named(sent)))
    await until_told(peter)
    assert deliveries(peter) == [(sent.number, Delivery.DISPLAYED)]


async def two_unread(rosa: Party, peter: Party, town: Town) -> list[str]:
    """Our archive's ids of two messages that nobody has read."""
    await rosa.chat.send(PETER, "first", timer=MINUTE)
    await rosa.chat.send(PETER, "second")
    await town.deliver()
    entries = [message._entry.content for message in peter.events["message"]]
    return [entry.archive_id or "" for entry in entries if entry is not None]


async def test_the_server_says_how_far_we_have_read(rosa: Party, peter: Party, town: Town) -> None:
    """XEP-0490; F31: no server burns a message unread by it."""
    first, _ = await two_unread(rosa, peter, town)
    notices: Any = peter.chat._incoming._notices
    await notices.displayed(ROSA, first)
    second, read, *_ = await peter.chat.history(ROSA)
    assert second.phase is Phase.UNREAD
    assert read.phase is Phase.RUNNING
    assert read.deadline is not None
    assert read.deadline >= peter.clock.now() + 60
    assert read.deadline <= peter.clock.now() + 60 + SHORTEST_CLEAR_TIMER


async def test_the_server_tells_of_a_message_before_it_comes(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """XEP-0490; F31: however long before; all that were sent before it are read, and none burns."""
    await rosa.chat.send(PETER, "before it", timer=MINUTE)
    await town.deliver()
    notices: Any = peter.chat._incoming._notices
    await notices.displayed(ROSA, f"a{world._names + 4}")  # each goes into two archives
    peter.passes(3600)
    peter.offline()
    await rosa.chat.send(PETER, "with it", timer=MINUTE)
    await rosa.chat.send(PETER, "it", timer=MINUTE)
    await rosa.chat.send(PETER, "later", timer=MINUTE)
    await town.deliver()
    peter.events["message"].clear()
    await peter.online()
    latest = peter.clock.now() + 60 + SHORTEST_CLEAR_TIMER
    later, *others = (await peter.chat.history(ROSA))[:4]
    assert (later.body, later.phase) == ("later", Phase.UNREAD)
    assert [each.body for each in others] == ["it", "with it", "before it"]
    assert [each.deadline for each in others] == [latest] * 3
    phases = [message.phase for message in peter.events["message"]]
    assert phases == [Phase.RUNNING, Phase.RUNNING, Phase.UNREAD]


async def test_what_an_untrusted_device_has_sent_covers_nothing(
    rosa: Party, town: Town, world: Shelves
) -> None:
    """F31: a server can add a device, and have it send what it then says was read last."""
    peter = await town.party("peter", trust="manual")
    added = await town.party("rosa")
    await peter.chat.devices(ROSA)
    await peter.chat.trust(ROSA, rosa.device, "trusted")
    await rosa.chat.send(PETER, "of a trusted device", timer=MINUTE)
    await town.deliver()
    notices: Any = peter.chat._incoming._notices
    last = f"a{world._names + 2}"
    await notices.displayed(ROSA, last)
    await added.chat.send(PETER, "of another one", timer=MINUTE)
    await town.deliver()
    for _ in range(2):
        undecided, trusted = (await peter.chat.history(ROSA))[:2]
        assert (undecided.trust, undecided.phase) == (Trust.UNDECIDED, Phase.RUNNING)
        assert (trusted.trust, trusted.phase) == (Trust.TRUSTED, Phase.UNREAD)
        await notices.displayed(ROSA, last)


async def test_the_server_names_another_conversations_message(
    rosa: Party, peter: Party, town: Town
) -> None:
    first, second = await two_unread(rosa, peter, town)
    notices: Any = peter.chat._incoming._notices
    await notices.displayed(BareJid("anna@example.org"), second)
    assert {each.phase for each in (await peter.chat.history(ROSA))[:2]} == {Phase.UNREAD}
    assert first


async def test_the_server_is_not_believed_where_nobody_wants_that(rosa: Party, town: Town) -> None:
    peter = await town.party("peter", displayed_sync=False)
    first, second = await two_unread(rosa, peter, town)
    notices: Any = peter.chat._incoming._notices
    for archive_id in (first, second, "a99"):
        await notices.displayed(ROSA, archive_id)
    assert {each.phase for each in (await peter.chat.history(ROSA))[:2]} == {Phase.UNREAD}
    assert await peter.vault.transact(lambda tx: tx.value("reads")) is None
