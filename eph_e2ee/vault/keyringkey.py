"""A root key in the desktop's keyring: it is on no disk but inside of what the user unlocks.

There are two items, so that a crash while the key is replaced loses neither. A keyring may drop
what it is given without a word; therefore every new item is read back before the old one goes.
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
)
from eph_e2ee.vault.primitives import CHECKSUM_SIZE, KEY_SIZE, Secret, checksum

__all__ = ["SERVICE", "Keyring", "KeyringRootKey"]

T = TypeVar("T")

SERVICE: Final = "eph_e2ee"
"""The service under which a keyring lists its items."""

_ITEMS: Final = 2
_PREFIX: Final = "eph_e2ee root key "
_VERSION: Final = 1


class Keyring(Protocol):
    """What is used of a `keyring.backend.KeyringBackend`."""

    def get_password(self, service: str, username: str) -> str | None:
        """Return an item's value, or None."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store an item."""

    def delete_password(self, service: str, username: str) -> None:
        """Remove an item that is there."""


class KeyringRootKey:
    """A root key in a keyring of the package `keyring`, which is the extra `eph-e2ee[keyring]`.

    Every method but `exists` may wait for the user to unlock the keyring, and raises
    VaultUnavailable when there is none, when it stays locked, or when it loses what it is given;
    VaultDamaged, VaultForeign or VaultTooNew when the items are damaged, not ours, or too new.

    Args:
        name: tells this vault's items from those of others; it is not secret.
        backend: the keyring; by default the one that `keyring` chooses.

    Raises:
        LocalProtocolError: the name is empty, or `keyring` is not installed.
    """

    def __init__(self, name: str, *, backend: Keyring | None = None) -> None:
        if not name:
            raise LocalProtocolError("the items of a keyring need a name")
        self._names = [f"{name} {index}" for index in range(_ITEMS)]
        self._keyring = _chosen() if backend is None else backend

    def exists(self) -> bool:
        """Return whether there is an item, whatever it holds.

        Raises:
            VaultUnavailable: there is no keyring, or it stays locked.
        """
        return any(self._get(name) is not None for name in self._names)

    def candidates(self) -> tuple[Secret, ...]:
        """Return the keys that are intact: one, or two after a crash while it was replaced."""
        return tuple(key for key in self._keys() if key is not None)

    def replace(self, new: Secret) -> None:
        """Store the new key as the free item, read it back, then delete the other.

        Raises:
            LocalProtocolError: there are two candidates; `keep` one of them first.
        """
        if len(new) != KEY_SIZE:
            raise LocalProtocolError(f"a root key must have {KEY_SIZE} bytes")
        keys = self._keys()
        taken = [index for index, key in enumerate(keys) if key is not None]
        if len(taken) == _ITEMS:
            raise LocalProtocolError("two root keys are stored; keep one of them first")
        free = 1 - taken[0] if taken else 0
        self._set(self._names[free], _pack(new))
        self._delete(self._names[1 - free])

    def keep(self, chosen: Secret) -> None:
        """Settle on one of the candidates, and delete the other item.

        Raises:
            LocalProtocolError: it is none of the candidates.
        """
        keys = self._keys()
        if chosen not in keys:
            raise LocalProtocolError("this root key is not a candidate")
        self._delete(self._names[1 - keys.index(chosen)])

    def destroy(self) -> None:
        """Delete both items."""
        for name in self._names:
            _check_ours(self._get(name))
        for name in self._names:
            self._delete(name)

    def _keys(self) -> list[Secret | None]:
        values = [self._get(name) for name in self._names]
        keys = [_unpack(value) for value in values]
        if not any(keys) and any(value is not None for value in values):
            raise VaultDamaged("the root key in the keyring is damaged; restore the keyring")
        return keys

    def _get(self, name: str) -> str | None:
        return _asked(lambda: self._keyring.get_password(SERVICE, name))

    def _set(self, name: str, value: str) -> None:
        _asked(lambda: self._keyring.set_password(SERVICE, name, value))
        found = self._get(name)
        if found is None or not hmac.compare_digest(found.encode(), value.encode()):
            raise VaultUnavailable("the keyring does not keep what it is given; choose another")

    def _delete(self, name: str) -> None:
        if self._get(name) is None:
            return
        _asked(lambda: self._keyring.delete_password(SERVICE, name))
        if self._get(name) is not None:
            raise VaultUnavailable("the keyring does not delete what it should; choose another")


def _chosen() -> Keyring:
    try:
        import keyring  # noqa: PLC0415  # an extra, which most vaults do without
    except ImportError:
        raise LocalProtocolError(
            "a root key in the keyring needs keyring: pip install 'eph-e2ee[keyring]'"
        ) from None
    return _asked(keyring.get_keyring)


def _asked(call: Callable[[], T]) -> T:
    """Return what a keyring answers. Its own errors may quote what it was given: none gets out."""
    try:
        return call()
    except VaultError:
        raise
    except Exception as error:  # noqa: BLE001  # backends raise whatever their system's library does
        reason = type(error).__name__
    raise VaultUnavailable(f"the keyring refuses ({reason}): see that it runs and is unlocked")


def _pack(key: Secret) -> str:
    """Return an item's value: what it is, the version, then the key and its checksum in base64."""
    content = bytes(key.expose())
    return f"{_PREFIX}{_VERSION} " + base64.b64encode(content + checksum(content)).decode()


def _unpack(value: str | None) -> Secret | None:
    """Return the key of an item, or None if there is none that is whole."""
    if value is None:
        return None
    _check_ours(value)
    try:
        content = base64.b64decode(value.rpartition(" ")[2], validate=True)
    except binascii.Error:
        return None
    whole = len(content) == KEY_SIZE + CHECKSUM_SIZE
    if not whole or checksum(content[:KEY_SIZE]) != content[KEY_SIZE:]:
        return None
    return Secret(content[:KEY_SIZE])


def _check_ours(value: str | None) -> None:
    """See to it that an item of this name is no other program's, and of no later version."""
    if value is None:
        return
    version = value.removeprefix(_PREFIX).partition(" ")[0]
    if not value.startswith(_PREFIX) or not version.isdecimal():
        raise VaultForeign("the keyring holds something else under this name; choose another")
    if int(version) > _VERSION:
        raise VaultTooNew(f"the keyring's item has version {version}; update this library")
