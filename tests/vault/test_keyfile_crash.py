"""The key file under torn writes, kills and failing syncs: one generation always opens."""

from pathlib import Path

import pytest

from eph_e2ee.clock import Reading
from eph_e2ee.errors import VaultDamaged, VaultUnavailable, WrongRootKey
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.payload import Payload
from eph_e2ee.vault.primitives import KEY_SIZE, Secret, random_key
from eph_e2ee.vault.rootkey import FileRootKey
from tests.support.disk import Crash, Disk

READING = Reading(1_750_000_000.25, 12.5, "boot-1")
INDEX_KEY = Secret(b"i" * KEY_SIZE)


def payload(tree: bytes) -> Payload:
    return Payload(INDEX_KEY, READING, tree)


FIRST, SECOND, THIRD = map(payload, (b"first", b"second, longer", b"third"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def root_key(folder: Path) -> FileRootKey:
    return FileRootKey(folder)


@pytest.fixture
def key_file(folder: Path, root_key: FileRootKey) -> KeyFile:
    """A key file in its first generation."""
    key_file = KeyFile(folder)
    key_file.create(root_key, FIRST)
    return key_file


class TestTornWrites:
    def test_a_newer_slot_torn_at_any_length_leaves_the_older(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        """F44: a torn write is no new identity; it is the state before."""
        key_file.renew(root_key, SECOND)
        slot, root_before = folder / "keys.0", (folder / "root.key").read_bytes()
        old = slot.read_bytes()
        key_file.renew(root_key, THIRD)
        root_after, new = (folder / "root.key").read_bytes(), slot.read_bytes()
        end = 38 + 28 + len(THIRD.pack())
        for torn in torn_writes(old, new, end):
            slot.write_bytes(torn)
            # Before the root key was replaced, its first slot's key opens the older generation.
            (folder / "root.key").write_bytes(root_before)
            opened = KeyFile(folder).read(root_key.candidates())
            assert (opened.generation, opened.payload) == (2, SECOND)
            # Once it was replaced, nothing may bring the older generation back.
            (folder / "root.key").write_bytes(root_after)
            with pytest.raises(WrongRootKey if torn == old else VaultDamaged):
                KeyFile(folder).read(root_key.candidates())
        slot.write_bytes(new[:end])
        assert KeyFile(folder).read(root_key.candidates()).payload == THIRD

    def test_the_first_write_of_the_second_slot_torn_leaves_the_first(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        root_before = (folder / "root.key").read_bytes()
        key_file.renew(root_key, SECOND)
        (folder / "root.key").write_bytes(root_before)
        slot = folder / "keys.1"
        for torn in torn_writes(b"", slot.read_bytes(), 38 + 28 + len(SECOND.pack())):
            slot.write_bytes(torn)
            assert KeyFile(folder).read(root_key.candidates()).payload == FIRST
        assert KeyFile(folder).renew(root_key, THIRD) == 2

    def test_a_torn_slot_is_the_next_to_be_written(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        key_file.renew(root_key, SECOND)
        before = (folder / "keys.1").read_bytes()
        (folder / "keys.0").write_bytes(b"ephvault\0\1" + b"x" * 4086)
        assert KeyFile(folder).renew(root_key, THIRD) == 3
        assert (folder / "keys.1").read_bytes() == before
        assert KeyFile(folder).read(root_key.candidates()).payload == THIRD


def torn_writes(old: bytes, new: bytes, end: int) -> list[bytes]:
    """Return what a write that stopped before byte `end` can leave, at every length."""
    over = [new[:length] + old[length:] for length in range(end)]
    short = [new[:length] for length in range(end)]
    zeros = [torn.ljust(len(new), b"\0") for torn in short]
    return [torn for torn in over + zeros + short if torn[:end] != new[:end]]


SIZES = [0, 1, 8, 20, 40, 100, 4095, 4096, 4097, 4106, 4150, 4154, 5000, 8191, 8192, 8193, 8202]


class TestCrash:
    @pytest.mark.parametrize("budget", [*SIZES, 8250, 9000, 12287])
    def test_a_renewal_ended_anywhere_is_done_or_not_begun(
        self,
        folder: Path,
        key_file: KeyFile,
        root_key: FileRootKey,
        budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """F44: after a kill at any byte the vault opens, and can be renewed."""
        key_file.renew(root_key, SECOND)
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                key_file.renew(root_key, THIRD)
        opened = KeyFile(folder).read(root_key.candidates())
        done = budget >= 4096 + 58
        assert (opened.generation, opened.payload) == ((3, THIRD) if done else (2, SECOND))
        root_key.keep(opened.root_key)
        assert root_key.candidates() == (opened.root_key,)
        assert KeyFile(folder).renew(root_key, FIRST) == opened.generation + 1
        assert KeyFile(folder).read(root_key.candidates()).payload == FIRST

    @pytest.mark.parametrize("budget", [*SIZES, 8250, 12287])
    def test_making_it_can_be_repeated(
        self, folder: Path, root_key: FileRootKey, budget: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                KeyFile(folder).create(root_key, FIRST)
        key_file = KeyFile(folder)
        assert not key_file.exists()
        key_file.create(root_key, SECOND)
        assert KeyFile(folder).read(root_key.candidates()).payload == SECOND

    @pytest.mark.parametrize("sync", [1, 2, 3])
    def test_a_failed_sync_is_told_and_the_same_object_goes_on(
        self,
        folder: Path,
        key_file: KeyFile,
        root_key: FileRootKey,
        sync: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        key_file.renew(root_key, SECOND)
        with monkeypatch.context() as patch:
            Disk(patch, failing_sync=sync)
            with pytest.raises(VaultUnavailable):
                key_file.renew(root_key, THIRD)
        reopened = KeyFile(folder).read(root_key.candidates())
        assert reopened.payload == (SECOND if sync == 1 else THIRD)
        assert key_file.renew(root_key, THIRD) == reopened.generation + 1
        final = KeyFile(folder).read(root_key.candidates())
        assert final.payload == THIRD
        assert root_key.candidates() == (final.root_key,)

    @pytest.mark.parametrize("budget", [0, 100, 4095, 4096, 4097])
    def test_going_on_after_a_failed_replacement_never_risks_the_current_slot(
        self,
        folder: Path,
        key_file: KeyFile,
        root_key: FileRootKey,
        budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The new root key did not reach the disk; then the next renewal is torn as well."""
        key_file.renew(root_key, SECOND)
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=4096)
            with pytest.raises(Crash):
                key_file.renew(root_key, THIRD)
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                key_file.renew(root_key, THIRD)
        assert KeyFile(folder).read(root_key.candidates()).payload == SECOND

    def test_making_it_settles_on_one_of_two_root_keys_left_behind(
        self, folder: Path, root_key: FileRootKey
    ) -> None:
        path = folder / "root.key"
        root_key.replace(random_key())
        before = path.read_bytes()
        root_key.replace(random_key())
        path.write_bytes(before[:4096] + path.read_bytes()[4096:])
        assert len(root_key.candidates()) == 2
        KeyFile(folder).create(root_key, FIRST)
        assert KeyFile(folder).read(root_key.candidates()).payload == FIRST
