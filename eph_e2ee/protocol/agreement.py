"""The one timer that everybody in a conversation ends on.

A peer that knows only XEP-0466 carries its timer on every message, so most announcements are
echoes of a value that is already known, perhaps of one that has been replaced since. An echo
never undoes a change; a change that was made without knowing of the current setting wins only
if it is the later one; a device that is known to have seen the current setting changes it freely.
Absence says nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eph_e2ee.errors import LocalProtocolError, VaultDamaged, VaultTooNew
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol.ephemeral import Announcement, Kind, checked_timer

__all__ = [
    "MAX_HEARD",
    "MAX_RECENT",
    "Agreement",
    "Change",
    "Heard",
    "outgoing",
    "receive",
    "set_timer",
]

MAX_HEARD = 256
"""Devices that are remembered; the one silent for longest is forgotten. Enough for a group, and
nobody fills the vault by inventing device ids."""

MAX_RECENT = 16
"""Settings that are remembered, to know their echoes. Nobody is that many changes behind."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Heard:
    """What one device announced last.

    Attributes:
        author: the device's account.
        device: its OMEMO device id.
        timer: what it announced; None for off.
        stamp: when, in seconds since the epoch.
        setting: the number of the newest setting that it is known to have seen.
    """

    author: BareJid
    device: DeviceId
    timer: Seconds | None
    stamp: float
    setting: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """The setting of one conversation, and what is needed to judge the next announcement.

    Attributes:
        timer: the timer of the next message; None for off.
        author: who made the setting; None before the first.
        device: the device that made it.
        stamp: when it was made, in seconds since the epoch.
        opting_out: whether `<i-want-out/>` is to be repeated.
        counter: the number of the current setting; 0 before the first, while a default holds.
        recent: the latest settings, the current one last, with the default that they replaced.
        heard: what each device announced last.
    """

    timer: Seconds | None = None
    author: BareJid | None = None
    device: DeviceId | None = None
    stamp: float = 0.0
    opting_out: bool = False
    counter: int = 0
    recent: tuple[Seconds | None, ...] = ()
    heard: tuple[Heard, ...] = ()

    def to_json(self) -> str:
        """Write it as JSON; `from_json` gives the same value back."""
        return json.dumps({"version": _VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Agreement":
        """Read what `to_json` wrote.

        Raises:
            VaultTooNew: a newer version of this library wrote it.
            VaultDamaged: nobody wrote it like this.
        """
        try:
            fields = json.loads(text)
            if fields.pop("version") > _VERSION:
                raise VaultTooNew("update eph_e2ee: a newer version has used this vault")
            return _from_fields(fields)
        except (ValueError, TypeError, KeyError, AttributeError, LocalProtocolError):
            raise VaultDamaged("the stored timer of a conversation is damaged") from None


@dataclass(frozen=True, slots=True)
class Change:
    """A conversation's timer has changed: from what, to what, and by whom."""

    old: Seconds | None
    new: Seconds | None
    author: BareJid
    device: DeviceId


def set_timer(
    state: Agreement,
    timer: Seconds | None,
    *,
    author: BareJid,
    device: DeviceId,
    stamp: float,
) -> Agreement:
    """Make a change of our own; setting what is already set changes nothing.

    Raises:
        LocalProtocolError: the timer is out of range.
    """
    if timer is not None:
        checked_timer(timer)
    if timer == state.timer:
        return state
    # Whoever makes a change here has seen the current setting, so it must be the later one.
    changed = _adopted(state, timer, author, device, max(stamp, state.stamp))
    return replace(changed, opting_out=timer is None)


def receive(
    state: Agreement,
    announcement: Announcement,
    *,
    author: BareJid,
    device: DeviceId,
    stamp: float,
    own: bool,
) -> tuple[Agreement, Change | None]:
    """Take in what a device announced in a message with a body, or in one that has only that.

    `author` and `device` are authenticated; `stamp` is the envelope's verified time, or else the
    stanza's, never later than now. `own` tells another device of this account from a peer. Receipts
    and the like, which never carry a timer, are not to be given here: they would end an opt-out.
    """
    if announcement.kind is Kind.MALFORMED:
        return state, None
    if announcement.kind is not Kind.TIMER and not own and stamp >= state.stamp:
        # "The original client seeing no ephemeral tag is being included SHOULD stop sending the
        # opt-out element" (XEP-0466 section 3.5).
        state = replace(state, opting_out=False)
    heard = _find(state, author, device)
    if announcement.kind is Kind.ABSENT or (heard is not None and stamp < heard.stamp):
        return state, None
    value = announcement.timer
    seen = _seen(state, heard, value, stamp)
    if value == state.timer or not _changes(state, heard, value, (stamp, author, device)):
        return _remembered(state, Heard(author, device, value, stamp, seen)), None
    changed = _adopted(state, value, author, device, stamp)
    return changed, Change(state.timer, value, author, device)


def outgoing(state: Agreement) -> tuple[Seconds | None, bool]:
    """Return the next message's timer, and whether `<i-want-out/>` goes along."""
    return state.timer, state.opting_out


def _changes(
    state: Agreement,
    heard: Heard | None,
    value: Seconds | None,
    tag: tuple[float, BareJid, DeviceId],
) -> bool:
    """Tell whether a device's value is a change that counts."""
    if heard is not None and value == heard.timer:
        return False
    if heard is not None and heard.setting == state.counter:
        return True  # it knew what it replaced, so its clock does not matter
    if value is not None and value in _unconfirmed(state, heard).values():
        return False
    return tag >= (state.stamp, state.author or "", state.device or 0)


def _unconfirmed(state: Agreement, heard: Heard | None) -> Mapping[int, Seconds | None]:
    """Return the settings, by number, that a device may be repeating without having made them."""
    first = state.counter - len(state.recent) + 1
    known = heard.setting if heard is not None else 0
    return {number: value for number, value in enumerate(state.recent, first) if number >= known}


def _seen(state: Agreement, heard: Heard | None, value: Seconds | None, stamp: float) -> int:
    """Return the number of the newest setting that a device surely has seen with its value."""
    if value == state.timer and stamp >= state.stamp:
        return state.counter
    # Where the same value was set twice, the earlier one: the device may be behind the other.
    numbers = [number for number, kept in _unconfirmed(state, heard).items() if kept == value]
    return min(numbers, default=heard.setting if heard is not None else 0)


def _adopted(
    state: Agreement, timer: Seconds | None, author: BareJid, device: DeviceId, stamp: float
) -> Agreement:
    """Return the state with a new setting, which the device that made it has seen."""
    counter = state.counter + 1
    changed = replace(
        state,
        timer=timer,
        author=author,
        device=device,
        stamp=stamp,
        opting_out=False,
        counter=counter,
        # Before the first setting stands the account's default, which has its echoes too.
        recent=(*(state.recent or (state.timer,)), timer)[-MAX_RECENT:],
    )
    return _remembered(changed, Heard(author, device, timer, stamp, counter))


def _find(state: Agreement, author: BareJid, device: DeviceId) -> Heard | None:
    for heard in state.heard:
        if (heard.author, heard.device) == (author, device):
            return heard
    return None


def _remembered(state: Agreement, heard: Heard) -> Agreement:
    others = [
        other
        for other in state.heard
        if (other.author, other.device) != (heard.author, heard.device)
    ]
    if len(others) >= MAX_HEARD:
        others.remove(min(others, key=lambda other: other.stamp))
    return replace(state, heard=(*others, heard))


def _from_fields(fields: dict[str, Any]) -> Agreement:
    heard = tuple(Heard(**item) for item in fields.pop("heard"))
    state = Agreement(**{**fields, "recent": tuple(fields["recent"])}, heard=heard)
    for timer in (state.timer, *state.recent, *(item.timer for item in heard)):
        if timer is not None:
            checked_timer(timer)
    return state
