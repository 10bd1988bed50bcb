"""The values of the events that applications are told of, in slixmpp's manner."""

from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from eph_e2ee.errors import Cause, Reason
from eph_e2ee.model import (
    BareJid,
    Delivery,
    DeviceId,
    Direction,
    IqKind,
    Legacy,
    MessageId,
    Seconds,
    StateName,
)

__all__ = [
    "CatchUp",
    "ChatState",
    "Delivered",
    "Expired",
    "LeftOut",
    "NewDevice",
    "OptOut",
    "PlainMessage",
    "PlainTimerChange",
    "Question",
    "Rejection",
    "Skipped",
    "Unsupported",
]


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

    With `UNREACHABLE` a message waits in the vault, as those of undecided devices do and as far as
    there is room. For a week its sender's keys are asked for again; once they come, it does.

    Attributes:
        reason: the rule that it broke.
        sender: the bare JID that the server gave as its sender, which proves nothing.
        message_id: the stanza's id; empty where it had none.
    """

    reason: Reason
    sender: BareJid
    message_id: MessageId


@dataclass(frozen=True, slots=True)
class NewDevice:
    """Event `ephemeral_new_device`: an account that has a trusted device has one more.

    It is told once. The device gets nothing before it is trusted, by hand as the other one was.

    Attributes:
        jid: the bare JID of the account, perhaps our own.
        device: the id of the device.
        fingerprint: as `Device.fingerprint`; None while its keys are not known, which are fetched
            when they are needed: by `Chat.devices`, say.
    """

    jid: BareJid
    device: DeviceId
    fingerprint: str | None


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
    """Event `ephemeral_unsupported`: some devices cannot be held to timers, or others now.

    Attributes:
        conversation: the bare JID of the recipient, or of the room.
        devices: the ids of the devices that cannot read envelopes, or are not known to. Our own
            account's are among them, if they get the text: the timer goes in clear for them, too.
        legacy: what they get: perhaps the text, in no case a timer that they can be held to.
        addresses: the same devices, each with the bare JID of its account: in a room, a member's.
        ignoring: the ids of the devices that read envelopes, and are known to let timers go by:
            no client of the account says that it honours them (XEP-0466 section 2), and they have
            never sent one. They get the message, and will keep it.
    """

    conversation: BareJid
    devices: frozenset[DeviceId]
    legacy: Legacy
    addresses: frozenset[tuple[BareJid, DeviceId]] = frozenset()
    ignoring: frozenset[DeviceId] = frozenset()


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """Event `ephemeral_plain_message`: a message with a timer has come, in clear.

    Nothing of it is kept here. Whoever shows or stores it forgets it when its timer has run, from
    the time at which somebody has seen it, or from its sending if it is our own (XEP-0466 section
    4).

    Attributes:
        conversation: the bare JID of the peer or the room.
        sender: the JID, as far as the servers tell: with its resource, in a room with its nick.
        message_id: the sender's id of it; may be empty.
        body: the text.
        timer: how long it may be kept, in seconds.
        own: whether this account has sent it: from another device, or through a room.
        malformed: whether it gave a timer that cannot be read; then it has the conversation's.
    """

    conversation: BareJid
    sender: str
    message_id: MessageId
    body: str = field(repr=False)
    timer: Seconds
    own: bool = False
    malformed: bool = False


@dataclass(frozen=True, slots=True)
class PlainTimerChange:
    """Event `ephemeral_plain_timer_changed`: a conversation in clear has another timer from now on.

    It says nothing of what is encrypted: that is `TimerChange`.

    Attributes:
        conversation: the bare JID of the peer or the room.
        old: the timer until now; None for none.
        new: the timer of the messages that follow; None for none.
        own: whether this account changed it, on whichever device.
    """

    conversation: BareJid
    old: Seconds | None
    new: Seconds | None
    own: bool


@dataclass(frozen=True, slots=True)
class OptOut:
    """Event `ephemeral_opt_out`: a peer asks for plain text instead of OMEMO (XEP-0384 5.7).

    Nothing is sent to it until `Chat.confirm_opt_out`, or until it writes encrypted itself.

    Attributes:
        conversation: the bare JID of the peer.
        device: the device that says so.
        reason: the peer's words, told this once and not kept; None without any.
    """

    conversation: BareJid
    device: DeviceId
    reason: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ChatState:
    """Event `ephemeral_chat_state`: somebody is typing, or not any more (XEP-0085). None is kept.

    Attributes:
        conversation: the bare JID of the peer or the room.
        sender: the bare JID of whoever it is.
        state: what he is doing.
    """

    conversation: BareJid
    sender: BareJid
    state: StateName


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
