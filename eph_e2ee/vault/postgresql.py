"""One connection to a schema of a PostgreSQL database, the vault's own.

The server, its replicas, log archives and backups have no key: forgetting works on all of them at
once, and none of their pages needs to be overwritten. The session holds an advisory lock for as
long as the vault is open, so that a copy of the vault's folder on another machine cannot open it.
A pooler that gives each transaction another session cannot keep that lock and must not stand in
between. When the connection is lost, the running work fails, and the next one connects anew.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultError,
    VaultInUse,
    VaultUnavailable,
)
from eph_e2ee.vault.database import (
    FORMAT,
    Database,
    check_format,
    meta,
    metadata,
    reported_as,
    translated,
)

__all__ = ["SCHEMA_PREFIX", "PostgreSQL", "parse_address"]

SCHEMA_PREFIX: Final = "eph_e2ee_"
"""How the names of all vaults' schemas begin."""

DRIVER: Final = "postgresql+psycopg"

CONNECT_SECONDS: Final = 10
"""How long connecting may take: the vault's works wait meanwhile."""

SILENCE_SECONDS: Final = 15
"""After so long a silence of the other side, it is asked for a sign of life."""

PROBE_SECONDS: Final = 5
PROBES: Final = 3
"""How often and how many times it is asked: a network that is dead is noticed in half a minute,
by us, who can then connect anew, and by the server, which then gives the vault's lock free."""

UNANSWERED_MILLISECONDS: Final = 30_000
"""How long what was sent may stay unacknowledged; probes are for silence only."""

STATEMENT_SECONDS: Final = 60
"""A statement takes milliseconds, one that sweeps thousands of rows some hundred of them; a
server that hangs must not hold all messages up for ever."""

LOCK_SECONDS: Final = 1
"""How long any lock is waited for. The vault is its tables' only user; the vault's own lock can be
held a moment longer by the session of a process that has just been killed."""

LOCK_NOT_AVAILABLE: Final = "55P03"
"""The SQLSTATE of a lock that was not had in time."""

CONNECTION: Final[Mapping[str, str | int]] = {
    "application_name": "eph_e2ee",
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": SILENCE_SECONDS,
    "keepalives_interval": PROBE_SECONDS,
    "keepalives_count": PROBES,
    "tcp_user_timeout": UNANSWERED_MILLISECONDS,
}

SETTINGS: Final[Mapping[str, str]] = {
    # No text of the server's is wanted that could quote a row; errors are read by their code.
    "client_min_messages": "error",
    "default_transaction_isolation": "read committed",
    "lock_timeout": f"{LOCK_SECONDS}s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "tcp_keepalives_idle": str(SILENCE_SECONDS),
    "tcp_keepalives_interval": str(PROBE_SECONDS),
    "tcp_keepalives_count": str(PROBES),
}

DURABLE: Final = frozenset({"on", "remote_apply"})
"""The values of `synchronous_commit` by which a commit that was reported survives a crash."""

FORMAT_NAME: Final = "format"
"""The meta row with the format, which an SQLite file has in its header."""

OWNER: Final = "owner"
"""The meta row with a random text of the session that opened the vault last."""

OWNER_BYTES: Final = 16

COUNT_BYTES = text(
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = to_regnamespace(:schema)"
)


