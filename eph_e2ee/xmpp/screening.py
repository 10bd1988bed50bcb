"""What no handler of slixmpp survives is emptied, or mended, before one sees it.

slixmpp reads a stanza's parts when a handler asks for them. What cannot be read raises there: into
a log that quotes it, into an answer that tells its sender, or as far as the connection, which then
ends. Anybody can send such a stanza where XEP-0060 is enabled, which OMEMO needs, or XEP-0045.
"""

import re
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from slixmpp.stanza import Message
from slixmpp.stanza.error import Error
from slixmpp.stanza.rootstanza import RootStanza
from slixmpp.xmlstream import StanzaBase

from eph_e2ee.xmpp.stanzas import bare

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "screened"]

MAX_DEPTH: Final = 128
"""Levels of elements in a stanza. A copy of a forwarded message with marked-up text has 30; Python
copies about 300 before its stack ends, of which the application has used some."""

MAX_ITEMS: Final = 100
"""Items of one notification (XEP-0060). Services send one, or the few that were published at once;
slixmpp makes a message of each, for a tenth of a millisecond."""

USER: Final = "{http://jabber.org/protocol/muc#user}"
CODE: Final = re.compile("[0-9]{1,9}")

ERROR: Final = "{jabber:client}error"
CONDITIONS: Final = {f"{{{Error.condition_ns}}}{name}" for name in Error.conditions}
UNDEFINED: Final = f"{{{Error.condition_ns}}}undefined-condition"

EVENT: Final = "{http://jabber.org/protocol/pubsub#event}"


def screened(stanza: StanzaBase) -> StanzaBase:
    """Return the stanza as slixmpp can deal with it; else an error that says nothing.

    It is a filter: one that raises ends the stream, and one that swallows a stanza has XEP-0198
    count wrongly.
    """
    if not isinstance(stanza, RootStanza):
        return stanza
    if not (_is_addressed(stanza.xml) and _is_flat(stanza.xml)):
        return _emptied(stanza)
    _mend(stanza.xml)
    return stanza if _is_copied(stanza) else _emptied(stanza)


def _emptied(stanza: RootStanza) -> StanzaBase:
    """A new one: slixmpp has made something of the children already."""
    made = type(stanza)(stream=stanza.stream)
    made.xml.set("type", "error")
    return made


def _is_addressed(xml: Element) -> bool:
    """Whether its addresses are JIDs. Servers check them, but not all by the same rules."""
    try:
        for name in ("from", "to"):
            bare(xml.get(name, ""))
    except ValueError:
        return False
    return True


def _is_flat(xml: Element) -> bool:
    """Whether slixmpp can copy it, as it does for an answer."""
    level = [xml]
    for _ in range(MAX_DEPTH):
        level = [child for element in level for child in element]
        if not level:
            return True
    return False


def _is_copied(stanza: StanzaBase) -> bool:
    """Whether slixmpp can take a notification of several items apart (XEP-0060).

    It reads all that stands beside them, and writes it to a message for each.
    """
    if not isinstance(stanza, Message):
        return True
    if stanza.xml.find(f"{EVENT}event/{EVENT}items") is None:
        return True
    try:
        count = len(stanza["pubsub_event"]["items"])
        if count > MAX_ITEMS:
            return False
        if count > 1:
            # slixmpp leaves the constructor without types.
            Message(stanza.stream).values = stanza.values  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 -- whatever the reading of any part raises
        return False
    return True


def _mend(xml: Element) -> None:
    """Make readable what slixmpp takes for granted.

    An error of no known kind is none that it can raise: whoever has asked would wait, as for no
    answer. The codes of a room's statuses are numbers to it.
    """
    for error in xml.findall(ERROR):
        if CONDITIONS.isdisjoint(child.tag for child in error):
            SubElement(error, UNDEFINED)  # RFC 6120 section 8.3.3.21
    for user in xml.findall(f"{USER}x"):
        for status in user.findall(f"{USER}status"):
            if not CODE.fullmatch(status.get("code", "")):
                user.remove(status)
