"""The key tree: one root, 2**96 keys, each of which can be forgotten for good.

A puncturable pseudo-random function after Goldreich, Goldwasser and Micali: both children of a
node come from one keyed hash of it, and a record's key is the leaf at its path

    region (8 bits) | group (40 bits) | sequence (48 bits)

Only the roots of the subtrees still alive are held. Forgetting a range of leaves replaces each
node above it by those of its children that lie outside; the way back up does not exist.
Pure: no files, no clock, no randomness.
"""

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged
from eph_e2ee.vault.primitives import KEY_SIZE, Key, Secret, children, descend, wipe

__all__ = [
    "LEAF_SIZE",
    "MAXIMUM_GROUP",
    "MAXIMUM_SEQUENCE",
    "Cut",
    "GroupCut",
    "KeyTree",
    "Leaf",
    "LeafCut",
    "Region",
    "UntilCut",
    "pack_cut",
    "unpack_cut",
]

_REGION_BITS: Final = 8
_GROUP_BITS: Final = 40
_SEQUENCE_BITS: Final = 48
_DEPTH: Final = _REGION_BITS + _GROUP_BITS + _SEQUENCE_BITS

MAXIMUM_GROUP: Final = (1 << _GROUP_BITS) - 1
"""The last group: as a deadline in seconds it lies 34 000 years ahead."""

MAXIMUM_SEQUENCE: Final = (1 << _SEQUENCE_BITS) - 1
"""The last sequence of a group: a million records a second would last nine years."""

LEAF_SIZE: Final = _DEPTH // 8
"""Bytes of a packed leaf."""

_GROUP_SIZE: Final = (_REGION_BITS + _GROUP_BITS) // 8


class Region(enum.IntEnum):
    """What the groups of a part of the tree stand for."""

    EXPIRING = 0
    """A group is a deadline in whole seconds since the epoch."""
    KEPT = 1
    """A group is a conversation's number: unread messages, and those without a timer."""
    RATCHET = 2
    """Values of omemo.Storage and of the conversations' state."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The path of one record's key.

    Attributes:
        region: what `group` means.
        group: 0 to `MAXIMUM_GROUP`.
        sequence: 0 to `MAXIMUM_SEQUENCE`; give it out in growing order, which keeps the state
            small.
    """

    region: Region
    group: int
    sequence: int

    def pack(self) -> bytes:
        """Return the path as `LEAF_SIZE` bytes; their order is the leaves' order.

        Raises:
            LocalProtocolError: a number is out of range.
        """
        return _position(self.region, self.group, self.sequence).to_bytes(LEAF_SIZE, "big")

    @classmethod
    def unpack(cls, data: bytes) -> "Leaf":
        """Return the leaf that `pack` gave these bytes for.

        Raises:
            VaultDamaged: not `LEAF_SIZE` bytes, or a region that does not exist.
        """
        if len(data) != LEAF_SIZE:
            raise VaultDamaged(f"a leaf of {len(data)} bytes; restore the vault from a backup")
        region, group = _unpack_group(data[:_GROUP_SIZE])
        return cls(region, group, int.from_bytes(data[_GROUP_SIZE:], "big"))


@dataclass(frozen=True, slots=True)
class LeafCut:
    """Forget one leaf."""

    leaf: Leaf


@dataclass(frozen=True, slots=True)
class GroupCut:
    """Forget every leaf of one group."""

    region: Region
    group: int


@dataclass(frozen=True, slots=True)
class UntilCut:
    """Forget every leaf of every group from 0 to `group`, itself included."""

    region: Region
    group: int


Cut: TypeAlias = LeafCut | GroupCut | UntilCut
"""What to forget. Cutting what is gone already changes nothing, so a cut may be repeated."""

_LEAF_CUT: Final = b"L"
_GROUP_CUT: Final = b"G"
_UNTIL_CUT: Final = b"U"


