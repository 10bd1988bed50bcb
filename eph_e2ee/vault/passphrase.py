"""A root key sealed under a passphrase: a copy of all files is worth nothing without it.

The root key itself is random and replaced at each erasure; what Argon2id makes of the passphrase
only seals it, and is computed once. The body of a slot is

    kibibytes (4 bytes) | passes (4) | lanes (4) | salt (16) | the sealed root key (60)

of which all before the sealed key is its associated data, with the file's magic and format.
"""

import struct
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from eph_e2ee.errors import LocalProtocolError, VaultDamaged, WrongRootKey
from eph_e2ee.vault.keyslots import Slot, SlottedRootKey
from eph_e2ee.vault.primitives import (
    KEY_SIZE,
    SALT_SIZE,
    SEAL_OVERHEAD,
    Cost,
    Secret,
    derive_from_passphrase,
    open_sealed,
    random_bytes,
    seal,
)

__all__ = ["Passphrase", "PassphraseRootKey"]

_COST: Final = struct.Struct(">III")
_SEALED_AT: Final = _COST.size + SALT_SIZE

Passphrase = str | Callable[[], str]
"""A passphrase, or what asks for it."""


@dataclass(frozen=True, slots=True)
class _Lock:
    """How a passphrase is made a key: public, and stored with what that key seals."""

    cost: Cost
    salt: bytes

    @classmethod
    def new(cls, cost: Cost) -> "_Lock":
        return cls(cost, random_bytes(SALT_SIZE))

    @classmethod
    def unpack(cls, data: bytes) -> "_Lock":
        return cls(Cost(*_COST.unpack_from(data)), data[_COST.size : _SEALED_AT])

    def pack(self) -> bytes:
        cost = self.cost
        return _COST.pack(cost.memory_kibibytes, cost.passes, cost.lanes) + self.salt


