"""A file with two slots for a root key: while it is replaced, one of them is always whole.

    magic (8 bytes) | format (1) | whether it holds a key (1) | body | checksum (16)

What a body is, the key itself or something that it is sealed in, is the subclass's to say. A slot
that holds no key has a body of random bytes. A torn record is no candidate.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

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

__all__ = ["Slot", "SlottedRootKey"]

_SLOTS: Final = 2

_SLOT_SIZE: Final = 4096
"""Bytes from one slot to the next: a write that tears one does not touch the other's block."""

_MAGIC_SIZE: Final = 8
_BODY_AT: Final = _MAGIC_SIZE + 2
_HOLDS_KEY: Final = 1
_HOLDS_NOTHING: Final = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """What one slot holds.

    Attributes:
        body: of an intact record that holds a key, else None.
        blank: a completed scrub left it, or nothing was ever there.
        key: what the body was found to hold, if it could be opened.
    """

    body: bytes | None = field(repr=False)
    blank: bool
    key: Secret | None = field(default=None, repr=False)


class SlottedRootKey(ABC):
    """A root key in a file with mode 0600: two slots, the old one overwritten and synced.

    Args:
        folder: the vault's folder; it is made, with mode 0700, when the first key is stored.
    """

    _name: ClassVar[str]
    _magic: ClassVar[bytes]
    _format: ClassVar[int]
    _body_size: ClassVar[int]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / self._name
        self._unfinished = folder / f"{self._name}.new"

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
        return tuple(slot.key for slot in self._open(self._slots()) if slot.key is not None)

    def replace(self, new: Secret) -> None:
        """Write the new key into the free slot, sync, overwrite the other slot, sync.

        The first key of all appears as a whole or not at all.

        Raises:
            LocalProtocolError: there are two candidates; `keep` one of them first.
            VaultForeign: the file is not a root key file, a link, or another user's.
            VaultTooNew: a newer version of this library wrote it.
            VaultUnavailable: the system refuses: the old key, the new one or both are left.
        """
        if len(new) != KEY_SIZE:
            raise LocalProtocolError(f"a root key must have {KEY_SIZE} bytes")
        slots = self._open(self._slots())
        taken = [index for index, slot in enumerate(slots) if slot.key is not None]
        if len(taken) == _SLOTS:
            raise LocalProtocolError("two root keys are stored; keep one of them first")
        body = self._wrap(new)
        if self.exists():
            self._settle(1 - taken[0] if taken else 0, body)
        else:
            self._make(body)

    def keep(self, chosen: Secret) -> None:
        """Settle on one of the candidates; a scrub that a crash cut short is repeated.

        The chosen key is written once more before anything else is destroyed: after a failed sync
        it may have been in the system's memory only. The bytes are the same ones, so tearing that
        write does no harm.

        Raises:
            LocalProtocolError: it is none of the candidates.
            VaultUnavailable: the system refuses; the chosen key is left in any case.
        """
        slots = self._open(self._slots())
        for index, slot in enumerate(slots):
            if slot.key == chosen and slot.body is not None:
                if not slots[1 - index].blank:
                    self._settle(index, slot.body)
                return
        raise LocalProtocolError("this root key is not a candidate")

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
            write_through(descriptor, 0, self._record(None) + self._record(None))
        with reported(self._path):
            self._path.unlink()
            sync_folder(self._folder)

    @abstractmethod
    def _wrap(self, key: Secret) -> bytes:
        """Return the body that holds a key."""

    @abstractmethod
    def _open(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Return the slots with the keys that their bodies hold; never the same key twice."""

    def _slots(self) -> list[Slot]:
        content = read_private(self._path) or b""
        if len(content) > _SLOTS * _SLOT_SIZE:
            raise VaultForeign(f"{self._path}: this is not a root key file; nothing was changed")
        end = _BODY_AT + self._body_size + CHECKSUM_SIZE
        return [self._read_record(content[at : at + end]) for at in (0, _SLOT_SIZE)]

    def _read_record(self, record: bytes) -> Slot:
        magic, rest = record[:_MAGIC_SIZE], record[_MAGIC_SIZE:]
        # A file whose first writing was torn holds a beginning, or zeros where the disk got none.
        if magic != self._magic and not self._magic.startswith(magic.rstrip(b"\0")):
            raise VaultForeign(f"{self._path}: this is not a root key file; nothing was changed")
        if magic == self._magic and rest and rest[0] > self._format:
            raise VaultTooNew(f"{self._path}: format {rest[0]}; update this library to open it")
        body_end = _BODY_AT + self._body_size
        if checksum(record[:body_end]) != record[body_end:]:
            return Slot(None, blank=not any(record))
        if record[_BODY_AT - 1] != _HOLDS_KEY:
            return Slot(None, blank=True)
        return Slot(record[_BODY_AT:body_end], blank=False)

    def _make(self, body: bytes) -> None:
        make_private_folder(self._folder)
        with private_file(self._unfinished, create=True) as descriptor:
            write_through(descriptor, 0, self._record(body) + self._record(None))
            self._unfinished.rename(self._path)
            sync_folder(self._folder)

    def _settle(self, index: int, body: bytes) -> None:
        with private_file(self._path) as descriptor:
            write_through(descriptor, index * _SLOT_SIZE, self._record(body))
            write_through(descriptor, (1 - index) * _SLOT_SIZE, self._record(None))

    def _record(self, body: bytes | None) -> bytes:
        """Return a slot's bytes; random ones cover all that a record does not need."""
        holds = _HOLDS_NOTHING if body is None else _HOLDS_KEY
        held = random_bytes(self._body_size) if body is None else body
        record = self._magic + bytes((self._format, holds)) + held
        return (record + checksum(record)).ljust(_SLOT_SIZE, b"\0")
