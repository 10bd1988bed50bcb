"""What goes between devices: questions, halves of messages, sessions that break, bundles.

And who believes it: a chat that trusts nobody by itself, and an application that reads stanzas on
its own, with the plugin alone.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.fuzz import payloads, words
from tests.fuzz.rooms import happening
from tests.fuzz.sealing import seal
from tests.fuzz.stanzas import encrypted, stanza
from tests.fuzz.steps import answer, case, do, in_room, mail, wrapped
from tests.fuzz.trees import FUZZ, element, mutated

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = [
    "adopted",
    "clear",
    "halves",
    "in_clear",
    "published",
    "questions",
    "sessions",
    "withheld",
]

CARBONS: Final = "{urn:xmpp:carbons:2}"
CLIENT: Final = "{jabber:client}"
EPHEMERAL: Final = "{urn:xmpp:ephemeral:0}"
FORWARD: Final = "{urn:xmpp:forward:0}"

ASKED: Final = "asked"
"""The id of the question that the application asks."""

OWN_DEVICE: Final = f"{words.OWN}/peter"
PEERS_DEVICE: Final = f"{words.PEER}/rosa"

DEEDS: Final = (*("", "save", "restore", "repair", "opt_out", "confirm", "send", "wait", "lose"),)

KEYS: Final = (bytes(32), b"\1" + bytes(31), b"\xff" * 32, bytes(31), bytes(64), b"")
"""Those of a small order, and those that are none."""

PUBLISHED: Final = (
    *(
        f"{MODERN}:bundles",
        f"{MODERN}:bundles",
        f"{MODERN}:devices",
        f"{OLD}.bundles",
        f"{OLD}.devicelist",
        "",
    ),
)
"""Beginnings of nodes."""


def questions(source: Source) -> bytes:
    """Encrypted questions and answers, ours and others'."""
    steps: list[Element] = []
    for _ in range(source.below(3)):
        question = _question(source)
        steps += [question] * source.one((1, 1, 1, 2))
    if not steps or source.chance(2):
        steps += [_reply(source), do("ask", jid=PEERS_DEVICE, id=ASKED)]
    if source.chance(6):
        steps.append(_iq(source, source.one(("result", "error")), ASKED))
    return case(*steps)


def _question(source: Source) -> Element:
    return _iq(source, source.one(("get", "set", "get", "set", "\u00e4")), words.name(source))


def _iq(source: Source, kind: str, iq_id: str) -> Element:
    header = payloads.iq_header(source, kind, iq_id, PEERS_DEVICE, OWN_DEVICE)
    made = element(f"{CLIENT}iq", _sealed(source, header), to=OWN_DEVICE, type=kind, id=iq_id)
    made.set("from", words.address(source) if source.chance(8) else PEERS_DEVICE)
    return mutated(source, made) if source.chance(6) else made


def _sealed(source: Source, header: Element) -> Element:
    if source.chance(12):
        return encrypted(source)
    data = payloads.payload(source, words.OWN, header)
    by = source.one(("rosa", "rosa", "rosa", "rosa", "rosa", "rosa", "second", "clara"))
    return seal(source, data, by=by, namespace=OLD if source.chance(12) else MODERN)


def _reply(source: Source) -> Element:
    kind = source.one(("result", "result", "error"))
    header = payloads.iq_header(source, kind, ASKED, PEERS_DEVICE, OWN_DEVICE)
    children = [_sealed(source, header)]
    if kind == "error" or source.chance(6):
        children.append(element(f"{CLIENT}error", type=words.text(source)))
    made = element(f"{FUZZ}answer", *children, to="question", type=kind)
    return mutated(source, made) if source.chance(6) else made


def halves(source: Source) -> bytes:
    """Messages in two kinds of OMEMO, in one stanza or in two, of which one may be for others."""
    return case(*_halves(source))


def _halves(source: Source) -> list[Element]:
    name = source.one(("h1", f"n{source.below(65536)}", ""))
    steps: list[Element] = []
    for _ in range(1 + source.below(3)):
        made = element(f"{CLIENT}message", id=name, to=OWN_DEVICE)
        made.set("from", f"{words.ROOM}/rosa" if source.chance(4) else PEERS_DEVICE)
        made.set("type", source.one(("chat", "chat", "groupchat", "error", "")))
        made.extend(_half(source) for _ in range(1 + source.below(2)))
        if source.chance(3):
            made.append(element(f"{CLIENT}body", text=words.text(source)))
        steps.append(mutated(source, made) if source.chance(8) else made)
    if source.chance(2):
        steps.append(do("wait", seconds=source.one(("1", "2", "400"))))
    return steps


def _half(source: Source) -> Element:
    if source.chance(3):
        return encrypted(source)
    if source.chance(2):
        return seal(source, payloads.legacy(source), by="rosa", namespace=OLD)
    return seal(source, payloads.payload(source, words.OWN), by="rosa")


