"""python-omemo's backends as they are used here: what they begin sessions with, and rotate."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from omemo.session_manager import BundleUploadFailed
from omemo.types import AsyncFramework
from x3dh.pre_key_pair import PreKeyPair

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.xmpp import backends
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.support.client import SECONDS
from tests.xmpp.test_gathered import Adopter, Counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from omemo.storage import Maybe
    from omemo.types import JSONType

    from eph_e2ee.vault.ratchets import Ratchets
    from tests.xmpp.people import Person, Server

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.mark.parametrize("namespace", [MODERN, OLD])
async def test_a_session_is_begun_without_our_own_pre_keys(
    namespace: str, person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python-omemo derives the public keys of all of them for each, twice."""
    rosa, peter = await person("rosa"), await person("peter")
    backend = rosa.sessions.backends[namespace]
    _, plain = await backend.encrypt_empty()
    bundle = server.bundles[namespace, peter.jid, peter.device]
    before = await rosa.ratchets.load(f"/{namespace}/x3dh")
    derived = list[Any]()
    public: Any = vars(PreKeyPair)["pub"]

    def deriving(pair: PreKeyPair) -> Any:
        derived.append(pair)
        return public.fget(pair)

    monkeypatch.setattr(PreKeyPair, "pub", property(deriving))
    session, key = await backend.build_session_active(peter.jid, peter.device, bundle, plain)
    assert derived == []
    other = peter.sessions.backends[namespace]
    built, _ = await other.build_session_passive(rosa.jid, rosa.device, session.key_exchange, key)
    assert built.initiation is not session.initiation
    assert (await rosa.ratchets.load(f"/{namespace}/x3dh")).from_just() == before.from_just()
    assert not rosa.ratchets.pending


async def test_a_used_bundle_is_not_used_again(person: NewPerson, server: Server) -> None:
    """Each session takes a pre key of it, which is gone."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    assert rosa.gate.downloads.get(("bundle", MODERN, peter.jid, peter.device)) is not None
    await rosa.encrypt(peter, b"text")
    assert rosa.gate.downloads.get(("bundle", MODERN, peter.jid, peter.device)) is None
    assert server.downloads.count((MODERN, peter.jid, peter.device)) == 1


def refusing_once(ratchets: Ratchets, after: int) -> Callable[[Any], Awaitable[Any]]:
    """A disk that is full for one commit, after so many others."""
    commit, commits = ratchets.commit_with, itertools.count()

    def full(_: Any) -> None:
        raise VaultUnavailable("the disk is full")

    def commit_with(work: Any = None) -> Awaitable[Any]:
        return commit(full if next(commits) == after else work)

    return commit_with


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_the_rotation_of_keys_outlives_a_full_disk(
    after: int, person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its age is read then, the key rotated, or the bundle read: it is done again."""
    rosa = await person("rosa")
    before = dict(server.bundles)
    monkeypatch.setattr(backends, "RETRY", 0)
    monkeypatch.setattr(rosa.ratchets, "commit_with", refusing_once(rosa.ratchets, after))
    rotation: Any = rosa.sessions._SessionManager__manage_signed_pre_key_rotation  # type: ignore[attr-defined]
    task = asyncio.create_task(rotation(-1, AsyncFramework.ASYNCIO))
    async with asyncio.timeout(SECONDS):
        while any(server.bundles[name] == old for name, old in before.items()):
            await asyncio.sleep(0)
            assert not task.done()
    task.cancel()


class Refusing(Counted):
    """An application's storage that can neither be read nor written now and then.

    Attributes:
        refusals: how often it still refuses.
    """

    refusals = 0

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("no space left")

    async def _load(self, key: str) -> Maybe[JSONType]:
        self._refuse()
        return await super()._load(key)

    async def _store(self, key: str, value: JSONType) -> None:
        self._refuse()
        await super()._store(key, value)


@pytest.fixture
async def adopter(server: Server, tmp_path: Path) -> AsyncIterator[Adopter]:
    made = Adopter(server, "rosa@example.org", tmp_path)
    await made.start_with(Refusing())
    yield made
    await made.stop()


async def test_the_rotation_of_keys_outlives_an_applications_storage(
    adopter: Adopter, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has exceptions of its own."""
    assert isinstance(adopter.kept, Refusing)
    before = dict(server.bundles)
    monkeypatch.setattr(backends, "RETRY", 0)
    rotation: Any = adopter.sessions._SessionManager__manage_signed_pre_key_rotation  # type: ignore[attr-defined]
    adopter.kept.refusals = 3
    task = asyncio.create_task(rotation(-1, AsyncFramework.ASYNCIO))
    async with asyncio.timeout(SECONDS):
        while any(server.bundles[name] == old for name, old in before.items()):
            await asyncio.sleep(0)
            assert not task.done()
    task.cancel()
    assert not adopter.kept.refusals


async def test_what_is_not_the_storages_fault_is_not_tried_again(adopter: Adopter) -> None:
    async def step() -> None:
        raise ZeroDivisionError

    backend: Any = adopter.sessions.backends[MODERN]
    with pytest.raises(ZeroDivisionError):
        await backend._in_turn(step)


async def test_a_bundle_waits_for_the_commit_of_what_is_in_it(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python-omemo's task reads it while a first message is being opened, which fails."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    message, release = await rosa.encrypt(peter, b"text"), threading.Event()
    backend = peter.sessions.backends[MODERN]
    before = server.bundles[MODERN, peter.jid, peter.device]
    monkeypatch.setattr(backends, "RETRY", 0)

    def refused(_: object) -> Callable[[Any], None]:
        def work(_: Any) -> None:
            release.wait()
            raise VaultUnavailable("the disk is full")

        return work

    async def upload() -> None:
        await peter.sessions._upload_bundle(await backend.get_bundle(peter.jid, peter.device))

    pending = await peter.gate.begin(lambda: peter.decrypt(message), refused)
    task = asyncio.create_task(upload())
    for _ in range(100):
        await asyncio.sleep(0)
    release.set()
    with pytest.raises(VaultUnavailable):
        await pending.finish()
    await task
    assert server.bundles[MODERN, peter.jid, peter.device] == before


async def test_a_bundle_that_the_vault_does_not_give_is_told_as_python_omemo_expects(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task repeats that, and ends with any other error."""
    rosa = await person("rosa")
    monkeypatch.setattr(rosa.ratchets, "commit_with", refusing_once(rosa.ratchets, 0))
    with pytest.raises(BundleUploadFailed):
        await rosa.sessions._upload_bundle(server.bundles[MODERN, rosa.jid, rosa.device])


async def test_a_bundle_that_an_applications_storage_does_not_give_is_told_so_as_well(
    adopter: Adopter, server: Server
) -> None:
    assert isinstance(adopter.kept, Refusing)
    adopter.kept.refusals = 1
    bundle = server.bundles[MODERN, adopter.jid, adopter.device]
    with pytest.raises(BundleUploadFailed):
        await adopter.sessions._upload_bundle(bundle)
    await adopter.sessions._upload_bundle(bundle)


async def test_a_bundle_that_has_grown_old_is_not_uploaded(
    person: NewPerson, server: Server
) -> None:
    """A first message was opened after it was read."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    old = server.bundles[MODERN, peter.jid, peter.device]
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    new = server.bundles[MODERN, peter.jid, peter.device]
    assert new != old
    await peter.sessions._upload_bundle(old)
    assert server.bundles[MODERN, peter.jid, peter.device] == new
