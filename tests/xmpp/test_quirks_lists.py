"""Interoperability: device lists as others publish them, in the very form on the wire."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from omemo.types import SignedLabel
from slixmpp import JID

from eph_e2ee.protocol.capability import LABEL_MARKER
from eph_e2ee.xmpp import forgetting, published
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp import test_quirks
from tests.xmpp.test_quirks import DEVICES, PETER, SENTINEL, settled, xml

if TYPE_CHECKING:
    from omemo.types import DeviceList

    from tests.xmpp.clients import TestClient, World

ROSA = "rosa@example.org"
OLD_DEVICES = "eu.siacs.conversations.axolotl.devicelist"


async def online(world: World, name: str) -> tuple[TestClient, Any]:
    """A client that sees Peter's presence, as who gets his lists does."""
    client, plugin = await test_quirks.online(world, name)
    client.client_roster.add(PETER, ato=True)
    return client, plugin


def event(inside: str, sender: str = PETER) -> str:
    """A notification of PubSub."""
    return (
        f"<message xmlns='jabber:client' from='{sender}' to='{ROSA}' type='headline'>"
        f"<event xmlns='http://jabber.org/protocol/pubsub#event'>{inside}</event></message>"
    )


def listed(*devices: str, item: str = "current", node: str = DEVICES) -> str:
    inside = "".join(devices)
    payload = (
        f"<devices xmlns='urn:xmpp:omemo:2'>{inside}</devices>"
        if node == DEVICES
        else f"<list xmlns='eu.siacs.conversations.axolotl'>{inside}</list>"
    )
    return f"<items node='{node}'><item id='{item}'>{payload}</item></items>"


@pytest.mark.parametrize("item", ["current", "", "5ED52F653A338", "1"])
@pytest.mark.parametrize("node", [DEVICES, OLD_DEVICES])
async def test_a_list_may_be_called_anything(item: str, node: str, world: World) -> None:
    """`current` is a recommendation; older clients let the server choose."""
    client, plugin = await online(world, "rosa")
    client.receive(event(listed("<device id='7'/>", "<device id='8'/>", item=item, node=node)))
    await settled()
    assert sorted(plugin.kept.values[f"/devices/{PETER}/list"]) == [7, 8]


async def test_of_several_lists_the_current_one_is_taken(world: World) -> None:
    """A server that ignores `max_items`, and a client that left its list under another name."""
    _, plugin = await online(world, "rosa")
    found = {
        name: xml(f"<devices xmlns='urn:xmpp:omemo:2'><device id='{device}'/></devices>")
        for name, device in (("random", 8), ("current", 7))
    }
    for names in (("random", "current"), ("current", "random")):
        world.items[PETER, DEVICES] = {name: found[name] for name in names}
        await plugin.sessions.refresh_device_list(MODERN, PETER)
        assert plugin.kept.values[f"/devices/{PETER}/list"] == [7]


@pytest.mark.parametrize(
    "gone",
    [
        f"<delete node='{DEVICES}'/>",
        f"<purge node='{DEVICES}'/>",
        f"<items node='{DEVICES}'><retract id='current'/></items>",
        f"<items node='{DEVICES}'><retract id='whatever'/></items>",
    ],
)
async def test_a_list_that_is_removed_is_asked_for(gone: str, world: World) -> None:
    """QXmpp deletes the node, and publishes a list under another name."""
    client, plugin = await online(world, "rosa")
    client.receive(event(listed("<device id='7'/>", "<device id='8'/>")))
    await settled()
    world.items[PETER, DEVICES] = {
        "new": xml("<devices xmlns='urn:xmpp:omemo:2'><device id='8'/></devices>")
    }
    client.receive(event(gone))
    await settled()
    active = {
        device: plugin.kept.values[f"/devices/{PETER}/{device}/active"][MODERN] for device in (7, 8)
    }
    assert active == {7: False, 8: True}
    del world.items[PETER, DEVICES]
    client.receive(event(gone))
    await settled()
    assert plugin.kept.values[f"/devices/{PETER}/8/active"][MODERN] is False


STRANGER = "stranger@example.com"
"""Somebody of whom nothing is known."""

UNASKED = (
    listed(*(f"<device id='{each}'/>" for each in range(1, 65))),
    listed("<device id='7'/>", node=OLD_DEVICES),
    f"<delete node='{DEVICES}'/>",
    f"<items node='{DEVICES}'><retract id='current'/></items>",
)


