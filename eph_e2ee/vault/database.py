"""The tables of the vault, and one SQLite connection that leaves as little behind as SQLite can.

Nothing here can read a message: rows hold numbers, phases, deadlines, 16-byte keyed hashes and
sealed bytes. Forgetting never depends on bytes being overwritten; the pragmas are a second line.
"""

import os
import sqlite3
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    NullPool,
    SmallInteger,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from eph_e2ee.errors import (
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
)
from eph_e2ee.vault.privatefile import reported

__all__ = [
    "FORMAT",
    "NOT_GONE",
    "RUNNING",
    "UNSENT",
    "Database",
    "conversations",
    "examine",
    "intents",
    "messages",
    "meta",
    "replays",
    "reported_as",
    "state",
    "translate",
]

APPLICATION_ID: Final = 0x65706865
"""The bytes "ephe" at offset 68 of an SQLite file: tells a vault from any other database."""

FORMAT: Final = 1
"""The `user_version` this code writes; a greater one is a newer library's."""

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

RUNNING: Final = "messages.phase = 3"
"""Rows whose timer runs. A literal, since SQLite matches a partial index by its text only."""

NOT_GONE: Final = "messages.phase <> 4"
"""All but tombstones."""

UNSENT: Final = "messages.delivery = 0 AND messages.phase <> 4"
"""Messages of ours that have not left this machine."""

Number = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

messages = Table(
    "messages",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=False),
    Column("conversation", Number, nullable=False),
    Column("direction", SmallInteger, nullable=False),
    Column("phase", SmallInteger, nullable=False),
    Column("delivery", SmallInteger, nullable=False),
    Column("timer", BigInteger),
    Column("deadline", BigInteger),
    # The leaf that seals the content key: (region, leaf_group, number).
    Column("region", SmallInteger, nullable=False),
    Column("leaf_group", BigInteger, nullable=False),
    Column("sealed_key", LargeBinary),
    Column("content", LargeBinary),
    Index("messages_by_conversation", "conversation", "number"),
    Index("messages_by_deadline", "deadline", sqlite_where=text("phase = 3")),
    Index("messages_unsent", "number", sqlite_where=text("delivery = 0 AND phase <> 4")),
)

replays = Table(
    "replays",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("number", Number, nullable=False),
    sqlite_with_rowid=False,
)

conversations = Table(
    "conversations",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("kept_group", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

state = Table(
    "state",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

intents = Table(
    "intents",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("cut", LargeBinary, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)


def examine(path: Path) -> None:
    """Look at a database file's header without letting SQLite touch it.

    Raises:
        VaultDamaged: the file is empty, cut short, or not a database at all.
        VaultForeign: it is the database of another application.
        VaultTooNew: a newer version of this library wrote it.
        VaultUnavailable: it cannot be read.
    """
    with reported(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(HEADER_SIZE)
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        raise VaultDamaged("the database of the vault is empty or overwritten: restore it")
    page_size = int.from_bytes(header[16:18], "big")
    if size % (page_size if page_size > 1 else 65536):
        raise VaultDamaged("the database of the vault has been cut short: restore it")
    version, application = struct.unpack(">I4xI", header[60:72])
    if application != APPLICATION_ID:
        raise VaultForeign("the database belongs to another application: choose another folder")
    if version > FORMAT:
        raise VaultTooNew("a newer version of eph-e2ee wrote this vault: update the library")


def translate(error: SQLAlchemyError | sqlite3.Error) -> VaultError:
    """Return our error for the database's; parameters never appear in its text."""
    original = (isinstance(error, DBAPIError) and error.orig) or error
    name = getattr(original, "sqlite_errorname", type(original).__name__)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return VaultDamaged(f"the database of the vault is damaged ({name}): restore it")
    return VaultUnavailable(f"the database refused ({name}): free space or mend it, then try again")


def reported_as(error: BaseException) -> BaseException:
    """Return what a caller hears of an error: ours for SQLAlchemy's and the driver's, else itself.

    Nothing of the original hangs on ours, neither its text nor what it was raised from.
    """
    return translate(error) if isinstance(error, SQLAlchemyError | sqlite3.Error) else error


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


class Database:
    """One connection to an SQLite database of a vault; used on one thread.

    Attributes:
        connection: SQLAlchemy's connection; `connection.begin()` starts an immediate transaction.

    Raises:
        VaultDamaged, VaultUnavailable: SQLite cannot open or read the file.
    """

    def __init__(self, path: Path) -> None:
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": BUSY_SECONDS},
        )
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
        try:
            self.connection = engine.connect()
        except SQLAlchemyError as error:
            raise translate(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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
        try:
            with self.connection.begin():
                metadata.create_all(self.connection)
                self.connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                self.connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")
        except SQLAlchemyError as error:
            raise translate(error) from None

    def scrub(self) -> bool:
        """Empty the write-ahead log into the database; True when nothing stood in the way (F2).

        One open reader is enough to keep old pages in the log: False then, and the records are
        still out of reach, because their keys are what was destroyed.

        Raises:
            VaultUnavailable: the disk refuses.
        """
        try:
            row = self.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise VaultUnavailable(
                f"the log cannot be emptied ({error.sqlite_errorname})"
            ) from None
        return row is not None and row[0] == 0

    def close(self) -> None:
        """Close the connection; SQLite then empties and removes its log. Safe to repeat."""
        self.connection.close()
        self.connection.engine.dispose()
