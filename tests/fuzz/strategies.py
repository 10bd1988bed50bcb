"""The same inputs for hypothesis, which makes a small one of whatever it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from tests.fuzz.source import Source

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

__all__ = ["materials"]

LONGEST: Final = 200
"""Bytes of choices for one input."""


def materials(target: Target) -> st.SearchStrategy[bytes]:
    """What a target can be given."""
    return st.binary(max_size=LONGEST).map(lambda data: target.draw(Source(data)))
