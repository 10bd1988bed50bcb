"""The root key moved to another place: no window in which neither place opens the vault."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eph_e2ee.clock import Reading
from eph_e2ee.errors import LocalProtocolError, VaultError, VaultUnavailable, WrongRootKey
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.payload import Payload
from eph_e2ee.vault.primitives import KEY_SIZE, Secret, random_key
from eph_e2ee.vault.rootkey import MemoryRootKey, RootKey
from tests.support.disk import Crash, Disk
from tests.vault.places import (
    KINDS,
    FailingKeyring,
    FileKeyring,
    keyring_file,
    place,
    with_passphrase,
)

READING = Reading(1_750_000_000.25, 12.5, "boot-1")
INDEX_KEY = Secret(b"i" * KEY_SIZE)


def payload(tree: bytes) -> Payload:
    return Payload(INDEX_KEY, READING, tree)


FIRST, SECOND, THIRD = map(payload, (b"first", b"second, longer", b"third"))

PAIRS = list(itertools.permutations(KINDS, 2))
every_pair = pytest.mark.parametrize(("before", "after"), PAIRS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@dataclass
class Move:
    """A vault whose root key is to move, as it was before and as the disk has it now."""

    folder: Path
    before: str
    after: str

    def __post_init__(self) -> None:
        """Make the key file, in its third generation."""
        self.objects = {kind: place(kind, self.folder) for kind in (self.before, self.after)}
        KeyFile(self.folder).create(self.old(), FIRST)
        KeyFile(self.folder).renew(self.old(), SECOND)
        KeyFile(self.folder).renew(self.old(), FIRST)
        self.keys = self.old().candidates()
        shutil.copytree(self.folder, self.saved)
        if self.ring.exists():
            shutil.copy(self.ring, self.saved_ring)

    @property
    def saved(self) -> Path:
        return self.folder.with_suffix(".saved")

    @property
    def ring(self) -> Path:
        return keyring_file(self.folder)

    @property
    def saved_ring(self) -> Path:
        return self.folder.parent / "ring.saved"

    def restore(self) -> None:
        """Begin again with everything as it was."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.saved, self.folder)
        self.ring.unlink(missing_ok=True)
        if self.saved_ring.exists():
            shutil.copy(self.saved_ring, self.ring)
        if "memory" in self.objects:
            self.objects["memory"] = MemoryRootKey()
        if self.before == "memory":
            self.objects["memory"].replace(self.keys[0])

    def old(self) -> RootKey:
        return self._place(self.before)

    def new(self) -> RootKey:
        return self._place(self.after)

    def _place(self, kind: str) -> RootKey:
        # Memory that died with the process would take every vault with it: here it outlives it.
        return self.objects[kind] if kind == "memory" else place(kind, self.folder)

    def change(self) -> int:
        return KeyFile(self.folder).change(self.old(), self.new(), THIRD)

    def opens(self, root_key: RootKey) -> bool:
        try:
            found = KeyFile(self.folder).read(root_key.candidates()).payload
        except VaultError:
            return False
        return found in (FIRST, THIRD)

    def assert_done(self) -> None:
        """The new place alone opens it, and no key that the old place ever held does."""
        opened = KeyFile(self.folder).read(self.new().candidates())
        assert opened.payload == THIRD
        assert self.new().candidates() == (opened.root_key,)
        assert not self.old().exists()
        with pytest.raises(WrongRootKey):
            KeyFile(self.folder).read(self.keys)

    def assert_recovers(self) -> None:
        """After a crash: it opens; it can be used where it was; the change can be finished."""
        assert self.opens(self.old()) or self.opens(self.new())
        if self.opens(self.old()):
            copy = self._copied()
            KeyFile(self.folder).renew(self.old(), FIRST)
            assert self.opens(self.old())
            self.change()
            self.assert_done()
            self._put_back(copy)
        self.change()
        self.assert_done()
        assert KeyFile(self.folder).renew(self.new(), FIRST) > 5

    def _copied(self) -> tuple[dict[Path, bytes], dict[str, tuple[Secret, ...]]]:
        paths = [path for path in [*self.folder.iterdir(), self.ring] if path.exists()]
        memories = {kind: each.candidates() for kind, each in self.objects.items()}
        return {path: path.read_bytes() for path in paths}, {
            kind: keys for kind, keys in memories.items() if kind == "memory"
        }

    def _put_back(self, copy: tuple[dict[Path, bytes], dict[str, tuple[Secret, ...]]]) -> None:
        files, memories = copy
        for path in [*self.folder.iterdir(), self.ring]:
            if path not in files:
                path.unlink(missing_ok=True)
        for path, content in files.items():
            path.touch(0o600)
            path.write_bytes(content)
        for kind, keys in memories.items():
            self.objects[kind].destroy()
            for key in keys:
                self.objects[kind].replace(key)


