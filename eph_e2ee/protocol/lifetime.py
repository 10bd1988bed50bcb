"""The life of one message: a table over phases and events, and one function.

    outgoing   UNSENT  --sent-->  RUNNING  --due-->  GONE
    incoming   UNREAD  --read-->  RUNNING  --due-->  GONE

A message without a timer goes to READ instead of RUNNING and stays there until it is erased. The
timer was frozen when the message was sent (XEP-0466 section 5: "Once it has been sent, the timer
on a message cannot be changed"); no event changes it. A deadline only ever moves to the front:
the earliest start that is heard of counts, and reading twice never extends it.

The one exception is the cap: an incoming message with a timer may be given a deadline for the case
that nobody ever opens it. Reading it in time puts its timer's deadline in place of that one.
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import Direction, Phase, Seconds
from eph_e2ee.protocol.ephemeral import checked_timer

__all__ = ["TABLE", "Event", "Lifetime", "created", "step"]


class Event(enum.Enum):
    """What happens to a message.

    `SENT`: it left this machine. `INTERRUPTED`: the process died before it was known whether it
    left, so its timer must run. `READ`: somebody at this account has seen it; `now` is then the
    time of reading, which may lie in the past when another device reports it. `DUE`: its deadline
    has come. `ERASED`: the user does not want it any more.
    """

    SENT = "sent"
    INTERRUPTED = "interrupted"
    READ = "read"
    DUE = "due"
    ERASED = "erased"


TABLE: Mapping[tuple[Phase, Event], Phase] = MappingProxyType(
    {
        (Phase.UNSENT, Event.SENT): Phase.RUNNING,
        (Phase.UNSENT, Event.INTERRUPTED): Phase.RUNNING,
        (Phase.UNSENT, Event.ERASED): Phase.GONE,
        (Phase.UNREAD, Event.READ): Phase.RUNNING,
        (Phase.UNREAD, Event.DUE): Phase.GONE,
        (Phase.UNREAD, Event.ERASED): Phase.GONE,
        (Phase.READ, Event.SENT): Phase.READ,
        (Phase.READ, Event.INTERRUPTED): Phase.READ,
        (Phase.READ, Event.READ): Phase.READ,
        (Phase.READ, Event.ERASED): Phase.GONE,
        (Phase.RUNNING, Event.SENT): Phase.RUNNING,
        (Phase.RUNNING, Event.INTERRUPTED): Phase.RUNNING,
        (Phase.RUNNING, Event.READ): Phase.RUNNING,
        (Phase.RUNNING, Event.DUE): Phase.GONE,
        (Phase.RUNNING, Event.ERASED): Phase.GONE,
        (Phase.GONE, Event.SENT): Phase.GONE,
        (Phase.GONE, Event.INTERRUPTED): Phase.GONE,
        (Phase.GONE, Event.READ): Phase.GONE,
        (Phase.GONE, Event.DUE): Phase.GONE,
        (Phase.GONE, Event.ERASED): Phase.GONE,
    }
)
"""The next phase; `RUNNING` means `READ` where there is no timer. A missing row is an error."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Where a message stands.

    Attributes:
        phase: where it stands.
        timer: its own timer, frozen; None for a permanent message.
        deadline: when it disappears, whole seconds since the epoch; None before its timer runs,
            unless its life unread is capped. Of one that is gone: when it disappeared.
    """

    phase: Phase
    timer: Seconds | None
    deadline: int | None

    def is_due(self, now: float) -> bool:
        """Tell whether its deadline has come; nothing that is due may be shown."""
        return self.deadline is not None and now >= self.deadline


def created(
    direction: Direction, timer: Seconds | None, *, cap_until: int | None = None
) -> Lifetime:
    """Begin the life of a message that was just composed or has just arrived.

    Args:
        direction: ours or somebody else's.
        timer: its own timer; None for a permanent message.
        cap_until: when an incoming message with a timer disappears if nobody has read it by then
            (F19), whole seconds since the epoch; None for never. Other messages have no such end.

    Raises:
        LocalProtocolError: the timer is out of range; zero is no timer, it means None.
    """
    if timer is not None:
        checked_timer(timer)
    if direction is Direction.OUTGOING:
        return Lifetime(Phase.UNSENT, timer, None)
    return Lifetime(Phase.UNREAD, timer, None if timer is None else cap_until)


def step(lifetime: Lifetime, event: Event, now: float) -> Lifetime:
    """Apply an event that happened at `now`, in seconds since the epoch.

    `DUE` before the deadline changes nothing, nor does `READ` after the end of an unread life.

    Raises:
        LocalProtocolError: the event cannot happen in this phase.
    """
    phase = TABLE.get((lifetime.phase, event))
    if phase is None:
        raise LocalProtocolError(f"{event} cannot happen to a message that is {lifetime.phase}")
    if lifetime.phase is Phase.GONE or _comes_to_nothing(lifetime, event, now):
        return lifetime
    if phase is Phase.RUNNING and lifetime.timer is None:
        phase = Phase.READ
    return Lifetime(phase, lifetime.timer, _deadline(lifetime, phase, now))


def _comes_to_nothing(lifetime: Lifetime, event: Event, now: float) -> bool:
    if event is Event.DUE:
        return not lifetime.is_due(now)
    return event is Event.READ and lifetime.phase is Phase.UNREAD and lifetime.is_due(now)


def _deadline(lifetime: Lifetime, phase: Phase, now: float) -> int | None:
    """Return the earlier of the deadline so far and the one that this event gives.

    That of an unread message held for the case that it stays so, and ends with the reading.
    """
    # Rounded up: nobody gets less than the timer's whole seconds. A time before 1970 is no time of
    # any message, whoever gives it.
    moment = max(0, math.ceil(now))
    if phase is Phase.GONE:
        candidate = moment
    elif phase is Phase.RUNNING and lifetime.timer is not None:
        candidate = moment + lifetime.timer
        if lifetime.phase is Phase.UNREAD:
            return candidate
    else:
        return lifetime.deadline
    return candidate if lifetime.deadline is None else min(lifetime.deadline, candidate)
