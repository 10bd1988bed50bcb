"""Interoperability: bundles as others publish them, in the very form on the wire.

Each goes through a real client of slixmpp; only the server is in this process.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring

import pytest
import xeddsa
from omemo.session_manager import BundleDownloadFailed, NoEligibleDevices
from slixmpp import JID

from eph_e2ee.xmpp.parcel import MODERN
from tests.xmpp.clients import OurPlugin, World

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient

PETER = "peter@example.org"
DEVICES, BUNDLES = "urn:xmpp:omemo:2:devices", "urn:xmpp:omemo:2:bundles"
SENTINEL = "sentinel"


def xml(text: str) -> Element:
    return fromstring(text)  # noqa: S314 -- written by the test


async def online(world: World, name: str) -> tuple[TestClient, Any]:
    client = world.client(name)
    plugin = client.plug(OurPlugin)
    await client.bind()
    return client, plugin


async def settled() -> None:
    for _ in range(3000):
        await asyncio.sleep(0)


# -- bundles ---------------------------------------------------------------------------------------


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def key(size: int = 32) -> str:
    """Some bytes that are no key."""
    return b64(b"\x01" * size)


def pre_keys(count: int = 100, size: int = 32) -> str:
    return "".join(f"<pk id='{each}'>{b64(os.urandom(size))}</pk>" for each in range(1, count + 1))


def bundle(
    *,
    spk: str = f"<spk id='1'>{key()}</spk>",
    spks: str = f"<spks>{key(64)}</spks>",
    ik: str | None = None,
    keys: str | None = None,
) -> str:
    """A bundle as QXmpp orders it: the identity key first."""
    identity = f"<ik>{b64(IDENTITY)}</ik>" if ik is None else ik
    listed = f"<prekeys>{pre_keys() if keys is None else keys}</prekeys>"
    return f"<bundle xmlns='urn:xmpp:omemo:2'>{identity}{spk}{spks}{listed}</bundle>"


PRIVATE = xeddsa.priv_force_sign(bytes(range(32)), False)
IDENTITY = xeddsa.priv_to_ed25519_pub(PRIVATE)
OFF_THE_CURVE = b64(b"\xff" * 32)
SIGNED = xeddsa.priv_to_curve25519_pub(PRIVATE)
ZERO = b64(bytes(32))


def signed(spk: bytes) -> str:
    """The signature of a signed pre key that is right, whatever the key is worth."""
    return f"<spks>{b64(xeddsa.ed25519_priv_sign(PRIVATE, spk))}</spks>"


GARBAGE = {
    "empty signature (QXmpp after its restart)": bundle(spks="<spks></spks>"),
    "self-closing signature": bundle(spks="<spks/>"),
    "no signature": bundle(spks=""),
    "no signed pre key": bundle(spk=""),
    "empty signed pre key": bundle(spk="<spk id='0'></spk>"),
    "no id of the signed pre key": bundle(spk=f"<spk>{key()}</spk>"),
    "no identity key": bundle(ik=""),
    "short identity key": bundle(ik=f"<ik>{key(5)}</ik>"),
    "identity key off the curve": bundle(ik=f"<ik>{OFF_THE_CURVE}</ik>"),
    "long signature": bundle(spks=f"<spks>{key(65)}</spks>"),
    "wrong signature": bundle(),
    "not base64": bundle(spks=f"<spks>{SENTINEL}!</spks>"),
    "not ASCII": bundle(spks=f"<spks>{SENTINEL}\u00e9</spks>"),
    "no pre keys": bundle(keys=""),
    "short pre keys": bundle(keys=pre_keys(size=5)),
    "a short one among the pre keys": bundle(keys=pre_keys() + f"<pk id='101'>{key(31)}</pk>"),
    "an empty pre key": bundle(keys=pre_keys() + "<pk id='101'/>"),
    "thousands of pre keys": bundle(keys=pre_keys(5000)),
    "a key of small order": bundle(
        spk=f"<spk id='1'>{ZERO}</spk>", spks=signed(bytes(32)), keys=pre_keys(1)
    ),
    "pre keys of small order": bundle(
        spk=f"<spk id='1'>{b64(SIGNED)}</spk>",
        spks=signed(SIGNED),
        keys=f"<pk id='1'>{ZERO}</pk>",
    ),
    "another element": f"<{SENTINEL} xmlns='urn:xmpp:omemo:2'/>",
    "legacy OMEMO's": f"<bundle xmlns='eu.siacs.conversations.axolotl'>{SENTINEL}</bundle>",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_device_with_a_bad_bundle_is_left_out(
    garbage: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F41, F42, F10: the others get the message, and nothing is quoted."""
    caplog.set_level("INFO")  # at DEBUG slixmpp writes down what it receives
    rosa, plugin = await online(world, "rosa")
    _, peters = await online(world, "peter")
    world.items[PETER, DEVICES]["current"].append(
        xml("<device xmlns='urn:xmpp:omemo:2' id='4711'/>")
    )
    world.items[PETER, BUNDLES]["4711"] = xml(garbage)
    stanza = rosa.make_message(mto=JID(PETER), mbody="text", mtype="chat")
    for _ in range(2):
        sealed, errors = await plugin.encrypt_message(stanza, JID(PETER))
        assert {error.device_id for error in errors} <= {4711}
        keys = {each.get("rid") for each in sealed.xml.iter(f"{{{MODERN}}}key")}
        assert keys == {str(peters.own_device)}
    assert SENTINEL not in caplog.text


