"""Taking over the OMEMO identity of a bot whose slixmpp-omemo kept it in a JSON file.

That file is one JSON object of python-omemo's keys and values, as the storage in slixmpp-omemo's
example writes it. It is looked at as a whole before anything is written: a file that a crash has
cut short must never become half an identity, or a new one (F44).
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from eph_e2ee.errors import LocalProtocolError, VaultDamaged, VaultForeign
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.exporting import MOVED
from eph_e2ee.vault.owner import OWNER, has_device
from eph_e2ee.vault.primitives import random_bytes
from eph_e2ee.vault.privatefile import LARGEST_FILE, reported, sync_folder, write_through
from eph_e2ee.vault.ratchets import ACCOUNTS, PREFIX, listed_account
from eph_e2ee.vault.vault import Vault

__all__ = ["erase_source", "import_identity", "read_source"]

DEVICE: Final = "/own_device_id"
KEY: Final = "/ikp/key"
IS_SEED: Final = "/ikp/is_seed"
"""Where python-omemo keeps who the device is."""

LARGEST_DEVICE: Final = 2**31 - 1
"""Device ids are 1 to this (XEP-0384, section 4)."""

KEY_BYTES: Final = 32
"""Of an identity key or its seed."""

BLOCK: Final = 1024 * 1024
"""Bytes overwritten at once."""

NO_JSON: Final = (
    "{}: not a JSON file, and no other kind can be imported: write the keys and values of the "
    "application's storage into a JSON object, and import that. Nothing was imported"
)

Values = dict[str, object]


def read_source(path: Path) -> dict[str, str]:
    """Return what a JSON storage holds: python-omemo's keys, each with its value as JSON text.

    Raises:
        LocalProtocolError: there is no such file.
        VaultDamaged: it is no whole JSON text, or a part of the identity is missing or damaged.
        VaultForeign: it is no JSON object, or whole and not the storage of python-omemo 1.0 or
            later.
        VaultUnavailable: it cannot be read.
    """
    values = _parsed(path)
    _require_storage(path, values)
    _require_identity(path, values)
    try:
        texts = {key: _text(value) for key, value in values.items()}
        "".join([*texts, *texts.values()]).encode()
    except ValueError:
        raise _damaged(path, "it holds text that is not Unicode") from None
    return texts


def import_identity(vault: Vault, texts: Mapping[str, str]) -> None:
    """Put what `read_source` returned into a vault without an OMEMO identity, all or nothing.

    Repeating it is safe: where the vault has all of it, and nobody has gone on with it, it is done.

    Raises:
        LocalProtocolError: the vault has an identity already, or the file's is another account's
            than the vault; nothing was written.
        VaultError: the disk or the database refused; nothing was written.
    """

    def work(transaction: Transaction) -> None:
        if any(transaction.value(PREFIX + key) is not None for key in (DEVICE, KEY, IS_SEED)):
            _require_done(transaction, texts)
            return
        owner = transaction.value(OWNER)
        if owner is not None and not has_device(owner, texts.get):
            raise LocalProtocolError(
                "the file is of another account than the vault: import into a new folder"
            )
        accounts = [each for each in map(listed_account, texts) if each is not None]
        own = {**texts, ACCOUNTS: _text(accounts)}
        transaction.put_values({PREFIX + key: text for key, text in own.items()})
        transaction.put_value(MOVED, None)

    vault.transact_sync(work)


def _require_done(transaction: Transaction, texts: Mapping[str, str]) -> None:
    """See that the identity which the vault has is the file's, as it was imported.

    Raises:
        LocalProtocolError: it is another one; or the same, and one of both has been used since.
    """
    if any(transaction.value(PREFIX + key) != texts.get(key) for key in (DEVICE, KEY, IS_SEED)):
        raise LocalProtocolError(
            "the vault has another OMEMO identity already: import into a new folder"
        )
    if transaction.value(MOVED) is not None:
        raise LocalProtocolError(
            "an export of this OMEMO identity was cut short: repeat that, and import then"
        )
    if any(transaction.value(PREFIX + key) != text for key, text in texts.items()):
        raise LocalProtocolError(
            "the vault has this OMEMO identity already, and it was used since: go on with one of "
            "both alone, and import the file nowhere else while the vault exists"
        )


def erase_source(path: Path) -> None:
    """Overwrite a file, sync, and remove it.

    That is the best a program can do, and no promise: file systems and flash keep old blocks, and
    the storage has rewritten the file many times.

    Raises:
        VaultUnavailable: the system refuses.
    """
    with reported(path):
        real = path.resolve(strict=True)
        descriptor = os.open(real, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            for start in range(0, size, BLOCK):
                write_through(descriptor, start, random_bytes(min(BLOCK, size - start)))
        finally:
            os.close(descriptor)
        real.unlink()
        path.unlink(missing_ok=True)
        sync_folder(real.parent)


def _parsed(path: Path) -> Values:
    try:
        with reported(path):
            if not path.exists():
                raise LocalProtocolError(f"{path}: there is no such file")
            if path.stat().st_size > LARGEST_FILE:
                raise VaultForeign(f"{path}: too large for a storage of python-omemo")
            data = path.read_bytes()
        values = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        # The error's own text would quote the file.
        if not _begins_as_json(data):
            raise VaultForeign(NO_JSON.format(path)) from None
        raise _damaged(path, "it is cut short, or no JSON text") from None
    if not isinstance(values, dict):
        raise VaultForeign(f"{path}: not a JSON object of python-omemo's keys; nothing imported")
    return values


def _begins_as_json(data: bytes) -> bool:
    """Whether a text that cannot be read may have been a JSON object, or what a crash left of it.

    Applications also keep their storage as a pickle, or in SQLite.
    """
    return data.lstrip()[:1] == b"{" or not data.strip(b"\0")


def _require_storage(path: Path, values: Values) -> None:
    """See whether these can be keys of python-omemo 1.0 or later, which all begin with a slash."""
    if not values:
        raise _damaged(path, "it is empty")
    if not all(key.startswith("/") for key in values):
        raise VaultForeign(
            f"{path}: not the storage of python-omemo 1.0 or later; older ones cannot be "
            "imported: start with a new identity"
        )


def _require_identity(path: Path, values: Values) -> None:
    """See whether the device, its key and what it has published are whole."""
    device, key = values.get(DEVICE), values.get(KEY)
    if type(device) is not int or not 1 <= device <= LARGEST_DEVICE:
        raise _damaged(path, "it has no device id")
    if not isinstance(values.get(IS_SEED), bool) or not _is_key(key):
        raise _damaged(path, "it has no identity key")
    namespaces = [
        value
        for name, value in values.items()
        if name.startswith("/devices/") and name.endswith(f"/{device}/namespaces")
    ]
    if not any(isinstance(each, list) and each for each in namespaces):
        raise _damaged(path, "it does not say what its own device can do")
    used = {name for each in namespaces if isinstance(each, list) for name in each}
    if not any(isinstance(values.get(f"/{name}/x3dh"), dict) for name in used):
        raise _damaged(path, "the keys that its device has published are missing")


def _is_key(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return len(base64.b64decode(value.encode("ascii"), b"-_", validate=True)) == KEY_BYTES
    except (binascii.Error, UnicodeEncodeError):
        return False


def _text(value: object) -> str:
    """Return a value as `Ratchets` writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _damaged(path: Path, why: str) -> VaultDamaged:
    return VaultDamaged(f"{path}: {why}; restore it from a backup. Nothing was imported")