def sessions(source: Source) -> bytes:
    """Sessions out of step, asked to be mended; opt-outs, and what is sent in spite of them."""
    return case(*_sessions(source))


def _sessions(source: Source) -> list[Element]:
    steps: list[Element] = []
    for _ in range(1 + source.below(5)):
        steps.append(mail(source, "rosa", words.OWN))
        deed = source.one(DEEDS)
        steps.append(do(deed, by="rosa", jid=words.PEER, seconds=words.number(source)))
    return steps


def withheld(source: Source) -> bytes:
    """Messages of devices that nobody has decided on, and decisions."""
    steps: list[Element] = []
    for _ in range(1 + source.below(5)):
        way = source.one((_live, _live, in_room, _copied, _question))
        steps.append(way(source))
        if source.chance(2):
            level = source.one(("trusted", "distrusted", "undecided", "undecided", "\u00e4"))
            jid = source.one((words.PEER, words.PEER, words.OWN))
            steps.append(do("trust", jid=jid, level=level))
        elif source.chance(3):
            deed = source.one(("send", "wait", "session", "repair", "ask", "confirm"))
            steps.append(do(deed, jid=words.PEER, seconds=words.number(source)))
    return case(*steps, scene="wary")


def _live(source: Source) -> Element:
    return mail(source, "rosa", words.OWN)


def _copied(source: Source) -> Element:
    made = mail(source, "second", words.PEER, sender=f"{words.OWN}/second", receiver=words.PEER)
    return wrapped(source, element(f"{CARBONS}sent", element(f"{FORWARD}forwarded", made)))


def published(source: Source) -> bytes:
    """True lists and bundles with something wrong in them, downloaded or told of."""
    steps = [_published(source) for _ in range(1 + source.below(2))]
    jid = source.one((words.PEER, words.PEER, words.OWN, f"m{source.below(64)}@example.net"))
    if not source.chance(4):
        steps.append(do("lose", jid=jid))
    deed = source.one(("lists", "send", "send", "repair", "devices", "session"))
    return case(*steps, do(deed, jid=jid), scene=source.one(("", "wary", "adopted")))


def _published(source: Source) -> Element:
    held = element(f"{FUZZ}published", by=source.one(("rosa", "rosa", "second", "clara")))
    held.set("of", source.one(PUBLISHED))
    if source.chance(3):
        held.set("spoiled", source.take(24).hex())
    else:
        held.set("at", str(source.below(6)))
        held.set("key", base64.b64encode(source.one((*KEYS, source.take(64)))).decode())
    return answer(source, source.one(("bundle", "bundle", "devices")), held)


def clear(source: Source) -> bytes:
    """Timers in clear, on messages, copies and in rooms."""
    made = [in_clear(source) for _ in range(1 + source.below(4))]
    deed = do(source.one(("", "echo", "session", "timer", "join")), jid=words.PEER)
    return case(*made, deed, scene=source.one(("", "adopted")))


def in_clear(source: Source) -> Element:
    """A message that is not encrypted, with timers and what looks like them."""
    made = element(f"{CLIENT}message", id=words.name(source), to=OWN_DEVICE)
    made.set("from", source.one((PEERS_DEVICE, f"{words.ROOM}/rosa", words.address(source))))
    made.set("type", source.one(("chat", "groupchat", "normal", "headline", "error")))
    made.extend(source.one(MARKS)(source) for _ in range(1 + source.below(4)))
    changed = mutated(source, made) if source.chance(6) else made
    if not source.chance(3):
        return changed
    kind = source.one(("sent", "received"))
    return wrapped(source, element(f"{CARBONS}{kind}", element(f"{FORWARD}forwarded", changed)))


def _timer(source: Source) -> Element:
    return element(f"{EPHEMERAL}ephemeral", timer=words.number(source))


def _opt_out(source: Source) -> Element:
    return element(f"{source.one((EPHEMERAL, CLIENT, '{x}', ''))}i-want-out")


def _body(source: Source) -> Element:
    text = source.one(("?OTR:x", words.text(source), words.text(source)))
    return element(f"{CLIENT}body", text=text)


def _sign(source: Source) -> Element:
    """What says that a message is encrypted."""
    tags = ("{urn:xmpp:eme:0}encryption", "{urn:xmpp:openpgp:0}openpgp", "{x}encrypted")
    return element(source.one(tags))


MARKS: Final = (_timer, _timer, _body, _body, _opt_out, _sign)


def adopted(source: Source) -> bytes:
    """Everything at an application that reads with the plugin alone."""
    steps: list[Element] = [do("echo")] if source.chance(3) else []
    for _ in range(1 + source.below(3)):
        step = source.one((stanza, happening, _live, _live, in_room, _copied, in_clear))
        more = source.one((None, None, _halves, _sessions))
        steps += [step(source)] if more is None else more(source)
    deed = source.one(("send", "send", "lists", "session", "devices"))
    jid = source.one((words.PEER, words.ROOM, words.OWN))
    return case(*steps, do(deed, jid=jid), scene="adopted")
