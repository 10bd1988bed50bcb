"""Encrypted messages without a body, told to an application as slixmpp tells those with one.

slixmpp raises `message` and `groupchat_message` for stanzas with a `<body/>`, and applications on
slixmpp-omemo look at nothing without one: what it sends has a fallback body. Envelopes stand on
stanzas without. So they are given that body here, as they arrive.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final
from xml.etree.ElementTree import Element

from slixmpp.stanza import Message

from eph_e2ee.xmpp.parcel import MODERN, OLD, is_addressed, is_empty
from eph_e2ee.xmpp.reflections import Reflections
from eph_e2ee.xmpp.stanzas import remove_children

__all__ = ["Bodiless"]

HALVES: Final = 64
"""First halves of pairs whose second is still to come. It comes next from the same sender; so many
others may come between the two."""


class Bodiless:
    """Gives them a body, once for each message; decrypting takes it away again.

    Of a pair of stanzas, one for each kind of OMEMO, the one that is not for this device must be
    silent: where the other came first, it is emptied before anybody sees it. It is not swallowed:
    XEP-0198 counts it in a filter of its own.

    Args:
        xmpp: the client.
        device: our device's id; 0 while it is not known.
        reflections: what was sent to rooms and has not come back.
        fallback: gives the body.
    """

    def __init__(
        self,
        xmpp: Any,
        device: Callable[[], int],
        reflections: Reflections,
        fallback: Callable[[], str],
    ) -> None:
        self._xmpp = xmpp
        self._device = device
        self._reflections = reflections
        self._fallback = fallback
        self._halves: deque[tuple[str | None, str]] = deque(maxlen=HALVES)

    def start(self) -> None:
        """Begin to look at what arrives."""
        self._xmpp.add_filter("in", self._look)

    def stop(self) -> None:
        """End it."""
        self._xmpp.del_filter("in", self._look)
        self._halves.clear()

    def _look(self, stanza: Any) -> Any:
        if isinstance(stanza, Message) and stanza["type"] != "error":
            if self._is_silent(stanza.xml):
                remove_children(stanza.xml)
            elif self._is_told(stanza.xml):
                if stanza.xml.get("id"):
                    self._halves.append(_name(stanza.xml))
                stanza["body"] = self._fallback()
        return stanza

    def _is_silent(self, xml: Element) -> bool:
        """Whether it is the half of a pair that is for others."""
        if _name(xml) not in self._halves or xml.find(f"{{{OLD}}}encrypted") is None:
            return False
        return not self._is_addressed(xml)

    def _is_told(self, xml: Element) -> bool:
        """Whether it has something to say to this device, and no body."""
        if xml.find(f"{{{self._xmpp.default_ns}}}body") is not None or is_empty(xml):
            return False
        return self._is_addressed(xml) or self._reflections.knows(xml)

    def _is_addressed(self, xml: Element) -> bool:
        """Whether there is a key for this device; as long as it has no id, there may be."""
        device, own = self._device(), self._xmpp.boundjid.bare
        return not device or any(
            is_addressed(xml, namespace, own, device) for namespace in (MODERN, OLD)
        )


def _name(xml: Element) -> tuple[str | None, str]:
    """By what the halves of a pair are known to belong together."""
    return xml.get("from"), xml.get("id", "")
