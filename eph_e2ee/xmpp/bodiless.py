"""Encrypted messages without a body, told to an application as slixmpp tells those with one.

slixmpp raises `message` and `groupchat_message` for stanzas with a `<body/>`. Envelopes stand on
stanzas without one, so that an application that waits for these events would never hear of them.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final
from xml.etree.ElementTree import Element

from slixmpp.stanza import Message
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher.base import MatcherBase

from eph_e2ee.xmpp.parcel import MODERN, OLD, is_addressed, is_empty
from eph_e2ee.xmpp.reflections import Reflections
from eph_e2ee.xmpp.stanzas import remove_children

__all__ = ["Bodiless"]

HANDLER: Final = "eph_e2ee: messages without a body"

HALVES: Final = 64
"""First halves of pairs whose second is still to come. It comes next from the same sender; so many
others may come between the two."""


class Bodiless:
    """Raises the events, once for each message.

    Of a pair of stanzas, one for each kind of OMEMO, the one that is not for this device must be
    silent: where the other came first, it is emptied before anybody sees it. It is not swallowed:
    XEP-0198 counts it in a filter of its own.

    Args:
        xmpp: the client.
        device: our device's id; 0 while it is not known.
        reflections: what was sent to rooms and has not come back.
    """

    def __init__(self, xmpp: Any, device: Callable[[], int], reflections: Reflections) -> None:
        self._xmpp = xmpp
        self._device = device
        self._reflections = reflections
        self._halves: deque[tuple[str | None, str]] = deque(maxlen=HALVES)

    def start(self) -> None:
        """Begin to look at what arrives."""
        self._xmpp.add_filter("in", self._silence)
        matcher = _Bodiless(self._xmpp.default_ns)
        self._xmpp.register_handler(Callback(HANDLER, matcher, self._tell))

    def stop(self) -> None:
        """End it."""
        self._xmpp.del_filter("in", self._silence)
        self._xmpp.remove_handler(HANDLER)
        self._halves.clear()

    def _tell(self, stanza: Any) -> None:
        """Raise what slixmpp raises for a body, in its order."""
        xml = stanza.xml
        if not self._is_addressed(xml) and not self._reflections.knows(xml):
            return
        if xml.get("id"):
            self._halves.append(_name(xml))
        if not self._xmpp.is_component and not xml.get("to"):
            stanza["to"] = self._xmpp.boundjid
        self._xmpp.event("message", stanza)
        if stanza["type"] == "groupchat" and "xep_0045" in self._xmpp.plugin:
            self._xmpp.event("groupchat_message", stanza)
            self._xmpp.event(f"muc::{stanza['from'].bare}::message", stanza)

    def _silence(self, stanza: Any) -> Any:
        if isinstance(stanza, Message) and _name(stanza.xml) in self._halves:
            second = stanza.xml.find(f"{{{OLD}}}encrypted") is not None
            if second and stanza["type"] != "error" and not self._is_addressed(stanza.xml):
                remove_children(stanza.xml)
        return stanza

    def _is_addressed(self, xml: Element) -> bool:
        """Whether there is a key for this device; as long as it has no id, there may be."""
        device, own = self._device(), self._xmpp.boundjid.bare
        return not device or any(
            is_addressed(xml, namespace, own, device) for namespace in (MODERN, OLD)
        )


class _Bodiless(MatcherBase):
    """Matches an encrypted message that has something to say, and no body.

    Args:
        criteria: the namespace of stanzas.
    """

    def match(self, xml: Any) -> bool:
        if not isinstance(xml, Message) or xml["type"] == "error":
            return False
        return xml.xml.find(f"{{{self._criteria}}}body") is None and not is_empty(xml.xml)


def _name(xml: Element) -> tuple[str | None, str]:
    """By what the halves of a pair are known to belong together."""
    return xml.get("from"), xml.get("id", "")
