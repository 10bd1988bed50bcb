"""The SQLite connection and the look at a file before SQLite touches it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from eph_e2ee.errors import VaultDamaged, VaultForeign, VaultTooNew, VaultUnavailable
from eph_e2ee.vault import database as module
from eph_e2ee.vault.database import FORMAT, Database, examine, meta, translate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a ? b.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database(path) as database:
        database.create()
        yield database


def put(database: Database, name: str) -> None:
    with database.connection.begin():
        database.connection.execute(insert(meta), {"name": name, "value": "x"})


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [("secure_delete", 1), ("synchronous", 2), ("temp_store", 2), ("journal_mode", "wal")],
)
def test_f3_the_pragmas_hold_on_the_connection_that_writes(
    database: Database, pragma: str, expected: object
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
    with Database(path):
        assert open_transactions == [False, False]


def test_f3_a_sqlite_that_does_not_obey_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.PRAGMAS, "secure_delete", ("FAST", 1))
    with pytest.raises(VaultUnavailable, match="secure_delete"):
        Database(path)


def test_a_transaction_is_immediate_and_savepoints_undo_a_part(
    database: Database, path: Path
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


def test_f2_a_reader_in_the_way_of_the_checkpoint_is_reported(
    database: Database, path: Path
) -> None:
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
    with Database(path) as database:
        database.create()
        put(database, "a")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_our_own_file_passes(database: Database, path: Path) -> None:
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
    ],
)
def test_f44_a_wrong_header_has_its_own_error(
    database: Database, path: Path, at: int, value: bytes, error: type[Exception]
) -> None:
    database.close()
    spoiled(path, at, value)
    with pytest.raises(error):
        examine(path)


@pytest.mark.parametrize("size", [0, 50, 4096 + 7])
def test_f44_a_file_that_was_cut_short_is_damaged(
    database: Database, path: Path, size: int
) -> None:
    database.close()
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(VaultDamaged):
        examine(path)


def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailable):
        examine(tmp_path / "missing")


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailable, match="SQLITE_CANTOPEN"):
        Database(tmp_path / "missing" / "vault.db")


def test_f10_no_parameter_is_in_an_error(database: Database) -> None:
    put(database, "sentinel")
    with pytest.raises(IntegrityError) as caught:
        put(database, "sentinel")
    assert "sentinel" not in f"{caught.value} {translate(caught.value)!r}"


def test_damage_that_sqlite_finds_is_told_from_a_full_disk() -> None:
    def error(name: str) -> OperationalError:
        original = sqlite3.OperationalError()
        original.sqlite_errorname = name
        return OperationalError("statement", None, original)

    assert isinstance(translate(error("SQLITE_CORRUPT_VTAB")), VaultDamaged)
    assert isinstance(translate(error("SQLITE_FULL")), VaultUnavailable)
