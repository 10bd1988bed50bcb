"""What is known of one conversation's timer: the setting, what was said of it, and by whom.

`agreement.py` decides; here stands the value that it decides on, and how that is kept.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eph_e2ee.errors import LocalProtocolError, VaultDamaged, VaultTooNew
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol.ephemeral import Announcement, checked_timer
from eph_e2ee.protocol.setting import MAX_COUNTER, MAX_PAST, Past, Setting, Tag, fitting

__all__ = [
    "DAY",
    "MAX_HEARD",
    "MAX_SAID",
    "Agreement",
    "Heard",
    "Said",
    "Speaker",
    "Speech",
    "adopted",
    "history",
    "next_counter",
    "noted",
    "remembered",
    "with_past",
]

DAY = 86_400_000
"""In milliseconds, as all stamps here."""

MAX_HEARD = 256
"""Devices that are remembered; the one silent for longest is forgotten. Enough for a group, and
nobody fills the vault by inventing device ids."""

MAX_SAID = 2 * MAX_PAST
"""Values that are remembered, to know their echoes."""

Speaker = tuple[BareJid, DeviceId]
"""A device of an account."""

_VERSION = 2


@dataclass(frozen=True, slots=True)
class Said:
    """A value that was set or repeated in the conversation.

    Attributes:
        counter: the setting's; None for a value that came without a tag and was no change.
        timer: the value; None for off.
        author: whose value it was; None where that is not known.
        device: and on which device; None for what others have passed on.
        stamp: when, in milliseconds since the epoch.
    """

    counter: int | None
    timer: Seconds | None
    author: BareJid | None
    device: DeviceId | None
    stamp: int

    @property
    def is_hearsay(self) -> bool:
        """Whether others have passed on that somebody had turned timers off: see `with_past`."""
        return self.counter is None and self.timer is None and self.device is None


@dataclass(frozen=True, slots=True)
class Heard:
    """What one device announced last.

    Attributes:
        author: the device's account.
        device: its OMEMO device id.
        announced: whether it has announced anything yet.
        timer: what it announced; None for off.
        stamp: when, in milliseconds since the epoch.
        seen: the number of the newest saying that it is known to have seen.
        quiet: whether its latest message carried no timer, since ours was turned off.
        last: when it was heard from, in milliseconds since the epoch.
    """

    author: BareJid
    device: DeviceId
    announced: bool = False
    timer: Seconds | None = None
    stamp: int = 0
    seen: int = 0
    quiet: bool = False
    last: int = 0

    @property
    def speaker(self) -> Speaker:
        """Which device it is."""
        return self.author, self.device


@dataclass(frozen=True, slots=True)
class Agreement:
    """The setting of one conversation, and what is needed to judge the next announcement.

    Attributes:
        default: the account's own timer, until anybody has announced one.
        tag: the setting; None before the first.
        out: whether our own account has turned timers off, and somebody may not have noticed.
        count: the number of the last saying.
        current: the number of the saying that `tag` is.
        said: the latest sayings, in the order in which they were heard of.
        heard: what each device announced last.
    """

    default: Seconds | None = None
    tag: Tag | None = None
    out: bool = False
    count: int = 0
    current: int = 0
    said: tuple[Said, ...] = ()
    heard: tuple[Heard, ...] = ()

    @property
    def timer(self) -> Seconds | None:
        """The timer of the next message; None for off."""
        return self.default if self.tag is None else self.tag.timer

    @property
    def opting_out(self) -> bool:
        """Whether `<i-want-out/>` is to be repeated (XEP-0466 section 3.5)."""
        return self.out and self.timer is None

    @property
    def lasting(self) -> "Agreement":
        """What of it is worth a write: everything but the times of repetitions.

        After a restart a replayed announcement is known by its message's id.
        """
        said = tuple(replace(each, stamp=0) for each in self.said)
        heard = tuple(replace(each, stamp=0, last=0) for each in self.heard)
        return replace(self, said=said, heard=heard)

    def numbered(self) -> Iterator[tuple[int, "Said"]]:
        """Yield the sayings with their numbers, the oldest first."""
        yield from enumerate(self.said, self.count - len(self.said) + 1)

    def find(self, speaker: Speaker) -> "Heard":
        """Return what is known of a device."""
        for heard in self.heard:
            if heard.speaker == speaker:
                return heard
        return Heard(*speaker)

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
class Speech:
    """What one message with a body, or with nothing but a timer, says about the setting.

    Receipts and the like, which never carry a timer, are no speech: they would end an opt-out.

    Attributes:
        author: the sending account, authenticated.
        device: the sending device, authenticated.
        stamp: when, in seconds since the epoch: the envelope's verified time, else the stanza's.
        announcement: its `<ephemeral/>` element.
        setting: its `<setting/>` element; None where it has none.
        own: whether another device of this account has sent it.
        member: whether its sender may change the setting: in a group, its members alone (F28).
        accounts: who can be the author of a setting; None for anybody, as in a group.
    """

    author: BareJid
    device: DeviceId
    stamp: float
    announcement: Announcement
    setting: Setting | None = None
    own: bool = False
    member: bool = True
    accounts: frozenset[BareJid] | None = field(default=None, repr=False)

    @property
    def speaker(self) -> Speaker:
        """Which device it comes from."""
        return self.author, self.device


def adopted(state: Agreement, tag: Tag, *, own: bool) -> Agreement:
    """Return the state with a new setting; `own`: our account's, told of by itself."""
    state = _appended(state, Said(tag.counter, tag.timer, tag.author, tag.device, tag.stamp))
    out = own and tag.timer is None
    heard = tuple(replace(each, quiet=False) for each in state.heard) if out else state.heard
    return replace(state, tag=tag, out=out, current=state.count, heard=heard)


