"""Somebody has all that a PostgreSQL server ever had, and takes the vault's keys at the end.

Every version of every row, by the server's own log, and rows that were never committed. What that
attacker has not got is the earlier contents of the root key's file.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.decoding import WITNESSED, Witness, sealed
from tests.support.postgresql import Server, Site
from tests.support.replay import materialise
from tests.vault.making import PETER, ROSA
from tests.vault.watching import (
    SENTINELS,
    attack,
    guessed_names,
    leaks_in,
    live,
    repeated_nonces,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.vault.watching import Life

    Tell = Callable[[str], None]

RECORDS, RECORDS_AT_LENGTH, RECORDS_OF_A_MISTAKE = 500, 10_000, 80

NAMES = [ROSA, PETER, *(f"key-{number}" for number in range(41))]


@pytest.fixture(scope="module")
def witnessed() -> Iterator[Server]:
    """A server that forgets nothing."""
    with Server(WITNESSED) as server:
        yield server


@pytest.fixture(scope="module")
def past(witnessed: Server) -> Site:
    """The database of the long life."""
    return Site(witnessed, witnessed.make_database())


@pytest.fixture(scope="module")
def witness(past: Site) -> Iterator[Witness]:
    """It has seen the long life from its beginning."""
    witness = Witness(past)
    yield witness
    witness.close()


@pytest.fixture(scope="module")
def life(
    tmp_path_factory: pytest.TempPathFactory, past: Site, witness: Witness, *, full: bool
) -> Life:
    """A long life of a vault, with all that the server was given."""
    count = RECORDS_AT_LENGTH if full else RECORDS
    life = live(tmp_path_factory.mktemp("life"), count, database=past.address, seconds=600)
    life.rows = [*witness.committed(), *witness.sent()]
    return life


def test_the_log_of_statements_has_all_that_was_committed(life: Life, witness: Witness) -> None:
    """Two sources that know nothing of each other; the one of statements has more."""
    committed, sent = sealed(witness.committed()), sealed(witness.sent())
    assert committed < sent
    assert len(committed) > len(life.expected.messages)


def test_f1_f4_f6_f11_of_all_records_a_server_ever_had_those_alive_open_and_no_other(
    life: Life, witness: Witness, tell: Tell
) -> None:
    found = attack(life, life.home)
    committed = attack(replace(life, rows=witness.committed()), life.home)
    tell(
        f"PostgreSQL, records attempted: {found.attempted} ({committed.attempted} by logical "
        f"decoding, the others by the log of statements), alive: {found.alive}, "
        f"opened wrongly: {len(found.wrongly)}, lost: {len(found.lost)}"
    )
    assert (found.wrongly, found.lost) == ([], [])
    assert committed.lost == []
    assert found.attempted > 2 * RECORDS
    assert 0 < found.alive < found.attempted // 2


def test_with_an_earlier_root_key_the_attacker_of_a_server_does_read_the_dead(
    life: Life, witness: Witness, tmp_path: Path, tell: Tell
) -> None:
    """So the attacker of these tests knows how to read, and destroying is what stops it."""
    chance = random.Random(1)  # noqa: S311  which of them does not matter
    opened = []
    committed = replace(life, rows=witness.committed())
    for number, earlier in enumerate(chance.sample(life.earlier[5:-5], 3)):
        materialise(earlier, tmp_path / str(number))
        # Both generations of a key file open many: each counts once.
        opened.append(len(set(attack(committed, tmp_path / str(number)).wrongly)))
    tell(f"PostgreSQL, dead of {len(committed.rows)} that open with an earlier root key: {opened}")
    assert min(opened) > 10


def test_no_nonce_of_a_server_is_ever_used_twice_and_no_name_can_be_guessed(life: Life) -> None:
    assert repeated_nonces(life) == []
    assert guessed_names(life, NAMES) == []


def test_f1_f4_f5_f6_no_text_name_or_id_stands_in_any_file_of_the_server(
    life: Life, past: Site, witness: Witness, tell: Tell
) -> None:
    """Heaps, write-ahead log, log of statements, and a dump, where bytes stand as hexadecimals."""
    files = past.server.every_byte()
    files |= {"dump": past.dump().encode(), "decoded": "\n".join(witness.decoded()).encode()}
    assert any(name.startswith("data/pg_wal/0") for name in files)
    found = life.leaks + [leak for name, data in files.items() for leak in leaks_or_hex(name, data)]
    size = sum(map(len, files.values()))
    tell(f"PostgreSQL, bytes of files looked through: {size}, found in clear: {len(found)}")
    assert found == []


def leaks_or_hex(name: str, data: bytes) -> list[str]:
    """Return what stands in clear in a file, as it is or as hexadecimals."""
    digits = [each.hex().encode() for each in SENTINELS]
    return leaks_in(name, data) + [f"{each!r} in {name}" for each in digits if each in data]


def test_the_search_of_the_server_finds_what_is_not_sealed(tmp_path: Path) -> None:
    with Server(WITNESSED) as server:
        site = Site(server, server.make_database())
        live(tmp_path, RECORDS_OF_A_MISTAKE, mutation="seal_nothing", database=site.address)
        leaky = {name for name, data in server.every_byte().items() if leaks_or_hex(name, data)}
        assert leaks_or_hex("dump", site.dump().encode())
    assert "server.log" in leaky
    assert {name.split("/")[1] for name in leaky if "/" in name} >= {"base", "pg_wal"}


@pytest.mark.parametrize("mutation", ["forget_the_intents", "keep_spent_values"])
def test_f1_f12_the_attacker_of_a_server_opens_the_dead_with(
    mutation: str, witnessed: Server, tmp_path: Path
) -> None:
    site = Site(witnessed, witnessed.make_database())
    witness = Witness(site)
    life = live(tmp_path, RECORDS_OF_A_MISTAKE, mutation=mutation, database=site.address)
    life.rows = witness.committed()
    witness.close()
    assert attack(life, life.home).wrongly
