"""Paths of the key tree: regions, leaves, and what can be cut off at once.

    region (8 bits) | epoch (24 bits) | group (40 bits) | sequence (48 bits)

A path as a number is its leaf's position among all 2**120, from the left.
"""

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

from eph_e2ee.errors import LocalProtocolError, VaultDamaged

__all__ = [
    "DEPTH",
    "LEAF_SIZE",
    "MAXIMUM_EPOCH",
    "MAXIMUM_GROUP",
    "MAXIMUM_SEQUENCE",
    "Cut",
    "EpochCut",
    "GroupCut",
    "Leaf",
    "LeafCut",
    "Region",
    "UntilCut",
    "interval",
    "pack_cut",
    "position",
    "region_interval",
    "unpack_cut",
]

_REGION_BITS: Final = 8
_EPOCH_BITS: Final = 24
_GROUP_BITS: Final = 40
_SEQUENCE_BITS: Final = 48
DEPTH: Final = _REGION_BITS + _EPOCH_BITS + _GROUP_BITS + _SEQUENCE_BITS
"""Bits of a path: how far the leaves lie below the root."""

MAXIMUM_EPOCH: Final = (1 << _EPOCH_BITS) - 1
"""The last epoch of a region: one begins after thousands of scattered erasures."""

MAXIMUM_GROUP: Final = (1 << _GROUP_BITS) - 1
"""The last group: as a deadline in seconds it lies 34 000 years ahead."""

MAXIMUM_SEQUENCE: Final = (1 << _SEQUENCE_BITS) - 1
"""The last sequence of a group: a million records a second would last nine years."""

LEAF_SIZE: Final = DEPTH // 8
"""Bytes of a packed leaf."""

_EPOCH_SIZE: Final = (_REGION_BITS + _EPOCH_BITS) // 8
_GROUP_SIZE: Final = _EPOCH_SIZE + _GROUP_BITS // 8


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
        epoch: 0 to `MAXIMUM_EPOCH`: which sealing of the region it belongs to.
    """

    region: Region
    group: int
    sequence: int
    epoch: int = 0

    def pack(self) -> bytes:
        """Return the path as `LEAF_SIZE` bytes; their order is the leaves' order.

        Raises:
            LocalProtocolError: a number is out of range.
        """
        return position(self).to_bytes(LEAF_SIZE, "big")

    @classmethod
    def unpack(cls, data: bytes) -> "Leaf":
        """Return the leaf that `pack` gave these bytes for.

        Raises:
            VaultDamaged: not `LEAF_SIZE` bytes, or a region that does not exist.
        """
        if len(data) != LEAF_SIZE:
            raise VaultDamaged(f"a leaf of {len(data)} bytes; restore the vault from a backup")
        region, epoch, group = _unpack_group(data[:_GROUP_SIZE])
        return cls(region, group, int.from_bytes(data[_GROUP_SIZE:], "big"), epoch)


@dataclass(frozen=True, slots=True)
class LeafCut:
    """Forget one leaf."""

    leaf: Leaf


@dataclass(frozen=True, slots=True)
class GroupCut:
    """Forget every leaf of one group of an epoch."""

    region: Region
    group: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class UntilCut:
    """Forget every leaf of every group of an epoch from 0 to `group`, itself included."""

    region: Region
    group: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class EpochCut:
    """Forget every leaf of every epoch of a region from 0 to `epoch`, itself included."""

    region: Region
    epoch: int


Cut: TypeAlias = LeafCut | GroupCut | UntilCut | EpochCut
"""What to forget. Cutting what is gone already changes nothing, so a cut may be repeated."""

_LEAF_CUT: Final = b"L"
_GROUP_CUT: Final = b"G"
_UNTIL_CUT: Final = b"U"
_EPOCH_CUT: Final = b"E"


def pack_cut(cut: Cut) -> bytes:
    """Return a cut as bytes: its kind, then as much of a packed leaf as it names.

    Raises:
        LocalProtocolError: a number is out of range.
    """
    if isinstance(cut, LeafCut):
        return _LEAF_CUT + cut.leaf.pack()
    if isinstance(cut, EpochCut):
        return _EPOCH_CUT + Leaf(cut.region, 0, 0, cut.epoch).pack()[:_EPOCH_SIZE]
    kind = _GROUP_CUT if isinstance(cut, GroupCut) else _UNTIL_CUT
    return kind + Leaf(cut.region, cut.group, 0, cut.epoch).pack()[:_GROUP_SIZE]


def unpack_cut(data: bytes) -> Cut:
    """Return the cut that `pack_cut` gave these bytes for.

    Raises:
        VaultDamaged: `pack_cut` did not make this.
    """
    kind, path = data[:1], data[1:]
    if kind == _LEAF_CUT:
        return LeafCut(Leaf.unpack(path))
    size = _EPOCH_SIZE if kind == _EPOCH_CUT else _GROUP_SIZE
    if kind not in (_GROUP_CUT, _UNTIL_CUT, _EPOCH_CUT) or len(path) != size:
        raise VaultDamaged("an intent to erase cannot be read; restore the vault from a backup")
    region, epoch, group = _unpack_group(path)
    if kind == _EPOCH_CUT:
        return EpochCut(region, epoch)
    return (GroupCut if kind == _GROUP_CUT else UntilCut)(region, group, epoch)


def position(leaf: Leaf) -> int:
    """Return a leaf's place among all of the tree's.

    Raises:
        LocalProtocolError: a number is out of range.
    """
    group, sequence, epoch = leaf.group, leaf.sequence, leaf.epoch
    if not (
        0 <= group <= MAXIMUM_GROUP
        and 0 <= sequence <= MAXIMUM_SEQUENCE
        and 0 <= epoch <= MAXIMUM_EPOCH
    ):
        raise LocalProtocolError("a number in a path of the key tree is out of range")
    above = leaf.region << _EPOCH_BITS | epoch
    return (above << _GROUP_BITS | group) << _SEQUENCE_BITS | sequence


def interval(cut: Cut) -> tuple[int, int]:
    """Return the position of a cut's first leaf, and that of the one after its last.

    Raises:
        LocalProtocolError: a number is out of range.
    """
    if isinstance(cut, LeafCut):
        low = position(cut.leaf)
        return low, low + 1
    if isinstance(cut, EpochCut):
        last = Leaf(cut.region, MAXIMUM_GROUP, MAXIMUM_SEQUENCE, cut.epoch)
        return position(Leaf(cut.region, 0, 0)), position(last) + 1
    first = Leaf(cut.region, cut.group if isinstance(cut, GroupCut) else 0, 0, cut.epoch)
    last = Leaf(cut.region, cut.group, MAXIMUM_SEQUENCE, cut.epoch)
    return position(first), position(last) + 1


def region_interval(region: Region) -> tuple[int, int]:
    """Return the position of a region's first leaf, and that of the one after its last."""
    return region << DEPTH - _REGION_BITS, region + 1 << DEPTH - _REGION_BITS


def _unpack_group(data: bytes) -> tuple[Region, int, int]:
    """Return the region, the epoch, and the group (0 where the bytes end before it)."""
    try:
        region = Region(data[0])
    except ValueError:
        raise VaultDamaged(
            f"a region {data[0]} that does not exist; restore the vault from a backup"
        ) from None
    epoch = int.from_bytes(data[1:_EPOCH_SIZE], "big")
    return region, epoch, int.from_bytes(data[_EPOCH_SIZE:], "big")
