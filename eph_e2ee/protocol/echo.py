"""Echo or change: what a value means that comes without a tag.

A client that knows XEP-0466 alone repeats its timer on every message. What it repeats need not be
what holds: it may not have seen that yet. "SHOULD include it in turn in following messages"
(XEP-0466 section 3.3) makes an echo of every setting that such a client ever took over.
"""

import enum
from collections.abc import Iterator

from eph_e2ee.model import Seconds
from eph_e2ee.protocol.register import DAY, Agreement, Heard, Said, Speech

__all__ = ["Verdict", "judge", "newest_seen"]

SLACK = DAY
"""Milliseconds after which a device that has announced something else is not repeating any more
what others said: it has seen that, whatever the clocks show."""


class Verdict(enum.Enum):
    """What a value is, that came without a tag and is not the current one.

    `ECHO`: it was heard of before. `LATE`: it was set before the current one, by somebody who had
    not seen that. `CHANGE`: it is what holds from now on.
    """

    ECHO = "echo"
    LATE = "late"
    CHANGE = "change"


def judge(state: Agreement, speech: Speech, stamp: int) -> Verdict:
    """Tell what a device's value is; `stamp`: when it was said, in milliseconds since the epoch."""
    value, heard = speech.announcement.timer, state.find(speech.speaker)
    if heard.announced and value == heard.timer:
        return Verdict.ECHO  # it repeats itself
    unseen = list(_unseen(state, heard))
    if heard.announced and all(number <= heard.seen for number, _ in unseen):
        return Verdict.CHANGE  # it knew what it replaced, so its clock does not matter
    if value is not None:
        if any(said.timer == value for _, said in unseen):
            return Verdict.ECHO
    elif any(said.timer is None and said.author == speech.author for _, said in unseen):
        return Verdict.ECHO  # nobody repeats another's opt-out, but everybody its own
    if state.tag is None or state.tag.counter == 0:
        return Verdict.CHANGE  # nobody has chosen the current one
    later = (stamp, *speech.speaker) >= (state.tag.stamp, state.tag.author, state.tag.device)
    return Verdict.CHANGE if later else Verdict.LATE


def newest_seen(state: Agreement, heard: Heard, value: Seconds | None, stamp: int) -> int:
    """Return the number of the newest saying that a device surely has seen with its value."""
    tag = state.tag
    own = tag is not None and (tag.author, tag.device) == heard.speaker
    if tag is not None and value == tag.timer and stamp >= tag.stamp + SLACK and not own:
        return state.current
    if value is None or (heard.announced and value == heard.timer):
        return heard.seen  # nobody repeats that timers are off, and it repeats itself
    # Where the same value was said twice, the earlier one: the device may be behind the other. Its
    # own tells nothing of what others have said, and what was passed on may be its own. Nor does
    # what was heard of late, after the current one.
    for number, said in _since(state, heard):
        if said.timer == value:
            others = said.device is not None and (said.author, said.device) != heard.speaker
            return number if others and number <= state.current else heard.seen
    return heard.seen


def _unseen(state: Agreement, heard: Heard) -> Iterator[tuple[int, Said]]:
    """Yield what others have said, by number, that a device may be repeating."""
    for number, said in _since(state, heard):
        if (said.author, said.device) != heard.speaker:
            yield number, said


def _since(state: Agreement, heard: Heard) -> Iterator[tuple[int, Said]]:
    """Yield what was said, by number, since a device is known to have been up to date."""
    since = heard.stamp - SLACK if heard.announced else 0
    for number, said in state.numbered():
        if number >= heard.seen and said.stamp >= since:
            yield number, said
