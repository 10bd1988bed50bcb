"""One account's devices act as one: what one sends, gets and reads, the others know."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from eph_e2ee import Delivery, Direction, Phase
from eph_e2ee.clear import SHORTEST_CLEAR_TIMER
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.protocol import marks
from tests.integration.devices import Device, NewDevice, caught_up, ends, ends_at, has_told, until
from tests.support.chats import FENCE, NOW, bodies, fence
from tests.support.client import PLUGINS
from tests.support.interference import Interference
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.prosody import Prosody

ENCRYPTED = "{urn:xmpp:omemo:2}encrypted"

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
ARCHIVED = (*PLUGINS, "xep_0313")
PUBLISHING = (*PLUGINS, "xep_0060")
MESSAGE = re.compile(r"<message\b.*?</message>", re.DOTALL)
DISPLAYED = "urn:xmpp:mds:displayed:0"
LATER = 3600 + 100 + SHORTEST_CLEAR_TIMER
"""When a message for an hour ends that was read after 100 seconds, as far as the server says."""


@pytest.fixture
async def to_desk(prosody: Prosody) -> AsyncIterator[Wire]:
    """A wire of the desk's own."""
    async with Wire(prosody.port) as between:
        yield between


@pytest.fixture
async def three(device: NewDevice) -> tuple[Device, Device, Device]:
    """Two devices of Rosa's, and Peter."""
    phone = device("rosa")
    desk, peter = device(phone), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    return phone, desk, peter


async def archive_once_more(somebody: Device) -> None:
    """Have the whole archive come again, as what arrives unasked."""
    results = somebody.client.plugin["xep_0313"].iterate(rsm={"max": 50})
    assert len([result async for result in results]) > 0


def stanza_of(record: bytes, message_id: str | None) -> str:
    """The stanza with an id, as it went over the wire."""
    (stanza,) = (each for each in MESSAGE.findall(record.decode()) if f'id="{message_id}"' in each)
    return str(stanza)


@pytest.mark.core
async def test_copies_of_what_was_sent_and_received_are_kept_once(
    device: NewDevice, wire: Wire
) -> None:
    """F27, F36: carbons are opened like messages; what the archive brings again is no news."""
    phone = device("rosa")
    desk, peter = device(phone, address=wire.address, plugins=ARCHIVED), device("peter")
    await phone.arrive()
    await desk.arrive(presence=False)
    await caught_up(desk)
    # Not one of those that get what is addressed to the account: a copy it is.
    desk.client.send_presence(ppriority=-1)
    await caught_up(desk)  # once more, as it is available: then copies alone tell
    await peter.arrive()
    sent = await phone.chat.send(peter.jid, "from the phone", timer=HOUR)
    copy = await desk.hear()
    await (await peter.hear()).reply("to the phone")
    answer, answer_copy = await phone.hear(), await desk.hear()
    assert (copy.body, copy.direction, copy.delivery) == (
        "from the phone",
        Direction.OUTGOING,
        Delivery.SENT,
    )
    assert (copy.sender, copy.device) == (phone.jid, phone.chat._account.device)
    assert (copy.message_id, copy.sent_at) == (sent.message_id, sent.sent_at)
    assert (answer_copy.body, answer_copy.direction) == ("to the phone", Direction.INCOMING)
    assert (answer_copy.message_id, answer_copy.phase) == (answer.message_id, Phase.UNREAD)
    arrived = wire.to_clients.record
    assert arrived.count(b"<sent xmlns='urn:xmpp:carbons:2'") == 1
    assert arrived.count(b"<received xmlns='urn:xmpp:carbons:2'") == 1
    assert b"<body" not in arrived
    await archive_once_more(desk)
    assert await fence(peter, desk) == []
    assert bodies(await desk.history(peter)) == ["from the phone", "to the phone", FENCE]
    for each in (phone, desk, peter):
        assert each.rejected.all == []


async def test_a_copy_that_somebody_else_forwards_is_not_heard(
    device: NewDevice, wire: Wire, to_desk: Wire
) -> None:
    """F28: only our own server copies; the same copy from there is heard (XEP-0280 section 11)."""
    phone = device("rosa", address=wire.address)
    desk, peter = device(phone, address=to_desk.address, carbons=False), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    sent = await phone.chat.send(peter.jid, "from the phone")
    await peter.hear()
    inner = stanza_of(wire.from_clients.record, sent.message_id)
    inner = inner.replace("<message ", f"<message xmlns='jabber:client' from='{phone.jid}/p' ", 1)
    for forwarder, copies in ((peter, []), (phone, ["from the phone"])):
        forged = (
            f"<message from='{forwarder.jid}' to='{desk.client.boundjid}'>"
            "<sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>"
            f"{inner}</forwarded></sent></message>"
        )
        to_desk.inject_to_clients(forged.encode())
        assert bodies(await fence(peter, desk)) == copies


async def test_a_sent_message_counts_from_its_sending_on_each_device(
    three: tuple[Device, Device, Device],
) -> None:
    """F27: whenever the copy arrives; and it disappears on both."""
    phone, desk, peter = three
    desk.clock.advance(600)
    sent = await phone.chat.send(peter.jid, "for an hour", timer=HOUR)
    copy = await desk.hear()
    assert copy.phase is Phase.RUNNING
    assert copy.deadline == sent.deadline
    assert await ends(desk, peter) == [3600]
    desk.clock.advance(2999)
    assert bodies(await desk.history(peter)) == ["for an hour"]
    desk.clock.advance(1)
    assert (await desk.expired.next()).number == copy.number
    await phone.passes(3600)
    assert (await phone.expired.next()).number == sent.number


