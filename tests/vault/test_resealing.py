"""Erasing here and there: the key tree stays small, nothing alive is lost, nothing comes back."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update

from eph_e2ee.errors import Forgotten, VaultDamaged, VaultUnavailable
from eph_e2ee.model import Erasure, Seconds
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault import keeper, resealing
from eph_e2ee.vault.database import messages, meta
from eph_e2ee.vault.epochs import EPOCHS, Epochs
from eph_e2ee.vault.paths import Leaf, Region
from eph_e2ee.vault.rows import leaf_of
from tests.vault.making import MINUTE, PETER, bodies, new_message, opened, texts

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.keys import Keys
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

COUNT = 120
DAY = Seconds(86_400)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that some hundred messages reach, and batches that take several steps."""
    monkeypatch.setattr(keeper, "MANY_NODES", 150)
    monkeypatch.setattr(keeper, "MAXIMUM_NODES", 5000)
    monkeypatch.setattr(resealing, "BATCH", 7)


def fill(vault: Vault, *, read: bool) -> list[int]:
    """Keep messages, whose timers run from different seconds on if they are read."""

    def work(tx: Transaction) -> list[int]:
        new = [new_message(f"text {i}", message_id=f"id {i}", timer=DAY) for i in range(COUNT)]
        numbers = [entry.number for entry in tx.add_many(new)]
        if read:
            for number in numbers:
                tx.apply(number, Event.READ, tx.now() - number)
        return numbers

    return vault.transact_sync(work)


def erase(vault: Vault, numbers: list[int]) -> None:
    def work(tx: Transaction) -> None:
        for number in numbers:
            tx.erase(number)

    vault.transact_sync(work)


def leaves(vault: Vault) -> dict[int, Leaf]:
    """Where the messages that live are sealed."""
    living = select(messages).where(messages.c.sealed_key.is_not(None)).order_by("number")
    rows = vault.transact_sync(lambda tx: tx.read(living).all())
    return {row.number: leaf_of(row) for row in rows}


def is_crowded(vault: Vault) -> bool:
    return vault.must_reseal


def epochs(vault: Vault, region: Region) -> list[int]:
    return list(vault.transact_sync(lambda tx: tx.epochs(region)))


def put(values: dict[str, str], tx: Transaction) -> None:
    tx.put_values(dict(values))


def keys(vault: Vault) -> Keys:
    return vault._keeper._shared.keys


async def settled(vault: Vault) -> None:
    """Do what the task that forgets does."""
    assert await vault.settle() is Erasure.DESTROYED
    while await vault.reseal():
        pass
    assert await vault.settle() is Erasure.DESTROYED


@pytest.mark.parametrize(("read", "region"), [(False, Region.KEPT), (True, Region.EXPIRING)])
async def test_what_lives_moves_to_the_next_epoch_and_the_old_one_is_cut(
    vault: Vault, clock: ManualClock, folder: Path, *, read: bool, region: Region
) -> None:
    numbers = fill(vault, read=read)
    erase(vault, numbers[::2])
    before = leaves(vault)
    assert await vault.settle() is Erasure.DESTROYED
    crowd = keys(vault).nodes
    assert is_crowded(vault)
    await settled(vault)
    assert not is_crowded(vault)
    assert keys(vault).nodes < crowd
    after = leaves(vault)
    assert list(after) == list(before) == numbers[1::2]
    assert {leaf.epoch for leaf in after.values()} == {1}
    assert {leaf.region for leaf in after.values()} == {region}
    assert not any(keys(vault).alive(leaf) for leaf in before.values())
    assert epochs(vault, region) == [1]
    vault.close_sync()
    again = opened(folder, clock)
    living = [f"text {i}" for i in range(COUNT - 1, 0, -2)]
    assert [text for text in texts(again) if text is not None] == living
    again.close_sync()


async def test_after_sealing_anew_messages_expire_as_before(
    vault: Vault, clock: ManualClock
) -> None:
    erase(vault, fill(vault, read=True)[::2])
    await settled(vault)
    living = leaves(vault)
    clock.advance(DAY)
    assert await vault.expire_due() is Erasure.DESTROYED
    assert not any(keys(vault).alive(leaf) for leaf in living.values())
    assert len((await vault.sweep(1000)).gone) == COUNT // 2


async def test_a_message_erased_while_its_region_moves_opens_in_neither_epoch(
    vault: Vault,
) -> None:
    numbers = fill(vault, read=False)
    erase(vault, numbers[::2])
    await vault.settle()
    assert await vault.reseal()
    old = leaves(vault)
    assert await vault.reseal()
    both = leaves(vault)
    assert {leaf.epoch for leaf in both.values()} == {0, 1}
    moved = next(number for number, leaf in both.items() if leaf.epoch == 1)
    waiting = next(number for number, leaf in both.items() if leaf.epoch == 0)
    erase(vault, [moved, waiting])
    assert await vault.settle() is Erasure.DESTROYED
    assert not keys(vault).alive(old[moved])
    assert not keys(vault).alive(both[moved])
    assert not keys(vault).alive(both[waiting])
    untouched = [number for number in both if number not in {moved, waiting}]
    assert all(keys(vault).alive(both[number]) for number in untouched)
    await settled(vault)
    assert list(leaves(vault)) == untouched


