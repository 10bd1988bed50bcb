"""The way back: a vault's OMEMO identity as a JSON file that slixmpp-omemo's storages read.

It is moved, not copied. Two programs that go on with the same sessions would encrypt two messages
under one key; so the vault is locked for OMEMO before the file is written, notes that it is whole
before it gets its name, and forgets its own values after. From that note on the file is what
counts, wherever it was moved to, and is never written anew. Whatever cuts that short, never can
both be used, and one of them always can: repeat it, to the same file.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from eph_e2ee.errors import EphemeralError, LocalProtocolError, VaultError, VaultUnavailable
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.database import conversations
from eph_e2ee.vault.privatefile import (
    private_file,
    read_private,
    reported,
    sync_folder,
    write_through,
)
from eph_e2ee.vault.ratchets import ACCOUNTS, PREFIX
from eph_e2ee.vault.vault import Vault

__all__ = ["DEVICE", "MOVED", "SESSION", "WRITTEN", "export_identity", "names", "require_identity"]

MOVED: Final = "identity moved"
"""The value that locks a vault for OMEMO: whether its identity is on its way or has gone."""

LEAVING: Final = "leaving for "
"""Before the path of the file, which does not exist yet."""

WRITTEN: Final = "written to "
"""Before the path of the file, which is whole: there, under its draft's name, or moved since."""

GONE: Final = "gone"

NAMESPACES: Final = ("urn:xmpp:omemo:2", "eu.siacs.conversations.axolotl")

OWN: Final = (
    *("/own_device_id", "/ikp/is_seed", "/ikp/key"),
    *("/eph_e2ee/reads_sce", "/eph_e2ee/sends_timers"),
)
"""Who the device is, and which others have been seen to read envelopes, and to send timers."""

KEYS: Final = ("x3dh", "signed_pre_key_ids", "pre_key_ids", "pre_key_id_counter", "bare_jids")
"""What a namespace has once."""

SESSION: Final = (
    "initiation",
    "key_exchange/identity_key",
    "key_exchange/ephemeral_key",
    "key_exchange/signed_pre_key",
    "key_exchange/signed_pre_key_id",
    "key_exchange/pre_key",
    "key_exchange/pre_key_id",
    "associated_data",
    "double_ratchet",
    "confirmed",
)
"""What it has for each session."""

DEVICE: Final = ("namespaces", "active", "label", "identity_key")
"""What is kept of each device of an account."""

ASIDE: Final = re.compile(r"/(?:{})/[^/]+/aside/.*".format("|".join(map(re.escape, NAMESPACES))))
"""Sessions that this library lays aside; no other one would ever look at them."""

Values = dict[str, Any]
Read = Callable[[str], Any]


def export_identity(vault: Vault, path: Path) -> int:
    """Move the OMEMO identity, its sessions and its trust into a new file; how many values.

    The file has mode 0600 and is there as a whole or not at all. Afterwards the vault has no OMEMO
    identity and is locked for OMEMO, until a file is imported; its messages stay.

    Raises:
        LocalProtocolError: the file exists already, or the vault has no identity.
        VaultError: the disk or the database refused. The text says if it is to be repeated;
            otherwise there is no file, and the vault is as before.
    """
    path = path.absolute()
    values, state = vault.transact_sync(_look)
    if not _is_written(path, values, state):
        _write(vault, path, values, state)
    gone: dict[str, str | None] = {PREFIX + name: None for name in (*values, ACCOUNTS)}
    try:
        _name(path)
        vault.transact_sync(lambda transaction: transaction.put_values({**gone, MOVED: GONE}))
    except EphemeralError as error:
        if _draft(path).exists():
            _take_back(vault, path, state, error)
            raise
        raise VaultUnavailable(
            f"{error}; the identity is in {path}, whole, and the vault is locked: repeat the "
            f"export, to {path}, to have the vault forget its own, also if the file was moved"
        ) from error
    return len(_portable(values))


def require_identity(vault: Vault) -> None:
    """See that the vault may be used for OMEMO.

    Raises:
        LocalProtocolError: its identity has been exported.
    """
    state = vault.transact_sync(lambda transaction: transaction.value(MOVED))
    if state is None:
        return
    if state == GONE:
        raise LocalProtocolError(
            "this vault's OMEMO identity was exported and may be in use elsewhere: import the file "
            "again, once nobody uses it, or attach with a new folder"
        )
    raise LocalProtocolError(
        f"the export of this vault's OMEMO identity was cut short: repeat it, to {_path(state)}"
    )


def names(read: Read, accounts: Iterable[str]) -> Iterator[str]:
    """Every key under which python-omemo 2 and slixmpp-omemo 2.2 may have a value.

    Args:
        read: gives the value of a key, None where there is none.
        accounts: whose device lists may be kept, in addition to those with sessions.
    """
    everybody = set(accounts)
    yield from OWN
    for namespace in NAMESPACES:
        yield from (f"/{namespace}/{name}" for name in KEYS)
        yield f"/queue/{namespace}"
        for account in read(f"/{namespace}/bare_jids") or ():
            everybody.add(account)
            yield f"/{namespace}/{account}/device_ids"
            for device in read(f"/{namespace}/{account}/device_ids") or ():
                place = f"{namespace}/{account}/{device}"
                yield from (f"/{place}/{name}" for name in SESSION)
                yield f"/eph_e2ee/unanswered/{place}"
    for account in sorted(everybody):
        yield from _names_of(account, read)


