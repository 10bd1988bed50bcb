"""One SQLite connection, one PostgreSQL connection, and what the vault asks of either."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from eph_e2ee.errors import VaultDamaged, VaultForeign, VaultTooNew, VaultUnavailable
from eph_e2ee.vault import sqlite as module
from eph_e2ee.vault.database import (
    ENDING,
    FORMAT,
    UNSENT,
    Database,
    messages,
    meta,
    replays,
    translate,
)
from eph_e2ee.vault.postgresql import SCHEMA_PREFIX, PostgreSQL, parse_address
from eph_e2ee.vault.sqlite import SQLite, examine, interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgresql import Site

SCHEMA = SCHEMA_PREFIX + "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a ? b.db"


@pytest.fixture
def database(path: Path) -> Iterator[SQLite]:
    with SQLite(path) as database:
        database.create()
        yield database


def put(database: Database, name: str) -> None:
    with database.connection.begin():
        database.connection.execute(insert(meta), {"name": name, "value": "x"})


# What the vault asks of either.


@pytest.fixture
def either(engine: str, request: pytest.FixtureRequest) -> Database:
    """An empty database of the engine in question."""
    name = "database" if engine == "sqlite" else "remote"
    either: Database = request.getfixturevalue(name)
    return either


@pytest.fixture
def remote(site: Site) -> Iterator[PostgreSQL]:
    """An empty schema on the server."""
    with PostgreSQL(parse_address(site.address), SCHEMA) as remote:
        remote.create([])
        yield remote


def test_rows_come_back_in_the_order_of_the_columns(either: Database) -> None:
    row = (1, 2, 1, 3, 0, None, 2**40, 1, 2**33, 2**39, None, bytes(range(256)))
    one = either.plain(select(messages).where(messages.c.number.in_([0, 0])))
    with either.connection.begin():
        either.connection.exec_driver_sql(either.insertion(messages), [row])
    with either.connection.begin():
        assert [tuple(r) for r in either.connection.exec_driver_sql(one, (7, 1))] == [row]


def test_of_equal_replay_hashes_the_first_stays(either: Database) -> None:
    with either.connection.begin():
        for rows in ([(b"a", 1), (b"a", 2)], [(b"a", 3), (b"b", 4)]):
            either.connection.exec_driver_sql(either.insertion(replays), rows)
    with either.connection.begin():
        found = either.connection.execute(select(replays).order_by(replays.c.hash)).all()
    assert [tuple(row) for row in found] == [(b"a", 1), (b"b", 4)]


def test_a_savepoint_undoes_a_part(either: Database) -> None:
    with either.connection.begin():
        either.execute_plain("SAVEPOINT work")
        either.connection.execute(insert(meta), {"name": "kept", "value": ""})
        either.execute_plain("RELEASE SAVEPOINT work")
        either.execute_plain("SAVEPOINT work")
        with pytest.raises(IntegrityError):
            either.connection.execute(insert(meta), {"name": "kept", "value": ""})
        either.execute_plain("ROLLBACK TO SAVEPOINT work")
        either.execute_plain("RELEASE SAVEPOINT work")
    with either.connection.begin():
        assert "kept" in either.connection.scalars(select(meta.c.name)).all()


def test_compacting_gives_room_back_and_keeps_the_rows(either: Database) -> None:
    with either.connection.begin():
        rows = [(bytes([i % 256, i // 256]) * 50, i) for i in range(5000)]
        either.connection.exec_driver_sql(either.insertion(replays), rows)
    with either.connection.begin():
        either.connection.execute(delete(replays).where(replays.c.number > 10))
    before = either.size()
    either.compact()
    assert either.size() < before / 2
    with either.connection.begin():
        assert len(either.connection.execute(select(replays)).all()) == 11


def test_f10_no_parameter_is_in_an_error(either: Database) -> None:
    put(either, "sentinel")
    with pytest.raises(IntegrityError) as caught:
        put(either, "sentinel")
    assert "parameters hidden" in str(caught.value)
    assert "sentinel" not in repr(translate(caught.value))


def test_f2_a_database_says_whether_it_can_be_scrubbed(either: Database, engine: str) -> None:
    assert either.scrubs is either.scrub() is (engine == "sqlite")


def test_a_database_says_what_it_is(either: Database) -> None:
    assert re.fullmatch(r"SQLite 3\.[\d.]+|PostgreSQL \d\d[\w.]*", either.engine)


@pytest.mark.parametrize(
    ("predicate", "index"), [(ENDING, "messages_by_deadline"), (UNSENT, "messages_unsent")]
)
def test_the_partial_indexes_serve_their_predicates(
    either: Database, engine: str, predicate: str, index: str
) -> None:
    column = messages.c.deadline if predicate == ENDING else messages.c.number
    wanted = either.plain(select(column).where(text(predicate)).order_by(column))
    with either.connection.begin():
        if engine == "postgresql":
            either.execute_plain("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN " if engine == "sqlite" else "EXPLAIN "
        plan = either.connection.exec_driver_sql(explain + wanted).all()
    assert index in str(plan)


# SQLite.


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [("secure_delete", 1), ("synchronous", 2), ("temp_store", 2), ("journal_mode", "wal")],
)
def test_f3_the_pragmas_hold_on_the_connection_that_writes(
    database: SQLite, pragma: str, expected: object
) -> None:
    put(database, "a")
    assert database.driver.execute(f"PRAGMA {pragma}").fetchone()[0] == expected


def test_f3_no_pragma_is_set_inside_a_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_transactions: list[bool] = []
    prepare = module._prepare

    def watched(connection: sqlite3.Connection, record: object) -> None:
        open_transactions.append(connection.in_transaction)
        prepare(connection, record)  # type: ignore[arg-type]  # the driver's own connection
        open_transactions.append(connection.in_transaction)

    monkeypatch.setattr(module, "_prepare", watched)
    with SQLite(path):
        assert open_transactions == [False, False]


def test_f3_a_sqlite_that_does_not_obey_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.PRAGMAS, "secure_delete", ("FAST", 1))
    with pytest.raises(VaultUnavailable, match="secure_delete"):
        SQLite(path)


def test_a_transaction_is_immediate_and_savepoints_undo_a_part(
    database: SQLite, path: Path
) -> None:
    connection = database.connection
    with connection.begin():
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        connection.execute(insert(meta), {"name": "kept", "value": ""})
        connection.exec_driver_sql("SAVEPOINT work")
        connection.execute(insert(meta), {"name": "undone", "value": ""})
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT work")
        connection.exec_driver_sql("RELEASE SAVEPOINT work")
    with connection.begin():
        assert connection.scalars(select(meta.c.name)).all() == ["kept"]


def test_f2_a_reader_in_the_way_of_the_checkpoint_is_reported(database: SQLite, path: Path) -> None:
    database.driver.execute("PRAGMA busy_timeout = 0")
    log = path.with_name(path.name + "-wal")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        put(database, "a")
        assert database.scrub() is False
        assert log.stat().st_size > 0
    assert database.scrub() is True
    assert log.stat().st_size == 0


def test_closing_leaves_no_log(path: Path) -> None:
    with SQLite(path) as database:
        database.create()
        put(database, "a")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_our_own_file_passes(database: SQLite, path: Path) -> None:
    database.close()
    examine(path)


def spoiled(path: Path, at: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, b"not a database", VaultDamaged),
        (68, b"moz!", VaultForeign),
        (60, (FORMAT + 1).to_bytes(4, "big"), VaultTooNew),
        (60, (FORMAT - 1).to_bytes(4, "big"), VaultForeign),
    ],
)
def test_f44_a_wrong_header_has_its_own_error(
    database: SQLite, path: Path, at: int, value: bytes, error: type[Exception]
) -> None:
    database.close()
    spoiled(path, at, value)
    with pytest.raises(error):
        examine(path)


@pytest.mark.parametrize("size", [0, 50, 4096 + 7])
def test_f44_a_file_that_was_cut_short_is_damaged(database: SQLite, path: Path, size: int) -> None:
    database.close()
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(VaultDamaged):
        examine(path)


def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailable):
        examine(tmp_path / "missing")


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailable, match="SQLITE_CANTOPEN"):
        SQLite(tmp_path / "missing" / "vault.db")


def test_damage_that_sqlite_finds_is_told_from_a_full_disk() -> None:
    def error(name: str) -> OperationalError:
        original = sqlite3.OperationalError()
        original.sqlite_errorname = name
        return OperationalError("statement", None, original)

    assert isinstance(translate(error("SQLITE_CORRUPT_VTAB")), VaultDamaged)
    assert isinstance(translate(error("SQLITE_FULL")), VaultUnavailable)


def copied(path: Path, to: Path) -> Path:
    """Return a copy of a database and its log, as a crash would leave them now."""
    to.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        (to / file.name).write_bytes(file.read_bytes())
    return to / path.name


def test_f12_a_log_tells_of_a_transaction_that_was_never_committed(
    database: SQLite, path: Path, tmp_path: Path
) -> None:
    assert not interrupted(path.with_name("missing.db"))
    put(database, "one")
    assert not interrupted(copied(path, tmp_path / "committed"))
    database.driver.execute("PRAGMA cache_size = 2")
    with database.connection.begin() as transaction:
        for number in range(100):
            row = {"name": f"{number}", "value": "x" * 9000}
            database.connection.execute(insert(meta), row)
        assert interrupted(copied(path, tmp_path / "begun"))
        transaction.rollback()
    assert interrupted(copied(path, tmp_path / "undone"))
    assert database.scrub()
    put(database, "two")
    assert not interrupted(copied(path, tmp_path / "scrubbed"))


def test_f12_a_last_page_that_is_torn_was_never_committed(
    database: SQLite, path: Path, tmp_path: Path
) -> None:
    put(database, "one")
    whole = copied(path, tmp_path / "whole")
    log = whole.with_name(f"{whole.name}-wal")
    content = log.read_bytes()
    for torn in (content[:-1], content[:-4096], content[:-1] + bytes([content[-1] ^ 1])):
        log.write_bytes(torn)
        assert interrupted(whole)
    for short in (b"", content[:20], content[:32], content[:40]):
        log.write_bytes(short)
        assert not interrupted(whole)
