"""How far a message came: acknowledged, lost, bounced, delivered, displayed; and who may say so."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import Delivered, Delivery, Phase
from tests.integration.devices import Device, NewDevice, caught_up
from tests.integration.test_reconnecting import MANAGED, arrive_managed, lose, resume
from tests.support.chats import NOW, bodies, fence, meet
from tests.support.client import PLUGINS, Happenings, connect

if TYPE_CHECKING:
    from eph_e2ee import Message
    from tests.support.prosody import Prosody
    from tests.support.server import Server
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)
MESSAGE = re.compile(rb"<message\b.*?</message>", re.DOTALL)
IN_CLEAR = (b"urn:xmpp:receipts", b"urn:xmpp:chat-markers", b"eph-e2ee:")


async def becomes(somebody: Device, message: Message, *steps: Delivery) -> None:
    """Wait until it is told that a message of theirs came so far, step by step."""
    for step in steps:
        while (told := await somebody.deliveries.next()).number != message.number:
            pass
        assert told == Delivered(message.number, message.conversation, step)


async def fails(somebody: Device, message: Message) -> None:
    """Wait until it is told that a message has failed; that it has left may be told before."""
    failed = Delivered(message.number, message.conversation, Delivery.FAILED)
    while await somebody.deliveries.next() != failed:
        pass


async def copy_of(somebody: Device, other: Device, message: Message) -> Message:
    """What the sender's archive says of it now."""
    await somebody.chat._outgoing.note()
    (found,) = (each for each in await somebody.history(other) if each.number == message.number)
    return found


async def test_what_the_server_acknowledges_is_sent(device: NewDevice, wire: Wire) -> None:
    """F17: until then its timer does not run; then it has run since it was handed over."""
    rosa, peter = device("rosa", address=wire.address, plugins=MANAGED), device("peter")
    await arrive_managed(rosa)
    await peter.arrive()
    await meet(rosa, peter)
    wire.pause()
    sent = await rosa.chat.send(peter.jid, "on its way", timer=HOUR)
    assert (sent.delivery, sent.phase, sent.deadline) == (Delivery.UNSENT, Phase.UNSENT, None)
    assert sent.message_id is not None
    await wire.from_clients.until(sent.message_id.encode())
    await rosa.passes(7200)
    kept = await copy_of(rosa, peter, sent)
    assert (kept.body, kept.phase, kept.deadline) == ("on its way", Phase.UNSENT, None)
    assert [each.number for each in await rosa.chat.unsent()] == [sent.number]
    rosa.clock.turn_wall(-7200)
    wire.resume()
    await becomes(rosa, sent, Delivery.SENT)
    assert await rosa.chat.unsent() == []
    assert (await peter.hear()).body == "on its way"


@pytest.mark.core
async def test_what_is_resumed_is_sent_once(device: NewDevice, wire: Wire) -> None:
    """F39: the line broke before the server had heard of it, or before we heard of that."""
    rosa, peter = device("rosa", address=wire.address, plugins=MANAGED), device("peter")
    await arrive_managed(rosa)
    await peter.arrive()
    await meet(rosa, peter)
    # The server's acknowledgement never comes.
    wire.to_clients.replace(b"<a ", b"<r ")
    heard = await rosa.chat.send(peter.jid, "heard of", timer=HOUR)
    assert (await peter.hear()).body == "heard of"
    wire.pause()
    lost = await rosa.chat.send(peter.jid, "not heard of", timer=HOUR)
    assert lost.message_id is not None
    await wire.from_clients.until(lost.message_id.encode())
    await lose(rosa, wire)
    assert bodies(await rosa.chat.unsent()) == ["heard of", "not heard of"]
    wire.to_clients.replace(b"", b"")
    wire.resume()
    await resume(rosa, wire)
    await becomes(rosa, heard, Delivery.SENT)
    await becomes(rosa, lost, Delivery.SENT)
    assert (await peter.hear()).body == "not heard of"
    assert await fence(rosa, peter) == []
    for each in (heard, lost):
        kept = await copy_of(rosa, peter, each)
        assert (kept.delivery, kept.deadline) == (Delivery.SENT, NOW + 3600)


