"""Which epochs of the key tree's regions are in use.

One, as a rule: the current one, that everything new is sealed in. While a region is sealed anew
(`resealing.py`) the epoch before it still holds what has not been moved yet.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eph_e2ee.errors import VaultDamaged
from eph_e2ee.vault.paths import MAXIMUM_EPOCH, Region

__all__ = ["EPOCHS", "Epochs"]

EPOCHS: Final = "epochs"
"""The meta row that keeps them; a vault that has never sealed anew has none."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs in use.

    Attributes:
        spans: of each region the oldest epoch in use and the current one.
    """

    spans: Mapping[Region, tuple[int, int]]

    def of(self, region: Region) -> range:
        """Return a region's epochs in use, the current one last."""
        oldest, current = self.spans[region]
        return range(oldest, current + 1)

    def unfinished(self) -> Region | None:
        """Return a region that was being sealed anew when the vault was closed."""
        return next((region for region in Region if len(self.of(region)) > 1), None)

    def begun(self, region: Region, by: int = 1) -> "Epochs":
        """Return the epochs once a new one has begun in a region, `by` steps ahead."""
        oldest, current = self.spans[region]
        return Epochs({**self.spans, region: (oldest, current + by)})

    def ended(self, region: Region) -> "Epochs":
        """Return the epochs once only the current one of a region is in use."""
        _, current = self.spans[region]
        return Epochs({**self.spans, region: (current, current)})

    def to_json(self) -> str:
        """Return them as a JSON text."""
        return json.dumps({region.name: span for region, span in self.spans.items()})

    @classmethod
    def from_json(cls, text: str | None) -> "Epochs":
        """Return the epochs that `to_json` wrote; None stands for those of a new vault.

        Raises:
            VaultDamaged: `to_json` did not write this.
        """
        if text is None:
            return cls(dict.fromkeys(Region, (0, 0)))
        try:
            found = json.loads(text)
            spans = {region: _span(*found.pop(region.name)) for region in Region}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise VaultDamaged(_NOT_EPOCHS) from None
        if found:
            raise VaultDamaged(_NOT_EPOCHS)
        return cls(spans)


_NOT_EPOCHS: Final = "the epochs of the vault cannot be read; restore it from a backup"


def _span(oldest: object, current: object) -> tuple[int, int]:
    if not (isinstance(oldest, int) and isinstance(current, int)):
        raise TypeError
    if not 0 <= oldest <= current <= MAXIMUM_EPOCH:
        raise ValueError
    return oldest, current
