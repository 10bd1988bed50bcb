"""Which vault a command is about: its folder, its database, and where its root key is."""

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eph_e2ee.clock import Clock
from eph_e2ee.errors import LocalProtocolError, VaultError, VaultForeign, WrongRootKey
from eph_e2ee.vault.destroying import Held, holds_root_key, is_vault
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keyringkey import KeyringRootKey
from eph_e2ee.vault.lock import VaultLock
from eph_e2ee.vault.opening import DATABASE, UNFINISHED
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.privatefile import reported
from eph_e2ee.vault.rootkey import FileRootKey, RootKey
from eph_e2ee.vault.vault import Vault

__all__ = ["ADDRESS", "Place", "Places", "add_options", "address", "new_place", "opened"]

ADDRESS: Final = "EPH_E2EE_DATABASE"
"""The environment's variable with a database's address: a command line is seen by everybody."""

STANDARD_INPUT: Final = "-"

MAXIMUM_PASSPHRASE: Final = 64 * 1024
"""Characters of a line that holds a passphrase; a file without an end is none."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a root key is.

    Attributes:
        kind: "file", "passphrase" or "keyring".
        root_key: the place itself.
    """

    kind: str
    root_key: RootKey


Places: Final = ("file", "passphrase", "keyring")
"""The kinds of places."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the vault's folder")
    parser.add_argument(
        "--database",
        metavar="URL",
        help="the address of its PostgreSQL database, when that is not in the folder "
        f"(or the environment's {ADDRESS}, which other users do not see)",
    )
    parser.add_argument(
        "--passphrase-file",
        metavar="PATH",
        help="a file whose first line is the passphrase of the root key; - is standard input "
        "(on a terminal it is asked for)",
    )
    parser.add_argument(
        "--keyring", metavar="NAME", help="the root key is in the keyring, under this name"
    )
    parser.add_argument("--json", action="store_true", help="data as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no talk and no progress bar")


def require_vault(folder: Path) -> None:
    """See whether there is a vault that nobody uses; nothing is made where there is none.

    Raises:
        VaultForeign: there is none.
        VaultInUse: another process has it open.
    """
    if not is_vault(folder):
        raise VaultForeign(f"{folder}: there is no vault here; name the folder of one")
    # Asked before any passphrase is. Opening takes the lock again, for as long as it takes.
    VaultLock.acquire(folder).release()


def require_room(folder: Path) -> bool:
    """See whether there is a vault, or room for one; return whether there is one.

    Raises:
        VaultForeign: there is something else.
        VaultInUse: another process has it open.
    """
    if is_vault(folder):
        require_vault(folder)
        return True
    with reported(folder):
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    # What a crash has left of a vault that was being made is one in the making.
    if UNFINISHED not in names and names - {"lock"}:
        raise VaultForeign(f"{folder}: there is something else here; choose an empty folder")
    return False


def address(options: argparse.Namespace) -> str | None:
    """Return the address of the vault's database; None when it is in the folder."""
    given: str | None = options.database
    if given is None and not os.path.lexists(options.folder / DATABASE):
        given = os.environ.get(ADDRESS) or None
    return given


def place(options: argparse.Namespace) -> Place:
    """Return where the root key is: as the options say, or as the folder shows.

    Raises:
        LocalProtocolError: a passphrase is needed, and neither given nor to be asked for.
        WrongRootKey: the folder has none.
        VaultUnavailable: its file cannot be read.
    """
    folder: Path = options.folder
    if options.keyring is not None:
        return Place("keyring", KeyringRootKey(options.keyring))
    if options.passphrase_file is None and is_vault(folder) and not holds_root_key(folder):
        raise WrongRootKey(
            f"{folder}: the root key is not in this folder: give --keyring NAME, or restore it"
        )
    if options.passphrase_file is None and not _needs_passphrase(folder):
        return Place("file", FileRootKey(folder))
    passphrase = _passphrase(options.passphrase_file, "passphrase", "--passphrase-file")
    return Place("passphrase", PassphraseRootKey(folder, passphrase))


def new_place(options: argparse.Namespace) -> tuple[Place, str]:
    """Return the place that a root key shall go to, with its passphrase if it has one.

    Raises:
        LocalProtocolError, VaultUnavailable: as for `place`; or the keyring's name is missing.
    """
    folder: Path = options.folder
    if options.to == "file":
        return Place("file", FileRootKey(folder)), ""
    if options.to == "keyring":
        if options.new_keyring is None:
            raise LocalProtocolError("a keyring's items need a name: give --new-keyring NAME")
        return Place("keyring", KeyringRootKey(options.new_keyring)), ""
    given = options.new_passphrase_file
    passphrase = _passphrase(given, "new passphrase", "--new-passphrase-file")
    asked = given is None
    if asked and getpass.getpass("the new passphrase again: ") != passphrase:
        raise LocalProtocolError("these are two passphrases: nothing was changed")
    return Place("passphrase", PassphraseRootKey(folder, passphrase)), passphrase


@contextmanager
def opened(options: argparse.Namespace, where: Place) -> Iterator[tuple[Vault, Clock]]:
    """Open the vault for a block, and close it.

    Raises:
        VaultError, LocalProtocolError: as `Vault.open` does.
    """
    clock = Clock()
    vault = Vault.open(
        options.folder, clock=clock, root_key=where.root_key, database=address(options)
    )
    try:
        yield vault, clock
    finally:
        vault.close_sync()


def _needs_passphrase(folder: Path) -> bool:
    """Return whether the root key is behind a passphrase, as far as the folder shows."""
    held = holds_root_key(folder)
    if len(held) < len(Held):
        return held == [Held.PASSPHRASE]
    # Changing the place was cut short: the one in clear counts if it opens anything.
    try:
        KeyFile(folder).read(FileRootKey(folder).candidates())
    except VaultError:
        return True
    return False


def _passphrase(path: str | None, what: str, option: str) -> str:
    if path is None:
        if not sys.stdin.isatty():
            raise LocalProtocolError(f"the {what} is needed: give {option}")
        return getpass.getpass(f"{what}: ")
    if path == STANDARD_INPUT:
        line = sys.stdin.readline(MAXIMUM_PASSPHRASE)
    else:
        line = _first_line(Path(path))
    return line.rstrip("\r\n")


def _first_line(path: Path) -> str:
    try:
        with reported(path), path.open(encoding="utf-8") as file:
            return file.readline(MAXIMUM_PASSPHRASE)
    except UnicodeDecodeError:
        # Its own text would show the passphrase.
        raise LocalProtocolError(f"{path}: a passphrase is text in UTF-8") from None
