"""The tables of the vault, and what it asks of any database that holds them.

Nothing here can read a message: rows hold numbers, phases, deadlines, 16-byte keyed hashes and
sealed bytes. Forgetting never depends on bytes being overwritten; what a database does about old
pages is a second line. `sqlite.py` and `postgresql.py` are the two databases.
"""

import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Final, Self

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TextClause,
    insert,
    text,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from eph_e2ee.errors import VaultDamaged, VaultError, VaultForeign, VaultTooNew, VaultUnavailable

__all__ = [
    "CLOCK",
    "ENDING",
    "FORMAT",
    "MARK",
    "NOT_GONE",
    "UNSENT",
    "Database",
    "check_format",
    "conversations",
    "intents",
    "messages",
    "meta",
    "metadata",
    "replays",
    "reported_as",
    "state",
    "translate",
    "translated",
]

FORMAT: Final = 3
"""The format this code writes; a greater one is a newer library's."""

CLOCK: Final = "clock"
"""The meta row with what the clock showed."""

MARK: Final = "mark"
"""The meta row that ties a database to its key file."""

DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002", "42P01")
"""How the names of errors begin that tell of damage: SQLite's, and SQLSTATEs of PostgreSQL for
damaged data, a damaged index and a table that is not there."""

LOST: Final = ("57P", "08", "OperationalError", "PendingRollbackError")
"""The same of errors that end a connection; psycopg's own have no SQLSTATE."""

ENDING: Final = "messages.deadline IS NOT NULL AND messages.phase <> 4"
"""Rows with a deadline to come: those whose timer runs, and others that may not stay for ever.
Literals, since SQLite matches a partial index by its text only."""

NOT_GONE: Final = "messages.phase <> 4"
"""All but tombstones."""

UNSENT: Final = "messages.delivery = 0 AND messages.phase <> 4"
"""Messages of ours that have not left this machine."""


def _where(predicate: str) -> TextClause:
    """Return a predicate as an index of the table has it: with bare names."""
    return text(predicate.replace("messages.", ""))


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
    # The leaf that seals the content key: (region, epoch, leaf_group, number).
    Column("region", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("leaf_group", BigInteger, nullable=False),
    Column("sealed_key", LargeBinary),
    Column("content", LargeBinary),
    Index("messages_by_conversation", "conversation", "number"),
    Index(
        "messages_by_deadline",
        "deadline",
        sqlite_where=_where(ENDING),
        postgresql_where=_where(ENDING),
    ),
    Index(
        "messages_unsent",
        "number",
        sqlite_where=_where(UNSENT),
        postgresql_where=_where(UNSENT),
    ),
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
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

state = Table(
    "state",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
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


def check_format(version: int) -> None:
    """Look at the format that a database says it has.

    Raises:
        VaultForeign: it was made before the first release.
        VaultTooNew: a newer version of this library wrote it.
    """
    if version < FORMAT:
        raise VaultForeign(
            "the vault was made before the first release, which cannot read it: choose another "
            "folder"
        )
    if version > FORMAT:
        raise VaultTooNew("a newer version of eph-e2ee wrote this vault: update the library")


def translate(error: BaseException) -> VaultError:
    """Return our error for the database's; parameters never appear in its text."""
    original = (isinstance(error, DBAPIError) and error.orig) or error
    name = str(
        getattr(original, "sqlite_errorname", None)
        or getattr(original, "sqlstate", None)
        or type(original).__name__
    )
    if name.startswith(DAMAGED):
        return VaultDamaged(f"the database of the vault is damaged ({name}): restore it")
    if name.startswith(LOST):
        return VaultUnavailable(
            f"the connection to the database is lost ({name}): try again, and it is made anew"
        )
    return VaultUnavailable(f"the database refused ({name}): free space or mend it, then try again")


def reported_as(error: BaseException) -> BaseException:
    """Return what a caller hears of an error: ours for SQLAlchemy's and the driver's, else itself.

    Nothing of the original hangs on ours, neither its text nor what it was raised from.
    """
    return translate(error) if _is_of_database(error) else error


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error of the database in a block into ours.

    Raises:
        VaultDamaged, VaultUnavailable: as `translate` has it.
    """
    try:
        yield
    except Exception as error:  # the database's have no common root; any other goes on as it is
        if isinstance(found := reported_as(error), VaultError):
            raise found from None
        raise


def _is_of_database(error: BaseException) -> bool:
    # Nobody can have an error of psycopg's who has not imported it, and it is not always there.
    psycopg = sys.modules.get("psycopg")
    return isinstance(error, SQLAlchemyError | sqlite3.Error) or (
        psycopg is not None and isinstance(error, psycopg.Error)
    )


class Database(ABC):
    """One connection to the database of a vault; used on one thread. A context manager.

    Attributes:
        connection: SQLAlchemy's; `connection.begin()` starts a transaction.
        engine: the database's name and version.
        scrubs: whether `scrub` can empty anything at all on this database.
        interrupted: whether the last one to use it may have been in the middle of a transaction,
            so that something may stand in its files that was never committed.
    """

    scrubs: ClassVar[bool]
    connection: Connection
    engine: str
    interrupted: bool

    def __init__(self) -> None:
        self._insertions: dict[Table, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def plain(self, statement: ClauseElement) -> str:
        """Return the driver's text of a statement, for `connection.exec_driver_sql`.

        Each bound value of it, also one given in Python, is a parameter, by its position in the
        text: a tuple of them, or a list of tuples.
        """
        return str(
            statement.compile(
                dialect=self.connection.dialect, compile_kwargs={"render_postcompile": True}
            )
        )

    def insertion(self, table: Table) -> str:
        """Return the driver's text that inserts every column of a table in its order.

        Of two replay hashes that are equal, the first stays.
        """
        if table not in self._insertions:
            words = self.plain(insert(table))
            if table is replays:
                words += " ON CONFLICT DO NOTHING"
            self._insertions[table] = words
        return self._insertions[table]

    def close(self) -> None:
        """Close the connection. Safe to repeat."""
        self.connection.close()
        self.connection.engine.dispose()

    def claim(self) -> None:
        """Be the owner from now on, also across lost connections, when nobody else can be.

        Raises:
            VaultUnavailable: the database refuses.
        """
        return  # A file's owner is who holds the lock of its folder.

    def release(self) -> None:
        """Be the owner no more, since nothing that was begun is left undone.

        Raises:
            VaultUnavailable: the database refuses.
        """
        return  # The same.

    @abstractmethod
    def execute_plain(self, statement: str) -> None:
        """Run a statement without parameters or rows past SQLAlchemy, which costs more than it.

        Raises:
            The driver's error, which `reported_as` knows.
        """

    @abstractmethod
    def scrub(self) -> bool:
        """Empty what keeps old pages; True when nothing old is left that it can reach (F2).

        Raises:
            VaultUnavailable: the database refuses.
        """

    @abstractmethod
    def compact(self) -> None:
        """Write everything anew without old pages; outside of a transaction, and slow.

        Raises:
            VaultUnavailable: the database refuses.
        """

    @abstractmethod
    def size(self) -> int:
        """Return the bytes that it takes.

        Raises:
            VaultUnavailable: the database refuses.
        """
