"""The cryptographic calls: fixed answers, secrets that do not print, one error for what is bad."""

import copy
import pickle

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged, VaultUnavailable
from eph_e2ee.vault import primitives
from eph_e2ee.vault.primitives import (
    KEY_SIZE,
    SEAL_OVERHEAD,
    SMALLEST_BUCKET,
    Cost,
    Secret,
    checksum,
    children,
    derive_from_passphrase,
    descend,
    keyed_hash,
    open_sealed,
    pad,
    random_key,
    seal,
    unpad,
)

ZERO = bytes(KEY_SIZE)
SENTINEL = b"sentinel-sentinel-sentinel-32-by"


def test_what_is_on_disk_keeps_its_meaning() -> None:
    """Fixed answers: another value here makes every existing vault unreadable."""
    left, right = children(ZERO)
    assert left.hex() == "871d7fc4855f7631a5f4b3d1e3bc4aa345c6333426cb5c311265b5d262c03e92"
    assert right.hex() == "091147023ef26fa2fa1fd55c9d2ea3b0e93db11c7749953d4ebda95d4a4897b1"
    assert keyed_hash(ZERO, "a", b"b").hex() == "1880f6f4f9a83858e864fbfb7bc73a91"
    assert checksum(b"x").hex() == "659da24680f2b0dbb61ba2d1c8c31637"


@given(st.integers(0, 2**12 - 1))
def test_descending_is_taking_children(path: int) -> None:
    node: bytes = ZERO
    expected = []
    for turn in f"{path:012b}":
        node = children(node)[int(turn)]
        expected.append(node)
    assert descend(ZERO, path, 12) == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, Secret])
def test_every_kind_of_key_is_the_same_key(kind: type[bytes | bytearray | Secret]) -> None:
    key = kind(SENTINEL)
    assert children(key) == children(SENTINEL)
    assert keyed_hash(key, "part") == keyed_hash(SENTINEL, "part")
    assert open_sealed(SENTINEL, seal(key, key, b"ad"), b"ad") == SENTINEL


class TestSecret:
    @pytest.mark.parametrize("form", ["{}", "{!r}", "{!s}", "{:>80}", "{0!r:.3}"])
    def test_never_prints(self, form: str) -> None:
        text = form.format(Secret(SENTINEL))
        assert "sentinel" not in text
        assert SENTINEL.hex() not in text
        assert len(f"{Secret(b'')}") == len(f"{Secret(SENTINEL)}")

    def test_is_not_pickled_or_copied_by_accident(self) -> None:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                attempt(Secret(SENTINEL))
        with pytest.raises(TypeError):
            Secret(SENTINEL).__getstate__()
        with pytest.raises(TypeError):
            hash(Secret(SENTINEL))
        assert not hasattr(Secret(SENTINEL), "__dict__")

    def test_wiping_overwrites_the_buffer_and_forgets_it(self) -> None:
        secret = Secret(SENTINEL)
        buffer, other = secret.expose(), secret.copy()
        secret.wipe()
        secret.wipe()
        assert buffer == bytes(len(SENTINEL))
        assert other.expose() == SENTINEL
        for use in (secret.expose, secret.copy):
            with pytest.raises(Forgotten):
                use()

    def test_compares_by_value(self) -> None:
        assert Secret(SENTINEL) == Secret(bytearray(SENTINEL))
        assert Secret(SENTINEL) != Secret(ZERO)
        assert Secret(SENTINEL) != SENTINEL

    def test_owns_its_bytes(self) -> None:
        source = bytearray(SENTINEL)
        secret = Secret(source)
        source[:] = ZERO
        assert secret.expose() == SENTINEL


class TestSealing:
    @given(st.binary(max_size=300), st.binary(max_size=40))
    def test_opens_what_was_sealed(self, plaintext: bytes, associated_data: bytes) -> None:
        sealed = seal(ZERO, plaintext, associated_data)
        assert len(sealed) == len(plaintext) + SEAL_OVERHEAD
        assert open_sealed(ZERO, sealed, associated_data) == plaintext

    def test_the_same_text_is_never_sealed_alike(self) -> None:
        """A rolled-back transaction hands a leaf out twice: the nonce is random."""
        assert len({seal(ZERO, b"text", b"")[:12] for _ in range(100)}) == 100

    @given(st.integers(0, SEAL_OVERHEAD + 3), st.integers(1, 255))
    def test_an_altered_byte_is_found(self, index: int, change: int) -> None:
        sealed = bytearray(seal(ZERO, b"text", b"ad"))
        sealed[index] ^= change
        with pytest.raises(VaultDamaged):
            open_sealed(ZERO, bytes(sealed), b"ad")

    @pytest.mark.parametrize("length", range(SEAL_OVERHEAD + 4))
    def test_a_missing_end_is_found(self, length: int) -> None:
        with pytest.raises(VaultDamaged):
            open_sealed(ZERO, seal(ZERO, b"text", b"ad")[:length], b"ad")

    def test_another_key_or_row_does_not_open_it(self) -> None:
        sealed = seal(ZERO, b"text", b"row 1")
        with pytest.raises(VaultDamaged) as other_row:
            open_sealed(ZERO, sealed, b"row 2")
        with pytest.raises(VaultDamaged):
            open_sealed(random_key(), sealed, b"row 1")
        assert other_row.value.__cause__ is None


