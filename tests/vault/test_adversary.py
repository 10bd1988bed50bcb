"""Somebody has every byte that the vault ever wrote to any file, and takes its keys at the end.

All versions of all pages, the write-ahead log, journals and key files. What that attacker has not
got is the earlier contents of the root key's file: 32 bytes that are physically overwritten.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.model import Erasure
from eph_e2ee.vault.database import messages
from eph_e2ee.vault.opening import DATABASE
from eph_e2ee.vault.vault import Vault
from tests.support.carving import Row
from tests.support.clock import ManualClock
from tests.support.replay import materialise
from tests.vault.checking import all_keys, exchanged, opened_by
from tests.vault.making import PETER, ROSA, adding
from tests.vault.watching import attack, guessed_names, live, repeated_nonces

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.vault.watching import Life

    Tell = Callable[[str], None]

RECORDS, RECORDS_AT_LENGTH = 1_500, 10_000

NAMES = [ROSA, PETER, *(f"key-{number}" for number in range(41))]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, *, full: bool) -> Life:
    """A long life of a vault."""
    count = RECORDS_AT_LENGTH if full else RECORDS
    return live(tmp_path_factory.mktemp("life"), count, seconds=600)


def test_f1_f4_f6_f11_of_all_records_ever_written_those_alive_open_and_no_other(
    life: Life, tell: Tell
) -> None:
    found = attack(life, life.home)
    tell(
        f"records attempted: {found.attempted}, alive: {found.alive}, "
        f"opened wrongly: {len(found.wrongly)}, lost: {len(found.lost)}"
    )
    assert (found.wrongly, found.lost) == ([], [])
    assert found.attempted > RECORDS < len(life.expected.messages) + found.alive
    assert 0 < found.alive < found.attempted // 2


def test_f12_no_earlier_key_file_opens_with_the_last_root_key(life: Life, tmp_path: Path) -> None:
    """Not even one of them, so that no earlier state of the key tree comes back."""
    shutil.copytree(life.home, tmp_path / "home")
    slots = [tmp_path / "home" / "vault" / name for name in ("keys.0", "keys.1")]
    last = {path.read_bytes() for path in slots}
    assert list(all_keys(tmp_path / "home", ["vault"]))
    for write in [each for each in life.slots if each.data not in last]:
        for path in slots:
            path.write_bytes(write.data)
        assert not list(all_keys(tmp_path / "home", ["vault"]))
    assert len(life.slots) > 20


def test_with_an_earlier_root_key_the_attacker_does_read_the_dead(
    life: Life, tmp_path: Path
) -> None:
    """So the attacker of these tests knows how to read, and destroying is what stops it."""
    chance = random.Random(1)  # noqa: S311  which of them does not matter
    for number, earlier in enumerate(chance.sample(life.earlier[5:-5], 3)):
        materialise(earlier, tmp_path / str(number))
        found = attack(life, tmp_path / str(number))
        assert len(found.wrongly) > 10


def test_f2_an_open_reader_keeps_old_pages_and_none_of_them_opens(tmp_path: Path) -> None:
    """What is called destroyed is, though the log could not be emptied."""
    home = tmp_path / "home"
    vault = Vault.open(home / "vault", clock=ManualClock())
    number = vault.transact_sync(adding())
    with closing(sqlite3.connect(home / "vault" / DATABASE)) as reader:
        reader.execute("BEGIN")
        (row,) = rows_of(reader)
        assert [opened for keys in all_keys(home, ["vault"]) for opened in opened_by(keys, [row])]
        vault.transact_sync(lambda tx: tx.erase(number))
        assert asyncio.run(settled_and_scrubbed(vault)) == (Erasure.DESTROYED, False)
        assert rows_of(reader) == [row]
        for keys in all_keys(home, ["vault"]):
            assert list(opened_by(keys, [row])) == []
    vault.close_sync()


def rows_of(connection: sqlite3.Connection) -> list[Row]:
    """The messages that a reader sees."""
    names = [column.name for column in messages.columns]
    found = connection.execute(f"SELECT {', '.join(names)} FROM {messages.name}")  # noqa: S608  ours
    return [Row(messages.name, dict(zip(names, values, strict=True)), 0) for values in found]


async def settled_and_scrubbed(vault: Vault) -> tuple[Erasure, bool]:
    """What settling says, and scrubbing."""
    return await vault.settle(), await vault.scrub()


def test_no_nonce_is_ever_used_twice(life: Life) -> None:
    assert repeated_nonces(life) == []
    assert len({row.values["number"] for row in life.rows if row.table == "messages"}) > RECORDS


def test_no_name_can_be_guessed_from_its_hash(life: Life) -> None:
    """By somebody without the keys, who knows whom one may be talking to."""
    assert guessed_names(life, NAMES) == []


def test_rows_that_somebody_has_exchanged_do_not_open(tmp_path: Path) -> None:
    assert exchanged(tmp_path / "vault") == []


def test_f1_f4_f5_f6_no_text_name_or_id_stands_in_any_file(life: Life, tell: Tell) -> None:
    """Living or dead, in all that was ever written."""
    tell(f"bytes written and looked through: {life.written}, found in clear: {len(life.leaks)}")
    assert life.leaks == []
    assert life.written > 1_000_000
