"""The keys of an open vault: the tree, and how a changed tree reaches the disk.

`Keys.forget` is steps 2 and 3 of the one safe order (`vault.py`). It can be stopped
anywhere, by an error or by the end of the process, and be called again.
"""

from collections.abc import Iterable
from dataclasses import replace

from eph_e2ee.clock import Clock
from eph_e2ee.vault.keyfile import KeyFile, Opened
from eph_e2ee.vault.keytree import Cut, KeyTree, Leaf
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

    def forget(self, cuts: Iterable[Cut]) -> None:
        """Cut the tree, and see to it that no earlier state of it can be opened again.

        Three syncs: the new tree under a fresh root key, the new root key, the end of the old.

        Raises:
            VaultError: the disk or the root key's place refused; in memory the leaves are gone,
                on the disk an older state may still open. Call it again with the same cuts or
                more.
        """
        for cut in cuts:
            self._tree.cut(cut)
        payload = replace(self._payload, tree=self._tree.export(), reading=self._clock.reading())
        self._key_file.renew(self._root_key, payload)

    def wipe(self) -> None:
        """Overwrite the keys in memory."""
        self._tree.wipe()
        self._payload.index_key.wipe()