class PassphraseRootKey(SlottedRootKey):
    """A root key in a file of the vault's folder, `root.passphrase`, sealed under a passphrase.

    `candidates`, `replace` and `keep` raise also:

    * WrongRootKey: the passphrase opens nothing in the file, which is intact; nothing was changed.
      Where a function asks for it, the next call asks again.
    * VaultDamaged: the file is not as it was written, or asks for more memory or time than
      `Cost` allows.
    * VaultUnavailable: this machine has not the memory that the passphrase's cost demands.

    Args:
        folder: the vault's folder; it is made, with mode 0700, when the first key is stored.
        passphrase: text, or a function that returns it. The function is called when the
            passphrase is first needed, on the vault's thread, and once unless it was wrong.
        cost: of trying one passphrase; for a file that exists, its own cost counts.
    """

    _name = "root.passphrase"
    _magic = b"ephpass\n"
    _format = 1
    _body_size = _SEALED_AT + KEY_SIZE + SEAL_OVERHEAD

    def __init__(self, folder: Path, passphrase: Passphrase, *, cost: Cost | None = None) -> None:
        super().__init__(folder)
        self._ask = passphrase if callable(passphrase) else None
        self._given = None if callable(passphrase) else _encoded(passphrase)
        self._lock = _Lock.new(cost or Cost())
        self._derived: dict[_Lock, Secret] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._folder)!r})"

    def change_passphrase(self, new: Passphrase, *, cost: Cost | None = None) -> None:
        """Seal the root key under another passphrase, with a new salt; destroy what the old seals.

        After a crash the old passphrase or the new one opens the vault. The root key stays the
        same: whoever copied this file before the change, and knows the old passphrase, has it until
        both slots of the key file have been written anew, by two erasures or by
        `eph-e2ee vault rootkey`.

        Args:
            new: the passphrase, or a function that returns it and is called at once.
            cost: of trying it; by default what the old one had.

        Raises:
            LocalProtocolError: no root key is stored, or there are two candidates: open the vault
                once; or the passphrase is empty.
            WrongRootKey: the old passphrase is wrong; nothing was changed.
            VaultDamaged, VaultForeign, VaultTooNew: as their names say; nothing was changed.
            VaultUnavailable: the system refuses: the old passphrase, the new one or both open it.
                This object goes on with whichever does; call it again.
        """
        held = [(i, s.key) for i, s in enumerate(self._open(self._slots())) if s.key is not None]
        if len(held) != 1:
            raise LocalProtocolError("there is not one root key to seal; open the vault once first")
        ((index, key),) = held
        lock = _Lock.new(cost or self._lock.cost)
        self._derived[lock] = _derive(_encoded(new() if callable(new) else new), lock)
        # The new one comes first from here: once it is on the disk, the old one is a leftover.
        self._lock = lock
        self._settle(1 - index, self._wrap(key))
        for old in [old for old in self._derived if old != lock]:
            self._derived.pop(old).wipe()

    def _wrap(self, key: Secret) -> bytes:
        public = self._lock.pack()
        if self._lock not in self._derived:
            self._derive_all([self._lock])
        return public + seal(self._derived[self._lock], key, self._associated(public))

    def _open(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Return the slots with the keys in them; what another passphrase sealed is left locked."""
        bodies = [slot.body for slot in slots if slot.body is not None]
        if not bodies and not all(slot.blank for slot in slots):
            raise VaultDamaged(f"{self._path}: the file is damaged; restore it from a backup")
        self._derive_all([self._read_lock(body) for body in bodies])
        opened = [self._opened(slot) for slot in slots]
        locks = [_Lock.unpack(slot.body) for slot in opened if slot.body and slot.key]
        if bodies and not locks:
            if self._ask is not None:
                self._forget()
            raise WrongRootKey(f"{self._path}: this passphrase does not open it; nothing changed")
        if locks and self._lock not in locks:
            self._lock = locks[0]
        if len(locks) == len(opened) and opened[0].key == opened[1].key:
            # Changing the passphrase was cut short: both slots hold the one key.
            return [
                slot if self._lock == lock else replace(slot, key=None)
                for slot, lock in zip(opened, locks, strict=True)
            ]
        return opened

    def _opened(self, slot: Slot) -> Slot:
        if slot.body is None:
            return slot
        public, sealed = slot.body[:_SEALED_AT], slot.body[_SEALED_AT:]
        derived = self._derived[_Lock.unpack(public)]
        try:
            return replace(slot, key=Secret(open_sealed(derived, sealed, self._associated(public))))
        except VaultDamaged:
            return slot

    def _read_lock(self, body: bytes) -> _Lock:
        try:
            return _Lock.unpack(body)
        except LocalProtocolError:
            raise VaultDamaged(
                f"{self._path}: the cost that it demands is out of all limits; somebody else "
                "wrote that: restore it from a backup"
            ) from None

    def _derive_all(self, locks: Sequence[_Lock]) -> None:
        """Make the passphrase the keys of some locks, and let go of it."""
        missing = dict.fromkeys(lock for lock in locks if lock not in self._derived)
        if not missing:
            return
        passphrase = _encoded(self._ask()) if self._ask else self._given
        if passphrase is None:
            raise WrongRootKey(f"{self._path}: its passphrase has been changed; give the new one")
        try:
            for lock in missing:
                self._derived[lock] = derive_from_passphrase(passphrase, lock.salt, lock.cost)
        except BaseException:
            self._forget()
            raise
        passphrase.wipe()
        self._given = None

    def _forget(self) -> None:
        for derived in self._derived.values():
            derived.wipe()
        self._derived.clear()

    def _associated(self, public: bytes) -> bytes:
        return self._magic + bytes((self._format,)) + public


def _derive(passphrase: Secret, lock: _Lock) -> Secret:
    try:
        return derive_from_passphrase(passphrase, lock.salt, lock.cost)
    finally:
        passphrase.wipe()


def _encoded(passphrase: str) -> Secret:
    """Return a passphrase's bytes, the same ones whichever way a keyboard composes a letter."""
    try:
        encoded = unicodedata.normalize("NFC", passphrase).encode()
    except (UnicodeEncodeError, TypeError):
        # Their own texts would show the passphrase.
        raise LocalProtocolError("a passphrase is text, of whole characters") from None
    if not encoded:
        raise LocalProtocolError("a passphrase must not be empty")
    return Secret(encoded)
