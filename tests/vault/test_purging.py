"""Purging: what is due is destroyed, and the database written anew without it."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.paths import Leaf, Region
from eph_e2ee.vault.purging import purge
from tests.vault.making import adding, every_byte, opened, reading, texts

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from eph_e2ee.vault.keys import Keys
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

MANY = 300


def unheard(_: int) -> None:
    pass


def fill(vault: Vault, clock: ManualClock) -> int:
    """Many messages that are due, and one that is not; return that one's number."""
    for number in range(MANY):
        vault.transact_sync(reading(f"{number}"))
    clock.advance(61)
    return vault.transact_sync(adding("still here", "other"))


def test_purging_destroys_what_is_due_and_makes_the_database_smaller(
    vault: Vault, clock: ManualClock, engine: str
) -> None:
    """F1, F4: no page of what is gone is left where the database can reach it."""
    fill(vault, clock)
    advances: list[int] = []
    done = purge(vault, advances.append)
    assert done.rows == sum(advances) == MANY
    assert done.compacted
    assert done.bytes_after < done.bytes_before
    assert (done.scrubbed, done.scrubs) == (engine == "sqlite", engine == "sqlite")
    keys: Keys = vault.run_alone_sync(lambda keeper: keeper.keys)
    due = int(clock.now()) - 1
    assert not keys.alive(Leaf(Region.EXPIRING, due, 1))
    assert texts(vault)[:2] == ["still here", None]
    assert purge(vault, unheard).rows == 0


def test_f2_a_purge_that_a_reader_stops_says_what_it_reached(
    clock: ManualClock, tmp_path: Path
) -> None:
    """F2: what is due is destroyed, and nothing is called clean that is not. Files only."""
    folder = tmp_path / "vault"
    vault = opened(folder, clock)
    fill(vault, clock)
    with closing(sqlite3.connect(folder / "vault.db")) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM messages").fetchone()
        done = purge(vault, unheard)
        assert done.rows == MANY
        assert not done.compacted
        assert not done.scrubbed
        assert done.scrubs
        assert texts(vault)[:2] == ["still here", None]
    assert purge(vault, unheard).scrubbed
    assert every_byte(folder)["vault.db-wal"] == b""
    vault.close_sync()


def test_purging_seals_a_crowded_region_anew(
    vault: Vault, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eph_e2ee.vault.keeper.MANY_NODES", 100)
    numbers = [vault.transact_sync(adding(message_id=f"{n}")) for n in range(120)]
    for number in numbers[::2]:
        vault.transact_sync(functools.partial(Transaction.erase, number=number))
    clock.advance(1)
    purge(vault, unheard)
    assert not vault.must_reseal
    assert vault.run_alone_sync(lambda keeper: keeper.keys.nodes) < 100
    assert texts(vault).count(None) == 60
