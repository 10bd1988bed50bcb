"""Tests of the tests: a mistake made on purpose turns the check red that is there for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.trace import Mark
from tests.vault import mutations
from tests.vault.checking import exchanged
from tests.vault.crashing import Checker, concerns_keys, moments, recorded
from tests.vault.making import PETER, ROSA
from tests.vault.watching import attack, guessed_names, live, repeated_nonces

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = 80
"""Enough for every mistake to show."""


def first_findings(folder: Path, mutation: str, *, power: bool) -> list[str]:
    """What is wrong at the first crash point where anything is."""
    operations = list(recorded("crash", folder, mutation=mutation))
    checker = Checker(folder / "state")
    for moment in moments(operations):
        if not (isinstance(moment.following, Mark) or concerns_keys(moment.following)):
            continue
        if power:
            checker.check(moment, "power lost", moment.disk.power_lost(lambda _: ()))
        else:
            checker.check(moment, "killed", moment.disk.written())
        if checker.findings:
            break
    return checker.findings


KILLED = {
    "swap_the_tree_and_the_root_key": "does not open",
    "leave_the_old_root_key": "destroyed",
    "keep_an_old_node": "opens",
    "forget_the_intents": "opens",
    "keep_spent_values": "an old value opens",
    "forget_the_replay_ids": "handed out again as new",
}
"""By mistake the finding that a killed process leads to."""

POWER_LOST = {
    "skip_the_sync_of_the_key_file": "does not open",
    "skip_the_sync_of_the_database": "lost",
}
"""By mistake the finding that a loss of power leads to."""


@pytest.mark.parametrize(("mutation", "finding"), KILLED.items())
def test_f44_the_crash_test_finds(mutation: str, finding: str, fast_folder: Path) -> None:
    found = first_findings(fast_folder, mutation, power=False)
    assert any(finding in each for each in found), found


@pytest.mark.parametrize(("mutation", "finding"), POWER_LOST.items())
def test_f44_the_test_without_power_finds(mutation: str, finding: str, fast_folder: Path) -> None:
    found = first_findings(fast_folder, mutation, power=True)
    assert any(finding in each for each in found), found


@pytest.mark.parametrize(
    "mutation", ["keep_an_old_node", "forget_the_intents", "keep_spent_values"]
)
def test_f1_f12_the_adversary_opens_the_dead_with(mutation: str, fast_folder: Path) -> None:
    life = live(fast_folder, RECORDS, mutation=mutation)
    assert attack(life, life.home).wrongly


def test_the_adversary_finds_a_fixed_nonce(fast_folder: Path) -> None:
    assert repeated_nonces(live(fast_folder, RECORDS, mutation="use_a_fixed_nonce"))


def test_the_adversary_finds_a_hash_without_a_key(fast_folder: Path) -> None:
    life = live(fast_folder, RECORDS, mutation="hash_without_a_key")
    assert guessed_names(life, [ROSA, PETER])


def test_f1_the_residue_scan_finds_what_is_not_sealed(fast_folder: Path) -> None:
    assert live(fast_folder, RECORDS, mutation="seal_nothing").leaks


def test_the_exchange_of_rows_finds_associated_data_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mutations, "_patch", monkeypatch.setattr)
    mutations.apply("drop_the_associated_data")
    assert exchanged(tmp_path / "vault")


def test_f3_f4_f6_without_secure_delete_the_dead_stay_dead(fast_folder: Path) -> None:
    """Forgetting does not depend on bytes being overwritten."""
    life = live(fast_folder, RECORDS, mutation="leave_deleted_bytes")
    found = attack(life, life.home)
    assert (found.wrongly, found.lost) == ([], [])


def test_every_mistake_is_looked_for() -> None:
    made = {name for name, each in vars(mutations).items() if _is_mistake(name, each)}
    looked_for = {*KILLED, *POWER_LOST, "use_a_fixed_nonce", "hash_without_a_key"}
    looked_for |= {"seal_nothing", "drop_the_associated_data", "leave_deleted_bytes"}
    assert made == looked_for


def _is_mistake(name: str, each: object) -> bool:
    ours = getattr(each, "__module__", "") == mutations.__name__
    return ours and callable(each) and name != "apply" and not name.startswith("_")
