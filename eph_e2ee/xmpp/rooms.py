"""Messages of rooms (XEP-0045), live and out of their archives, by the real JIDs of the senders.

OMEMO knows accounts, not nicknames. A room that does not show real JIDs to its members is therefore
of no use, and what comes from it is rejected. Whether somebody is a member of the room is the
room's word: nothing else could tell.
"""

from collections.abc import Callable
from typing import Any, Final
from xml.etree.ElementTree import Element

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.xmpp.stanzas import (
    DELAY,
    Arrival,
    Way,
    bare,
    forwarded,
    moment,
    name_of,
    stanza_id,
)

__all__ = ["ITEM", "MEMBERS", "Rooms", "codes_of", "membership"]

USER: Final = "{http://jabber.org/protocol/muc#user}"
ITEM: Final = f"{USER}x/{USER}item"
STATUS: Final = f"{USER}x/{USER}status"

MEMBERS: Final = ("member", "admin", "owner")

OCCUPANT: Final = "{urn:xmpp:occupant-id:0}occupant-id"

OURSELVES: Final = "110"
"""The status of one's own presence in a room (XEP-0045 section 7.2.2)."""

NEW_NICK: Final = "303"
"""The status of a presence that ends because a nickname is replaced (XEP-0045 section 7.6)."""


class Rooms:
    """Who has sent what in the rooms that the application has joined with slixmpp's plugin.

    Args:
        client: the client.
        real_jid: whose occupant-id that is in a room (XEP-0421).
    """

    def __init__(
        self,
        client: ClientXMPP,
        real_jid: Callable[[BareJid, str | None], BareJid | None] = lambda _room, _occupant: None,
    ) -> None:
        self._client = client
        self._real_jid = real_jid

    def live(self, stanza: Message) -> Arrival | None:
        """A stanza of a room; None where the room was not joined, or speaks itself.

        Whoever has the nickname now need not be who had it then: an old message is his whom the
        room names with it, or the occupant-id.
        """
        room, nick = BareJid(stanza["from"].bare), stanza["from"].resource
        plugin: Any = self._client.plugin.get("xep_0045", None)
        if plugin is None or not nick or room not in plugin.get_joined_rooms():
            return None
        if stanza.xml.find(DELAY) is not None:
            return _arrival(stanza.xml, room, self._then(stanza.xml, room))
        real = plugin.get_jid_property(JID(room), nick, "jid")
        affiliation = plugin.get_jid_property(JID(room), nick, "affiliation")
        return _arrival(stanza.xml, room, (str(real or ""), affiliation))

    def archived(self, stanza: Message, room: BareJid) -> Arrival | None:
        """The message inside a result of a room's archive; None where there is none.

        Rooms that show real JIDs do so in their archive as well (XEP-0313 section 6.1.2).
        """
        found = forwarded(stanza)
        if stanza["from"].bare != room or found is None:
            return None
        result, delay, xml = found
        if xml.get("type") != "groupchat" or not xml.get("from", "").startswith(f"{room}/"):
            return None
        return _arrival(xml, room, self._then(xml, room), result=result, delay=delay)

    def _then(self, xml: Element, room: BareJid) -> tuple[str, str | None]:
        """Who has sent an old message, and what he was then to the room."""
        item = xml.find(ITEM)
        told = None if item is None else item.get("affiliation")
        real = "" if item is None else item.get("jid", "")
        if not real:
            occupant = xml.find(OCCUPANT)
            real = self._real_jid(room, None if occupant is None else occupant.get("id")) or ""
        return real, told or self._affiliation(room, real)

    def _affiliation(self, room: BareJid, real: str) -> str | None:
        """What somebody is to a room now, while he is in it.

        ejabberd's archive tells who has sent a message, and not what he was then.
        """
        plugin: Any = self._client.plugin.get("xep_0045", None)
        if plugin is None or not real or room not in plugin.get_joined_rooms():
            return None
        for nick in plugin.get_roster(JID(room)):
            jid = plugin.get_jid_property(JID(room), nick, "jid")
            if jid and _same_account(str(jid), real):
                return str(plugin.get_jid_property(JID(room), nick, "affiliation"))
        return None


def codes_of(xml: Element) -> set[str]:
    """The status codes of a room's stanza (XEP-0045 section 15.6.2)."""
    return {status.get("code", "") for status in xml.iterfind(STATUS)}


def membership(presence: Any) -> tuple[BareJid, bool] | None:
    """The room that a presence says we have entered (True) or left; None for any other."""
    codes = codes_of(presence.xml)
    if OURSELVES not in codes or NEW_NICK in codes:
        return None
    return BareJid(presence["from"].bare), presence["type"] != "unavailable"


def _same_account(one: str, other: str) -> bool:
    try:
        return bare(one) == bare(other)
    except ValueError:
        return False


def _arrival(
    xml: Element,
    room: BareJid,
    who: tuple[str, str | None],
    *,
    result: Element | None = None,
    delay: Element | None = None,
) -> Arrival | None:
    """Nobody is known who has sent it where the room stands as its sender."""
    real, affiliation = who
    delay = xml.find(DELAY) if delay is None else delay
    try:
        sender = bare(real) if real else room
    except ValueError:
        return None
    return Arrival(
        xml=xml,
        sender=sender,
        recipient=room,
        message_id=MessageId(name_of(xml)),
        archive_id=stanza_id(xml, room) if result is None else result.get("id"),
        sent_at=None if delay is None else moment(delay),
        way=Way.STREAM if result is None else Way.ARCHIVE,
        room=room,
        member=affiliation in MEMBERS,
    )
