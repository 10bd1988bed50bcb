"""What is known of the devices of accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import LocalProtocolError, NotSent, VaultUnavailable
from eph_e2ee.model import BareJid, DeviceId, Trust
from eph_e2ee.protocol.capability import LABEL_MARKER, Answer
from eph_e2ee.vault.ratchets import PREFIX, Ratchets
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.trust import LEVELS
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from typing import Any

    from eph_e2ee.vault.vault import Vault
    from eph_e2ee.xmpp.devices import Device
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
    await account.audience(ROSA)
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


async def plugged(world: World, name: str) -> Any:
    """Another device."""
    client = world.client(name)
    plugin = client.plug(OurPlugin)
    await client.bind()
    return plugin


async def shown_there(plugin: Any) -> str:
    """The fingerprint that a device shows of itself, by python-omemo's own means."""
    own, _ = await plugin.sessions.get_own_device_information()
    return " ".join(plugin.sessions.format_identity_key(own.identity_key))


async def only(account: Account, jid: BareJid) -> Device:
    (device,) = await account.devices.known(jid)
    return device


async def test_what_is_known_of_a_peers_device(account: Account, world: World) -> None:
    plugin = await plugged(world, "peter")
    device = await only(account, PETER)
    assert (device.jid, device.device) == (PETER, plugin.own_device)
    assert device.fingerprint == await shown_there(plugin)
    assert device.trust is Trust.UNDECIDED
    assert device.label == LABEL_MARKER
    assert device.capability.reads_sce is Answer.YES
    assert (device.active, device.own, device.here) == (True, False, False)
    assert await account.devices.known(BareJid("anna@example.org")) == []


async def test_our_own_devices_and_which_of_them_is_this_one(
    account: Account, world: World
) -> None:
    await account.audience(ROSA)
    other = await plugged(world, "rosa")
    devices = await account.devices.known(ROSA)
    assert [device.device for device in devices] == sorted([account.device, other.own_device])
    assert all(device.own for device in devices)
    assert {device.device: device.trust for device in devices if device.here} == {
        account.device: Trust.TRUSTED
    }
    await account.devices.trust(ROSA, other.own_device, "trusted")
    assert {device.trust for device in await account.devices.known(ROSA)} == {Trust.TRUSTED}


async def test_a_device_that_no_list_has_any_more_is_shown_as_such(
    account: Account, world: World
) -> None:
    plugin = await plugged(world, "peter")
    await account.devices.known(PETER)
    for namespace in (MODERN, OLD):
        await account.omemo.sessions.update_device_list(namespace, PETER, {})
    device = await only(account, PETER)
    assert (device.device, device.active) == (plugin.own_device, False)
    await account.devices.trust(PETER, device.device, "distrusted")
    assert (await only(account, PETER)).trust is Trust.DISTRUSTED


@pytest.mark.parametrize("level", ["trusted", "distrusted", "undecided"])
async def test_a_decision_is_in_the_vault_when_it_returns(
    level: str, account: Account, world: World, vault: Vault
) -> None:
    plugin = await plugged(world, "peter")
    device = await only(account, PETER)
    for wanted in (level, Trust(level)):
        await account.devices.trust(PETER, device.device, wanted)
        assert (await only(account, PETER)).trust is Trust(level)
    key = await trust_key(plugin)
    stored = await vault.transact(lambda transaction: transaction.value(PREFIX + key))
    assert stored == f'"{LEVELS[Trust(level)].name}"'


async def trust_key(plugin: Any) -> str:
    """Where the other side keeps trust in this device's key."""
    (key,) = [key for key in plugin.kept.values if key.startswith("/trust/peter@example.org/")]
    assert isinstance(key, str)
    return key


