"""Proof by exhaustion: every interleaving of up to four changes among two or three devices."""

import pytest

from tests.protocol.exhausting import Search, cast
from tests.protocol.modelling import Behaviour

SPEAKS, ADOPTS = Behaviour.SPEAKS, Behaviour.ADOPTS
KEEPS, TURNS_OFF = Behaviour.KEEPS, Behaviour.TURNS_OFF
HOURS = 3 * 3600

NORMAL = [
    ((SPEAKS, SPEAKS), 4, 0),
    ((SPEAKS, SPEAKS), 3, 1),
    ((SPEAKS, ADOPTS), 4, 0),
    ((SPEAKS, ADOPTS), 3, 1),
    ((SPEAKS, KEEPS), 3, 1),
    ((SPEAKS, TURNS_OFF), 3, 1),
    ((SPEAKS, SPEAKS, SPEAKS), 3, 0),
    ((SPEAKS, SPEAKS, ADOPTS), 3, 0),
    ((SPEAKS, SPEAKS, ADOPTS), 2, 1),
    ((SPEAKS, ADOPTS, ADOPTS), 3, 0),
    ((SPEAKS, ADOPTS, ADOPTS), 2, 1),
]
"""The kinds of the devices; how many changes users make; how many ordinary messages are sent."""

FULL = [
    ((SPEAKS, SPEAKS), 4, 1),
    ((SPEAKS, ADOPTS), 4, 2),
    ((SPEAKS, KEEPS), 4, 1),
    ((SPEAKS, TURNS_OFF), 4, 1),
    ((SPEAKS, SPEAKS, SPEAKS), 4, 0),
    ((SPEAKS, SPEAKS, SPEAKS), 3, 1),
    ((SPEAKS, SPEAKS, ADOPTS), 4, 0),
    ((SPEAKS, SPEAKS, ADOPTS), 3, 1),
    ((SPEAKS, SPEAKS, ADOPTS), 2, 2),
    ((SPEAKS, ADOPTS, ADOPTS), 4, 0),
    ((SPEAKS, ADOPTS, ADOPTS), 3, 1),
    ((SPEAKS, ADOPTS, ADOPTS), 2, 2),
]


@pytest.mark.parametrize("skew", [0, HOURS, -HOURS])
def test_f22_f23_all_interleavings_end_on_one_value(
    skew: int,
    full: bool,  # noqa: FBT001 - a fixture
) -> None:
    """F22, F23: no echo undoes a change, and none are swapped; the first clock is wrong."""
    for behaviours, changes, words in FULL if full else NORMAL:
        skews = (skew, *(0 for _ in behaviours[1:]))
        places = Search(cast(behaviours, skews), changes=changes, words=words).run()
        assert places > 100
