"""What each place of the root key protects from: one test for each cell of the README's table.

The attacker has copies of files, old ones and new ones, and tries every 32 bytes in them as a root
key on every slot of every key file. One message has expired since the old copies were made; another
has not, and shows that the attack is a good one.
"""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from eph_e2ee.errors import VaultError, WrongRootKey
from eph_e2ee.model import Erasure
from eph_e2ee.vault.keyfile import KeyFile
from eph_e2ee.vault.primitives import KEY_SIZE, Secret
from eph_e2ee.vault.rootkey import FileRootKey, RootKey
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock
from tests.vault.making import MINUTE, adding, reading
from tests.vault.places import KINDS, FileKeyring, keyring_file, place, with_passphrase
from tests.vault.test_residue import copy_of_database, open_everything

NOTHING, ALIVE_ONLY, EXPIRED_TOO = 0, 1, 2
"""How many messages an attack opens."""

every_place = pytest.mark.parametrize("kind", KINDS)


@dataclass(frozen=True)
class Evidence:
    """What there is to copy of a vault in which one of two messages has expired.

    Attributes:
        before: the vault's whole folder, copied before.
        keyring_before: the keyring's own file, copied before.
        after: the vault's whole folder, as it is now.
        root_key: the root key's place as it is now, unlocked.
        clock: what the attacker's clock shows makes no difference.
    """

    before: Path
    keyring_before: Path
    after: Path
    root_key: RootKey
    clock: ManualClock


async def expired(kind: str, tmp_path: Path, clock: ManualClock) -> Evidence:
    """Let a vault live, be copied, and forget; its root key is in a place of this kind."""
    folder, before = tmp_path / "vault", tmp_path / "before"
    root_key = place(kind, folder)
    vault = Vault.open(folder, clock=clock, root_key=root_key)
    await vault.transact(reading("expires"))
    await vault.transact(adding("stays", "stays"))
    await vault.settle()
    copy_of_database(folder, before)
    for path in [*folder.glob("keys.*"), *folder.glob("root.*")]:
        shutil.copy(path, before)
    if kind == "keyring":
        shutil.copy(keyring_file(folder), tmp_path / "keyring-before")
    evidence = Evidence(before, tmp_path / "keyring-before", folder, root_key, clock)
    # Up to here everything opens: a place that never held the key would make the tests below idle.
    assert opened(evidence, [before], [before], root_key.candidates()) == EXPIRED_TOO
    clock.advance(MINUTE)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert await vault.close() is Erasure.DESTROYED
    return evidence


def opened(
    evidence: Evidence, databases: list[Path], key_files: list[Path], keys: tuple[Secret, ...]
) -> int:
    """How many messages open, with the best choice of a database, a key file's slot and a key."""
    best = NOTHING
    slots = [path for folder in key_files for path in folder.glob("keys.?")]
    for number, (database, slot) in enumerate(itertools.product(databases, slots)):
        scratch = evidence.before.parent / f"attack-{number}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(0o700)
        shutil.copy(slot, scratch)
        try:
            root_key = KeyFile(scratch).read(keys).root_key
        except VaultError:
            continue
        FileRootKey(scratch).replace(root_key)
        best = max(best, len(open_everything(database / "vault.db", scratch, evidence.clock)))
    return best


def anything_in(folder: Path) -> tuple[Secret, ...]:
    """Every 32 bytes of every file that may hold a root key."""
    contents = [path.read_bytes() for path in folder.glob("root.*")]
    return tuple(
        Secret(window)
        for window in {
            content[at : at + KEY_SIZE]
            for content in contents
            for at in range(len(content) - KEY_SIZE + 1)
        }
    )


def everything_now(evidence: Evidence) -> tuple[Secret, ...]:
    """What is in the files now, and what the passphrase, the keyring or the process gives now."""
    return anything_in(evidence.after) + evidence.root_key.candidates()


@every_place
async def test_an_old_database_with_todays_files_passphrase_and_keyring_shows_nothing_expired(
    kind: str, tmp_path: Path, clock: ManualClock
) -> None:
    """Row a (F11): a backup or a replica of the database."""
    evidence = await expired(kind, tmp_path, clock)
    keys = everything_now(evidence)
    assert opened(evidence, [evidence.before], [evidence.after], keys) == ALIVE_ONLY


@every_place
async def test_all_files_of_today_with_passphrase_and_keyring_show_nothing_expired(
    kind: str, tmp_path: Path, clock: ManualClock
) -> None:
    """Row b (F4): whoever takes the machine away after the message's time."""
    evidence = await expired(kind, tmp_path, clock)
    keys = everything_now(evidence)
    assert opened(evidence, [evidence.after], [evidence.after], keys) == ALIVE_ONLY


async def test_a_snapshot_with_the_root_keys_file_shows_what_has_expired_since(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Row c, file: not promised. What the file system kept of the root key opens the rest."""
    evidence = await expired("file", tmp_path, clock)
    keys = anything_in(evidence.before)
    assert opened(evidence, [evidence.before], [evidence.before], keys) == EXPIRED_TOO


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "file"])
async def test_a_snapshot_of_all_files_shows_nothing_without_what_is_not_in_them(
    kind: str, tmp_path: Path, clock: ManualClock
) -> None:
    """Row c, passphrase, keyring and memory: no file has the root key in clear, then or now."""
    evidence = await expired(kind, tmp_path, clock)
    both = [evidence.before, evidence.after]
    keys = anything_in(evidence.before) + anything_in(evidence.after)
    assert opened(evidence, both, both, keys) == NOTHING
    if kind == "passphrase":
        with pytest.raises(WrongRootKey):
            with_passphrase(evidence.before, "a guess").candidates()


async def test_a_snapshot_and_the_passphrase_show_what_has_expired_since(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Row d, passphrase: not promised. Forgetting does not change what the passphrase is."""
    evidence = await expired("passphrase", tmp_path, clock)
    keys = with_passphrase(evidence.before).candidates()
    assert opened(evidence, [evidence.before], [evidence.before], keys) == EXPIRED_TOO


@pytest.mark.parametrize("kind", ["keyring", "memory"])
async def test_a_snapshot_and_todays_keyring_or_process_show_nothing_expired(
    kind: str, tmp_path: Path, clock: ManualClock
) -> None:
    """Row d, keyring and memory: the root key of then is in neither any more."""
    evidence = await expired(kind, tmp_path, clock)
    both = [evidence.before, evidence.after]
    keys = anything_in(evidence.before) + everything_now(evidence)
    assert opened(evidence, [evidence.before], [evidence.before], keys) == NOTHING
    assert opened(evidence, both, both, keys) == ALIVE_ONLY


async def test_a_snapshot_of_the_keyring_as_well_shows_what_has_expired_since(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Row d, keyring: not promised, if the keyring's own file was copied too, and is unlocked."""
    evidence = await expired("keyring", tmp_path, clock)
    then = place("keyring", evidence.before, FileKeyring(evidence.keyring_before))
    keys = then.candidates()
    assert opened(evidence, [evidence.before], [evidence.before], keys) == EXPIRED_TOO
