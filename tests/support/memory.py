"""What stands in the memory of another process: texts by a mark that they share, keys by any half.

The scanned process must not hold what is looked for, so nothing here is given to it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Canaries", "Found", "scan"]

CHUNK: Final = 4 * 1024 * 1024
WORD: Final = 8
"""Bytes of the runs by which keys are found."""

ESCAPE: Final = b"\\u00"
"""In JSON: too many texts share runs with these."""

Runs: TypeAlias = dict[int, list[tuple[int, bytes, int]]]
"""By a run's eight bytes as a number: a key's number, one of its forms, and where the run is."""

KERNELS: Final = ("[vvar]", "[vsyscall]", "[vvar_vclock]")
"""Mappings that are the kernel's own."""

FORMS: Final = ("utf-8", "utf-16-le", "utf-32-le")
"""UTF-8 and Python's forms of a text: 1 byte a character is the same here, 2 bytes, 4 bytes."""

WIDEST: Final = ("", "\u0436", "\U0001f408")
"""One character more, and Python keeps the text in 1, 2 or 4 bytes each."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Texts that are found again, each by a word of its own, repeated so that parts are found too.

    Attributes:
        mark: begins every word: 8 ASCII characters that occur nowhere else.
        count: how many there are.
    """

    mark: str
    count: int

    def text(self, number: int) -> str:
        """The text of one; Python keeps it in 1, 2 or 4 bytes a character, in turns."""
        word = f"{self.mark}{number:05}"
        return " ".join([word] * 4) + " " + WIDEST[number % len(WIDEST)]

    def found_in(self, memory: bytes) -> set[int]:
        """The numbers of those of which a whole word stands in some bytes."""
        numbers: set[int] = set()
        for form, width in zip(FORMS, (1, 2, 4), strict=True):
            zeros = b"\0" * (width - 1)
            digits = b"((?:[0-9]" + zeros + b"){5})"
            pattern = re.compile(re.escape(self.mark.encode(form)) + digits)
            numbers |= {int(digits[::width]) for digits in pattern.findall(memory)}
        return numbers


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan has found.

    Attributes:
        texts: the numbers of the canaries.
        keys: the places of the keys in the sequence that was given.
        size: bytes that were read.
    """

    texts: frozenset[int]
    keys: frozenset[int]
    size: int


def scan(process: int, canaries: Canaries, keys: Iterable[bytes]) -> Found:
    """Read all the memory of a living process that can be read.

    Raises:
        OSError: it may not be read at all, or has ended.
    """
    runs = runs_of(keys)
    texts: set[int] = set()
    found: set[int] = set()
    size = 0
    for chunk in _chunks(process):
        size += len(chunk)
        texts |= canaries.found_in(chunk)
        found |= keys_in(chunk, runs)
    return Found(frozenset(texts), frozenset(found), size)


def keys_in(memory: bytes, runs: Runs) -> set[int]:
    """The numbers of the keys of which half stands in some bytes."""
    words = array("Q")
    words.frombytes(memory[: len(memory) // WORD * WORD])
    return {
        number
        for word in runs.keys() & set(words)
        for number, form, at in runs[word]
        if _stands(memory, form, at)
    }


def runs_of(keys: Iterable[bytes]) -> Runs:
    """Every run of eight bytes of every form of the keys, as a number, with where it comes from.

    Wherever half of a key lies, one of its runs lies at a multiple of eight, where `keys_in` looks:
    so one pass does for any number of keys.
    """
    runs: Runs = {}
    for number, key in enumerate(keys):
        for form in _forms(key):
            for at in range(len(form) - WORD + 1):
                run = form[at : at + WORD]
                if ESCAPE not in run:
                    word = int.from_bytes(run, sys.byteorder)
                    runs.setdefault(word, []).append((number, form, at))
    return runs


def _forms(key: bytes) -> set[bytes]:
    """A key as it is, and in JSON as python-omemo writes it: a character for each byte."""
    text = json.dumps(key.decode("latin-1"), ensure_ascii=False)[1:-1]
    return {key, text.encode("latin-1"), text.encode()}


def _stands(memory: bytes, form: bytes, at: int) -> bool:
    """Whether half of a form stands somewhere around its run at `at`."""
    half = len(form) // 2
    starts = range(max(0, at + WORD - half), min(at, len(form) - half) + 1)
    return any(form[start : start + half] in memory for start in starts)


def _chunks(process: int) -> Iterator[bytes]:
    """Memory, a piece at a time; what lies across a border is in both pieces, or found by halves.

    A mapping that is gone, or that a device keeps for itself, is passed over.
    """
    overlap = 4096
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for start, end in _mappings(process):
            for at in range(start, end, CHUNK):
                length = min(CHUNK + overlap, end - at)
                try:
                    yield os.pread(memory.fileno(), length, at)
                except OSError:
                    continue


def _mappings(process: int) -> Iterator[tuple[int, int]]:
    """Where each readable mapping begins and ends."""
    for line in Path(f"/proc/{process}/maps").read_text("utf-8").splitlines():
        addresses, permissions, *rest = line.split()
        if permissions.startswith("r") and rest[-1] not in KERNELS:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