def noted(state: Agreement, said: Said) -> Agreement:
    """Note a saying; one that was noted since the last change has its time brought up to date."""
    for index, (number, known) in enumerate(state.numbered()):
        if number > state.current and replace(known, stamp=said.stamp) == said:
            newer = replace(known, stamp=max(known.stamp, said.stamp))
            return replace(state, said=(*state.said[:index], newer, *state.said[index + 1 :]))
    return _appended(state, said)


def _appended(state: Agreement, said: Said) -> Agreement:
    return replace(state, said=(*state.said, said)[-MAX_SAID:], count=state.count + 1)


def with_past(
    state: Agreement, setting: Setting, stamp: int, accounts: frozenset[BareJid] | None
) -> Agreement:
    """Note the settings that a message says were replaced, and that were never heard of here.

    `accounts`: who can have turned timers off; None for anybody. Of those that nobody but others
    has told of, no more are kept than fit into a message.
    """
    known = {(said.counter, said.timer) for said in state.said}
    for past in reversed(setting.past):
        if past not in known and past.timer is not None:
            state = noted(state, Said(past.counter, past.timer, None, None, stamp))
    out = {said.author for said in state.said if said.timer is None}
    told = [each for each in setting.off if accounts is None or each in accounts]
    for account in fitting([*_hearsay(state.said), *(each for each in told if each not in out)]):
        if account not in out:
            state = noted(state, Said(None, None, account, None, stamp))
    return state


def _hearsay(said: tuple[Said, ...]) -> Iterator[BareJid]:
    """Yield the accounts that have turned timers off by what others say."""
    yield from (each.author for each in said if each.is_hearsay and each.author is not None)


def history(state: Agreement) -> tuple[tuple[Past, ...], tuple[BareJid, ...]]:
    """Return what was set beside the current setting, and who had turned timers off."""
    others = [said for number, said in state.numbered() if number != state.current]
    past = dict.fromkeys(
        Past(said.counter, said.timer)
        for said in reversed(others)
        if said.counter is not None and said.timer is not None
    )
    off = fitting(said.author for said in others if said.timer is None and said.author)
    return tuple(past)[:MAX_PAST], off[:MAX_PAST]


def remembered(state: Agreement, heard: Heard) -> Agreement:
    """Return the state with what one device was heard to say last."""
    others = [other for other in state.heard if other.speaker != heard.speaker]
    if len(others) >= MAX_HEARD:
        others.remove(min(others, key=lambda other: other.last))
    return replace(state, heard=(*others, heard))


def next_counter(state: Agreement) -> int:
    """Return the counter of a change that is made now."""
    return min((state.tag.counter if state.tag is not None else 0) + 1, MAX_COUNTER)


def _from_fields(fields: dict[str, Any]) -> Agreement:
    tag = fields.pop("tag")
    said = _shrunk(tuple(Said(**item) for item in fields.pop("said")))
    heard = tuple(Heard(**item) for item in fields.pop("heard"))
    state = Agreement(
        tag=None if tag is None else Tag(**tag),
        said=said,
        heard=heard,
        **fields,
    )
    sayings = (*(item.timer for item in said), *(item.timer for item in heard))
    for timer in (state.timer, state.default, *sayings):
        if timer is not None:
            checked_timer(timer)
    return state


def _shrunk(said: tuple[Said, ...]) -> tuple[Said, ...]:
    """Leave out who has turned timers off by what others say, where more was kept than now is.

    The saying itself stays: the others have numbers by their places.
    """
    kept = fitting(_hearsay(said))
    return tuple(
        replace(each, author=None) if each.is_hearsay and each.author not in kept else each
        for each in said
    )
