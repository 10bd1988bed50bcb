"""The root key: the 32 bytes that are physically destroyed whenever something is forgotten.

It seals the key file. Whatever keeps it can hold two for a moment, so that a crash while it is
replaced loses neither; the key file tells which one counts.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from eph_e2ee.errors import LocalProtocolError, VaultForeign, VaultTooNew
from eph_e2ee.vault.primitives import CHECKSUM_SIZE, KEY_SIZE, Secret, checksum, random_bytes
from eph_e2ee.vault.privatefile import (
    make_private_folder,
    private_file,
    read_private,
    reported,
    sync_folder,
    write_through,
)

__all__ = ["FileRootKey", "MemoryRootKey", "RootKey"]


class RootKey(Protocol):
    """Where a vault's root key is kept. Secrets that go in or come out are copies."""

    def exists(self) -> bool:
        """Return whether a root key has ever been stored here and not been destroyed since.

        Raises:
            VaultError: the place cannot be read.
        """

    def candidates(self) -> tuple[Secret, ...]:
        """Return the keys that are intact: one, or two after a crash while it was replaced.

        Raises:
            VaultError: the place cannot be read.
        """

    def replace(self, new: Secret) -> None:
        """Store a new key durably, then destroy the old one durably. Blocks until both are done.

        Raises:
            LocalProtocolError: there are two candidates; `keep` one of them first.
            VaultError: the place cannot be written: the old key, the new one or both are left.
        """

    def keep(self, chosen: Secret) -> None:
        """Settle on one of the candidates: make sure that it is durable, destroy all else.

        Raises:
            LocalProtocolError: it is none of the candidates.
            VaultError: the place cannot be written: the chosen key is left in any case.
        """

    def destroy(self) -> None:
        """Destroy every key; the vault can never be opened again.

        Raises:
            VaultError: the place cannot be written.
        """


class MemoryRootKey:
    """A root key that dies with the process, and the vault with it."""

    def __init__(self) -> None:
        self._key: Secret | None = None

    def exists(self) -> bool:
        """Return whether a key is held."""
        return self._key is not None

    def candidates(self) -> tuple[Secret, ...]:
        """Return the key, if there is one."""
        return () if self._key is None else (self._key.copy(),)

    def replace(self, new: Secret) -> None:
        """Hold a copy of the new key and wipe the old one."""
        copy = new.copy()
        self.destroy()
        self._key = copy

    def keep(self, chosen: Secret) -> None:
        """Do nothing: there is never a second one.

        Raises:
            LocalProtocolError: it is not the key held.
        """
        if self._key != chosen:
            raise LocalProtocolError("this root key is not a candidate")

    def destroy(self) -> None:
        """Wipe the key."""
        if self._key is not None:
            self._key.wipe()
        self._key = None


_NAME: Final = "root.key"
_MAGIC: Final = b"ephroot\n"
_FORMAT: Final = 1
_SLOTS: Final = 2

_SLOT_SIZE: Final = 4096
"""Bytes from one slot to the next: a write that tears one does not touch the other's block."""

_HOLDS_KEY: Final = 1
_HOLDS_NOTHING: Final = 0
_KEY_AT: Final = len(_MAGIC) + 2
_CHECKSUM_AT: Final = _KEY_AT + KEY_SIZE
_RECORD_SIZE: Final = _CHECKSUM_AT + CHECKSUM_SIZE


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one slot holds; `blank` when a completed scrub left it, or nothing was ever there."""

    key: Secret | None = field(repr=False)
    blank: bool


class FileRootKey:
    """A root key in a file with mode 0600: two slots, the old one overwritten and synced.

    A slot's record is magic (8 bytes), format (1), whether it holds a key (1), the key or random
    bytes (32), a checksum of it all (16). A torn record is no candidate.

    Args:
        folder: the vault's folder; it is made, with mode 0700, when the first key is stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _NAME

    def exists(self) -> bool:
        """Return whether the file exists, readable or not."""
        return os.path.lexists(self._path)

    def candidates(self) -> tuple[Secret, ...]:
        """Return the keys that are intact: one, or two after a crash while it was replaced.

        Raises:
            VaultForeign: the file is not a root key file, a link, or another user's.
            VaultTooNew: a newer version of this library wrote it.
            VaultUnavailable: others can read it, or the system refuses.
        """
        return tuple(slot.key for slot in self._slots() if slot.key is not None)

    def replace(self, new: Secret) -> None:
        """Write the new key into the free slot, sync, overwrite the other slot, sync.

        Raises:
            LocalProtocolError: there are two candidates; `keep` one of them first.
            VaultForeign: the file is not a root key file, a link, or another user's.
            VaultTooNew: a newer version of this library wrote it.
            VaultUnavailable: the system refuses: the old key, the new one or both are left.
        """
        if len(new) != KEY_SIZE:
            raise LocalProtocolError(f"a root key must have {KEY_SIZE} bytes")
        taken = [index for index, slot in enumerate(self._slots()) if slot.key is not None]
        if len(taken) == _SLOTS:
            raise LocalProtocolError("two root keys are stored; keep one of them first")
        if not taken:
            self._make()
        self._settle(1 - taken[0] if taken else 0, new)

    def keep(self, chosen: Secret) -> None:
        """Settle on one of the candidates; a scrub that a crash cut short is repeated.

        The chosen key is written once more before anything else is destroyed: after a failed sync
        it may have been in the system's memory only.

        Raises:
            LocalProtocolError: it is none of the candidates.
            VaultUnavailable: the system refuses; the chosen key is left in any case.
        """
        slots = self._slots()
        matching = [index for index, slot in enumerate(slots) if slot.key == chosen]
        if not matching:
            raise LocalProtocolError("this root key is not a candidate")
        if not slots[1 - matching[0]].blank:
            self._settle(matching[0], chosen)

    def destroy(self) -> None:
        """Overwrite both slots, sync, and remove the file.

        Raises:
            VaultForeign: the file is not a root key file, a link, or another user's.
            VaultTooNew: a newer version of this library wrote it.
            VaultUnavailable: the system refuses.
        """
        self._slots()
        if not self.exists():
            return
        with private_file(self._path) as descriptor:
            write_through(descriptor, 0, b"".join(map(_whole_slot, (None, None))))
        with reported(self._path):
            self._path.unlink()
            sync_folder(self._folder)

    def _slots(self) -> list[_Slot]:
        content = read_private(self._path) or b""
        if len(content) > _SLOTS * _SLOT_SIZE:
            raise VaultForeign(f"{self._path}: this is not a root key file; nothing was changed")
        records = [content[at : at + _RECORD_SIZE] for at in (0, _SLOT_SIZE)]
        return [self._read_record(record) for record in records]

    def _read_record(self, record: bytes) -> _Slot:
        magic, rest = record[: len(_MAGIC)], record[len(_MAGIC) :]
        # A file whose first writing was torn holds a beginning, or zeros where the disk got none.
        if magic != _MAGIC and not _MAGIC.startswith(magic.rstrip(b"\0")):
            raise VaultForeign(f"{self._path}: this is not a root key file; nothing was changed")
        if magic == _MAGIC and rest and rest[0] > _FORMAT:
            raise VaultTooNew(f"{self._path}: format {rest[0]}; update this library to open it")
        if len(record) < _RECORD_SIZE or checksum(record[:_CHECKSUM_AT]) != record[_CHECKSUM_AT:]:
            return _Slot(None, blank=not any(record))
        if record[_KEY_AT - 1] != _HOLDS_KEY:
            return _Slot(None, blank=True)
        return _Slot(Secret(record[_KEY_AT:_CHECKSUM_AT]), blank=False)

    def _make(self) -> None:
        make_private_folder(self._folder)
        with private_file(self._path, create=True) as descriptor:
            write_through(descriptor, 0, b"".join(map(_whole_slot, (None, None))))
        with reported(self._folder):
            sync_folder(self._folder)

    def _settle(self, index: int, key: Secret) -> None:
        with private_file(self._path) as descriptor:
            write_through(descriptor, index * _SLOT_SIZE, _whole_slot(key))
            write_through(descriptor, (1 - index) * _SLOT_SIZE, _whole_slot(None))


def _whole_slot(key: Secret | None) -> bytearray:
    """Return a slot's bytes with a key, or with random bytes in its place."""
    kind = _HOLDS_NOTHING if key is None else _HOLDS_KEY
    record = bytearray(_MAGIC + bytes((_FORMAT, kind)))
    record += random_bytes(KEY_SIZE) if key is None else key.expose()
    record += checksum(record)
    return record.ljust(_SLOT_SIZE, b"\0")
