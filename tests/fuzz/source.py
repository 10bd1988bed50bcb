"""Choices read from bytes: what a fuzzer mutates, and what a grammar draws from."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Source"]

Value = TypeVar("Value")


class Source:
    """Reads one choice after the other; past the end of the bytes every choice is the first one.

    So each input is of a length that its bytes allow, and the empty one is the simplest.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def spent(self) -> bool:
        """Whether all bytes are used up."""
        return self._at >= len(self._data)

    def byte(self) -> int:
        """The next byte; 0 past the end."""
        if self.spent:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def below(self, count: int) -> int:
        """A number from 0 up to and without `count`, which is at most 65536."""
        return (self.byte() if count <= 256 else self.byte() << 8 | self.byte()) % count

    def one(self, options: Sequence[Value]) -> Value:
        """One of some values."""
        return options[self.below(len(options))]

    def chance(self, times: int) -> bool:
        """True about once in so many times, at most 65536; never past the end."""
        return self.below(times) == 1

    def take(self, most: int) -> bytes:
        """At most so many bytes as they stand, fewer than 256."""
        length = self.below(most + 1)
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken
