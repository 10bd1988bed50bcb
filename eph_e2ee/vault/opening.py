"""From a folder to an open database with its keys, or to the one error that says what is wrong.

A vault is made in an order that a crash cannot confuse with damage: the database is finished
under another name, then the key file appears, then the database gets its name. Only a folder
where that other name stands can be half made; anything else that is missing has been lost, and
is an error, never a reason to begin anew (F44).
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.exc import SQLAlchemyError

from eph_e2ee.clock import Clock, Reading
from eph_e2ee.errors import VaultDamaged, WrongRootKey
from eph_e2ee.vault.database import Database, examine, meta, translate
from eph_e2ee.vault.keyfile import KeyFile, Payload
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.keytree import KeyTree
from eph_e2ee.vault.lock import VaultLock
from eph_e2ee.vault.primitives import keyed_hash, random_key
from eph_e2ee.vault.privatefile import open_private, reported, sync_folder
from eph_e2ee.vault.records import SEQUENCE
from eph_e2ee.vault.rootkey import RootKey

__all__ = ["CLOCK", "DATABASE", "open_files"]

DATABASE: Final = "vault.db"
"""The database's name in the vault's folder."""

UNFINISHED: Final = "vault.new"
"""Its name until everything else of a new vault exists."""

COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite adds to a name for the files that it keeps beside a database."""

MARK: Final = "mark"
"""The meta row that ties a database to its key file."""

CLOCK: Final = "clock"
"""The meta row with what the clock showed."""


def open_files(
    folder: Path, root_key: RootKey, clock: Clock, held: ExitStack
) -> tuple[Database, Keys]:
    """Open the files of a vault, or make them where there is nothing yet.

    What is opened is closed by `held`. When it raises, no file that existed has been changed.

    Raises:
        VaultInUse: another process, or another part of this one, has it open.
        VaultDamaged, VaultForeign, VaultTooNew, WrongRootKey: as their names say.
        VaultUnavailable: the disk refuses, or others can enter the folder.
    """
    held.enter_context(VaultLock.acquire(folder))
    path, key_file = folder / DATABASE, KeyFile(folder)
    if not os.path.lexists(path):
        _finish_making(folder, key_file, root_key, clock)
    examine(path)
    candidates = root_key.candidates()
    if not candidates and key_file.exists():
        raise WrongRootKey(f"{folder}: the root key is missing or overwritten; restore it")
    opened = key_file.read(candidates)
    keys = Keys(key_file, root_key, opened, clock)
    held.callback(keys.wipe)
    database = held.enter_context(Database(path))
    last = _checked(database, keys)
    root_key.keep(opened.root_key)
    for candidate in candidates:
        candidate.wipe()
    for reading in (opened.payload.reading, last):
        clock.resume(reading)
    return database, keys


def _checked(database: Database, keys: Keys) -> Reading:
    """Return what the clock showed, from a database that belongs to these keys."""
    try:
        with database.connection.begin():
            rows = database.connection.execute(select(meta.c.name, meta.c.value))
            found = {row.name: row.value for row in rows}
    except SQLAlchemyError as error:
        raise translate(error) from None
    if found.get(MARK) != keys.hash(MARK, "").hex():
        raise VaultDamaged("the database and the key file belong to different vaults: restore one")
    return Reading.from_json(found.get(CLOCK, ""))


def _finish_making(folder: Path, key_file: KeyFile, root_key: RootKey, clock: Clock) -> None:
    """Make a vault, or end what a crash interrupted; never in place of one that lost a file."""
    unfinished = folder / UNFINISHED
    begun = os.path.lexists(unfinished)
    if not begun and key_file.exists():
        raise VaultDamaged(f"{folder}: the database is missing; restore it")
    if not begun and root_key.exists():
        raise VaultDamaged(f"{folder}: only the root key is left; restore the rest")
    if not key_file.exists():
        with reported(unfinished):
            for companion in COMPANIONS:
                (folder / (UNFINISHED + companion)).unlink(missing_ok=True)
        _make(unfinished, key_file, root_key, clock)
    with reported(unfinished):
        unfinished.rename(folder / DATABASE)
        sync_folder(folder)


def _make(unfinished: Path, key_file: KeyFile, root_key: RootKey, clock: Clock) -> None:
    tree = KeyTree.create(random_key())
    payload = Payload(random_key(), clock.reading(), tree.export())
    rows = [
        {"name": MARK, "value": keyed_hash(payload.index_key, MARK, "").hex()},
        {"name": CLOCK, "value": payload.reading.to_json()},
        {"name": SEQUENCE, "value": "0"},
    ]
    # SQLite would make the file with the mode that others may read.
    os.close(open_private(unfinished, create=True))
    with Database(unfinished) as database:
        database.create()
        with database.connection.begin():
            database.connection.execute(insert(meta), rows)
    key_file.create(root_key, payload)
    tree.wipe()
    payload.index_key.wipe()