def parse_address(address: str | URL) -> URL:
    """Return the address of a PostgreSQL database, with the driver that is used here.

    Raises:
        LocalProtocolError: it is no such address.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in {"postgresql", DRIVER}:
        raise LocalProtocolError(
            "this is no address of a database: write postgresql://user@host:5432/name"
        )
    return url.set(drivername=DRIVER)


class PostgreSQL(Database):
    """A vault's schema; it may be missing until `create`.

    Args:
        address: what `parse_address` returned.
        schema: its name, which needs no quotes.

    Raises:
        LocalProtocolError: psycopg is not installed.
        VaultInUse: another session holds the vault's lock.
        VaultUnavailable: the server cannot be reached, or refuses.
    """

    scrubs: ClassVar = False

    def __init__(self, address: URL, schema: str) -> None:
        super().__init__()
        self._schema = schema
        self._owner: str | None = None
        self.interrupted = False
        try:
            engine = create_engine(
                address,
                poolclass=NullPool,
                hide_parameters=True,
                paramstyle="format",
                use_native_hstore=False,
                connect_args=dict(CONNECTION),
            )
        except ImportError:
            raise LocalProtocolError(
                "a vault on PostgreSQL needs psycopg: pip install 'eph-e2ee[postgres]'"
            ) from None
        # Before SQLAlchemy's own first look at the server.
        event.listen(engine, "connect", self._prepare, insert=True)
        self.connection = _connected(engine)
        version = self._driver.info.parameter_status("server_version") or "of unknown version"
        self.engine = f"PostgreSQL {version.split()[0]}"

    def create(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Write the schema and the first rows of `meta`, all or nothing.

        What an interrupted making left under this very name goes first.

        Raises:
            VaultUnavailable: the server refuses.
        """
        with translated(), self.connection.begin():
            self.connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {self._schema} CASCADE")
            self.connection.exec_driver_sql(f"CREATE SCHEMA {self._schema}")
            metadata.create_all(self.connection, checkfirst=False)
            own = [
                {"name": FORMAT_NAME, "value": str(FORMAT)},
                {"name": OWNER, "value": ""},
            ]
            self.connection.execute(insert(meta), [*own, *rows])

    def claim(self) -> None:
        """Be the owner from now on: whoever was it before, and lost the lock, is told so.

        Raises:
            VaultUnavailable: the server refuses.
        """
        owner = secrets.token_hex(OWNER_BYTES)
        named = select(meta.c.value).where(meta.c.name == OWNER)
        with translated(), self.connection.begin():
            # Whoever has closed the vault has left none.
            self.interrupted = bool(self.connection.scalar(named))
            self._own(owner)
        self._owner = owner

    def release(self) -> None:
        """Be the owner no more: nothing that was begun is left undone.

        Raises:
            VaultUnavailable: the server refuses.
        """
        with translated(), self.connection.begin():
            self._own("")
        self._owner = None

    def _own(self, owner: str) -> None:
        self.connection.execute(update(meta).where(meta.c.name == OWNER).values(value=owner))

    def close(self) -> None:
        """Give the lock free, and close the connection. Safe to repeat.

        The server notices the end of a connection when it has time to, perhaps too late for whoever
        opens the vault next.
        """
        if not (self.connection.closed or self.connection.invalidated):
            with suppress(VaultError), translated():  # a session that fails ends with its lock
                self._driver.rollback()
                self._driver.execute("SELECT pg_advisory_unlock_all()")
        super().close()

    def examine(self) -> None:
        """See whether there is a vault of this format.

        Raises:
            VaultDamaged: the schema is not in this database.
            VaultForeign: it was made before the first release.
            VaultTooNew: a newer version of this library wrote it.
            VaultUnavailable: the server refuses.
        """
        of_format = select(meta.c.value).where(meta.c.name == FORMAT_NAME)
        found = None
        with translated(), self.connection.begin():
            name = {"name": f"{self._schema}.{meta.name}"}
            if self.connection.scalar(text("SELECT to_regclass(:name)::text"), name):
                found = self.connection.scalar(of_format)
        if found is None or not found.isdecimal():
            raise VaultDamaged(
                f"this database has no vault {self._schema}: give the right address, or restore it"
            )
        check_format(int(found))

    def execute_plain(self, statement: str) -> None:
        """Run a statement past SQLAlchemy.

        Raises:
            psycopg.Error: the server refuses it, or cannot be reached any more.
        """
        self._driver.execute(statement)

    def scrub(self) -> bool:
        """Return False: no server can be asked to leave no old pages, log or replica (F2).

        They hold what has been forgotten, sealed under keys that are nowhere any more.
        """
        return False

    def compact(self) -> None:
        """Write all tables anew. What the server keeps beside them, its log say, stays.

        Raises:
            VaultUnavailable: the server refuses, or another session reads the tables.
        """
        with translated():
            driver = self._driver
            driver.autocommit = True
            try:
                # As long as it takes: it was asked for.
                driver.execute("SET statement_timeout = 0")
                for table in metadata.sorted_tables:
                    driver.execute(f"VACUUM (FULL, ANALYZE) {table.name}")
            finally:
                if driver.closed:
                    # SQLAlchemy has not seen that: there is no transaction whose end would fail.
                    self.connection.invalidate()
                else:
                    driver.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
                    driver.autocommit = False

    def size(self) -> int:
        """Return the bytes of the vault's tables and indexes.

        Raises:
            VaultUnavailable: the server refuses.
        """
        with translated(), self.connection.begin():
            return int(self.connection.scalar(COUNT_BYTES, {"schema": self._schema}) or 0)

    @property
    def _driver(self) -> Any:
        """The connection of psycopg, whose types are not known where it is not installed."""
        return self.connection.connection.driver_connection

    def _prepare(self, driver: Any, _: ConnectionPoolEntry) -> None:
        """Take the vault's lock, and set up a session; believe only what reads back (F3)."""
        try:
            driver.autocommit = True
            _set(driver, SETTINGS)
            self._take_lock(driver)
            _set(driver, {"search_path": self._schema})
            self._check_owner(driver)
            _make_durable(driver)
            driver.autocommit = False
        except BaseException:  # also a cancelled one must not stay open
            driver.close()
            raise

    def _check_owner(self, driver: Any) -> None:
        """See to it, after a lost connection, that nobody else has had the vault meanwhile.

        Another owner may have forgotten what is still known here, and given numbers away.
        """
        if self._owner is None:
            return
        found = driver.execute("SELECT value FROM meta WHERE name = %s", (OWNER,)).fetchone()
        if found != (self._owner,):
            raise VaultInUse(
                "the vault was opened elsewhere while the connection was lost: end it there, and "
                "open it anew"
            )

    def _take_lock(self, driver: Any) -> None:
        digest = hashlib.sha256(b"eph_e2ee vault " + self._schema.encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        try:
            driver.execute("SELECT pg_advisory_lock(%s)", (number,))
        except Exception as error:  # psycopg is an extra: its errors are known by their code
            if getattr(error, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            raise VaultInUse(
                "another process, perhaps with a copy of the folder on another machine, has the "
                "vault's database open; end it first"
            ) from None


def _connected(engine: Engine) -> Connection:
    failure: BaseException
    try:
        return engine.connect()
    except Exception as error:  # noqa: BLE001  what it was is told below
        failure = reported_as(error)
        if failure is not error and isinstance(failure, VaultUnavailable):
            failure = _unreachable(engine.url)
    # Out here, no error of the driver's hangs on ours: it knows the password.
    raise failure


def _set(driver: Any, settings: Mapping[str, str]) -> None:
    """Set what holds for the session, with one statement."""
    calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
    driver.execute(f"SELECT {calls}", [word for pair in settings.items() for word in pair])


def _shown(driver: Any, setting: str) -> str:
    (value,) = driver.execute(f"SHOW {setting}").fetchone()
    return str(value)


def _make_durable(driver: Any) -> None:
    if _shown(driver, "synchronous_commit") not in DURABLE:
        _set(driver, {"synchronous_commit": "on"})
    if _shown(driver, "synchronous_commit") not in DURABLE:
        raise VaultUnavailable("this PostgreSQL refuses to set synchronous_commit to on")


def _unreachable(address: URL) -> VaultUnavailable:
    """Return an error that says where, and no word of the driver's."""
    place = f"{address.host or 'this machine'}:{address.port or 5432}"
    return VaultUnavailable(
        f"the database at {place} cannot be reached: see that it runs, and that its name, the user "
        "and the password are right"
    )
