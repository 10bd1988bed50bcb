"""The key file: the key tree and what goes with it, sealed under the root key.

Two slots, written in turn and in place. A generation is written into the slot that does not hold
the current one; then the root key is replaced, and with it the older generation is gone for good.
After a crash the newest generation that a root key candidate opens is the current one.

    magic (8 bytes) | format (2) | generation (8) | length (4) | checksum (16) | sealed | random

Steps 2 and 3 of the one safe order, which stands in `keeper.py`.
"""

import enum
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    WrongRootKey,
)
from eph_e2ee.vault.payload import Payload
from eph_e2ee.vault.primitives import (
    CHECKSUM_SIZE,
    KEY_SIZE,
    SEAL_OVERHEAD,
    Secret,
    checksum,
    keyed_hash,
    open_sealed,
    random_bytes,
    random_key,
    seal,
)
from eph_e2ee.vault.privatefile import (
    make_private_folder,
    private_file,
    read_private,
    reported,
    sync_folder,
    write_through,
)
from eph_e2ee.vault.rootkey import RootKey

__all__ = ["KeyFile", "Opened"]

_NAMES: Final = ("keys.0", "keys.1")
_UNFINISHED: Final = "keys.new"
_MAGIC: Final = b"ephvault"
_FORMAT: Final = 1
_HEADER: Final = struct.Struct(">8sHQI")
_SEALED_AT: Final = _HEADER.size + CHECKSUM_SIZE
_FIRST_GENERATION: Final = 1

_BLOCK: Final = 4096
"""Bytes: a slot's size is a multiple, so that in-place writes cover whole blocks of the disk."""

_MARK: Final = "root key given to another place"
_MARK_SIZE: Final = 8
"""Bytes of a root key that only this vault can have made; chance alone still makes the other 24."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The current generation.

    Attributes:
        generation: grows by one with each renewal, from 1.
        payload: what it keeps.
        root_key: the candidate that opened it; `RootKey.keep` wants it.
    """

    generation: int
    payload: Payload
    root_key: Secret


class _State(enum.Enum):
    """What stands in a slot before anything has been decrypted."""

    MISSING = enum.auto()
    FOREIGN = enum.auto()
    TOO_NEW = enum.auto()
    TORN = enum.auto()
    INTACT = enum.auto()


@dataclass(frozen=True, slots=True)
class _Slot:
    index: int
    state: _State
    generation: int = 0
    header: bytes = b""
    sealed: bytes = field(default=b"", repr=False)