def _names_of(account: str, read: Read) -> Iterator[str]:
    """What is kept of an account and its devices, whatever their namespaces."""
    for namespace in NAMESPACES:
        yield f"/queue/{namespace}/{account}"
        yield f"/slixmpp/subscribed/{account}/{namespace}"
    yield f"/devices/{account}/list"
    for device in read(f"/devices/{account}/list") or ():
        yield from (f"/devices/{account}/{device}/{name}" for name in DEVICE)
        key = read(f"/devices/{account}/{device}/identity_key")
        if key is not None:
            yield f"/trust/{account}/{key}"


def _look(transaction: Transaction) -> tuple[Values, str | None]:
    """Everything of OMEMO's that the vault has, and whether it is locked."""

    def read(name: str) -> Any:
        text = transaction.value(PREFIX + name)
        return None if text is None else json.loads(text)

    state = transaction.value(MOVED)
    numbers = transaction.read(select(conversations.c.number)).scalars().all()
    talked = [str(transaction.numbered(number).jid) for number in numbers]
    found = ((name, read(name)) for name in names(read, [*talked, *(read(ACCOUNTS) or ())]))
    # A label may be null: that is a value as well.
    values = {
        name: value
        for name, value in found
        if value is not None or transaction.value(PREFIX + name) is not None
    }
    if state == GONE:
        raise LocalProtocolError(
            "the vault has no OMEMO identity any more, it was exported before: nothing was exported"
        )
    if OWN[0] not in values:
        raise LocalProtocolError("the vault has no OMEMO identity: nothing was exported")
    return values, state


def _portable(values: Values) -> Values:
    """The values without the sessions laid aside."""
    kept = {name: value for name, value in values.items() if not ASIDE.fullmatch(name)}
    for namespace in NAMESPACES:
        name = f"/{namespace}/bare_jids"
        if name in kept:
            kept[name] = [account for account in kept[name] if "/" not in account]
    return kept


def _lock(vault: Vault, state: str | None) -> None:
    vault.transact_sync(lambda transaction: transaction.put_value(MOVED, state))


def _holds(path: Path, values: Values) -> bool:
    """Whether a file has the vault's identity, however far its sessions have gone on in it."""
    try:
        found = json.loads(read_private(path) or b"")
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(found.get(name) == values[name] for name in OWN[:3])


def _is_written(path: Path, values: Values, state: str | None) -> bool:
    """Whether the file is whole already, by an export that was cut short.

    Raises:
        LocalProtocolError: another file is, or something else has this name.
    """
    begun = path if state is None else _path(state)
    # What an earlier version has left has the name already, and no note.
    if state is not None and (state.startswith(WRITTEN) or _holds(begun, values)):
        if path == begun:
            return True
        raise LocalProtocolError(
            f"an export was cut short, and the identity is in {begun}, or wherever that was moved "
            f"to: repeat it, to {begun}"
        )
    if os.path.lexists(path):
        raise LocalProtocolError(f"{path}: it exists already; nothing was exported")
    return False


def _path(state: str) -> Path:
    """The file of an export that was cut short."""
    return Path(state.removeprefix(LEAVING).removeprefix(WRITTEN))


def _draft(path: Path) -> Path:
    """What the file is called until the vault has noted that it is whole."""
    return path.with_name(f".{path.name}.new")


def _write(vault: Vault, path: Path, values: Values, state: str | None) -> None:
    """Write the draft, and note that it is whole."""
    content = json.dumps(_portable(values), ensure_ascii=False).encode()
    _lock(vault, LEAVING + str(path))
    try:
        for begun in (path, path if state is None else _path(state)):
            with reported(begun):
                _draft(begun).unlink(missing_ok=True)
        with private_file(_draft(path), create=True) as descriptor:
            write_through(descriptor, 0, content)
            sync_folder(path.parent)
        _lock(vault, WRITTEN + str(path))
    except EphemeralError as error:
        _take_back(vault, path, state, error)
        raise


def _take_back(vault: Vault, path: Path, state: str | None, error: EphemeralError) -> None:
    """Leave all as it was before an error, with a file that has no name yet.

    Raises:
        VaultUnavailable: the vault does not take that, or was locked before; the draft stays.
    """
    with suppress(VaultError):
        if state is None or not state.startswith(WRITTEN):
            _lock(vault, state)
            with suppress(OSError):  # the error says more
                _draft(path).unlink(missing_ok=True)
            return
    raise VaultUnavailable(f"{error}; the vault is locked: repeat the export, to {path}") from error


def _name(path: Path) -> None:
    """Give the draft its name, unless that was done: the file may have been moved since."""
    draft = _draft(path)
    with reported(path):
        if not draft.exists():
            return
        if os.path.lexists(path):
            raise LocalProtocolError(f"{path}: something else has that name")
        draft.rename(path)
        sync_folder(path.parent)
