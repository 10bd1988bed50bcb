"""A vault in a temporary folder, with a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the vault is."""
    return tmp_path / "vault"


@pytest.fixture
def vault(folder: Path, clock: ManualClock) -> Iterator[Vault]:
    """An open vault, closed at the end if the test has not done so."""
    vault = Vault.open(folder, clock=clock)
    yield vault
    vault.close_sync()
