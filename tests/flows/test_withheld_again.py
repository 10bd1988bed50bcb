"""Messages that are opened once their device is trusted, and have to wait again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import SubElement

import pytest
from slixmpp import JID

from eph_e2ee import Reason, Trust
from eph_e2ee.model import DeviceId
from tests.flows.test_incoming import body, rejections, sealed
from tests.flows.test_withheld import ROSA, acquaint, receive, trust, waiting
from tests.xmpp.clients import TheirPlugin, plugged

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    """Somebody who decides on every device by hand, and knows rosa's."""
    made = await town.party("peter", trust="manual", untrusted="withhold")
    await acquaint(made, rosa)
    return made


async def trust_and_doubt(party: Party, other: Party) -> None:
    """Trust a device, and take that back once it is known what may be opened."""
    devices = party.chat._account.devices
    undecided = devices.undecided

    async def doubting(jid: Any) -> Any:
        found = await undecided(jid)
        await devices.trust(jid, DeviceId(other.device), Trust.UNDECIDED)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "undecided", doubting)
        await trust(party, other)


async def test_trust_that_is_taken_back_at_once_loses_nothing(rosa: Party, peter: Party) -> None:
    """Nor does it extend any deadline: they wait as they have waited."""
    texts = ["first", "second", "third"]
    for number, text in enumerate(texts):
        await receive(peter, await sealed(rosa, peter, body(text), number=number))
    before = await peter.vault.transact(peter.chat._withheld._alive)
    peter.passes(60)
    for _ in range(2):
        await trust_and_doubt(peter, rosa)
        assert peter.bodies == []
        assert await peter.vault.transact(peter.chat._withheld._alive) == before
    await trust(peter, rosa)
    assert peter.bodies == texts
    assert await waiting(peter) == 0


async def test_what_another_device_has_sent_is_opened_all_the_same(
    town: Town, rosa: Party, peter: Party
) -> None:
    tablet = await town.party("rosa")
    await acquaint(tablet, peter)
    assert len(await peter.chat.devices(rosa.jid)) == 2
    await receive(
        peter,
        await sealed(tablet, peter, body("from the tablet")),
        await sealed(rosa, peter, body("text"), number=1),
    )
    await peter.chat._account.devices.trust(ROSA, DeviceId(tablet.device), Trust.TRUSTED)
    await trust_and_doubt(peter, rosa)
    assert peter.bodies == ["from the tablet"]
    assert await waiting(peter) == 1
    await trust(peter, rosa)
    assert peter.bodies == ["from the tablet", "text"]
    assert await waiting(peter) == 0


async def test_a_message_that_names_another_device_waits_for_its_own(
    town: Town, peter: Party
) -> None:
    """A header of omemo:2 that is not for us stands beside what legacy OMEMO has for us."""
    client, plugin = await plugged(town.world, "paul", TheirPlugin)
    (device,) = await peter.chat.devices("paul@example.org")
    await plugin.refresh_device_lists({JID(peter.jid)})
    stanza = client.make_message(mto=peter.jid, mbody="legacy", mtype="chat")
    encrypted, _ = await plugin.encrypt_message(stanza, JID(peter.jid))
    xml = town.world.carry(encrypted, client, peter.client).xml
    other = SubElement(xml, "{urn:xmpp:omemo:2}encrypted")
    SubElement(other, "{urn:xmpp:omemo:2}header", {"sid": "7"})
    await receive(peter, xml)
    assert rejections(peter) == [Reason.UNDECIDED]
    for level in ("undecided", "undecided", "trusted"):
        assert await waiting(peter) == 1
        await peter.chat.trust("paul@example.org", device.device, level)
        await peter.idle()
    assert peter.bodies == ["legacy"]
    assert await waiting(peter) == 0


async def test_nothing_waits_for_ever(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy has to wait just before what it is a copy of opens."""
    await receive(peter, await sealed(rosa, peter, body("text")))
    incoming, held = peter.chat._incoming, peter.chat._withheld
    take = incoming.take_archived

    async def copied(arrivals: Any, *arguments: Any, **options: Any) -> Any:
        await peter.vault.transact(lambda vault: held.keep(vault, arrivals))
        return await take(arrivals, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(incoming, "take_archived", copied)
        await trust(peter, rosa)
    assert peter.bodies == ["text"]
    await trust(peter, rosa)
    assert peter.bodies == ["text"]
    assert await waiting(peter) == 0
