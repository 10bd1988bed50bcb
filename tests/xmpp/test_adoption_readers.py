"""Adoption in rooms, and what becomes of one stanza where its readers differ."""

from __future__ import annotations

import logging
from copy import copy
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import fromstring

import omemo
import pytest
from slixmpp import JID

from eph_e2ee.errors import LocalProtocolError, Reason, RemoteProtocolError
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp.clients import OurPlugin, TheirPlugin, World, plugged

if TYPE_CHECKING:
    from slixmpp.stanza import Message

    from tests.xmpp.clients import TestClient

ROSA, PETER = JID("rosa@example.org"), JID("peter@example.org")


def elements(stanza: Message) -> dict[str, str | None]:
    return {child.tag: child.text for child in stanza.xml}


def to(client: TestClient, jid: JID) -> Message:
    return client.make_message(mto=jid, mbody="text", mtype="chat")


@pytest.fixture
def in_room() -> Any:
    """Have clients enter one room."""
    occupants: dict[str, str] = {}

    def enter(*clients: TestClient) -> JID:
        for client in clients:
            occupants[client.boundjid.resource] = client.boundjid.full
            client.register_plugin("xep_0045")
            rooms: Any = client.plugin["xep_0045"]
            rooms.get_jid_property = lambda _, nick, __: occupants.get(nick)
        return JID("room@rooms.example.org")

    return enter


def in_room_from(stanza: Message, room: JID, nick: str) -> Message:
    stanza["from"] = f"{room}/{nick}"
    stanza["to"] = "somebody@example.org"
    return stanza


async def test_a_group_chat_comes_back_to_its_sender(world: World, in_room: Any) -> None:
    """Nobody encrypts for the sending device: it is remembered until it is back, and no longer."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    room = in_room(rosa, peter)
    stanza = rosa.make_message(mto=room, mbody="text", mtype="groupchat")
    sealed, _ = await ours.encrypt_message(stanza, {PETER})
    assert ours.is_encrypted(sealed) == {MODERN}
    assert len(ours._reflections) == 1
    for client, plugin in ((peter, theirs), (rosa, ours)):
        carried = in_room_from(world.carry(sealed, rosa, client), room, "rosa")
        opened, device = await plugin.decrypt_message(carried)
        assert elements(opened) == {"{jabber:client}body": "text"}
        assert (opened["id"], opened["from"]) == (stanza["id"], f"{room}/rosa")
        assert device.device_id == ours.own_device
    assert len(ours._reflections) == 0
    assert ours._XEP_0384__muc_reflection_cache == {}
    with pytest.raises(omemo.MessageNotForUs):
        await ours.decrypt_message(carried)


async def test_nobody_else_brings_it_back(world: World, in_room: Any) -> None:
    """An occupant who repeats our stanza, or uses its id, gets none of our words."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, _ = await plugged(world, "peter", OurPlugin)
    room = in_room(rosa, peter)
    stanza = rosa.make_message(mto=room, mbody="text", mtype="groupchat")
    sealed, _ = await ours.encrypt_message(stanza, {PETER})
    with pytest.raises(omemo.MessageNotForUs):
        await ours.decrypt_message(in_room_from(world.carry(sealed, rosa, rosa), room, "peter"))
    other, _ = await ours.encrypt_message(to(rosa, PETER), PETER)
    other["id"], other["type"] = sealed["id"], "groupchat"
    with pytest.raises(omemo.MessageNotForUs):
        await ours.decrypt_message(in_room_from(world.carry(other, rosa, rosa), room, "rosa"))
    assert len(ours._reflections) == 1


async def test_the_end_forgets_what_has_not_come_back(world: World, in_room: Any) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    await plugged(world, "peter", OurPlugin)
    stanza = rosa.make_message(mto=in_room(rosa), mbody="text", mtype="groupchat")
    await ours.encrypt_message(stanza, {PETER})
    manager: Any = rosa.plugin
    manager.disable("xep_0384")
    assert len(ours._reflections) == 0
    assert not [each for each in rosa.scheduled_events if "eph" in each]
    await ours.ended()


