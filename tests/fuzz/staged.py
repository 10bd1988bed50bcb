"""Cases for a scene: what arrives over the stream, and what servers answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.fuzz import words
from tests.fuzz.rooms import rooms
from tests.fuzz.sessions import adopted, clear, halves, published, questions, sessions, withheld
from tests.fuzz.stanzas import CHILDREN, PUBSUB, delay, fin, items, result, stanza
from tests.fuzz.steps import answer, case, do, in_room, mail, told, wrapped
from tests.fuzz.trees import element, mutated

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = ["STAGED"]

CARBONS: Final = "{urn:xmpp:carbons:2}"
CLIENT: Final = "{jabber:client}"
FORWARD: Final = "{urn:xmpp:forward:0}"
MAM: Final = "{urn:xmpp:mam:2}"


def _stanzas(source: Source) -> bytes:
    """Anything that a server can hand over."""
    return case(*(stanza(source) for _ in range(1 + source.below(3))))


def _sealed(source: Source) -> bytes:
    """Messages that open, by a peer or another device of ours, on every way; whatever is inside."""
    return case(*(_letter(source) for _ in range(1 + source.below(2))))


def _letter(source: Source) -> Element:
    way = source.one((_live, _live, _carbon, _archived, in_room, _sent, _sent))
    return way(source)


def _live(source: Source) -> Element:
    return mail(source, "rosa", words.OWN)


def _carbon(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", mail(source, "rosa", words.OWN))
    return wrapped(source, element(f"{CARBONS}received", inside))


def _sent(source: Source) -> Element:
    """A copy of what our second device has sent to somebody, or to ourselves."""
    to = words.OWN if source.chance(3) else words.PEER
    made = mail(source, "second", to, sender=f"{words.OWN}/second", receiver=to)
    return wrapped(source, element(f"{CARBONS}sent", element(f"{FORWARD}forwarded", made)))


def _archived(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", delay(source), mail(source, "rosa", words.OWN))
    query = words.name(source)
    return wrapped(source, element(f"{MAM}result", inside, queryid=query, id=words.name(source)))


def _lists(source: Source) -> bytes:
    """Device lists and bundles: told of, and downloaded before something is sent."""
    steps = []
    for _ in range(source.below(3)):
        event = element("{http://jabber.org/protocol/pubsub#event}event", items(source, EVENT))
        news = element(f"{CLIENT}message", event, to=words.OWN)
        news.set("from", source.one((words.PEER, words.OWN, words.address(source))))
        steps.append(mutated(source, news))
    steps += [
        answer(source, kind, element(f"{PUBSUB}pubsub", items(source, PUBSUB)))
        for kind in ("devices", "bundle")
        if source.chance(2)
    ]
    deed = source.one(("", "lists", "send", "capabilities"))
    return case(*steps, do(deed, jid=source.one(STRANGERS)))


def _archive(source: Source) -> bytes:
    """Pages of archives, our own account's and a room's."""
    results = [told(source, result(source, "?")) for _ in range(source.below(5))]
    if source.chance(2):
        results += [told(source, _in_archive(source)) for _ in range(source.below(4))]
    for each in results:
        each.set("from", words.address(source) if source.chance(4) else words.OWN)
    page = answer(source, "archive", *results, _fin(source))
    deed = source.one((do("session"), do("session"), do("page", jid=words.ROOM)))
    return case(page, deed)


def _in_archive(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", delay(source), mail(source, "rosa", words.OWN))
    return element(f"{MAM}result", inside, queryid="?", id=words.name(source))


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
    return case(answer(source, kind, *children), do(deed, id=words.name(source)))


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
    "rooms": rooms,
    "questions": questions,
    "sessions": sessions,
    "halves": halves,
    "withheld": withheld,
    "published": published,
    "clear": clear,
    "adopted": adopted,
}
"""By name: what makes a case of bytes."""
