"""How far each conversation was read, as the server keeps it for one's other devices (XEP-0490)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp.exceptions import IqError

from eph_e2ee import Delivered, Delivery, Phase
from eph_e2ee.clear import SHORTEST_CLEAR_TIMER
from tests.integration.devices import Device, NewDevice, caught_up, ends, ends_at, until
from tests.support.chats import NOW, element, fence
from tests.support.client import PLUGINS, SECONDS, connect

if TYPE_CHECKING:
    from slixmpp import ClientXMPP

    from eph_e2ee import Message
    from tests.conftest import NewClient
    from tests.support.prosody import Prosody

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
PUBLISHING = (*PLUGINS, "xep_0060")
DISPLAYED = "urn:xmpp:mds:displayed:0"
LATER = 3600 + 100 + SHORTEST_CLEAR_TIMER
"""When a message for an hour ends that was read after 100 seconds, as far as the server says."""


@pytest.fixture
async def three(device: NewDevice) -> tuple[Device, Device, Device]:
    """Two devices of Rosa's, and Peter."""
    phone = device("rosa")
    desk, peter = device(phone), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    return phone, desk, peter


def archive_id(message: Message) -> str:
    """Our archive's id of it, of which the application hears nothing."""
    content = message._entry.content
    assert content is not None
    assert content.archive_id is not None
    return content.archive_id


def displayed(jid: str, last: str) -> str:
    """What XEP-0490 keeps of a conversation."""
    return (
        f"<displayed xmlns='{DISPLAYED}'>"
        f"<stanza-id xmlns='urn:xmpp:sid:0' id='{last}' by='{jid}'/></displayed>"
    )


async def published(client: ClientXMPP, of: Device) -> list[tuple[str, dict[str, str]]]:
    """What the server keeps of how far an account's conversations were read."""
    pubsub: Any = client.plugin["xep_0060"]
    answer = await pubsub.get_items(of.jid, DISPLAYED, timeout=SECONDS)
    found = answer.xml.iter("{http://jabber.org/protocol/pubsub}item")
    return [(item.get("id"), dict(item[0][0].attrib)) for item in found]


async def has_published(
    client: ClientXMPP, of: Device, *expected: tuple[str, dict[str, str]]
) -> bool:
    try:
        return await published(client, of) == list(expected)
    except IqError:
        return False


async def publish(client: ClientXMPP, conversation: Device, last: str) -> None:
    """Say what was read, as a client does that knows no more than XEP-0490."""
    payload = element(displayed(client.boundjid.bare, last))
    pubsub: Any = client.plugin["xep_0060"]
    await pubsub.publish(None, DISPLAYED, id=conversation.jid, payload=payload, timeout=SECONDS)


@pytest.mark.core
async def test_the_server_keeps_how_far_was_read_for_nobody_else(
    device: NewDevice, client: NewClient, prosody: Prosody
) -> None:
    """F27, F18: XEP-0490: our archive's id of the last message that was read with all before it."""
    phone = device("rosa")
    desk, peter = device(phone), device("peter")
    # A contact who sees our presence, and would see what we publish for contacts.
    prosody.befriend(phone.account, peter.account)
    for each in (phone, desk, peter):
        await each.arrive()
    for text in ("first", "second", "third"):
        await peter.chat.send(phone.jid, text, timer=HOUR)
    first, second, _ = [await phone.hear() for _ in range(3)]
    await second.mark_read()
    await ends_at(desk, peter, None, 3600, None)
    await phone.ping()
    with pytest.raises(IqError, match="item-not-found"):
        await published(phone.client, phone)
    await first.mark_read()
    place = {"id": archive_id(second), "by": phone.jid}
    await until(desk, lambda: has_published(desk.client, phone, (peter.jid, place)))
    await ends_at(desk, peter, 3600, 3600, None)
    # Prosody's word, and XEP-0060's (section 6.5.9.6), which is ejabberd's.
    with pytest.raises(IqError, match=r"forbidden|not-allowed"):
        await published(peter.client, phone)
    later = client(phone.account, plugins=PUBLISHING)
    await connect(later, phone.address)
    assert await published(later, phone) == [(peter.jid, place)]


