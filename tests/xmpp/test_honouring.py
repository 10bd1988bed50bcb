"""Whose devices honour timers, by what slixmpp knows of the resources online (F40)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID
from slixmpp.plugins.xep_0030 import DiscoInfo

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.honouring import MAXIMUM_RESOURCES, Honouring
from eph_e2ee.xmpp.parcel import MODERN
from tests.support.chats import element
from tests.xmpp.clients import OurPlugin
from tests.xmpp.test_ephemeral import NAMESPACE, timer

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient, World

OWN, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
ROOM = BareJid("room@rooms.example.org")
WITH, WITHOUT = ("urn:example", NAMESPACE), ("urn:example",)


@pytest.fixture
def client(world: World) -> TestClient:
    return world.client("rosa")


@pytest.fixture
def omemo(client: TestClient) -> OurPlugin:
    client.register_plugin("xep_0045")
    plugin: OurPlugin = client.plug(OurPlugin)
    return plugin


@pytest.fixture
def honouring(client: TestClient, omemo: OurPlugin) -> Honouring:
    return Honouring(client, omemo)


async def appear(client: TestClient, jid: str, features: tuple[str, ...] | None) -> None:
    """Have a resource come online; None for features that nobody has looked up yet."""
    client.receive(f"<presence xmlns='jabber:client' from='{jid}' to='{client.boundjid.full}'/>")
    await tell(client, jid, features)


async def tell(client: TestClient, jid: str, features: tuple[str, ...] | None) -> None:
    """What slixmpp does once it has the answer to a presence's hash."""
    if features is None:
        return
    caps: Any = client.plugin["xep_0115"]
    info = DiscoInfo()
    for feature in features:
        info.add_feature(feature)
    await caps.cache_caps(repr(features), info)
    await caps.assign_verstring(JID(jid), repr(features))


@pytest.mark.parametrize(
    ("resources", "devices", "answer"),
    [
        ([], 0, None),
        ([WITH], 1, True),
        ([WITH], 2, None),
        ([WITH, WITH], 2, True),
        ([WITHOUT], 1, False),
        ([WITHOUT], 2, False),
        ([WITH, WITHOUT], 2, None),
        ([None], 1, None),
        ([WITH, None], 2, None),
        ([WITHOUT, None], 2, None),
        ([WITHOUT] * MAXIMUM_RESOURCES, 1, False),
        ([WITHOUT] * (MAXIMUM_RESOURCES + 1), 1, None),
    ],
)
async def test_what_all_resources_say_is_said(
    resources: list[tuple[str, ...] | None],
    devices: int,
    *,
    answer: bool | None,
    client: TestClient,
    honouring: Honouring,
) -> None:
    """Devices and resources cannot be told to belong together."""
    for number, features in enumerate(resources):
        await appear(client, f"{PETER}/{number}", features)
    assert await honouring.advertised(PETER, devices=devices) is answer


async def test_who_goes_offline_says_nothing_more(client: TestClient, honouring: Honouring) -> None:
    await appear(client, f"{PETER}/x", WITHOUT)
    await appear(client, PETER, WITHOUT)
    for jid in (f"{PETER}/x", PETER):
        assert await honouring.advertised(PETER) is False
        gone = f"from='{jid}' to='{client.boundjid.full}' type='unavailable'"
        client.receive(f"<presence xmlns='jabber:client' {gone}/>")
    assert await honouring.advertised(PETER) is None


async def test_looking_remembers_nobody(client: TestClient, honouring: Honouring) -> None:
    """Slixmpp would make a contact of whoever is looked up."""
    assert await honouring.advertised(BareJid("stranger@example.net")) is None
    assert not client.client_roster.has_jid("stranger@example.net")


async def test_of_our_own_account_the_others_count(
    client: TestClient, honouring: Honouring
) -> None:
    await appear(client, client.boundjid.full, WITHOUT)
    assert await honouring.advertised(OWN) is None
    await appear(client, f"{OWN}/other", WITH)
    assert await honouring.advertised(OWN, devices=1) is True


async def test_in_a_room_its_occupants_say_so(client: TestClient, honouring: Honouring) -> None:
    """By their real JIDs, with what the contact list knows of the same resources once."""
    rooms: Any = client.plugin["xep_0045"]
    occupants = {"peter": f"{PETER}/x", "paul": f"{PETER}/y", "other": "anna@example.org/z"}
    rooms.rooms[None][JID(ROOM)] = {
        nick: {"nick": nick, "jid": JID(real)} for nick, real in occupants.items()
    } | {"hidden": {"nick": "hidden", "jid": ""}}
    for nick in occupants:
        await tell(client, f"{ROOM}/{nick}", WITHOUT)
    assert await honouring.advertised(PETER, room=ROOM) is False
    assert await honouring.advertised(PETER) is None
    assert await honouring.advertised(PETER, room=BareJid("other@rooms.example.org")) is None
    await appear(client, f"{PETER}/x", WITH)
    assert await honouring.advertised(PETER, room=ROOM) is None


async def test_devices_that_let_timers_go_by_are_named(
    world: World, client: TestClient, omemo: OurPlugin, honouring: Honouring
) -> None:
    """F40: those that the message was put into an envelope for, and that have never sent one."""
    peter = world.client("peter")
    reader = peter.plug(OurPlugin)
    for each in (client, peter):
        await each.bind()
    await omemo.refresh_device_lists({JID(PETER)})
    sealed = await omemo.gate.run(lambda: omemo.seal(frozenset({PETER}), {MODERN: b"<x/>"}))
    assert await honouring.ignoring({PETER, OWN}, sealed) == frozenset()
    await appear(client, f"{PETER}/x", WITHOUT)
    assert await honouring.ignoring({PETER, OWN}, sealed) == {reader.own_device}
    assert await honouring.ignoring({OWN}, sealed) == frozenset()
    (device,) = await omemo.sessions.get_device_information(PETER)
    await omemo.remember_reader(device, [element(timer("5"))])
    assert await honouring.ignoring({PETER, OWN}, sealed) == frozenset()


async def test_without_capabilities_nothing_is_known(
    client: TestClient, honouring: Honouring
) -> None:
    await appear(client, f"{PETER}/x", WITHOUT)
    manager: Any = client.plugin
    manager.disable("xep_0115")
    assert await honouring.advertised(PETER) is None
