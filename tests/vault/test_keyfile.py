"""The key file: one generation is always there, and an older one never comes back."""

from itertools import product
from pathlib import Path

import pytest

from eph_e2ee.clock import Reading
from eph_e2ee.errors import (
    Forgotten,
    LocalProtocolError,
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    WrongRootKey,
)
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keytree import KeyTree
from eph_e2ee.vault.paths import Leaf, LeafCut, Region
from eph_e2ee.vault.payload import Payload
from eph_e2ee.vault.primitives import KEY_SIZE, Secret, checksum, random_bytes, random_key
from eph_e2ee.vault.rootkey import FileRootKey, MemoryRootKey
from tests.support.disk import Disk

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


def slots(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("keys.*"))}


def refused(folder: Path, root_key: FileRootKey, error: type[VaultError]) -> str:
    """Assert that opening fails in this very way and changes no file; return the text."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(VaultError) as caught:
        KeyFile(folder).read(root_key.candidates())
    with pytest.raises(VaultError) as renewing:
        KeyFile(folder).renew(root_key, THIRD)
    assert type(caught.value) is type(renewing.value) is error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return str(caught.value)


class TestGenerations:
    def test_the_last_one_is_read(self, folder: Path, root_key: FileRootKey) -> None:
        key_file = KeyFile(folder)
        assert not key_file.exists()
        key_file.create(root_key, FIRST)
        assert key_file.exists()
        for number, kept in enumerate((SECOND, THIRD, FIRST, SECOND), 2):
            assert key_file.renew(root_key, kept) == number
            opened = KeyFile(folder).read(root_key.candidates())
            assert (opened.generation, opened.payload) == (number, kept)
            assert (opened.root_key,) == root_key.candidates()

    def test_every_renewal_has_its_own_root_key(
        self, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        seen = [bytes(root_key.candidates()[0].expose())]
        for _ in range(10):
            key_file.renew(root_key, SECOND)
            seen.append(bytes(root_key.candidates()[0].expose()))
        assert len(set(seen)) == 11

    def test_an_old_copy_of_the_key_file_does_not_open(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        """F11: with the root key replaced, a backup of the key file is noise."""
        old_root_key = root_key.candidates()
        old = slots(folder)
        key_file.renew(root_key, SECOND)
        for name in slots(folder):
            (folder / name).unlink()
        for name, content in old.items():
            restore(folder / name, content)
        refused(folder, root_key, WrongRootKey)
        assert KeyFile(folder).read(old_root_key).payload == FIRST

    def test_a_forgotten_record_stays_forgotten(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        """F12: the way from the files to the key of a cut record ends with the renewal."""
        tree, leaf = KeyTree.create(random_key()), Leaf(Region.RATCHET, 0, 1)
        tree.cut(LeafCut(leaf))
        key_file.renew(root_key, payload(tree.export()))
        opened = KeyFile(folder).read(root_key.candidates())
        with pytest.raises(Forgotten):
            KeyTree.load(opened.payload.tree).derive(leaf)

    def test_in_memory_the_root_key_dies_with_the_process(self, folder: Path) -> None:
        root_key = MemoryRootKey()
        key_file = KeyFile(folder)
        key_file.create(root_key, FIRST)
        key_file.renew(root_key, SECOND)
        assert KeyFile(folder).read(root_key.candidates()).payload == SECOND
        with pytest.raises(WrongRootKey):
            KeyFile(folder).read(MemoryRootKey().candidates())

    def test_names_are_synced_before_anything_depends_on_them(
        self, folder: Path, root_key: FileRootKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The old root key dies after the second slot's name is on the disk, not before."""
        disk, key_file = Disk(monkeypatch), KeyFile(folder)
        key_file.create(root_key, FIRST)
        assert disk.synced_names[-2:] == ["keys.new", "vault"]
        assert "vault" in disk.synced_names[:-2]
        disk.synced_names.clear()
        key_file.renew(root_key, SECOND)
        assert disk.synced_names == ["keys.1", "vault", "root.key", "root.key"]

    def test_made_once_only(self, key_file: KeyFile, root_key: FileRootKey) -> None:
        with pytest.raises(LocalProtocolError):
            key_file.create(root_key, SECOND)
        assert key_file.read(root_key.candidates()).payload == FIRST

    def test_a_renewal_reads_first_by_itself(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        key_file.renew(root_key, SECOND)
        assert KeyFile(folder).renew(root_key, THIRD) == 3


class TestFiles:
    def test_private(self, folder: Path, key_file: KeyFile, root_key: FileRootKey) -> None:
        key_file.renew(root_key, SECOND)
        assert set(slots(folder)) == {"keys.0", "keys.1"}
        for path in folder.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_one_sync_writes_a_generation_and_two_replace_the_root_key(
        self, key_file: KeyFile, root_key: FileRootKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key_file.renew(root_key, SECOND)
        disk = Disk(monkeypatch)
        key_file.renew(root_key, THIRD)
        assert disk.syncs == 3

    def test_slots_are_overwritten_in_place_and_then_cut_to_size(
        self,
        folder: Path,
        key_file: KeyFile,
        root_key: FileRootKey,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        large = payload(random_bytes(50_000))
        key_file.renew(root_key, large)
        key_file.renew(root_key, large)
        before = {path: path.stat().st_ino for path in folder.glob("keys.*")}
        old = slots(folder)
        assert {len(content) for content in old.values()} == {53_248}
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            key_file.renew(root_key, FIRST)
            key_file.renew(root_key, FIRST)
        for path, inode in before.items():
            assert (path.stat().st_ino, path.stat().st_size) == (inode, 4096)
        # What was longer is covered with random bytes, through to the disk, before it is cut off.
        synced = [
            content
            for name, content in zip(disk.synced_names, disk.synced, strict=True)
            if name in slots(folder)
        ]
        assert [len(content) for content in synced] == [53_248] * 2
        for content, earlier in product(synced, old.values()):
            rest = content[4096:]
            assert not any(earlier[at : at + 8] in rest for at in range(4096, 50_000, 64))

    def test_nothing_is_in_clear(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        sentinel = b"sentinel-sentinel-sentinel-32-by"
        key_file.renew(root_key, Payload(Secret(sentinel), READING, sentinel))
        for path in folder.iterdir():
            content = path.read_bytes()
            assert b"sentinel" not in content
            assert b"boot-1" not in content

    def test_a_payload_does_not_print(self) -> None:
        sentinel = b"sentinel-sentinel-sentinel-32-by"
        assert "sentinel" not in repr(Payload(Secret(sentinel), READING, sentinel))


class TestPayload:
    def test_comes_back(self) -> None:
        assert Payload.unpack(SECOND.pack()) == SECOND

    @pytest.mark.parametrize("length", range(len(FIRST.pack()) - len(FIRST.tree)))
    def test_cut_short_is_damage(self, length: int) -> None:
        with pytest.raises(VaultDamaged):
            Payload.unpack(FIRST.pack()[:length])

    def test_an_index_key_of_another_size_is_refused(self) -> None:
        with pytest.raises(LocalProtocolError):
            Payload(Secret(b"short"), READING, b"").pack()


class TestRefusals:
    def test_another_root_key(self, folder: Path, key_file: KeyFile, root_key: FileRootKey) -> None:
        key_file.renew(root_key, SECOND)
        root_key.replace(random_key())
        assert "root key" in refused(folder, root_key, WrongRootKey)

    def test_no_root_key(self, folder: Path, key_file: KeyFile, root_key: FileRootKey) -> None:
        key_file.renew(root_key, SECOND)
        root_key.destroy()
        refused(folder, root_key, WrongRootKey)

    @pytest.mark.parametrize("content", [b"SQLite format 3\0" * 300, b"x", b"ephroot\n" * 512])
    def test_a_foreign_file(self, folder: Path, root_key: FileRootKey, content: bytes) -> None:
        root_key.replace(random_key())
        restore(folder / "keys.0", content)
        refused(folder, root_key, VaultForeign)

    @pytest.mark.parametrize("name", ["keys.0", "keys.1"])
    def test_a_newer_format(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey, name: str
    ) -> None:
        key_file.renew(root_key, SECOND)
        content = bytearray((folder / name).read_bytes())
        content[8:10] = (2).to_bytes(2, "big")
        (folder / name).write_bytes(content)
        assert "update" in refused(folder, root_key, VaultTooNew)

    def test_both_damaged(self, folder: Path, key_file: KeyFile, root_key: FileRootKey) -> None:
        """F44: a damaged store is an error, never an empty store."""
        key_file.renew(root_key, SECOND)
        for name, content in slots(folder).items():
            # A bit of the checksum: a fixed byte may be the one that chance has put there.
            altered = bytes([content[30] ^ 1])
            (folder / name).write_bytes(content[:30] + altered + content[31:])
        refused(folder, root_key, VaultDamaged)

    def test_no_longer_there(self, folder: Path, key_file: KeyFile, root_key: FileRootKey) -> None:
        (folder / "keys.0").write_bytes(b"")
        assert key_file.exists()
        refused(folder, root_key, VaultDamaged)
        (folder / "keys.0").unlink()
        assert "missing" in refused(folder, root_key, VaultDamaged)

    def test_a_generation_cannot_be_renumbered(
        self, folder: Path, key_file: KeyFile, root_key: FileRootKey
    ) -> None:
        """The header is authenticated, not only summed up."""
        assert key_file.exists()
        content = (folder / "keys.0").read_bytes()
        header = content[:17] + b"\x09" + content[18:22]
        sealed = content[38 : 38 + int.from_bytes(content[18:22], "big")]
        (folder / "keys.0").write_bytes(header + checksum(header + sealed) + sealed)
        refused(folder, root_key, WrongRootKey)

    def test_a_symbolic_link(self, folder: Path, key_file: KeyFile, root_key: FileRootKey) -> None:
        elsewhere = folder / "elsewhere"
        (folder / "keys.0").rename(elsewhere)
        (folder / "keys.0").symlink_to(elsewhere)
        assert key_file.exists()
        refused(folder, root_key, VaultForeign)


def restore(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
