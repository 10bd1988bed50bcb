"""The root key: replaced without ever being lost, destroyed without being left."""

import os
import stat
from pathlib import Path

import pytest

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultError,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
)
from eph_e2ee.vault.primitives import Secret, random_key
from eph_e2ee.vault.rootkey import FileRootKey, RootKey
from tests.support.disk import Crash, Disk
from tests.vault.places import KINDS, is_whole, place

OLD, NEW, NEWER = Secret(b"o" * 32), Secret(b"n" * 32), Secret(b"N" * 32)
RECORD = 10 + 32 + 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "root.key"


@pytest.fixture(params=KINDS)
def root_key(request: pytest.FixtureRequest, folder: Path) -> RootKey:
    return place(request.param, folder)


class TestEveryRootKey:
    def test_starts_empty(self, root_key: RootKey) -> None:
        assert not root_key.exists()
        assert root_key.candidates() == ()
        root_key.destroy()

    def test_holds_the_last_one_only(self, root_key: RootKey) -> None:
        for key in (OLD, NEW, NEWER, OLD):
            root_key.replace(key)
            assert root_key.candidates() == (key,)
            assert root_key.exists()
            root_key.keep(key)

    def test_takes_and_gives_copies(self, root_key: RootKey) -> None:
        mine = OLD.copy()
        root_key.replace(mine)
        mine.wipe()
        root_key.candidates()[0].wipe()
        assert root_key.candidates() == (OLD,)

    def test_keeps_no_stranger(self, root_key: RootKey) -> None:
        root_key.replace(OLD)
        with pytest.raises(LocalProtocolError):
            root_key.keep(NEW)
        assert root_key.candidates() == (OLD,)

    def test_destroyed_is_empty_and_can_begin_again(self, root_key: RootKey) -> None:
        root_key.replace(OLD)
        root_key.destroy()
        assert not root_key.exists()
        assert root_key.candidates() == ()
        root_key.replace(NEW)
        assert root_key.candidates() == (NEW,)

    def test_does_not_print(self, root_key: RootKey) -> None:
        root_key.replace(Secret(b"sentinel-sentinel-sentinel-32-by"))
        assert "sentinel" not in f"{root_key!r}{root_key.candidates()!r}{vars(root_key)!r}"


