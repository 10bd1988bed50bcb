"""A step that changed nothing has seen those before it: it waits for them, and fails with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.vault.ratchets import Ratchets
from tests.vault.making import hold

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault


@pytest.fixture
def ratchets(vault: Vault) -> Ratchets:
    return Ratchets(vault)


def refuse(_: Any) -> None:
    raise VaultUnavailable("the disk is full")


async def test_it_waits_for_the_commit_before_it(vault: Vault, ratchets: Ratchets) -> None:
    release = await hold(vault)
    await ratchets.store("key", 1)
    before, unchanged = ratchets.commit_with(), ratchets.commit_with()
    for _ in range(5):
        await asyncio.sleep(0)
    waited = not unchanged.done()
    release.set()
    await unchanged
    assert waited
    assert before.done()


async def test_it_fails_with_the_commit_before_it(ratchets: Ratchets) -> None:
    await ratchets.store("key", 1)
    before, unchanged = ratchets.commit_with(refuse), ratchets.commit_with()
    outcomes = await asyncio.gather(before, unchanged, return_exceptions=True)
    assert [type(each) for each in outcomes] == [VaultUnavailable] * 2
    with pytest.raises(VaultUnavailable):
        await ratchets.commit_with()
    ratchets.forget_cached()
    await ratchets.commit_with()


async def test_it_costs_nothing_when_all_is_committed(
    vault: Vault, ratchets: Ratchets, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ratchets.commit_with().done()
    await ratchets.store("key", 1)
    await ratchets.commit()
    monkeypatch.setattr(vault, "transact", refuse)
    assert ratchets.commit_with().done()
