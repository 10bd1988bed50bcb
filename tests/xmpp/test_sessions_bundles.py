"""Bundles are downloaded once for a first message, and are checked each time that they are used."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from omemo.session_manager import BundleDownloadFailed, BundleNotFound, NoEligibleDevices

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.xmpp import fetching
from eph_e2ee.xmpp.downloads import FRESH, Downloads
from eph_e2ee.xmpp.gate import Absent
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.together import AT_ONCE
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import omemo
    from omemo.types import DeviceList

    from eph_e2ee.xmpp.gate import Pending
    from tests.xmpp.people import Person, Server

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts without a session, one of which has the other's device list."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    return rosa, peter


def downloaded(person: Person) -> int:
    """How often a bundle of somebody's was downloaded in omemo:2."""
    return person.server.downloads.count((MODERN, person.jid, person.device))


async def test_a_first_message_needs_one_download(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert downloaded(peter) == 1


async def test_a_session_begins_where_nobody_looked_for_the_keys(
    pair: tuple[Person, Person],
) -> None:
    """Its bundle comes along; else what is sent first would wait for it, and be overtaken."""
    rosa, peter = pair
    rosa.gate.downloads.clear()
    wanted: list[set[str]] = []

    async def keys() -> None:
        try:
            rosa.sessions.have_keys({(peter.jid, peter.device): [OLD, MODERN]})
        except Absent as absent:
            wanted.append({str(namespace) for _, namespace, *_ in absent.wanted})
            raise

    await rosa.gate.run(keys)
    assert wanted[0] == {OLD, MODERN}
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert downloaded(peter) == 2


async def test_a_bundle_grows_old(person: NewPerson) -> None:
    """Others use up the pre keys in it."""
    rosa, peter = await person("rosa"), await person("peter")
    now = 1000.0
    rosa.gate.downloads = Downloads(lambda: now)
    await rosa.knows(peter)
    now += FRESH
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert downloaded(peter) == 2


async def test_a_kept_bundle_of_another_identity_is_not_used(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    name = f"/devices/{peter.jid}/{peter.device}/identity_key"
    await rosa.ratchets.store_bytes(name, bytes(32))
    await rosa.ratchets.commit()
    with pytest.raises(NoEligibleDevices):
        await rosa.encrypt(peter, b"text")
    with pytest.raises(BundleDownloadFailed):
        await rosa.gate.run(lambda: rosa.sessions._download_bundle(MODERN, peter.jid, peter.device))
    assert downloaded(peter) == 1


async def test_a_device_that_leaves_its_list_is_asked_again(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    lists: list[DeviceList] = [{}, {peter.device: None}]
    for listed in lists:
        await rosa.sessions.update_device_list(MODERN, peter.jid, listed)
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert downloaded(peter) == 2


async def test_a_failed_download_is_tried_again(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    bundle = peter.server.bundles.pop((MODERN, peter.jid, peter.device))
    rosa.gate.downloads = Downloads()
    with pytest.raises(NoEligibleDevices):
        await rosa.encrypt(peter, b"text")
    peter.server.bundles[MODERN, peter.jid, peter.device] = bundle
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert downloaded(peter) == 3


async def test_a_repair_asks_for_what_is_published_now(pair: tuple[Person, Person]) -> None:
    """The device may have been restored from a backup a moment ago."""
    rosa, peter = pair
    bundle = await rosa.gate.run(lambda: rosa.sessions.bundle(MODERN, peter.jid, peter.device))
    assert bundle == peter.server.bundles[MODERN, peter.jid, peter.device]
    assert downloaded(peter) == 2


async def test_our_own_bundles_are_not_kept(person: NewPerson, server: Server) -> None:
    """We change them ourselves, and python-omemo compares them with what it has."""
    rosa, other = await person("rosa"), await person("rosa")
    for device in (rosa.device, other.device):
        download = functools.partial(rosa.sessions._download_bundle, MODERN, rosa.jid, device)
        for _ in range(2):
            await rosa.gate.run(download)
        assert server.downloads.count((MODERN, rosa.jid, device)) >= 2
        assert rosa.gate.downloads.get(("bundle", MODERN, rosa.jid, device)) is None


async def test_an_operation_that_begins_again_has_its_bundle_still(
    pair: tuple[Person, Person], person: NewPerson
) -> None:
    """It was used in the first attempt, and that was discarded."""
    (rosa, peter), anna = pair, await person("anna")

    async def operation() -> Any:
        message = await rosa.encrypt(peter, b"text")
        await rosa.sessions.refresh_device_lists(anna.jid)
        return message

    message: omemo.Message = await rosa.gate.run(operation)
    assert await peter.decrypt(message) == b"text"
    assert downloaded(peter) == 1


@pytest.mark.parametrize("namespace", [MODERN, OLD])
async def test_keys_of_one_list_are_asked_for_side_by_side(
    namespace: str, person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is answered once all have been asked."""
    rosa, anna = await person("rosa"), "anna@example.org"
    waiting = asyncio.Barrier(AT_ONCE)

    async def bundle(*_: object) -> omemo.Bundle:
        await waiting.wait()
        raise BundleNotFound("there is none")

    monkeypatch.setattr(server, "bundle", bundle)
    async with asyncio.timeout(SECONDS):
        listed = dict.fromkeys(range(1, AT_ONCE + 1))
        await rosa.sessions.update_device_list(namespace, anna, listed)
        assert await rosa.sessions.get_device_information(anna) == frozenset()


@pytest.mark.parametrize("namespace", [MODERN, OLD])
async def test_a_mute_server_is_not_waited_for_with_each_device(
    namespace: str, person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is one for the whole operation, whatever else there is to be asked."""
    rosa, anna = await person("rosa"), "anna@example.org"
    server.opened.clear()
    server.downloads.clear()
    monkeypatch.setattr(fetching, "PATIENCE", 0)

    async def both() -> None:
        for listed in (namespace, MODERN if namespace == OLD else OLD):
            await rosa.sessions.update_device_list(listed, anna, dict.fromkeys(range(1, 65)))
        await rosa.sessions.get_device_information(anna)

    await rosa.gate.run(both)
    assert 0 < len(server.downloads) <= AT_ONCE


@pytest.fixture
async def opened(
    pair: tuple[Person, Person], person: NewPerson
) -> tuple[Person, list[Pending[bytes | None, Any]]]:
    """An account that two new ones have written to at once, and what is to be published of it."""
    (rosa, peter), anna = pair, await person("anna")
    await anna.knows(peter)
    messages = [await each.encrypt(peter, b"text") for each in (rosa, anna)]
    begun = [await peter.gate.begin(functools.partial(peter.decrypt, each)) for each in messages]
    for pending in begun:
        await pending.finish()
    return peter, begun


async def is_published(person: Person) -> bool:
    """Whether what the server has of somebody's keys is what is here."""
    backend = person.sessions.backends[MODERN]
    kept = await person.gate.run(lambda: backend.get_bundle(person.jid, person.device))
    return kept == person.server.bundles[MODERN, person.jid, person.device]


async def test_an_upload_does_not_overtake_an_older_one(
    opened: tuple[Person, list[Pending[bytes | None, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server wants the first one repeated: until then it has not got it."""
    peter, (first, second) = opened
    asked, repeated = asyncio.Event(), asyncio.Event()
    publish = peter.server.publish

    async def publishing(bundle: omemo.Bundle) -> None:
        if not asked.is_set():
            asked.set()
            await repeated.wait()
        await publish(bundle)

    monkeypatch.setattr(peter.server, "publish", publishing)
    older = asyncio.create_task(first.publish())
    await asked.wait()
    newer = asyncio.create_task(second.publish())
    for _ in range(20):
        await asyncio.sleep(0)
    repeated.set()
    await asyncio.gather(older, newer)
    assert await is_published(peter)


async def test_an_upload_that_comes_late_is_left(
    opened: tuple[Person, list[Pending[bytes | None, Any]]],
) -> None:
    """Whose messages took longer to leave than those of the operation after it."""
    peter, (first, second) = opened
    await second.publish()
    await first.publish()
    assert await is_published(peter)


async def test_nothing_is_published_of_a_commit_that_fails(pair: tuple[Person, Person]) -> None:
    """An operation without changes of its own has seen the keys of the one before it."""
    rosa, peter = pair
    await peter.sessions.ensure_data_consistency()  # what it needs is in memory from now on
    message = await rosa.encrypt(peter, b"text")
    release = threading.Event()

    def refused(_: object) -> Callable[[Any], None]:
        def work(_: Any) -> None:
            release.wait()
            raise VaultUnavailable("the disk is full")

        return work

    pending = await peter.gate.begin(lambda: peter.decrypt(message), refused)
    checking = asyncio.create_task(peter.sessions.ensure_data_consistency())
    for _ in range(200):
        await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(pending.finish(), checking, return_exceptions=True)
    assert [type(each) for each in outcomes] == [VaultUnavailable] * 2
    assert await is_published(peter)
    assert await peter.decrypt(message) == b"text"
