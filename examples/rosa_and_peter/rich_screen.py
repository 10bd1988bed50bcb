"""The demo in a terminal, in colour."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.align import Align
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from examples.rosa_and_peter.evidence import spoken
from examples.rosa_and_peter.screen import BLIND, Board, Cell, Line

COLOURS: Final = {"Rosa": "magenta", "Peter": "cyan"}
TOMBSTONE: Final = "This message has disappeared."
WIDTH: Final = 100
"""Columns: wider, the two sides of the conversation would stand too far apart."""

BAR: Final = 10
URGENT: Final = 0.34
"""The part of a life below which the bar turns red."""


class RichScreen:
    """A terminal: Rosa writes on the left, Peter on the right."""

    def __init__(self, console: Console | None = None) -> None:
        console = Console(highlight=False) if console is None else console
        console.width = min(console.width, WIDTH)
        self._console = console

    def title(self, text: str, below: str) -> None:
        words = Group(Text(text, "bold", justify="center"), Text(below, "dim", justify="center"))
        self._console.print(Panel(words, box=box.DOUBLE, padding=(1, 2)))

    def scene(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(Text(text, "bold yellow"), align="left", style="yellow"))

    def says(self, person: str, text: str, timer: int | None) -> None:
        mark = Text("stays" if timer is None else f"disappears after {spoken(timer)}", "dim")
        colour = COLOURS[person]
        bubble = Panel(
            Text(text),
            box=box.ROUNDED,
            border_style=colour,
            title=Text(person, f"bold {colour}"),
            title_align="left",
            subtitle=mark,
            subtitle_align="right",
            width=min(max(len(text), len(mark) + 2, 24) + 4, WIDTH * 3 // 4),
        )
        self._console.print(Align(bubble, "right" if person == "Peter" else "left"))

    def client_says(self, person: str, text: str) -> None:
        words = Text.assemble((f"{person}'s client  ", COLOURS[person]), (text, "italic"))
        self._console.print(Align(words, "right" if person == "Peter" else "left"))

    def happens(self, text: str) -> None:
        self._console.print(Text(f"── {text} ──", "bold"), justify="center")

    def server_sees(self, what: str, xml: str) -> None:
        shown = Syntax(xml, "xml", theme="ansi_dark", background_color="default", word_wrap=True)
        panel = Panel(
            shown,
            box=box.SQUARE,
            border_style="blue",
            title=Text(f"what the server saw of {what}", "blue"),
            title_align="left",
        )
        self._console.print(Padding(panel, (0, 3)))
        self._console.print(Text(BLIND, "dim italic"), justify="center")

    @contextlib.contextmanager
    def board(self, timer: int) -> Iterator[Board]:
        with Live(console=self._console, refresh_per_second=8, transient=False) as live:
            yield _RichBoard(live, timer)

    def result(self, *, holds: bool, claim: str, found: str) -> None:
        mark = ("  ok    ", "bold green") if holds else ("  FAILED", "bold white on red")
        self._console.print(Text.assemble(mark, "  ", claim))
        self._console.print(Padding(Text(found, "dim" if holds else "red"), (0, 0, 0, 10)))

    def verdict(self, *, holds: bool, text: str) -> None:
        style = "bold green" if holds else "bold red"
        self._console.print()
        self._console.print(Panel(Text(text, style, justify="center"), border_style=style))


class _RichBoard:
    """A table of what is left of each copy."""

    def __init__(self, live: Live, timer: int) -> None:
        self._live = live
        self._timer = timer

    def show(self, lines: Sequence[Line]) -> None:
        people = list(COLOURS)
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        table.add_column("message", ratio=1)
        for person in people:
            table.add_column(Text(f"at {person}'s", COLOURS[person]), width=BAR + 10)
        for line in lines:
            copies = [line.cells.get(person) for person in people]
            table.add_row(_text(line), *(self._bar(cell) for cell in copies))
        self._live.update(table)

    def _bar(self, cell: Cell | None) -> RenderableType:
        if cell is None:
            return Text("not there yet", "dim")
        if cell.left is None:
            return Text("disappeared", "dim")
        if cell.dark:
            return Text("its client is killed", "red")
        part = min(1.0, max(0.0, cell.left / self._timer))
        full = round(part * BAR)
        colour = "red" if part < URGENT else "green"
        return Text.assemble(
            ("█" * full, colour), ("░" * (BAR - full), "dim"), f" {max(cell.left, 0):4.1f} s"
        )


def _text(line: Line) -> Text:
    """Return the text, or the tombstone once no copy of it is left."""
    copies = [cell for cell in line.cells.values() if cell is not None]
    if copies and all(cell.left is None for cell in copies):
        return Text(TOMBSTONE, "dim italic")
    return Text.assemble((f"{line.author}  ", COLOURS[line.author]), line.text)
