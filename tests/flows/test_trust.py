"""How trust is asked for, and what is not asked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import eph_e2ee
from eph_e2ee import LocalProtocolError, Trust
from tests.flows.test_incoming import body, sealed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eph_e2ee import Device
    from tests.flows.conftest import Town
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
        async with asyncio.timeout(10):
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
    async with asyncio.timeout(10):
        await nobody.asking.wait()
        await rosa.idle()
    assert [device.device for device in nobody.asked] == [peter.device]
    for task in sending:
        task.cancel()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert await rosa.chat.history(peter.jid) == []
    assert rosa.client.sent == []
