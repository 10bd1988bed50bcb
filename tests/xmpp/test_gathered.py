"""Applications' storages: a step is written whole or not at all, and never taken back."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import omemo
import pytest
from omemo.identity_key_pair import IdentityKeyPair
from omemo.storage import Just, Nothing, StorageException
from twomemo.twomemo import EncryptedKeyMaterialImpl

from eph_e2ee.xmpp.gate import Gate, Transactional
from eph_e2ee.xmpp.gathered import Gathered
from tests.xmpp.clients import Kept
from tests.xmpp.people import Person, Server, header, talk
from tests.xmpp.test_crossing import exchange_of_nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from omemo.storage import Maybe
    from omemo.types import JSONType


class Counted(Kept):
    """A storage that tells what it is given, and refuses it if it is to."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.refuses: set[str] = set()

    async def _store(self, key: str, value: JSONType) -> None:
        await super()._store(key, value)
        if key in self.refuses:
            raise StorageException("sentinel")
        self.written.append(key)


class Typed(Counted):
    """A storage with ways of its own, as python-omemo invites to: it keeps bytes, and no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def _store(self, key: str, value: JSONType) -> None:
        if value is None:
            self.values.pop(key, None)
        else:
            await super()._store(key, value)

    async def _delete(self, key: str) -> None:
        await super()._delete(key)
        self.blobs.pop(key, None)

    async def store_bytes(self, key: str, value: bytes) -> None:
        await asyncio.sleep(0)
        self.blobs[key] = value
        self.written.append(key)

    async def load_bytes(self, key: str) -> Maybe[bytes]:
        await asyncio.sleep(0)
        return Just(self.blobs[key]) if key in self.blobs else Nothing()

    async def load_optional(self, key: str, primitive: Any) -> Maybe[Any]:
        if key.endswith("/label"):
            return Just(self.values.get(key))
        return await super().load_optional(key, primitive)

    async def load_primitive(self, key: str, primitive: Any) -> Maybe[Any]:
        self.asked.append("primitive")
        return await super().load_primitive(key, primitive)

    async def load_list(self, key: str, primitive: Any) -> Maybe[Any]:
        self.asked.append("list")
        return await super().load_list(key, primitive)

    async def load_dict(self, key: str, primitive: Any) -> Maybe[Any]:
        self.asked.append("dict")
        return await super().load_dict(key, primitive)


@pytest.fixture
def kept() -> Counted:
    return Counted()


@pytest.fixture
def gathered(kept: Counted) -> Gathered:
    return Gathered(kept)


async def test_nothing_is_written_before_the_commit(kept: Counted, gathered: Gathered) -> None:
    assert isinstance(gathered, Transactional)
    await gathered.store("/a", [1])
    await gathered.store("/b", "b")
    assert kept.values == {}
    assert (await gathered.load_list("/a", int)).maybe([]) == [1]
    gathered.discard()
    assert (await gathered.load("/a")).is_nothing
    await gathered.store("/a", [2])
    savepoint = gathered.savepoint()
    await gathered.delete("/a")
    assert (await gathered.load("/a")).is_nothing
    gathered.restore(savepoint)
    await gathered.commit_with()
    assert kept.values == {"/a": [2]}
    await gathered.delete("/a")
    await gathered.commit_with()
    assert kept.values == {}


async def test_what_is_stored_is_nobody_elses(gathered: Gathered) -> None:
    value: list[Any] = [1]
    await gathered.store("/a", value)
    value.append(2)
    (await gathered.load_list("/a", int)).maybe([]).append(3)
    await gathered.commit_with()
    assert (await gathered.load_list("/a", int)).maybe([]) == [1]


async def test_what_has_not_changed_is_not_written_again(kept: Counted, gathered: Gathered) -> None:
    """Of twelve values that python-omemo stores for a message, two change."""
    for value in (1, 1, 2):
        await gathered.store("/a", value)
        await gathered.store("/b", 0)
        await gathered.commit_with()
    assert kept.written == ["/a", "/b", "/a"]


async def test_what_is_refused_is_written_with_the_next(kept: Counted, gathered: Gathered) -> None:
    """What follows is built on it: to take it back would be to use keys again."""
    kept.refuses = {"/a"}
    await gathered.store("/a", 1)
    await gathered.store("/b", 1)
    with pytest.raises(StorageException):
        await gathered.commit_with()
    assert (await gathered.load("/a")).maybe(0) == 1
    await gathered.store("/b", 2)
    kept.refuses.clear()
    await gathered.commit_with()
    assert kept.values == {"/a": 1, "/b": 2}


async def test_whoever_gives_up_waiting_ends_nothing(kept: Counted, gathered: Gathered) -> None:
    await gathered.store("/a", 1)
    first = asyncio.ensure_future(gathered.commit_with())
    await asyncio.sleep(0)
    first.cancel()
    await gathered.store("/a", 2)
    await gathered.commit_with()
    assert first.cancelled()
    assert kept.values == {"/a": 2}


async def test_a_storage_is_asked_in_its_own_ways() -> None:
    """Whatever is here is read as python-omemo's own storage reads it, from there as that does."""
    kept = Typed()
    gathered = Gathered(kept)
    for written in (False, True):
        await gathered.store_bytes("/key", b"\xff")
        await gathered.store("/1/label", None)
        await gathered.store("/number", 1)
        await gathered.store("/list", [1])
        await gathered.store("/dict", {"a": 1})
        if written:
            await gathered.commit_with()
        assert (await gathered.load_bytes("/key")).from_just() == b"\xff"
        assert (await gathered.load_optional("/1/label", str)).from_just() is None
        assert (await gathered.load_primitive("/number", int)).from_just() == 1
        assert (await gathered.load_list("/list", int)).from_just() == [1]
        assert (await gathered.load_dict("/dict", int)).from_just() == {"a": 1}
        assert kept.asked == (["primitive", "list", "dict"] if written else [])
    assert kept.blobs == {"/key": b"\xff"}
    assert "/key" not in kept.values
    kept.written.clear()
    await gathered.store_bytes("/key", b"\xff")
    await gathered.commit_with()
    assert kept.written == []
    await gathered.delete("/key")
    assert (await gathered.load_bytes("/key")).is_nothing
    await gathered.commit_with()
    assert kept.blobs == {}


