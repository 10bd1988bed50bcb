"""What must be true of the bytes between clients and server."""

import re
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element

from examples.rosa_and_peter.evidence import Evidence
from examples.rosa_and_peter.stream import MESSAGE, OMEMO, encrypted, stanzas
from examples.rosa_and_peter.traces import require, traces

WORD: Final = "ephemeral"
FEATURE: Final = "urn:xmpp:ephemeral:0"
DISCO: Final = "{http://jabber.org/protocol/disco#info}"
EVENT: Final = "{http://jabber.org/protocol/pubsub#event}"
ENCRYPTED: Final = f"{OMEMO}encrypted"

ROUTING: Final = {
    "{urn:xmpp:sid:0}origin-id",
    "{urn:xmpp:sid:0}stanza-id",
    "{urn:xmpp:eme:0}encryption",
    "{urn:xmpp:hints}store",
    "{urn:xmpp:delay}delay",
}
"""What may stand beside a ciphertext: what servers need."""

RESULT: Final = "{urn:xmpp:mam:2}result"

NODES: Final = {
    "urn:xmpp:omemo:2:devices",
    "eu.siacs.conversations.axolotl.devicelist",
    "urn:xmpp:mds:displayed:0",
}
"""Device lists, and how far our own devices have read: the id of a message in the archive."""

BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def no_ephemeral_in_clear(evidence: Evidence) -> str:
    """Every occurrence of the word is a feature in an answer to a disco query; there is no other.

    The bytes are counted as well, so that nothing hides in a stanza that was cut short.
    """
    examined = advertised = 0
    for person, record in _records(evidence):
        found = stanzas(record)
        allowed = sum(_advertised(stanza) for stanza in found)
        for stanza in found:
            require(
                _occurrences(stanza) == _advertised(stanza),
                f"{person}: a <{stanza.tag.rpartition('}')[2]}/> with the word in clear",
            )
        count = record.lower().count(WORD.encode())
        require(count == allowed, f"{person}: the word {count} times, advertised {allowed} times")
        examined, advertised = examined + len(found), advertised + allowed
    require(advertised > 0, "nobody advertised the feature")
    return f"{examined} stanzas of both clients; the feature was advertised {advertised} times"


def only_ciphertext(evidence: Evidence) -> str:
    """No message has a child that is neither a ciphertext nor for servers."""
    examined = 0
    for person, record in _records(evidence):
        for message in (stanza for stanza in stanzas(record) if stanza.tag == MESSAGE):
            for child in message:
                fault = _fault(child)
                require(not fault, f"{person}: {fault}")
            examined += 1
    sent = sum(len(encrypted(each.sent)) for each in evidence.recordings.values())
    # Each text, and each change of the timer without one: five days, and the countdown's.
    expected = len(evidence.texts) + 2
    require(sent == expected, f"{sent} messages were sent, not {expected}")
    return f"{examined} messages; the {sent} that were sent for the users look alike"


def no_text_in_clear(evidence: Evidence) -> str:
    size = 0
    for person, record in _records(evidence):
        found = traces(record, evidence.texts)
        require(not found, f"{person}: {', '.join(found)}")
        size += len(record)
    return f"{size} bytes searched for {len(evidence.texts)} texts and pieces of them"


def _records(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    for person, recording in evidence.recordings.items():
        for record in recording.both:
            require(bool(record), f"{person}: nothing was recorded")
            yield person, record


def _advertised(stanza: Element) -> int:
    if stanza.tag != "{jabber:client}iq":
        return 0
    return sum(
        feature.attrib == {"var": FEATURE}
        for feature in stanza.findall(f"{DISCO}query/{DISCO}feature")
    )


def _occurrences(stanza: Element) -> int:
    """Count the word in every name, namespace, attribute and text."""
    return sum(
        part.lower().count(WORD)
        for element in stanza.iter()
        for part in (
            element.tag,
            *element.keys(),
            *element.attrib.values(),
            element.text or "",
            element.tail or "",
        )
    )


def _fault(child: Element) -> str:
    """Return what is wrong with a child of a message; nothing if it may be there."""
    if child.tag == ENCRYPTED:
        strangers = [part.tag for part in child.iter() if not part.tag.startswith(OMEMO)]
        texts = [part.text or "" for part in child.iter()]
        if strangers or not all(BASE64.fullmatch(text.strip()) for text in texts):
            return "an <encrypted/> holds more than ciphertext"
        return ""
    if child.tag == f"{EVENT}event":
        nodes = {items.get("node") for items in child}
        return "" if nodes <= NODES else "an event that is neither a device list nor a place"
    if child.tag == RESULT:
        # A message out of the archive, as it went over the wire when it was sent.
        inside = [part for message in child.iter(MESSAGE) for part in message]
        return next((fault for part in inside if (fault := _fault(part))), "")
    if child.tag not in ROUTING:
        return f"a message with {child.tag} in clear"
    return "" if not (child.text or "").strip() and not len(child) else f"{child.tag} with content"
