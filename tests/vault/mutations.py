"""Mistakes made on purpose, each as small as a slip: every one but one must turn a test red.

`apply` makes one of them in this process, for as long as it lives.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any

from eph_e2ee.vault import keyfile, keyslots, primitives, privatefile, records, sqlite
from eph_e2ee.vault.database import replays
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.keys import ROW_FORMAT, Keys
from eph_e2ee.vault.keyslots import SlottedRootKey
from eph_e2ee.vault.keytree import KeyTree, _Node
from eph_e2ee.vault.paths import DEPTH, Cut, LeafCut, Region, position

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Table

    from eph_e2ee.vault.paths import Leaf
    from eph_e2ee.vault.payload import Payload
    from eph_e2ee.vault.primitives import Secret
    from eph_e2ee.vault.rootkey import RootKey

__all__ = ["apply"]


def apply(name: str) -> None:
    """Make the mistake that has this function's name."""
    globals()[name]()


def skip_the_sync_of_the_key_file() -> None:
    """Go on to replace the root key before the disk has the new tree."""

    def write(descriptor: int, offset: int, data: bytes | bytearray) -> None:
        os.pwrite(descriptor, data, offset)

    _patch(keyfile, "write_through", write)


def skip_the_sync_of_the_database() -> None:
    """Acknowledge a commit that the disk has not got."""
    sqlite.PRAGMAS["synchronous"] = ("OFF", 0)


def swap_the_tree_and_the_root_key() -> None:
    """Replace the root key before the tree is written under it: steps 3 and 2."""

    def renew(self: KeyFile, root_key: RootKey, payload: Payload) -> int:
        generation, index = self._current or self._settle(root_key)
        fresh = primitives.random_key()
        root_key.replace(fresh)
        self._write(1 - index, generation + 1, fresh, payload)
        self._current = generation + 1, 1 - index
        return generation + 1

    _patch(KeyFile, "renew", renew)


def leave_the_old_root_key() -> None:
    """Store the new root key, and overwrite the old one only when the next one comes."""
    original, write_through = SlottedRootKey.replace, privatefile.write_through
    stored: list[Secret] = []
    leaving: list[bool] = []

    def write(descriptor: int, offset: int, data: bytes | bytearray) -> None:
        if not leaving or data[keyslots._BODY_AT - 1] == keyslots._HOLDS_KEY:
            write_through(descriptor, offset, data)

    def replace(self: SlottedRootKey, new: Secret) -> None:
        if len(self.candidates()) > 1:
            self.keep(stored[-1])
        stored.append(new.copy())
        leaving.append(True)
        original(self, new)
        leaving.clear()

    _patch(keyslots, "write_through", write)
    _patch(SlottedRootKey, "replace", replace)


def keep_an_old_node() -> None:
    """Leave the node of a leaf in the tree when it is cut."""
    original = KeyTree.cut

    def cut(self: KeyTree, cut: Cut) -> None:
        alive = isinstance(cut, LeafCut) and self.alive(cut.leaf)
        key = self.derive(cut.leaf) if isinstance(cut, LeafCut) and alive else None
        original(self, cut)
        if isinstance(cut, LeafCut) and key is not None:
            place = position(cut.leaf)
            index = bisect.bisect(self._starts, place)
            self._starts.insert(index, place)
            self._nodes.insert(index, _Node(place, DEPTH, bytearray(key)))

    _patch(KeyTree, "cut", cut)


def drop_the_associated_data() -> None:
    """Bind what is sealed to nothing but its leaf's key."""

    def seal(self: Keys, leaf: Leaf, plaintext: bytes | Secret, kind: bytes) -> bytes:
        del kind
        return primitives.seal(self._tree.derive(leaf), plaintext, ROW_FORMAT)

    def open_row(self: Keys, leaf: Leaf, sealed: bytes, kind: bytes) -> bytes:
        del kind
        return primitives.open_sealed(self._tree.derive(leaf), sealed, ROW_FORMAT)

    _patch(Keys, "seal", seal)
    _patch(Keys, "open", open_row)


def use_a_fixed_nonce() -> None:
    """Seal everything with the same nonce, so that a leaf that is reused repeats one."""
    original = secrets.token_bytes

    class Fixed:
        @staticmethod
        def token_bytes(size: int) -> bytes:
            return bytes(size) if size == primitives.NONCE_SIZE else original(size)

    _patch(primitives, "secrets", Fixed)


def forget_the_intents() -> None:
    """Change rows without writing down what is to be forgotten with them."""

    def intend(self: records.Records, cuts: Iterable[Cut]) -> None:
        del self
        list(cuts)

    _patch(records.Records, "intend", intend)


def keep_spent_values() -> None:
    """Overwrite values of the ratchets without forgetting what they were sealed under."""
    original = records.Records.intend

    def intend(self: records.Records, cuts: Iterable[Cut]) -> None:
        original(self, [each for each in cuts if not _of_values(each)])

    _patch(records.Records, "intend", intend)


def forget_the_replay_ids() -> None:
    """Keep messages without the ids by which they are known again."""
    original = records.Records.insert_many

    def insert(self: records.Records, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        if table is not replays:
            original(self, table, rows)

    _patch(records.Records, "insert_many", insert)


def leave_deleted_bytes() -> None:
    """Have SQLite leave what it deletes in its pages: the one mistake that does no harm."""
    sqlite.PRAGMAS["secure_delete"] = ("OFF", 0)


def hash_without_a_key() -> None:
    """Find names by a hash that anybody can compute."""

    def hash_plainly(self: Keys, kind: str, value: str | bytes) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        if kind == "mark":
            return primitives.keyed_hash(self._payload.index_key, kind, value)
        return hashlib.sha256(data).digest()[:16]

    _patch(Keys, "hash", hash_plainly)


def seal_nothing() -> None:
    """Write what is to be sealed as it is."""
    size = primitives.NONCE_SIZE

    def seal(key: object, plaintext: bytes | Secret, associated_data: bytes) -> bytes:
        del key, associated_data
        data = plaintext if isinstance(plaintext, bytes) else bytes(plaintext.expose())
        return os.urandom(size) + data + bytes(primitives.TAG_SIZE)

    def open_plainly(key: object, sealed: bytes, associated_data: bytes) -> bytes:
        del key, associated_data
        return sealed[size : -primitives.TAG_SIZE]

    from eph_e2ee.vault import keys, rows  # noqa: PLC0415  only here their names are changed

    for module in (keys, rows):
        _patch(module, "seal", seal)
        _patch(module, "open_sealed", open_plainly)


def _of_values(cut: Cut) -> bool:
    return isinstance(cut, LeafCut) and cut.leaf.region is Region.RATCHET


def _patch(owner: object, name: str, value: object) -> None:
    assert hasattr(owner, name), f"{name} is not there any more: change the mistake"
    setattr(owner, name, value)
