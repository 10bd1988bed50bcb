"""Rooms: who is in them, what they say of themselves and their members, what is said there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.fuzz import words
from tests.fuzz.stanzas import delay
from tests.fuzz.steps import answer, case, do, in_room, told
from tests.fuzz.trees import element, mutated

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = ["happening", "rooms"]

ADMIN: Final = "{http://jabber.org/protocol/muc#admin}"
CLIENT: Final = "{jabber:client}"
FORWARD: Final = "{urn:xmpp:forward:0}"
INFO: Final = "{http://jabber.org/protocol/disco#info}"
MAM: Final = "{urn:xmpp:mam:2}"
USER: Final = "{http://jabber.org/protocol/muc#user}"

CODES: Final = ("110", "100", "172", "173", "174", "104", "303", "201", "307", "", "\u0661")
AFFILIATIONS: Final = ("member", "owner", "admin", "none", "outcast", "", "\u00e4")


def rooms(source: Source) -> bytes:
    """A room that behaves as it likes, and an application that writes to it."""
    steps = [happening(source) for _ in range(1 + source.below(5))]
    if source.chance(2):
        steps.insert(0, answer(source, "members", _list(source)))
    if source.chance(3):
        steps.insert(0, answer(source, "disco", _features(source)))
    if source.chance(3):
        steps.append(answer(source, "archive", *(_archived(source, "?") for _ in range(4)), _end()))
        steps.append(do("page", jid=words.ROOM))
    deed = source.one(("send", "send", "echo", "join", "session", "page", "leave"))
    return case(*steps, do(deed, jid=words.ROOM))


def happening(source: Source) -> Element:
    """Something that a room sends."""
    ways = (_presence, _presence, _status, _affiliations, _said, _archived, _joined, _sent)
    return source.one(ways)(source)


def _presence(source: Source) -> Element:
    made = element(f"{CLIENT}presence", _user(source), to=f"{words.OWN}/peter")
    nick = source.one(("rosa", "peter", "nobody", f"n{source.below(65536)}", "", "\u00a0"))
    made.set("from", f"{words.ROOM}/{nick}")
    if source.chance(4):
        made.set("type", source.one(("unavailable", "error", "", "\u00e4")))
    for _ in range(source.below(3)):
        made.append(_occupant(source))
    return mutated(source, made) if source.chance(4) else made


def _status(source: Source) -> Element:
    """What a room says of its configuration."""
    return _of_room(source, _user(source, items=0))


def _affiliations(source: Source) -> Element:
    """What it says of somebody who is not there."""
    return _of_room(source, _user(source, items=words.count(source)))


def _of_room(source: Source, child: Element) -> Element:
    made = element(f"{CLIENT}message", child, to=f"{words.OWN}/peter", type="groupchat")
    made.set("from", words.ROOM)
    if source.chance(4):
        made.append(_occupant(source))
    return mutated(source, made) if source.chance(6) else made


def _said(source: Source) -> Element:
    """A message that opens, perhaps an old one."""
    made = in_room(source)
    made.extend(source.one((_occupant, _user, _late))(source) for _ in range(source.below(4)))
    return made


def _archived(source: Source, query: str = "") -> Element:
    made = element(f"{FORWARD}forwarded", delay(source), _said(source))
    named = query or words.name(source)
    result = element(f"{MAM}result", made, queryid=named, id=words.name(source))
    message = told(source, result)
    message.set("from", words.ROOM)
    return message


def _end() -> Element:
    return element(f"{MAM}fin", complete="true")


def _joined(_: Source) -> Element:
    return do("join")


def _sent(source: Source) -> Element:
    """What we have sent to it comes back."""
    return do("echo", spoiled=source.take(12).hex())


def _late(source: Source) -> Element:
    made = delay(source)
    made.set("from", words.ROOM)
    return made


def _user(source: Source, items: int = 1) -> Element:
    made = element(f"{USER}x", *(_item(source) for _ in range(items)))
    made.extend(element(f"{USER}status", code=source.one(CODES)) for _ in range(source.below(4)))
    return made


def _item(source: Source, namespace: str = USER) -> Element:
    made = element(f"{namespace}item", affiliation=source.one(AFFILIATIONS))
    if not source.chance(6):
        made.set("jid", source.one((words.PEER, words.OWN, words.address(source))))
    made.set("role", source.one(("participant", "moderator", "none", "")))
    return made


def _occupant(source: Source) -> Element:
    named = source.one(("o1", "o2", words.name(source)))
    return element("{urn:xmpp:occupant-id:0}occupant-id", id=named)


def _list(source: Source) -> Element:
    made = [_item(source, ADMIN) for _ in range(words.count(source))]
    return element(f"{ADMIN}query", *made)


def _features(source: Source) -> Element:
    names = ("muc_nonanonymous", "muc_semianonymous", words.text(source))
    made = [element(f"{INFO}feature", var=source.one(names)) for _ in range(source.below(4))]
    return element(f"{INFO}query", *made)
