"""The end of a whole vault: its root key first, then everything else.

From the moment when the root key is gone nothing of the vault opens any more, also no copy of its
files that somebody has taken. All that follows is tidying up, and can be cut short and repeated:
a small file, written before anything else, says that it was begun, and where the root key was.
"""

import contextlib
import enum
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from eph_e2ee.errors import LocalProtocolError, VaultDamaged
from eph_e2ee.vault.database import translated
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.lock import VaultLock
from eph_e2ee.vault.opening import DATABASE, REMOTE, REMOTE_TEXT, UNFINISHED
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.postgresql import PostgreSQL, parse_address
from eph_e2ee.vault.primitives import random_bytes
from eph_e2ee.vault.privatefile import (
    private_file,
    read_private,
    reported,
    sync_folder,
    write_through,
)
from eph_e2ee.vault.rootkey import FileRootKey, RootKey
from eph_e2ee.vault.sqlite import COMPANIONS

__all__ = ["Held", "destroy", "holds_root_key", "is_begun", "is_vault"]

LOCK: Final = "lock"

BEGUN: Final = "vault.destroyed"
"""The file that stands while a vault is being destroyed."""

INSIDE: Final = b"inside\n"
OUTSIDE: Final = b"outside\n"
"""What it says of the root key: in the folder, or elsewhere."""

KEYS: Final = ("keys.0", "keys.1", "keys.new", "root.key.new", "root.passphrase.new")
"""Files that hold keys, or may after a crash; those of the root key itself destroy themselves."""


class Held(enum.Enum):
    """Where a root key is, as far as the folder tells."""

    FILE = "root.key"
    PASSPHRASE = "root.passphrase"  # noqa: S105  the name of a file, and no passphrase


def is_vault(folder: Path) -> bool:
    """Return whether there is a vault in a folder, whatever state it is in; nothing is made."""
    names = (DATABASE, REMOTE, BEGUN)
    if KeyFile(folder).exists() or any(os.path.lexists(folder / name) for name in names):
        return True
    # A vault that was never finished has nothing in it yet.
    return bool(holds_root_key(folder)) and not os.path.lexists(folder / UNFINISHED)


def is_begun(folder: Path) -> bool:
    """Return whether the vault in a folder was being destroyed."""
    return os.path.lexists(folder / BEGUN)


def holds_root_key(folder: Path) -> list[Held]:
    """Return which files for a root key there are; two when a change was cut short."""
    return [held for held in Held if os.path.lexists(folder / held.value)]


def destroy(
    folder: Path, *, elsewhere: RootKey | None = None, database: str | URL | None = None
) -> list[str]:
    """Destroy a vault for good; what was cut short before is finished.

    Args:
        folder: the vault's.
        elsewhere: where the root key is, when it is not in a file of the folder.
        database: the address of the vault's database, when that is not in the folder.

    Returns:
        The names of files in the folder that are not the vault's, which is why it still stands.

    Raises:
        LocalProtocolError: the root key or the database is elsewhere, and not given. Nothing was
            changed.
        VaultInUse: somebody has the vault open. Nothing was changed.
        VaultDamaged: the database at the address has no such vault. Nothing was changed.
        VaultError: the disk, the database or the root key's place refused: repeat it.
    """
    with VaultLock.acquire(folder), contextlib.ExitStack() as held:
        schema = _schema(folder)
        server = _connected(folder, schema, database)
        if server is not None:
            held.enter_context(server)
        _begin(folder, elsewhere)
        FileRootKey(folder).destroy()
        PassphraseRootKey(folder, _unneeded).destroy()
        if elsewhere is not None:
            elsewhere.destroy()
        for name in KEYS:
            _overwrite(folder / name)
        if server is not None:
            with translated(), server.connection.begin():
                server.connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        files = [DATABASE, UNFINISHED]
        _remove(folder, [name + companion for name in files for companion in COMPANIONS])
        # In this order: what says that it is unfinished goes after all else.
        _remove(folder, [REMOTE])
        _remove(folder, [BEGUN, LOCK])
        return _leave(folder)


def _schema(folder: Path) -> str | None:
    """Return the name of the vault's schema, when its database is at an address."""
    for name in (REMOTE, UNFINISHED):
        content = (read_private(folder / name) or b"")[:4096].decode("ascii", "replace")
        found = REMOTE_TEXT.fullmatch(content)
        if found and hashlib.sha256(found[1].encode()).hexdigest() in content:
            return found[1]
    if os.path.lexists(folder / REMOTE):
        raise VaultDamaged(f"{folder / REMOTE}: the name of the vault's schema is damaged")
    return None


def _connected(folder: Path, schema: str | None, address: str | URL | None) -> PostgreSQL | None:
    """Return the vault's database, when it is at an address and is not gone already."""
    if schema is None:
        return None
    if address is None:
        raise LocalProtocolError(
            f"{folder}: the vault's database is at an address: give that address"
        )
    server = PostgreSQL(parse_address(address), schema)
    try:
        server.examine()
    except VaultDamaged:
        # Dropped before the last attempt was cut short; else it is the wrong address.
        if not is_begun(folder):
            server.close()
            raise
    except BaseException:  # whatever it is, nobody else would close it
        server.close()
        raise
    return server


def _begin(folder: Path, elsewhere: RootKey | None) -> None:
    """Write down that the end has begun, and whether the root key was elsewhere."""
    path = folder / BEGUN
    written = read_private(path)
    if written == INSIDE:
        return
    missing = not holds_root_key(folder) and KeyFile(folder).exists()
    if elsewhere is None and (written == OUTSIDE or missing):
        raise LocalProtocolError(
            f"{folder}: the root key is not in this folder: name the keyring's items"
        )
    with private_file(path, create=True) as descriptor:
        write_through(descriptor, 0, INSIDE if elsewhere is None else OUTSIDE)
        sync_folder(folder)


def _overwrite(path: Path) -> None:
    """Overwrite a file with random bytes, sync, and remove it; it may be missing."""
    with contextlib.suppress(FileNotFoundError), private_file(path) as descriptor:
        write_through(descriptor, 0, random_bytes(os.fstat(descriptor).st_size))
        path.unlink()
        sync_folder(path.parent)


def _remove(folder: Path, names: Sequence[str]) -> None:
    with reported(folder):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)


def _leave(folder: Path) -> list[str]:
    """Remove the folder if it is empty; else return what is left in it."""
    with reported(folder):
        left = sorted(path.name for path in folder.iterdir())
        if not left:
            folder.rmdir()
            sync_folder(folder.parent)
    return left


def _unneeded() -> str:
    """Stand in for a passphrase: destroying needs none."""
    raise AssertionError
