"""What is due: which deadlines there are, what is to be forgotten with them, and their rows.

No row is decrypted here, so none that is damaged stops the others (F38).
"""

import logging
from typing import TYPE_CHECKING, cast

from eph_e2ee.errors import Forgotten, VaultDamaged
from eph_e2ee.model import BareJid
from eph_e2ee.vault.paths import MAXIMUM_SEQUENCE, Leaf, Region, UntilCut
from eph_e2ee.vault.records import Records
from eph_e2ee.vault.rows import DIRECTIONS, EARLIEST, LATEST_DUE, SWEEP, Gone

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Ending"]

LOG = logging.getLogger(__name__)


class Ending(Records):
    """The part of a transaction that makes an end of what is due, for the vault itself."""

    def earliest_deadline(self) -> int | None:
        """Return the first deadline of any message whose row is not a tombstone yet."""
        earliest: int | None = self.read(EARLIEST).scalar()
        return earliest

    def alive_until(self, until: int) -> bool:
        """Return whether a leaf of a deadline up to `until` is in use and not forgotten yet."""
        row = self.read(LATEST_DUE, {"until": until}).first()
        if row is None:
            return False
        # The end of its group, since the row's own leaf may have been cut by itself.
        return any(
            self._keys.alive(Leaf(Region.EXPIRING, row.deadline, MAXIMUM_SEQUENCE, epoch))
            for epoch in self.epochs(Region.EXPIRING)
        )

    def intend_until(self, until: int) -> None:
        """Mean to forget everything with a deadline up to `until`, if that has not been done."""
        if self.alive_until(until):
            epochs = self.epochs(Region.EXPIRING)
            self.intend(UntilCut(Region.EXPIRING, until, epoch) for epoch in epochs)

    def sweep(self, until: int, count: int) -> tuple[int, list[Gone]]:
        """Make tombstones of up to `count` messages with a deadline up to `until`.

        No row is decrypted: their keys are gone, and one that is damaged goes as well (F38).

        Returns:
            How many, and those of them whose conversation can be named.
        """
        # No row may lose its deadline before its key is at least meant to go.
        self.intend_until(until)
        found = self.read(SWEEP, {"until": until, "count": count}).all()
        self.effects.changed |= bool(found)
        self.effects.deadlines = True
        # Taken apart by position, since a look at a column by its name costs more than the rest.
        rows = sorted(cast("Sequence[tuple[int, int, int]]", found))
        names = self._names({conversation for _, conversation, _ in rows})
        gone = [
            Gone(number, names[conversation], DIRECTIONS[direction])
            for number, conversation, direction in rows
            if conversation in names
        ]
        return len(rows), gone

    def _names(self, numbers: set[int]) -> dict[int, BareJid]:
        names = {}
        for number in numbers:
            try:
                names[number] = self.numbered(number).jid
            except (VaultDamaged, Forgotten):
                LOG.warning("the name of conversation %d does not open", number)
        return names
