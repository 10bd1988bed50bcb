"""What the application of a scene answers to encrypted questions, and must never say in clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element

from eph_e2ee import Refusal

if TYPE_CHECKING:
    from eph_e2ee import Question

__all__ = ["QUESTION", "SECRET", "answered"]

QUESTION: Final = "{urn:example:software}query"
"""The payload that is answered, and asked."""

SECRET: Final = "tea timer 1.0, for the two of us"
"""Nothing that leaves may hold it in clear."""


async def answered(question: Question) -> Element | Refusal | None:
    """An answer, an error or nothing, depending on what is asked; sometimes it fails."""
    kind = len(question.element.get("id", "")) % 4
    if kind == 0:
        answer = Element(QUESTION)
        answer.text = SECRET
        return answer
    if kind == 1:
        return Refusal("forbidden", text=SECRET)
    if kind == 2:
        raise ValueError(SECRET)
    return None
