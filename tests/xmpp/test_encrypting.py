"""One message for many: each device in what it can read, and nobody without keys stops it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from omemo.backend import KeyExchangeFailed
from omemo.session_manager import (
    BundleDownloadFailed,
    BundleNotFound,
    NoEligibleDevices,
    StillUndecided,
)

from eph_e2ee.errors import Cause
from eph_e2ee.events import LeftOut
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.xmpp import fetching
from eph_e2ee.xmpp.downloads import Downloads
from eph_e2ee.xmpp.encrypting import Encrypted, encrypt
from eph_e2ee.xmpp.gate import Absent
from eph_e2ee.xmpp.parcel import MODERN, OLD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import omemo
    from omemo.types import DeviceInformation

    from tests.xmpp.people import Person, Server

    NewPerson = Callable[[str], Awaitable[Person]]

BOTH = {MODERN: b"an envelope", OLD: b"a body"}
NOBODY = BareJid("nobody@example.org")


async def sealed(
    sender: Person,
    *recipients: Person | BareJid,
    plaintexts: dict[str, bytes] = BOTH,
    strict: bool = False,
    refreshed: bool = True,
) -> Encrypted:
    """What encrypting for accounts gives."""
    jids = frozenset(each if isinstance(each, str) else BareJid(each.jid) for each in recipients)
    for jid in jids if refreshed else ():
        await sender.sessions.refresh_device_lists(jid)

    async def operation() -> Encrypted:
        return await encrypt(sender.sessions, jids, plaintexts, strict=strict)

    return await sender.gate.run(operation)


async def sealed_for(sender: Person, *recipients: Person) -> Encrypted:
    """The same, by what is known of their devices."""
    jids = frozenset(BareJid(each.jid) for each in recipients)

    async def operation() -> Encrypted:
        return await encrypt(sender.sessions, jids, {MODERN: b"an envelope"})

    for each in recipients:
        await _listed(sender, each)
    return await sender.gate.run(operation)


async def _listed(sender: Person, other: Person) -> None:
    """Have a device known by its list, and its key by nobody."""
    storage, place = sender.sessions.storage, f"/devices/{other.jid}/{other.device}"

    async def store() -> None:
        await storage.store(f"/devices/{other.jid}/list", [other.device])
        await storage.store(f"{place}/namespaces", [MODERN])
        await storage.store(f"{place}/active", {MODERN: True})
        await storage.store(f"{place}/label", None)

    await sender.gate.run(store)


def addressed(made: Encrypted) -> dict[str, set[int]]:
    """The devices that have a key, by namespace."""
    return {
        message.namespace: {key.device_id for key, _ in message.keys} for message in made.messages
    }


def left(person: Person, cause: Cause) -> LeftOut:
    """A device that was left out."""
    return LeftOut(BareJid(person.jid), DeviceId(person.device), cause)


def only(made: Encrypted) -> omemo.Message:
    (message,) = made.messages
    return message


def legacy(*people: Person) -> Callable[[DeviceInformation], frozenset[str]]:
    """A router to whom some devices read no envelopes."""
    devices = {person.device for person in people}
    return lambda device: frozenset({OLD if device.device_id in devices else MODERN})


async def test_f41_an_account_without_devices_keeps_nobody_from_reading(
    person: NewPerson,
) -> None:
    """F41: it is named; with `strict`, as python-omemo has it, nobody gets anything."""
    rosa, peter, anna = await person("rosa"), await person("peter"), await person("anna")
    made = await sealed(rosa, peter, anna, NOBODY)
    assert made.left_out == {LeftOut(NOBODY, None, Cause.NO_DEVICE)}
    assert addressed(made) == {MODERN: {peter.device, anna.device}}
    assert await peter.decrypt(only(made)) == b"an envelope"
    assert await anna.decrypt(only(made)) == b"an envelope"
    for strict, recipients in ((True, (peter, NOBODY)), (False, (NOBODY,))):
        with pytest.raises(NoEligibleDevices) as caught:
            await sealed(rosa, *recipients, strict=strict)
        assert caught.value.bare_jids == {NOBODY}
        # Applications look for these, too.
        assert type(caught.value).__name__ == NoEligibleDevices.__name__
        assert NOBODY in str(caught.value)


async def test_what_raises_turns_no_ratchet(person: NewPerson) -> None:
    """F43: the next message goes out under a key that nobody has seen."""
    rosa, peter = await person("rosa"), await person("peter")
    await peter.decrypt(only(await sealed(rosa, peter)))
    with pytest.raises(NoEligibleDevices):
        await sealed(rosa, peter, NOBODY, strict=True)
    made = await sealed(rosa, peter)
    (key, _) = next(iter(only(made).keys))
    assert _number(key) == 1
    assert await peter.decrypt(only(made)) == b"an envelope"


def _number(key: Any) -> int:
    """Which message of its chain that is."""
    number: int = key._EncryptedKeyMaterialImpl__encrypted_message.header.sending_chain_length
    return number


@pytest.mark.parametrize("failure", [BundleNotFound, BundleDownloadFailed])
async def test_a_device_whose_keys_cannot_be_had_is_left_out(
    person: NewPerson, server: Server, failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    rosa, peter, other = await person("rosa"), await person("peter"), await person("peter")
    found = server.bundle

    async def bundle(namespace: str, jid: str, device: int) -> omemo.Bundle:
        if device == other.device:
            raise failure("sentinel")
        return await found(namespace, jid, device)

    monkeypatch.setattr(server, "bundle", bundle)
    made = await sealed(rosa, peter)
    assert made.left_out == {left(other, Cause.NO_KEYS)}
    assert addressed(made) == {MODERN: {peter.device}}


async def test_a_key_exchange_that_fails_costs_one_device(
    person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of two whose identity key is known; the failure is told as python-omemo does."""
    rosa, peter, other = await person("rosa"), await person("peter"), await person("peter")
    backend = rosa.sessions.backends[MODERN]
    build = backend.build_session_active

    async def failing(jid: str, device: int, *args: Any) -> Any:
        if device == other.device:
            raise KeyExchangeFailed("sentinel")
        return await build(jid, device, *args)

    monkeypatch.setattr(backend, "build_session_active", failing)
    made = await sealed(rosa, peter)
    assert addressed(made) == {MODERN: {peter.device}}
    assert made.left_out == {left(other, Cause.NO_KEYS)}
    (error,) = made.errors
    assert (error.bare_jid, error.device_id) == (peter.jid, other.device)


