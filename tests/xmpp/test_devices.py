"""What is known of the devices of accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import NotSent
from eph_e2ee.model import BareJid
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.xmpp.account import Account
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault
    from tests.xmpp.clients import World

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")


@pytest.fixture
def account(world: World, vault: Vault) -> Account:
    """Rosa's."""
    client = world.client("rosa")
    return Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 1.0)


async def test_what_a_device_can_read(account: Account, world: World) -> None:
    """F40."""
    peter = world.client("peter")
    plugin = peter.plug(OurPlugin)
    await peter.bind()
    capabilities = await account.devices.capabilities(PETER)
    assert set(capabilities) == {plugin.own_device}
    assert capabilities[plugin.own_device].reads_sce.name == "YES"
    assert await account.devices.capabilities(BareJid("anna@example.org")) == {}


async def test_only_other_devices_of_ours_are_readers(account: Account, world: World) -> None:
    """Nobody tells himself what he has read."""
    await account.prepare(ROSA)
    assert account.device != 0
    assert not await account.devices.has_readers(ROSA)
    assert not await account.devices.has_readers(PETER)
    other = world.client("rosa")
    other.plug(OurPlugin)
    await other.bind()
    peter = world.client("peter")
    peter.plug(OurPlugin)
    await peter.bind()
    assert await account.devices.has_readers(PETER)
    assert await account.devices.has_readers(ROSA)


async def test_whether_there_are_readers_is_not_guessed(account: Account, world: World) -> None:
    world.failing = {"urn:xmpp:omemo:2:bundles"}
    with pytest.raises(NotSent):
        await account.devices.has_readers(ROSA)
