"""What applications make of the plugin's class: their own dependencies, or an object by hand."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from slixmpp import JID

from eph_e2ee.xmpp.parcel import MODERN
from tests.xmpp.clients import OurPlugin, World, plugged
from tests.xmpp.test_startup import NOTIFY, features, settled

if TYPE_CHECKING:
    import pytest

ROSA, PETER = JID("rosa@example.org"), JID("peter@example.org")


class Depending(OurPlugin):
    """A class that names what slixmpp-omemo needed, and no more."""

    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0060", "xep_0163", "xep_0280", "xep_0334"}


async def test_what_we_need_beyond_slixmpp_omemo_is_loaded(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rosa, ours = await plugged(world, "rosa", Depending)
    await plugged(world, "peter", OurPlugin)
    stanza = rosa.make_message(mto=PETER, mbody="text", mtype="chat")
    sealed, _ = await ours.encrypt_message(stanza, PETER)
    assert ours.is_encrypted(sealed) == {MODERN}
    await settled()
    assert await features(rosa) >= {*NOTIFY, "urn:xmpp:sce:1", "http://jabber.org/protocol/caps"}
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_plugin_made_by_hand_is_a_whole_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody initialises it; its application tells it of the session, by its account alone."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter = world.client("peter")
    made: Any = OurPlugin(peter, {})
    plugins: Any = peter.plugin
    plugins._plugins["xep_0384"] = made
    peter.bound = True
    peter.session_bind_event.set()
    made.session_bind(PETER.bare)
    await made.get_session_manager()
    await settled()
    assert await features(peter) >= {*NOTIFY, "urn:xmpp:sce:1"}
    told: list[Any] = []
    peter.add_event_handler("message", told.append)
    stanza = rosa.make_message(mto=PETER, mbody="text", mtype="chat")
    sealed, _ = await ours.encrypt_message(stanza, PETER)
    assert ours.is_encrypted(sealed) == {MODERN}
    peter.receive(world.carry(sealed, rosa, peter).xml)
    await settled()
    (heard,) = told
    opened, _ = await made.decrypt_message(heard)
    assert opened["body"] == "text"
    answer, _ = await made.encrypt_message(opened.reply("text"), ROSA)
    assert (await ours.decrypt_message(world.carry(answer, peter, rosa)))[0]["body"] == "text"
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
    made.plugin_end()


async def test_a_plugin_is_initialised_once(world: World) -> None:
    """Whoever makes it by hand may do that too."""
    client = world.client("peter")
    made: Any = OurPlugin(client, {})
    await made.get_session_manager()
    made.plugin_init()
    assert client.event_handled("twomemo_device_list_publish") == 1
    made.plugin_end()
    await made.ended()
    assert client.event_handled("twomemo_device_list_publish") == 0
