"""Features that stay true: in disco, and in the hash that others remember."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.xmpp.features import Features
from tests.xmpp.test_startup import alive, features, settled

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient, World

NAMES = ("urn:example:one", "urn:example:two")


@pytest.fixture
async def client(world: World) -> TestClient:
    made = world.client("rosa")
    made.register_plugin("xep_0115")
    await settled()
    return made


async def caps(client: TestClient) -> str:
    plugin: Any = client.plugin["xep_0115"]
    text: str = await plugin.get_verstring(client.boundjid)
    return text


async def test_features_come_and_go(client: TestClient) -> None:
    advertised = Features(client, *NAMES)
    advertised.advertise(client.boundjid)
    await settled()
    assert await features(client) >= set(NAMES)
    advertised.withdraw()
    assert not await features(client) & set(NAMES)
    advertised.withdraw()


async def test_the_hash_counts_them(client: TestClient) -> None:
    plugin: Any = client.plugin["xep_0115"]
    await plugin.update_caps(client.boundjid, broadcast=False)
    before = await caps(client)
    Features(client, *NAMES).advertise(client.boundjid)
    await settled()
    assert await caps(client) != before


async def test_a_presence_that_is_out_is_sent_again(client: TestClient) -> None:
    """It carried a hash that was not true any more."""
    client.send_presence()
    before = len(client.presences)
    Features(client, *NAMES).advertise(client.boundjid)
    await settled()
    assert len(client.presences) > before


async def test_no_presence_is_sent_that_the_application_has_not(client: TestClient) -> None:
    Features(client, *NAMES).advertise(client.boundjid)
    await settled()
    assert client.presences == []


async def test_nothing_is_told_after_the_end(client: TestClient) -> None:
    before = alive()
    advertised = Features(client, *NAMES)
    advertised.advertise(client.boundjid)
    advertised.withdraw()
    await settled()
    await asyncio.sleep(0)
    assert alive() <= before
    assert client.presences == []
