"""A soak: an hour in the life of five devices, many times over, each hour from a seed.

Alice and Bob have two devices each with this library, Carol has a plain XEP-0466 client. They are
in one process, with real OMEMO and real vaults, on a server that has carbons and archives, loses
the ends of streams, delivers twice and late. What holds throughout stands in `soaking_ledger.py`.

Every seed is printed. To repeat one: SOAK_SEED=12345 pytest tests/flows/test_soak.py, and with
SOAK_ACTIONS=1000 for so many actions. What a seed does not decide is when threads get their turn.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

from tests.flows.soaking import Soak

if TYPE_CHECKING:
    from pathlib import Path

SEEDS: Final = (1, 2)
"""Those that are always run: without carbons, and with nothing missed. The others are random."""

RANDOM_SEEDS: Final = 1
ACTIONS: Final = 70

FULL_RANDOM_SEEDS: Final = 10
FULL_ACTIONS: Final = 450
"""Of the full run: 5,400 actions in a dozen hours."""


def _seeds(*, full: bool) -> list[int]:
    if (given := os.environ.get("SOAK_SEED")) is not None:
        return [int(given)]
    count = FULL_RANDOM_SEEDS if full else RANDOM_SEEDS
    return [*SEEDS, *(secrets.randbelow(2**32) for _ in range(count))]


async def test_whatever_happens_in_an_hour_all_end_as_one(tmp_path: Path, *, full: bool) -> None:
    """F14, F17, F18, F20 to F27, F29, F36, F43: nothing of it at any time, on any device."""
    actions = int(os.environ.get("SOAK_ACTIONS", FULL_ACTIONS if full else ACTIONS))
    for seed in _seeds(full=full):
        print(f"SOAK_SEED={seed} SOAK_ACTIONS={actions}")  # noqa: T201 -- to repeat it
        await Soak(seed, tmp_path / str(seed)).run(actions)
