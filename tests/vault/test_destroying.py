"""The end of a vault: from the first step on nothing opens, and the rest can be repeated."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultInUse,
    VaultUnavailable,
    WrongRootKey,
)
from eph_e2ee.vault import destroying
from eph_e2ee.vault.destroying import destroy, is_begun, is_vault
from eph_e2ee.vault.keyringkey import SERVICE, KeyringRootKey
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.rootkey import FileRootKey, MemoryRootKey
from eph_e2ee.vault.vault import Vault
from tests.support.keyring import Keyring
from tests.vault.making import adding, opened, texts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import ManualClock
    from tests.support.postgresql import Site

CHEAP = Cost(64, 1, 1)


def made(folder: Path, clock: ManualClock, **options: Any) -> None:
    vault = Vault.open(folder, clock=clock, **options)
    vault.transact_sync(adding())
    vault.close_sync()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A vault in files, whatever the other tests are run on."""
    return tmp_path / "vault"


def test_nothing_is_left(folder: Path, clock: ManualClock) -> None:
    made(folder, clock)
    assert is_vault(folder)
    assert destroy(folder) == []
    assert not folder.exists()
    assert not is_vault(folder)


def test_what_a_passphrase_guards_is_destroyed_without_it(folder: Path, clock: ManualClock) -> None:
    made(folder, clock, root_key=PassphraseRootKey(folder, "a secret", cost=CHEAP))
    assert destroy(folder) == []
    assert not folder.exists()


def test_leftovers_of_crashes_go_too(folder: Path, clock: ManualClock) -> None:
    """Each may hold a key, or rows."""
    made(folder, clock)
    for name in (*destroying.KEYS, "vault.new", "vault.new-wal", "vault.db-journal"):
        (folder / name).touch(mode=0o600)
    assert destroy(folder) == []
    assert not folder.exists()


def test_files_of_others_stay_and_are_named(folder: Path, clock: ManualClock) -> None:
    made(folder, clock)
    (folder / "a letter").write_text("not the vault's")
    assert destroy(folder) == ["a letter"]
    assert (folder / "a letter").read_text() == "not the vault's"
    assert [path.name for path in folder.iterdir()] == ["a letter"]
    assert not is_vault(folder)


def test_f11_a_copy_from_before_opens_nothing_with_what_is_left(
    folder: Path, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the database and the key files; the root key is what was destroyed.

    Looked at right after the first step, when all other files still stand.
    """
    made(folder, clock)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "root.key").unlink()
    monkeypatch.setattr(destroying, "_overwrite", stop)
    with pytest.raises(VaultUnavailable):
        destroy(folder)
    assert not (folder / "root.key").exists()
    for place in (folder, copy):
        with pytest.raises(WrongRootKey):
            Vault.open(place, clock=clock)
    left = b"".join(path.read_bytes() for path in folder.iterdir())
    shutil.copy(folder / "keys.0", copy)
    with pytest.raises(WrongRootKey):
        Vault.open(copy, clock=clock)
    assert b"ephroot" not in left


def stop(*_: Any) -> None:
    raise VaultUnavailable("the disk refuses")


@pytest.mark.parametrize("step", ["_overwrite", "_remove", "_leave"])
def test_what_was_cut_short_is_finished_by_repeating_it(
    folder: Path, clock: ManualClock, step: str
) -> None:
    made(folder, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(destroying, step, stop)
        with pytest.raises(VaultUnavailable):
            destroy(folder)
    if step != "_leave":
        assert is_begun(folder)
        assert is_vault(folder)
    assert destroy(folder) == []
    assert not folder.exists()


def test_cut_short_before_the_root_key_was_gone(
    folder: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still opens then, as nothing was destroyed; repeating it destroys it."""
    made(folder, clock)
    with monkeypatch.context() as patch:
        patch.setattr(FileRootKey, "destroy", stop)
        with pytest.raises(VaultUnavailable):
            destroy(folder)
    vault = opened(folder, clock)
    assert len(texts(vault)) == 1
    vault.close_sync()
    destroy(folder)
    assert not folder.exists()


def test_a_vault_in_use_is_left_alone(folder: Path, clock: ManualClock) -> None:
    made(folder, clock)
    vault = opened(folder, clock)
    with pytest.raises(VaultInUse):
        destroy(folder)
    assert not is_begun(folder)
    assert len(texts(vault)) == 1
    vault.close_sync()


def test_a_root_key_in_a_keyring_must_be_named(folder: Path, clock: ManualClock) -> None:
    """Else it would stay, and a copy of the files with it; also when repeating it."""
    keyring = Keyring()
    place = KeyringRootKey("bot", backend=keyring)
    made(folder, clock, root_key=place)
    with pytest.raises(LocalProtocolError, match="keyring"):
        destroy(folder)
    assert any(service == SERVICE for service, _ in keyring.items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(destroying, "_overwrite", stop)
        with pytest.raises(VaultUnavailable):
            destroy(folder, elsewhere=place)
    assert keyring.items == {}
    with pytest.raises(LocalProtocolError, match="keyring"):
        destroy(folder)
    assert destroy(folder, elsewhere=place) == []
    assert not folder.exists()


def test_a_note_that_a_crash_left_empty_says_nothing(folder: Path, clock: ManualClock) -> None:
    made(folder, clock, root_key=MemoryRootKey())
    (folder / destroying.BEGUN).touch(mode=0o600)
    with pytest.raises(LocalProtocolError, match="keyring"):
        destroy(folder)


def test_the_schema_of_a_server_is_dropped(tmp_path: Path, clock: ManualClock, site: Site) -> None:
    folder = tmp_path / "vault"
    made(folder, clock, database=site.address)
    assert site.schemas()
    with pytest.raises(LocalProtocolError, match="address"):
        destroy(folder)
    assert destroy(folder, database=site.address) == []
    assert not folder.exists()
    assert site.schemas() == []


def test_the_wrong_server_is_noticed_before_anything_is_destroyed(
    tmp_path: Path, clock: ManualClock, site: Site, shared_database: str
) -> None:
    folder = tmp_path / "vault"
    made(folder, clock, database=site.address)
    with pytest.raises(VaultDamaged, match="right address"):
        destroy(folder, database=shared_database)
    assert not is_begun(folder)
    vault = Vault.open(folder, clock=clock, database=site.address)
    assert len(texts(vault)) == 1
    vault.close_sync()


def test_dropping_a_schema_can_be_cut_short_too(
    tmp_path: Path, clock: ManualClock, site: Site
) -> None:
    folder = tmp_path / "vault"
    made(folder, clock, database=site.address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(destroying, "_remove", stop)
        with pytest.raises(VaultUnavailable):
            destroy(folder, database=site.address)
    assert site.schemas() == []
    assert destroy(folder, database=site.address) == []
    assert not folder.exists()
