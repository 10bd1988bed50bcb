"""What an operator is told of a vault: counts, and whether what lives opens and nothing else."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import null, update

from eph_e2ee.model import Direction, Phase
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault import inspection
from eph_e2ee.vault.database import conversations, messages, state
from eph_e2ee.vault.inspection import Findings, describe, verify
from eph_e2ee.vault.keeper import Keeper
from eph_e2ee.vault.paths import Region
from eph_e2ee.vault.purging import expire_now
from tests.vault.making import PETER, ROSA, TEXT, add_read, adding, new_message, reading

if TYPE_CHECKING:
    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


def unheard(_: int) -> None:
    pass


def fill(vault: Vault) -> None:
    """Some of everything: unread, running, sent, without a timer, erased, cleared, values."""

    def work(transaction: Transaction) -> None:
        transaction.add_many([new_message(message_id=f"unread {n}") for n in range(3)])
        transaction.add(new_message(timer=None, message_id="kept"))
        transaction.add(new_message(direction=Direction.OUTGOING, message_id="ours"))
        add_read(transaction, message_id="running")
        transaction.erase(add_read(transaction, message_id="erased while running"))
        transaction.erase(transaction.add(new_message(message_id="erased")).number)
        transaction.add(new_message(conversation=PETER, message_id="cleared"))
        transaction.put_values({"one": "sentinel value", "other": "sentinel value"})

    vault.transact_sync(work)
    vault.transact_sync(lambda transaction: transaction.erase_conversation(PETER))
    vault.transact_sync(lambda transaction: transaction.put_value("one", "another"))
    vault.run_alone_sync(Keeper.settle)


def change(vault: Vault, table: Any, where: Any, **values: Any) -> None:
    statement = update(table).where(where).values(**values)
    vault.transact_sync(lambda transaction: transaction.read(statement).close())


def test_a_description_counts_everything(vault: Vault, clock: ManualClock) -> None:
    fill(vault)
    found = describe(vault)
    assert found.messages == {
        (Direction.INCOMING, Phase.UNREAD): 3 + 1,
        (Direction.INCOMING, Phase.RUNNING): 1,
        (Direction.OUTGOING, Phase.UNSENT): 1,
    }
    assert (found.tombstones, found.conversations, found.values) == (3, 2, 2)
    assert found.replay_ids == 9
    assert found.intents == 0
    assert found.next_deadline == int(clock.now()) + 60
    assert found.oldest_deadline == int(clock.now())
    assert found.clock.now == clock.now()
    assert found.nodes > 1
    assert found.generation > 1
    assert found.database_bytes > 0
    assert found.epochs[Region.KEPT] == (0, 0)
    assert "sentinel" not in repr(found)


def test_a_vault_that_has_lived_is_clean(vault: Vault, clock: ManualClock) -> None:
    """After reading, erasing, clearing and expiring, and a sealing anew of every region."""
    fill(vault)
    clock.advance(61)
    for region in Region:
        vault.run_alone_sync(functools.partial(reseal, region=region))
    found = verify(vault, unheard)
    assert found.clean
    assert (found.messages, found.values, found.conversations) == (9, 2, 2)


def reseal(keeper: Keeper, region: Region) -> None:
    keeper.crowded = region
    while keeper.reseal():
        pass
    keeper.settle()


def test_verifying_expires_first(vault: Vault, clock: ManualClock) -> None:
    number = vault.transact_sync(add_read)
    clock.advance(61)
    assert verify(vault, unheard).clean
    entry = vault.transact_sync(lambda transaction: transaction.entry(number))
    assert entry is not None
    assert entry.phase is Phase.GONE
    assert describe(vault).tombstones == 1


def test_f21_a_message_that_came_too_late_is_no_false_alarm(
    vault: Vault, clock: ManualClock
) -> None:
    """Its leaf was never used, and is cut with the others all the same."""
    late = new_message(message_id="late")
    deadline = int(clock.now()) - 5
    lifetime = type(late.lifetime)(Phase.RUNNING, late.lifetime.timer, deadline)
    too_late = type(late)(
        late.conversation, late.direction, lifetime, late.delivery, late.content, ()
    )
    vault.transact_sync(lambda transaction: transaction.add(too_late))
    assert describe(vault).tombstones == 1
    assert verify(vault, unheard).clean


def test_a_message_that_was_read_long_ago_elsewhere_is_no_false_alarm(
    vault: Vault, clock: ManualClock
) -> None:
    """Its tombstone stands at a leaf of an epoch that the region has not come to."""
    vault.run_alone_sync(lambda keeper: reseal(keeper, Region.KEPT))
    number = vault.transact_sync(adding())
    read_at = clock.now() - 120
    vault.transact_sync(lambda transaction: transaction.apply(number, Event.READ, read_at))
    assert verify(vault, unheard).clean
    assert describe(vault).tombstones == 1


@pytest.mark.parametrize("column", ["content", "sealed_key"])
def test_f38_a_damaged_message_is_named_and_does_not_stop_the_others(
    vault: Vault, column: str
) -> None:
    fill(vault)
    change(vault, messages, messages.c.number == 2, **{column: b"\0" * 80})
    found = verify(vault, unheard)
    assert not found.clean
    assert (found.unopened_messages.count, found.unopened_messages.numbers) == (1, [2])
    assert found.messages == 9
    assert found.living_tombstones.count == found.unopened_values == 0


@pytest.mark.parametrize(
    "values",
    [{"content": null()}, {"region": 9}, {"leaf_group": -1}, {"epoch": 2**40}],
    ids=["content", "region", "group", "epoch"],
)
def test_a_row_with_something_impossible_in_it_does_not_open(
    vault: Vault, values: dict[str, Any]
) -> None:
    fill(vault)
    change(vault, messages, messages.c.number == 1, **values)
    assert verify(vault, unheard).unopened_messages.numbers == [1]


def test_rows_that_changed_places_do_not_open(vault: Vault) -> None:
    fill(vault)
    one = vault.transact_sync(
        lambda transaction: transaction.read(messages.select().where(messages.c.number == 1)).one()
    )
    change(vault, messages, messages.c.number == 2, content=one.content, sealed_key=one.sealed_key)
    assert verify(vault, unheard).unopened_messages.numbers == [2]


def test_a_tombstone_whose_key_lives_is_found(vault: Vault) -> None:
    """Emptying a row is not forgetting: a copy of the row would open."""
    fill(vault)
    change(
        vault,
        messages,
        messages.c.number == 1,
        phase=4,
        content=null(),
        sealed_key=null(),
        deadline=1,
    )
    found = verify(vault, unheard)
    assert not found.clean
    assert found.living_tombstones.numbers == [1]
    assert found.unopened_messages.count == 0


def test_a_tombstone_that_still_holds_something_is_found(vault: Vault) -> None:
    fill(vault)
    gone = vault.transact_sync(
        lambda transaction: transaction.read(
            messages.select().where(messages.c.phase == 4).limit(1)
        ).one()
    )
    change(vault, messages, messages.c.number == gone.number, content=b"left behind")
    assert verify(vault, unheard).living_tombstones.numbers == [gone.number]


def test_damaged_values_and_names_are_found(vault: Vault) -> None:
    fill(vault)
    change(vault, state, state.c.sequence >= 0, sealed=b"\0" * 80)
    change(vault, conversations, conversations.c.number == 2, sealed=b"\0" * 80)
    found = verify(vault, unheard)
    assert found.unopened_values == 2
    assert (found.unopened_names.count, found.unopened_names.numbers) == (1, [2])
    assert found.unopened_messages.count == 0


def test_a_name_that_opens_under_another_hash_is_found(vault: Vault) -> None:
    """Such a row would hide a conversation, and show its messages nowhere."""
    fill(vault)
    change(vault, conversations, conversations.c.number == 1, hash=b"\0" * 16)
    assert verify(vault, unheard).unopened_names.numbers == [1]


def test_all_are_counted_and_twenty_are_named(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page: what is held at once does not grow with the archive."""
    monkeypatch.setattr(inspection, "PAGE", 7)
    for number in range(30):
        vault.transact_sync(adding(message_id=f"id {number}"))
    change(vault, messages, messages.c.number > 5, content=b"\0" * 80)
    advances: list[int] = []
    found = verify(vault, advances.append)
    assert found.unopened_messages.count == 25
    assert found.unopened_messages.numbers == list(range(6, 26))
    assert max(advances) == 7
    assert sum(advances) == inspection.count_rows(vault) == 31


def test_nothing_of_a_message_is_in_what_is_found(vault: Vault) -> None:
    """F10."""
    fill(vault)
    change(vault, messages, messages.c.number == 1, content=b"\0" * 80)
    found: Findings = verify(vault, unheard)
    for secret in (TEXT, ROSA, "sentinel"):
        assert secret not in repr(found)


def test_expiring_now_leaves_no_row_behind(vault: Vault, clock: ManualClock) -> None:
    for number in range(5):
        vault.transact_sync(reading(f"{number}"))
    clock.advance(61)
    assert expire_now(vault, unheard) == 5
    assert expire_now(vault, unheard) == 0
    assert vault.earliest_deadline() is None
