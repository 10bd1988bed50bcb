"""Messages: added, read, listed, erased, and never in the way of each other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged
from eph_e2ee.model import BareJid, Delivery, Direction, Phase
from eph_e2ee.protocol.lifetime import Event, Lifetime
from eph_e2ee.vault.database import conversations, messages, replays, state
from eph_e2ee.vault.paths import Leaf, Region
from eph_e2ee.vault.records import MAXIMUM_KEYS, Records
from tests.vault.making import (
    MINUTE,
    PETER,
    ROSA,
    TEXT,
    add_read,
    adding,
    bodies,
    new_message,
    opened,
    texts,
)

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.model import Entry
    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


def test_what_was_added_comes_back(vault: Vault) -> None:
    message = new_message()
    added = vault.transact_sync(lambda tx: tx.add(message))
    assert added == vault.transact_sync(lambda tx: tx.entry(added.number))
    assert added.content == message.content
    assert (added.conversation, added.direction) == (ROSA, Direction.INCOMING)
    assert (added.phase, added.delivery) == (Phase.UNREAD, Delivery.RECEIVED)
    assert (added.timer, added.deadline) == (MINUTE, None)


def test_lengths_are_padded_to_buckets(vault: Vault) -> None:
    for size in (1, 20, 80):
        vault.transact_sync(adding("x" * size))
    sizes = vault.transact_sync(
        lambda tx: tx.read(select(func.length(messages.c.content))).scalars().all()
    )
    assert len(set(sizes)) == 1


def page_of_rosa(tx: Transaction, before: int) -> list[Entry]:
    return tx.entries(ROSA, before, 3)


def test_pages_go_back_from_the_newest_and_know_their_conversation(vault: Vault) -> None:
    for index in range(7):
        vault.transact_sync(adding(str(index)))
        vault.transact_sync(lambda tx: tx.add(new_message("other", conversation=PETER)))
    pages: list[list[str | None]] = []
    page = vault.transact_sync(lambda tx: tx.entries(ROSA, None, 3))
    while page:
        pages.append(bodies(page))
        before = page[-1].number
        page = vault.transact_sync(partial(page_of_rosa, before=before))
    assert pages == [["6", "5", "4"], ["3", "2", "1"], ["0"]]
    unknown = BareJid("nobody@example.org")
    assert vault.transact_sync(lambda tx: tx.entries(unknown, None, 3)) == []


def test_reading_moves_the_key_and_not_the_content(vault: Vault) -> None:
    number = vault.transact_sync(adding())
    row = select(messages.c.content, messages.c.sealed_key).where(messages.c.number == number)
    before = vault.transact_sync(lambda tx: tx.read(row).one())
    read = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now()))
    after = vault.transact_sync(lambda tx: tx.read(row).one())
    assert read.phase is Phase.RUNNING
    assert before.content == after.content
    assert before.sealed_key != after.sealed_key
    assert texts(vault) == [TEXT]


def test_reading_twice_never_extends_and_an_earlier_reading_shortens(
    vault: Vault, clock: ManualClock
) -> None:
    number = vault.transact_sync(add_read)
    deadline = int(clock.now()) + MINUTE
    clock.advance(30)
    again = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now()))
    assert again.deadline == deadline
    elsewhere = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now() - 50))
    assert elsewhere.deadline == deadline - 20
    assert vault.earliest_deadline() == deadline - 20
    assert texts(vault) == [TEXT]


def test_f21_a_reading_elsewhere_that_is_heard_of_too_late_erases(vault: Vault) -> None:
    number = vault.transact_sync(adding())
    late = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now() - 2 * MINUTE))
    assert (late.phase, late.content) == (Phase.GONE, None)
    assert texts(vault) == [None]
    assert vault.unsettled


def test_f21_a_message_that_arrives_after_its_time_leaves_a_tombstone_only(
    vault: Vault, clock: ManualClock
) -> None:
    overdue = Lifetime(Phase.RUNNING, MINUTE, int(clock.now()))
    message = replace(new_message(), lifetime=overdue)
    entry = vault.transact_sync(lambda tx: tx.add(message))
    assert (entry.phase, entry.content) == (Phase.GONE, None)
    assert texts(vault) == [None]
    assert vault.earliest_deadline() is None
    assert vault.transact_sync(lambda tx: tx.seen(message.replay_ids))


def test_a_permanent_message_has_no_deadline(vault: Vault, clock: ManualClock) -> None:
    number = vault.transact_sync(lambda tx: tx.add(new_message(timer=None)).number)
    read = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now()))
    assert (read.phase, read.deadline) == (Phase.READ, None)
    clock.advance(1e9)
    assert texts(vault) == [TEXT]


def test_a_message_of_ours_is_unsent_until_it_has_left(vault: Vault, clock: ManualClock) -> None:
    outgoing = new_message(direction=Direction.OUTGOING)
    number = vault.transact_sync(lambda tx: tx.add(outgoing).number)
    assert [e.number for e in vault.transact_sync(lambda tx: tx.unsent())] == [number]
    sent = vault.transact_sync(lambda tx: tx.apply(number, Event.SENT, tx.now()))
    assert (sent.delivery, sent.phase) == (Delivery.SENT, Phase.RUNNING)
    assert sent.deadline == int(clock.now()) + MINUTE
    assert vault.transact_sync(lambda tx: tx.unsent()) == []


def test_f17_one_that_counts_down_unsent_can_still_be_sent(
    vault: Vault, clock: ManualClock
) -> None:
    outgoing = new_message(direction=Direction.OUTGOING)
    number = vault.transact_sync(lambda tx: tx.add(outgoing).number)
    vault.transact_sync(lambda tx: tx.start_unsent())
    clock.advance(30)
    sent = vault.transact_sync(lambda tx: tx.apply(number, Event.SENT, tx.now()))
    assert (sent.delivery, sent.deadline) == (Delivery.SENT, int(clock.now()) + MINUTE - 30)
    clock.advance(30)
    assert vault.transact_sync(lambda tx: tx.unsent()) == []


def test_an_overdue_unsent_message_is_not_offered_for_sending(
    vault: Vault, clock: ManualClock
) -> None:
    vault.transact_sync(lambda tx: tx.add(new_message(direction=Direction.OUTGOING)))
    vault.transact_sync(lambda tx: tx.start_unsent())
    clock.advance(MINUTE)
    assert vault.transact_sync(lambda tx: tx.unsent()) == []


def test_what_cannot_happen_is_refused(vault: Vault) -> None:
    number = vault.transact_sync(adding())
    with pytest.raises(LocalProtocolError):
        vault.transact_sync(lambda tx: tx.apply(number, Event.SENT, tx.now()))
    with pytest.raises(LocalProtocolError, match="no message 99"):
        vault.transact_sync(lambda tx: tx.apply(99, Event.READ, tx.now()))
    with pytest.raises(LocalProtocolError, match="no message 99"):
        vault.transact_sync(lambda tx: tx.erase(99))
    assert vault.transact_sync(lambda tx: tx.entry(99)) is None
    assert texts(vault) == [TEXT]


def test_erasing_hides_at_once_and_leaves_a_tombstone(vault: Vault, clock: ManualClock) -> None:
    number = vault.transact_sync(add_read)
    kept = vault.transact_sync(adding("kept"))
    vault.transact_sync(lambda tx: tx.erase(number))
    sealed = select(messages.c.number).where(
        messages.c.content.is_not(None) | messages.c.sealed_key.is_not(None)
    )
    assert vault.transact_sync(lambda tx: tx.read(sealed).scalars().all()) == [kept]
    entry = vault.transact_sync(lambda tx: tx.entry(number))
    assert entry is not None
    assert (entry.phase, entry.deadline) == (Phase.GONE, int(clock.now()))
    assert vault.earliest_deadline() is None
    vault.transact_sync(lambda tx: tx.erase(number))
    read = vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now()))
    assert read.phase is Phase.GONE


async def test_clearing_a_conversation_takes_everything_of_it_and_nothing_else(
    vault: Vault, clock: ManualClock
) -> None:
    def fill(tx: Transaction) -> list[Leaf]:
        add_read(tx, "running", "1")
        tx.add(new_message("unread", message_id="2"))
        tx.add(new_message("other", conversation=PETER))
        rows = tx.read(select(messages).where(messages.c.conversation == 1)).all()
        return [Leaf(Region(row.region), row.leaf_group, row.number) for row in rows]

    leaves = await vault.transact(fill)
    await vault.transact(lambda tx: tx.erase_conversation(ROSA))
    await vault.settle()
    alive = await vault.transact(lambda tx: [tx._keys.alive(leaf) for leaf in leaves])
    assert alive == [False, False]
    number = await vault.transact(adding("afterwards"))
    found = await vault.transact(lambda tx: tx.entries(ROSA, None, 9))
    assert bodies(found) == ["afterwards", None, None]
    other = await vault.transact(lambda tx: tx.entries(PETER, None, 9))
    assert bodies(other) == ["other"]
    await vault.transact(lambda tx: tx.erase_conversation(BareJid("nobody@example.org")))
    clock.advance(MINUTE)
    await vault.expire_due()
    assert await vault.transact(lambda tx: tx.entry(number)) is not None


def test_f36_a_replay_is_known_after_the_message_has_gone(vault: Vault) -> None:
    message = new_message()
    number = vault.transact_sync(lambda tx: tx.add(message).number)
    assert vault.transact_sync(lambda tx: tx.find(message.replay_ids[0])) == number
    vault.transact_sync(lambda tx: tx.erase(number))
    assert vault.transact_sync(lambda tx: tx.seen(("new", *message.replay_ids)))
    assert not vault.transact_sync(lambda tx: tx.seen(("new",)))
    assert not vault.transact_sync(lambda tx: tx.seen(()))
    many = tuple(f"new {number}" for number in range(2 * MAXIMUM_KEYS))
    assert vault.transact_sync(lambda tx: tx.seen((*many, *message.replay_ids)))
    assert not vault.transact_sync(lambda tx: tx.seen(many))
    hashes = vault.transact_sync(lambda tx: tx.read(select(replays.c.hash)).scalars().all())
    assert [len(value) for value in hashes] == [16]


def test_an_id_that_two_messages_have_belongs_to_the_first(vault: Vault) -> None:
    first = vault.transact_sync(adding("first"))
    vault.transact_sync(adding("second"))
    assert vault.transact_sync(lambda tx: tx.find(f"{ROSA} sentinel-id")) == first


def test_adding_many_keeps_their_order_and_conversations(vault: Vault) -> None:
    new = [
        new_message(str(index), conversation=ROSA if index % 2 else PETER, message_id=str(index))
        for index in range(50)
    ]
    entries = vault.transact_sync(lambda tx: tx.add_many(new))
    numbers = [entry.number for entry in entries]
    assert numbers == sorted(set(numbers))
    assert texts(vault) == [str(index) for index in range(49, 0, -2)]
    assert vault.transact_sync(lambda tx: tx.add_many([])) == []


def spoil(vault: Vault, number: int, column: str) -> None:
    vault.transact_sync(
        lambda tx: tx.change(
            update(messages).where(messages.c.number == number), {column: b"spoiled" * 9}
        )
    )


@pytest.mark.parametrize("column", ["content", "sealed_key"])
def test_f38_a_damaged_row_is_reported_and_skipped(
    vault: Vault, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    numbers = [vault.transact_sync(adding(str(index))) for index in range(4)]
    spoil(vault, numbers[2], column)
    page = vault.transact_sync(lambda tx: tx.entries(ROSA, None, 3))
    assert [entry.number for entry in page] == [numbers[3], numbers[1], numbers[0]]
    assert vault.damaged == {numbers[2]}
    assert f"message {numbers[2]} does not open" in caplog.text
    with pytest.raises(VaultDamaged):
        vault.transact_sync(lambda tx: tx.entry(numbers[2]))
    vault.transact_sync(lambda tx: tx.erase(numbers[2]))
    assert texts(vault) == ["3", None, "1", "0"]


async def test_f38_a_damaged_row_is_swept_like_any_other(vault: Vault, clock: ManualClock) -> None:
    numbers = [await vault.transact(add_read) for _ in range(3)]
    await vault.transact(
        lambda tx: tx.change(
            update(messages).where(messages.c.number == numbers[0]),
            {"sealed_key": b"", "content": b""},
        )
    )
    clock.advance(MINUTE)
    await vault.expire_due()
    assert [each.number for each in (await vault.sweep()).gone] == numbers


async def test_f38_a_conversation_whose_name_is_damaged_is_swept_without_a_name(
    vault: Vault, clock: ManualClock
) -> None:
    await vault.transact(add_read)
    await vault.transact(lambda tx: tx.change(update(conversations), {"sealed": b"spoiled"}))
    vault._keeper._shared.by_number.clear()
    clock.advance(MINUTE)
    await vault.expire_due()
    swept = await vault.sweep()
    assert (swept.rows, swept.gone) == (1, ())


def test_rows_cannot_be_swapped(vault: Vault) -> None:
    first, second = (vault.transact_sync(adding(name)) for name in ("first", "second"))

    def swap(tx: Transaction) -> None:
        row = tx.read(select(messages).where(messages.c.number == first)).one()
        values = {"sealed_key": row.sealed_key, "content": row.content}
        tx.change(update(messages).where(messages.c.number == second), values)

    vault.transact_sync(swap)
    assert texts(vault) == ["first"]


async def test_values_are_kept_overwritten_and_forgotten(vault: Vault) -> None:
    def leaf(tx: Transaction) -> Leaf:
        return tx._value_leaves([tx._keys.hash("state", "key")]).popitem()[1]

    await vault.transact(lambda tx: tx.put_value("key", "one"))
    first = await vault.transact(leaf)
    unsettled = [vault.unsettled]
    await vault.transact(lambda tx: tx.put_values({"key": "two", "other": "three"}))
    unsettled.append(vault.unsettled)
    assert unsettled == [False, True]
    assert await vault.transact(lambda tx: (tx.value("key"), tx.value("other"))) == ("two", "three")
    await vault.settle()
    assert not await vault.transact(lambda tx: tx._keys.alive(first))
    second = await vault.transact(leaf)
    await vault.transact(lambda tx: tx.put_value("key", None))
    await vault.settle()
    assert not await vault.transact(lambda tx: tx._keys.alive(second))
    assert await vault.transact(lambda tx: tx.value("key")) is None
    await vault.transact(lambda tx: tx.put_value("never there", None))


def test_many_values_at_once(vault: Vault) -> None:
    values = {str(key): f"value {key}" for key in range(1200)}
    vault.transact_sync(lambda tx: tx.put_values(values))
    vault.transact_sync(lambda tx: tx.put_values(values))
    assert vault.transact_sync(lambda tx: {key: tx.value(key) for key in values}) == values


def test_a_value_that_is_damaged_is_an_error_and_never_absent(vault: Vault) -> None:
    """F44: a damaged ratchet must not silently become a new identity."""
    vault.transact_sync(lambda tx: tx.put_value("key", "value"))
    vault.transact_sync(lambda tx: tx.change(update(state), {"sealed": b"spoiled" * 9}))
    with pytest.raises(VaultDamaged):
        vault.transact_sync(lambda tx: tx.value("key"))
    vault.transact_sync(lambda tx: tx.change(update(state), {"sequence": 10**9}))
    with pytest.raises((VaultDamaged, Forgotten)):
        vault.transact_sync(lambda tx: tx.value("key"))


def test_a_sequence_number_is_never_used_twice(folder: Path, clock: ManualClock) -> None:
    """The keys of old values have been destroyed: a number that came back could seal nothing."""

    def failing(tx: Transaction) -> None:
        tx.put_value("key", "lost")
        raise KeyError

    for _ in range(3):
        vault = opened(folder, clock)
        with pytest.raises(KeyError):
            vault.transact_sync(failing)
        for value in ("one", "two", "three"):
            vault.transact_sync(partial(Records.put_value, key="key", text=value))
        assert vault.transact_sync(lambda tx: tx.value("key")) == "three"
        vault.close_sync()
