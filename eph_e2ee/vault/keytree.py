"""The key tree: one root, 2**120 keys, each of which can be forgotten for good.

A puncturable pseudo-random function after Goldreich, Goldwasser and Micali: both children of a
node come from one keyed hash of it, and a record's key is the leaf at its path

    region (8 bits) | epoch (24 bits) | group (40 bits) | sequence (48 bits)

Only the roots of the subtrees still alive are held. Forgetting a range of leaves replaces each
node above it by those of its children that lie outside; the way back up does not exist.

Leaves that are forgotten one by one, here and there, leave many small subtrees behind. Epochs are
the way out: what lives in a region is sealed anew in its next epoch, and all epochs before are one
cut (`resealing.py`).
Pure: no files, no clock, no randomness.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged
from eph_e2ee.vault.paths import (
    DEPTH,
    LEAF_SIZE,
    Cut,
    Leaf,
    Region,
    interval,
    position,
    region_interval,
)
from eph_e2ee.vault.primitives import KEY_SIZE, Key, Secret, children, descend, wipe

__all__ = ["MAXIMUM_NODE", "KeyTree"]


MAXIMUM_NODE: Final = 1 + LEAF_SIZE + KEY_SIZE
"""Bytes of an exported node at most: its depth, its path and its key."""


@dataclass(frozen=True, slots=True)
class _Node:
    """The root of a live subtree: it holds the leaves `start` to `end` - 1."""

    start: int
    depth: int
    key: bytearray = field(repr=False)

    @property
    def levels(self) -> int:
        """How far below the leaves are."""
        return DEPTH - self.depth

    @property
    def end(self) -> int:
        return self.start + (1 << self.levels)

    def split(self) -> tuple["_Node", "_Node"]:
        """Return both children; a leaf has none."""
        left, right = children(self.key)
        middle = self.start + (1 << self.levels - 1)
        return (
            _Node(self.start, self.depth + 1, bytearray(left)),
            _Node(middle, self.depth + 1, bytearray(right)),
        )


class KeyTree:
    """The live part of the tree. One thread at a time may use it.

    The buffers of nodes that a cut removes are overwritten; what Python copied on the way is
    beyond reach until the memory is reused.
    """

    def __init__(self, nodes: list[_Node]) -> None:
        # The live subtrees are disjoint intervals of leaves: sorted by their start, the one that
        # covers a leaf is found by bisection.
        self._nodes = nodes
        self._starts = [node.start for node in nodes]
        # The keys on the way to the last leaf derived in each region: its neighbours share most of
        # them, and moving a message takes turns between regions. Every cut drops all of them, so
        # nothing derived outlives a cut.
        self._trails: dict[Region, tuple[int, list[bytes]]] = {}

    @classmethod
    def create(cls, root: Key) -> "KeyTree":
        """Return a whole tree, with nothing forgotten, over a copy of a root of `KEY_SIZE` bytes.

        Raises:
            LocalProtocolError: the root has another size.
        """
        if len(root) != KEY_SIZE:
            raise LocalProtocolError(f"the tree's root must have {KEY_SIZE} bytes")
        key = bytearray(root.expose() if isinstance(root, Secret) else root)
        return cls([_Node(0, 0, key)])

    @classmethod
    def load(cls, data: bytes) -> "KeyTree":
        """Return the tree that `export` described.

        Raises:
            VaultDamaged: `export` did not make this.
        """
        nodes = list(_read_nodes(data))
        end = 0
        for node in nodes:
            if node.start < end:
                raise VaultDamaged("the key tree overlaps itself; restore it from a backup")
            end = node.end
        return cls(nodes)

    def export(self) -> bytes:
        """Return the live nodes in their order: secret; to be sealed before it is stored.

        A node is one byte of depth, the bits of its path in whole bytes, and `KEY_SIZE` bytes.
        """
        return b"".join(map(_write_node, self._nodes))

    def derive(self, leaf: Leaf) -> bytes:
        """Return a leaf's key, `KEY_SIZE` bytes.

        Raises:
            Forgotten: a cut has reached it.
            LocalProtocolError: a number is out of range.
        """
        place = position(leaf)
        node = self._covering(place)
        if node is None:
            raise Forgotten("the key of this record has been destroyed")
        if not node.levels:
            return bytes(node.key)
        last, trail = self._trails.get(leaf.region, (0, []))
        shared = DEPTH - (place ^ last).bit_length() - node.depth
        if not trail or shared <= 0:
            trail = descend(node.key, place, node.levels)
        elif shared < node.levels:
            trail = trail[:shared] + descend(trail[shared - 1], place, node.levels - shared)
        self._trails[leaf.region] = place, trail
        return trail[-1]

    def alive(self, leaf: Leaf) -> bool:
        """Return whether no cut has reached a leaf.

        Raises:
            LocalProtocolError: a number is out of range.
        """
        return self._covering(position(leaf)) is not None

    def cut(self, cut: Cut) -> None:
        """Forget: in memory at once, for good once the exported state has replaced the old one.

        Raises:
            LocalProtocolError: a number is out of range; nothing was cut.
        """
        low, high = interval(cut)
        self._trails.clear()
        first = bisect_right(self._starts, low) - 1
        if first < 0 or self._nodes[first].end <= low:
            first += 1
        last = bisect_left(self._starts, high)
        removed = self._nodes[first:last]
        kept = [rest for node in removed for rest in _outside(node, low, high)]
        self._nodes[first:last] = kept
        self._starts[first:last] = [node.start for node in kept]
        for node in removed:
            wipe(node.key)

    def wipe(self) -> None:
        """Forget everything in memory; the exported states are not touched."""
        for node in self._nodes:
            wipe(node.key)
        self._nodes, self._starts = [], []
        self._trails.clear()

    def __len__(self) -> int:
        """Count the live nodes."""
        return len(self._nodes)

    def scattered(self, region: Region) -> int:
        """Count the live nodes of a region: what forgetting here and there has left of it."""
        low, high = region_interval(region)
        return bisect_left(self._starts, high) - bisect_left(self._starts, low)

    def _covering(self, place: int) -> _Node | None:
        index = bisect_right(self._starts, place) - 1
        if index < 0:
            return None
        node = self._nodes[index]
        return node if place < node.end else None


def _outside(root: _Node, low: int, high: int) -> Iterator[_Node]:
    """Yield, in order, the largest subtrees below a node without a leaf from `low` to `high` - 1.

    The root's own buffer is left alone, so that a cut that fails half-way has changed nothing.
    """
    pending = [root]
    while pending:
        node = pending.pop()
        if node.end <= low or high <= node.start:
            yield node
            continue
        if node.start < low or high < node.end:
            pending += reversed(node.split())
        if node is not root:
            wipe(node.key)


def _path_size(depth: int) -> int:
    return -(-depth // 8)


def _write_node(node: _Node) -> bytes:
    path = node.start.to_bytes(LEAF_SIZE, "big")[: _path_size(node.depth)]
    return node.depth.to_bytes(1, "big") + path + node.key


def _read_nodes(data: bytes) -> Iterator[_Node]:
    offset = 0
    while offset < len(data):
        depth = data[offset]
        key_at = offset + 1 + _path_size(depth)
        path, key = data[offset + 1 : key_at], data[key_at : key_at + KEY_SIZE]
        start = int.from_bytes(path.ljust(LEAF_SIZE, b"\0"), "big")
        if depth > DEPTH or len(key) != KEY_SIZE or start & (1 << DEPTH - depth) - 1:
            raise VaultDamaged("the key tree cannot be read; restore the vault from a backup")
        yield _Node(start, depth, bytearray(key))
        offset = key_at + KEY_SIZE
