"""The `<ephemeral/>` element of XEP-0466: what a message says about its own life.

A timer of zero, undefined in the specification, means "off" here as in most clients, and never
"burn now". The opt-out, a to-do of the specification, is read in the three forms that occur.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import Seconds
from eph_e2ee.protocol import envelope
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.protocol.xml import Element

__all__ = [
    "MAX_TIMER",
    "NAMESPACE",
    "Announcement",
    "Kind",
    "checked_timer",
    "is_ephemeral",
    "parse_timer",
    "read",
    "seconds",
    "write",
    "write_off",
    "write_opt_out",
]

NAMESPACE = "urn:xmpp:ephemeral:0"

MAX_TIMER = 2**32 - 1
"""Seconds, the largest xs:unsignedInt (XEP-0466 section 3.2): about 136 years."""

_EPHEMERAL = f"{{{NAMESPACE}}}ephemeral"
_OPT_OUT = f"{{{NAMESPACE}}}i-want-out"
# The specification shows it without a namespace, as a child of a message (jabber:client). Copied
# into an envelope as it stands, it inherits the envelope's.
_OPT_OUTS = frozenset(
    {
        _OPT_OUT,
        "{jabber:client}i-want-out",
        f"{{{envelope.NAMESPACE}}}i-want-out",
        "i-want-out",
    }
)
# The sign of an xs:unsignedInt may be "-" only before zero. Leading zeros are not limited, and
# are left behind here, so that no long text is ever made a number.
_TIMER = re.compile(r"(?:\+?0*([0-9]{1,10})|-0+)")


class Kind(enum.Enum):
    """What a message says about timers."""

    ABSENT = "absent"
    TIMER = "timer"
    OFF = "off"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the content of one message says about timers.

    Attributes:
        kind: `ABSENT` leaves everything as it is, and the message is permanent; `TIMER` carries
            the message's timer; `OFF` ends timers in the conversation; `MALFORMED` changes
            nothing, and the message lives under the conversation's timer.
        timer: the timer in seconds, 1 to `MAX_TIMER`; only with `TIMER`.
        opt_out: whether `<i-want-out/>` is the reason, or one reason, of `OFF`.
        findings: what was accepted and is reported.
    """

    kind: Kind
    timer: Seconds | None = None
    opt_out: bool = False
    findings: tuple[Finding, ...] = ()


def read(content: Sequence[Element]) -> Announcement:
    """Read what the elements of a message say; what is nested deeper does not count.

    Of several timers the shortest above zero wins; a timer wins over an opt-out. It never raises.
    """
    texts = [element.get("timer") for element in content if element.tag == _EPHEMERAL]
    opt_out = any(element.tag in _OPT_OUTS for element in content)
    timers = [_timer_or_none(text) for text in texts]
    findings = []
    if len(timers) > 1:
        findings.append(Finding.SEVERAL_EPHEMERALS)
    if None in timers:
        findings.append(Finding.MALFORMED_TIMER)
    lasting = [timer for timer in timers if timer]
    if lasting:
        if opt_out:
            findings.append(Finding.CONTRADICTING_OPT_OUT)
        return Announcement(Kind.TIMER, Seconds(min(lasting)), findings=tuple(findings))
    return Announcement(_kind(timers, opt_out), None, opt_out, tuple(findings))


def write(timer: Seconds) -> Element:
    """Make the element that carries a message's timer.

    Raises:
        LocalProtocolError: the timer is not between 1 and `MAX_TIMER`.
    """
    return Element(_EPHEMERAL, {"timer": str(checked_timer(timer))})


def write_off() -> tuple[Element, Element]:
    """Make what tells a peer of any client that timers are off; for messages without a body."""
    return Element(_EPHEMERAL, {"timer": "0"}), write_opt_out()


def write_opt_out() -> Element:
    """Make the opt-out that is repeated on messages until the peer has stopped its timer."""
    return Element(_OPT_OUT)


def parse_timer(text: str) -> int:
    """Read any lexical form of xs:unsignedInt (XML Schema part 2): `5`, ` +5 `, `007`, `-0`.

    Raises:
        ValueError: it is none, or above `MAX_TIMER`.
    """
    match = _TIMER.fullmatch(text.strip(" \t\r\n"))
    timer = int(match[1] or 0) if match else -1
    if not 0 <= timer <= MAX_TIMER:
        raise ValueError("not an xs:unsignedInt")
    return timer


def is_ephemeral(element: Element) -> bool:
    """Tell whether an element is one of this specification's, or an opt-out in any form."""
    return element.tag == _EPHEMERAL or element.tag in _OPT_OUTS


def checked_timer(seconds: int) -> Seconds:
    """Take a number of seconds as a timer.

    Raises:
        LocalProtocolError: it is not a whole number between 1 and `MAX_TIMER`.
    """
    if type(seconds) is not int or not 1 <= seconds <= MAX_TIMER:
        raise LocalProtocolError(f"a timer is a whole number of seconds, 1 to {MAX_TIMER}")
    return Seconds(seconds)


def seconds(timer: timedelta) -> Seconds:
    """A timer as the protocol has it: a whole number of seconds.

    Raises:
        LocalProtocolError: it is none, or out of range.
        TypeError: it is no timedelta: a number does not say of what.
    """
    if not isinstance(timer, timedelta):
        raise TypeError("give a timer as a timedelta, for example timedelta(days=7)")
    number = timer / timedelta(seconds=1)
    if not number.is_integer():
        raise LocalProtocolError("a timer is a whole number of seconds")
    return checked_timer(int(number))


def _kind(timers: list[int | None], opt_out: bool) -> Kind:  # noqa: FBT001 - a fact, no switch
    if opt_out or 0 in timers:
        return Kind.OFF
    return Kind.MALFORMED if timers else Kind.ABSENT


def _timer_or_none(text: str | None) -> int | None:
    try:
        return None if text is None else parse_timer(text)
    except ValueError:
        return None
