"""Cases for a scene: what arrives over the stream, and what servers answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.fuzz import payloads, words
from tests.fuzz.sealing import seal
from tests.fuzz.stanzas import CHILDREN, PUBSUB, delay, fin, items, result, stanza
from tests.fuzz.trees import FUZZ, element, mutated, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = ["STAGED"]

CARBONS: Final = "{urn:xmpp:carbons:2}"
CLIENT: Final = "{jabber:client}"
FORWARD: Final = "{urn:xmpp:forward:0}"
MAM: Final = "{urn:xmpp:mam:2}"
STANZAS: Final = "{urn:ietf:params:xml:ns:xmpp-stanzas}"

CONDITIONS: Final = ("item-not-found", "forbidden", "service-unavailable", "conflict", "x")


def case(*steps: Element) -> bytes:
    """The material of some steps."""
    return written(element(f"{FUZZ}case", *steps))


def _stanzas(source: Source) -> bytes:
    """Anything that a server can hand over."""
    return case(*(stanza(source) for _ in range(1 + source.below(3))))


def _sealed(source: Source) -> bytes:
    """Messages that open, by a peer or another device of ours, on every way; whatever is inside."""
    return case(*(_letter(source) for _ in range(1 + source.below(2))))


def _letter(source: Source) -> Element:
    way = source.one((_live, _live, _carbon, _archived, _in_room, _sent, _sent))
    return way(source)


def _mail(source: Source, by: str, to: str, *, sender: str = "", receiver: str = "") -> Element:
    old = source.chance(6)
    data = payloads.legacy(source) if old else payloads.payload(source, to)
    made = element(f"{CLIENT}message", id=words.name(source), to=receiver or f"{words.OWN}/peter")
    made.set("from", sender or f"{words.PEER}/rosa")
    made.append(seal(source, data, by=by, namespace=OLD if old else MODERN))
    for _ in range(source.below(3)):
        made.append(source.one(CHILDREN)(source))
    return mutated(source, made) if source.chance(8) else made


def _live(source: Source) -> Element:
    return _mail(source, "rosa", words.OWN)


def _carbon(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", _mail(source, "rosa", words.OWN))
    return _wrapped(source, element(f"{CARBONS}received", inside))


def _sent(source: Source) -> Element:
    """A copy of what our second device has sent to somebody, or to ourselves."""
    to = words.OWN if source.chance(3) else words.PEER
    mail = _mail(source, "second", to, sender=f"{words.OWN}/second", receiver=to)
    return _wrapped(source, element(f"{CARBONS}sent", element(f"{FORWARD}forwarded", mail)))


def _archived(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", delay(source), _mail(source, "rosa", words.OWN))
    query = words.name(source)
    return _wrapped(source, element(f"{MAM}result", inside, queryid=query, id=words.name(source)))


def _in_room(source: Source) -> Element:
    made = _mail(source, "rosa", words.ROOM, sender=f"{words.ROOM}/rosa")
    made.set("type", "groupchat")
    return made


def _wrapped(source: Source, child: Element) -> Element:
    made = element(f"{CLIENT}message", child, to=f"{words.OWN}/peter")
    made.set("from", words.OWN)
    return mutated(source, made) if source.chance(8) else made


def _lists(source: Source) -> bytes:
    """Device lists and bundles: told of, and downloaded before something is sent."""
    steps = []
    for _ in range(source.below(3)):
        event = element("{http://jabber.org/protocol/pubsub#event}event", items(source, EVENT))
        told = element(f"{CLIENT}message", event, to=words.OWN)
        told.set("from", source.one((words.PEER, words.OWN, words.address(source))))
        steps.append(mutated(source, told))
    steps += [
        _answer(source, kind, element(f"{PUBSUB}pubsub", items(source, PUBSUB)))
        for kind in ("devices", "bundle")
        if source.chance(2)
    ]
    deed = source.one(("", "lists", "send", "capabilities"))
    return case(*steps, _do(deed, jid=source.one(STRANGERS)))


def _archive(source: Source) -> bytes:
    """Pages of archives, our own account's and a room's."""
    results = [_told(source, result(source, "?")) for _ in range(source.below(5))]
    if source.chance(2):
        results += [_told(source, _in_archive(source)) for _ in range(source.below(4))]
    for each in results:
        each.set("from", words.address(source) if source.chance(4) else words.OWN)
    answer = _answer(source, "archive", *results, _fin(source))
    deed = source.one((_do("session"), _do("session"), _do("page", jid=words.ROOM)))
    return case(answer, deed)


def _in_archive(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", delay(source), _mail(source, "rosa", words.OWN))
    return element(f"{MAM}result", inside, queryid="?", id=words.name(source))


def _told(source: Source, child: Element) -> Element:
    made = element(f"{CLIENT}message", child, to=words.OWN)
    return mutated(source, made) if source.chance(4) else made


def _fin(source: Source) -> Element:
    page = element("{http://jabber.org/protocol/rsm}set")
    for tag, make in (("count", words.number), ("first", words.name), ("last", words.name)):
        if source.chance(2):
            page.append(element(f"{{http://jabber.org/protocol/rsm}}{tag}", text=make(source)))
    made = fin(source)
    made.append(page)
    return mutated(source, made) if source.chance(4) else made


def _answers(source: Source) -> bytes:
    """What a server says when it is asked for the time, for copies, for what was displayed."""
    kind, deed = source.one(QUESTIONS)
    children = [source.one(CHILDREN)(source) for _ in range(source.below(3))]
    if kind == "time":
        utc = element("{urn:xmpp:time}utc", text=words.stamp(source))
        children.append(element("{urn:xmpp:time}time", utc))
    elif kind in ("displayed", "any"):
        children.append(element(f"{PUBSUB}pubsub", items(source, PUBSUB)))
    return case(_answer(source, kind, *children), _do(deed, id=words.name(source)))


def _answer(source: Source, kind: str, *children: Element) -> Element:
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


def _do(what: str, **attributes: str) -> Element:
    return element(f"{FUZZ}do", what=what, **attributes)


EVENT: Final = "{http://jabber.org/protocol/pubsub#event}"

STRANGERS: Final = tuple(f"m{number}@example.net" for number in range(64))
"""Whose lists are wrong: many, since what is known of one is not asked for again."""

QUESTIONS: Final = (
    *(("time", "time"), ("carbons", "session"), ("displayed", "fetch"), ("displayed", "session")),
    *(("any", "publish"), ("any", "session"), ("any", "fetch"), ("any", "time")),
)
"""Kinds of questions, and what makes somebody ask them."""

STAGED: Final[dict[str, Callable[[Source], bytes]]] = {
    "stanzas": _stanzas,
    "sealed": _sealed,
    "lists": _lists,
    "archive": _archive,
    "answers": _answers,
}
"""By name: what makes a case of bytes."""