async def test_an_envelope_names_the_room(world: World, in_room: Any) -> None:
    """One made for the room does not pass as one to an account, nor the other way round."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    room = in_room(rosa, peter)
    stanza = rosa.make_message(mto=room, mbody="text", mtype="groupchat")
    sealed, _ = await ours.encrypt_message(stanza, {PETER})
    carried = world.carry(sealed, rosa, peter)
    carried["type"], carried["to"] = "chat", PETER
    with pytest.raises(RemoteProtocolError) as caught:
        await theirs.decrypt_message(carried)
    assert caught.value.reason is Reason.WRONG_RECIPIENT
    sealed, _ = await ours.encrypt_message(to(rosa, PETER), PETER)
    carried = in_room_from(world.carry(sealed, rosa, peter), room, "rosa")
    carried["type"] = "groupchat"
    with pytest.raises(ValueError, match="another recipient"):
        await theirs.decrypt_message(carried)


async def test_without_real_jids_nobody_is_known(world: World, in_room: Any) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    room = in_room(rosa, peter)
    stanza = rosa.make_message(mto=room, mbody="text", mtype="groupchat")
    sealed, _ = await ours.encrypt_message(stanza, {PETER})
    with pytest.raises(omemo.SenderNotFound):
        await theirs.decrypt_message(
            in_room_from(world.carry(sealed, rosa, peter), room, "a stranger")
        )
    peter.plugin.disable("xep_0045")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="XEP-0045"):
        await theirs.decrypt_message(in_room_from(world.carry(sealed, rosa, peter), room, "rosa"))


async def test_what_has_no_body_is_for_readers_of_envelopes(world: World) -> None:
    """slixmpp-omemo 2.2 encrypts nothing then; nobody is told of an error."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    await plugged(world, "karl", TheirPlugin)
    marker = rosa.make_message(mto=PETER, mtype="chat")
    marker.xml.append(fromstring("<displayed xmlns='urn:xmpp:chat-markers:0' id='7'/>"))  # noqa: S314 -- the test's own text
    karl = JID("karl@example.org")
    assert await ours.encrypt_message(marker, karl) == (None, frozenset())
    nobody = JID("nobody@example.org")
    assert await ours.encrypt_message(marker, nobody) == (None, frozenset())
    sealed, _ = await ours.encrypt_message(marker, {PETER, karl})
    opened, _ = await theirs.decrypt_message(world.carry(sealed, rosa, peter))
    assert set(elements(opened)) == {"{urn:xmpp:chat-markers:0}displayed"}
    empty = rosa.make_message(mto=PETER, mbody="", mtype="chat")
    empty["body"] = ""
    assert await ours.encrypt_message(empty, PETER) == (None, frozenset())


async def test_only_one_who_may_miss_its_element_makes_it_two(world: World) -> None:
    """Devices with legacy OMEMO alone find theirs: one stanza serves them and readers."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    await plugged(world, "peter", OurPlugin)
    _, legacy = await plugged(world, "peter", TheirPlugin)
    both, _ = await ours.encrypt_message(to(rosa, PETER), PETER)
    assert (ours.is_encrypted(both), both.parted) == ({MODERN, OLD}, True)
    assert copy(both).parted
    own, _ = await (await legacy.get_session_manager()).get_own_device_information()
    listed = world.items["peter@example.org", "urn:xmpp:omemo:2:devices"]["current"]
    for device in list(listed):
        if device.get("id") == str(own.device_id):
            listed.remove(device)
    sessions = await ours.get_session_manager()
    await sessions.refresh_device_lists("peter@example.org")
    whole, _ = await ours.encrypt_message(to(rosa, PETER), PETER)
    assert (ours.is_encrypted(whole), whole.parted) == ({MODERN, OLD}, False)


UNFIT = {
    "colours of a terminal": "\x1b[31mred\x1b[0m",
    "a form feed": "one\x0ctwo",
    "NUL": "one\x00two",
    "no character": "one\ufffetwo",
    "90 KiB": "x" * 90 * 1024,
}
"""Bodies that legacy OMEMO carries, and no envelope."""


async def unlist(world: World, client: TestClient, plugin: Any, *told: Any) -> None:
    """Take a device out of its account's list for legacy OMEMO."""
    jid = client.boundjid.bare
    listed = world.items[jid, f"{OLD}.devicelist"]["current"]
    for device in list(listed):
        if device.get("id") == str(plugin.own_device):
            listed.remove(device)
    for each in told:
        sessions = await each.get_session_manager()
        await sessions.refresh_device_lists(jid)