class TestEveryPair:
    @every_pair
    def test_what_the_old_place_held_is_useless_afterwards(
        self, folder: Path, before: str, after: str
    ) -> None:
        """F11: a full copy of the old place, taken before, with all files as they are now."""
        move = Move(folder, before, after)
        assert move.change() == 5
        move.assert_done()
        for path in [*move.saved.glob("root.*")]:
            shutil.copy(path, folder)
        if before == "keyring":
            shutil.copy(move.saved_ring, move.ring)
        assert before == "memory" or move.old().candidates() == move.keys
        with pytest.raises(WrongRootKey):
            KeyFile(folder).read(move.keys)
        with pytest.raises(WrongRootKey):
            KeyFile(folder).read(move.old().candidates())

    @every_pair
    def test_it_goes_on_there_and_can_go_back(self, folder: Path, before: str, after: str) -> None:
        move = Move(folder, before, after)
        key_file = KeyFile(folder)
        assert key_file.change(move.old(), move.new(), SECOND) == 5
        assert key_file.renew(move.new(), FIRST) == 6
        assert key_file.change(move.new(), move.old(), THIRD) == 8
        assert KeyFile(folder).read(move.old().candidates()).payload == THIRD
        assert not move.new().exists()

    @every_pair
    def test_ended_at_any_sync_it_opens_and_can_be_finished(
        self, folder: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F44: the process ends before each sync in turn."""
        move = Move(folder, before, after)
        for syncs in itertools.count():
            move.restore()
            if not crashed(monkeypatch, move.change, syncs_left=syncs):
                break
            move.assert_recovers()
        assert syncs >= 2 + 2 * (before in {"file", "passphrase"})

    @every_pair
    def test_ended_in_any_write_it_opens_and_can_be_finished(
        self, folder: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F44: the power goes in each block in turn, at its beginning, inside, and near its end."""
        move = Move(folder, before, after)
        for budget in (block + at for block in itertools.count(0, 4096) for at in (0, 50, 4095)):
            move.restore()
            if not crashed(monkeypatch, move.change, bytes_left=budget):
                break
            move.assert_recovers()
        assert budget >= 2 * 4096

    @every_pair
    def test_after_a_failed_sync_the_same_objects_finish_it(
        self, folder: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        move = Move(folder, before, after)
        for sync in itertools.count(1):
            move.restore()
            key_file, old, new = KeyFile(folder), move.old(), move.new()
            with monkeypatch.context() as patch:
                Disk(patch, failing_sync=sync)
                try:
                    key_file.change(old, new, THIRD)
                except VaultUnavailable:
                    pass
                else:
                    break
            assert move.opens(old) or move.opens(new)
            key_file.change(old, new, THIRD)
            move.assert_done()
        assert sync >= 2


def crashed(monkeypatch: pytest.MonkeyPatch, change: Callable[[], int], **limits: int) -> bool:
    with monkeypatch.context() as patch:
        Disk(patch, **limits)
        try:
            change()
        except Crash:
            return True
    return False


RECORDS = 200
"""Bytes from a block's beginning in which every record of these tests ends; random ones follow."""


def torn_lengths(full: bool) -> Iterator[int]:  # noqa: FBT001  # the fixture's value
    """At which bytes the power goes: each of every record, or one in seven of them."""
    within = [*range(RECORDS), *range(RECORDS, 4096, 512)] if full else range(0, RECORDS, 7)
    for block in itertools.count(0, 4096):
        yield from (block + at for at in (*within, 4095))


@pytest.mark.parametrize(("before", "after"), [("file", "passphrase"), ("passphrase", "file")])
def test_torn_at_every_length_it_opens_and_can_be_finished(
    folder: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch,
    full: bool,  # noqa: FBT001  # the fixture's value
) -> None:  # fmt: skip
    """F44: every length of every write, up to the last block that destroys the old place."""
    move = Move(folder, before, after)
    for budget in torn_lengths(full):
        move.restore()
        if not crashed(monkeypatch, move.change, bytes_left=budget):
            break
        assert move.opens(move.old()) or move.opens(move.new())
        move.change()
        move.assert_done()
    # Two generations, a new file of two slots, one replacement in it, the end of the old file.
    assert budget == 4096 * (2 + 2 + 2 + 2)


@pytest.mark.parametrize(("before", "after"), [pair for pair in PAIRS if "keyring" in pair])
@pytest.mark.parametrize("late", [False, True])
def test_ended_at_any_call_of_the_keyring_it_opens_and_can_be_finished(
    folder: Path, before: str, after: str,
    late: bool,  # noqa: FBT001  # whether the call has been done by then
) -> None:  # fmt: skip
    move = Move(folder, before, after)
    for at in itertools.count():
        move.restore()
        failing = FailingKeyring(move.ring, at, late=late, crash=True)
        ring = place("keyring", folder, failing)
        old = ring if before == "keyring" else move.old()
        new = ring if after == "keyring" else move.new()
        try:
            KeyFile(folder).change(old, new, THIRD)
        except Crash:
            move.assert_recovers()
        else:
            break
    assert failing.calls > 5


def test_of_two_root_keys_the_right_one_is_made_durable_before_anything_is_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync it may be in the system's memory only."""
    move = Move(folder, "file", "memory")
    with monkeypatch.context() as patch:
        Disk(patch, failing_sync=2)
        with pytest.raises(VaultUnavailable):
            KeyFile(folder).renew(move.old(), FIRST)
    assert len(move.old().candidates()) == 2
    chosen = KeyFile(folder).read(move.old().candidates()).root_key
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        move.change()
    assert disk.synced_names[:3] == ["root.key", "root.key", "keys.0"]
    assert chosen.expose() in disk.synced[0]
    move.assert_done()


class TestRefusals:
    @every_pair
    def test_another_vaults_root_key_is_not_replaced(
        self, folder: Path, before: str, after: str
    ) -> None:
        move = Move(folder, before, after)
        strange = random_key()
        move.new().replace(strange)
        files = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(LocalProtocolError, match="another vault"):
            move.change()
        assert {path: path.read_bytes() for path in folder.iterdir()} == files
        assert move.new().candidates() == (strange,)
        assert move.opens(move.old())

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_same_place_is_refused(self, folder: Path, kind: str) -> None:
        move = Move(folder, kind, kind)
        files = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(LocalProtocolError, match="already"):
            move.change()
        assert {path: path.read_bytes() for path in folder.iterdir()} == files
        assert move.opens(move.old())

    def test_a_wrong_passphrase_of_either_place_changes_nothing(self, folder: Path) -> None:
        move = Move(folder, "passphrase", "file")
        wrong = with_passphrase(folder, "wrong")
        files = {path: path.read_bytes() for path in folder.iterdir()}
        for old, new in ((wrong, move.new()), (move.new(), wrong)):
            with pytest.raises(WrongRootKey):
                KeyFile(folder).change(old, new, THIRD)
        assert {path: path.read_bytes() for path in folder.iterdir()} == files

    def test_a_keyring_that_is_locked_changes_nothing(self, folder: Path) -> None:
        move = Move(folder, "file", "keyring")
        locked = FailingKeyring(move.ring, 0, late=False, crash=False)
        files = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(VaultUnavailable):
            KeyFile(folder).change(move.old(), place("keyring", folder, locked), THIRD)
        assert {path: path.read_bytes() for path in folder.iterdir()} == files
        assert FileKeyring(move.ring).items() == {}
