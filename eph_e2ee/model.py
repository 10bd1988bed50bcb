"""Values that cross borders between the rooms of the house."""

import enum
from dataclasses import dataclass, field
from typing import Literal, NewType
from xml.etree.ElementTree import Element

from eph_e2ee.errors import Reason

__all__ = [
    "BareJid",
    "CatchUp",
    "Cause",
    "Content",
    "Delivered",
    "Delivery",
    "DeviceId",
    "Direction",
    "Entry",
    "Erasure",
    "Expired",
    "IqKind",
    "LeftOut",
    "Legacy",
    "MessageId",
    "Phase",
    "Question",
    "Rejection",
    "Seconds",
    "Skipped",
    "TimerChange",
    "Unsupported",
]

BareJid = NewType("BareJid", str)
"""A JID without resource, in the normal form that slixmpp's `JID.bare` gives."""

MessageId = NewType("MessageId", str)
"""The id of a message as its sender gave it (the stanza's `id`, XEP-0359's origin-id)."""

DeviceId = NewType("DeviceId", int)
"""An OMEMO device id, 1 to 2**31 - 1 (XEP-0384 section 4.1)."""

Seconds = NewType("Seconds", int)
"""A whole number of seconds: a timer of XEP-0466, 1 to 2**32 - 1."""

IqKind = Literal["get", "set"]
"""What a question wants: to know something, or to have something done (RFC 6120 section 8.2.3)."""


class Direction(enum.Enum):
    """Which way a message went, seen from this account."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class Delivery(enum.Enum):
    """How far a message of ours came. An incoming one and a line are always `RECEIVED`.

    `UNSENT`: it is not known to have reached our server, and its timer does not run. `SENT`: it has
    left. `DELIVERED`, `DISPLAYED`: the peer says so (XEP-0184, XEP-0333). `FAILED`: a server could
    not bring it to the peer, and has said so.
    """

    UNSENT = "unsent"
    SENT = "sent"
    RECEIVED = "received"
    DELIVERED = "delivered"
    DISPLAYED = "displayed"
    FAILED = "failed"


class Phase(enum.Enum):
    """Where a message stands in its life; `protocol.lifetime` holds the table."""

    UNSENT = "unsent"
    UNREAD = "unread"
    READ = "read"
    RUNNING = "running"
    GONE = "gone"


class Erasure(enum.Enum):
    """What forgetting has reached.

    `PENDING`: the intent is on disk and the record is shown no more, but its key has not been
    destroyed yet; the next settling does it. `DESTROYED`: no key on this machine opens it again.
    """

    PENDING = "pending"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Content:
    """What dies with a message. It never prints.

    Attributes:
        body: the text, or None for a message without one.
        elements: the other children of `<content>`, each serialized with its namespace.
        sender: the bare JID of the sender.
        device: the sending device, or None where it is not known.
        message_id: the sender's id of the message.
        sent_at: the time of sending in seconds since the epoch.
        archive_id: the id that our server's archive gave it (XEP-0359); None where it gave none.
        change: the change of the timer that this line of the history tells of; None for a message.
        wants_marker: whether its sender wants to know when it is displayed (XEP-0333).
    """

    body: str | None = field(repr=False)
    elements: tuple[str, ...] = field(repr=False)
    sender: BareJid
    device: DeviceId | None
    message_id: MessageId
    sent_at: float
    archive_id: str | None = None
    change: "TimerChange | None" = None
    wants_marker: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the archive: a message, or the tombstone of one.

    Attributes:
        number: the row's number, unique in this vault, growing with each message.
        conversation: the bare JID of the peer or the room.
        direction: incoming or outgoing.
        phase: where the message stands; a tombstone is `GONE`.
        delivery: how far a message of ours came.
        timer: the message's own timer, frozen when it was sent; None for a permanent message.
        deadline: when it disappears, whole seconds since the epoch; None while no timer runs, and
            no cap limits its life unread. For a tombstone: when it disappeared.
        content: what the message held; None for a tombstone.
    """

    number: int
    conversation: BareJid
    direction: Direction
    phase: Phase
    delivery: Delivery
    timer: Seconds | None
    deadline: int | None
    content: Content | None


@dataclass(frozen=True, slots=True)
class Expired:
    """Event `ephemeral_expired`: a message has disappeared; withdraw what was made from it.

    Attributes:
        number: the entry's number, as the message's own event gave it.
        conversation: the bare JID of the peer or the room.
        direction: which way it had gone.
    """

    number: int
    conversation: BareJid
    direction: Direction


