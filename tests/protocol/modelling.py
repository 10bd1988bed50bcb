"""The model that the proofs of the agreement share: devices of two kinds, messages, knowledge.

A tag speaker is the real rule, driven by `set_timer`, `announce` and `receive` alone, as the two
flows drive it. A plain client knows XEP-0466 and nothing else; it takes over whatever it reads, in
one of three ways that are seen in the field.

Beside it the model keeps, where no rule can see it, which *change* a device is at and of which
changes it has heard. Of that the invariants speak: see `heard`.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement
from eph_e2ee.protocol.agreement import Agreement, Speech
from eph_e2ee.protocol.ephemeral import Announcement, Kind
from eph_e2ee.protocol.setting import Setting, Tag

__all__ = [
    "NOTHING",
    "Behaviour",
    "Broken",
    "Device",
    "Made",
    "Message",
    "Mind",
    "agree",
    "changed",
    "heard",
    "holder",
    "spoken",
]

NOTHING = -1
"""The change that a device is at before it has heard of any."""

ABSENT = Announcement(Kind.ABSENT)
OFF = Announcement(Kind.OFF)
OPT_OUT = Announcement(Kind.OFF, opt_out=True)


class Broken(AssertionError):
    """An invariant does not hold."""


class Behaviour(enum.Enum):
    """How a client keeps the timer of a conversation.

    `SPEAKS` our tag. `ADOPTS` anything that it reads, zero and opt-out alike; absence says nothing.
    `KEEPS` does the same, but does not know the opt-out (Badinage, monocles). `TURNS_OFF` reads
    absence as off (Xabber web).
    """

    SPEAKS = "speaks"
    ADOPTS = "adopts"
    KEEPS = "keeps"
    TURNS_OFF = "turns off"


@dataclass(frozen=True, slots=True)
class Device:
    """A device of an account, and by how many seconds its clock is wrong."""

    account: BareJid
    device: DeviceId
    behaviour: Behaviour
    skew: int = 0

    @property
    def speaks(self) -> bool:
        """Whether it speaks our tag."""
        return self.behaviour is Behaviour.SPEAKS


class Made(NamedTuple):
    """A change that somebody has made: the value, and the changes that its author knew, as bits."""

    value: Seconds | None
    known: int


@dataclass(frozen=True, slots=True)
class Mind:
    """What a device holds, and what the model knows of it.

    Attributes:
        state: of a tag speaker, all that it holds.
        value: of a plain client, all that it holds.
        change: the number of the change that it is at.
        known: the numbers of the changes of which it has heard, as bits.
        told: of a plain client, whether it has told anybody of the change that it is at.
        fooled: of a tag speaker, the plain clients that have set by themselves what it holds.
    """

    state: Agreement = field(default_factory=Agreement)
    value: Seconds | None = None
    change: int = NOTHING
    known: int = 0
    told: bool = False
    fooled: frozenset[Device] = frozenset()

    def holds(self, device: Device) -> Seconds | None:
        """Return the timer that the device holds."""
        return self.state.timer if device.speaks else self.value


@dataclass(frozen=True, slots=True)
class Message:
    """A message, frozen once it was sent.

    Attributes:
        sender: the device.
        at: when it was sent, in seconds, by a clock that is right.
        announcement: what it says of its own timer.
        zero: whether that is a timer of 0, and not an opt-out alone.
        setting: what travels beside it.
        change: the change that its sender is at.
        known: the changes that it tells of, as bits.
    """

    sender: Device
    at: int
    announcement: Announcement
    zero: bool
    setting: Setting | None
    change: int
    known: int


def changed(
    device: Device, mind: Mind, value: Seconds | None, now: int, change: int
) -> tuple[Mind, Message] | None:
    """Let the device's user set a value; None where that is set already.

    The device says so at once, in a message without text (XEP-0466 section 3.4).
    """
    if device.speaks:
        state = agreement.set_timer(
            mind.state,
            value,
            author=device.account,
            device=device.device,
            stamp=now + device.skew,
        )
        if state == mind.state:
            return None
        mind = replace(mind, state=state)
    elif value == mind.value:
        return None
    mind = replace(mind, value=value, change=change, known=mind.known | 1 << change)
    mind, message = spoken(device, mind, now, change)
    if value is None:
        out = OPT_OUT if device.behaviour is not Behaviour.KEEPS else OFF
        message = replace(message, announcement=out, zero=True)
    return mind, message


def spoken(
    device: Device, mind: Mind, now: int, change: int, *, permanent: bool = False
) -> tuple[Mind, Message]:
    """Let the device send an ordinary message.

    `change` is the number that its default gets, if it is announced with it. A `permanent` message
    has no timer whatever the conversation's is; plain clients have none of these.
    """
    if not device.speaks:
        said = ABSENT if mind.value is None else Announcement(Kind.TIMER, mind.value)
        known = 0 if mind.change == NOTHING else 1 << mind.change
        message = Message(device, now, said, False, None, mind.change, known)
        return replace(mind, told=True), message
    state, setting = agreement.announce(
        mind.state, author=device.account, device=device.device, stamp=now + device.skew
    )
    if state != mind.state:
        mind = replace(mind, state=state, change=change, known=mind.known | 1 << change)
    timer = state.timer
    if timer is not None and not permanent:
        said = Announcement(Kind.TIMER, timer)
    else:
        said = OPT_OUT if state.opting_out else ABSENT
    return mind, Message(device, now, said, False, setting, mind.change, mind.known)


def heard(device: Device, mind: Mind, message: Message, now: int, made: Sequence[Made]) -> Mind:
    """Let a device take in a message.

    `made` are all changes by number; the next number is that of one which a plain client makes of
    it by its own rule.

    Raises:
        Broken: it took an echo for a change.
    """
    if device.speaks:
        return _judged(device, mind, message, now, made)
    return _believed(device, mind, message, made)


def _judged(device: Device, mind: Mind, message: Message, now: int, made: Sequence[Made]) -> Mind:
    """Take in a message as this library does, and check what it made of it."""
    speech = Speech(
        author=message.sender.account,
        device=message.sender.device,
        stamp=message.at + message.sender.skew,
        announcement=message.announcement,
        setting=message.setting,
        own=message.sender.account == device.account,
    )
    state, change = agreement.receive(mind.state, speech, now=now + device.skew)
    if message.setting is not None and state.tag != _greater(mind.state.tag, message.setting.tag):
        raise Broken("of two settings the greater one does not hold")
    if (change is not None) != (state.timer != mind.state.timer):
        raise Broken("a change of the timer is told when there is one, and only then")
    moved = state.tag != mind.state.tag
    fooled = mind.fooled
    if not moved and _happens_to_hold(mind, message):
        fooled |= {message.sender}
    if state.tag != mind.state.tag and message.sender not in fooled:
        _check_news(mind, state.tag, message, made)
    known = mind.known | message.known
    if not moved and _says_nothing_new(mind, message, made):
        known = mind.known
    at = message.change if moved else mind.change
    return Mind(state=state, change=at, known=known, fooled=fooled)


def _check_news(mind: Mind, tag: Tag | None, message: Message, made: Sequence[Made]) -> None:
    """Check that what has moved a device is news."""
    before = mind.state.tag
    if message.setting is not None:
        return
    # A change whose author had seen the current one may hold, also where somebody else with a wrong
    # clock had taken it for an earlier one, and said so.
    follows = mind.change != NOTHING and made[message.change].known >> mind.change & 1
    if mind.known >> message.change & 1 and not follows:
        raise Broken("an echo, of a change that the device knew, has changed its setting")
    if before is None or tag is None:
        return
    if tag.rank < before.rank:
        raise Broken("a smaller tag has replaced a greater one")
    stamp = 1000 * (message.at + message.sender.skew)
    if before.counter > 0 and not follows and stamp < before.stamp:
        raise Broken("of two changes at once the earlier one holds")


def _greater(held: Tag | None, told: Tag) -> Tag:
    """Return the one that is to hold: the order of `setting.xsd`, in other words than `Tag`'s."""
    return told if held is None else max(held, told, key=_order)


