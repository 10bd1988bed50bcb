"""The keys of an open vault: the tree, and how a changed tree reaches the disk.

`Keys.cut` and `Keys.write` are steps 2 and 3 of the one safe order (`keeper.py`). Writing can be
stopped anywhere, by an error or by the end of the process, and be done again.
"""

from collections.abc import Iterable
from dataclasses import replace

from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultError
from eph_e2ee.vault.keyfile import KeyFile, Opened
from eph_e2ee.vault.keytree import KeyTree
from eph_e2ee.vault.paths import Cut, Leaf, Region
from eph_e2ee.vault.payload import Payload
from eph_e2ee.vault.primitives import Secret, keyed_hash, open_sealed, seal
from eph_e2ee.vault.rootkey import RootKey

__all__ = ["Keys"]

ROW_FORMAT = b"eph_e2ee row 1 "
"""Begins the associated data of every sealed row."""


class Keys:
    """What opens and seals the rows of one vault; used on the vault's worker only.

    Args:
        key_file: where the tree is kept.
        root_key: where the key of the key file is kept.
        opened: what the key file held.
        clock: its reading goes into the key file with each writing.
    """

    def __init__(self, key_file: KeyFile, root_key: RootKey, opened: Opened, clock: Clock) -> None:
        self._key_file = key_file
        self._root_key = root_key
        self._clock = clock
        # The old tree's bytes are let go: only `_tree` holds live keys from here on.
        self._payload = replace(opened.payload, tree=b"")
        self._tree = KeyTree.load(opened.payload.tree)
        self._generation = opened.generation

    def hash(self, kind: str, value: str | bytes) -> bytes:
        """Return 16 bytes that find a value of a kind again, and tell nothing without the keys."""
        return keyed_hash(self._payload.index_key, kind, value)

    def alive(self, leaf: Leaf) -> bool:
        """Return whether a leaf has not been forgotten."""
        return self._tree.alive(leaf)

    def seal(self, leaf: Leaf, plaintext: bytes | Secret, kind: bytes) -> bytes:
        """Seal a row's secret under a leaf, bound to the leaf and to the kind of row.

        Raises:
            Forgotten: the leaf has been cut.
        """
        return seal(self._tree.derive(leaf), plaintext, ROW_FORMAT + leaf.pack() + kind)

    def open(self, leaf: Leaf, sealed: bytes, kind: bytes) -> bytes:
        """Open what `seal` made.

        Raises:
            Forgotten: the leaf has been cut.
            VaultDamaged: it was not sealed for this leaf and kind.
        """
        return open_sealed(self._tree.derive(leaf), sealed, ROW_FORMAT + leaf.pack() + kind)

    def crowded(self, limit: int) -> Region | None:
        """Return the region with the most nodes, once the tree has more than `limit` of them."""
        return max(Region, key=self._tree.scattered) if len(self._tree) > limit else None

    @property
    def nodes(self) -> int:
        """How many nodes the tree has: some 48 bytes each, in memory and in the key file."""
        return len(self._tree)

    @property
    def generation(self) -> int:
        """Which generation of the key file is current: one more with each writing."""
        return self._generation

    def cut(self, cuts: Iterable[Cut]) -> None:
        """Forget in memory only; `write` is to follow."""
        for cut in cuts:
            self._tree.cut(cut)

    def write(self) -> None:
        """Let the tree as it is take the place of every earlier state of it.

        Three syncs: the new tree under a fresh root key, the new root key, the end of the old.

        Raises:
            VaultError: the disk or the root key's place refused; in memory the leaves are gone,
                on the disk an older state may still open. Call it again.
        """
        self._generation = self._key_file.renew(self._root_key, self._current())

    def change_root_key(self, new: RootKey) -> None:
        """Keep the root key in another place from now on; what the old one held opens nothing.

        Raises:
            LocalProtocolError: it is the same place, or keeps the root key of another vault;
                nothing was changed.
            VaultError: a place refused. The vault goes on with the one that opens it. When that
                is the old one, call it again; otherwise only destroying the old one has failed.
        """
        old = self._root_key
        try:
            self._generation = self._key_file.change(old, new, self._current())
        except VaultError:
            self._root_key = old if self._key_file.opens(old) else new
            raise
        self._root_key = new

    def _current(self) -> Payload:
        return replace(self._payload, tree=self._tree.export(), reading=self._clock.reading())

    def wipe(self) -> None:
        """Overwrite the keys in memory."""
        self._tree.wipe()
        self._payload.index_key.wipe()
