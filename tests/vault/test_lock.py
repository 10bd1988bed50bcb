"""A vault has one owner."""

import subprocess
import sys
from pathlib import Path

import pytest

from eph_e2ee.errors import VaultForeign, VaultInUse, VaultUnavailable
from eph_e2ee.vault import lock as module
from eph_e2ee.vault.lock import VaultLock
from tests.vault.places import open_below

HOLD = """
import sys
from pathlib import Path
from eph_e2ee.vault.lock import VaultLock
VaultLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def test_a_second_opening_in_this_process_is_refused(folder: Path) -> None:
    with VaultLock.acquire(folder), pytest.raises(VaultInUse, match="this process"):
        VaultLock.acquire(folder)


def test_another_way_to_the_same_folder_is_the_same_vault(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    with VaultLock.acquire(folder), pytest.raises(VaultInUse):
        VaultLock.acquire(tmp_path / "alias")


def test_a_second_process_is_refused_until_the_first_has_died(folder: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(VaultInUse, match="another process"):
            VaultLock.acquire(folder)
        first.kill()
    VaultLock.acquire(folder).release()


def test_released_it_can_be_taken_again(folder: Path) -> None:
    held = VaultLock.acquire(folder)
    held.release()
    held.release()
    again = VaultLock.acquire(folder)
    held.release()
    with pytest.raises(VaultInUse):
        VaultLock.acquire(folder)
    again.release()
    assert module._held == set()


def test_a_refusal_leaves_nothing_locked(folder: Path) -> None:
    folder.mkdir(0o700)
    (folder / "lock").mkdir()
    with pytest.raises(VaultForeign):
        VaultLock.acquire(folder)
    (folder / "lock").rmdir()
    VaultLock.acquire(folder).release()


def test_a_file_system_without_locks_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(VaultUnavailable, match="No locks"):
        VaultLock.acquire(folder)
    assert module._held == set()
    assert open_below(folder) == []
