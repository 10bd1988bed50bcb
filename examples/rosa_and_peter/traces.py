"""Looking for texts, and for anything else, in bytes."""

import base64
import json
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape, quoteattr

PIECE: Final = 12
"""Bytes: a piece of a text so long is a find, wherever it stands. Shorter ones occur by chance."""


class Broken(Exception):
    """Something that must be true is not. The text says what, but never a text that was found."""


def require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 -- it reads as a sentence
    """Go on only if it is true.

    Raises:
        Broken: it is not.
    """
    if not condition:
        raise Broken(otherwise)


def forms(text: str) -> Iterator[tuple[str, bytes]]:
    """Return the forms in which a text might stand somewhere, each with its name."""
    plain = text.encode()
    yield "UTF-8", plain
    yield "UTF-16-LE", text.encode("utf-16-le")
    yield "UTF-16-BE", text.encode("utf-16-be")
    yield "hexadecimal", plain.hex().encode()
    yield "XML", escape(text).encode()
    yield "an XML attribute", quoteattr(text, {"'": "&apos;"})[1:-1].encode()
    yield "JSON", json.dumps(text)[1:-1].encode()
    for encoding in ("utf-8", "utf-16-le"):
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + text.encode(encoding))
            # The ends depend on what stands around the text.
            yield f"base64 of {encoding}", encoded[4 if shift else 0 : -4]


def traces(data: bytes, texts: list[str]) -> list[str]:
    """Return which of the texts stand in the data, whole or in pieces: the form, and where."""
    found = (_trace(data, number, text) for number, text in enumerate(texts, 1))
    return [trace for trace in found if trace]


def _trace(data: bytes, number: int, text: str) -> str:
    for name, form in forms(text):
        for start in range(max(1, len(form) - PIECE + 1)):
            place = data.find(form[start : start + PIECE])
            if place >= 0:
                return f"text {number} as {name} at byte {place}"
    return ""