class TestFile:
    def test_nobody_else_may_read_it(self, folder: Path, path: Path) -> None:
        FileRootKey(folder).replace(OLD)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_the_old_key_is_overwritten_in_place(self, folder: Path, path: Path) -> None:
        root_key = FileRootKey(folder)
        root_key.replace(OLD)
        inode, size = path.stat().st_ino, path.stat().st_size
        root_key.replace(NEW)
        assert (path.stat().st_ino, path.stat().st_size) == (inode, size)
        assert OLD.expose() not in path.read_bytes()
        assert NEW.expose() in path.read_bytes()

    def test_two_syncs_replace_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root_key = FileRootKey(folder)
        root_key.replace(OLD)
        disk = Disk(monkeypatch)
        root_key.replace(NEW)
        assert disk.syncs == 2

    def test_settled_already_it_is_not_written(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root_key = FileRootKey(folder)
        root_key.replace(OLD)
        root_key.replace(NEW)
        disk = Disk(monkeypatch)
        root_key.keep(NEW)
        assert (disk.writes, disk.syncs) == (0, 0)

    def test_destroying_overwrites_before_it_unlinks(
        self, folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root_key = FileRootKey(folder)
        root_key.replace(OLD)
        with path.open("rb") as still_open, monkeypatch.context() as patch:
            disk = Disk(patch)
            root_key.destroy()
            assert disk.syncs == 2
            assert OLD.expose() not in still_open.read()
        assert not path.exists()

    def test_two_keys_are_not_replaced_before_one_is_chosen(self, folder: Path, path: Path) -> None:
        root_key = FileRootKey(folder)
        both(root_key, path)
        with pytest.raises(LocalProtocolError, match="keep one"):
            root_key.replace(NEWER)
        assert set(map(key_bytes, root_key.candidates())) == {key_bytes(OLD), key_bytes(NEW)}

    @pytest.mark.parametrize(("chosen", "loser"), [(OLD, NEW), (NEW, OLD)])
    def test_the_loser_is_scrubbed(
        self, folder: Path, path: Path, chosen: Secret, loser: Secret
    ) -> None:
        root_key = FileRootKey(folder)
        both(root_key, path)
        root_key.keep(chosen)
        assert root_key.candidates() == (chosen,)
        assert loser.expose() not in path.read_bytes()
        assert chosen.expose() in path.read_bytes()

    def test_a_key_of_another_size_is_refused(self, folder: Path) -> None:
        with pytest.raises(LocalProtocolError):
            FileRootKey(folder).replace(Secret(b"short"))


class TestCrash:
    @pytest.mark.parametrize("budget", [*range(70), 4095, 4096, *range(4097, 4170), 8191])
    def test_replacing_torn_anywhere_leaves_a_key(
        self, folder: Path, path: Path, budget: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F44: whatever was written when the power went, one of the two is there."""
        FileRootKey(folder).replace(OLD)
        with monkeypatch.context() as patch:
            disk = Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                FileRootKey(folder).replace(NEW)
        after = FileRootKey(folder)
        found = after.candidates()
        assert set(map(key_bytes, found)) <= {key_bytes(OLD), key_bytes(NEW)}
        assert (OLD in found) == (budget <= 4096 + 9)
        assert (NEW in found) == is_whole(path, disk, budget, RECORD)
        after.keep(found[-1] if NEW not in found else NEW)
        (kept,) = after.candidates()
        loser = OLD if kept == NEW else NEW
        content = path.read_bytes()
        assert not any(loser.expose()[-size:] in content for size in (8, 16, 32))
        after.replace(NEWER)
        assert after.candidates() == (NEWER,)

    @pytest.mark.parametrize("budget", [*range(70), 4095, 4096, 4100, 8191])
    def test_storing_the_first_key_can_be_repeated(
        self, folder: Path, budget: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                FileRootKey(folder).replace(OLD)
        after = FileRootKey(folder)
        assert not after.exists()
        assert after.candidates() == ()
        after.replace(NEW)
        assert after.candidates() == (NEW,)
        assert [path.name for path in folder.iterdir()] == ["root.key"]

    def test_a_failed_sync_is_told_and_the_old_key_is_left(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root_key = FileRootKey(folder)
        root_key.replace(OLD)
        with monkeypatch.context() as patch:
            Disk(patch, failing_sync=1)
            with pytest.raises(VaultUnavailable):
                root_key.replace(NEW)
        assert OLD in root_key.candidates()

    def test_after_a_failed_sync_the_chosen_key_is_synced_before_the_other_is_scrubbed(
        self, folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a failed sync left in the system's memory only must not become the only key."""
        root_key = FileRootKey(folder)
        root_key.replace(OLD)
        with monkeypatch.context() as patch:
            Disk(patch, failing_sync=1)
            with pytest.raises(VaultUnavailable):
                root_key.replace(NEW)
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            root_key.keep(NEW)
        assert disk.synced[0].count(key_bytes(NEW)) == 1
        assert disk.synced[0].count(key_bytes(OLD)) == 1
        assert path.read_bytes().count(key_bytes(OLD)) == 0


class TestRefusals:
    @pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"x" * 8192, b"ephvault" * 1024])
    def test_another_file_is_left_alone(self, folder: Path, path: Path, content: bytes) -> None:
        folder.mkdir(0o700)
        path.touch(0o600)
        path.write_bytes(content)
        refused_everywhere(folder, VaultForeign)
        assert path.read_bytes() == content

    def test_a_longer_file_is_not_ours(self, folder: Path, path: Path) -> None:
        FileRootKey(folder).replace(OLD)
        with path.open("ab") as file:
            file.write(b"\0")
        refused_everywhere(folder, VaultForeign)

    def test_a_newer_format_is_left_alone(self, folder: Path, path: Path) -> None:
        FileRootKey(folder).replace(OLD)
        content = bytearray(path.read_bytes())
        content[8] = 2
        path.write_bytes(content)
        refused_everywhere(folder, VaultTooNew)
        assert path.read_bytes() == content

    def test_a_symbolic_link_is_not_followed(self, folder: Path, path: Path) -> None:
        folder.mkdir(0o700)
        elsewhere = folder.parent / "elsewhere"
        elsewhere.touch(0o600)
        path.symlink_to(elsewhere)
        refused_everywhere(folder, VaultForeign)
        assert elsewhere.read_bytes() == b""

    def test_a_file_that_others_can_read_is_refused(self, folder: Path, path: Path) -> None:
        FileRootKey(folder).replace(OLD)
        path.chmod(0o640)
        refused_everywhere(folder, VaultUnavailable)
        path.chmod(0o600)
        assert FileRootKey(folder).candidates() == (OLD,)

    def test_another_users_file_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FileRootKey(folder).replace(OLD)
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
        refused_everywhere(folder, VaultForeign)

    @pytest.mark.parametrize("at", range(58))
    def test_a_rotten_byte_is_no_candidate(self, folder: Path, path: Path, at: int) -> None:
        FileRootKey(folder).replace(OLD)
        content = bytearray(path.read_bytes())
        content[at] ^= 0x80
        path.write_bytes(content)
        try:
            found = FileRootKey(folder).candidates()
        except (VaultForeign, VaultTooNew):
            assert at <= 8
        else:
            assert found == ()


def refused_everywhere(folder: Path, error: type[VaultError]) -> None:
    root_key = FileRootKey(folder)
    assert root_key.exists()
    for attempt in (
        root_key.candidates,
        root_key.destroy,
        lambda: root_key.replace(random_key()),
        lambda: root_key.keep(OLD),
    ):
        with pytest.raises(error):
            attempt()


def both(root_key: FileRootKey, path: Path) -> None:
    """Leave two candidates, as a crash between the two writes of a replacement does."""
    root_key.replace(OLD)
    before = path.read_bytes()
    root_key.replace(NEW)
    after = path.read_bytes()
    path.write_bytes(before[:4096] + after[4096:])


def key_bytes(key: Secret) -> bytes:
    return bytes(key.expose())