@pytest.mark.parametrize("inside", UNASKED)
@pytest.mark.parametrize("state", ["none", "from", "asked"])
async def test_a_strangers_list_is_not_taken_in(inside: str, state: str, world: World) -> None:
    """Anybody can send one: nothing is kept, and nothing asked for."""
    client, plugin = await online(world, "rosa")
    if state != "none":
        client.client_roster.add(STRANGER, afrom=state == "from", pending_out=state == "asked")
    before = dict(plugin.kept.values)
    world.requests.clear()
    client.receive(event(inside, STRANGER))
    await settled()
    assert plugin.kept.values == before
    assert world.requests == []


@pytest.mark.parametrize("known", ["list", "subscription", "both"])
async def test_who_is_no_stranger_is_heard(known: str, world: World) -> None:
    """Whoever's lists we have asked for, or who lets us see when they are there."""
    client, plugin = await online(world, "rosa")
    if known == "list":
        await plugin.sessions.update_device_list(MODERN, STRANGER, {9: None})
    elif known == "subscription":
        plugin.kept.values[f"/slixmpp/subscribed/{STRANGER}/{OLD}"] = True
    else:
        client.client_roster.add(STRANGER, ato=True, afrom=True)
    for device in (7, 8):
        client.receive(event(listed(f"<device id='{device}'/>"), STRANGER))
    await settled()
    active = {
        each: plugin.kept.values[f"/devices/{STRANGER}/{each}/active"][MODERN]
        for each in plugin.kept.values[f"/devices/{STRANGER}/list"]
    }
    assert active.pop(8)
    assert not active.get(7, False)


async def test_a_strangers_list_is_asked_for_when_it_is_needed(world: World) -> None:
    client, plugin = await online(world, "rosa")
    devices = "<devices xmlns='urn:xmpp:omemo:2'><device id='7'/></devices>"
    world.items[STRANGER, DEVICES] = {"current": xml(devices)}
    client.receive(event(listed("<device id='8'/>"), STRANGER))
    await settled()
    await plugin.refresh_device_lists({JID(STRANGER)})
    assert plugin.kept.values[f"/devices/{STRANGER}/list"] == [7]
    client.receive(event(listed("<device id='7'/>", "<device id='8'/>"), STRANGER))
    await settled()
    assert sorted(plugin.kept.values[f"/devices/{STRANGER}/list"]) == [7, 8]


async def test_our_own_list_that_is_removed_is_published_again(world: World) -> None:
    """Another client of ours may delete it, as QXmpp does, and would leave us unreachable."""
    client, plugin = await online(world, "rosa")
    del world.items[ROSA, DEVICES]
    client.receive(event(f"<delete node='{DEVICES}'/>", ROSA))
    await settled()
    (published_list,) = world.items[ROSA, DEVICES].values()
    assert [each.get("id") for each in published_list] == [str(plugin.own_device)]


@pytest.mark.parametrize(
    ("devices", "taken"),
    [
        (["<device id='7'/>", "<device id='7'/>"], [7]),
        (["<device id='0'/>", "<device id='7'/>"], [7]),
        (["<device id='2147483648'/>", "<device id='4294967295'/>", "<device id='7'/>"], [7]),
        (["<device id='2147483647'/>"], [2147483647]),
        (["<device id=' +7 '/>"], [7]),
        (["<device id='-7'/>"], None),
        (["<device id='4294967296'/>"], None),
        (["<device/>"], None),
    ],
)
async def test_ids_are_those_of_the_specification(
    devices: list[str], taken: list[int] | None, world: World
) -> None:
    """XEP-0384 section 5.3.1: 1 to 2^31 - 1."""
    client, plugin = await online(world, "rosa")
    client.receive(event(listed(*devices)))
    await settled()
    assert plugin.kept.values.get(f"/devices/{PETER}/list") == taken