async def test_bytes_that_wait_can_be_loaded_as_text(gathered: Gathered) -> None:
    """As from python-omemo's own storage, where they are text."""
    await gathered.store_bytes("/key", b"\xff")
    assert (await gathered.load("/key")).from_just() == "_w=="


async def test_nothing_is_written_beside_the_values(gathered: Gathered) -> None:
    with pytest.raises(TypeError):
        gathered.commit_with(lambda _: None)


class Full(Counted):
    """A storage on a full disk."""

    full = True

    async def _store(self, key: str, value: JSONType) -> None:
        if self.full:
            raise StorageException("sentinel")
        await super()._store(key, value)


async def test_who_only_reads_is_not_failed_by_what_others_wrote() -> None:
    """And has it written again, though nobody waits for that."""
    kept, written = Full(), list[str]()
    gate = Gate(kept)
    gathered = gate.storage
    assert isinstance(gathered, Gathered)

    async def read() -> int:
        return (await gathered.load_primitive("/a", int)).maybe(0)

    async def upload() -> None:
        unit = gate.unit
        assert unit is not None

        async def note() -> None:
            written.extend(kept.written)

        unit.uploads["bundle",] = note

    with pytest.raises(StorageException):
        await gate.run(lambda: gathered.store("/a", 1))
    assert [await gate.run(read) for _ in range(3)] == [1, 1, 1]
    assert len(gathered._writing) <= 1
    with pytest.raises(StorageException):
        await gate.run(upload)  # what leaves is built on it
    kept.full = False
    await gate.run(read)
    await asyncio.gather(*gathered._writing)
    assert kept.written == ["/a"]
    await gate.run(upload)
    assert written == ["/a"]


