"""The opt-out of OMEMO: a peer asks for plain text instead (XEP-0384 section 5.7).

    <opt-out xmlns='urn:xmpp:omemo:2'><reason>...</reason></opt-out>

It stands inside an envelope. "To prevent that the user is accidentally sending plaintext messages,
the client MUST block all outgoing message until the user has confirmed the switch to plaintext."
Nothing is ever sent in plain text here, so what is confirmed is that somebody knows what the peer
wants; what is sent afterwards is encrypted as before. "At any point any party MAY revert their
decision": the peer does so by a message of its own that is newer than its opt-out.

This is not the opt-out of timers, `<i-want-out/>`: see `ephemeral.py`.
"""

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from eph_e2ee.errors import LocalProtocolError, VaultDamaged
from eph_e2ee.protocol.xml import Element

__all__ = [
    "MAX_REASON",
    "NAMESPACE",
    "Event",
    "Phase",
    "Request",
    "State",
    "is_opt_out",
    "read",
    "step",
    "write",
]

NAMESPACE: Final = "urn:xmpp:omemo:2"

MAX_REASON: Final = 1000
"""Characters of a reason; the rest of a longer one is not looked at, and none is sent."""

_OPT_OUT: Final = f"{{{NAMESPACE}}}opt-out"
_REASON: Final = f"{{{NAMESPACE}}}reason"


class Phase(enum.Enum):
    """Whether anything may be sent."""

    OPEN = "open"
    BLOCKED = "blocked"


class Event(enum.Enum):
    """What bears on that."""

    OPT_OUT = "the peer asks for plain text"
    MESSAGE = "the peer writes, encrypted"
    CONFIRMED = "somebody here knows"


_TABLE: Final = {
    (Phase.OPEN, Event.OPT_OUT): Phase.BLOCKED,
    (Phase.OPEN, Event.MESSAGE): Phase.OPEN,
    (Phase.OPEN, Event.CONFIRMED): Phase.OPEN,
    (Phase.BLOCKED, Event.OPT_OUT): Phase.BLOCKED,
    (Phase.BLOCKED, Event.MESSAGE): Phase.OPEN,
    (Phase.BLOCKED, Event.CONFIRMED): Phase.OPEN,
}


@dataclass(frozen=True, slots=True)
class State:
    """How a conversation stands.

    Attributes:
        phase: whether anything may be sent.
        stamp: when the peer sent what last changed it, in milliseconds since the epoch.
    """

    phase: Phase = Phase.OPEN
    stamp: int = 0

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps([self.phase.value, self.stamp])

    @classmethod
    def from_json(cls, text: str) -> "State":
        """Read what `to_json` wrote.

        Raises:
            VaultDamaged: it was not.
        """
        try:
            phase, stamp = json.loads(text)
            return cls(Phase(phase), int(stamp))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise VaultDamaged("what is known of an opt-out is damaged") from None


@dataclass(frozen=True, slots=True)
class Request:
    """An opt-out that was received.

    Attributes:
        reason: the peer's words; None without any.
    """

    reason: str | None = field(default=None, repr=False)


def step(state: State, event: Event, stamp: int | None = None) -> State:
    """Return the state after an event.

    Messages come in any order: what the peer has sent before its last word that counted changes
    nothing any more.

    Args:
        state: as it is.
        event: what happens.
        stamp: when the peer has sent it, in milliseconds since the epoch; None for `CONFIRMED`.
    """
    after = _TABLE[state.phase, event]
    if stamp is None:
        return State(after, state.stamp)
    old = stamp < state.stamp or (stamp == state.stamp and event is Event.MESSAGE)
    if old or (after is state.phase and event is Event.MESSAGE):
        return state
    return State(after, stamp)


def read(content: Sequence[Element]) -> Request | None:
    """Return the opt-out among the elements of a content; the first one where there are more."""
    found = next(filter(is_opt_out, content), None)
    if found is None:
        return None
    reason = (found.findtext(_REASON) or "").strip()[:MAX_REASON]
    return Request(reason or None)


def is_opt_out(element: Element) -> bool:
    """Tell whether an element is an opt-out."""
    return element.tag == _OPT_OUT


def write(reason: str | None) -> Element:
    """Make an opt-out.

    Raises:
        LocalProtocolError: the reason is longer than `MAX_REASON`.
    """
    if reason is not None and len(reason) > MAX_REASON:
        raise LocalProtocolError(f"a reason has at most {MAX_REASON} characters")
    element = Element(_OPT_OUT)
    if reason is not None:
        told = Element(_REASON)
        told.text = reason
        element.append(told)
    return element
