"""Private files and their folder: nobody else's, and nothing of ours for anybody else."""

import os
from pathlib import Path

import pytest

from eph_e2ee.errors import VaultForeign, VaultUnavailable
from eph_e2ee.vault.privatefile import (
    LARGEST_FILE,
    make_private_folder,
    open_private,
    private_file,
    read_private,
    write_through,
)
from tests.vault.places import open_below


class TestFolder:
    def test_is_made_for_its_owner_only(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        make_private_folder(folder)
        make_private_folder(folder)
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_an_empty_one_is_closed_to_others(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        make_private_folder(tmp_path)
        assert tmp_path.stat().st_mode & 0o777 == 0o700

    def test_one_in_use_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "something").touch()
        tmp_path.chmod(0o755)
        with pytest.raises(VaultUnavailable, match="0700"):
            make_private_folder(tmp_path)
        assert tmp_path.stat().st_mode & 0o777 == 0o755

    def test_another_users_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
        with pytest.raises(VaultForeign, match="another user"):
            make_private_folder(tmp_path)

    def test_a_file_in_its_place_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(VaultForeign, match="not a folder"):
            make_private_folder(tmp_path / "file")
        with pytest.raises(VaultUnavailable):
            make_private_folder(tmp_path / "file" / "below")


class TestFile:
    def test_a_missing_one_reads_as_none(self, tmp_path: Path) -> None:
        assert read_private(tmp_path / "missing") is None
        with pytest.raises(FileNotFoundError):
            open_private(tmp_path / "missing")

    def test_is_made_for_its_owner_only(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        previous = os.umask(0)
        try:
            with private_file(path, create=True) as descriptor:
                write_through(descriptor, 3, b"text")
        finally:
            os.umask(previous)
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_private(path) == b"\0\0\0text"

    def test_a_short_write_is_completed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
        with private_file(tmp_path / "file", create=True) as descriptor:
            write_through(descriptor, 0, b"longer than three")
        assert read_private(tmp_path / "file") == b"longer than three"

    def test_what_is_no_file_is_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to("nowhere")
        for name in ("pipe", "folder", "link"):
            with pytest.raises(VaultForeign):
                read_private(tmp_path / name)
        with pytest.raises(VaultForeign):
            open_private(tmp_path / "link", create=True)
        assert not (tmp_path / "nowhere").exists()

    def test_a_huge_one_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch(0o600)
        os.truncate(path, LARGEST_FILE + 1)
        with pytest.raises(VaultForeign, match="larger"):
            read_private(path)

    def test_refusals_do_not_leak_descriptors(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch(0o644)
        for _ in range(5):
            with pytest.raises(VaultUnavailable):
                read_private(path)
        assert open_below(tmp_path) == []