@pytest.mark.parametrize(
    "inside",
    [
        listed(f"<device id='{SENTINEL}'/>"),
        listed(f"<device id='7' {SENTINEL}='x'/>"),
        listed(f"<device id='7'>{SENTINEL}</device>"),
        f"<items node='{DEVICES}'><item id='x'><{SENTINEL} xmlns='x'/></item></items>",
        f"<items node='{DEVICES}'><item id='x'>{SENTINEL}</item></items>",
        f"<items node='{DEVICES}'><item id='{SENTINEL}'/></items>",
        f"<items node='{DEVICES}'><retract/><item id='{SENTINEL}'/></items>",
        f"<items node='{DEVICES}'/>",
        listed("<device id='7' label='x' labelsig='!'/>"),
    ],
)
async def test_a_malformed_list_is_left_and_quoted_nowhere(
    inside: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F10, F42: slixmpp-omemo writes its XML to the log."""
    caplog.set_level("INFO")
    client, plugin = await online(world, "rosa")
    client.receive(event(listed("<device id='7'/>")))
    await settled()
    client.receive(event(inside))
    await settled()
    assert plugin.kept.values[f"/devices/{PETER}/list"] == [7]
    assert client.sent == []
    assert SENTINEL not in caplog.text


async def test_a_long_list_is_cut_off(world: World) -> None:
    """Each of the first devices costs a download; those beyond cost nothing."""
    client, plugin = await online(world, "rosa")
    world.requests.clear()
    client.receive(event(listed(*(f"<device id='{each}'/>" for each in range(1, 5001)))))
    await settled()
    known = plugin.kept.values[f"/devices/{PETER}/list"]
    assert sorted(known) == list(range(1, published.MAX_DEVICES + 1))
    assert len(world.requests) <= 2 * published.MAX_DEVICES


async def test_lists_that_change_for_ever_fill_nothing(world: World) -> None:
    """python-omemo remembers every device that it has ever seen in a list."""
    _, plugin = await online(world, "rosa")
    for start in range(1, 2000, published.MAX_DEVICES):
        devices = dict.fromkeys(range(start, start + published.MAX_DEVICES))
        await plugin.sessions.update_device_list(OLD, PETER, devices)
        known = plugin.kept.values[f"/devices/{PETER}/list"]
        assert set(devices) <= set(known)
        assert len(known) <= forgetting.MAX_KNOWN
    names = [name for name in plugin.kept.values if name.startswith(f"/devices/{PETER}/")]
    assert len(names) <= 4 * forgetting.MAX_KNOWN + 1


async def test_our_own_device_is_not_cut_off(world: World) -> None:
    client, plugin = await online(world, "rosa")
    own = int(plugin.own_device)
    devices = [f"<device id='{each}'/>" for each in range(1, 200)]
    world.requests.clear()
    client.receive(event(listed(*devices, f"<device id='{own}'/>"), ROSA))
    await settled()
    assert own in plugin.kept.values[f"/devices/{ROSA}/list"]
    assert (ROSA, "publish") not in world.requests


@pytest.mark.parametrize("how", ["unsigned", "wrongly signed", "a short signature", "a long label"])
async def test_a_label_that_is_not_the_devices_own_says_nothing(how: str, world: World) -> None:
    """Our marker says that a device reads envelopes: only the device itself may say so."""
    client, plugin = await online(world, "rosa")
    peter, peters = await online(world, "peter")
    del peter
    own = int(peters.own_device)
    signature = base64.b64encode(bytes(63 if how == "a short signature" else 64)).decode()
    label = LABEL_MARKER + "x" * 1000 if how == "a long label" else LABEL_MARKER
    labelsig = "" if how == "unsigned" else f" labelsig='{signature}'"
    device = f"<device id='{own}' label='{label}'{labelsig}/>"
    client.receive(event(listed(device)))
    client.receive(event(listed(f"<device id='{own}'/>", node=OLD_DEVICES)))
    await settled()
    (known,) = await plugin.sessions.get_device_information(PETER)
    assert known.label is None
    assert plugin.namespaces(known) == {OLD}


async def test_lists_of_a_kind_that_was_purged_say_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """slixmpp-omemo goes on asking for them, and would fail over each message to a stranger."""
    client, plugin = await online(world, "rosa")
    await plugin.sessions.purge_backend(OLD)
    caplog.clear()
    client.receive(event(listed("<device id='7'/>", node=OLD_DEVICES)))
    client.receive(event(listed("<device id='8'/>")))
    await settled()
    await plugin.refresh_device_lists({JID("stranger@example.org")})
    assert plugin.kept.values[f"/devices/{PETER}/list"] == [8]
    assert not [each for each in caplog.records if each.name == "eph_e2ee"]


def test_labels_are_kept_within_bounds() -> None:
    right = SignedLabel("label", bytes(64))
    listed_devices: DeviceList = {
        1: right,
        2: SignedLabel("x" * 257, bytes(64)),
        3: SignedLabel("x", b""),
    }
    assert published.bounded(listed_devices, None) == {1: right, 2: None, 3: None}
