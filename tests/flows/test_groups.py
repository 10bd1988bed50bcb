"""Messages to a room: whom they are for when they are encrypted, and nobody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import NoEligibleDevices, RoomUnsuitable
from eph_e2ee.xmpp import devices
from eph_e2ee.xmpp.parcel import MODERN
from tests.xmpp.rooming import ROOM, ROSA, USER, Rooming, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eph_e2ee import Device
    from tests.flows.conftest import Party, Town


@pytest.fixture
def world() -> Rooming:
    """A server with a room, in which nobody but Rosa is."""
    world = Rooming()
    world.lists = {"owner": [ROSA], "admin": [], "member": []}
    return world


def addressed(stanza: Any) -> set[str]:
    """The accounts that have a key in it."""
    return {group.get("jid") for group in stanza.xml.iter(f"{{{MODERN}}}keys")}


def says(party: Party, content: str) -> None:
    """Have the room say something."""
    party.client.receive(
        f"<message xmlns='jabber:client' from='{ROOM}'><x xmlns='{USER}'>{content}</x></message>"
    )


def enter(party: Party) -> None:
    party.client.register_plugin("xep_0045")
    join(party.client, 100)


async def test_who_is_banned_while_somebody_decides_gets_no_key(town: Town, world: Rooming) -> None:
    """Deciding takes its time; the room as it is when we encrypt is what counts."""
    asked, decided = asyncio.Event(), asyncio.Event()

    async def decide(found: Sequence[Device]) -> None:
        asked.set()
        await decided.wait()
        for device in found:
            await rosa.chat.trust(device.jid, device.device, "trusted")

    rosa = await town.party("rosa", trust="manual", decide=decide)
    peter, anna = await town.party("peter"), await town.party("anna")
    world.lists["member"] = [peter.jid, anna.jid]
    enter(rosa)
    await rosa.chat.devices(anna.jid)
    await rosa.chat.trust(anna.jid, anna.device, "trusted")
    sending = asyncio.create_task(rosa.chat.send(ROOM, "not for Anna any more"))
    await asked.wait()
    says(rosa, f"<item jid='{anna.jid}' affiliation='outcast'/>")
    world.lists["member"] = [peter.jid]
    decided.set()
    await sending
    assert [addressed(stanza) for stanza in rosa.client.sent] == [{peter.jid}]


async def test_a_room_that_hides_jids_while_somebody_decides(town: Town, world: Rooming) -> None:
    async def decide(_: Sequence[Device]) -> None:
        says(rosa, "<status code='104'/><status code='173'/>")

    rosa = await town.party("rosa", trust="manual", decide=decide)
    peter = await town.party("peter")
    world.lists["member"] = [peter.jid]
    enter(rosa)
    with pytest.raises(RoomUnsuitable):
        await rosa.chat.send(ROOM, "never sent")
    assert rosa.client.sent == []
    assert await rosa.chat.history(ROOM) == []


async def test_where_nobody_else_is_nothing_is_sent(town: Town) -> None:
    """That is no message that has left."""
    rosa = await town.party("rosa")
    enter(rosa)
    with pytest.raises(NoEligibleDevices, match="nobody else is in the room"):
        await rosa.chat.send(ROOM, "hello?")
    assert rosa.client.sent == []
    assert await rosa.chat.history(ROOM) == []


async def test_f41_one_whose_server_is_mute_is_waited_for_once(
    town: Town, world: Rooming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F41: a moment for the first message; what it says later is taken in."""
    monkeypatch.setattr(devices, "PATIENCE", 0.5)
    rosa, peter = await town.party("rosa"), await town.party("peter")
    mute = "mute@mute.example"
    world.lists["member"] = [peter.jid, mute]
    world.mute = {mute}
    enter(rosa)
    for _ in range(2):
        sent = await rosa.chat.send(ROOM, "hello")
        assert {each.jid for each in sent.left_out} == {mute}
    assert [addressed(stanza) for stanza in rosa.client.sent] == [{peter.jid}] * 2
    assert world.requests.count((mute, "subscribe")) == 1
