"""Pages of the archive for those who catch up, and how far messages of ours have come."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from eph_e2ee.model import BareJid, Delivery, Direction, Phase
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.database import conversations, messages
from eph_e2ee.vault.rows import Standing
from tests.vault.making import PETER, ROSA, add_read, adding, bodies, new_message, opened

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


def spoil(vault: Vault, number: int) -> None:
    statement = update(messages).where(messages.c.number == number)
    vault.transact_sync(lambda tx: tx.change(statement, {"sealed_key": b"spoiled" * 9}))


def outgoing(vault: Vault, delivery: Delivery = Delivery.UNSENT) -> int:
    message = new_message(direction=Direction.OUTGOING)
    number = vault.transact_sync(lambda tx: tx.add(message).number)
    vault.transact_sync(lambda tx: tx.set_delivery(number, delivery))
    return number


def test_what_comes_later_has_no_smaller_number(folder: Path, clock: ManualClock) -> None:
    """Also after a crash, and after a work that did not come to its end."""

    def fails(_: object) -> None:
        raise KeyError

    vault = opened(folder, clock)
    for again in (False, True):
        first = vault.transact_sync(lambda tx: tx.next_number)
        assert vault.transact_sync(adding(message_id=f"{again}")) >= first
        with pytest.raises(KeyError):
            vault.transact_sync(lambda tx: fails(tx.add(new_message(message_id="lost"))))
        after = vault.transact_sync(lambda tx: tx.next_number)
        assert after > first
        assert vault.transact_sync(adding(message_id=f"after {again}")) >= after
        vault.close_sync()
        vault = opened(folder, clock)
    vault.close_sync()


def test_a_stretch_of_all_conversations_comes_the_oldest_first(vault: Vault) -> None:
    for index in range(6):
        to = PETER if index % 2 else ROSA
        message = new_message(f"{index}", conversation=to)
        vault.transact_sync(partial(Transaction.add, message=message))
    vault.transact_sync(lambda tx: tx.erase(3))
    found = vault.transact_sync(lambda tx: tx.entries_between(2, 6))
    assert bodies(found) == ["1", None, "3", "4"]
    assert [entry.conversation for entry in found] == [PETER, ROSA, PETER, ROSA]
    assert vault.transact_sync(lambda tx: tx.entries_between(6, 6)) == []
    assert len(vault.transact_sync(lambda tx: tx.entries_between(0, 10**9))) == 6


def test_f21_of_a_stretch_nothing_shows_that_is_due(vault: Vault, clock: ManualClock) -> None:
    """Whether or not it has been swept."""
    vault.transact_sync(add_read)
    vault.transact_sync(adding("unread"))
    clock.advance(60)
    assert bodies(vault.transact_sync(lambda tx: tx.entries_between(0, 9))) == [None, "unread"]


def test_f38_of_a_stretch_only_what_is_damaged_is_missing(vault: Vault) -> None:
    """A message, or the name of a conversation."""
    numbers = [vault.transact_sync(adding(f"{number}")) for number in range(3)]
    other = vault.transact_sync(lambda tx: tx.add(new_message(conversation=PETER)).number)
    spoil(vault, numbers[1])
    statement = update(conversations).where(conversations.c.number == 2)
    vault.transact_sync(lambda tx: tx.change(statement, {"sealed": b"spoiled"}))
    vault._keeper._shared.by_number.clear()
    found = vault.transact_sync(lambda tx: tx.entries_between(0, 99))
    assert [entry.number for entry in found] == [numbers[0], numbers[2]]
    assert vault.damaged == {numbers[1], other}


def test_where_messages_stand_is_known_without_opening_them(vault: Vault) -> None:
    """F38: damaged ones and tombstones are among them."""
    read = vault.transact_sync(add_read)
    mine = outgoing(vault, Delivery.DISPLAYED)
    vault.transact_sync(lambda tx: tx.add(new_message(conversation=PETER)))
    unread, erased = vault.transact_sync(adding()), vault.transact_sync(adding())
    vault.transact_sync(lambda tx: tx.erase(erased))
    spoil(vault, unread)
    incoming, received = Direction.INCOMING, Delivery.RECEIVED
    expected = [
        Standing(erased, incoming, Phase.GONE, received),
        Standing(unread, incoming, Phase.UNREAD, received),
        Standing(mine, Direction.OUTGOING, Phase.UNSENT, Delivery.DISPLAYED),
        Standing(read, incoming, Phase.RUNNING, received),
    ]
    assert vault.transact_sync(lambda tx: tx.standings(ROSA, erased, 9)) == expected
    assert vault.transact_sync(lambda tx: tx.standings(ROSA, unread, 2)) == expected[1:3]
    assert vault.transact_sync(lambda tx: tx.standings(ROSA, 0, 9)) == []
    assert vault.transact_sync(lambda tx: tx.standings(BareJid("nobody@x"), 99, 9)) == []
    assert vault.damaged == set()


def test_how_far_a_message_came_is_kept_and_moves_nothing_else(
    folder: Path, clock: ManualClock
) -> None:
    vault = opened(folder, clock)
    number = outgoing(vault)
    before = vault.transact_sync(lambda tx: tx.entry(number))
    assert before is not None
    for delivery in Delivery:
        vault.transact_sync(partial(Transaction.set_delivery, number=number, delivery=delivery))
        vault.close_sync()
        vault = opened(folder, clock)
        found = vault.transact_sync(lambda tx: tx.entry(number))
        assert found is not None
        assert found.delivery is delivery
        assert found.content == before.content
    vault.transact_sync(lambda tx: tx.set_delivery(99, Delivery.FAILED))
    vault.transact_sync(lambda tx: tx.erase(number))
    vault.transact_sync(lambda tx: tx.set_delivery(number, Delivery.DISPLAYED))
    gone = vault.transact_sync(lambda tx: tx.entry(number))
    assert gone is not None
    assert (gone.phase, gone.delivery) == (Phase.GONE, Delivery.DISPLAYED)
    vault.close_sync()


def test_one_that_has_failed_has_left_all_the_same(vault: Vault, clock: ManualClock) -> None:
    """It is written down at leisure that it has left: the failure is often heard of before."""
    number = outgoing(vault, Delivery.FAILED)
    vault.transact_sync(lambda tx: tx.note_sent(number, tx.now()))
    found = vault.transact_sync(lambda tx: tx.entry(number))
    assert found is not None
    assert (found.delivery, found.deadline) == (Delivery.FAILED, int(clock.now()) + 60)
