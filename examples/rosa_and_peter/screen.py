"""What a person sees of the demo: what any screen can show, and the plain one."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from examples.rosa_and_peter.evidence import spoken

BLIND: Final = "It cannot tell a text from a change of the timer, and sees neither."


@dataclass(frozen=True, slots=True)
class Cell:
    """One person's copy of a message: `left` seconds to live, None once it is a tombstone.

    Attributes:
        left: seconds; None for a tombstone.
        dark: whether nobody can look, since the client has been killed.
    """

    left: float | None
    dark: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the countdown, with each person's copy of it, where it exists."""

    author: str
    text: str
    cells: dict[str, Cell | None]


class Board(Protocol):
    """A countdown that is being shown."""

    def show(self, lines: Sequence[Line]) -> None:
        """Show the state of things."""


class Screen(Protocol):
    """Where the demo is shown."""

    def title(self, text: str, below: str) -> None:
        """Begin."""

    def scene(self, text: str) -> None:
        """Begin a part."""

    def says(self, person: str, text: str, timer: int | None) -> None:
        """Somebody writes."""

    def client_says(self, person: str, text: str) -> None:
        """A client tells its user something."""

    def happens(self, text: str) -> None:
        """Something happens to the persons or their machines."""

    def server_sees(self, what: str, xml: str) -> None:
        """Show a stanza as the server saw it."""

    def board(self, timer: int) -> contextlib.AbstractContextManager[Board]:
        """Show a countdown as long as the context lasts."""

    def result(self, *, holds: bool, claim: str, found: str) -> None:
        """Show one check."""

    def verdict(self, *, holds: bool, text: str) -> None:
        """End."""


class PlainScreen:
    """Lines of text, for files and pipes."""

    def title(self, text: str, below: str) -> None:
        self._print(f"{text}\n{below}")

    def scene(self, text: str) -> None:
        self._print(f"\n== {text}")

    def says(self, person: str, text: str, timer: int | None) -> None:
        self._print(f'{person}: "{text}" ({spoken(timer)})')

    def client_says(self, person: str, text: str) -> None:
        self._print(f"  [{person}'s client] {text}")

    def happens(self, text: str) -> None:
        self._print(f"  * {text}")

    def server_sees(self, what: str, xml: str) -> None:
        self._print(f"  What the server saw of {what}:")
        for line in xml.splitlines():
            self._print(f"    {line}")
        self._print(f"  {BLIND}")

    @contextlib.contextmanager
    def board(self, timer: int) -> Iterator[Board]:
        self._print(f"  Every message lives for {timer} seconds after it was read.")
        yield _PlainBoard()

    def result(self, *, holds: bool, claim: str, found: str) -> None:
        self._print(f"{'ok    ' if holds else 'FAILED'} {claim}\n         {found}")

    def verdict(self, *, holds: bool, text: str) -> None:
        self._print(f"\n{'ok' if holds else 'FAILED'}: {text}")

    def _print(self, text: str) -> None:
        print(text, flush=True)


class _PlainBoard:
    """Prints a message's line when a copy of it has come, gone or aged by some seconds."""

    STEP: Final = 4

    def __init__(self) -> None:
        self._shown: dict[str, tuple[int, ...]] = {}

    def show(self, lines: Sequence[Line]) -> None:
        for line in lines:
            state = tuple(self._rank(cell) for cell in line.cells.values())
            if self._shown.get(line.text) != state:
                self._shown[line.text] = state
                copies = [f"{person} {self._word(cell):<13}" for person, cell in line.cells.items()]
                print(f'  {" ".join(copies)} "{line.text}"', flush=True)

    def _rank(self, cell: Cell | None) -> int:
        """Return a number that is another one when there is something to tell."""
        if cell is None:
            return -1
        if cell.left is None:
            return -2
        return -3 if cell.dark else int(cell.left // self.STEP)

    def _word(self, cell: Cell | None) -> str:
        if cell is None:
            return "-"
        if cell.left is None:
            return "disappeared"
        return "killed" if cell.dark else f"{cell.left:.1f} s left"