@dataclass(frozen=True, slots=True)
class TimerChange:
    """Event `ephemeral_timer_changed`: a conversation's timer is another one from now on.

    Attributes:
        conversation: the bare JID of the peer or the room.
        old: the timer until now; None for none.
        new: the timer of the messages that follow; None for none.
        author: who changed it.
        device: the device that changed it.
        own: whether this account did, on whichever device.
        here: whether this very device did.
        authenticated: whether a device of its author's, or another one of ours, has told of it in
            OMEMO. False: the peer passes it on for somebody else, or a server may have made it up.
    """

    conversation: BareJid
    old: Seconds | None
    new: Seconds | None
    author: BareJid
    device: DeviceId | None
    own: bool
    here: bool = False
    authenticated: bool = True


@dataclass(frozen=True, slots=True)
class Delivered:
    """Event `ephemeral_delivery`: it has become known how far a message of ours came.

    Attributes:
        number: the entry's number.
        conversation: the bare JID of the peer or the room.
        delivery: how far.
    """

    number: int
    conversation: BareJid
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Event `ephemeral_catch_up`: how far the reading of an archive has come (XEP-0313).

    Messages that were found are told of when it ends, if they live by then.

    Attributes:
        archive: whose archive: our own bare JID.
        fetched: results that the archive has given.
        stored: how many of them were new messages that still lived.
        total: how many there were, as far as the archive says; None when it does not.
        done: whether it has ended.
        complete: whether it has come to the archive's end. If it ends without, as without a
            connection, the next session goes on where it stood.
    """

    archive: BareJid
    fetched: int
    stored: int
    total: int | None
    done: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class Rejection:
    """Event `ephemeral_rejected`: something arrived that was not taken.

    Attributes:
        reason: the rule that it broke.
        sender: the bare JID that the server gave as its sender, which proves nothing.
        message_id: the stanza's id; empty where it had none.
    """

    reason: Reason
    sender: BareJid
    message_id: MessageId


class Legacy(enum.Enum):
    """What devices get that have legacy OMEMO, which encrypts a body and nothing beside it.

    `DELIVER`: the body, and the timer in clear, where servers can read, change and strip it.
    `OMIT`: the body, and no timer. `REFUSE`: nothing; a recipient left without devices is an error.
    """

    DELIVER = "deliver"
    OMIT = "omit"
    REFUSE = "refuse"


class Cause(enum.Enum):
    """Why a device, or a whole account, was left out of a message."""

    NO_DEVICE = "it publishes no device"
    NO_KEYS = "its keys could not be had, or are no keys"
    UNDECIDED = "nobody has decided whether to trust it"
    DISTRUSTED = "it is distrusted"
    LEGACY = "it reads no envelopes, and legacy OMEMO is refused or has nothing to carry"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A device that a message was not encrypted for.

    Attributes:
        jid: the bare JID of its account.
        device: its id; None for an account as a whole.
        cause: why.
    """

    jid: BareJid
    device: DeviceId | None
    cause: Cause


@dataclass(frozen=True, slots=True)
class Skipped:
    """Event `ephemeral_skipped`: messages of a conversation leave out devices, or others now.

    Attributes:
        conversation: the bare JID of the peer or the room.
        left_out: all that were left out of the last message; empty once nobody is.
    """

    conversation: BareJid
    left_out: frozenset[LeftOut]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Event `ephemeral_unsupported`: a recipient has devices without envelopes, or has others now.

    Attributes:
        conversation: the bare JID of the recipient.
        devices: the ids of the devices that cannot read envelopes, or are not known to.
        legacy: what they get: perhaps the text, in no case a timer that they can be held to.
    """

    conversation: BareJid
    devices: frozenset[DeviceId]
    legacy: Legacy


@dataclass(frozen=True, slots=True)
class Question:
    """An encrypted IQ that somebody has sent us; see `Chat.on_iq`.

    Attributes:
        jid: the full JID that asks.
        bare: its account, authenticated by OMEMO.
        device: its device, authenticated by OMEMO.
        kind: "get" or "set".
        element: the payload. It never prints.
    """

    jid: str
    bare: BareJid
    device: DeviceId
    kind: IqKind
    element: Element = field(repr=False)
