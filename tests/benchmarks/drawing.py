"""Curves over powers of ten, as a picture in SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Curve", "picture"]

WIDTH: Final = 360
HEIGHT: Final = 240
LEFT: Final = 64
RIGHT: Final = 40
TOP: Final = 36
BOTTOM: Final = 40
COLUMNS: Final = 2

STYLE: Final = """
text { font: 12px sans-serif; fill: #1b1b1b; }
.title { font-weight: bold; }
.grid { stroke: #d7d7d7; }
.curve { fill: none; stroke: #0b5fa5; stroke-width: 2; }
.point { fill: #0b5fa5; }
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one number does as another grows; both axes are logarithmic.

    Attributes:
        title: what it is, with its unit.
        points: pairs of positive numbers, by the first.
    """

    title: str
    points: Sequence[tuple[float, float]]


def picture(curves: Sequence[Curve], caption: str) -> str:
    """Return an SVG document with a panel for each curve."""
    rows = -(-len(curves) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 24
    panels = [
        f'<g transform="translate({index % COLUMNS * WIDTH} {index // COLUMNS * HEIGHT})">'
        f"{_panel(curve)}</g>"
        for index, curve in enumerate(curves)
    ]
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(caption)}</title><style>{STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *panels,
            f'<text x="{LEFT}" y="{height - 8}">{escape(caption)}</text>',
            "</svg>\n",
        ]
    )


def _panel(curve: Curve) -> str:
    across = _decades([x for x, _ in curve.points])
    up = _decades([y for _, y in curve.points])
    places = [
        (_place(x, across, LEFT, WIDTH - RIGHT), _place(y, up, HEIGHT - BOTTOM, TOP))
        for x, y in curve.points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return "".join(
        [
            f'<text class="title" x="{LEFT}" y="{TOP - 14}">{escape(curve.title)}</text>',
            *(_upright(power, across) for power in range(across[0], across[1] + 1)),
            *(_level(power, up) for power in range(up[0], up[1] + 1)),
            f'<polyline class="curve" points="{line}"/>',
            *(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places),
        ]
    )


def _upright(power: int, decades: tuple[int, int]) -> str:
    x = _place(10.0**power, decades, LEFT, WIDTH - RIGHT)
    return (
        f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_named(power)}</text>'
    )


def _level(power: int, decades: tuple[int, int]) -> str:
    y = _place(10.0**power, decades, HEIGHT - BOTTOM, TOP)
    return (
        f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_named(power)}</text>'
    )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around some values, at least one decade apart."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _place(value: float, decades: tuple[int, int], start: float, end: float) -> float:
    low, high = decades
    return start + (math.log10(value) - low) / (high - low) * (end - start)


def _named(power: int) -> str:
    return f"{10**power:,}" if 0 <= power <= 6 else f"{10.0**power:g}"