@pytest.mark.core
async def test_each_conversation_has_its_place(device: NewDevice) -> None:
    """F27: XEP-0490 section 3: a node keeps one item for each, and not the last one alone."""
    phone = device("rosa")
    peers = [device(name) for name in ("peter", "anna", "carol")]
    for each in (phone, *peers):
        await each.arrive()
    places = []
    for each in peers:
        await each.chat.send(phone.jid, "read me")
        message = await phone.read()
        places.append((each.jid, {"id": archive_id(message), "by": phone.jid}))

    async def all_published() -> bool:
        try:
            return sorted(await published(phone.client, phone)) == sorted(places)
        except IqError:
            return False

    await until(phone, all_published)


@pytest.mark.core
async def test_a_device_of_another_make_tells_by_the_server_alone(
    three: tuple[Device, Device, Device], client: NewClient, prosody: Prosody
) -> None:
    """F27: a client that knows only XEP-0490 starts the timers, some seconds later than now."""
    phone, desk, peter = three
    other = client(phone.account, plugins=PUBLISHING)
    await connect(other, phone.address)
    for text in ("first", "second", "third"):
        await peter.chat.send(phone.jid, text, timer=HOUR)
    second = [await phone.hear() for _ in range(3)][1]
    for _ in range(3):
        await desk.hear()
    for each in (phone, desk):
        each.clock.advance(100)
    item = f"<item id='{peter.jid}'>{displayed(phone.jid, archive_id(second))}</item>"
    prosody.deliver(
        f"<message xmlns='jabber:client' type='headline' from='{peter.jid}' "
        f"to='{phone.client.boundjid}'><event xmlns='http://jabber.org/protocol/pubsub#event'>"
        f"<items node='{DISPLAYED}'>{item}</items></event></message>"
    )
    await phone.ping()
    assert await ends(phone, peter) == [None, None, None]
    await publish(other, peter, archive_id(second))
    for each in (phone, desk):
        await ends_at(each, peter, LATER, LATER, None)
    phone.clock.advance(100)
    await publish(other, peter, archive_id(second))
    await fence(peter, phone)
    assert await ends(phone, peter) == [LATER, LATER, None, None]


async def test_the_servers_word_waits_for_its_message_as_well(
    device: NewDevice, client: NewClient
) -> None:
    """F27: a device without carbons hears of the reading first, of the message from the archive."""
    phone = device("rosa")
    desk, peter, other = (
        device(phone, carbons=False),
        device("peter"),
        client(phone.account, plugins=PUBLISHING),
    )
    await phone.arrive()
    await desk.arrive(presence=False)
    await caught_up(desk)
    desk.client.send_presence(ppriority=-1)
    await caught_up(desk)  # once more, as it is available: the next time is the next session
    await peter.arrive()
    await connect(other, phone.address)
    await peter.chat.send(phone.jid, "for an hour", timer=HOUR)
    heard = await phone.hear()
    desk.clock.advance(100)
    await publish(other, peter, archive_id(heard))

    async def waits() -> bool:
        reads = await desk.chat._vault.transact(lambda vault: vault.value("reads"))
        return reads is not None and archive_id(heard) in reads

    await until(desk, waits)
    assert await desk.history(peter) == []
    desk.clock.advance(500)
    await desk.restart()
    heard = await desk.hear()
    # The server has not said when it was read, so that its timer runs from now on.
    late = NOW + LATER + 500
    assert (heard.body, heard.phase, heard.deadline) == ("for an hour", Phase.RUNNING, late)


async def test_without_it_the_server_is_told_nothing_and_believed_nothing(
    device: NewDevice, client: NewClient
) -> None:
    """What is in envelopes goes on; the server neither sees how far was read, nor starts timers."""
    rosa = device("rosa", displayed_sync=False, receipts=True)
    peter, other = device("peter", receipts=True), client(rosa.account, plugins=PUBLISHING)
    await rosa.arrive()
    await peter.arrive()
    await connect(other, rosa.address)
    sent = await peter.chat.send(rosa.jid, "first", timer=HOUR)
    await rosa.read()
    shown = Delivered(sent.number, sent.conversation, Delivery.DISPLAYED)
    while await peter.deliveries.next() != shown:
        pass
    await rosa.ping()
    with pytest.raises(IqError, match="item-not-found"):
        await published(other, rosa)
    await peter.chat.send(rosa.jid, "second", timer=HOUR)
    await publish(other, peter, archive_id(await rosa.hear()))
    assert await fence(peter, rosa) == []
    assert await ends(rosa, peter) == [3600, None, None]
    await rosa.restart()
    await caught_up(rosa)
    assert await ends(rosa, peter) == [3600, None, None]
