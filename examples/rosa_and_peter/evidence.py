"""What the demo has seen: values that pass between its processes, and what the checks look at."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DAY: Final = 24 * 60 * 60
WEEK: Final = 7 * DAY
FIVE_DAYS: Final = 5 * DAY


@dataclass(frozen=True, slots=True)
class Seen:
    """A message, or the tombstone of one, as a client's history shows it."""

    number: int
    direction: str
    phase: str
    body: str | None
    sender: str | None
    message_id: str | None
    timer: int | None
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """A client has told its user that a conversation's timer is another one."""

    person: str
    old: int | None
    new: int | None
    author: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """A client has told that a message has disappeared, and when."""

    person: str
    number: int
    at: float


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a client's history, `asked` for and answered `at`, seconds since the epoch."""

    person: str
    asked: float
    at: float
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """Every byte between one client and the server."""

    sent: bytes
    received: bytes

    @property
    def both(self) -> tuple[bytes, bytes]:
        return self.sent, self.received


@dataclass(slots=True)
class Evidence:
    """All that the checks look at.

    Attributes:
        first, answer, accepted: the three texts of the conversation with long timers.
        doomed: the texts that were to disappear while the demo ran.
        recordings: by person.
        homes: by person, the folder with the client's `vault` and `client.log`, as it was left.
        copies: by person, a copy of the vault's folder taken while the doomed texts were alive.
        before: by person, the history before the countdown.
        after: by person, the history after it.
        killed: who was killed in the middle of the countdown.
        killed_at, back_at: when, and when the new process had the vault open.
    """

    first: str
    answer: str
    accepted: str
    doomed: list[str] = field(default_factory=list)
    recordings: dict[str, Recording] = field(default_factory=dict)
    homes: dict[str, Path] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    before: dict[str, tuple[Seen, ...]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    vanished: list[Vanished] = field(default_factory=list)
    after: dict[str, tuple[Seen, ...]] = field(default_factory=dict)
    killed: str = ""
    killed_at: float = 0.0
    back_at: float = 0.0

    @property
    def texts(self) -> list[str]:
        """Everything that was said."""
        return [self.first, self.answer, self.accepted, *self.doomed]


def with_text(seen: Iterable[Seen], text: str) -> Seen | None:
    """Return the message with a text, if it is to be seen."""
    return next((each for each in seen if each.body == text), None)


def spoken(timer: int | None) -> str:
    """Return a timer in words."""
    if timer is None:
        return "no timer"
    for name, size in (("day", DAY), ("second", 1)):
        if timer % size == 0:
            count = timer // size
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return f"{timer} seconds"
