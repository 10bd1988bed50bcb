"""Every cryptographic call of the vault, and the only importer of `cryptography`.

BLAKE2b for hashing and for the key tree, AES-256-GCM for sealing, Argon2id for passphrases, the
system's random numbers.
Each use of BLAKE2b has a personalisation of its own, so that no output of one serves as another's.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged, VaultUnavailable

__all__ = [
    "CHECKSUM_SIZE",
    "KEY_SIZE",
    "LARGEST_MEMORY",
    "MOST_LANES",
    "MOST_PASSES",
    "NONCE_SIZE",
    "SALT_SIZE",
    "SEAL_OVERHEAD",
    "SMALLEST_BUCKET",
    "TAG_SIZE",
    "Cost",
    "Key",
    "Secret",
    "checksum",
    "children",
    "derive_from_passphrase",
    "descend",
    "keyed_hash",
    "open_sealed",
    "pad",
    "random_bytes",
    "random_key",
    "seal",
    "unpad",
    "wipe",
]

KEY_SIZE: Final = 32
"""Bytes of every key: AES-256, and a node of the key tree."""

NONCE_SIZE: Final = 12
"""Bytes of an AES-GCM nonce, the size that GCM takes without hashing it first."""

TAG_SIZE: Final = 16
"""Bytes of an AES-GCM tag; a shorter one would make forging cheaper."""

SEAL_OVERHEAD: Final = NONCE_SIZE + TAG_SIZE
"""Bytes by which a sealed text is longer than the plaintext."""

CHECKSUM_SIZE: Final = 16
"""Bytes of a checksum. It finds torn writes and decay; it does not stop a forger."""

SMALLEST_BUCKET: Final = 256
"""Bytes that everything padded has at least: a short text message with its metadata."""

SALT_SIZE: Final = 16
"""Bytes of a passphrase's salt, as RFC 9106 section 3.1 recommends."""

LARGEST_MEMORY: Final = 2 * 1024 * 1024
"""Kibibytes that one derivation may take: RFC 9106's first recommendation takes as much. A forged
file could otherwise exhaust the machine before anything is known to be wrong."""

MOST_PASSES: Final = 64
"""Passes over that memory: at the largest memory some minutes, not days."""

MOST_LANES: Final = 64
"""Lanes, which may be threads: more cores than that compute no single passphrase."""

_LEAST_MEMORY_A_LANE: Final = 8
"""Kibibytes that Argon2 needs for each lane (RFC 9106 section 3.1)."""

_TREE: Final = b"eph_e2ee tree"
_HASH: Final = b"eph_e2ee hash"
_CHECKSUM: Final = b"eph_e2ee torn"
_END_OF_TEXT: Final = b"\x80"
_TEXT_PART: Final = b"s"
_BYTES_PART: Final = b"b"


class Secret:
    """Bytes that never print, cannot be copied by accident, and can be wiped.

    Python keeps copies of `bytes` wherever it likes; a Secret owns one buffer and hands out that
    buffer itself.
    """

    __hash__ = None  # type: ignore[assignment]  # the way Python spells "unhashable"
    __slots__ = ("_buffer",)

    def __init__(self, value: "Key") -> None:
        self._buffer = bytearray(_exposed(value))

    def expose(self) -> bytearray:
        """Return the buffer itself, not a copy.

        Raises:
            Forgotten: it has been wiped.
        """
        if not self._buffer:
            raise Forgotten("this secret has been wiped")
        return self._buffer

    def copy(self) -> "Secret":
        """Return an independent Secret with the same bytes.

        Raises:
            Forgotten: it has been wiped.
        """
        return Secret(self.expose())

    def wipe(self) -> None:
        """Overwrite the bytes; wiping twice is harmless."""
        wipe(self._buffer)
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._buffer, other._buffer)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __format__(self, _specification: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied; use copy()")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied; use copy()")


Key: TypeAlias = Secret | bytes | bytearray
"""What the functions below take as a key: `KEY_SIZE` bytes in any of these."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What trying one passphrase costs with Argon2id; RFC 9106's second recommendation by default.

    Attributes:
        memory_kibibytes: from 8 for each lane to `LARGEST_MEMORY`.
        passes: over that memory, 1 to `MOST_PASSES`.
        lanes: 1 to `MOST_LANES`.

    Raises:
        LocalProtocolError: one of them is out of its limits.
    """

    memory_kibibytes: int = 64 * 1024
    passes: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        least = _LEAST_MEMORY_A_LANE * self.lanes
        if not (
            1 <= self.lanes <= MOST_LANES
            and 1 <= self.passes <= MOST_PASSES
            and least <= self.memory_kibibytes <= LARGEST_MEMORY
        ):
            raise LocalProtocolError(
                f"a passphrase's cost is out of its limits: 1 to {MOST_LANES} lanes, 1 to "
                f"{MOST_PASSES} passes, {_LEAST_MEMORY_A_LANE} for each lane to {LARGEST_MEMORY} "
                "kibibytes"
            )