class KeyFile:
    """The key file in a vault's folder. One thread at a time may use it, under a `VaultLock`.

    Args:
        folder: the vault's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = [folder / name for name in _NAMES]
        self._current: tuple[int, int] | None = None  # generation and slot

    def exists(self) -> bool:
        """Return whether a vault was ever made here, whatever state its key file is in."""
        return any(os.path.lexists(path) for path in self._paths)

    def create(self, root_key: RootKey, payload: Payload) -> None:
        """Make the key file's first generation, under a fresh root key that is stored first.

        It appears as a whole or not at all: after a crash `exists()` is false and it can be
        made again. What an older root key sealed is lost, so look first that nothing is.

        Raises:
            LocalProtocolError: it exists already.
            VaultError: the disk or the root key's place refuses.
        """
        if self.exists():
            raise LocalProtocolError("there is a key file already")
        make_private_folder(self._folder)
        fresh = random_key()
        try:
            for leftover in root_key.candidates():
                root_key.keep(leftover)
                break
            root_key.replace(fresh)
            self._write_first(_whole_slot(_FIRST_GENERATION, fresh, payload))
        finally:
            fresh.wipe()
        self._current = _FIRST_GENERATION, 0

    def read(self, candidates: Iterable[Secret]) -> Opened:
        """Return the newest generation that one of the root keys opens. Nothing is written.

        The caller then settles on its root key with `RootKey.keep`.

        Raises:
            VaultForeign: these are not a vault's files.
            VaultTooNew: a newer version of this library wrote one of them.
            VaultDamaged: no slot that is intact opens, and one is not intact, or none is there.
            WrongRootKey: everything is intact, and none of the root keys opens it.
        """
        opened, index = self._newest(candidates)
        self._current = opened.generation, index
        return opened

    def opens(self, root_key: RootKey) -> bool:
        """Return whether a place opens it, or may do so once it can be read again."""
        try:
            self._newest(root_key.candidates())
        except (WrongRootKey, VaultDamaged):
            return False
        except VaultError:
            return True
        return True

    def renew(self, root_key: RootKey, payload: Payload) -> int:
        """Write the next generation under a fresh root key, replace the root key, and return.

        From here what the old generation held and the payload does not is gone for good. The slot
        is overwritten in place with one sync; the root key's replacement adds its own. When it
        raises, either generation may be current; calling it again finds out first, and the same
        payload may be given again.

        Returns:
            The generation written.

        Raises:
            VaultError: the disk or the root key's place refuses, or the key file cannot be read.
        """
        generation, index = self._current or self._settle(root_key)
        self._current = None
        fresh = random_key()
        try:
            self._write(1 - index, generation + 1, fresh, payload)
            root_key.replace(fresh)
        finally:
            fresh.wipe()
        self._current = generation + 1, 1 - index
        return generation + 1

    def change(self, old: RootKey, new: RootKey, payload: Payload) -> int:
        """Keep the root key in another place from now on, and destroy what the old place holds.

        Two generations are written under fresh root keys, so that neither slot is sealed under
        any that `old` ever held. After a crash or an error at any point `old` opens the key file
        or `new` does; calling this again, with both, finishes it.

        Args:
            old: where the root key is, or was before a change that was cut short.
            new: where it shall be: empty, or with what such a change left there.
            payload: what the key file keeps.

        Returns:
            The generation written last.

        Raises:
            LocalProtocolError: both are the same place, or `new` keeps the root key of another
                vault; nothing was changed.
            VaultError: neither opens the key file, or the disk or a place refuses.
        """
        held, given = _both(old, new)
        self._current = None
        try:
            opened, index = self._newest(given + held)
            left = next((key for key in given if self._knows(key, payload)), None)
            if given and left is None:
                raise LocalProtocolError(
                    "the new place holds another vault's root key; choose another place"
                )
            if left is not None:
                new.keep(opened.root_key if opened.root_key in given else left)
            if opened.root_key not in given:
                old.keep(opened.root_key)
                self._give(new, (opened.generation + 1, 1 - index), payload)
            else:
                self._current = opened.generation, index
        finally:
            for key in held + given:
                key.wipe()
        generation = self.renew(new, payload)
        old.destroy()
        return generation

    def _knows(self, key: Secret, payload: Payload) -> bool:
        """Return whether a root key is of this vault: it opens a slot, or `_give` made it."""
        if _marked(key.expose()[:-_MARK_SIZE], payload) == key:
            return True
        slots = map(self._inspect, range(len(_NAMES)))
        return any(slot.state is _State.INTACT and _open(slot, (key,)) for slot in slots)

    def _give(self, new: RootKey, place: tuple[int, int], payload: Payload) -> None:
        """Write a generation under a root key that is then stored in a new place.

        The key is marked: should the old place be used again after a crash, it opens nothing any
        more, and is yet known as a leftover that may be replaced.
        """
        generation, index = place
        fresh = _marked(random_bytes(KEY_SIZE - _MARK_SIZE), payload)
        try:
            self._write(index, generation, fresh, payload)
            new.replace(fresh)
        finally:
            fresh.wipe()
        self._current = place

    def _write_first(self, content: bytes) -> None:
        unfinished = self._folder / _UNFINISHED
        with reported(unfinished):
            unfinished.unlink(missing_ok=True)
        with private_file(unfinished, create=True) as descriptor:
            write_through(descriptor, 0, content)
            unfinished.rename(self._paths[0])
            sync_folder(self._folder)

    def _settle(self, root_key: RootKey) -> tuple[int, int]:
        """Find out which generation is current, destroy the root key of the other, return it."""
        candidates = root_key.candidates()
        opened, index = self._newest(candidates)
        root_key.keep(opened.root_key)
        for candidate in candidates:
            candidate.wipe()
        return opened.generation, index

    def _newest(self, candidates: Iterable[Secret]) -> tuple[Opened, int]:
        slots = [self._inspect(index) for index in range(len(_NAMES))]
        states = {slot.state for slot in slots}
        if _State.TOO_NEW in states:
            raise VaultTooNew(f"{self._folder}: a newer format; update this library to open it")
        keys = tuple(candidates)
        intact = [slot for slot in slots if slot.state is _State.INTACT]
        for slot in sorted(intact, key=lambda slot: slot.generation, reverse=True):
            opened = _open(slot, keys)
            if opened is not None:
                return opened, slot.index
        raise self._refusal(states)

    def _inspect(self, index: int) -> _Slot:
        content = read_private(self._paths[index])
        if content is None:
            return _Slot(index, _State.MISSING)
        magic = content[: len(_MAGIC)]
        if magic != _MAGIC:
            # A slot whose first writing was torn holds a beginning, or zeros.
            torn = _MAGIC.startswith(magic.rstrip(b"\0"))
            return _Slot(index, _State.TORN if torn else _State.FOREIGN)
        if len(content) < _SEALED_AT:
            return _Slot(index, _State.TORN)
        header, expected = content[: _HEADER.size], content[_HEADER.size : _SEALED_AT]
        _, version, generation, length = _HEADER.unpack(header)
        if version > _FORMAT:
            return _Slot(index, _State.TOO_NEW)
        sealed = content[_SEALED_AT : _SEALED_AT + length]
        if len(sealed) != length or checksum(header + sealed) != expected:
            return _Slot(index, _State.TORN)
        return _Slot(index, _State.INTACT, generation, header, sealed)

    def _refusal(self, states: set[_State]) -> VaultError:
        if states == {_State.MISSING}:
            return VaultDamaged(f"{self._folder}: the key file is missing; restore it")
        if _State.INTACT not in states and _State.FOREIGN in states:
            return VaultForeign(f"{self._folder}: these are not a vault's files; choose another")
        if states & {_State.TORN, _State.FOREIGN}:
            return VaultDamaged(
                f"{self._folder}: the key file is damaged, and no root key at hand opens what is "
                "left; restore the vault from a backup, or try another root key"
            )
        return WrongRootKey(f"{self._folder}: no root key at hand opens the key file")

    def _write(self, index: int, generation: int, root_key: Secret, payload: Payload) -> None:
        path = self._paths[index]
        new = not os.path.lexists(path)
        with private_file(path, create=True) as descriptor:
            content = _whole_slot(generation, root_key, payload)
            # Random bytes cover all that was there before; then the slot is as small as it can be.
            covered = os.fstat(descriptor).st_size - len(content)
            write_through(descriptor, 0, content + random_bytes(max(covered, 0)))
            if covered > 0:
                os.ftruncate(descriptor, len(content))
            if new:
                sync_folder(self._folder)


def _both(old: RootKey, new: RootKey) -> tuple[tuple[Secret, ...], tuple[Secret, ...]]:
    """Return the candidates of two places, which must not be one and the same."""
    given = new.candidates()
    try:
        held = old.candidates()
    except VaultDamaged:
        # A change may have been cut short in the middle of destroying it.
        if not given:
            raise
        held = ()
    if old is new or any(key in held for key in given):
        raise LocalProtocolError("the root key is in this place already; choose another")
    return held, given


def _marked(start: bytes | bytearray, payload: Payload) -> Secret:
    mark = keyed_hash(payload.index_key, _MARK, bytes(start), size=_MARK_SIZE)
    return Secret(bytes(start) + mark)


def _open(slot: _Slot, keys: tuple[Secret, ...]) -> Opened | None:
    for key in keys:
        try:
            plaintext = open_sealed(key, slot.sealed, slot.header)
        except VaultDamaged:
            continue
        return Opened(slot.generation, Payload.unpack(plaintext), key)
    return None


def _whole_slot(generation: int, root_key: Secret, payload: Payload) -> bytes:
    """Return a slot's bytes, whole blocks of them."""
    plaintext = payload.pack()
    header = _HEADER.pack(_MAGIC, _FORMAT, generation, len(plaintext) + SEAL_OVERHEAD)
    sealed = seal(root_key, plaintext, header)
    content = header + checksum(header + sealed) + sealed
    return content + random_bytes(-len(content) % _BLOCK)
