"""The way back: a vault's OMEMO identity as a JSON file that slixmpp-omemo's storages read.

It is moved, not copied. Two programs that go on with the same sessions would encrypt two messages
under one key; so the vault is locked for OMEMO before the file appears, and its own values are
forgotten after. Whatever cuts that short, never can both be used, and one of them always can:
repeat it, to the same file.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from eph_e2ee.errors import EphemeralError, LocalProtocolError
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

__all__ = ["DEVICE", "MOVED", "SESSION", "export_identity", "names", "require_identity"]

MOVED: Final = "identity moved"
"""The value that locks a vault for OMEMO: whether its identity is on its way or has gone."""

LEAVING: Final = "leaving for "
"""Before the path of the file."""

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
        VaultError: the disk or the database refused; repeat it. Where there is no file yet, the
            vault is as before.
    """
    path = path.absolute()
    values, state = vault.transact_sync(_look)
    if not (state == LEAVING + str(path) and _holds(path, values)):
        _require_free(path, state)
        _lock(vault, LEAVING + str(path))
        try:
            _write_new(path, json.dumps(_portable(values), ensure_ascii=False).encode())
        except EphemeralError:
            if not _holds(path, values):
                _lock(vault, state)
            raise
    gone: dict[str, str | None] = {PREFIX + name: None for name in (*values, ACCOUNTS)}
    vault.transact_sync(lambda transaction: transaction.put_values({**gone, MOVED: GONE}))
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
        "the export of this vault's OMEMO identity was cut short: repeat it, to "
        + state.removeprefix(LEAVING)
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
    if state == GONE or OWN[0] not in values:
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


def _require_free(path: Path, state: str | None) -> None:
    """See that the file does not exist, nor that of an export which was cut short."""
    if os.path.lexists(path):
        raise LocalProtocolError(f"{path}: it exists already; nothing was exported")
    begun = Path((state or "").removeprefix(LEAVING))
    if state is not None and os.path.lexists(begun):
        raise LocalProtocolError(f"an export was cut short: repeat it, to {begun}, or remove that")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist, as a whole: its name appears when the disk has it."""
    draft = path.with_name(f".{path.name}.new")
    with reported(path):
        draft.unlink(missing_ok=True)
    try:
        with private_file(draft, create=True) as descriptor:
            write_through(descriptor, 0, content)
            os.link(draft, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # the error of the block says more
            draft.unlink()
