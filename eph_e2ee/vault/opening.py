"""From a folder to an open database with its keys, or to the one error that says what is wrong.

The keys are always in the folder. The database is there too, or a schema of a PostgreSQL server:
then the folder has a small file with the schema's name, and never an address or a password.

A vault is made in an order that a crash cannot confuse with damage: something stands under
another name until the database is finished and the key file has appeared. Only a folder where
that other name stands can be half made; anything else that is missing has been lost, and is an
error, never a reason to begin anew (F44).
"""

import hashlib
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sqlalchemy import URL, insert, select

from eph_e2ee.clock import Clock, Reading
from eph_e2ee.errors import LocalProtocolError, VaultDamaged, WrongRootKey
from eph_e2ee.vault.database import CLOCK, MARK, Database, meta, translated
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.keytree import KeyTree
from eph_e2ee.vault.lock import VaultLock
from eph_e2ee.vault.payload import Payload
from eph_e2ee.vault.postgresql import SCHEMA_PREFIX, PostgreSQL, parse_address
from eph_e2ee.vault.primitives import keyed_hash, random_key
from eph_e2ee.vault.privatefile import (
    open_private,
    private_file,
    read_private,
    reported,
    sync_folder,
    write_through,
)
from eph_e2ee.vault.rootkey import RootKey
from eph_e2ee.vault.shared import SEQUENCE
from eph_e2ee.vault.sqlite import COMPANIONS, SQLite, examine

__all__ = ["CLOCK", "DATABASE", "REMOTE", "open_files"]

DATABASE: Final = "vault.db"
"""The name of the database in the vault's folder."""

REMOTE: Final = "vault.remote"
"""The name of the file that stands for a database at an address."""

UNFINISHED: Final = "vault.new"
"""The name of either until everything else of a new vault exists."""

SCHEMA_BYTES: Final = 8
"""Of the random part of a schema's name: enough for all vaults of one database to differ."""

REMOTE_TEXT: Final = re.compile(
    rf"eph_e2ee vault elsewhere 1\n({SCHEMA_PREFIX}[0-9a-f]{{{2 * SCHEMA_BYTES}}})\n.{{64}}\n"
)
"""What the file that stands for a database says: its format, the schema's name, a checksum."""

Rows = Sequence[dict[str, str]]


def open_files(
    folder: Path,
    root_key: RootKey,
    clock: Clock,
    held: ExitStack,
    address: str | URL | None = None,
) -> tuple[Database, Keys]:
    """Open the files of a vault, or make them where there is nothing yet.

    What is opened is closed by `held`. When it raises, no file that existed has been changed.

    Args:
        folder: where the keys are, and the database unless there is an address.
        root_key: where the root key is.
        clock: it is resumed from what the vault last wrote down.
        held: closes what is opened.
        address: where the database is, `postgresql://user@host:5432/name`; None for the folder.

    Raises:
        LocalProtocolError: the address is no PostgreSQL's, or the vault's database is elsewhere.
        VaultInUse: another process, or another part of this one, has it open.
        VaultDamaged, VaultForeign, VaultTooNew, WrongRootKey: as their names say.
        VaultUnavailable: the disk or the database refuses, or others can enter the folder.
    """
    home = _InFolder(folder) if address is None else _AtAddress(folder, parse_address(address))
    held.enter_context(VaultLock.acquire(folder))
    home.check_alone()
    key_file = KeyFile(folder)
    if not os.path.lexists(home.path):
        _finish_making(home, key_file, root_key, clock)
    home.examine(home.path)
    candidates = root_key.candidates()
    if not candidates and key_file.exists():
        raise WrongRootKey(
            f"{folder}: there is no root key here; open the vault with the place that keeps it, or "
            "restore it"
        )
    opened = key_file.read(candidates)
    keys = Keys(key_file, root_key, opened, clock)
    held.callback(keys.wipe)
    database = held.enter_context(home.open())
    last = _checked(database, keys)
    database.claim()
    root_key.keep(opened.root_key)
    for candidate in candidates:
        candidate.wipe()
    clock.resume(max(opened.payload.reading, last, key=_lateness))
    return database, keys


def _lateness(reading: Reading) -> tuple[float, bool]:
    # Of two of the same time, one without a doubt was written before there was any.
    return reading.now, reading.doubt is not None


def _checked(database: Database, keys: Keys) -> Reading:
    """Return what the clock showed, from a database that belongs to these keys."""
    with translated(), database.connection.begin():
        rows = database.connection.execute(select(meta.c.name, meta.c.value))
        found = {row.name: row.value for row in rows}
    if found.get(MARK) != keys.hash(MARK, "").hex():
        raise VaultDamaged("the database and the key file belong to different vaults: restore one")
    return Reading.from_json(found.get(CLOCK, ""))


