"""Living with other clients on a real server: sessions repaired, lists republished, opt-outs."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID

from eph_e2ee import OptedOut, Reason
from eph_e2ee.xmpp.parcel import MODERN
from eph_e2ee.xmpp.unanswered import PAYLOAD
from tests.support.chats import Party, bodies, element, fence, meet
from tests.support.client import SECONDS, Happenings

if TYPE_CHECKING:
    from tests.integration.conftest import NewParty
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

DEVICES = "urn:xmpp:omemo:2:devices"
PAYLOADS = b"<payload"


async def upkeep(party: Party) -> None:
    """Wait for what is sent by itself, until the server has it."""
    omemo: Any = party.chat._account.omemo
    async with asyncio.timeout(SECONDS):
        while omemo._upkeep:
            await next(iter(omemo._upkeep))
    await party.ping()


async def test_a_session_that_is_lost_is_begun_anew(pair: tuple[Party, Party]) -> None:
    """XEP-0384 section 6: one message is lost and told of; then both ways go on, also later."""
    rosa, peter = pair
    await meet(rosa, peter)
    omemo = peter.chat._account.omemo
    await omemo.gate.run(lambda: omemo.sessions.backends[MODERN].purge_bare_jid(rosa.jid))
    await rosa.chat.send(peter.jid, "lost")
    assert (await peter.rejected.next()).reason is Reason.NO_SESSION
    await upkeep(peter)
    await fence(peter, rosa)
    assert await fence(rosa, peter) == []
    for one, other in ((rosa, peter), (peter, rosa)):
        await one.restart()
        await one.chat.send(other.jid, "and on")
        assert (await other.hear()).body == "and on"
        assert one.rejected.all == []


async def test_a_restored_backup_is_repaired_when_asked_for(pair: tuple[Party, Party]) -> None:
    """XEP-0384 sections 6 and 8: by hand, and never for what anybody may have damaged."""
    rosa, peter = pair
    await meet(rosa, peter)
    await peter.leave()
    backup = peter.folder.with_suffix(".backup")
    shutil.copytree(peter.folder, backup)
    await peter.arrive()
    await meet(peter, rosa)
    await meet(rosa, peter)
    await peter.leave()
    shutil.rmtree(peter.folder)
    shutil.copytree(backup, peter.folder)
    await peter.arrive()
    await rosa.chat.send(peter.jid, "lost")
    while (rejection := await peter.rejected.next()).reason is not Reason.UNDECRYPTABLE:
        pass
    assert rejection.sender == rosa.jid
    assert await peter.chat.repair(rosa.jid) == {rosa.chat._account.device}
    await peter.ping()
    await peter.chat.send(rosa.jid, "here again")
    while (await rosa.hear()).body != "here again":
        pass
    await rosa.chat.send(peter.jid, "so am I")
    while (await peter.hear()).body != "so am I":
        pass
    assert await fence(rosa, peter) == []
    assert await fence(peter, rosa) == []
    assert await peter.chat.repair(rosa.jid) == frozenset()  # once an hour


async def test_opting_out_blocks_whoever_was_away(pair: tuple[Party, Party]) -> None:
    """XEP-0384 section 5.7, out of the archive: before the first message after coming back."""
    rosa, peter = pair
    await meet(rosa, peter)
    await peter.leave()
    await rosa.chat.opt_out(peter.jid, "no reason")
    await rosa.ping()
    peter.attach()
    told = Happenings(peter.client, "ephemeral_opt_out")
    await peter.arrive()
    assert (await told.next()).reason == "no reason"
    with pytest.raises(OptedOut):
        await peter.chat.send(rosa.jid, "text")
    await peter.restart()
    with pytest.raises(OptedOut):
        await peter.chat.send(rosa.jid, "text")
    await peter.chat.confirm_opt_out(rosa.jid)
    assert await fence(peter, rosa) == []
    assert bodies(await rosa.history(peter))[-1] == bodies(await peter.history(rosa))[-1]


async def test_a_list_is_deleted_and_published_under_another_name(
    pair: tuple[Party, Party],
) -> None:
    """QXmpp does so; nobody becomes unreachable by it."""
    rosa, peter = pair
    await meet(rosa, peter)
    pubsub: Any = peter.client.plugin["xep_0060"]
    own = JID(peter.jid)
    device = peter.chat._account.device
    await pubsub.delete_node(own, DEVICES)
    listed = element(f"<devices xmlns='{MODERN}'><device id='{device}'/></devices>")
    await pubsub.publish(own, DEVICES, "whatever", listed)
    assert await fence(rosa, peter) == []
    assert await fence(peter, rosa) == []
    assert rosa.unsupported.all == []


async def test_one_sided_talk_is_answered_with_a_payload(party: NewParty, wire: Wire) -> None:
    """F45: QXmpp gives a device up after 106 messages without one; one in `PAYLOAD` is enough."""
    rosa, peter = party("rosa"), party("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    before = wire.from_clients.record.count(PAYLOADS)
    for number in range(PAYLOAD + 5):
        await rosa.chat.send(peter.jid, str(number))
        await peter.hear()
    await upkeep(peter)
    assert wire.from_clients.record.count(PAYLOADS) == before + 1
    assert await fence(peter, rosa) == []
    assert rosa.rejected.all == []