async def test_after_a_crash_of_the_server_the_archive_tells_what_had_left(
    device: NewDevice, wire: Wire, prosody: Prosody
) -> None:
    """F17, F39: no resuming; what had arrived is sent, the other stays unsent and goes again."""
    rosa, peter = device("rosa", address=wire.address, plugins=MANAGED), device("peter")
    await arrive_managed(rosa)
    await peter.arrive()
    await meet(rosa, peter)
    wire.to_clients.replace(b"<a ", b"<r ")
    left = await rosa.chat.send(peter.jid, "left", timer=2 * WEEK)
    assert (await peter.hear()).body == "left"
    wire.pause()
    lost = await rosa.chat.send(peter.jid, "lost", timer=2 * WEEK)
    assert lost.message_id is not None
    await wire.from_clients.until(lost.message_id.encode())
    with Happenings(peter.client, "disconnected") as gone:
        await asyncio.to_thread(prosody.stop, abrupt=True)
        await gone.next()
    await lose(rosa, wire)
    for each in (left, lost):
        assert (await copy_of(rosa, peter, each)).phase is Phase.UNSENT
    await rosa.passes(WEEK.total_seconds())
    await asyncio.to_thread(prosody.start)
    wire.to_clients.replace(b"", b"")
    wire.resume()
    await wire.restore()
    await connect(peter.client, peter.address)
    await connect(rosa.client, wire.address)
    await becomes(rosa, left, Delivery.SENT)
    assert (await caught_up(rosa)).complete
    kept = await copy_of(rosa, peter, left)
    assert kept.deadline is not None
    assert NOW <= kept.deadline - 2 * WEEK.total_seconds() < NOW + WEEK.total_seconds()
    kept = await copy_of(rosa, peter, lost)
    assert (kept.delivery, kept.phase, kept.deadline) == (Delivery.UNSENT, Phase.UNSENT, None)
    (unsent,) = await rosa.chat.unsent()
    await unsent.resend()
    await becomes(rosa, lost, Delivery.SENT)
    assert (await peter.hear()).body == "lost"
    assert await fence(rosa, peter) == []
    assert peter.rejected.all == []


async def published(wire: Wire, message: Message) -> None:
    """Wait until its reader has told the server of it, which comes after telling anybody else."""
    content = message._entry.content
    assert content is not None
    assert content.archive_id is not None
    await wire.from_clients.until(content.archive_id.encode())


@pytest.mark.core
@pytest.mark.parametrize("plugins", [PLUGINS, MANAGED], ids=["plain", "managed"])
async def test_what_comes_back_has_failed(
    device: NewDevice, server: Server, plugins: tuple[str, ...]
) -> None:
    """A blocked message, then one to an account that is gone; the sender's copy says so.

    The acknowledgement of a managed stream comes behind the error, and makes nothing good again.
    """
    rosa, peter = device("rosa", plugins=plugins), device("peter", plugins=(*PLUGINS, "xep_0191"))
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    blocking: Any = peter.client.plugin["xep_0191"]
    await blocking.block(rosa.jid)
    blocked = await rosa.chat.send(peter.jid, "blocked", timer=HOUR)
    await fails(rosa, blocked)
    await rosa.ping()
    failed = await copy_of(rosa, peter, blocked)
    assert (failed.body, failed.delivery) == ("blocked", Delivery.FAILED)
    assert failed.deadline == NOW + 3600
    assert rosa.deliveries.all[-1].delivery is Delivery.FAILED
    await blocking.unblock(rosa.jid)
    again = await failed.resend()
    assert (again.number, again.deadline) == (blocked.number, NOW + 3600)
    assert (await peter.hear()).body == "blocked"
    await rosa.ping()
    assert (await copy_of(rosa, peter, blocked)).delivery is Delivery.SENT
    await peter.leave()
    server.unregister(peter.account)
    late = await rosa.chat.send(peter.jid, "too late")
    await fails(rosa, late)
    assert (await copy_of(rosa, peter, late)).delivery is Delivery.FAILED


