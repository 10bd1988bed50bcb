"""Values that cross borders between the rooms of the house."""

import enum
from dataclasses import dataclass, field
from typing import Literal, NewType

__all__ = [
    "BareJid",
    "Content",
    "Delivery",
    "DeviceId",
    "Direction",
    "Entry",
    "Erasure",
    "IqKind",
    "Legacy",
    "MessageId",
    "Phase",
    "Seconds",
    "StateName",
    "TimerChange",
    "Trust",
    "Untrusted",
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


StateName = Literal["active", "composing", "paused", "inactive", "gone"]
"""What somebody is doing in a chat at the moment (XEP-0085 section 3)."""


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


class Trust(enum.Enum):
    """How far a device is trusted; it belongs to the device's identity key, and to its account.

    `TRUSTED`, `DISTRUSTED`: somebody has decided so. `BLINDLY_TRUSTED`: nobody has, and under blind
    trust before verification nobody need. `UNDECIDED`: somebody has to decide first.
    """

    TRUSTED = "trusted"
    BLINDLY_TRUSTED = "blindly trusted"
    UNDECIDED = "undecided"
    DISTRUSTED = "distrusted"


class Untrusted(enum.Enum):
    """What becomes of messages whose device is distrusted, or not decided on.

    `DELIVER`: they are delivered, and `Message.trust` says so; what else such a device says, of
    timers, of other messages or of opting out, is not believed. `WITHHOLD`: nobody sees them. Those
    of devices still to be decided on wait, unopened; those of distrusted ones are lost for this
    device.
    """

    DELIVER = "deliver"
    WITHHOLD = "withhold"


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
        trust: how far the sending device was trusted when it arrived; None for one of ours.
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
    trust: Trust | None = None


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


class Legacy(enum.Enum):
    """What devices get that have legacy OMEMO, which encrypts a body and nothing beside it.

    `DELIVER`: the body, and the timer in clear, where servers can read, change and strip it.
    `OMIT`: the body, and no timer. `REFUSE`: nothing; a recipient left without devices is an error.
    """

    DELIVER = "deliver"
    OMIT = "omit"
    REFUSE = "refuse"