def pack_cut(cut: Cut) -> bytes:
    """Return a cut as bytes: its kind, then a packed leaf or a packed group.

    Raises:
        LocalProtocolError: a number is out of range.
    """
    if isinstance(cut, LeafCut):
        return _LEAF_CUT + cut.leaf.pack()
    kind = _GROUP_CUT if isinstance(cut, GroupCut) else _UNTIL_CUT
    return kind + _position(cut.region, cut.group, 0).to_bytes(LEAF_SIZE, "big")[:_GROUP_SIZE]


def unpack_cut(data: bytes) -> Cut:
    """Return the cut that `pack_cut` gave these bytes for.

    Raises:
        VaultDamaged: `pack_cut` did not make this.
    """
    kind, path = data[:1], data[1:]
    if kind == _LEAF_CUT:
        return LeafCut(Leaf.unpack(path))
    if kind not in (_GROUP_CUT, _UNTIL_CUT) or len(path) != _GROUP_SIZE:
        raise VaultDamaged("an intent to erase cannot be read; restore the vault from a backup")
    region, group = _unpack_group(path)
    return GroupCut(region, group) if kind == _GROUP_CUT else UntilCut(region, group)


@dataclass(frozen=True, slots=True)
class _Node:
    """The root of a live subtree: it holds the leaves `start` to `end` - 1."""

    start: int
    depth: int
    key: bytearray = field(repr=False)

    @property
    def levels(self) -> int:
        """How far below the leaves are."""
        return _DEPTH - self.depth

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
        position = _position(leaf.region, leaf.group, leaf.sequence)
        node = self._covering(position)
        if node is None:
            raise Forgotten("the key of this record has been destroyed")
        if not node.levels:
            return bytes(node.key)
        last, trail = self._trails.get(leaf.region, (0, []))
        shared = _DEPTH - (position ^ last).bit_length() - node.depth
        if not trail or shared <= 0:
            trail = descend(node.key, position, node.levels)
        elif shared < node.levels:
            trail = trail[:shared] + descend(trail[shared - 1], position, node.levels - shared)
        self._trails[leaf.region] = position, trail
        return trail[-1]

    def alive(self, leaf: Leaf) -> bool:
        """Return whether no cut has reached a leaf.

        Raises:
            LocalProtocolError: a number is out of range.
        """
        return self._covering(_position(leaf.region, leaf.group, leaf.sequence)) is not None

    def cut(self, cut: Cut) -> None:
        """Forget: in memory at once, for good once the exported state has replaced the old one.

        Raises:
            LocalProtocolError: a number is out of range; nothing was cut.
        """
        low, high = _interval(cut)
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

    def _covering(self, position: int) -> _Node | None:
        index = bisect_right(self._starts, position) - 1
        if index < 0:
            return None
        node = self._nodes[index]
        return node if position < node.end else None


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


def _position(region: int, group: int, sequence: int) -> int:
    if not (0 <= group <= MAXIMUM_GROUP and 0 <= sequence <= MAXIMUM_SEQUENCE):
        raise LocalProtocolError("a group or a sequence of the key tree is out of range")
    return (region << _GROUP_BITS | group) << _SEQUENCE_BITS | sequence


def _interval(cut: Cut) -> tuple[int, int]:
    """Return the first leaf of a cut and the one after its last."""
    if isinstance(cut, LeafCut):
        low = _position(cut.leaf.region, cut.leaf.group, cut.leaf.sequence)
        return low, low + 1
    end = _position(cut.region, cut.group, MAXIMUM_SEQUENCE) + 1
    return _position(cut.region, cut.group if isinstance(cut, GroupCut) else 0, 0), end


def _unpack_group(data: bytes) -> tuple[Region, int]:
    try:
        region = Region(data[0])
    except ValueError:
        raise VaultDamaged(
            f"a region {data[0]} that does not exist; restore the vault from a backup"
        ) from None
    return region, int.from_bytes(data[1:], "big")


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
        if depth > _DEPTH or len(key) != KEY_SIZE or start & (1 << _DEPTH - depth) - 1:
            raise VaultDamaged("the key tree cannot be read; restore the vault from a backup")
        yield _Node(start, depth, bytearray(key))
        offset = key_at + KEY_SIZE
