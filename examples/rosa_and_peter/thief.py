"""What somebody can do with a copy of a vault, going past the library's own opening of it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Row, Select, select

from eph_e2ee.clock import Clock
from eph_e2ee.errors import Forgotten, VaultDamaged, VaultError
from eph_e2ee.vault.archive import KEY_KIND
from eph_e2ee.vault.database import messages, state
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keys import Keys
from eph_e2ee.vault.opening import DATABASE
from eph_e2ee.vault.paths import Leaf
from eph_e2ee.vault.records import value_kind, value_leaf
from eph_e2ee.vault.rootkey import FileRootKey
from eph_e2ee.vault.rows import leaf_of, open_content
from eph_e2ee.vault.sqlite import SQLite

ATTEMPTS: Final = 50
"""A vault writes for some milliseconds at a time, and seldom."""


@dataclass(slots=True)
class Loot:
    """What could be opened.

    Attributes:
        key_file: whether the key file itself opened.
        bodies: the texts of messages.
        values: the values of OMEMO's state, by where they were kept.
    """

    key_file: bool = False
    bodies: set[str] = field(default_factory=set)
    values: set[tuple[bytes, int]] = field(default_factory=set)


def copy_vault(vault: Path, to: Path) -> Path:
    """Copy a vault's folder, live or not, in one state: again if it changed meanwhile."""
    for _ in range(ATTEMPTS):
        before = contents(vault)
        if before == contents(vault):
            break
    else:
        raise VaultError(f"{vault} never stood still")
    to.mkdir(mode=0o700)
    for path, content in before.items():
        (to / path.name).touch(mode=0o600)
        (to / path.name).write_bytes(content)
    return to


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what every file below a folder holds."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def plunder(database: Path, *, key_file: Path, root_key: Path) -> Loot:
    """Open all that opens.

    Args:
        database: the folder of the vault whose rows are wanted.
        key_file: the folder whose key file is tried.
        root_key: the folder whose root keys are tried on it.
    """
    try:
        opened = KeyFile(key_file).read(FileRootKey(root_key).candidates())
    except VaultError:
        return Loot()
    keys = Keys(KeyFile(key_file), FileRootKey(root_key), opened, Clock())
    loot = Loot(key_file=True)
    for row in rows(database, select(messages).where(messages.c.content.is_not(None))):
        if (key := _opened(keys, leaf_of(row), row.sealed_key, KEY_KIND)) is not None:
            loot.bodies.add(open_content(row.content, key, row.number).body or "")
    for row in rows(database, select(state)):
        leaf = value_leaf(row.sequence, row.epoch)
        if _opened(keys, leaf, row.sealed, value_kind(row.hash)) is not None:
            loot.values.add((row.hash, row.sequence))
    keys.wipe()
    return loot


def rows(database: Path, statement: Select[Any]) -> Iterator[Row[Any]]:
    """Read rows from a scratch copy, so that the evidence stays as it is."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in database.glob(f"{DATABASE}*"):
            shutil.copy(path, scratch)
        with (
            closing(SQLite(Path(scratch) / DATABASE)) as opened,
            opened.connection.begin(),
        ):
            yield from opened.connection.execute(statement).all()


def root_keys(folder: Path) -> list[bytes]:
    """Return the root keys in a vault's folder, in clear."""
    return [bytes(key.expose()) for key in FileRootKey(folder).candidates()]


def _opened(keys: Keys, leaf: Leaf, sealed: bytes, kind: bytes) -> bytes | None:
    try:
        return keys.open(leaf, sealed, kind)
    except (Forgotten, VaultDamaged):
        return None
