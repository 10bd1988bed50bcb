"""A recorded XMPP stream, taken apart into its stanzas, and one stanza made readable."""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, cast
from xml.etree.ElementTree import Element, XMLPullParser

MESSAGE: Final = "{jabber:client}message"
OMEMO: Final = "{urn:xmpp:omemo:2}"

HEADER = re.compile(rb"(?:<\?xml[^>]*\?>\s*)?<stream:stream\b")
"""A client opens a stream anew after it has logged in, and after each start of its own."""

LONGEST: Final = 24
"""Characters of a ciphertext or an id that are shown."""


def stanzas(record: bytes) -> list[Element]:
    """Return every complete stanza of one direction, over all streams in it.

    Raises:
        xml.etree.ElementTree.ParseError: it is not XML.
    """
    places = [match.start() for match in HEADER.finditer(record)]
    found: list[Element] = []
    for start, end in pairwise([*places, len(record)]):
        found += _children(record[start:end])
    return found


def _children(stream: bytes) -> Iterable[Element]:
    parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
    parser.feed(stream)
    depth = 0
    for item in parser.read_events():
        event, element = cast("tuple[str, Element]", item)
        depth += 1 if event == "start" else -1
        if event == "end" and depth == 1:
            yield element


def encrypted(record: bytes) -> list[Element]:
    """Return the messages that carry a ciphertext; OMEMO's own empty ones are left out."""
    return [
        stanza
        for stanza in stanzas(record)
        if stanza.tag == MESSAGE and stanza.find(f"{OMEMO}encrypted/{OMEMO}payload") is not None
    ]


def readable(stanza: Element) -> str:
    """Return a stanza as XML on several lines, with long texts cut short."""
    return "\n".join(_lines(stanza, "jabber:client", 0))


def _lines(element: Element, around: str, depth: int) -> Iterable[str]:
    namespace, _, name = element.tag[1:].rpartition("}")
    shown = {name: value for name, value in element.items() if not name.startswith("{")}
    if namespace != around:
        shown = {"xmlns": namespace} | shown
    head = "".join([name, *(f' {key}="{_short(value)}"' for key, value in shown.items())])
    margin, text = "  " * depth, _short(element.text or "")
    if len(element):
        yield f"{margin}<{head}>"
        for child in element:
            yield from _lines(child, namespace, depth + 1)
        yield f"{margin}</{name}>"
    else:
        yield f"{margin}<{head}>{text}</{name}>" if text else f"{margin}<{head}/>"


def _short(text: str) -> str:
    if len(text) <= LONGEST + len("… more"):
        return text
    return f"{text[:LONGEST]}… {len(text) - LONGEST} more"
