"""One stanza of an application's, sent as two, one for each kind of OMEMO.

slixmpp-omemo 2.2 looks no further than an omemo:2 element, also where that has no key for it. So
where a device is addressed that may run it, each kind gets a stanza of its own, both under one id.
`encrypt_message` can return one stanza only. It returns one with both elements, marked, and a
filter parts it as it leaves, with whatever the application has added meanwhile. It also leaves away
what applications add because slixmpp-omemo does not: another word on the encryption (XEP-0380).
"""

from collections.abc import Callable
from copy import copy
from typing import Any
from xml.etree.ElementTree import SubElement

from slixmpp.stanza import Message

from eph_e2ee.xmpp.outdated import Encrypted
from eph_e2ee.xmpp.parcel import MODERN, OLD, encrypted_child
from eph_e2ee.xmpp.stanzas import ORIGIN_ID

__all__ = ["Parting"]

BODY = "{jabber:client}body"
ENCRYPTION = "{urn:xmpp:eme:0}encryption"


class Parting:
    """The filter of one client.

    Each half passes all of slixmpp's filters, so that stream management (XEP-0198) counts two and
    repeats what was lost. Nothing is kept here: the mark is the stanza's own.

    Args:
        xmpp: the client.
        fallback: gives the body of the half in legacy OMEMO. Applications on slixmpp-omemo are
            told of stanzas with a body alone.
    """

    def __init__(self, xmpp: Any, fallback: Callable[[], str]) -> None:
        self._xmpp = xmpp
        self._fallback = fallback

    def start(self) -> None:
        """Begin to look at what leaves."""
        self._xmpp.add_filter("out", self._part)

    def stop(self) -> None:
        """End it; a marked stanza then leaves as it is."""
        self._xmpp.del_filter("out", self._part)

    def _part(self, stanza: Any) -> Any:
        if not isinstance(stanza, Encrypted):
            return stanza
        stanza = _hinting_once(stanza)
        if not stanza.parted:
            return stanza
        if any(encrypted_child(stanza.xml, namespace) is None for namespace in (MODERN, OLD)):
            return stanza  # the application has taken one out
        modern, old = _half(stanza, MODERN), _half(stanza, OLD)
        for body in modern.xml.findall(BODY):
            modern.xml.remove(body)
        if not old["body"]:
            old["body"] = self._fallback()
        self._send_behind(old)
        return modern

    def _send_behind(self, stanza: Message) -> None:
        """Have a stanza leave behind the one that is leaving, and before those that wait."""
        waiting = self._xmpp.waiting_queue
        later = [waiting.get_nowait() for _ in range(waiting.qsize())]
        waiting.put_nowait((stanza, True))
        for each in later:
            waiting.put_nowait(each)
            waiting.task_done()  # it counts as two otherwise, and slixmpp waits for all at its end


def _hinting_once(stanza: Encrypted) -> Encrypted:
    """One with our hint alone, which names what it holds."""
    if len(stanza.xml.findall(ENCRYPTION)) <= 1:
        return stanza
    hinting = copy(stanza)
    for another in hinting.xml.findall(ENCRYPTION)[1:]:
        hinting.xml.remove(another)
    return hinting


def _half(stanza: Encrypted, namespace: str) -> Message:
    """A copy with the element of one namespace alone; the other half has the same origin-id."""
    half = copy(stanza)
    half.parted = False
    for other in {MODERN, OLD} - {namespace}:
        for element in half.xml.findall(f"{{{other}}}encrypted"):
            half.xml.remove(element)
    half["eme"]["namespace"] = namespace
    half["eme"]["name"] = "OMEMO"
    if half.xml.find(ORIGIN_ID) is None:
        SubElement(half.xml, ORIGIN_ID, {"id": half["id"]})
    return half