async def test_nobody_else_says_that_it_has_failed(device: NewDevice, prosody: Prosody) -> None:
    """An error that a third party made up changes nothing, nor one for what was displayed."""
    rosa, peter = device("rosa", receipts=True), device("peter", receipts=True)
    await rosa.arrive()
    await peter.arrive()
    seen = await rosa.chat.send(peter.jid, "seen")
    await peter.read()
    await becomes(rosa, seen, Delivery.DELIVERED, Delivery.DISPLAYED)
    await peter.leave()
    sent = await rosa.chat.send(peter.jid, "sent")

    async def fail(message: Message, sender: str) -> None:
        prosody.deliver(
            f"<message xmlns='jabber:client' type='error' from='{sender}' "
            f"to='{rosa.client.boundjid}' id='{message.message_id}'><error type='cancel'>"
            "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        await rosa.ping()

    for stranger in ("mallory@example.org", "rooms.example.org", "elsewhere.example"):
        await fail(sent, stranger)
    await fail(seen, peter.jid)
    assert (await copy_of(rosa, peter, sent)).delivery is Delivery.SENT
    assert (await copy_of(rosa, peter, seen)).delivery is Delivery.DISPLAYED
    await fail(sent, peter.jid)
    await becomes(rosa, sent, Delivery.FAILED)


@pytest.mark.core
async def test_receipts_and_markers_stand_in_envelopes(device: NewDevice, wire: Wire) -> None:
    """F18: whoever asks is told of delivery and display, on each device; the wire shows nothing."""
    options: dict[str, Any] = {"address": wire.address, "receipts": True}
    phone = device("rosa", **options)
    desk, peter = device(phone, **options), device("peter", **options)
    for each in (phone, desk, peter):
        await each.arrive()
    first = await phone.chat.send(peter.jid, "first", timer=HOUR)
    heard = await peter.hear()
    await becomes(phone, first, Delivery.DELIVERED)
    await heard.mark_read()
    await becomes(phone, first, Delivery.DISPLAYED)
    copy = await desk.hear()
    await becomes(desk, copy, Delivery.DELIVERED, Delivery.DISPLAYED)
    texts = ("second", "third", "fourth")
    second, third, fourth = [await phone.chat.send(peter.jid, text) for text in texts]
    in_the_way, later, _ = [await peter.hear() for _ in texts]
    for message in (second, third, fourth):
        await becomes(phone, message, Delivery.DELIVERED)
    # "displayed" means everything before it as well.
    await later.mark_read()
    assert await fence(peter, phone) == []
    assert (await copy_of(phone, peter, third)).delivery is Delivery.DELIVERED
    await in_the_way.mark_read()
    await becomes(phone, second, Delivery.DISPLAYED)
    await becomes(phone, third, Delivery.DISPLAYED)
    assert (await copy_of(phone, peter, fourth)).delivery is Delivery.DELIVERED
    assert b"urn:xmpp:omemo:2" in wire.record
    for namespace in IN_CLEAR:
        assert namespace not in wire.record
    for each in (phone, desk, peter):
        assert each.rejected.all == []


async def test_nothing_is_sent_back_unless_the_application_wants_it(
    device: NewDevice, wire: Wire
) -> None:
    """F18: without receipts nobody learns that a message has arrived or was read."""
    rosa, peter = device("rosa", receipts=True), device("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    await rosa.chat.send(peter.jid, "settled")
    await published(wire, await peter.read())
    await peter.ping()
    before = len(MESSAGE.findall(wire.from_clients.record))
    for text in ("first", "second", "third"):
        await rosa.chat.send(peter.jid, text, timer=HOUR)
        await published(wire, await peter.read())
    await peter.ping()
    assert len(MESSAGE.findall(wire.from_clients.record)) == before
    assert rosa.deliveries.all == []