@pytest.mark.core
async def test_reading_on_one_starts_the_timer_on_the_other(
    three: tuple[Device, Device, Device],
) -> None:
    """F27, F18: at the time of reading, whatever the time is now; reading there later is late."""
    phone, desk, peter = three
    await peter.chat.send(phone.jid, "for an hour", timer=HOUR)
    on_phone, on_desk = await phone.hear(), await desk.hear()
    phone.clock.advance(100)
    desk.clock.advance(500)
    await on_phone.mark_read()
    await ends_at(desk, peter, 3700)
    await on_desk.mark_read()
    assert on_desk.deadline == on_phone.deadline
    desk.clock.advance(3200)
    assert (await desk.expired.next()).number == on_desk.number
    assert await ends(phone, peter) == [3700]


async def test_of_two_readings_the_earlier_counts(
    three: tuple[Device, Device, Device], prosody: Prosody
) -> None:
    """F27: both read before they hear of each other; an end never moves back."""
    phone, desk, peter = three
    await peter.chat.send(phone.jid, "for an hour", timer=HOUR)
    on_phone, on_desk = await phone.hear(), await desk.hear()
    notes = Interference(sender=phone.jid, recipient=phone.jid, having=ENCRYPTED, hold=True)
    prosody.interfere(notes)
    phone.clock.advance(200)
    await on_phone.mark_read()
    desk.clock.advance(100)
    await on_desk.mark_read()
    await ends_at(phone, peter, 3800)
    await ends_at(desk, peter, 3700)
    # Both are held before any goes on, and perhaps an empty message of a session that has begun.
    for each in (phone, desk):
        await has_told(each)
    prosody.interfere()
    assert prosody.release() >= 2
    await ends_at(phone, peter, 3700)
    await ends_at(desk, peter, 3700)


@pytest.mark.core
async def test_what_was_read_while_a_device_was_away(three: tuple[Device, Device, Device]) -> None:
    """F27: it learns that from the archive, together with the message."""
    phone, desk, peter = three
    await desk.leave()
    await peter.chat.send(phone.jid, "for an hour", timer=HOUR)
    phone.clock.advance(100)
    await phone.read()
    await has_told(phone)
    desk.source.wall_time += 1000
    await desk.arrive()
    heard = await desk.hear()
    assert (heard.body, heard.phase, heard.deadline) == ("for an hour", Phase.RUNNING, NOW + 3700)


async def test_what_was_read_without_a_session_is_told_later(device: NewDevice, wire: Wire) -> None:
    """F27: also over the end of the process; with the time of reading."""
    phone = device("rosa", address=wire.address)
    desk, peter = device(phone), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    await peter.chat.send(phone.jid, "for an hour", timer=HOUR)
    on_phone = await phone.hear()
    await desk.hear()
    await wire.break_down()
    phone.clock.advance(100)
    await on_phone.mark_read()
    await phone.leave()
    await wire.restore()
    assert await ends(desk, peter) == [None]
    phone.source.wall_time += 1000
    desk.clock.advance(1100)
    await phone.arrive()
    await ends_at(desk, peter, 3700)


async def test_a_read_that_comes_before_its_message_waits_for_it(
    device: NewDevice, wire: Wire, prosody: Prosody
) -> None:
    """F27: its timer then runs since the reading, from the moment that it is here."""
    phone = device("rosa")
    desk, peter = device(phone), device("peter", address=wire.address)
    for each in (phone, desk, peter):
        await each.arrive()
    prosody.interfere(Interference(sender=peter.jid, hold=True))
    sent = await peter.chat.send(phone.jid, "for an hour", timer=HOUR)
    await peter.ping()
    prosody.interfere()
    stanza = stanza_of(wire.from_clients.record, sent.message_id)
    stanza = stanza.replace(f'to="{phone.jid}"', f'to="{phone.client.boundjid}"')
    assert str(phone.client.boundjid) in stanza
    stanza = stanza.replace(
        "<message ", f"<message xmlns='jabber:client' from='{peter.client.boundjid}' ", 1
    )
    hint = "<private xmlns='urn:xmpp:carbons:2'/><no-copy xmlns='urn:xmpp:hints'/>"
    prosody.deliver(stanza.replace("</message>", f"{hint}</message>"))
    on_phone = await phone.hear()
    for each in (phone, desk):
        each.clock.advance(100)
    await on_phone.mark_read()

    async def waits() -> bool:
        reads = await desk.chat._vault.transact(lambda vault: vault.value("reads"))
        return reads is not None and str(sent.message_id) in reads

    await until(desk, waits)
    desk.clock.advance(500)
    assert await desk.history(peter) == []
    assert prosody.release() == 1
    heard = await desk.hear()
    assert (heard.body, heard.phase, heard.deadline) == ("for an hour", Phase.RUNNING, NOW + 3700)
    assert await ends(phone, peter) == [3700]
    assert not await waits()


async def test_a_marker_for_the_peer_tells_our_devices_and_the_peers_word_does_not(
    three: tuple[Device, Device, Device],
) -> None:
    """F27, F28: clients of another make leave it at XEP-0333; what we read, only we can say."""
    phone, desk, peter = three
    for text in ("first", "second", "third"):
        await peter.chat.send(phone.jid, text, timer=HOUR)
    heard = [await phone.hear() for _ in range(3)]
    ids = tuple(MessageId(str(message.message_id)) for message in heard)
    phone.clock.advance(100)
    desk.clock.advance(500)
    said = marks.Read(BareJid(peter.jid), ids, round(NOW * 1000))
    await peter.send_content(phone, marks.write_read(said), marks.write_displayed(ids[2]))
    await fence(peter, desk)
    assert await ends(desk, peter) == [None, None, None, None]
    await phone.send_content(peter, marks.write_displayed(ids[1]))
    await ends_at(desk, peter, 3700, 3700, None, None)
