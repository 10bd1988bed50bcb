"""What the key file keeps, before it is sealed."""

from dataclasses import dataclass, field

from eph_e2ee.clock import Reading
from eph_e2ee.errors import LocalProtocolError, VaultDamaged
from eph_e2ee.vault.primitives import KEY_SIZE, Secret

__all__ = ["Payload"]


@dataclass(frozen=True, slots=True)
class Payload:
    """What the key file keeps.

    Attributes:
        index_key: `KEY_SIZE` bytes for the keyed hashes in the database; it never changes.
        reading: what the clock showed.
        tree: what `KeyTree.export` gave.
    """

    index_key: Secret
    reading: Reading
    tree: bytes = field(repr=False)

    def pack(self) -> bytes:
        """Return the payload as bytes: index key, length of the reading (2 bytes), it, the tree.

        Raises:
            LocalProtocolError: the index key has another size.
        """
        if len(self.index_key) != KEY_SIZE:
            raise LocalProtocolError(f"an index key must have {KEY_SIZE} bytes")
        reading = self.reading.to_json().encode()
        return b"".join(
            (self.index_key.expose(), len(reading).to_bytes(2, "big"), reading, self.tree)
        )

    @classmethod
    def unpack(cls, data: bytes) -> "Payload":
        """Return the payload that `pack` gave these bytes for.

        Raises:
            VaultDamaged: `pack` did not make this.
        """
        reading_at = KEY_SIZE + 2
        tree_at = reading_at + int.from_bytes(data[KEY_SIZE:reading_at], "big")
        if len(data) < max(reading_at, tree_at):
            raise VaultDamaged("the key file's payload is cut short; restore it from a backup")
        reading = Reading.from_json(data[reading_at:tree_at])
        return cls(Secret(data[:KEY_SIZE]), reading, data[tree_at:])
