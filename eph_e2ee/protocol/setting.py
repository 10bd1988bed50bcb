"""The setting that travels beside the timer: which change of it a message knows.

    <setting xmlns='eph-e2ee:agreement:0' counter='7' stamp='2026-11-25T18:30:00.125Z'
             author='rosa@example.org' device='1234567890' timer='432000'
             past='6:604800 5:86400' off='peter@example.org'/>

XEP-0466 carries a value and leaves open whether it is news ("wonky", "this might go on forever").
So a sibling of `<ephemeral/>`, in a namespace of our own and ignorable by everybody else, names
the change: a Lamport counter, when, by whom. `setting.xsd` is its schema. It stands inside the
envelope only, where OMEMO authenticates who sends it on.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import ephemeral, stamps
from eph_e2ee.protocol.envelope import MAX_JID, Finding
from eph_e2ee.protocol.xml import Element, quoted

__all__ = [
    "MAX_COUNTER",
    "MAX_OFF",
    "MAX_PAST",
    "NAMESPACE",
    "Past",
    "Setting",
    "Tag",
    "fitting",
    "is_setting",
    "read",
    "write",
]

NAMESPACE = "eph-e2ee:agreement:0"

MAX_COUNTER = 2**53 - 1
"""The largest whole number that every implementation of JSON and XML keeps exactly."""

MAX_PAST = 16
"""Settings that a message names beside the current one: nobody is that many changes behind."""

MAX_OFF = 1024
"""Bytes of the accounts that a message names, as they are written: it goes with every message, and
whose they are anybody may say. Enough for `MAX_PAST` of 60 characters each."""

_SETTING = f"{{{NAMESPACE}}}setting"
_MAX_DEVICE = 2**31 - 1
_ATTRIBUTES = frozenset({"counter", "stamp", "author", "device", "timer", "past", "off"})
_NUMBER = re.compile(r"[0-9]{1,16}")
_PAST = re.compile(r"([0-9]{1,16}):([0-9]{1,10})")
_ITEM = re.compile(r"[^ \t\r\n]+")


@dataclass(frozen=True, slots=True)
class Tag:
    """One change of a conversation's timer, and its place among all others.

    Attributes:
        counter: a Lamport counter, 0 to `MAX_COUNTER`: greater than that of every change which its
            author knew. 0 is a default that nobody has chosen for this conversation.
        stamp: when, in milliseconds since the epoch, by the author's clock.
        author: who made it.
        device: on which device.
        timer: the value; None for off.
    """

    counter: int
    stamp: int
    author: BareJid
    device: DeviceId
    timer: Seconds | None

    @property
    def rank(self) -> tuple[int, int, str, int, int]:
        """What decides between two: the greater one holds. It is the same on every device.

        Of two defaults the earlier one holds, so that a device that comes later brings none.
        """
        stamp = self.stamp if self.counter else -self.stamp
        return self.counter, stamp, self.author, self.device, self.timer or 0


class Past(NamedTuple):
    """A setting that has been replaced: which one, and its value."""

    counter: int
    timer: Seconds | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a message says of the conversation's setting.

    Attributes:
        tag: the setting that its sender holds.
        past: what was set or said before, the newest first; at most `MAX_PAST`. Whoever repeats
            one of these has not seen `tag`.
        off: accounts that had turned timers off before; an opt-out that they repeat is old.
    """

    tag: Tag
    past: tuple[Past, ...] = ()
    off: tuple[BareJid, ...] = ()


def read(content: Sequence[Element]) -> tuple[Setting | None, tuple[Finding, ...]]:
    """Read the setting among the elements of a message, and report one that is malformed.

    Several are as good as none. It never raises.
    """
    found = [element for element in content if element.tag == _SETTING]
    if not found:
        return None, ()
    setting = _read(found[0]) if len(found) == 1 else None
    return setting, () if setting else (Finding.MALFORMED_SETTING,)


def write(setting: Setting) -> Element:
    """Make the element that carries a setting.

    Raises:
        OverflowError: the stamp lies beyond the year 9999.
    """
    tag = setting.tag
    element = Element(
        _SETTING,
        {
            "counter": str(tag.counter),
            "stamp": stamps.write(tag.stamp),
            "author": tag.author,
            "device": str(tag.device),
            "timer": str(tag.timer or 0),
        },
    )
    if setting.past:
        element.set("past", " ".join(f"{past.counter}:{past.timer or 0}" for past in setting.past))
    if setting.off:
        element.set("off", " ".join(setting.off))
    return element


def fitting(accounts: Iterable[BareJid]) -> tuple[BareJid, ...]:
    """Return the first accounts that fit together into a message, each once."""
    kept, left = [], MAX_OFF
    for account in dict.fromkeys(accounts):
        size = len(quoted(account).encode())
        if size <= left:
            kept.append(account)
            left -= size
    return tuple(kept)


def is_setting(element: Element) -> bool:
    """Tell whether an element is one of this namespace's."""
    return element.tag.startswith(f"{{{NAMESPACE}}}")


def _read(element: Element) -> Setting | None:
    if element.text or len(element) or not _ATTRIBUTES.issuperset(element.keys()):
        return None
    try:
        tag = Tag(
            counter=_number(element.get("counter", ""), MAX_COUNTER),
            stamp=_milliseconds(element.get("stamp", "")),
            author=_jid(element.get("author", "")),
            device=DeviceId(_number(element.get("device", ""), _MAX_DEVICE)),
            timer=_timer(element.get("timer", "")),
        )
        past = tuple(_past(text) for text in _ITEM.findall(element.get("past", "")))
        off = tuple(_jid(text) for text in _ITEM.findall(element.get("off", "")))
    except ValueError:
        return None
    if len(past) > MAX_PAST or len(off) > MAX_PAST or tag.device == 0:
        return None
    return Setting(tag, past, off)


def _past(text: str) -> Past:
    match = _PAST.fullmatch(text)
    if not match:
        raise ValueError("not a counter and a timer")
    return Past(_number(match[1], MAX_COUNTER), _timer(match[2]))


def _timer(text: str) -> Seconds | None:
    return Seconds(ephemeral.parse_timer(text)) or None


def _number(text: str, largest: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > largest:
        raise ValueError("not a number in range")
    return int(text)


def _jid(text: str) -> BareJid:
    if not 0 < len(text.encode()) <= MAX_JID or not _is_jid(text):
        raise ValueError("not a bare JID")
    return BareJid(text)


def _is_jid(text: str) -> bool:
    return text.isprintable() and "/" not in text and " " not in text


def _milliseconds(text: str) -> int:
    moment = stamps.read(text)
    if moment is None:
        raise ValueError("not a stamp with milliseconds, in UTC")
    return moment
