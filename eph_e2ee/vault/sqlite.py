"""One SQLite connection that leaves as little behind as SQLite can."""

import os
import sqlite3
import struct
from pathlib import Path
from typing import ClassVar, Final

from sqlalchemy import URL, Connection, NullPool, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from eph_e2ee.errors import VaultDamaged, VaultForeign, VaultUnavailable
from eph_e2ee.vault.database import FORMAT, Database, check_format, metadata, translated
from eph_e2ee.vault.privatefile import reported

__all__ = ["COMPANIONS", "SQLite", "examine", "interrupted"]

APPLICATION_ID: Final = 0x65706865
"""The bytes "ephe" at offset 68 of an SQLite file: tells a vault from any other database."""

COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite adds to a name for the files that it keeps beside a database."""

BUSY_SECONDS: Final = 0.25
"""How long SQLite waits for another program's lock: the lock file keeps other vaults away, so only
a reader such as a backup can hold one, and waiting longer would hold up messages."""

CACHE_KIBIBYTES: Final = 16_384
"""SQLite's page cache: the index of replay hashes is hit at random, and 2 MiB, the default, would
have it read and written again and again; memory stays independent of the archive's size."""

PRAGMAS: Final[dict[str, tuple[str | int, str | int]]] = {
    "journal_mode": ("WAL", "wal"),
    "synchronous": ("FULL", 2),
    "secure_delete": ("ON", 1),
    "temp_store": ("MEMORY", 2),
    "cache_size": (-CACHE_KIBIBYTES, -CACHE_KIBIBYTES),
}
"""Pragmas, with what is set and what must read back then."""

HEADER_SIZE: Final = 100
MAGIC: Final = b"SQLite format 3\0"

LOG_HEADER_SIZE: Final = 32
FRAME_HEADER_SIZE: Final = 24
"""Of the write-ahead log, and of each page in it: number (4 bytes), size of the database after a
commit or 0 (4), the log's salts (8), checksums (8)."""


def examine(path: Path) -> None:
    """Look at a database file's header without letting SQLite touch it.

    Raises:
        VaultDamaged: the file is empty, cut short, or not a database at all.
        VaultForeign: it is another application's, or was made before the first release.
        VaultTooNew: a newer version of this library wrote it.
        VaultUnavailable: it cannot be read.
    """
    with reported(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(HEADER_SIZE)
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        raise VaultDamaged("the database of the vault is empty or overwritten: restore it")
    page_size = int.from_bytes(header[16:18], "big")
    # A page that the log holds as well may be half written: then SQLite writes it once more.
    if size % (page_size if page_size > 1 else 65536) and not _log_size(path):
        raise VaultDamaged("the database of the vault has been cut short: restore it")
    version, application = struct.unpack(">I4xI", header[60:72])
    if application != APPLICATION_ID:
        raise VaultForeign("the database belongs to another application: choose another folder")
    check_format(version)


def interrupted(path: Path) -> bool:
    """Return whether a log holds pages of a transaction that was never committed.

    A crash in the middle of a commit leaves them. Looking changes nothing.

    Raises:
        VaultUnavailable: it cannot be read.
    """
    if not _log_size(path):
        return False
    with reported(path), _log(path).open("rb") as file:
        header = file.read(LOG_HEADER_SIZE)
        page_size, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        sums, before, last = header[24:32], b"", b""
        # Frames with other salts are older than the log's last beginning.
        while (frame := file.read(FRAME_HEADER_SIZE))[8:16] == salts and len(salts):
            sums, before, last = frame[16:24], sums, frame
            file.seek(page_size, os.SEEK_CUR)
        if not last:
            return False
        file.seek(-page_size - len(frame), os.SEEK_CUR)
        whole = _sums(before, last[:8] + file.read(page_size), little=header[3] % 2 == 0) == sums
    return not whole or not any(last[4:8])


def _sums(before: bytes, data: bytes, *, little: bool) -> bytes:
    """Continue the two checksums of the log, which are what makes a page of it count."""
    one, two = struct.unpack(">II", before)
    words = struct.unpack(f"{'<' if little else '>'}{len(data) // 4}I", data[: len(data) // 4 * 4])
    for even, odd in zip(words[::2], words[1::2], strict=False):
        one = one + even + two & 0xFFFFFFFF
        two = two + odd + one & 0xFFFFFFFF
    return struct.pack(">II", one, two)


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _log_size(path: Path) -> int:
    with reported(path):
        log = _log(path)
        return log.stat().st_size if log.exists() else 0


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Set each pragma outside of a transaction, and believe only what reads back (F3)."""
    cursor = connection.cursor()
    for pragma, (value, expected) in PRAGMAS.items():
        cursor.execute(f"PRAGMA {pragma} = {value}")
        cursor.execute(f"PRAGMA {pragma}")
        if (row := cursor.fetchone()) is None or row[0] != expected:
            raise VaultUnavailable(f"this SQLite refuses to set {pragma} to {value}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # The driver is in autocommit, so it never begins by itself: pysqlite's own way would begin
    # late, commit before some statements, and break savepoints.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class SQLite(Database):
    """A vault's database in a file; `connection.begin()` starts an immediate transaction.

    Raises:
        VaultDamaged, VaultUnavailable: SQLite cannot open or read the file.
    """

    scrubs: ClassVar = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.engine = f"SQLite {sqlite3.sqlite_version}"
        self._path = path
        self.interrupted = interrupted(path)
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": BUSY_SECONDS},
        )
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
        with translated():
            self.connection = engine.connect()

    @property
    def driver(self) -> sqlite3.Connection:
        """The driver's connection, for what SQLAlchemy has no words for."""
        driver = self.connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection):
            raise TypeError("an SQLite connection was expected")
        return driver

    def create(self) -> None:
        """Write the schema and the two header numbers into a new file.

        Raises:
            VaultUnavailable: the disk or SQLite refuses.
        """
        with translated(), self.connection.begin():
            metadata.create_all(self.connection)
            self.connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            self.connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")

    def scrub(self) -> bool:
        """Empty the write-ahead log into the database; True when nothing stood in the way (F2).

        One open reader is enough to keep old pages in the log: False then, and the records are
        still out of reach, because their keys are what was destroyed.

        Raises:
            VaultUnavailable: the disk refuses.
        """
        with translated():
            row = self.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return row is not None and row[0] == 0

    def compact(self) -> None:
        """Write the whole file anew, through the log, and empty the log.

        Raises:
            VaultUnavailable: the disk refuses, or a reader is in the way.
        """
        with translated():
            self.driver.execute("VACUUM")
        if not self.scrub():
            raise VaultUnavailable("another program reads the vault's database: end it first")

    def size(self) -> int:
        """Return the bytes of the file and of its log."""
        files = [self._path.with_name(self._path.name + companion) for companion in COMPANIONS]
        with reported(self._path):
            return sum(file.stat().st_size for file in files if file.exists())

    def execute_plain(self, statement: str) -> None:
        """Run a statement past SQLAlchemy.

        Raises:
            sqlite3.Error: SQLite refuses it.
        """
        self.driver.execute(statement)