async def test_a_message_read_or_due_while_its_region_moves_is_forgotten_in_both(
    vault: Vault, clock: ManualClock
) -> None:
    numbers = fill(vault, read=True)
    short = vault.transact_sync(lambda tx: tx.add(new_message(timer=MINUTE)).number)
    unread = vault.transact_sync(lambda tx: tx.add(new_message(message_id="2")).number)
    vault.transact_sync(lambda tx: tx.apply(short, Event.READ, tx.now()))
    erase(vault, numbers[::2])
    await vault.settle()
    assert await vault.reseal()
    before = leaves(vault)
    for _ in range(20):
        await vault.reseal()
        if leaves(vault)[short].epoch:
            break
    vault.transact_sync(lambda tx: tx.apply(unread, Event.READ, tx.now()))
    moved = leaves(vault)
    clock.advance(MINUTE)
    assert await vault.expire_due() is Erasure.DESTROYED
    for leaf in (before[short], moved[short], before[unread], moved[unread]):
        assert not keys(vault).alive(leaf)


async def test_clearing_a_conversation_while_it_moves_reaches_both_epochs(vault: Vault) -> None:
    numbers = fill(vault, read=False)
    other = vault.transact_sync(lambda tx: tx.add(new_message("kept", conversation=PETER)).number)
    erase(vault, numbers[::2])
    await vault.settle()
    assert await vault.reseal()
    before = leaves(vault)
    assert await vault.reseal()
    during = leaves(vault)
    vault.transact_sync(lambda tx: tx.erase_conversation(new_message().conversation))
    assert await vault.settle() is Erasure.DESTROYED
    gone = [number for number in before if number != other]
    for number in gone:
        assert not keys(vault).alive(before[number])
        assert not keys(vault).alive(during[number])
    await settled(vault)
    assert texts(vault, PETER) == ["kept"]


