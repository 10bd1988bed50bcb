"""How trust is asked for, and what is not asked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import eph_e2ee
from eph_e2ee import LocalProtocolError, Trust
from eph_e2ee.model import BareJid, Phase
from eph_e2ee.protocol import marks
from eph_e2ee.protocol.marks import Read
from tests.flows.test_incoming import body, sealed
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eph_e2ee import Device
    from tests.flows.conftest import Party, Town
    from tests.xmpp.clients import World


@pytest.mark.parametrize(
    "options",
    [{"trust": "blind"}, {"trust": ""}, {"untrusted": "show"}, {"untrusted": None}],
)
async def test_a_policy_that_is_none_attaches_nothing(
    options: dict[str, Any], world: World, tmp_path: Path
) -> None:
    client = world.client("rosa")
    with pytest.raises(LocalProtocolError):
        eph_e2ee.attach(client, vault=tmp_path / "vault", **options)
    assert not (tmp_path / "vault").exists()
    assert "xep_0384" not in client.plugin


class Nobody:
    """A callback that is asked, and never answers."""

    def __init__(self) -> None:
        self.asked: list[Device] = []
        self.asking = asyncio.Event()

    async def __call__(self, devices: Sequence[Device]) -> None:
        self.asked += devices
        self.asking.set()
        await asyncio.Event().wait()


async def test_receipts_and_marks_of_reading_ask_nobody(town: Town) -> None:
    """The task that sends them would wait, and all that comes after it."""
    nobody = Nobody()
    rosa = await town.party("rosa", trust="manual", decide=nobody, receipts=True)
    await town.party("rosa")
    peter = await town.party("peter", receipts=True)
    assert await peter.chat.devices(rosa.jid)
    await rosa.chat.devices(peter.jid)
    await rosa.chat.trust(peter.jid, peter.device, Trust.TRUSTED)
    rosa.client.receive(await sealed(peter, rosa, body("text")))
    await rosa.idle()
    (message,) = rosa.events["message"]
    await message.mark_read()
    await rosa.idle()
    assert nobody.asked == []
    assert not rosa.chat._tasks[1].done()


async def test_what_omemo_answers_by_itself_asks_nobody(town: Town) -> None:
    """A stranger who only writes would have people asked, and the answer would wait for ever."""
    nobody = Nobody()
    peter = await town.party("peter", trust="manual", decide=nobody)
    rosa = await town.party("rosa")
    assert await peter.chat.devices(rosa.jid)
    omemo = peter.chat._account.omemo
    for level in (Trust.UNDECIDED, Trust.TRUSTED):
        await peter.chat.trust(rosa.jid, rosa.device, level)
        omemo.answer(rosa.jid)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*omemo._upkeep)
        assert nobody.asked == []
        assert len(peter.client.sent) == (level is Trust.TRUSTED)


async def test_a_message_asks_once_whoever_sends_it(town: Town) -> None:
    """A message with text, and a timer alone; both are given up at the end."""
    nobody = Nobody()
    rosa = await town.party("rosa", trust="manual", decide=nobody)
    peter = await town.party("peter")
    sending = [
        asyncio.create_task(rosa.chat.send(peter.jid, "text")),
        asyncio.create_task(rosa.chat.set_timer(peter.jid, timedelta(hours=1))),
    ]
    async with asyncio.timeout(SECONDS):
        await nobody.asking.wait()
        await rosa.idle()
    assert [device.device for device in nobody.asked] == [peter.device]
    for task in sending:
        task.cancel()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert await rosa.chat.history(peter.jid) == []
    assert rosa.client.sent == []


# -- what is added to an account -------------------------------------------------------------------

HOUR = timedelta(hours=1)


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    """Somebody who has agreed on a timer with Rosa; both know by whom."""
    made = await town.party("peter")
    await made.chat.set_timer(rosa.jid, HOUR)
    await town.deliver()
    await rosa.chat.send(made.jid, "unread")
    await town.deliver()
    await made.chat.trust(rosa.jid, rosa.device, "trusted")
    await rosa.chat.trust(made.jid, made.device, "trusted")
    return made


@pytest.fixture
async def added(town: Town, rosa: Party, peter: Party) -> Party:
    """A device of Peter's account that his server has added, after he had verified his own."""
    phone = await town.party("peter")
    await peter.chat.devices(peter.jid)
    await peter.chat.trust(peter.jid, phone.device, "trusted")
    made = await town.party("peter")
    await town.deliver()
    for party in (peter, rosa):
        found = {int(each.device): each.trust for each in await party.chat.devices(peter.jid)}
        assert found[made.device] is Trust.UNDECIDED
    return made


async def test_a_device_that_is_added_reads_nothing_for_us(
    rosa: Party, peter: Party, added: Party, town: Town
) -> None:
    """Else it could have everything burnt that nobody has seen yet."""
    (message,) = peter.events["message"]
    stamp = int((peter.clock.now() - 2 * HOUR.total_seconds()) * 1000)
    read = marks.write_read(Read(BareJid(rosa.jid), (message.message_id,), stamp))
    await added.chat._outgoing.signal(BareJid(peter.jid), [read])
    await town.deliver()
    (found, *_) = await peter.chat.history(rosa.jid)
    assert (found.phase, found.body) == (Phase.UNREAD, "unread")
    await peter.chat.trust(peter.jid, added.device, "trusted")
    await added.chat._outgoing.signal(BareJid(peter.jid), [read])
    await town.deliver()
    assert [each.body for each in await peter.chat.history(rosa.jid)] != ["unread"]


async def test_a_device_that_is_added_changes_no_timer(
    rosa: Party, peter: Party, added: Party, town: Town
) -> None:
    """Neither in our name nor in a contact's; its message has the timer that it comes with."""
    await added.chat.send(rosa.jid, "text", timer=timedelta(minutes=1))
    await added.chat.set_timer(rosa.jid, None)
    await town.deliver()
    for party, other in ((peter, rosa), (rosa, peter)):
        assert await party.chat.timer(other.jid) == HOUR
    message = rosa.events["message"][-1]
    assert (message.body, message.timer) == ("text", timedelta(minutes=1))
    assert message.trust is Trust.UNDECIDED


async def test_a_device_that_is_added_does_not_opt_out(
    rosa: Party, peter: Party, added: Party, town: Town
) -> None:
    await added.chat.opt_out(rosa.jid)
    await town.deliver()
    assert rosa.events["opt_out"] == []
    assert not await rosa.chat.opted_out(peter.jid)
