"""The one timer that everybody in a conversation ends on.

The setting is a last-writer-wins register: of two changes the one with the greater tag holds, on
every device, in whatever order they arrive (`setting.Tag`). Messages of this library carry the tag,
so that repeating a value says nothing new.

A peer that knows only XEP-0466 carries its timer on every message, so most of what it announces is
an *echo* of a value that is already known, perhaps of one that has been replaced since. An echo
never undoes a change (`echo.py`):

* what a device announced last, or what others have said since it was last known to be up to date,
  is an echo, and changes nothing;
* a device that has seen the current setting changes it freely, whatever its clock says;
* any other value is a change that was made without knowing of the current one: the later clock
  wins, and the other one is passed on as replaced.

A change that counts becomes a tag with the next counter. Absence says nothing (F24). Older
announcements of a device than its last, or than a setting of its own of which others have told, are
replays. Where nothing tells an echo from a change, it is an echo: a peer that goes back to a value
which it may merely be repeating has to say so again once it has seen ours.
"""

from dataclasses import dataclass, replace

from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import echo
from eph_e2ee.protocol.ephemeral import Kind, checked_timer
from eph_e2ee.protocol.register import (
    DAY,
    MAX_HEARD,
    MAX_SAID,
    Agreement,
    Heard,
    Said,
    Speech,
    adopted,
    history,
    next_counter,
    noted,
    remembered,
    with_past,
)
from eph_e2ee.protocol.setting import Setting, Tag

__all__ = [
    "ACTIVE",
    "MARGIN",
    "MAX_HEARD",
    "MAX_JUMP",
    "MAX_SAID",
    "Agreement",
    "Change",
    "Heard",
    "Said",
    "Speech",
    "announce",
    "receive",
    "set_timer",
]

MARGIN = DAY
"""Milliseconds by which a stamp may lie in the future; one that is further ahead counts as this
far. More than clocks with a wrong time zone are off, so that it touches none that merely is."""

ACTIVE = 30 * DAY
"""Milliseconds for which a device counts as in use after it was heard from."""

MAX_JUMP = 2**20
"""How far a counter may be ahead of ours. Nobody makes so many changes that we do not hear of, and
a counter that leaps further would leave nobody else anything to count to."""


@dataclass(frozen=True, slots=True)
class Change:
    """A conversation's timer has changed.

    Attributes:
        old: the timer until now.
        new: the timer from now on.
        author: who changed it.
        device: on which device.
        authenticated: whether a device of its author's, or another one of ours, has told of it.
            What somebody else passes on is as true as that one is.
    """

    old: Seconds | None
    new: Seconds | None
    author: BareJid
    device: DeviceId
    authenticated: bool = True


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
    tag = Tag(next_counter(state), _milliseconds(stamp), author, device, timer)
    return adopted(state, tag, own=True)


def announce(
    state: Agreement, *, author: BareJid, device: DeviceId, stamp: float
) -> tuple[Agreement, Setting | None]:
    """Return the state once the next message is out, and the setting that goes with it.

    A default that is announced becomes a setting, the weakest: anybody's choice replaces it, and a
    default that was announced before it holds (Peter, in the example of XEP-0466).
    """
    if state.tag is None and state.default is not None:
        tag = Tag(0, _milliseconds(stamp), author, device, state.default)
        state = adopted(state, tag, own=True)
    return state, None if state.tag is None else Setting(state.tag, *history(state))


def receive(state: Agreement, speech: Speech, *, now: float) -> tuple[Agreement, Change | None]:
    """Take in what a message says; `now` is the time of receipt in seconds since the epoch."""
    if not speech.member:
        return state, None
    after = _ended(_taken_in(state, speech, _milliseconds(now) + MARGIN))
    if after.timer == state.timer or after.tag is None:
        return after, None
    tag = after.tag
    authenticated = speech.own or tag.author == speech.author
    return after, Change(state.timer, tag.timer, tag.author, tag.device, authenticated)


