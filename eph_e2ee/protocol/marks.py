"""What devices tell each other beside messages: what has arrived or was read, what is being done.

    <received xmlns='urn:xmpp:receipts' id='...'/>                 XEP-0184, to the sender
    <displayed xmlns='urn:xmpp:chat-markers:0' id='...'/>          XEP-0333, to the sender
    <read xmlns='eph-e2ee:read:0' conversation='rosa@example.org'
          stamp='2026-11-25T18:30:00.125Z'>                        to our own other devices
      <displayed xmlns='urn:xmpp:chat-markers:0' id='...'/>
    </read>
    <composing xmlns='http://jabber.org/protocol/chatstates'/>     XEP-0085, for the moment
    <trust-message xmlns='urn:xmpp:tm:1' ...>...</trust-message>   XEP-0434, which is not used here

All of them stand inside envelopes, never in clear, and are no messages: nothing of them is kept.
XEP-0333 means a message and all before it; a `<read/>` names each message, and when it was read,
since a timer runs from then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from eph_e2ee.model import BareJid, MessageId, StateName
from eph_e2ee.protocol import stamps
from eph_e2ee.protocol.xml import Element

__all__ = [
    "MAX_ID",
    "MAX_MARKS",
    "NAMESPACE",
    "Marks",
    "Read",
    "is_id",
    "is_mark",
    "read",
    "write_displayed",
    "write_read",
    "write_received",
    "write_wanted",
]

NAMESPACE = "eph-e2ee:read:0"

MAX_MARKS = 1000
"""Messages that one message may mark; those beyond are not looked at."""

MAX_ID = 1024
"""Characters of an id; a longer one is nobody's."""

_RECEIPTS = "{urn:xmpp:receipts}"
_MARKERS = "{urn:xmpp:chat-markers:0}"
_READ = f"{{{NAMESPACE}}}read"
_RECEIVED = f"{_RECEIPTS}received"
_REQUEST = f"{_RECEIPTS}request"
_DISPLAYED = f"{_MARKERS}displayed"
_MARKABLE = f"{_MARKERS}markable"
_STATES = "{http://jabber.org/protocol/chatstates}"
_TRUST = "{urn:xmpp:tm:1}"

_STATE_NAMES: dict[str, StateName] = {f"{_STATES}{name}": name for name in get_args(StateName)}


@dataclass(frozen=True, slots=True)
class Read:
    """Some messages of a conversation that were read at one moment.

    Attributes:
        conversation: the bare JID of the peer, who has sent them.
        message_ids: their ids.
        stamp: when, in milliseconds since the epoch.
    """

    conversation: BareJid
    message_ids: tuple[MessageId, ...]
    stamp: int


@dataclass(frozen=True, slots=True)
class Marks:
    """What one message tells beside itself, and asks to be told about itself.

    Attributes:
        received: messages that have arrived (XEP-0184).
        displayed: messages that were displayed, with all before them (XEP-0333).
        read: messages that another device of ours has read.
        wants_receipt: whether it asks for a receipt.
        wants_marker: whether it asks for a marker.
        state: what its sender is doing (XEP-0085); None where it does not say.
    """

    received: tuple[MessageId, ...] = ()
    displayed: tuple[MessageId, ...] = ()
    read: tuple[Read, ...] = ()
    wants_receipt: bool = False
    wants_marker: bool = False
    state: StateName | None = None

    def __bool__(self) -> bool:
        """Tell whether it says anything about other messages."""
        return bool(self.received or self.displayed or self.read)


def read(content: Sequence[Element]) -> Marks:
    """Read the marks among the elements of a message; what is malformed is left out."""
    return Marks(
        received=_ids(element for element in content if element.tag == _RECEIVED),
        displayed=_ids(element for element in content if element.tag == _DISPLAYED),
        read=tuple(_reads(element for element in content if element.tag == _READ)),
        wants_receipt=any(element.tag == _REQUEST for element in content),
        wants_marker=any(element.tag == _MARKABLE for element in content),
        state=next((state for each in content if (state := _STATE_NAMES.get(each.tag))), None),
    )


def is_id(text: str) -> bool:
    """Tell whether messages can be marked by this id: by none they cannot, nor by a longer one."""
    return 0 < len(text) <= MAX_ID


def is_mark(element: Element) -> bool:
    """Tell whether an element is for the clients, and not for those who write to each other."""
    spaces = _RECEIPTS, _MARKERS, _STATES, _TRUST
    return element.tag.startswith(spaces) or element.tag == _READ


def write_wanted() -> list[Element]:
    """Make what asks for a receipt and for a marker."""
    return [Element(_REQUEST), Element(_MARKABLE)]


def write_received(message_ids: Iterable[MessageId]) -> list[Element]:
    """Make a receipt for each of some messages."""
    return [Element(_RECEIVED, {"id": each}) for each in message_ids]


def write_displayed(message_id: MessageId) -> Element:
    """Make the marker of a message that was displayed, with all before it."""
    return Element(_DISPLAYED, {"id": message_id})


def write_read(reading: Read) -> Element:
    """Make what tells our other devices of messages that were read at one moment.

    Raises:
        OverflowError: the stamp lies beyond the year 9999.
    """
    attributes = {"conversation": reading.conversation, "stamp": stamps.write(reading.stamp)}
    element = Element(_READ, attributes)
    element.extend(write_displayed(each) for each in reading.message_ids)
    return element


def _reads(elements: Iterable[Element]) -> Iterable[Read]:
    left = MAX_MARKS
    for element in elements:
        stamp = stamps.read(element.get("stamp", ""))
        conversation = element.get("conversation", "")
        found = _ids(child for child in element if child.tag == _DISPLAYED)[:left]
        if stamp is not None and conversation and found:
            left -= len(found)
            yield Read(BareJid(conversation), found, stamp)


def _ids(elements: Iterable[Element]) -> tuple[MessageId, ...]:
    named = (element.get("id", "") for element in elements)
    kept = [MessageId(each) for each in named if is_id(each)]
    return tuple(kept[:MAX_MARKS])
