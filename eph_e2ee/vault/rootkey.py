"""The root key: the 32 bytes that are physically destroyed whenever something is forgotten.

It seals the key file. Whatever keeps it can hold two for a moment, so that a crash while it is
replaced loses neither; the key file tells which one counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.vault.keyslots import Slot, SlottedRootKey
from eph_e2ee.vault.primitives import KEY_SIZE, Secret

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


class FileRootKey(SlottedRootKey):
    """A root key in clear in a file of the vault's folder, `root.key`, with mode 0600.

    The body of a slot is the key. Whoever copies the file can open what the vault holds then.

    Args:
        folder: the vault's folder; it is made, with mode 0700, when the first key is stored.
    """

    _name = "root.key"
    _magic = b"ephroot\n"
    _format = 1
    _body_size = KEY_SIZE

    def _wrap(self, key: Secret) -> bytes:
        return bytes(key.expose())

    def _open(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        return [
            slot if slot.body is None else replace(slot, key=Secret(slot.body)) for slot in slots
        ]
