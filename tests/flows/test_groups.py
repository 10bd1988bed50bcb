"""Messages to a room: whom they are for when they are encrypted, and nobody else."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import pytest

from eph_e2ee.errors import Cause, NoEligibleDevices, Reason, RoomUnsuitable
from eph_e2ee.model import BareJid, Phase
from eph_e2ee.protocol import marks
from eph_e2ee.xmpp import devices, fetching
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.together import AT_ONCE
from tests.flows.archiving import CARBONS, FORWARDED
from tests.support.client import SECONDS
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


PRESENCE = f"""<presence xmlns='jabber:client' from='{ROOM}/{{nick}}'><x xmlns='{USER}'>
<item jid='{{jid}}/x' affiliation='member' role='participant'/></x></presence>"""


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
    # The moment is over once the others have answered, however long that takes this machine.
    loop, asked = asyncio.get_running_loop(), rosa.chat._account.omemo._asked
    time = loop.time
    begun = time()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: begun)
        sending = asyncio.create_task(rosa.chat.send(ROOM, "hello"))
        while peter.jid not in asked or not asked[peter.jid][1].done():
            assert time() < begun + SECONDS
            await asyncio.sleep(0)
        assert not sending.done()
        patch.setattr(loop, "time", lambda: begun + devices.PATIENCE)
        first = await sending
        second = await rosa.chat.send(ROOM, "hello")
    for sent in (first, second):
        assert {each.jid for each in sent.left_out} == {mute}
    assert [addressed(stanza) for stanza in rosa.client.sent] == [{peter.jid}] * 2
    assert world.requests.count((mute, "subscribe")) == 1


async def gathered(world: Rooming, *parties: Party) -> None:
    """Have people be in the room, where they see who the others are."""
    world.lists["member"] = [party.jid for party in parties]
    for party in parties:
        enter(party)
        for other in parties:
            if other is not party:
                item = f"<item jid='{other.jid}/x' affiliation='member' role='participant'/>"
                party.client.receive(
                    f"<presence xmlns='jabber:client' from='{ROOM}/{other.name}'>"
                    f"<x xmlns='{USER}'>{item}</x></presence>"
                )
        await party.caught_up()


async def reflected(sender: Party, *to: Party) -> None:
    """What somebody has sent to the room, as it comes to members."""
    for stanza in sender.client.sent:
        for party in to:
            xml = fromstring(tostring(stanza.xml))  # noqa: S314 -- the test's own text
            xml.set("from", f"{ROOM}/{sender.name}")
            party.client.receive(xml)
    sender.client.sent.clear()
    for party in to:
        await party.idle()


async def test_no_receipt_is_given_to_a_room(
    town: Town, world: Rooming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for one there would have everybody answer to everybody."""
    rosa, peter = await town.party("rosa"), await town.party("peter", receipts=True)
    await gathered(world, rosa, peter)
    build = rosa.chat._account.build
    asking = marks.write_wanted()
    monkeypatch.setattr(
        rosa.chat._account, "build", lambda content, to: build([*content, *asking], to=to)
    )
    await rosa.chat.send(ROOM, "who is there?")
    await reflected(rosa, peter)
    assert peter.bodies == ["who is there?"]
    await peter.events["message"][0].mark_read()
    await peter.idle()
    assert [stanza["to"] for stanza in peter.client.sent if stanza["to"] == ROOM] == []