def derive_from_passphrase(passphrase: Key, salt: bytes, cost: Cost) -> Secret:
    """Return the `KEY_SIZE` bytes that Argon2id makes of a passphrase (RFC 9106).

    Args:
        passphrase: of any length.
        salt: `SALT_SIZE` random bytes.
        cost: how much memory and time it takes.

    Raises:
        VaultUnavailable: this machine has not the memory, or its OpenSSL has no Argon2id.
    """
    try:
        argon = Argon2id(
            salt=salt,
            length=KEY_SIZE,
            iterations=cost.passes,
            lanes=cost.lanes,
            memory_cost=cost.memory_kibibytes,
        )
        return Secret(argon.derive(bytes(_exposed(passphrase))))
    except MemoryError:
        raise VaultUnavailable(
            f"the passphrase needs {cost.memory_kibibytes} kibibytes of free memory; free some"
        ) from None
    except UnsupportedAlgorithm:
        raise VaultUnavailable(
            "this OpenSSL has no Argon2id; use the wheels of cryptography, or OpenSSL 3.2"
        ) from None


def wipe(buffer: bytearray) -> None:
    """Overwrite a buffer in place with zeros."""
    buffer[:] = bytes(len(buffer))


def random_bytes(size: int) -> bytes:
    """Return `size` bytes from the system's random numbers."""
    return secrets.token_bytes(size)


def random_key() -> Secret:
    """Return a fresh key of `KEY_SIZE` bytes."""
    return Secret(secrets.token_bytes(KEY_SIZE))


def children(node: Key) -> tuple[bytes, bytes]:
    """Return the left and the right child of a node of the key tree, `KEY_SIZE` bytes each.

    One keyed BLAKE2b-512 of the empty text gives both: a single compression.
    """
    digest = hashlib.blake2b(key=_exposed(node), person=_TREE).digest()
    return digest[:KEY_SIZE], digest[KEY_SIZE:]


def descend(node: Key, path: int, levels: int) -> list[bytes]:
    """Return the `levels` keys on the way down from a node, turning right at each set bit.

    The highest of the `levels` bits of `path` comes first. This is `children()` without the
    calls: deriving a key passes here up to 96 times.
    """
    blake2b = hashlib.blake2b
    key = _exposed(node)
    trail: list[bytes] = []
    for level in range(levels - 1, -1, -1):
        digest = blake2b(key=key, person=_TREE).digest()
        key = digest[KEY_SIZE:] if path >> level & 1 else digest[:KEY_SIZE]
        trail.append(key)
    return trail


def seal(key: Key, plaintext: Key, associated_data: bytes) -> bytes:
    """Encrypt with AES-256-GCM under a random nonce: nonce, ciphertext, tag.

    Args:
        key: `KEY_SIZE` bytes.
        plaintext: of any length; the result is `SEAL_OVERHEAD` bytes longer.
        associated_data: what `open_sealed` must be given again.
    """
    nonce = secrets.token_bytes(NONCE_SIZE)
    return nonce + AESGCM(_exposed(key)).encrypt(nonce, _exposed(plaintext), associated_data)


def open_sealed(key: Key, sealed: bytes, associated_data: bytes) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        VaultDamaged: another key or other associated data sealed it, or it has been altered.
    """
    if len(sealed) < SEAL_OVERHEAD:
        raise VaultDamaged("a sealed record is cut short; restore the vault from a backup")
    nonce, ciphertext = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
    try:
        return AESGCM(_exposed(key)).decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        raise VaultDamaged(
            "a sealed record does not authenticate; restore the vault from a backup"
        ) from None


def keyed_hash(key: Key, *parts: str | bytes, size: int = 16) -> bytes:
    """Return `size` bytes (1 to 64) that only a holder of the key can compute from the parts.

    Each part goes in with its type and length, so no two lists of parts are hashed alike.
    """
    text = bytearray()
    for part in parts:
        kind, data = (_TEXT_PART, part.encode()) if isinstance(part, str) else (_BYTES_PART, part)
        text += kind + len(data).to_bytes(8, "big") + data
    return hashlib.blake2b(text, key=_exposed(key), person=_HASH, digest_size=size).digest()


def checksum(data: bytes | bytearray) -> bytes:
    """Return `CHECKSUM_SIZE` bytes that show whether `data` is as it was written."""
    return hashlib.blake2b(data, person=_CHECKSUM, digest_size=CHECKSUM_SIZE).digest()


def pad(data: bytes) -> bytes:
    """Lengthen to the next bucket, so that the length tells little about the text.

    The buckets are `SMALLEST_BUCKET`, then eight to each doubling: at most 12.5 % are added.
    """
    marked = data + _END_OF_TEXT
    return marked.ljust(_bucket(len(marked)), b"\0")


def unpad(padded: bytes) -> bytes:
    """Undo `pad`.

    Raises:
        VaultDamaged: `pad` did not make this.
    """
    marked = padded.rstrip(b"\0")
    if not marked.endswith(_END_OF_TEXT) or len(padded) != _bucket(len(marked)):
        raise VaultDamaged("a record's padding is wrong; restore the vault from a backup")
    return marked[: -len(_END_OF_TEXT)]


def _bucket(size: int) -> int:
    if size <= SMALLEST_BUCKET:
        return SMALLEST_BUCKET
    step = 1 << (size - 1).bit_length() - 4
    return -(-size // step) * step


def _exposed(value: Key) -> bytes | bytearray:
    return value.expose() if isinstance(value, Secret) else value
