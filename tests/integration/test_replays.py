"""The same message twice: duplicates, copies under another id, and the archive (XEP-0313)."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from eph_e2ee import Phase
from tests.support.chats import FENCE, Party, bodies, fence, meet
from tests.support.client import PLUGINS, connect
from tests.support.interference import Interference

if TYPE_CHECKING:
    from tests.integration.conftest import NewParty
    from tests.support.prosody import Prosody
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

ARCHIVED = (*PLUGINS, "xep_0313")
HOUR = timedelta(hours=1)
MESSAGE = re.compile(r"<message\b.*?</message>", re.DOTALL)


async def catch_up(somebody: Party) -> int:
    """Ask the archive for everything; how many messages it gave."""
    results = somebody.client.plugin["xep_0313"].iterate(rsm={"max": 50})
    return len([result async for result in results])


async def test_a_duplicate_is_heard_once(pair: tuple[Party, Party], prosody: Prosody) -> None:
    """F36: the same id and the same ciphertext; at once, later, and after a restart."""
    rosa, peter = pair
    prosody.interfere(Interference(recipient=peter.jid, copies=2))
    for text in ("first", "second"):
        await rosa.chat.send(peter.jid, text)
        assert (await peter.hear()).body == text
    prosody.interfere()
    assert await fence(rosa, peter) == []
    assert bodies(await peter.history(rosa)) == ["first", "second", FENCE]
    assert peter.rejected.all == []


async def test_a_copy_under_another_id_is_heard_once(
    party: NewParty, prosody: Prosody, wire: Wire
) -> None:
    """F36: the ratchet's text is what a copy is known by; also after restart and expiry."""
    rosa, peter = party("rosa"), party("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    sent = await rosa.chat.send(peter.jid, "but once", timer=HOUR)
    heard = await peter.read()
    assert sent.message_id is not None
    (stanza,) = (
        each for each in MESSAGE.findall(wire.to_clients.record.decode()) if sent.message_id in each
    )

    async def deliver_a_copy(name: str) -> None:
        copy = stanza.replace(str(sent.message_id), name)
        copy = re.sub(r"<stanza-id[^>]*/>", "", copy)
        copy = copy.replace("<message ", "<message xmlns='jabber:client' ", 1)
        prosody.deliver(copy)
        await wire.to_clients.until(name.encode())
        assert await fence(rosa, peter) == []

    await deliver_a_copy("another-name-1")
    await peter.restart()
    await deliver_a_copy("another-name-2")
    await peter.passes(3600)
    assert (await peter.expired.next()).number == heard.number
    await deliver_a_copy("another-name-3")
    await peter.restart()
    await deliver_a_copy("another-name-4")
    assert peter.rejected.all == []
    assert bodies(await peter.history(rosa)).count("but once") == 0


async def test_the_archive_does_not_bring_back_what_has_expired(party: NewParty) -> None:
    """F26, F36: after a restart, asked twice: no event, no second tombstone, no old timer."""
    rosa, peter = party("rosa"), party("peter", plugins=ARCHIVED)
    await rosa.arrive()
    await peter.arrive()
    await rosa.chat.send(peter.jid, "gone for good", timer=HOUR)
    number = (await peter.read()).number
    await rosa.chat.set_timer(peter.jid, 2 * HOUR)
    await rosa.chat.set_timer(peter.jid, None)
    assert [(await peter.changes.next()).new for _ in range(3)] == [3600, 7200, None]
    peter.clock.advance(3601)
    assert (await peter.expired.next()).number == number
    for _ in range(2):
        await peter.restart()
        assert await catch_up(peter) >= 3
        assert await fence(rosa, peter) == []
        assert peter.changes.all == []
        assert peter.rejected.all == []
        assert await peter.chat.timer(rosa.jid) is None
    tombstone = (await peter.history(rosa))[0]
    assert (tombstone.number, tombstone.phase, tombstone.body) == (number, Phase.GONE, None)
    assert bodies(await peter.history(rosa))[1:] == [FENCE, FENCE]


async def test_the_archive_delivers_what_was_missed_once(party: NewParty) -> None:
    """F36, F43: what the stream lost comes from the archive, in order, and but once."""
    rosa, peter = party("rosa"), party("peter", plugins=ARCHIVED)
    for each in (rosa, peter):
        each.set_clock()
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await peter.leave()
    # What is kept for offline clients is archived as well; here only the archive has it.
    texts = [f"missed {number}" for number in range(4)]
    for text in texts:
        await rosa.chat.send(peter.jid, text, timer=HOUR)
    await rosa.ping()
    peter.attach()
    await connect(peter.client, peter.address, presence=False)
    await peter.started.next()
    assert await catch_up(peter) >= len(texts) + 1
    heard = [await peter.hear() for _ in texts]
    assert bodies(heard) == texts
    assert [message.timer for message in heard] == [HOUR] * len(texts)
    assert all(message.findings == () for message in heard)
    # Now the offline store delivers the same messages again.
    peter.client.send_presence()
    await peter.ping()
    assert await catch_up(peter) >= len(texts) + 1
    assert await fence(rosa, peter) == []
    assert bodies(await peter.history(rosa))[2:] == [*texts, FENCE]
    assert peter.rejected.all == []


async def test_our_own_messages_in_the_archive_are_not_heard(party: NewParty) -> None:
    """F36: the archive holds what we have sent, too; we cannot read it, and need not."""
    rosa, peter = party("rosa", plugins=ARCHIVED), party("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await rosa.chat.send(peter.jid, "written by me")
    assert await catch_up(rosa) >= 3
    assert await fence(peter, rosa) == []
    assert rosa.rejected.all == []
    assert bodies(await rosa.history(peter))[2:] == ["written by me", FENCE]


async def test_somebody_elses_archive_is_not_heard(
    pair: tuple[Party, Party], prosody: Prosody, wire: Wire
) -> None:
    """F36: anybody can send a stanza that looks like a result of the archive."""
    rosa, peter = pair
    await meet(rosa, peter)
    await rosa.leave()
    rosa.address = wire.address
    await rosa.arrive()
    prosody.interfere(Interference(recipient=peter.jid, hold=True))
    sent = await rosa.chat.send(peter.jid, "wrapped")
    assert sent.message_id is not None
    await rosa.ping()
    (stanza,) = (
        each
        for each in MESSAGE.findall(wire.from_clients.record.decode())
        if sent.message_id in each
    )
    prosody.interfere()
    assert prosody.discard() == 1
    inner = stanza.replace("<message ", f"<message xmlns='jabber:client' from='{rosa.jid}' ", 1)
    prosody.deliver(
        f"<message xmlns='jabber:client' from='mallory@example.org' to='{peter.jid}'>"
        "<result xmlns='urn:xmpp:mam:2' id='1'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"{inner}</forwarded></result></message>"
    )
    assert await fence(rosa, peter) == []


async def test_messages_out_of_order_are_all_read(
    pair: tuple[Party, Party], prosody: Prosody
) -> None:
    """F43: a ratchet that skipped keys goes back for them."""
    rosa, peter = pair
    await meet(rosa, peter)
    texts = [f"number {number}" for number in range(6)]
    prosody.interfere(Interference(recipient=peter.jid, hold=True, times=len(texts)))
    for text in texts:
        await rosa.chat.send(peter.jid, text)
    await rosa.ping()
    assert prosody.release(backwards=True) == len(texts)
    assert [(await peter.hear()).body for _ in texts] == texts[::-1]
    assert await fence(rosa, peter) == []
    assert peter.rejected.all == []
