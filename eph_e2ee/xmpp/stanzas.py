"""What stands on a message stanza outside of the encryption, read and written."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID
from slixmpp.plugins.xep_0082 import parse as parse_datetime
from slixmpp.stanza import Message
from slixmpp.xmlstream import XMLStream

from eph_e2ee.model import BareJid, MessageId

__all__ = ["Arrival", "archived", "bare", "live", "outer_message", "remove_children"]

CLIENT = "{jabber:client}"
DELAY = "{urn:xmpp:delay}delay"
ENCRYPTION = "{urn:xmpp:eme:0}encryption"
FORWARDED = "{urn:xmpp:forward:0}forwarded"
ORIGIN_ID = "{urn:xmpp:sid:0}origin-id"
RESULT = "{urn:xmpp:mam:2}result"
STANZA_ID = "{urn:xmpp:sid:0}stanza-id"
STORE = "{urn:xmpp:hints}store"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message stanza as it came, from the wire or out of an archive.

    Attributes:
        xml: the `<message/>` element.
        sender: the bare JID that the server gave as its sender.
        recipient: the bare JID that it was sent to.
        message_id: the sender's id of it: XEP-0359's origin-id, else the stanza's id; may be empty.
        archive_id: the id that our own server's archive gave it; None where it gave none.
        sent_at: when it was sent, as far as the servers tell (XEP-0203, XEP-0313); None for now.
    """

    xml: Element = field(repr=False)
    sender: BareJid
    recipient: BareJid
    message_id: MessageId
    archive_id: str | None
    sent_at: datetime | None


def bare(jid: str) -> BareJid:
    """The normal form of a JID without its resource.

    Raises:
        ValueError: it is no JID.
    """
    return BareJid(JID(jid).bare)


def live(stanza: Message, own: BareJid) -> Arrival | None:
    """A stanza of the stream; None for an error, a room's, or one without a sender."""
    if stanza["type"] in ("error", "groupchat"):
        return None
    return _arrival(stanza.xml, own, archive_id=_stanza_id(stanza.xml, own), stamp=None)


def archived(stanza: Message, own: BareJid) -> Arrival | None:
    """The message inside an archive's result (XEP-0313 section 5.1); None where there is none.

    Only our own account's archive is heard: anyone can send a stanza that looks like a result.
    """
    if stanza["from"].bare not in ("", own):
        return None
    result = stanza.xml.find(RESULT)
    forwarded = None if result is None else result.find(FORWARDED)
    if result is None or forwarded is None:
        return None
    xml, delay = forwarded.find(f"{CLIENT}message"), forwarded.find(DELAY)
    if xml is None or xml.get("type") in ("error", "groupchat"):
        return None
    stamp = None if delay is None else _moment(delay)
    return _arrival(xml, own, archive_id=result.get("id"), stamp=stamp)


def _arrival(
    xml: Element, own: BareJid, *, archive_id: str | None, stamp: datetime | None
) -> Arrival | None:
    try:
        sender = bare(xml.get("from") or own)
        recipient = bare(xml.get("to") or own)
    except ValueError:
        return None
    origin = xml.find(ORIGIN_ID)
    named = None if origin is None else origin.get("id")
    delay = xml.find(DELAY)
    return Arrival(
        xml=xml,
        sender=sender,
        recipient=recipient,
        message_id=MessageId(named or xml.get("id") or ""),
        archive_id=archive_id,
        sent_at=stamp or (None if delay is None else _moment(delay)),
    )


def _moment(delay: Element) -> datetime | None:
    try:
        return parse_datetime(delay.get("stamp", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _stanza_id(xml: Element, own: BareJid) -> str | None:
    """The archive's id, from our own server alone (XEP-0359 section 6: check `by`)."""
    for element in xml.findall(STANZA_ID):
        if element.get("by") == own:
            return element.get("id")
    return None


def outer_message(
    stream: XMLStream, recipient: BareJid, message_id: MessageId, encrypted: Element
) -> Message:
    """The stanza around `<encrypted/>`: no body, a store hint, XEP-0380 (XEP-0384 section 5.5)."""
    # slixmpp leaves the constructor without types.
    stanza = Message(stream, sto=JID(recipient), stype="chat", sid=message_id)  # type: ignore[no-untyped-call]
    stanza.append(encrypted)
    SubElement(stanza.xml, ORIGIN_ID, {"id": message_id})
    SubElement(
        stanza.xml,
        ENCRYPTION,
        {"namespace": encrypted.tag[1:].partition("}")[0], "name": "OMEMO"},
    )
    SubElement(stanza.xml, STORE)
    return stanza


def remove_children(xml: Element) -> None:
    """Empty a stanza in place, so that no handler finds anything in it."""
    for child in list(xml):
        xml.remove(child)
