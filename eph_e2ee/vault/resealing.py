"""Sealing a region of the key tree anew, so that the key file stays small.

Whatever is forgotten here and there leaves nodes of the key tree behind, up to ten for each. When
there are too many, everything alive in a region moves to its next epoch, where nothing has been
forgotten yet, and the epoch before is one cut. Messages move in batches, between other works: a
crash loses nothing, and the next opening goes on. Only their content keys move, 60 bytes each.

The same is done after a transaction that was cut short, by a crash or by an error: what it sealed
may stand in a file without ever having been stored.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, bindparam, insert, select, update

from eph_e2ee.errors import Forgotten, VaultDamaged
from eph_e2ee.vault.archive import KEY_KIND, Transaction
from eph_e2ee.vault.database import conversations, messages, meta, state
from eph_e2ee.vault.epochs import EPOCHS, Epochs
from eph_e2ee.vault.paths import EpochCut, Leaf, Region
from eph_e2ee.vault.records import (
    CHANGE_META,
    CHANGE_STATE,
    changed_value,
    name_kind,
    value_kind,
    value_leaf,
)
from eph_e2ee.vault.rows import leaf_of

__all__ = ["BATCH", "begin", "begin_all", "finish", "is_begun", "move"]

LOG = logging.getLogger(__name__)

RATCHET: Final = Region.RATCHET

BATCH: Final = 1000
"""Messages that one transaction moves: some 50 ms, after which whoever waits has a turn."""

READ_OLD = (
    select(messages)
    .where(
        messages.c.number > bindparam("after"),
        messages.c.region == bindparam("of"),
        messages.c.epoch < bindparam("current"),
        messages.c.sealed_key.is_not(None),
    )
    .order_by(messages.c.number)
    .limit(bindparam("count"))
)
MOVE_MESSAGE = (
    update(messages)
    .where(messages.c.number == bindparam("of"))
    .values(epoch=bindparam("new_epoch"), sealed_key=bindparam("new_key"))
)
MOVE_NAME = (
    update(conversations)
    .where(conversations.c.number == bindparam("of"))
    .values(
        epoch=bindparam("new_epoch"),
        sequence=bindparam("new_sequence"),
        sealed=bindparam("new_sealed"),
    )
)


def is_begun(transaction: Transaction, region: Region) -> bool:
    """Return whether a region is being sealed anew."""
    return len(transaction.epochs(region)) > 1


def begin(transaction: Transaction, region: Region) -> None:
    """Let a new epoch begin: from the commit on, everything new in the region is sealed in it.

    What python-omemo and the conversations keep moves at once, with its end: it is what lives of
    some thousand values, and not to be found again once it has moved.
    """
    epochs = transaction.all_epochs().begun(region)
    _write(transaction, _moved_at_once(transaction, epochs) if region is RATCHET else epochs)


def begin_all(transaction: Transaction) -> None:
    """Let a new epoch begin in every region, after a transaction that was never committed.

    What it sealed may stand in a file for all that, under leaves that nobody knows. It can have
    been in the next epoch already, if one was just beginning: hence two steps.
    """
    epochs = transaction.all_epochs()
    for region in Region:
        epochs = epochs.begun(region, by=2)
    _write(transaction, _moved_at_once(transaction, epochs))


def move(transaction: Transaction, region: Region, after: int, count: int) -> int | None:
    """Move one batch of messages to the current epoch.

    Args:
        transaction: the one to do it in.
        region: one that a new epoch has begun in.
        after: the number that the last batch ended with, 0 for the first.
        count: how many at most.

    Returns:
        The number that this batch ended with; None when nothing was left.
    """
    current = transaction.epochs(region)[-1]
    page = {"after": after, "of": region.value, "current": current, "count": count}
    rows = transaction.read(READ_OLD, page).all()
    transaction.change(MOVE_MESSAGE, _moved(transaction, rows, current))
    return rows[-1].number if rows else None


def finish(transaction: Transaction, region: Region) -> None:
    """Give the epochs up that everything has moved from: they are to be forgotten as a whole."""
    _write(transaction, _ended(transaction, transaction.all_epochs(), region))


def _ended(transaction: Transaction, epochs: Epochs, region: Region) -> Epochs:
    transaction.intend([EpochCut(region, epochs.of(region)[-1] - 1)])
    return epochs.ended(region)


def _moved_at_once(transaction: Transaction, epochs: Epochs) -> Epochs:
    """Move what python-omemo and the conversations keep to the epoch that begins."""
    current = epochs.of(RATCHET)[-1]
    _move_values(transaction, current)
    _move_names(transaction, current)
    return _ended(transaction, epochs, RATCHET)


def _write(transaction: Transaction, epochs: Epochs) -> None:
    text = epochs.to_json()
    changed = transaction.change(CHANGE_META, {"of": EPOCHS, "new_value": text})
    if changed is None or not changed.rowcount:
        transaction.change(insert(meta), {"name": EPOCHS, "value": text})
    transaction.effects.epochs = epochs


def _moved(
    transaction: Transaction, rows: Sequence[Row[Any]], current: int
) -> list[dict[str, Any]]:
    changes = []
    for row in rows:
        old = leaf_of(row)
        new = Leaf(old.region, old.group, old.sequence, current)
        sealed = _resealed(transaction, old, new, row.sealed_key, KEY_KIND)
        if sealed is not None:
            changes.append({"of": row.number, "new_epoch": current, "new_key": sealed})
    return changes


def _move_values(transaction: Transaction, current: int) -> None:
    rows = transaction.read(select(state)).all()
    changes = []
    for row, new in zip(rows, transaction.new_leaves(len(rows), current), strict=True):
        old, kind = value_leaf(row.sequence, row.epoch), value_kind(row.hash)
        sealed = _resealed(transaction, old, new, row.sealed, kind)
        if sealed is not None:
            changes.append(changed_value((row.hash, new.epoch, new.sequence, sealed)))
    transaction.change(CHANGE_STATE, changes)


def _move_names(transaction: Transaction, current: int) -> None:
    rows = transaction.read(select(conversations)).all()
    changes = []
    for row, new in zip(rows, transaction.new_leaves(len(rows), current), strict=True):
        old, kind = value_leaf(row.sequence, row.epoch), name_kind(row.number)
        sealed = _resealed(transaction, old, new, row.sealed, kind)
        if sealed is not None:
            place = {"new_epoch": new.epoch, "new_sequence": new.sequence}
            changes.append({"of": row.number, "new_sealed": sealed, **place})
    transaction.change(MOVE_NAME, changes)


def _resealed(
    transaction: Transaction, old: Leaf, new: Leaf, sealed: bytes, kind: bytes
) -> bytes | None:
    """Return a row's secret under another leaf; None when its own does not open it."""
    try:
        secret = transaction.open(old, sealed, kind)
    except Forgotten:  # it is due, and its row has not been swept yet
        return None
    except VaultDamaged:
        LOG.warning("a row of the vault does not open, and is not sealed anew")
        return None
    # A new leaf that is forgotten is an error: the old one is about to be cut.
    return transaction.seal(new, secret, kind)
