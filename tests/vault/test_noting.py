"""What has left is noted in the archive, without being opened again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import Direction
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault import archive
from eph_e2ee.vault.paths import LeafCut
from eph_e2ee.vault.rows import leaf_of
from tests.vault.making import MINUTE, new_message, texts

if TYPE_CHECKING:
    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


def note(transaction: Transaction, number: int) -> None:
    transaction.note_sent(number, transaction.now())


def test_one_that_has_left_is_noted_unopened_as_if_it_had_been_opened(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    outgoing = new_message(direction=Direction.OUTGOING)
    one, other = vault.transact_sync(lambda tx: [tx.add(outgoing).number for _ in range(2)])
    old = vault.transact_sync(lambda tx: leaf_of(tx._existing(other)))
    sent = vault.transact_sync(lambda tx: tx.apply(one, Event.SENT, tx.now()))
    with monkeypatch.context() as patch:
        patch.setattr(archive, "open_content", None)
        vault.transact_sync(lambda tx: tx.note_sent(other, tx.now()))
    noted = vault.transact_sync(lambda tx: tx.entry(other))
    assert noted == replace(sent, number=other)
    vault.transact_sync(lambda tx: tx.note_sent(other, tx.now() + 10))
    assert vault.transact_sync(lambda tx: tx.entry(other)) == noted
    vault._run_alone(vault._keeper.settle)
    assert not vault.transact_sync(lambda tx: tx._keys.alive(old))
    assert vault.transact_sync(lambda tx: tx.entry(other)) == noted


def test_nothing_is_noted_of_one_that_is_over(vault: Vault, clock: ManualClock) -> None:
    outgoing = new_message(direction=Direction.OUTGOING)
    erased, due, late = vault.transact_sync(lambda tx: [tx.add(outgoing).number for _ in range(3)])
    vault.transact_sync(lambda tx: tx.note_sent(due, tx.now()))
    clock.advance(MINUTE)
    vault.transact_sync(lambda tx: tx.erase(erased))
    before = vault.transact_sync(lambda tx: [tx.entry(erased), tx.entry(due)])
    for number in (erased, due):
        vault.transact_sync(partial(note, number=number))
    assert vault.transact_sync(lambda tx: [tx.entry(erased), tx.entry(due)]) == before
    vault.transact_sync(lambda tx: tx.note_sent(late, tx.now() - 2 * MINUTE))
    assert texts(vault) == [None, None, None]
    with pytest.raises(LocalProtocolError, match="no message 99"):
        vault.transact_sync(lambda tx: tx.note_sent(99, tx.now()))


def test_one_whose_key_has_been_destroyed_is_gone_whatever_its_row_says(vault: Vault) -> None:
    outgoing = new_message(direction=Direction.OUTGOING)
    number = vault.transact_sync(lambda tx: tx.add(outgoing).number)
    leaf = vault.transact_sync(lambda tx: leaf_of(tx._existing(number)))
    vault.run_alone_sync(lambda keeper: keeper.keys.cut([LeafCut(leaf)]))
    vault.transact_sync(lambda tx: tx.note_sent(number, tx.now()))
    assert texts(vault) == [None]
