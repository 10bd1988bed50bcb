"""How far messages of ours have come, as peers and servers tell it: only ever further."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from eph_e2ee.events import Delivered
from eph_e2ee.model import Delivery, Phase
from eph_e2ee.vault.marking import ORDER, mark_delivered, mark_failed
from tests.vault.making import MINUTE, PETER, ROSA, adding, new_message
from tests.vault.test_marking import entry, ours, spoil

if TYPE_CHECKING:
    from collections.abc import Callable

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


def setting(number: int, delivery: Delivery) -> Callable[[Transaction], None]:
    return lambda vault: vault.set_delivery(number, delivery)


def delivers(number: int, delivery: Delivery) -> Callable[[Transaction], list[Delivered]]:
    return lambda vault: mark_delivered(vault, ROSA, number, delivery)


def test_a_delivery_only_ever_goes_further(vault: Vault) -> None:
    number = vault.transact_sync(ours())
    for before, told in product(ORDER, (Delivery.DELIVERED, Delivery.DISPLAYED)):
        vault.transact_sync(setting(number, before))
        news = ORDER.index(told) > ORDER.index(before)
        found = vault.transact_sync(delivers(number, told))
        assert found == ([Delivered(number, ROSA, told)] if news else [])
        assert entry(vault, number).delivery is (told if news else before)
        assert vault.transact_sync(delivers(number, told)) == []


def test_f17_one_in_doubt_has_left_when_the_peer_says_so(vault: Vault, clock: ManualClock) -> None:
    number = vault.transact_sync(ours(sent=False))
    vault.transact_sync(delivers(number, Delivery.DELIVERED))
    found = entry(vault, number)
    assert (found.phase, found.deadline) == (Phase.RUNNING, int(clock.now()) + MINUTE)
    assert found.delivery is Delivery.DELIVERED
    assert vault.transact_sync(lambda tx: tx.unsent()) == []


def test_displayed_covers_those_before_it_that_have_left(vault: Vault) -> None:
    """What has not left, or has come back, nobody has displayed."""
    first, unsent, failed, seen = (
        vault.transact_sync(ours(f"{number}", sent=number != 1)) for number in range(4)
    )
    theirs, last = vault.transact_sync(adding()), vault.transact_sync(ours("last"))
    later = vault.transact_sync(ours("later"))
    vault.transact_sync(lambda tx: mark_failed(tx, ROSA, failed))
    vault.transact_sync(lambda tx: tx.set_delivery(seen, Delivery.DISPLAYED))
    found = vault.transact_sync(delivers(last, Delivery.DISPLAYED))
    assert [each.number for each in found] == [first, last]
    numbers = (first, unsent, failed, seen, theirs, last, later)
    assert [entry(vault, number).delivery for number in numbers] == [
        Delivery.DISPLAYED,
        Delivery.UNSENT,
        Delivery.FAILED,
        Delivery.DISPLAYED,
        Delivery.RECEIVED,
        Delivery.DISPLAYED,
        Delivery.SENT,
    ]


def test_delivered_covers_what_it_names_alone(vault: Vault) -> None:
    first, second = vault.transact_sync(ours("1")), vault.transact_sync(ours("2"))
    vault.transact_sync(delivers(second, Delivery.DELIVERED))
    assert [entry(vault, each).delivery for each in (first, second)] == [
        Delivery.SENT,
        Delivery.DELIVERED,
    ]


def test_a_word_on_anothers_message_does_nothing(vault: Vault) -> None:
    """Neither on one of another conversation, nor on one that the peer has sent."""
    mine, theirs = vault.transact_sync(ours()), vault.transact_sync(adding())
    vault.transact_sync(lambda tx: tx.add(new_message(conversation=PETER)))
    assert vault.transact_sync(lambda tx: mark_failed(tx, PETER, mine)) == []
    for told in (Delivery.DELIVERED, Delivery.DISPLAYED):
        tell = partial(mark_delivered, conversation=PETER, number=mine, delivery=told)
        assert vault.transact_sync(tell) == []
        assert vault.transact_sync(delivers(theirs, told)) == []
        assert vault.transact_sync(delivers(99, told)) == []
    assert entry(vault, mine).delivery is Delivery.SENT
    assert entry(vault, theirs).delivery is Delivery.RECEIVED


def test_only_what_the_peer_is_not_known_to_have_can_fail(vault: Vault) -> None:
    number = vault.transact_sync(ours())
    for before in Delivery:
        vault.transact_sync(setting(number, before))
        found = vault.transact_sync(lambda tx: mark_failed(tx, ROSA, number))
        fails = before in (Delivery.UNSENT, Delivery.SENT)
        assert found == ([Delivered(number, ROSA, Delivery.FAILED)] if fails else [])
        assert entry(vault, number).delivery is (Delivery.FAILED if fails else before)
    assert vault.transact_sync(lambda tx: mark_failed(tx, ROSA, 99)) == []


def test_the_timer_of_one_that_failed_unsent_does_not_run(vault: Vault) -> None:
    number = vault.transact_sync(ours(sent=False))
    vault.transact_sync(lambda tx: mark_failed(tx, ROSA, number))
    assert (entry(vault, number).phase, entry(vault, number).deadline) == (Phase.UNSENT, None)


def test_f38_a_word_on_a_damaged_message_stops_no_other(vault: Vault) -> None:
    """The message that carries it would never be stored otherwise."""
    first, second = vault.transact_sync(ours("1", sent=False)), vault.transact_sync(ours("2"))
    spoil(vault, first)
    vault.transact_sync(delivers(first, Delivery.DELIVERED))
    vault.transact_sync(delivers(second, Delivery.DISPLAYED))
    assert entry(vault, second).delivery is Delivery.DISPLAYED