def _order(tag: Tag) -> tuple[int, int, str, int, int]:
    sign = -1 if tag.counter == 0 else 1
    return tag.counter, sign * tag.stamp, tag.author, tag.device, tag.timer or 0


def _happens_to_hold(mind: Mind, message: Message) -> bool:
    """Tell whether a plain client has set the current value without having seen it.

    Nobody can tell that from having seen it, so the next that it says counts as a change, even if
    others have repeated that before.
    """
    return (
        message.setting is None
        and message.announcement.kind is Kind.TIMER
        and message.announcement.timer == mind.state.timer
        and message.change != mind.change
    )


def _says_nothing_new(mind: Mind, message: Message, made: Sequence[Made]) -> bool:
    """Tell whether nobody can know from a message of which change it tells.

    Absence does not. Nor does a value that was set before: where going back to it cannot be told
    from an echo, it is taken for one, and whoever does so has not heard of the change.
    """
    if message.setting is not None:
        return False
    value = message.announcement.timer
    return message.announcement.kind is Kind.ABSENT or any(
        mind.known >> number & 1 and each.value == value for number, each in enumerate(made)
    )


def _believed(device: Device, mind: Mind, message: Message, made: Sequence[Made]) -> Mind:
    """Take over what a message says, as a plain client does."""
    said = message.announcement
    own = len(made)
    if said.kind is Kind.TIMER:
        value = said.timer
    elif message.zero or (said.kind is Kind.OFF and device.behaviour is not Behaviour.KEEPS):
        value = None
    elif device.behaviour is Behaviour.TURNS_OFF and mind.value is not None:
        return Mind(value=None, change=own, known=mind.known | 1 << own)
    else:
        return mind
    if message.change == NOTHING:
        return mind
    past = made[message.change].known
    new = not mind.known >> message.change & 1
    follows = mind.change == NOTHING or past >> mind.change & 1
    if new and (follows or not mind.told):
        return Mind(
            value=value, change=message.change, known=mind.known | 1 << message.change | past
        )
    if value == mind.value:
        return mind
    # It goes back to what had been replaced, or was never to hold beside what it has told of: by
    # its own rule, as if its user had done so.
    known = mind.known | 1 << message.change | past | 1 << own
    return Mind(value=value, change=own, known=known)


def holder(devices: Sequence[Device], minds: Sequence[Mind]) -> int | None:
    """Return which tag speaker holds the winner: the greatest tag that any of them holds.

    Where that is off, one whose account has opted out comes first: only its messages tell a plain
    client of it. None while nobody has a setting.
    """
    held = [
        (mind.state.tag.rank, mind.state.opting_out, -index)
        for index, (device, mind) in enumerate(zip(devices, minds, strict=True))
        if device.speaks and mind.state.tag is not None
    ]
    return -max(held)[2] if held else None


def agree(device: Device, mind: Mind, message: Message, tag: Tag | None) -> bool:
    """Tell whether a device that has taken in a message holds the winner, of which that tells.

    A plain client is broken by its own rule where a message without a timer tells it nothing: the
    winner is off, and it has missed that; or it was turned off by absence.
    """
    if device.speaks:
        return mind.state.tag == tag
    said = message.announcement.kind
    if said is Kind.ABSENT or (device.behaviour is Behaviour.KEEPS and said is Kind.OFF):
        return True
    return mind.value == (None if tag is None else tag.timer)
