"""The root key under a passphrase: torn, changed, mistyped, forged, and never in clear."""

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
    WrongRootKey,
)
from eph_e2ee.vault import passphrase, primitives
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import LARGEST_MEMORY, Cost, Secret, checksum
from tests.support.disk import Crash, Disk
from tests.vault.places import PASSPHRASE, TINY, is_whole, with_passphrase

OLD, NEW, NEWER = Secret(b"o" * 32), Secret(b"n" * 32), Secret(b"N" * 32)
OTHER = "another passphrase"
RECORD = 10 + 12 + 16 + 60 + 16
TORN = [*range(RECORD + 3), 4095, *range(4096, 4096 + RECORD + 3), 8191]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "root.passphrase"


@pytest.fixture
def root_key(folder: Path) -> PassphraseRootKey:
    """A root key that has been stored."""
    root_key = with_passphrase(folder)
    root_key.replace(OLD)
    return root_key


def opens(folder: Path, text: str) -> tuple[Secret, ...]:
    """What a process that has just begun finds with a passphrase."""
    try:
        return with_passphrase(folder, text).candidates()
    except WrongRootKey:
        return ()


def both(root_key: PassphraseRootKey, path: Path) -> None:
    """Leave two candidates, as a crash between the two writes of a replacement does."""
    before = path.read_bytes()
    root_key.replace(NEW)
    path.write_bytes(before[:4096] + path.read_bytes()[4096:])