async def test_bundles_are_asked_for_together(person: NewPerson, server: Server) -> None:
    """Of all devices without a session in one round, each once; a second message needs none."""
    rosa = await person("rosa")
    others = [await person(name) for name in ("peter", "peter", "anna", "otto", "rosa")]
    rounds: list[int] = []
    gathered = rosa.sessions.have_bundles

    def counting(wanted: Any) -> None:
        names = list(wanted)
        rounds.append(len(names))
        gathered(names)

    rosa.sessions.have_bundles = counting  # type: ignore[method-assign]
    for other in others:
        await rosa.sessions.refresh_device_lists(other.jid)
    rosa.gate.downloads = Downloads()  # that was long ago
    server.downloads.clear()
    await sealed(rosa, *others[:-1])
    bundles = [each for each in server.downloads if len(each) == 3]
    assert len(bundles) == len(set(bundles)) == len(others)
    assert max(rounds) == len(others)
    server.downloads.clear()
    await sealed(rosa, *others[:-1])
    assert [each for each in server.downloads if len(each) == 3] == []


async def test_f41_dead_devices_of_some_keep_nobody_from_reading(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F41: in three rounds of downloads, however many they are; beyond a limit the most lose."""
    rosa, peter = await person("rosa"), await person("peter")
    crowds = [BareJid(f"crowd-{number}@example.org") for number in range(5)]
    for jid in crowds:
        for namespace in (MODERN, OLD):
            server.lists[namespace, jid] = dict.fromkeys(range(1, 61))
    server.lists[OLD, peter.jid] = {peter.device: None, 4711: None}
    rounds: list[int] = []
    gathered = rosa.sessions.have_bundles

    def counting(wanted: Any) -> None:
        names = list(wanted)
        try:
            gathered(names)
        except Absent:
            rounds.append(len(names))
            raise

    rosa.sessions.have_bundles = counting  # type: ignore[method-assign]
    await sealed(rosa, peter, *crowds)
    rounds.clear()
    made = await sealed(rosa, peter, *crowds, refreshed=False)
    assert addressed(made) == {MODERN: {peter.device}}
    assert {each.jid for each in made.left_out} == {peter.jid, *crowds}
    assert len(rounds) == 2
    monkeypatch.setattr(fetching, "MAXIMUM_KEYS", 10)
    made = await sealed(rosa, peter, *crowds, refreshed=False)
    assert addressed(made) == {MODERN: {peter.device}}


async def test_f41_a_mute_server_of_one_is_waited_for_no_longer(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F41: its bundles come when they come; the others have theirs."""
    monkeypatch.setattr(fetching, "PATIENCE", 0.1)
    rosa, peter, mute = await person("rosa"), await person("peter"), await person("mute")
    found, never = server.bundle, asyncio.Event()

    async def bundle(namespace: str, jid: str, device: int) -> omemo.Bundle:
        if jid == mute.jid:
            await never.wait()
        return await found(namespace, jid, device)

    monkeypatch.setattr(server, "bundle", bundle)
    made = await sealed_for(rosa, peter, mute)
    assert made.left_out == {left(mute, Cause.NO_KEYS)}
    assert await peter.decrypt(only(made)) == b"an envelope"


async def test_each_gets_what_it_reads(person: NewPerson) -> None:
    """Legacy devices are named, in whatever namespace they are addressed, or not at all."""
    rosa, peter, old = await person("rosa"), await person("peter"), await person("peter")
    own = await person("rosa")
    await rosa.sessions.refresh_device_lists(rosa.jid)
    rosa.route = legacy(old, own)
    made = await sealed(rosa, peter)
    assert addressed(made) == {MODERN: {peter.device}, OLD: {old.device, own.device}}
    assert made.legacy == {(peter.jid, old.device)}
    assert made.addressed == {(peter.jid, old.device), (rosa.jid, own.device)}
    assert made.doubtful
    assert made.left_out == frozenset()
    made = await sealed(rosa, peter, plaintexts={MODERN: b"an envelope"})
    assert addressed(made) == {MODERN: {peter.device}}
    assert made.legacy == {(peter.jid, old.device)}
    assert made.left_out == {
        left(old, Cause.LEGACY),
        left(own, Cause.LEGACY),
    }
    assert not made.doubtful


async def test_a_device_that_is_in_the_legacy_list_alone_is_not_led_astray(
    person: NewPerson,
) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.sessions.update_device_list(OLD, peter.jid, {peter.device: None})
    rosa.route = legacy(peter)
    await rosa.gate.run(lambda: rosa.sessions.get_device_information(peter.jid))

    async def operation() -> Encrypted:
        return await encrypt(rosa.sessions, frozenset({BareJid(peter.jid)}), BOTH)

    made = await rosa.gate.run(operation)
    assert addressed(made) == {OLD: {peter.device}}
    assert not made.doubtful


async def test_whom_nobody_trusts_is_left_out(person: NewPerson) -> None:
    """One that is distrusted, and one on which nobody decides since there is a decision."""
    rosa, peter, other = await person("rosa"), await person("peter"), await person("peter")
    await sealed(rosa, peter)
    keys = {
        device.device_id: device.identity_key
        for device in await rosa.sessions.get_device_information(peter.jid)
    }
    await rosa.sessions.set_trust(peter.jid, keys[other.device], "DISTRUSTED")
    made = await sealed(rosa, peter)
    assert made.left_out == {left(other, Cause.DISTRUSTED)}
    new = await person("peter")
    made = await sealed(rosa, peter)
    assert addressed(made) == {MODERN: {peter.device}}
    assert made.left_out == {
        left(other, Cause.DISTRUSTED),
        left(new, Cause.UNDECIDED),
    }
    with pytest.raises(StillUndecided):
        await sealed(rosa, peter, strict=True)
    await rosa.sessions.set_trust(peter.jid, keys[peter.device], "DISTRUSTED")
    with pytest.raises(StillUndecided):
        await sealed(rosa, peter)


async def test_to_ourselves_there_may_be_nothing(person: NewPerson) -> None:
    """A note to self without another device of ours is no error, and no message."""
    rosa = await person("rosa")
    made = await sealed(rosa, BareJid(rosa.jid))
    assert made.messages == {}
    assert made.left_out == frozenset()


async def test_it_prints_no_key(person: NewPerson) -> None:
    """F10."""
    rosa, peter = await person("rosa"), await person("peter")
    assert "messages" not in repr(await sealed(rosa, peter))