async def test_a_bundle_that_is_mended_is_taken(world: World) -> None:
    """QXmpp publishes a whole one later."""
    rosa, plugin = await online(world, "rosa")
    _, peters = await online(world, "peter")
    for node_name in [name for _, name in world.items if "axolotl" in name]:
        world.items.pop((PETER, node_name), None)
    node = world.items[PETER, BUNDLES]
    whole, name = node[str(peters.own_device)], str(peters.own_device)
    node[name] = xml(GARBAGE["empty signature (QXmpp after its restart)"])
    stanza = rosa.make_message(mto=JID(PETER), mbody="text", mtype="chat")
    await plugin.refresh_device_lists({JID(PETER)})
    assert await plugin.sessions.get_device_information(PETER) == frozenset()
    node[name] = whole
    sealed, errors = await plugin.encrypt_message(stanza, JID(PETER))
    assert errors == frozenset()
    assert len(list(sealed.xml.iter(f"{{{MODERN}}}key"))) == 1


async def test_a_bundle_under_another_id_is_not_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers with another device's item."""
    _, plugin = await online(world, "rosa")
    _, peters = await online(world, "peter")
    fetch = World._fetch

    def any_item(self: World, account: str, verb: Element, answer: Element) -> None:
        for item in verb:
            item.set("id", str(peters.own_device))
        fetch(self, account, verb, answer)

    monkeypatch.setattr(World, "_fetch", any_item)
    with pytest.raises(BundleDownloadFailed):
        await plugin.sessions._download_bundle(MODERN, PETER, 4711)
    taken = await plugin.sessions._download_bundle(MODERN, PETER, peters.own_device)
    assert taken.device_id == peters.own_device


async def test_an_identity_that_changes_is_not_taken(world: World) -> None:
    """python-omemo trusts the key that it knows and would use the one that it is given."""
    rosa, plugin = await online(world, "rosa")
    _, peters = await online(world, "peter")
    await online(world, "mallory")
    await plugin.refresh_device_lists({JID(PETER)})
    (known,) = await plugin.sessions.get_device_information(PETER)
    (forged,) = world.items["mallory@example.org", BUNDLES].values()
    world.items[PETER, BUNDLES][str(peters.own_device)] = forged
    plugin.gate.downloads.clear()  # as after a minute
    stanza = rosa.make_message(mto=JID(PETER), mbody="text", mtype="chat")
    with pytest.raises(NoEligibleDevices):
        await plugin.encrypt_message(stanza, JID(PETER))
    (still,) = await plugin.sessions.get_device_information(PETER)
    assert still.identity_key == known.identity_key
