"""What waits for somebody to decide on its device is erased with its conversation, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import pytest

from tests.flows.test_groups import gathered, reflected
from tests.flows.test_incoming import body, sealed
from tests.flows.test_withheld import acquaint, receive, trust, waiting
from tests.xmpp.rooming import ROOM, Rooming

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town

MANUAL: Any = {"trust": "manual", "untrusted": "withhold"}


@pytest.fixture
def world() -> Rooming:
    return Rooming()


@pytest.fixture
async def rosa(town: Town, world: Rooming) -> Party:
    """Who is trusted by nobody yet, and in a room with Peter, who has to decide."""
    world.lists = {"owner": [], "admin": [], "member": []}
    rosa, peter = await town.party("rosa"), await town.party("peter", **MANUAL)
    await acquaint(peter, rosa)
    await gathered(world, rosa, peter)
    return rosa


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    """Somebody for whom a message of Rosa's waits in the room, and one that is for him alone."""
    (peter,) = (each for each in town.people if each is not rosa)
    await rosa.chat.send(ROOM, "to the room")
    await reflected(rosa, peter)
    await receive(peter, await sealed(rosa, peter, body("to you")))
    assert await waiting(peter) == 2
    return peter


async def test_a_room(rosa: Party, peter: Party) -> None:
    await peter.chat.erase(ROOM)
    await trust(peter, rosa)
    assert peter.bodies == ["to you"]


async def test_a_peer(rosa: Party, peter: Party) -> None:
    """What the peer has written in rooms belongs to these."""
    await peter.chat.erase(rosa.jid)
    await trust(peter, rosa)
    assert peter.bodies == ["to the room"]


async def test_what_another_device_of_ours_has_written(town: Town) -> None:
    """It waits for us to decide on ourselves, in the conversation with whom it is to."""
    rosa = await town.party("rosa")
    phone, desk = await town.party("peter"), await town.party("peter", **MANUAL)
    for one, other in ((phone, rosa), (desk, rosa), (phone, desk)):
        await acquaint(one, other)
    await phone.chat.send(rosa.jid, "from the phone")
    xml = fromstring(tostring(phone.client.sent[-1].xml))  # noqa: S314 -- the test's own text
    xml.set("from", phone.client.boundjid.full)
    carbon = Element("{jabber:client}message", {"from": desk.jid, "to": desk.jid})
    sent = SubElement(carbon, "{urn:xmpp:carbons:2}sent")
    SubElement(sent, "{urn:xmpp:forward:0}forwarded").append(xml)
    await receive(desk, carbon)
    assert await waiting(desk) == 1
    await desk.chat.erase(desk.jid)
    assert await waiting(desk) == 1
    await desk.chat.erase(rosa.jid)
    assert await waiting(desk) == 0