async def test_a_vault_closed_in_the_middle_goes_on_where_it_was(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    numbers = fill(vault, read=False)
    erase(vault, numbers[::2])
    await vault.settle()
    assert await vault.reseal()
    assert await vault.reseal()
    assert epochs(vault, Region.KEPT) == [0, 1]
    await vault.close()
    again = opened(folder, clock)
    assert is_crowded(again)
    await settled(again)
    assert epochs(again, Region.KEPT) == [1]
    assert list(leaves(again)) == numbers[1::2]
    assert len([text for text in texts(again) if text is not None]) == COUNT // 2
    await again.close()


async def test_very_many_erasures_at_once_never_make_the_key_file_larger_than_its_limit(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MAXIMUM_NODES", 160)
    numbers = fill(vault, read=False)
    sizes = []
    write = keys(vault).write

    def watched() -> None:
        write()
        sizes.append(keys(vault).nodes)

    monkeypatch.setattr(keys(vault), "write", watched)
    erase(vault, numbers[::2])
    assert await vault.settle() is Erasure.DESTROYED
    assert len(sizes) == 1
    assert sizes[0] <= 160
    assert len(bodies(vault.transact_sync(lambda tx: tx.entries(PETER, None, 10)))) == 0
    assert list(leaves(vault)) == numbers[1::2]
    assert [text for text in texts(vault) if text] == [f"text {i}" for i in range(COUNT - 1, 0, -2)]


async def test_f12_ratchet_values_move_all_at_once_with_the_conversations_names(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    choose = random.Random(12)  # noqa: S311  # a test that can be repeated
    values = {f"key {i}": "0" for i in range(200)}
    vault.transact_sync(lambda tx: tx.put_values(dict(values)))
    vault.transact_sync(lambda tx: tx.add(new_message(timer=None)))
    for step in range(100):
        values |= (change := {choose.choice(list(values)): str(step)})
        vault.transact_sync(functools.partial(put, change))
    await vault.settle()
    old = vault.transact_sync(
        lambda tx: list(tx._value_leaves([tx._keys.hash("state", key) for key in values]).values())
    )
    assert is_crowded(vault)
    await settled(vault)
    assert not is_crowded(vault)
    assert epochs(vault, Region.RATCHET) == [1]
    assert not any(keys(vault).alive(leaf) for leaf in old)
    vault.close_sync()
    again = opened(folder, clock)
    kept = again.transact_sync(lambda tx: {key: tx.value(key) for key in values})
    assert kept == values
    assert texts(again) == ["sentinel plaintext of a message"]
    again.close_sync()


async def test_f38_a_damaged_row_stops_nothing(vault: Vault) -> None:
    numbers = fill(vault, read=False)
    damaged = update(messages).where(messages.c.number == numbers[1])
    vault.transact_sync(lambda tx: tx.change(damaged, {"sealed_key": bytes(60)}))
    erase(vault, numbers[::2])
    await settled(vault)
    assert epochs(vault, Region.KEPT) == [1]
    assert len([text for text in texts(vault) if text is not None]) == COUNT // 2 - 1


async def test_what_an_undone_work_sealed_is_forgotten_with_the_next_settling(
    vault: Vault, folder: Path, clock: ManualClock
) -> None:
    """Its pages may stand in a file although the database has taken them back."""
    sealed: list[Leaf] = []

    def undone(tx: Transaction) -> None:
        tx.add(new_message("undone"))
        tx.put_value("key", "undone")
        sealed.extend(tx.effects.sealed)
        raise ZeroDivisionError

    vault.transact_sync(lambda tx: tx.add(new_message("before", message_id="1")))
    with pytest.raises(ZeroDivisionError):
        vault.transact_sync(undone)
    assert len(sealed) == 2
    assert vault.unsettled
    assert all(keys(vault).alive(leaf) for leaf in sealed)
    assert await vault.settle() is Erasure.DESTROYED
    assert not any(keys(vault).alive(leaf) for leaf in sealed)
    await vault.close()
    again = opened(folder, clock)
    again.transact_sync(lambda tx: tx.add(new_message("after", message_id="2")))
    again.transact_sync(lambda tx: tx.put_value("key", "after"))
    assert texts(again) == ["after", "before"]
    assert again.transact_sync(lambda tx: tx.value("key")) == "after"
    await again.close()


def test_epochs_come_back_and_anything_else_is_damage() -> None:
    begun = Epochs.from_json(None).begun(Region.KEPT)
    assert Epochs.from_json(begun.to_json()) == begun
    assert begun.unfinished() is Region.KEPT
    assert begun.ended(Region.KEPT).unfinished() is None
    for text in ("", "{}", "[]", "7", '{"KEPT": [0, 1]}', begun.to_json().replace("1", "-1")):
        with pytest.raises(VaultDamaged):
            Epochs.from_json(text)
    with pytest.raises(VaultDamaged):
        Epochs.from_json(begun.to_json()[:-1] + ', "OTHER": [0, 0]}')


async def test_a_vault_that_never_sealed_anew_has_no_row_for_it(vault: Vault) -> None:
    rows = select(func.count()).select_from(meta).where(meta.c.name == EPOCHS)
    assert vault.transact_sync(lambda tx: tx.read(rows).scalar_one()) == 0
    assert not await vault.reseal()


def test_a_cut_leaf_does_not_open(vault: Vault) -> None:
    """What the tests above take for granted."""
    erase(vault, fill(vault, read=False)[:1])
    vault._run_alone(vault._keeper.settle)
    with pytest.raises(Forgotten):
        keys(vault).open(Leaf(Region.KEPT, 1, 1), bytes(60), b"")


async def test_f12_after_a_commit_that_failed_everything_is_sealed_anew(
    vault: Vault, folder: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sealed may stand in a file, under leaves that nobody knows."""

    def refused() -> None:
        raise VaultUnavailable("the disk is full")

    numbers = fill(vault, read=False)
    vault.transact_sync(lambda tx: tx.put_value("key", "kept"))
    with monkeypatch.context() as patch:
        patch.setattr(vault._keeper, "_keep_house", refused)
        with pytest.raises(VaultUnavailable):
            vault.transact_sync(lambda tx: tx.add(new_message("lost", message_id="lost")))
    before = leaves(vault)
    assert vault.must_reseal
    await settled(vault)
    assert [epochs(vault, region) for region in Region] == [[2], [2], [2]]
    assert not any(keys(vault).alive(leaf) for leaf in before.values())
    assert list(leaves(vault)) == numbers
    await vault.close()
    again = opened(folder, clock)
    assert not is_crowded(again)
    assert len([text for text in texts(again) if text is not None]) == COUNT
    assert again.transact_sync(lambda tx: tx.value("key")) == "kept"
    again.close_sync()


@pytest.mark.parametrize("closed", [True, False])
async def test_f12_a_server_is_asked_whether_the_vault_was_closed(
    vault: Vault, folder: Path, clock: ManualClock, engine: str, *, closed: bool
) -> None:
    """What a server has kept of a transaction that was cut short cannot be looked at."""
    if not closed:
        vault._keeper._database.release = lambda: None  # type: ignore[method-assign]  # a crash
    vault.transact_sync(lambda tx: tx.put_value("key", "kept"))
    await vault.close()
    again = opened(folder, clock)
    assert again.must_reseal is (engine == "postgresql" and not closed)
    await settled(again)
    assert again.transact_sync(lambda tx: tx.value("key")) == "kept"
    await again.close()