# -- with real ratchets ----------------------------------------------------------------------------


class Adopter(Person):
    """A device whose storage is an application's."""

    kept: Counted

    async def start(self) -> None:
        """Start OMEMO, with everything in a dictionary."""
        await self.start_with(Counted())

    async def start_with(self, kept: Counted) -> None:
        """Start OMEMO, with everything in a storage."""
        self.kept = kept
        await self.start_on(Gate(kept))

    async def identity(self) -> bytes:
        """Our own identity key."""
        own, _ = await self.sessions.get_own_device_information()
        key: bytes = own.identity_key
        return key

    async def stop(self) -> None:
        """End OMEMO's tasks."""
        await self.sessions.shutdown()


@pytest.fixture
async def rosa(server: Server, tmp_path: Path) -> AsyncIterator[Adopter]:
    made = Adopter(server, "rosa@example.org", tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def peter(server: Server, tmp_path: Path) -> AsyncIterator[Adopter]:
    made = Adopter(server, "peter@example.org", tmp_path)
    await made.start()
    yield made
    await made.stop()


def damaged(message: omemo.Message) -> omemo.Message:
    """The same message, with a bit turned on the way."""
    ((key, exchange),) = message.keys
    assert isinstance(key, EncryptedKeyMaterialImpl)
    wrong = key.encrypted_message._replace(ciphertext=bytes(len(key.encrypted_message.ciphertext)))
    spoiled = EncryptedKeyMaterialImpl(key.bare_jid, key.device_id, wrong)
    return message._replace(keys=frozenset({(spoiled, exchange)}))


async def test_no_ratchet_goes_back(rosa: Adopter, peter: Adopter) -> None:
    """F43: by a key exchange that fails and a message that does not open, no key is used again."""
    await talk(rosa, peter)
    with pytest.raises(omemo.KeyExchangeFailed):
        await rosa.decrypt(await exchange_of_nothing(rosa, peter))
    sent = [await rosa.encrypt(peter, b"one"), await rosa.encrypt(peter, b"two")]
    with pytest.raises(omemo.DecryptionFailed):
        await rosa.decrypt(damaged(await peter.encrypt(rosa, b"damaged")))
    sent.append(await rosa.encrypt(peter, b"three"))
    assert len({header(message) for message in sent}) == 3
    assert [await peter.decrypt(message) for message in sent] == [b"one", b"two", b"three"]


async def test_a_canceled_encryption_leaves_no_half_session(rosa: Adopter, peter: Adopter) -> None:
    """Wherever it is canceled, the next message opens."""
    await rosa.knows(peter)
    await peter.knows(rosa)
    before = deepcopy((rosa.kept.values, peter.kept.values, rosa.server.bundles))
    for turns in range(1, 1000):
        rosa.kept.values, peter.kept.values, rosa.server.bundles = deepcopy(before)
        task = asyncio.ensure_future(rosa.encrypt(peter, b"canceled"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task])
        assert await peter.decrypt(await rosa.encrypt(peter, b"next")) == b"next"
    assert turns > 50


async def test_an_identity_is_found_again_however_it_is_kept(
    server: Server, peter: Adopter, tmp_path: Path
) -> None:
    """By this library and by python-omemo alone; sessions begin with it, and go on."""
    rosa, kept = Adopter(server, "rosa@example.org", tmp_path), Typed()
    await rosa.start_with(kept)
    await talk(rosa, peter)
    device, identity = rosa.device, await rosa.identity()
    await rosa.stop()
    pair = await IdentityKeyPair.get(kept)
    assert pair.identity_key == identity
    await rosa.start_with(kept)
    assert (rosa.device, await rosa.identity()) == (device, identity)
    assert await peter.decrypt(await rosa.encrypt(peter, b"again")) == b"again"
    await rosa.stop()