class _Home(ABC):
    """Where the database of a vault is, and the file of the folder that stands for it."""

    name: str
    other: str
    elsewhere: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / self.name
        self.unfinished = folder / UNFINISHED

    def check_alone(self) -> None:
        """See to it that the vault is not one whose database is elsewhere."""
        if os.path.lexists(self.folder / self.other):
            raise LocalProtocolError(f"{self.folder}: {self.elsewhere}")

    def clear(self) -> None:
        """Remove what a crash left of a database in the folder."""
        with reported(self.unfinished):
            for companion in COMPANIONS:
                (self.folder / (UNFINISHED + companion)).unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name, once everything else exists."""
        with reported(self.path):
            self.unfinished.rename(self.path)
            sync_folder(self.folder)

    @abstractmethod
    def examine(self, path: Path) -> None:
        """Look at the file, which is not changed by that."""

    @abstractmethod
    def make(self, rows: Rows) -> None:
        """Make a database with these rows in `meta`; the unfinished file stands for it."""

    @abstractmethod
    def open(self) -> Database:
        """Open the database of the file."""


class _InFolder(_Home):
    """An SQLite database in the folder."""

    name = DATABASE
    other = REMOTE
    elsewhere = "the vault's database is at an address: open the vault with that address"

    def examine(self, path: Path) -> None:
        examine(path)

    def make(self, rows: Rows) -> None:
        self.clear()
        # SQLite would make the file with the mode that others may read.
        os.close(open_private(self.unfinished, create=True))
        with SQLite(self.unfinished) as database:
            database.create()
            with database.connection.begin():
                database.connection.execute(insert(meta), rows)

    def open(self) -> Database:
        return SQLite(self.path)


class _AtAddress(_Home):
    """A schema of a database at an address."""

    name = REMOTE
    other = DATABASE
    elsewhere = "the vault's database is in this folder: open the vault without an address"

    def __init__(self, folder: Path, address: URL) -> None:
        super().__init__(folder)
        self._address = address

    def examine(self, path: Path) -> None:
        if self._schema(path) is None:
            raise VaultDamaged(f"{path}: the name of the vault's schema is damaged; restore it")

    def make(self, rows: Rows) -> None:
        schema = self._schema(self.unfinished)
        if schema is None:
            schema = SCHEMA_PREFIX + secrets.token_hex(SCHEMA_BYTES)
        # Connecting comes first: an address that is wrong leaves no trace in the folder.
        with PostgreSQL(self._address, schema) as database:
            self.clear()
            with private_file(self.unfinished, create=True) as descriptor:
                write_through(descriptor, 0, _remote_text(schema))
                sync_folder(self.folder)
            database.create(rows)

    def open(self) -> Database:
        schema = self._schema(self.path)
        if schema is None:
            raise VaultDamaged(f"{self.path}: the name of the vault's schema is gone; restore it")
        database = PostgreSQL(self._address, schema)
        try:
            database.examine()
        except BaseException:  # whatever it is, nobody else would close it
            database.close()
            raise
        return database

    @staticmethod
    def _schema(path: Path) -> str | None:
        """Return the schema's name that a file holds, whole; else None."""
        content = read_private(path) or b""
        found = REMOTE_TEXT.fullmatch(content.decode("ascii", "replace"))
        return found[1] if found and _remote_text(found[1]) == content else None


def _remote_text(schema: str) -> bytes:
    checksum = hashlib.sha256(schema.encode()).hexdigest()
    return f"eph_e2ee vault elsewhere 1\n{schema}\n{checksum}\n".encode()


def _finish_making(home: _Home, key_file: KeyFile, root_key: RootKey, clock: Clock) -> None:
    """Make a vault, or end what a crash interrupted; never in place of one that lost a file."""
    begun = os.path.lexists(home.unfinished)
    if not begun and key_file.exists():
        raise VaultDamaged(f"{home.folder}: {home.name} is missing; restore it")
    if not begun and root_key.exists():
        raise VaultDamaged(f"{home.folder}: only the root key is left; restore the rest")
    if key_file.exists():
        home.examine(home.unfinished)
    else:
        _make(home, key_file, root_key, clock)
    home.finish()


def _make(home: _Home, key_file: KeyFile, root_key: RootKey, clock: Clock) -> None:
    tree = KeyTree.create(random_key())
    payload = Payload(random_key(), clock.reading(), tree.export())
    home.make(
        [
            {"name": MARK, "value": keyed_hash(payload.index_key, MARK, "").hex()},
            {"name": CLOCK, "value": payload.reading.to_json()},
            {"name": SEQUENCE, "value": "0"},
        ]
    )
    key_file.create(root_key, payload)
    tree.wipe()
    payload.index_key.wipe()
