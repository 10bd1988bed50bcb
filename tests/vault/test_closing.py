"""The end of a vault, and its one owner."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import VaultClosed, VaultInUse
from eph_e2ee.model import Erasure
from eph_e2ee.vault import keyfile
from tests.vault.making import every_byte, hold, new_message, opened, texts

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


async def test_closing_drains_settles_and_refuses_more(vault: Vault, folder: Path) -> None:
    release = await hold(vault)
    queued = vault.transact(lambda tx: tx.erase(tx.add(new_message()).number))
    closing_vault = asyncio.create_task(vault.close())
    await asyncio.sleep(0)
    with pytest.raises(VaultClosed):
        vault.transact(lambda tx: tx.value("key"))
    release.set()
    assert await closing_vault is Erasure.DESTROYED
    assert queued.done()
    assert await vault.close() is Erasure.DESTROYED
    assert sorted(every_byte(folder)) == [
        "keys.0",
        "keys.1",
        "lock",
        "root.key",
        "vault.db",
    ]


async def test_closing_with_a_disk_that_refuses_says_pending_and_the_next_opening_does_it(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    await vault.transact(lambda tx: tx.erase(tx.add(new_message()).number))

    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyfile, "write_through", refused)
        assert await vault.close() is Erasure.PENDING
    again = opened(folder, clock)
    assert not again.unsettled
    again.close_sync()


def test_a_vault_that_was_never_closed_warns_and_lets_go(folder: Path, clock: ManualClock) -> None:
    vault = opened(folder, clock)
    vault.transact_sync(lambda tx: tx.put_value("key", "value"))
    worker = vault._worker
    # Nothing but this list holds it.
    holding = [vault]
    del vault
    with pytest.warns(ResourceWarning, match="never closed"):
        holding.clear()
    worker.join()
    again = opened(folder, clock)
    assert again.transact_sync(lambda tx: tx.value("key")) == "value"
    again.close_sync()


def test_one_process_opens_a_vault_once(vault: Vault, folder: Path, clock: ManualClock) -> None:
    with pytest.raises(VaultInUse):
        opened(folder, clock)
    assert texts(vault) == []


OPEN_IT = """
import sys, pathlib
from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultError
from eph_e2ee.vault.vault import Vault
try:
    kept = Vault.open(pathlib.Path(sys.argv[1]), clock=Clock())
except VaultError as error:
    sys.exit(type(error).__name__)
"""


def test_a_second_process_is_told_that_the_vault_is_in_use(vault: Vault, folder: Path) -> None:
    second = [sys.executable, "-c", OPEN_IT, str(folder)]
    refused = subprocess.run(second, capture_output=True, text=True, timeout=60, check=False)
    assert refused.stderr.strip() == "VaultInUse"
    assert vault.close_sync() is Erasure.DESTROYED


def test_a_program_that_never_closes_its_vault_still_ends(folder: Path) -> None:
    program = [sys.executable, "-c", OPEN_IT, str(folder)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