@pytest.mark.parametrize("name", UNFIT)
async def test_what_no_envelope_carries_goes_in_legacy_omemo(name: str, world: World) -> None:
    """As slixmpp-omemo sends it: an error is what many bots answer in clear."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    readers = [await plugged(world, "peter", kind) for kind in (OurPlugin, TheirPlugin)]
    stanza = rosa.make_message(mto=PETER, mbody=UNFIT[name], mtype="chat")
    sealed, errors = await ours.encrypt_message(stanza, PETER)
    assert (ours.is_encrypted(sealed), sealed.parted, errors) == ({OLD}, False, frozenset())
    for client, plugin in readers:
        opened, _ = await plugin.decrypt_message(world.carry(sealed, rosa, client))
        assert opened["body"] == UNFIT[name]


async def test_who_reads_envelopes_alone_is_left_out_and_named(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    phone, reading = await plugged(world, "peter", OurPlugin)
    desk, modern = await plugged(world, "peter", OurPlugin)
    await ours.refresh_device_lists({PETER})
    await unlist(world, desk, modern, ours)
    stanza = rosa.make_message(mto=PETER, mbody="one\x0ctwo", mtype="chat")
    sealed, (error,) = await ours.encrypt_message(stanza, PETER)
    assert ours.is_encrypted(sealed) == {OLD}
    assert error[:3] == (MODERN, PETER.bare, modern.own_device)
    assert isinstance(error.exception, LocalProtocolError)
    opened, _ = await reading.decrypt_message(world.carry(sealed, rosa, phone))
    assert opened["body"] == "one\x0ctwo"


async def test_an_account_that_reads_envelopes_alone_is_an_error(world: World) -> None:
    """It says what is wrong with the text, not that there is no device; no ratchet has turned."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    await plugged(world, "karl", TheirPlugin)
    await ours.encrypt_message(to(rosa, PETER), PETER)
    await unlist(world, peter, theirs, ours)
    kept = dict(ours.kept.values)
    for text in ("sentinel\x0c", "sentinel\ud800"):
        stanza = rosa.make_message(mto=PETER, mbody=text, mtype="chat")
        with pytest.raises(LocalProtocolError, match="control characters") as caught:
            await ours.encrypt_message(stanza, {PETER, JID("karl@example.org")})
        assert "sentinel" not in repr(caught.value)
    after = {key: value for key, value in ours.kept.values.items() if "ratchet" in key}
    assert after == {key: value for key, value in kept.items() if "ratchet" in key} != {}
    with pytest.raises(omemo.session_manager.NoEligibleDevices):
        await ours.encrypt_message(to(rosa, PETER), {PETER, JID("nobody@example.org")})


async def test_without_a_body_nothing_is_left_to_send(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    await plugged(world, "peter", OurPlugin)
    stanza = rosa.make_message(mto=PETER, mtype="chat")
    stanza.xml.append(fromstring("<nothing xmlns=''/>"))  # noqa: S314 -- the test's own text
    with pytest.raises(LocalProtocolError, match="namespace"):
        await ours.encrypt_message(stanza, PETER)


async def test_an_empty_message_has_no_body(world: World) -> None:
    """What only turns the ratchets is, decrypted, a stanza with nothing in it, as it was."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", TheirPlugin)
    sealed, _ = await theirs.encrypt_message(to(peter, ROSA), ROSA)
    await ours.decrypt_message(world.carry(sealed, peter, rosa))
    (answer,) = rosa.sent  # to the key exchange
    opened, device = await theirs.decrypt_message(world.carry(answer, rosa, peter))
    assert (opened["body"], device.device_id) == ("", ours.own_device)
    peter.sent.clear()
    sealed, _ = await ours.encrypt_message(to(rosa, PETER), PETER)
    await theirs.decrypt_message(world.carry(sealed, rosa, peter))
    for answer in peter.sent:
        opened, _ = await ours.decrypt_message(world.carry(answer, peter, rosa))
        assert opened["body"] == ""
        assert ours.is_encrypted(opened) == set()


async def test_f10_nothing_of_a_message_is_logged(
    world: World, in_room: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """F10: slixmpp-omemo logs what it encrypts; and what it cannot read stands in its error."""
    caplog.set_level(logging.DEBUG)
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    room = in_room(rosa, peter)
    for mto, kind in ((PETER, "chat"), (room, "groupchat")):
        stanza = rosa.make_message(mto=mto, mbody="sentinel plaintext")
        stanza["type"] = kind
        sealed, _ = await ours.encrypt_message(stanza, {PETER})
        carried = world.carry(sealed, rosa, peter)
        if kind == "groupchat":
            in_room_from(carried, room, "rosa")
        opened, _ = await theirs.decrypt_message(carried)
        assert opened["body"] == "sentinel plaintext"
        with pytest.raises(RemoteProtocolError) as caught:
            await theirs.decrypt_message(carried)
        assert "sentinel" not in repr(caught.value)
    assert "sentinel" not in caplog.text
    assert "sentinel" not in repr(vars(ours)) + repr(vars(ours._reflections))
