"""Steps of cases that more than one target makes: mail that opens, answers, deeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.fuzz import payloads, words
from tests.fuzz.sealing import seal
from tests.fuzz.stanzas import CHILDREN
from tests.fuzz.trees import FUZZ, element, mutated, written

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = ["answer", "case", "do", "in_room", "mail", "told", "wrapped"]

CLIENT: Final = "{jabber:client}"
STANZAS: Final = "{urn:ietf:params:xml:ns:xmpp-stanzas}"

CONDITIONS: Final = ("item-not-found", "forbidden", "service-unavailable", "conflict", "x")


def case(*steps: Element, scene: str = "") -> bytes:
    """The material of some steps; in a scene of that name."""
    made = element(f"{FUZZ}case", *steps)
    if scene:
        made.set("scene", scene)
    return written(made)


def mail(source: Source, by: str, to: str, *, sender: str = "", receiver: str = "") -> Element:
    """A message that opens, whatever is inside."""
    old = source.chance(6)
    data = payloads.legacy(source) if old else payloads.payload(source, to)
    made = element(f"{CLIENT}message", id=words.name(source), to=receiver or f"{words.OWN}/peter")
    made.set("from", sender or f"{words.PEER}/rosa")
    made.append(seal(source, data, by=by, namespace=OLD if old else MODERN))
    for _ in range(source.below(3)):
        made.append(source.one(CHILDREN)(source))
    return mutated(source, made) if source.chance(8) else made


def in_room(source: Source) -> Element:
    """One that comes through a room."""
    made = mail(source, "rosa", words.ROOM, sender=f"{words.ROOM}/rosa")
    made.set("type", "groupchat")
    return made


def wrapped(source: Source, child: Element) -> Element:
    """A message of our own server's around something."""
    made = element(f"{CLIENT}message", child, to=f"{words.OWN}/peter")
    made.set("from", words.OWN)
    return mutated(source, made) if source.chance(8) else made


def told(source: Source, child: Element) -> Element:
    """A message around something."""
    made = element(f"{CLIENT}message", child, to=words.OWN)
    return mutated(source, made) if source.chance(4) else made


def answer(source: Source, kind: str, *children: Element) -> Element:
    """An answer, an error instead of one, or one that is neither."""
    made = element(f"{FUZZ}answer", *children, to=kind)
    if source.chance(5):
        condition = element(f"{STANZAS}{source.one(CONDITIONS)}")
        error = element(f"{CLIENT}error", condition, type=words.text(source))
        made = element(f"{FUZZ}answer", error, to=kind, type="error")
    if source.chance(12):
        made.set("type", source.one(("error", "result", "set", "\u00e4")))
    if source.chance(12):
        made.set(source.one(("from", "id")), words.address(source))
    return mutated(source, made) if source.chance(3) else made


def do(what: str, **attributes: str) -> Element:
    """Something that the application does."""
    return element(f"{FUZZ}do", what=what, **attributes)