def _taken_in(state: Agreement, speech: Speech, latest: int) -> Agreement:
    stamp = min(_milliseconds(speech.stamp), latest)
    if speech.setting is not None:
        tag = replace(speech.setting.tag, stamp=min(speech.setting.tag.stamp, latest))
        if not _is_credible(state, speech, tag):
            return state
        state = with_past(state, speech.setting, tag.stamp, speech.accounts)
        return _merged(state, speech, tag, stamp)
    heard = state.find(speech.speaker)
    if speech.announcement.kind is Kind.MALFORMED:
        return state
    if heard.announced and stamp < heard.stamp:
        return _overtaken(state, speech, stamp)
    if speech.announcement.kind is Kind.ABSENT:
        return _without_timer(state, heard, stamp)
    return _judged(state, speech, stamp)


def _is_credible(state: Agreement, speech: Speech, tag: Tag) -> bool:
    return tag.counter <= _counter(state) + MAX_JUMP and (
        speech.accounts is None or tag.author in speech.accounts
    )


def _merged(state: Agreement, speech: Speech, tag: Tag, stamp: int) -> Agreement:
    """Take in a message that names the setting which its sender holds."""
    state = _told(state, tag)
    heard = state.find(speech.speaker)
    if state.tag is None or tag.rank > state.tag.rank:
        own = speech.own and tag.author == speech.author
        state = adopted(state, tag, own=own)
    elif tag.timer != state.timer:
        state = noted(state, Said(tag.counter, tag.timer, tag.author, tag.device, stamp))
    holds = tag == state.tag
    # Such a device is judged by its value only if another client takes its place.
    return remembered(
        state,
        Heard(
            *speech.speaker,
            announced=True,
            timer=tag.timer,
            stamp=max(stamp, heard.stamp),
            seen=state.current if holds else heard.seen,
            quiet=holds and tag.timer is None,
            last=max(stamp, heard.last),
        ),
    )


def _told(state: Agreement, tag: Tag) -> Agreement:
    """Note that the setting's author announced it: what that device said before is a replay."""
    heard = state.find((tag.author, tag.device))
    if heard.announced and heard.stamp >= tag.stamp:
        return state
    return remembered(state, replace(heard, announced=True, timer=tag.timer, stamp=tag.stamp))


def _overtaken(state: Agreement, speech: Speech, stamp: int) -> Agreement:
    """Take in what a device said before its last announcement: others may still repeat it."""
    value = speech.announcement.timer
    if value is None or any(said.timer == value for said in state.said):
        return state
    return noted(state, Said(_counter(state), value, *speech.speaker, stamp))


def _judged(state: Agreement, speech: Speech, stamp: int) -> Agreement:
    """Take in a message that merely carries a value."""
    value, heard = speech.announcement.timer, state.find(speech.speaker)
    seen = echo.newest_seen(state, heard, value, stamp)
    if state.tag is None or value != state.timer:
        verdict = echo.judge(state, speech, stamp)
        if verdict is echo.Verdict.CHANGE:
            tag = Tag(next_counter(state), stamp, *speech.speaker, value)
            state = adopted(state, tag, own=speech.own)
        else:
            # Who replaces the current setting replaces what is late as well, and says so.
            counter = _counter(state) if verdict is echo.Verdict.LATE else None
            state = noted(state, Said(counter, value, *speech.speaker, stamp))
    return remembered(
        state,
        Heard(
            *speech.speaker,
            announced=True,
            timer=value,
            stamp=stamp,
            seen=seen,
            quiet=value is None,
            last=max(stamp, heard.last),
        ),
    )


def _counter(state: Agreement) -> int:
    return 0 if state.tag is None else state.tag.counter


def _without_timer(state: Agreement, heard: Heard, stamp: int) -> Agreement:
    """Absence says nothing, but for an opt-out that waits for it."""
    if state.tag is None or not state.out:
        return state
    quiet = heard.quiet or stamp >= state.tag.stamp
    return remembered(state, replace(heard, quiet=quiet, last=max(stamp, heard.last)))


def _ended(state: Agreement) -> Agreement:
    """End an opt-out once every active device of others has sent a message without a timer.

    "The original client seeing no ephemeral tag is being included SHOULD stop sending the opt-out
    element" (XEP-0466 section 3.5).
    """
    if not state.out or state.tag is None:
        return state
    author, since = state.tag.author, state.tag.stamp - ACTIVE
    active = [each.quiet for each in state.heard if each.author != author and each.last >= since]
    return replace(state, out=not (active and all(active)))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