class TestOpening:
    def test_the_right_passphrase_opens_it_and_nothing_is_in_clear(
        self, folder: Path, path: Path, root_key: PassphraseRootKey
    ) -> None:
        assert opens(folder, PASSPHRASE) == (OLD,)
        root_key.replace(NEW)
        assert opens(folder, PASSPHRASE) == (NEW,)
        content = path.read_bytes()
        assert not any(bytes(key.expose()) in content for key in (OLD, NEW))
        assert b"sentinel" not in content
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_wrong_passphrase_is_told_and_changes_nothing(
        self, folder: Path, path: Path, root_key: PassphraseRootKey
    ) -> None:
        assert root_key.exists()
        before = path.read_bytes()
        wrong = with_passphrase(folder, "wrong")
        for attempt in (
            wrong.candidates,
            lambda: wrong.replace(NEW),
            lambda: wrong.keep(OLD),
            lambda: wrong.change_passphrase(OTHER),
        ):
            with pytest.raises(WrongRootKey, match="passphrase"):
                attempt()
        assert path.read_bytes() == before
        assert opens(folder, PASSPHRASE) == (OLD,)

    def test_asked_for_when_needed_and_once(self, folder: Path) -> None:
        asked: list[int] = []

        def ask() -> str:
            asked.append(1)
            return PASSPHRASE

        root_key = with_passphrase(folder, ask)
        assert not root_key.exists()
        assert root_key.candidates() == ()
        assert not asked
        for key in (OLD, NEW, NEWER):
            root_key.replace(key)
            root_key.keep(key)
            assert root_key.candidates() == (key,)
        assert len(asked) == 1

    def test_mistyped_it_is_asked_for_again(
        self, folder: Path, root_key: PassphraseRootKey
    ) -> None:
        assert root_key.exists()
        answers = iter(["mistyped", PASSPHRASE])
        asking = with_passphrase(folder, lambda: next(answers))
        with pytest.raises(WrongRootKey):
            asking.candidates()
        assert asking.candidates() == (OLD,)

    def test_the_same_letters_composed_in_another_way_open_it(self, folder: Path) -> None:
        with_passphrase(folder, "Zo\u00eb").replace(OLD)
        assert opens(folder, "Zoe\u0308") == (OLD,)

    def test_the_default_cost_is_the_second_recommendation_of_the_rfc(self, folder: Path) -> None:
        """RFC 9106 section 4: 64 MiB, 3 passes, 4 lanes; and the file's own cost counts."""
        assert Cost() == Cost(memory_kibibytes=65536, passes=3, lanes=4)
        PassphraseRootKey(folder, PASSPHRASE).replace(OLD)
        begun = time.process_time()
        assert opens(folder, PASSPHRASE) == (OLD,)
        assert time.process_time() - begun > 0.01

    def test_argon_runs_once_for_all_erasures(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs: list[int] = []

        def counted(text: Secret, salt: bytes, cost: Cost) -> Secret:
            runs.append(1)
            return primitives.derive_from_passphrase(text, salt, cost)

        monkeypatch.setattr(passphrase, "derive_from_passphrase", counted)
        root_key = with_passphrase(folder)
        for key in (OLD, NEW, NEWER) * 3:
            root_key.replace(key)
        assert len(runs) == 1


class TestNothingPrints:
    def test_neither_the_passphrase_nor_the_key(self, root_key: PassphraseRootKey) -> None:
        """F10: no repr, and no attribute's repr, shows either."""
        root_key.replace(Secret(b"sentinel-sentinel-sentinel-32-by"))
        assert "sentinel" not in f"{root_key!r}{vars(root_key)!r}{root_key.candidates()!r}"
        unused = with_passphrase(root_key._folder)
        assert "sentinel" not in f"{unused!r}{vars(unused)!r}"

    def test_the_passphrase_is_wiped_once_it_has_been_used(self, folder: Path) -> None:
        root_key = with_passphrase(folder)
        given = root_key._given
        assert given is not None
        buffer = given.expose()
        root_key.replace(OLD)
        assert buffer == bytes(len(PASSPHRASE))
        assert root_key._given is None
        gc.collect()
        held = [item for item in gc.get_referents(root_key.__dict__) if isinstance(item, str)]
        assert PASSPHRASE not in held

    @pytest.mark.parametrize("bad", ["", "sentinel \ud800"])
    def test_what_is_no_passphrase_is_refused_without_showing_it(
        self, folder: Path, bad: str
    ) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            with_passphrase(folder, bad)
        assert "sentinel" not in str(caught.value)
        assert caught.value.__cause__ is None
        with pytest.raises(LocalProtocolError):
            with_passphrase(folder, lambda: bad).replace(OLD)
        assert not folder.exists()


class TestDamage:
    @pytest.mark.parametrize("at", range(RECORD))
    def test_a_rotten_byte_is_damage_and_no_wrong_passphrase(
        self, path: Path, root_key: PassphraseRootKey, at: int
    ) -> None:
        """F44: what is damaged is told from what is locked."""
        content = bytearray(path.read_bytes())
        content[at] ^= 0x80
        path.write_bytes(content)
        with pytest.raises((VaultDamaged, VaultForeign, VaultTooNew)) as caught:
            root_key.candidates()
        assert caught.type is VaultDamaged or at <= 8

    @pytest.mark.parametrize(
        "cost", [(2**32 - 1, 1, 1), (LARGEST_MEMORY + 1, 1, 1), (8, 2**32 - 1, 1), (8, 0, 1),
                 (8, 1, 0), (0, 1, 1), (2**20, 1, 2**16)]
    )  # fmt: skip
    def test_a_forged_cost_is_refused_before_it_is_paid(
        self, folder: Path, path: Path, root_key: PassphraseRootKey, cost: tuple[int, int, int]
    ) -> None:
        """A terabyte of memory, or days of time, is what a forger would like."""
        assert root_key.exists()
        forge(path, b"".join(number.to_bytes(4, "big") for number in cost))
        before = path.read_bytes()
        with pytest.raises(VaultDamaged, match="cost"):
            with_passphrase(folder).candidates()
        assert path.read_bytes() == before

    def test_what_stands_beside_the_sealed_key_is_authenticated(
        self, folder: Path, path: Path, root_key: PassphraseRootKey
    ) -> None:
        """With the derived key of the true cost at hand, a file of another cost does not open."""
        (lock,) = root_key._derived
        forge(path, (9).to_bytes(4, "big"))
        forged = with_passphrase(folder)
        forged._derived[type(lock)(Cost(9, 1, 1), lock.salt)] = root_key._derived[lock].copy()
        with pytest.raises(WrongRootKey):
            forged.candidates()


def forge(path: Path, cost: bytes) -> None:
    """Write another beginning of the cost into the first slot, with a checksum that fits."""
    content = path.read_bytes()
    record = content[:10] + cost + content[10 + len(cost) : RECORD - 16]
    path.write_bytes(record + checksum(record) + content[RECORD:])


class TestCrash:
    @pytest.mark.parametrize("budget", TORN)
    def test_replacing_torn_anywhere_leaves_a_key(
        self, folder: Path, path: Path, root_key: PassphraseRootKey, budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """F44: whatever was written when the power went, one of the two is there."""
        with monkeypatch.context() as patch:
            disk = Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                root_key.replace(NEW)
        after = with_passphrase(folder)
        found = after.candidates()
        assert (OLD in found) == (budget <= 4096 + 9)
        assert (NEW in found) == is_whole(path, disk, budget, RECORD)
        after.keep(found[-1])
        assert opens(folder, PASSPHRASE) == (found[-1],)
        after.replace(NEWER)
        assert opens(folder, PASSPHRASE) == (NEWER,)

    @pytest.mark.parametrize("budget", [*range(0, RECORD + 3, 5), 4095, 4096, 4150, 8191])
    def test_keeping_torn_anywhere_keeps_the_chosen_one(
        self, folder: Path, path: Path, root_key: PassphraseRootKey, budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        both(root_key, path)
        before = path.read_bytes()
        for chosen in (OLD, NEW):
            path.write_bytes(before)
            with monkeypatch.context() as patch:
                Disk(patch, bytes_left=budget)
                with pytest.raises(Crash):
                    with_passphrase(folder).keep(chosen)
            assert chosen in opens(folder, PASSPHRASE)

    @pytest.mark.parametrize("budget", [*range(RECORD + 3), 4096, 8191])
    def test_the_first_key_appears_whole_or_not_at_all(
        self, folder: Path, budget: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                with_passphrase(folder).replace(OLD)
        after = with_passphrase(folder)
        assert not after.exists()
        assert after.candidates() == ()
        after.replace(NEW)
        assert opens(folder, PASSPHRASE) == (NEW,)

    @pytest.mark.parametrize("budget", [0, 9, 60, RECORD, 4096, 4140, 8191])
    def test_destroying_can_be_repeated(
        self, folder: Path, path: Path, root_key: PassphraseRootKey, budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        with monkeypatch.context() as patch:
            Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                root_key.destroy()
        with_passphrase(folder, "not even needed").destroy()
        assert not path.exists()


class TestChanging:
    def test_the_old_passphrase_is_useless_afterwards(
        self, folder: Path, path: Path, root_key: PassphraseRootKey
    ) -> None:
        before = path.read_bytes()
        root_key.change_passphrase(OTHER, cost=Cost(16, 2, 1))
        assert opens(folder, PASSPHRASE) == ()
        assert opens(folder, OTHER) == (OLD,)
        root_key.replace(NEW)
        assert opens(folder, PASSPHRASE) == ()
        assert opens(folder, OTHER) == (NEW,)
        # The salt and the sealed key of before stand nowhere any more.
        after = path.read_bytes()
        assert not any(before[at : at + 8] in after for at in range(22, 98))

    def test_the_cost_stays_or_is_the_one_given(
        self, folder: Path, root_key: PassphraseRootKey
    ) -> None:
        for given, expected in ((None, TINY), (Cost(16, 2, 1), Cost(16, 2, 1))):
            root_key.change_passphrase(OTHER, cost=given)
            reopened = with_passphrase(folder, OTHER)
            reopened.candidates()
            assert reopened._lock.cost == expected

    def test_another_object_with_the_old_passphrase_says_so(
        self, folder: Path, root_key: PassphraseRootKey
    ) -> None:
        other = with_passphrase(folder)
        assert other.candidates() == (OLD,)
        root_key.change_passphrase(OTHER)
        with pytest.raises(WrongRootKey, match="changed"):
            other.replace(NEW)

    def test_with_two_candidates_or_none_it_is_refused(
        self, folder: Path, path: Path, root_key: PassphraseRootKey
    ) -> None:
        both(root_key, path)
        with pytest.raises(LocalProtocolError, match="open the vault"):
            root_key.change_passphrase(OTHER)
        with pytest.raises(LocalProtocolError):
            with_passphrase(folder / "empty").change_passphrase(OTHER)

    @pytest.mark.parametrize("budget", TORN)
    def test_torn_anywhere_one_of_the_two_opens_it(
        self, folder: Path, path: Path, root_key: PassphraseRootKey, budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """F44: at each torn length; and calling it again finishes it."""
        with monkeypatch.context() as patch:
            disk = Disk(patch, bytes_left=budget)
            with pytest.raises(Crash):
                root_key.change_passphrase(OTHER)
        assert bool(opens(folder, PASSPHRASE)) == (budget <= 4096 + 9)
        assert bool(opens(folder, OTHER)) == is_whole(path, disk, budget, RECORD)
        finished(folder)

    @pytest.mark.parametrize("sync", [0, 1])
    def test_ended_at_a_sync_one_of_the_two_opens_it(
        self, folder: Path, root_key: PassphraseRootKey, sync: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            Disk(patch, syncs_left=sync)
            with pytest.raises(Crash):
                root_key.change_passphrase(OTHER)
        finished(folder)

    @pytest.mark.parametrize("sync", [1, 2])
    def test_after_a_failed_sync_the_same_object_goes_on(
        self, folder: Path, root_key: PassphraseRootKey, sync: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            Disk(patch, failing_sync=sync)
            with pytest.raises(VaultUnavailable):
                root_key.change_passphrase(OTHER)
        assert root_key.candidates() == (OLD,)
        root_key.replace(NEW)
        assert root_key.candidates() == (NEW,)
        root_key.change_passphrase(OTHER)
        assert (opens(folder, PASSPHRASE), opens(folder, OTHER)) == ((), (NEW,))


def finished(folder: Path) -> None:
    """Settle with a passphrase that opens it, as opening a vault does; change it to the end."""
    for text in opening(folder):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        root_key = with_passphrase(folder, text)
        assert root_key.candidates() == (OLD,)
        root_key.keep(OLD)
        assert opens(folder, text) == (OLD,)
        assert len(list(opening(folder))) == 1
        root_key.change_passphrase(OTHER)
        assert (opens(folder, PASSPHRASE), opens(folder, OTHER)) == ((), (OLD,))
        for path, content in before.items():
            path.write_bytes(content)


def opening(folder: Path) -> Iterator[str]:
    found = [text for text in (PASSPHRASE, OTHER) if opens(folder, text)]
    assert found
    yield from found
