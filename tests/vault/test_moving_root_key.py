"""The root key of an open vault moves to another place; what the old place held is useless."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import LocalProtocolError, VaultError, VaultUnavailable, WrongRootKey
from eph_e2ee.model import Erasure
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.rootkey import FileRootKey
from eph_e2ee.vault.vault import Vault
from tests.vault.making import adding, texts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import ManualClock

CHEAP = Cost(8, 1, 1)


async def test_a_vault_goes_on_under_a_passphrase_and_the_old_file_opens_nothing(
    vault: Vault, folder: Path, clock: ManualClock, tmp_path: Path
) -> None:
    number = await vault.transact(adding("kept, then erased", "1"))
    await vault.transact(adding("kept", "2"))
    before = tmp_path / "before"
    before.mkdir(mode=0o700)
    shutil.copy(folder / "root.key", before)
    place = PassphraseRootKey(folder, "correct horse", cost=CHEAP)
    await vault.change_root_key(place)
    assert not (folder / "root.key").exists()
    with pytest.raises(VaultError):
        KeyFile(folder).read(FileRootKey(before).candidates())
    await vault.transact(lambda tx: tx.erase(number))
    assert await vault.settle() is Erasure.DESTROYED
    await vault.close()
    with pytest.raises(WrongRootKey):
        Vault.open(folder, clock=clock)
    with pytest.raises(WrongRootKey):
        Vault.open(folder, clock=clock, root_key=PassphraseRootKey(folder, "wrong", cost=CHEAP))
    again = Vault.open(folder, clock=clock, root_key=PassphraseRootKey(folder, "correct horse"))
    assert texts(again) == ["kept", None]
    again.close_sync()


async def test_what_is_waiting_to_be_forgotten_is_forgotten_before_the_change(
    vault: Vault, folder: Path
) -> None:
    number = await vault.transact(adding("erased", "1"))
    await vault.transact(lambda tx: tx.erase(number))
    await vault.change_root_key(PassphraseRootKey(folder, "correct horse", cost=CHEAP))
    assert not vault.unsettled


async def test_the_place_that_it_has_is_refused(vault: Vault, folder: Path) -> None:
    await vault.transact(adding("kept", "1"))
    with pytest.raises(LocalProtocolError):
        await vault.change_root_key(FileRootKey(folder))
    await vault.transact(lambda tx: tx.erase(1))
    assert await vault.settle() is Erasure.DESTROYED


class Refusing(PassphraseRootKey):
    """A place that refuses from some replacement on."""

    left = 0

    def replace(self, new: object) -> None:
        if self.left == 0:
            raise VaultUnavailable("refused")
        self.left -= 1
        super().replace(new)  # type: ignore[arg-type]  # handed on as it is


class Undestroyable(FileRootKey):
    """A place that does not let go."""

    def destroy(self) -> None:
        raise VaultUnavailable("refused")


async def test_after_a_refusal_the_vault_goes_on_and_the_change_can_be_repeated(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    numbers = [await vault.transact(adding(f"text {i}", str(i))) for i in range(3)]
    place = Refusing(folder, "correct horse", cost=CHEAP)
    with pytest.raises(VaultUnavailable):
        await vault.change_root_key(place)
    await vault.transact(lambda tx: tx.erase(numbers[0]))
    assert await vault.settle() is Erasure.DESTROYED
    place.left = 99
    await vault.change_root_key(place)
    await vault.transact(lambda tx: tx.erase(numbers[1]))
    assert await vault.settle() is Erasure.DESTROYED
    await vault.close()
    root_key = PassphraseRootKey(folder, "correct horse")
    again = Vault.open(folder, clock=clock, root_key=root_key)
    assert texts(again) == ["text 2", None, None]
    again.close_sync()


async def test_refused_half_way_the_vault_goes_on_with_the_new_place(
    vault: Vault, folder: Path
) -> None:
    """Its second generation failed: the old place opens nothing any more."""
    number = await vault.transact(adding("erased", "1"))
    place = Refusing(folder, "correct horse", cost=CHEAP)
    place.left = 1
    with pytest.raises(VaultUnavailable):
        await vault.change_root_key(place)
    place.left = 99
    await vault.transact(lambda tx: tx.erase(number))
    assert await vault.settle() is Erasure.DESTROYED
    with pytest.raises(VaultError):
        KeyFile(folder).read(FileRootKey(folder).candidates())
    with pytest.raises(LocalProtocolError):
        await vault.change_root_key(place)


async def test_when_only_the_end_of_the_old_place_is_refused_the_new_one_counts(
    folder: Path, clock: ManualClock
) -> None:
    vault = Vault.open(folder, clock=clock, root_key=Undestroyable(folder))
    number = await vault.transact(adding("erased", "1"))
    place = PassphraseRootKey(folder, "correct horse", cost=CHEAP)
    with pytest.raises(VaultUnavailable):
        await vault.change_root_key(place)
    await vault.transact(lambda tx: tx.erase(number))
    assert await vault.settle() is Erasure.DESTROYED
    await vault.close()
    with pytest.raises(VaultError):
        KeyFile(folder).read(FileRootKey(folder).candidates())
    again = Vault.open(folder, clock=clock, root_key=place)
    assert texts(again) == [None]
    again.close_sync()
