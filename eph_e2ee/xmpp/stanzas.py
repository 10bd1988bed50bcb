"""What stands on a message stanza outside of the encryption, read and written."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID
from slixmpp.plugins.xep_0082 import parse as parse_datetime
from slixmpp.stanza import Message
from slixmpp.xmlstream import XMLStream

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid, MessageId

__all__ = [
    "Arrival",
    "Way",
    "address",
    "archived",
    "bare",
    "carbon",
    "forwarded",
    "live",
    "moment",
    "name_of",
    "outer_message",
    "remove_children",
    "stanza_id",
]

CARBONS = "{urn:xmpp:carbons:2}"
CLIENT = "{jabber:client}"
DELAY = "{urn:xmpp:delay}delay"
ENCRYPTION = "{urn:xmpp:eme:0}encryption"
FORWARDED = "{urn:xmpp:forward:0}forwarded"
ORIGIN_ID = "{urn:xmpp:sid:0}origin-id"
RESULT = "{urn:xmpp:mam:2}result"
STANZA_ID = "{urn:xmpp:sid:0}stanza-id"
STORE = "{urn:xmpp:hints}store"


class Way(enum.Enum):
    """How a message came."""

    STREAM = "stream"
    CARBON = "carbon"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message stanza as it came, from the wire or out of an archive.

    Attributes:
        xml: the `<message/>` element.
        sender: the bare JID that the server gave as its sender; in a room the real one, or the
            room where that is not known.
        recipient: the bare JID that it was sent to, perhaps a room.
        message_id: the sender's id of it: XEP-0359's origin-id, else the stanza's id; may be empty.
        archive_id: the id that our own server's archive gave it, or the room's; None for none.
        sent_at: when it was sent, as far as the servers tell (XEP-0203, XEP-0313); None for now.
        way: how it came.
        room: the room that it came through; None for a message to our account.
        member: whether its sender belongs to the room, as its presence said when it came; of old
            messages, whoever asks has to look into the room's lists.
    """

    xml: Element = field(repr=False)
    sender: BareJid
    recipient: BareJid
    message_id: MessageId
    archive_id: str | None
    sent_at: datetime | None
    way: Way = Way.STREAM
    room: BareJid | None = None
    member: bool = True


def bare(jid: str) -> BareJid:
    """The normal form of a JID without its resource.

    Raises:
        ValueError: it is no JID.
    """
    return BareJid(JID(jid).bare)


def address(jid: JID | str) -> BareJid:
    """The bare JID of whom an application means; slixmpp takes nothing for a JID as well.

    Raises:
        LocalProtocolError: it is empty, or None.
        ValueError: it is no JID.
    """
    if found := JID(jid).bare:
        return BareJid(found)
    raise LocalProtocolError("an address is missing: give the JID of an account or a room")


def live(stanza: Message, own: BareJid) -> Arrival | None:
    """A stanza of the stream; None for an error, a room's, or one without a sender."""
    if stanza["type"] in ("error", "groupchat"):
        return None
    return _arrival(stanza.xml, own, archive_id=stanza_id(stanza.xml, own), stamp=None)


def carbon(stanza: Message, own: BareJid) -> Arrival | None:
    """The message inside a carbon copy; None where there is none.

    "any forwarded copy received from any other JID MUST be ignored" (XEP-0280 section 11): only our
    own account's server copies. A copy of what we have sent must come from ourselves.
    """
    if stanza["from"].bare not in ("", own):
        return None
    for name in ("sent", "received"):
        xml = stanza.xml.find(f"{CARBONS}{name}/{FORWARDED}/{CLIENT}message")
        if xml is None or xml.get("type") in ("error", "groupchat"):
            continue
        delay = stanza.xml.find(f"{CARBONS}{name}/{FORWARDED}/{DELAY}")
        stamp = None if delay is None else moment(delay)
        arrival = _arrival(xml, own, archive_id=stanza_id(xml, own), stamp=stamp, way=Way.CARBON)
        if arrival is not None and (name == "received" or arrival.sender == own):
            return arrival
    return None


def archived(stanza: Message, own: BareJid) -> Arrival | None:
    """The message inside an archive's result (XEP-0313 section 5.1); None where there is none.

    Only our own account's archive is heard: anyone can send a stanza that looks like a result.
    """
    found = forwarded(stanza)
    if stanza["from"].bare not in ("", own) or found is None:
        return None
    result, delay, xml = found
    if xml.get("type") in ("error", "groupchat"):
        return None
    stamp = None if delay is None else moment(delay)
    return _arrival(xml, own, archive_id=result.get("id"), stamp=stamp, way=Way.ARCHIVE)


def forwarded(stanza: Message) -> tuple[Element, Element | None, Element] | None:
    """The result of an archive, its delay, and the message in it; None where there is none."""
    result = stanza.xml.find(RESULT)
    inside = None if result is None else result.find(FORWARDED)
    xml = None if inside is None else inside.find(f"{CLIENT}message")
    if result is None or inside is None or xml is None:
        return None
    return result, inside.find(DELAY), xml


def _arrival(
    xml: Element,
    own: BareJid,
    *,
    archive_id: str | None,
    stamp: datetime | None,
    way: Way = Way.STREAM,
) -> Arrival | None:
    try:
        sender = bare(xml.get("from") or own)
        recipient = bare(xml.get("to") or own)
    except ValueError:
        return None
    delay = xml.find(DELAY)
    return Arrival(
        xml=xml,
        sender=sender,
        recipient=recipient,
        message_id=MessageId(name_of(xml)),
        archive_id=archive_id,
        sent_at=stamp or (None if delay is None else moment(delay)),
        way=way,
    )


def name_of(xml: Element) -> str:
    """The sender's id of a message: XEP-0359's origin-id, else the stanza's id; may be empty."""
    origin = xml.find(ORIGIN_ID)
    named = None if origin is None else origin.get("id")
    return named or xml.get("id") or ""


def moment(delay: Element) -> datetime | None:
    """The time of a delay; None where it gives none (XEP-0203)."""
    try:
        return parse_datetime(delay.get("stamp", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def stanza_id(xml: Element, archive: BareJid) -> str | None:
    """The id that an archive gave, and no other one's (XEP-0359 section 6: check `by`)."""
    for element in xml.findall(STANZA_ID):
        if element.get("by") == archive:
            return element.get("id")
    return None


def outer_message(
    stream: XMLStream,
    recipient: BareJid,
    message_id: MessageId,
    encrypted: Sequence[Element],
    *,
    group: bool = False,
) -> Message:
    """The stanza around `<encrypted/>`: no body, a store hint, XEP-0380 (XEP-0384 section 5.5).

    XEP-0380 names one method: of two, the first.
    """
    kind = "groupchat" if group else "chat"
    # slixmpp leaves the constructor without types.
    stanza = Message(stream, sto=JID(recipient), stype=kind, sid=message_id)  # type: ignore[no-untyped-call]
    for element in encrypted:
        stanza.append(element)
    namespace = encrypted[0].tag[1:].partition("}")[0]
    SubElement(stanza.xml, ORIGIN_ID, {"id": message_id})
    SubElement(stanza.xml, ENCRYPTION, {"namespace": namespace, "name": "OMEMO"})
    SubElement(stanza.xml, STORE)
    return stanza


def remove_children(xml: Element) -> None:
    """Empty a stanza in place, so that no handler finds anything in it."""
    for child in list(xml):
        xml.remove(child)