class TestKeyedHash:
    def test_no_two_lists_of_parts_are_alike(self) -> None:
        lists: list[tuple[str | bytes, ...]] = [
            (), ("",), (b"",), ("", ""), ("ab",), (b"ab",), ("a", "b"), ("b", "a"), ("a", b"b"),
            ("s" + "\0" * 7 + "\1" + "b",),
        ]  # fmt: skip
        assert len({keyed_hash(ZERO, *parts) for parts in lists}) == len(lists)

    def test_depends_on_the_key_and_has_the_size_asked_for(self) -> None:
        assert keyed_hash(ZERO, "a") != keyed_hash(SENTINEL, "a")
        assert [len(keyed_hash(ZERO, "a", size=size)) for size in (1, 16, 64)] == [1, 16, 64]

    def test_is_no_node_of_the_tree(self) -> None:
        assert keyed_hash(ZERO, size=64) != b"".join(children(ZERO))


class TestPadding:
    @given(st.binary(max_size=5000))
    def test_is_undone(self, data: bytes) -> None:
        assert unpad(pad(data)) == data

    @given(st.integers(0, 200_000))
    def test_costs_an_eighth_at_most_above_the_smallest_bucket(self, size: int) -> None:
        padded = len(pad(bytes(size)))
        assert size < padded <= max(SMALLEST_BUCKET, (size + 1) * 1.125)

    def test_leaves_few_lengths(self) -> None:
        assert len({len(pad(bytes(size))) for size in range(SMALLEST_BUCKET)}) == 1
        assert len({len(pad(bytes(size))) for size in range(256, 65536)}) == 8 * 8

    @given(st.binary(max_size=600))
    def test_what_was_not_padded_is_damage(self, data: bytes) -> None:
        try:
            text = unpad(data)
        except VaultDamaged:
            return
        assert pad(text) == data


class TestPassphrase:
    SALT = b"sixteen of salt!"

    def test_the_derived_key_keeps_its_value(self) -> None:
        """Another value here locks every existing vault under a passphrase."""
        for passphrase in (b"passphrase", bytearray(b"passphrase"), Secret(b"passphrase")):
            derived = derive_from_passphrase(passphrase, self.SALT, Cost(32, 2, 4))
            assert (
                derived.expose().hex()
                == "defa316ea11926d33fb93b34eb95c8b9aac4236705feb6db1155552927334224"
            )

    def test_depends_on_the_passphrase_the_salt_and_each_part_of_the_cost(self) -> None:
        derived = [
            derive_from_passphrase(b"passphrase", self.SALT, Cost(16, 1, 1)),
            derive_from_passphrase(b"Passphrase", self.SALT, Cost(16, 1, 1)),
            derive_from_passphrase(b"passphrase", self.SALT[::-1], Cost(16, 1, 1)),
            derive_from_passphrase(b"passphrase", self.SALT, Cost(17, 1, 1)),
            derive_from_passphrase(b"passphrase", self.SALT, Cost(16, 2, 1)),
            derive_from_passphrase(b"passphrase", self.SALT, Cost(16, 1, 2)),
        ]
        assert len({bytes(key.expose()) for key in derived}) == len(derived)

    @pytest.mark.parametrize("cost", [(15, 1, 2), (8, 0, 1), (8, 65, 1), (2**21 + 1, 1, 1)])
    def test_a_cost_out_of_its_limits_is_refused(self, cost: tuple[int, int, int]) -> None:
        with pytest.raises(LocalProtocolError, match="limits"):
            Cost(*cost)

    @pytest.mark.parametrize("error", [MemoryError(), UnsupportedAlgorithm("no Argon2id")])
    def test_a_machine_that_cannot_compute_it_says_so(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refusing(**_: object) -> None:
            raise error

        monkeypatch.setattr(primitives, "Argon2id", refusing)
        with pytest.raises(VaultUnavailable):
            derive_from_passphrase(b"passphrase", self.SALT, Cost())
