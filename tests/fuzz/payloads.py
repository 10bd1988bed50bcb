"""What a peer encrypts: envelopes, and what is none, down to bytes that are no XML at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import tostring

from tests.fuzz import words
from tests.fuzz.trees import bloated, element, expanded, mutated
from tests.protocol.test_vectors import NAMES, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = ["content", "iq_header", "legacy", "payload", "scrambled"]

AGREEMENT: Final = "{eph-e2ee:agreement:0}"
CLIENT: Final = "{jabber:client}"
MARKERS: Final = "{urn:xmpp:chat-markers:0}"
OMEMO: Final = "{urn:xmpp:omemo:2}"
QUERY: Final = "{urn:example:software}"
READ: Final = "{eph-e2ee:read:0}"
RECEIPTS: Final = "{urn:xmpp:receipts}"
SCE: Final = "{urn:xmpp:sce:1}"
STANZAS: Final = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
STATES: Final = "{http://jabber.org/protocol/chatstates}"
TRUST: Final = "{urn:xmpp:tm:1}"

VECTORS: Final = tuple(vector.data for vector in map(load, NAMES) if len(vector.data) < 4096)
"""Known ones, right and wrong."""

TOKENS: Final = (
    *(b"\0", b"<!DOCTYPE a>", b"<!-- -->", b"<?x?>", b"<a>", b"</a>", b"]]>", b"&lt;", b"&x;"),
    *(b"<![CDATA[x]]>", b"&#0;", b"&#xD800;", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"'"),
    *(b"xmlns:p='u'", b" xmlns=''", b"<?xml version='1.1'?>", b"<p:x/>", b"\xc0\x80", b"\xf4\x90"),
    *(b"<!ENTITY a 'b'>", b" id='x' id='y'", b"\xe2\x80\xae", b"timer='", b"xml:lang='x'"),
)


def payload(source: Source, to: str, header: Element | None = None) -> bytes:
    """The plaintext of an omemo:2 stanza to an account; mostly an envelope that can be read.

    With `header`, which an affix is, it is an IQ's: as a rule one that has one payload.
    """
    if source.chance(24):
        return source.take(255)
    if source.chance(24):
        return scrambled(source, source.one(VECTORS))
    inside = content(source) if header is None or source.chance(6) else _answer(source)
    envelope = element(f"{SCE}envelope", element(f"{SCE}content", *inside))
    envelope.extend(_affixes(source, to))
    if header is not None:
        envelope[2].set("stamp", words.NOW)
        envelope.extend([header] * source.one((1, 1, 1, 1, 1, 0, 2)))
    # Changed more often than not, the outermost addresses would be the only thing looked at.
    if source.chance(2):
        mutated(source, envelope)
    data = _text(expanded(envelope))
    return scrambled(source, data) if source.chance(6) else data


def iq_header(source: Source, kind: str, iq_id: str, sender: str, recipient: str) -> Element:
    """The affix that names the IQ that an envelope is made for; mostly the right one."""
    made = element("{eph-e2ee:iq:0}iq", type=kind, id=iq_id, to=recipient)
    made.set("from", sender)
    return mutated(source, made) if source.chance(6) else made


def legacy(source: Source) -> bytes:
    """The plaintext of a message in legacy OMEMO."""
    if source.chance(4):
        return source.take(255)
    return scrambled(source, words.text(source).encode("utf-8", "replace"))


def content(source: Source) -> list[Element]:
    """What stands inside of an envelope."""
    return [source.one(ELEMENTS)(source) for _ in range(source.below(6))]


def scrambled(source: Source, data: bytes) -> bytes:
    """The same bytes with some of them changed, left out, repeated or put in."""
    for _ in range(source.below(4)):
        at = source.below(65536) % (len(data) + 1)
        change = source.below(4)
        if change == 0:
            data = data[:at] + source.one(TOKENS) + data[at:]
        elif change == 1:
            data = data[:at] + data[at + 1 + source.below(32) :]
        elif change == 2:
            data = data[:at] + bytes([source.byte()]) + data[at + 1 :]
        else:
            data = data[:at] + data[max(0, at - 32) : at] * source.below(64) + data[at:]
    return data


def _answer(source: Source) -> list[Element]:
    return [source.one((_query, _query, _error, _other))(source) for _ in range(source.below(3))]


def _text(envelope: Element) -> bytes:
    try:
        return tostring(envelope)
    except RecursionError:  # of the writer; a peer's would write it
        return b"<a xmlns='urn:example'>" * 300 + b"</a>" * 300


def _affixes(source: Source, to: str) -> list[Element]:
    """The affixes, right as a rule: what breaks one of them is refused before its content."""
    wrong = source.chance(8)
    affixes = [
        element(f"{SCE}to", jid=words.address(source) if wrong else to),
        element(f"{SCE}time", stamp=words.stamp(source)),
        element(f"{SCE}rpad", text=words.text(source)),
    ]
    if source.chance(8):
        affixes.append(element(f"{SCE}from", jid=words.address(source)))
    return affixes


def _body(source: Source) -> Element:
    return element(f"{CLIENT}body", text=words.text(source))


def _ephemeral(source: Source) -> Element:
    return element("{urn:xmpp:ephemeral:0}ephemeral", timer=words.number(source))


def _opt_out(source: Source) -> Element:
    namespace = source.one(("urn:xmpp:ephemeral:0", "jabber:client", "urn:xmpp:sce:1", "x"))
    return element(f"{{{namespace}}}i-want-out")


def _opt_out_of_omemo(source: Source) -> Element:
    reasons = [element(f"{OMEMO}reason", text=words.text(source)) for _ in range(source.below(3))]
    return element(f"{OMEMO}opt-out", *reasons)


def _query(source: Source) -> Element:
    inside = bloated(source) if source.chance(30) else element(f"{QUERY}x", text=words.text(source))
    return element(f"{QUERY}{source.one(('query', 'query', 'x'))}", inside, id=words.name(source))


def _error(source: Source) -> Element:
    made = element(source.one((f"{CLIENT}error", f"{SCE}error")), type=words.text(source))
    for _ in range(source.below(4)):
        condition = source.one(("forbidden", "gone", "text", "x", "\u00e4"))
        made.append(element(f"{STANZAS}{condition}", text=words.text(source)))
    return made


def _setting(source: Source) -> Element:
    made = element(
        f"{AGREEMENT}setting",
        counter=words.number(source),
        stamp=words.stamp(source),
        author=source.one((words.PEER, words.OWN, "\u00e4", words.ROOM)),
        device=source.one(("1", "27183", words.number(source))),
        timer=words.number(source),
    )
    if source.chance(2):
        pairs = [f"{words.number(source)}:{words.number(source)}" for _ in range(source.below(20))]
        made.set("past", " ".join(pairs))
    if source.chance(4):
        made.set("off", " ".join(words.address(source) for _ in range(source.below(20))))
    return made


def _receipt(source: Source) -> Element:
    tag = source.one((f"{RECEIPTS}received", f"{MARKERS}displayed", f"{MARKERS}acknowledged"))
    return element(tag, id=words.name(source))


def _aside(source: Source) -> Element:
    tags = (f"{RECEIPTS}request", f"{MARKERS}markable", f"{STATES}composing", f"{TRUST}x")
    return element(source.one(tags))


def _read(source: Source) -> Element:
    made = element(f"{READ}read", conversation=words.address(source), stamp=words.stamp(source))
    made.extend(
        element(f"{MARKERS}displayed", id=words.name(source)) for _ in range(source.below(200))
    )
    return made


def _other(source: Source) -> Element:
    tags = ("{urn:xmpp:reply:0}reply", "{urn:xmpp:message-correct:0}replace", "x", "{urn:example}x")
    made = element(source.one(tags), id=words.name(source), to=words.address(source))
    made.tail = words.text(source) if source.chance(4) else None
    return made


def _for_servers(source: Source) -> Element:
    tags = ("{urn:xmpp:hints}store", "{urn:xmpp:sid:0}stanza-id", "{urn:xmpp:eme:0}encryption")
    return element(source.one(tags), id=words.name(source), by=words.OWN)


def _bloated(source: Source) -> Element:
    return bloated(source) if source.chance(16) else _body(source)


ELEMENTS: Final[tuple[Callable[[Source], Element], ...]] = (
    *(_body, _body, _ephemeral, _ephemeral, _setting, _setting, _receipt, _read, _aside),
    *(_opt_out, _opt_out_of_omemo, _other, _for_servers, _bloated, _error, _query),
)
