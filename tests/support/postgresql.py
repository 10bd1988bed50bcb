"""A real, throwaway PostgreSQL on a loopback port, for the tests and benchmarks of the vault.

Everything it writes lies in one temporary folder. It does not run as root: started by root, it is
given to the user whom Debian's package made for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg

from tests.support.port import HOST, Port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["PostgreSQLError", "Server", "Site"]

USER: Final = "vaults"
"""The server's superuser, whom the tests are."""

SERVER_USER: Final = "postgres"
"""Whom Debian's package makes; the server refuses to run as root."""

PROGRAMS: Final = Path("/usr/lib/postgresql")
"""Where Debian's packages of each version put their programs."""

START_SECONDS: Final = 30
"""A start takes a fifth of a second; a machine under load may need a hundred times that."""

COMMAND_SECONDS: Final = 60
"""Making the data directory takes a second or two."""

LOG_LINES: Final = 40
"""How much of the server's log an error shows."""

SETTINGS: Final = {
    "listen_addresses": f"'{HOST}'",
    # The data directory ends with the tests; what a commit promises is set by the library.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_connections": "30",
    "autovacuum": "off",
    "log_statement": "'all'",
    "password_encryption": "'scram-sha-256'",
}
"""The log has every statement with its parameters: the worst server, for the scan of what is left.
Commits do not wait by themselves: the library has to ask for it."""

# The server ends when this pipe closes, so also when the tests are killed. Python itself need not
# be where the server's user may read it.
KEEPER: Final = """
import signal, subprocess, sys
user = sys.argv[1] or None
server = subprocess.Popen(
    sys.argv[2:],
    stdin=subprocess.DEVNULL,
    user=user,
    group=user,
    extra_groups=[] if user else None,
)
sys.stdin.buffer.read()
server.send_signal(signal.SIGINT)
sys.exit(server.wait())
"""


class PostgreSQLError(Exception):
    """The server could not be started or refused a command; its log is in the text."""


class Server:
    """One server: `start` it, `restart` it with its data, `close` it; or use it in a `with`.

    Attributes:
        settings: of the server, those of `SETTINGS` and others.
        port: where it listens on loopback.
        password: of its superuser.
        data: the data directory.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = SETTINGS | dict(settings or {})
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.data = self.folder / "data"
        self.password = secrets.token_hex(16)
        self.port = 0
        self._held: Port | None = None
        self._log = self.folder / "server.log"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._user = SERVER_USER if os.geteuid() == 0 else None

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server and remove its folder."""
        self.close()

    def address(self, database: str = "postgres", *, password: str | None = None) -> str:
        """Return the address of a database, with the password in it."""
        word = self.password if password is None else password
        return f"postgresql://{USER}:{word}@{HOST}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection of the test's own, where each statement is committed at once."""
        return psycopg.connect(self.address(database), autocommit=True)

    def make_database(self) -> str:
        """Make an empty database and return its name; that takes some ten milliseconds."""
        name = f"test_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    def dump(self, database: str) -> str:
        """Return what pg_dump writes of a database: plain, tables and data."""
        command = [self._program("pg_dump"), "--dbname", self.address(database)]
        # Newer ones begin and end with a random word, so that no two dumps are equal.
        lines = self._run(command).decode().splitlines(keepends=True)
        return "".join(
            line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))
        )

    def restore(self, dump: str, database: str) -> None:
        """Run what `dump` returned in another database."""
        command = [self._program("psql"), "--quiet", "--set", "ON_ERROR_STOP=1"]
        self._run([*command, "--dbname", self.address(database)], dump.encode())

    def every_byte(self) -> dict[str, bytes]:
        """Return every file of the server's, its log included, as they are on the disk now."""
        with self.connect() as connection:
            connection.execute("CHECKPOINT")
        found: dict[str, bytes] = {}
        for path in self.folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a temporary one, gone by now
                if path.is_file():
                    found[str(path.relative_to(self.folder))] = path.read_bytes()
        return found

    def start(self) -> Self:
        """Start the server, with a fresh data directory the first time; return once it answers.

        Raises:
            PostgreSQLError: it is not installed, or was not ready in time.
        """
        if self._keeper is not None:
            return self
        if not self.data.exists():
            self._make_data()
        if self._held is None:
            self._held = Port()
        self.port = self._held.number
        command = [self._program("postgres"), "-D", str(self.data), "-p", str(self.port)]
        command += ["-k", str(self.folder)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value.strip(chr(39))}"]
        with self._log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", KEEPER, self._user or "", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # An interrupt at the terminal is for the tests, which then end the server.
                start_new_session=True,
            )
        self._await_answer()
        return self

    def stop(self) -> None:
        """End the server, which ends its sessions; its data stays."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.communicate(timeout=COMMAND_SECONDS)

    def restart(self) -> Self:
        """Stop and start with the same data and port."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """End the server and remove all that it wrote."""
        self.stop()
        if self._held is not None:
            self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_data(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        if self._user is not None:
            shutil.chown(self.folder, self._user, self._user)
            shutil.chown(password_file, self._user, self._user)
        command = [self._program("initdb"), "-D", str(self.data), "--username", USER]
        command += ["--auth", "scram-sha-256", "--pwfile", str(password_file), "--no-sync"]
        self._run([*command, "--encoding", "UTF8", "--locale", "C"])
        password_file.unlink()

    def _run(self, command: list[str], given: bytes = b"") -> bytes:
        ended = subprocess.run(
            command,
            input=given,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
            cwd=self.folder,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
        )
        if ended.returncode:
            raise self._error(ended.stderr.decode(errors="replace"))
        return ended.stdout

    def _await_answer(self) -> None:
        """Wait with PostgreSQL's own program for that, which does not sleep for long."""
        command = [self._program("pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        command += ["-t", "1"]
        for _ in range(START_SECONDS * 20):
            if self._keeper is None or self._keeper.poll() is not None:
                break
            if subprocess.run(command, check=False).returncode == 0:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(0.05)
        self.stop()
        raise self._error("PostgreSQL did not start")

    def _program(self, name: str) -> str:
        """Return the newest program of a name."""
        for folder in sorted(PROGRAMS.glob("*/bin"), key=_version, reverse=True):
            if (folder / name).exists():
                return str(folder / name)
        found = shutil.which(name)
        if found is None:
            raise PostgreSQLError("PostgreSQL is not installed: apt-get install postgresql")
        return found

    def _error(self, what: str) -> PostgreSQLError:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return PostgreSQLError(f"{what}\nIts log ends so:\n" + "\n".join(lines[-LOG_LINES:]))


@dataclass(frozen=True, slots=True)
class Site:
    """One database of the server, for one test.

    Attributes:
        server: the server.
        name: the database's.
    """

    server: Server
    name: str

    @property
    def address(self) -> str:
        """Where it is, with the password."""
        return self.server.address(self.name)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        with self.server.connect(self.name) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def schemas(self) -> list[str]:
        """Return the names of all schemas but the server's own and the usual public one."""
        rows = self.run("SELECT nspname FROM pg_namespace ORDER BY nspname")
        own = ("pg_", "information_schema", "public")
        return [name for (name,) in rows if not name.startswith(own)]

    def dump(self) -> str:
        """Return what pg_dump writes of it."""
        return self.server.dump(self.name)

    def disconnect(self) -> None:
        """End the sessions of all vaults, and return once they have ended."""
        ended = self.run(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE application_name = 'eph_e2ee' AND datname = current_database()"
        )
        if not all(done for (done,) in ended):
            raise PostgreSQLError("a session did not end in time")


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.parent.name))