async def test_devices_with_one_key_share_a_decision(account: Account, world: World) -> None:
    plugin = await plugged(world, "peter")
    await only(account, PETER)
    twin = DeviceId(plugin.own_device % 1000 + 1)
    sessions = account.omemo.sessions
    key = (await only_information(account)).identity_key

    async def known() -> None:
        storage = account.omemo.storage
        await storage.store_bytes(f"/devices/{PETER}/{twin}/identity_key", key)

    await account.omemo.gate.run(known)
    await sessions.update_device_list(MODERN, PETER, {plugin.own_device: None, twin: None})
    await account.devices.trust(PETER, twin, "trusted")
    assert [each.trust for each in await account.devices.known(PETER)] == [Trust.TRUSTED] * 2


async def only_information(account: Account) -> Any:
    (device,) = await account.omemo.sessions.get_device_information(PETER)
    return device


async def test_a_key_that_is_none_is_not_shown(account: Account, world: World) -> None:
    """F42: whatever a peer publishes, the others' devices can be seen."""
    plugin = await plugged(world, "peter")
    await only(account, PETER)

    async def known() -> None:
        storage = account.omemo.storage
        await storage.store_bytes(f"/devices/{PETER}/7/identity_key", b"\xff" * 32)

    await account.omemo.gate.run(known)
    await account.omemo.sessions.update_device_list(
        MODERN, PETER, {plugin.own_device: None, 7: None}
    )
    assert (await only(account, PETER)).device == plugin.own_device
    assert await account.devices.undecided(PETER) == frozenset()


@pytest.mark.parametrize("level", ["", "blindly trusted", Trust.BLINDLY_TRUSTED, "TRUSTED"])
async def test_what_nobody_can_say_of_a_device(
    level: str | Trust, account: Account, world: World
) -> None:
    plugin = await plugged(world, "peter")
    await only(account, PETER)
    with pytest.raises(LocalProtocolError):
        await account.devices.trust(PETER, plugin.own_device, level)
    assert (await only(account, PETER)).trust is Trust.UNDECIDED


async def test_who_is_not_known_and_who_is_here_cannot_be_decided_on(
    account: Account, world: World
) -> None:
    await plugged(world, "peter")
    await account.audience(PETER)
    for jid, device in ((PETER, DeviceId(1)), (ROSA, account.device)):
        with pytest.raises(LocalProtocolError):
            await account.devices.trust(jid, device, "trusted")


async def test_a_decision_that_the_disk_refuses_is_none(
    account: Account, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = await plugged(world, "peter")
    await only(account, PETER)
    vault: Any = account.omemo.storage

    def refuse(_: Any = None) -> Any:
        raise VaultUnavailable("sentinel")

    with monkeypatch.context() as patch:
        patch.setattr(vault, "commit_with", refuse)
        with pytest.raises(VaultUnavailable):
            await account.devices.trust(PETER, plugin.own_device, "trusted")
    assert (await only(account, PETER)).trust is Trust.UNDECIDED


async def test_trust_needs_omemo(account: Account, world: World) -> None:
    world.failing = {"urn:xmpp:omemo:2:bundles"}
    for asked in (
        account.devices.trust(PETER, DeviceId(1), "trusted"),
        account.devices.undecided(PETER),
    ):
        with pytest.raises(NotSent):
            await asked
    with pytest.raises(NotSent):
        await account.devices.known(PETER)


async def test_blind_trust_counts_where_there_is_any(
    world: World, vault: Vault, account: Account
) -> None:
    """A vault that was used with blind trust, and is not any more."""
    plugin = await plugged(world, "peter")
    device = await only(account, PETER)
    key = (await only_information(account)).identity_key
    await account.omemo.sessions.set_trust(PETER, key, "BLINDLY_TRUSTED")
    assert (await only(account, PETER)).trust is Trust.BLINDLY_TRUSTED
    await account.detach()
    by_hand = Account.attached(
        world.client("rosa"), Ratchets(vault), blind_trust=False, now=lambda: 1.0
    )
    assert (await only(by_hand, PETER)).trust is Trust.UNDECIDED
    assert await by_hand.devices.undecided(PETER) == {plugin.own_device}
    assert device.fingerprint == (await only(by_hand, PETER)).fingerprint