async def test_one_whose_server_is_mute_holds_up_nobody(
    town: Town, world: Rooming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F41: its device list cannot be had, for which the messages of others wait a moment."""
    monkeypatch.setattr(devices, "PATIENCE", 0.1)
    rosa, peter = await town.party("rosa"), await town.party("peter")
    mute = "mute@mute.example"
    world.lists["member"] = [peter.jid, mute]
    world.mute = {mute}
    enter(rosa)
    enter(peter)
    for nick, jid in (("rosa", rosa.jid), ("mute", mute)):
        peter.client.receive(PRESENCE.format(nick=nick, jid=jid))
    await rosa.chat.devices(peter.jid)
    for body in ("one", "two"):
        await rosa.chat.send(ROOM, body)
    stanzas = [fromstring(tostring(sent.xml)) for sent in rosa.client.sent]  # noqa: S314 -- the test's own text
    for xml in stanzas:
        xml.set("from", f"{ROOM}/rosa")
    peter.client.receive(stanzas[0])
    await peter.idle()
    monkeypatch.setattr(fetching, "PATIENCE", 0)
    world.requests.clear()
    for number in range(3):
        xml = fromstring(tostring(stanzas[1]))  # noqa: S314 -- the test's own text
        xml.set("from", f"{ROOM}/mute")
        xml.set("id", f"made up {number}")
        peter.client.receive(xml)
        await peter.idle()
    peter.client.receive(stanzas[1])
    await peter.idle()
    assert peter.bodies == ["one", "two"]
    assert world.requests.count((mute, "items")) == 1


async def test_a_marker_to_a_member_says_nothing_of_the_room(town: Town, world: Rooming) -> None:
    """F31, F18: else one id for two messages had what others wrote there burned unread."""
    rosa, anna, peter = [await town.party(name) for name in ("rosa", "anna", "peter")]
    phone = await town.party("peter")
    await gathered(world, rosa, anna, peter)
    await anna.chat.send(ROOM, "by Anna", timer=timedelta(minutes=1))
    await reflected(anna, rosa, peter)
    sent = await rosa.chat.send(ROOM, "by Rosa", timer=timedelta(minutes=1))
    await reflected(rosa, anna, peter)
    assert sent.message_id is not None
    await phone.chat._outgoing.signal(BareJid(rosa.jid), [marks.write_displayed(sent.message_id)])
    (marker,) = phone.client.sent
    marker.xml.set("from", phone.client.boundjid.full)
    carbon = Element("{jabber:client}message", {"from": peter.jid, "to": peter.jid})
    SubElement(SubElement(carbon, f"{CARBONS}sent"), FORWARDED).append(marker.xml)
    peter.client.receive(carbon)
    await peter.idle()
    assert peter.jid not in {each.sender for each in peter.events["rejected"]}
    heard = [(each.body, each.phase) for each in await peter.chat.history(ROOM)]
    assert heard[:2] == [("by Rosa", Phase.UNREAD), ("by Anna", Phase.UNREAD)]


async def test_one_whose_server_gives_no_keys_is_left_out_at_once(
    town: Town, world: Rooming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F41: nobody waits for it with every message; after a while it is asked again."""
    rosa, peter = await town.party("rosa"), await town.party("peter")
    world.lists["member"] = [peter.jid]
    enter(rosa)
    await rosa.chat.send(ROOM, "to Peter")
    mute = BareJid("mute@mute.example")
    world.mute = {mute}
    world.lists["member"].append(mute)
    says(rosa, f"<item jid='{mute}' affiliation='member'/>")
    for module in (devices, fetching):
        monkeypatch.setattr(module, "PATIENCE", 0)
    sessions = rosa.chat._account.omemo.sessions
    await sessions.update_device_list(MODERN, mute, dict.fromkeys(range(1, 65)))
    bundles: list[tuple[str, str, int]] = []
    download = sessions.network._download_bundle

    async def counting(*name: Any) -> Any:
        bundles.append(name)
        return await download(*name)

    monkeypatch.setattr(sessions.network, "_download_bundle", staticmethod(counting))
    for body in ("one", "two"):
        message = await rosa.chat.send(ROOM, body)
        causes = {(each.jid, each.cause) for each in message.left_out}
        assert causes == {(mute, Cause.NO_KEYS)}
        assert bundles == []
    sessions.gate.downloads.clear()
    await rosa.chat.send(ROOM, "three")
    assert 0 < len(bundles) <= AT_ONCE
    assert {jid for _, jid, _ in bundles} == {mute}


async def test_one_whose_server_gives_no_keys_stops_a_room_once(
    town: Town, world: Rooming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in legacy OMEMO, where keys are looked up before anything is opened."""
    peter = await town.party("peter")
    mute = "mute@mute.example"
    world.lists["member"] = [peter.jid, mute]
    enter(peter)
    peter.client.receive(PRESENCE.format(nick="mute", jid=mute))
    bundles: list[object] = []
    sessions = peter.chat._account.omemo.sessions

    async def listed(*_: object) -> dict[int, None]:
        return dict.fromkeys(range(1, 65))

    async def bundle(*name: object) -> Any:
        bundles.append(name)
        await asyncio.Event().wait()

    monkeypatch.setattr(sessions.network, "_download_device_list", staticmethod(listed))
    monkeypatch.setattr(sessions.network, "_download_bundle", staticmethod(bundle))
    monkeypatch.setattr(fetching, "PATIENCE", 0)
    for payload in ("AAAA", "BBBB", "CCCC"):
        peter.client.receive(
            f"<message xmlns='jabber:client' from='{ROOM}/mute' id='{payload}' type='groupchat'>"
            f"<encrypted xmlns='{OLD}'><header sid='1'><key rid='{peter.device}' prekey='true'>"
            f"MwhAAAAA</key><iv>AAAAAAAAAAAAAAAA</iv></header><payload>{payload}</payload>"
            "</encrypted></message>"
        )
        await peter.idle()
    reasons = [rejection.reason for rejection in peter.events["rejected"]]
    assert reasons == [Reason.UNREACHABLE] * 3
    assert 0 < len(bundles) <= AT_ONCE
