"""Where messages come from: the stream, carbons, an archive; and what comes back as an error."""

import logging
from collections.abc import Callable
from typing import Any, Final
from xml.etree.ElementTree import Element

from slixmpp import ClientXMPP
from slixmpp.exceptions import XMPPError
from slixmpp.stanza import Message
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath
from slixmpp.xmlstream.matcher.base import MatcherBase

from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.xmpp.members import Members
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.rooms import Rooms
from eph_e2ee.xmpp.stanzas import RESULT, Arrival, archived, bare, carbon, live

__all__ = ["MAXIMUM_RESULTS", "Accept", "Arrivals"]

log = logging.getLogger(__name__)

STANZAS: Final = "eph_e2ee: encrypted messages"
ARCHIVE: Final = "eph_e2ee: results of the archive"
CARBONS: Final = ("carbon_received", "carbon_sent")
ERRORS: Final = "message_error"

ANSWER: Final = 30.0
"""Seconds that the server has for an answer that it gives without any work."""

MAXIMUM_RESULTS: Final = 1000
"""Results that are collected for one query, whatever its archive gives: ten pages as we ask for."""

Accept = Callable[[Arrival], None]
Bounced = Callable[[BareJid, MessageId], None]
Result = tuple[str | None, Arrival | None]


class Arrivals:
    """Gives every encrypted message to whoever listens, each as an `Arrival`.

    Args:
        client: the client.
        own: our own bare JID; it is known for good once there is a session.
        members: who is in which room.
    """

    def __init__(self, client: ClientXMPP, own: Callable[[], BareJid], members: Members) -> None:
        self._client = client
        self._own = own
        self._accept: Accept = lambda _: None
        self._bounced: Bounced = lambda _jid, _message_id: None
        self._rooms = Rooms(client, members.real_jid)
        self._members = members
        self._pages: dict[str, tuple[BareJid, list[Result]]] = {}

    def listen(self, accept: Accept, bounced: Bounced) -> None:
        """Begin: `accept` gets what arrives, `bounced` who says of which id that it failed."""
        self._accept, self._bounced = accept, bounced
        client = self._client
        client.register_handler(Callback(STANZAS, _Encrypted(None), self._from_stream))
        result = MatchXPath(f"{{jabber:client}}message/{RESULT}")
        client.register_handler(Callback(ARCHIVE, result, self._from_archive))
        for event in CARBONS:
            client.add_event_handler(event, self._from_carbon)
        client.add_event_handler(ERRORS, self._failed)

    def stop(self) -> None:
        """Take the handlers away again."""
        self._client.remove_handler(STANZAS)
        self._client.remove_handler(ARCHIVE)
        for event in CARBONS:
            self._client.del_event_handler(event, self._from_carbon)
        self._client.del_event_handler(ERRORS, self._failed)

    async def enable_carbons(self) -> bool:
        """Ask for copies of what our other devices send and get (XEP-0280); whether they come.

        Without them the archive tells of it, with the next session.
        """
        plugin: Any = self._client.plugin.get("xep_0280", None)
        try:
            await plugin.enable(timeout=ANSWER)
        except XMPPError as error:
            log.warning("the server gives no carbons: %s", type(error).__name__)
            return False
        return True

    def collect(self, query: str, archive: BareJid) -> list[Result]:
        """Begin to collect the results of a query of an archive, ours or a room's.

        Nobody else then hears of them.

        Returns:
            The list that grows, up to `MAXIMUM_RESULTS`: the id of each result, and the message if
            it is an encrypted one.
        """
        return self._pages.setdefault(query, (archive, []))[1]

    def collected(self, query: str) -> None:
        """End what `collect` began."""
        self._pages.pop(query, None)

    def _from_stream(self, stanza: Any) -> None:
        if self._sender(stanza) is None:
            return
        group = stanza["type"] == "groupchat"
        arrival = self._rooms.live(stanza) if group else live(stanza, self._own())
        if arrival is not None:
            self._accept(arrival)

    def _from_carbon(self, stanza: Any) -> None:
        arrival = carbon(stanza, self._own())
        if arrival is not None and _is_encrypted(arrival.xml):
            self._accept(arrival)

    def _from_archive(self, stanza: Any) -> None:
        result = stanza.xml.find(RESULT)
        archive, page = self._pages.get(result.get("queryid", ""), (self._own(), None))
        if self._sender(stanza) != archive:
            return  # anyone can send what looks like a result
        ours = archive == self._own()
        arrival = archived(stanza, archive) if ours else self._rooms.archived(stanza, archive)
        if arrival is not None and not _is_encrypted(arrival.xml):
            arrival = None
        if page is not None:
            if len(page) < MAXIMUM_RESULTS:
                page.append((result.get("id"), arrival))
        elif arrival is not None:
            self._accept(arrival)

    def _failed(self, stanza: Any) -> None:
        sender = self._sender(stanza)
        if sender is None or (self._members.is_room(sender) and stanza["from"].resource):
            return  # an occupant of a room is not the room, which alone knows what became of it
        self._bounced(sender, MessageId(stanza.xml.get("id", "")))

    def _sender(self, stanza: Any) -> BareJid | None:
        """Who has sent it; None where that is nobody, of which slixmpp would make an error."""
        try:
            return bare(stanza.xml.get("from") or self._own())
        except ValueError:
            return None


class _Encrypted(MatcherBase):
    """Matches a message with an `<encrypted/>` of either namespace, once."""

    def match(self, xml: Any) -> bool:
        return isinstance(xml, Message) and _is_encrypted(xml.xml)


def _is_encrypted(xml: Element) -> bool:
    return any(xml.find(f"{{{namespace}}}encrypted") is not None for namespace in (MODERN, OLD))
