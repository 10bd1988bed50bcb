"""Forgetting what is due and cleaning up after it at once, for who has the vault alone.

A running chat does the same in small steps, between messages (`expiry.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.keeper import Keeper
from eph_e2ee.vault.paths import Region, UntilCut
from eph_e2ee.vault.vault import Vault

__all__ = ["Purged", "expire_now", "purge"]

BATCH: Final = 4000
"""Rows that one transaction makes tombstones of: memory stays independent of how many are due."""

Progress = Callable[[int], object]
"""Called with the number of rows that have been dealt with since the last call."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has reached. Whatever was due is destroyed in any case.

    Attributes:
        rows: messages that became tombstones.
        bytes_before: what the database took before.
        bytes_after: what it takes now.
        compacted: whether the database was written anew, without what was deleted.
        scrubbed: whether nothing old is left that the database can reach.
        scrubs: whether this database can promise that at all.
    """

    rows: int
    bytes_before: int
    bytes_after: int
    compacted: bool
    scrubbed: bool
    scrubs: bool


def expire_now(vault: Vault, progress: Progress) -> int:
    """Forget all that is due, and make tombstones of all of its rows; return how many.

    Leaves of deadlines that have passed are cut also where nothing was ever sealed under them: a
    message that came too late has such a leaf (F21).

    Raises:
        VaultError: the disk, the database or the root key's place refused. It can be repeated.
    """
    vault.run_alone_sync(Keeper.expire)
    until = vault.run_alone_sync(lambda keeper: keeper.cut_until)
    rows = 0
    while swept := vault.transact_sync(lambda transaction: transaction.sweep(until, BATCH)[0]):
        rows += swept
        progress(swept)
    vault.transact_sync(lambda transaction: _cut_until(transaction, until))
    vault.run_alone_sync(Keeper.settle)
    return rows


def purge(vault: Vault, progress: Progress) -> Purged:
    """Forget all that is due, and leave no more of it in the database than the engine must.

    A reader that stands in the way of the last step does not undo the first: what was reached is
    told (F2).

    Raises:
        VaultError: as for `expire_now`.
    """
    rows = expire_now(vault, progress)
    while vault.must_reseal:
        vault.run_alone_sync(Keeper.reseal)
    vault.run_alone_sync(Keeper.settle)
    before = vault.run_alone_sync(lambda keeper: keeper.database.size())
    compacted = _compacted(vault)
    scrubbed = vault.run_alone_sync(lambda keeper: keeper.database.scrub())
    return Purged(
        rows=rows,
        bytes_before=before,
        bytes_after=vault.run_alone_sync(lambda keeper: keeper.database.size()),
        compacted=compacted,
        scrubbed=scrubbed,
        scrubs=vault.run_alone_sync(lambda keeper: keeper.database.scrubs),
    )


def _cut_until(transaction: Transaction, until: int) -> None:
    epochs = transaction.epochs(Region.EXPIRING)
    transaction.intend(UntilCut(Region.EXPIRING, until, epoch) for epoch in epochs)


def _compacted(vault: Vault) -> bool:
    try:
        vault.run_alone_sync(Keeper.compact)
    except VaultUnavailable:
        return False
    return True
