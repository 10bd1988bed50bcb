"""What stands in the folder: a vault, nothing, half a vault, or something else."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import (
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
    WrongRootKey,
)
from eph_e2ee.vault import opening
from eph_e2ee.vault.primitives import random_key
from eph_e2ee.vault.rootkey import MemoryRootKey
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock
from tests.vault.making import TEXT, adding, every_byte, opened, texts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eph_e2ee.clock import Reading


@pytest.fixture
def closed(folder: Path, clock: ManualClock) -> Path:
    """A vault with a message in it, closed."""
    vault = opened(folder, clock)
    vault.transact_sync(adding())
    vault.close_sync()
    return folder


def write_at(path: Path, at: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


SPOILED: list[tuple[str, Callable[[Path], object], type[VaultError]]] = [
    ("database emptied", lambda f: (f / "vault.db").write_bytes(b""), VaultDamaged),
    ("database missing", remove("vault.db"), VaultDamaged),
    ("database of noise", lambda f: (f / "vault.db").write_bytes(b"noise" * 999), VaultDamaged),
    ("database foreign", lambda f: write_at(f / "vault.db", 68, b"moz!"), VaultForeign),
    ("database newer", lambda f: write_at(f / "vault.db", 60, b"\0\0\0\x09"), VaultTooNew),
    ("database damaged", lambda f: write_at(f / "vault.db", 100, b"\xff" * 3000), VaultDamaged),
    ("key file missing", remove("keys.0"), VaultDamaged),
    ("key file emptied", lambda f: (f / "keys.0").write_bytes(b""), VaultDamaged),
    ("key file damaged", lambda f: write_at(f / "keys.0", 60, b"\xff" * 99), VaultDamaged),
    ("key file foreign", lambda f: (f / "keys.0").write_bytes(b"noise" * 999), VaultForeign),
    ("key file newer", lambda f: write_at(f / "keys.0", 8, b"\x99\x99"), VaultTooNew),
    ("root key missing", remove("root.key"), WrongRootKey),
    ("root key emptied", lambda f: (f / "root.key").write_bytes(b""), WrongRootKey),
    ("only the root key left", remove("vault.db", "keys.0"), VaultDamaged),
]


@pytest.mark.parametrize(
    ("spoil", "error"), [case[1:] for case in SPOILED], ids=[c[0] for c in SPOILED]
)
def test_f44_each_damage_has_its_own_error_and_no_byte_is_changed(
    closed: Path, clock: ManualClock, spoil: Callable[[Path], object], error: type[VaultError]
) -> None:
    spoil(closed)
    before = every_byte(closed)
    with pytest.raises(error):
        opened(closed, clock)
    assert every_byte(closed) == before
    with pytest.raises(error):
        opened(closed, clock)


def test_f44_another_root_key_is_refused(closed: Path, clock: ManualClock) -> None:
    before = every_byte(closed)
    wrong = MemoryRootKey()
    wrong.replace(random_key())
    with pytest.raises(WrongRootKey):
        Vault.open(closed, clock=clock, root_key=wrong)
    with pytest.raises(WrongRootKey):
        Vault.open(closed, clock=clock, root_key=MemoryRootKey())
    assert every_byte(closed) == before


def test_f44_a_database_of_another_vault_is_refused(
    closed: Path, clock: ManualClock, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    opened(other, clock).close_sync()
    shutil.copy(other / "vault.db", closed / "vault.db")
    before = every_byte(closed)
    with pytest.raises(VaultDamaged, match="different vaults"):
        opened(closed, clock)
    assert every_byte(closed) == before


@pytest.mark.parametrize("shift", [-1000, 1000])
def test_f14_the_later_of_the_times_in_both_files_holds(
    closed: Path, clock: ManualClock, shift: int
) -> None:
    kept = clock.reading()
    changed = replace(kept, now=kept.now + shift)
    with closing(sqlite3.connect(closed / "vault.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'clock'", (changed.to_json(),))
    resumed: list[Reading] = []

    class Watched(ManualClock):
        def resume(self, last: Reading) -> None:
            resumed.append(last)
            super().resume(last)

    opened(closed, Watched()).close_sync()
    assert [reading.now for reading in resumed] == [max(kept.now, changed.now)]


def test_a_vault_can_live_in_memory_keys_only(folder: Path, clock: ManualClock) -> None:
    root_key = MemoryRootKey()
    vault = Vault.open(folder, clock=clock, root_key=root_key)
    vault.transact_sync(adding())
    vault.close_sync()
    assert "root.key" not in every_byte(folder)
    again = Vault.open(folder, clock=clock, root_key=root_key)
    assert texts(again) == [TEXT]
    again.close_sync()


def test_a_file_in_place_of_the_folder_is_foreign(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VaultForeign):
        opened(tmp_path / "file", clock)


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").write_text("x")
    with pytest.raises(VaultUnavailable, match="0700"):
        opened(tmp_path, clock)


@pytest.mark.parametrize("name", ["SQLite", "KeyFile.create", "sync_folder"])
def test_a_making_that_was_interrupted_is_ended(
    folder: Path, clock: ManualClock, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise InterruptedError

    place, _, attribute = name.rpartition(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(opening, place) if place else opening, attribute, interrupted)
        with pytest.raises((InterruptedError, VaultUnavailable)):
            opened(folder, clock)
    vault = opened(folder, clock)
    vault.transact_sync(adding())
    vault.close_sync()
    again = opened(folder, clock)
    assert texts(again) == [TEXT]
    again.close_sync()
    assert "vault.new" not in every_byte(folder)
