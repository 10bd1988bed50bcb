"""A conversation between devices, with everything that can happen to it, for the proof.

What bounds it are the limits of the rule. An active device gets a message within a day or never
(`echo.SLACK`); one that was away gets what was kept for it. Users make at most `MAX_CHANGES`
changes, fewer than `setting.MAX_PAST`. Clocks are wrong by hours, less than `agreement.MARGIN`.
A user sets either a value that nobody has set, or one that this user's device knows.
"""

from collections.abc import Sequence

from eph_e2ee.model import Direction, Seconds
from eph_e2ee.protocol import lifetime
from eph_e2ee.protocol.agreement import Agreement
from eph_e2ee.protocol.setting import Tag
from tests.protocol.modelling import (
    NOTHING,
    Broken,
    Device,
    Made,
    Message,
    Mind,
    agree,
    changed,
    heard,
    holder,
    spoken,
)

__all__ = ["DAY", "MAX_CHANGES", "Conversation"]

DAY = 86_400

MAX_CHANGES = 12


class Conversation:
    """Devices, the messages on their way to each, and the archive of all."""

    def __init__(self, devices: Sequence[Device], defaults: Sequence[Seconds | None]) -> None:
        self._devices = devices
        self._minds = [Mind(state=Agreement(default=default)) for default in defaults]
        self._coming: list[list[Message]] = [[] for _ in devices]
        self._archive: list[Message] = []
        self._away: set[int] = set()
        self._made: list[Made] = []
        self._changes = 0
        self._now = 1_800_000_000
        self._kept: list[tuple[Message, lifetime.Lifetime]] = []

    def change(self, index: int, pick: int) -> None:
        """Let a user turn timers off (0), set a known value again (1), or set a new one."""
        if index in self._away or self._changes == MAX_CHANGES:
            return
        mind = self._minds[index]
        known = [each.value for number, each in enumerate(self._made) if mind.known >> number & 1]
        again = [value for value in known if value is not None]
        value: Seconds | None = Seconds(1000 + len(self._made))
        if pick == 0:
            value = None
        elif pick == 1 and again:
            value = again[0]
        done = changed(self._devices[index], mind, value, self._now, len(self._made))
        if done is not None:
            self._changes += 1
            self._hold(index, done[0])
            self._send(index, done[1])

    def say(self, index: int, *, permanent: bool = False) -> None:
        """Let a device send an ordinary message."""
        if index not in self._away:
            mind, message = spoken(
                self._devices[index],
                self._minds[index],
                self._now,
                len(self._made),
                permanent=permanent,
            )
            self._hold(index, mind)
            self._send(index, message)

    def arrive(self, index: int, pick: int, *, again: bool) -> None:
        """Let one of the messages for a device arrive, in whatever order, perhaps not for good."""
        coming = self._coming[index]
        if index not in self._away and coming:
            message = coming[pick % len(coming)] if again else coming.pop(pick % len(coming))
            self._take(index, message)

    def lose(self, index: int, pick: int) -> None:
        """Let one of the messages for a device get lost."""
        if self._coming[index]:
            self._coming[index].pop(pick % len(self._coming[index]))

    def catch_up(self, index: int) -> None:
        """Let all messages for a device arrive, in the order of its archive."""
        if index not in self._away:
            coming, self._coming[index] = self._coming[index], []
            for message in sorted(coming, key=lambda message: message.at):
                self._take(index, message)

    def wait(self, seconds: int) -> None:
        """Let time pass; what was on its way to an active device for a day is lost."""
        self._now += seconds
        for index, coming in enumerate(self._coming):
            if index not in self._away:
                coming[:] = [message for message in coming if self._now - message.at < DAY]

    def leave_or_return(self, index: int) -> None:
        """Let a device go, or come back; it may say something before it has caught up."""
        self._away ^= {index}

    def replay(self, index: int) -> None:
        """Deliver the whole archive to a device, once more, if it speaks our tag."""
        if index not in self._away and self._devices[index].speaks:
            for message in self._archive:
                if message.sender != self._devices[index]:
                    self._take(index, message)

    def end(self) -> None:
        """Check that everybody agrees, now and after whatever is still said or replayed.

        Raises:
            Broken: they do not.
        """
        self._away.clear()
        self._now += 1
        self._settle()
        everybody = range(len(self._devices))
        for index in everybody:
            self.replay(index)  # what had been lost as well, so this may bring news
        tag = self._settle()
        for index in everybody:
            self.replay(index)
            self._check_holds(index, tag)
        if all(mind.holds(device) == _timer(tag) for device, mind in self._pairs()):
            for index in everybody:
                self.say(index)
            for index in everybody:
                self.catch_up(index)
                self._check_holds(index, tag)
        for message, life in self._kept:
            if life.timer != message.announcement.timer:
                raise Broken("a message's own timer has changed")

    def _settle(self) -> Tag | None:
        """Lose all that is on its way; let everybody hear of the winner, and check that they do."""
        index = holder(self._devices, self._minds)
        if index is None:
            return None
        tag = self._minds[index].state.tag
        self._forget()
        self.say(index)
        message = self._archive[-1]
        for other, device in enumerate(self._devices):
            if other != index:
                self._take(other, message)
                if not agree(device, self._minds[other], message, tag):
                    raise Broken("a device that has heard of the winner does not hold it")
        self._forget()
        return tag

    def _forget(self) -> None:
        for coming in self._coming:
            coming.clear()

    def _pairs(self) -> Sequence[tuple[Device, Mind]]:
        return list(zip(self._devices, self._minds, strict=True))

    def _check_holds(self, index: int, tag: Tag | None) -> None:
        if self._devices[index].speaks and self._minds[index].state.tag != tag:
            raise Broken("a replay or a repetition has changed what all had agreed on")

    def _send(self, index: int, message: Message) -> None:
        self._now += 1
        self._archive.append(message)
        for other, coming in enumerate(self._coming):
            if other != index:
                coming.append(message)

    def _take(self, index: int, message: Message) -> None:
        self._now += 1
        device, mind = self._devices[index], self._minds[index]
        self._hold(index, heard(device, mind, message, self._now, self._made))
        life = lifetime.created(Direction.INCOMING, message.announcement.timer)
        self._kept.append((message, lifetime.step(life, lifetime.Event.READ, self._now)))

    def _hold(self, index: int, mind: Mind) -> None:
        """Let a device hold something; it must be what somebody has set."""
        device, known = self._devices[index], self._minds[index].known
        self._minds[index] = mind
        if mind.change == len(self._made):
            self._made.append(Made(mind.holds(device), known))
        if mind.change != NOTHING and mind.holds(device) != self._made[mind.change].value:
            raise Broken("nobody has set this value")


def _timer(tag: Tag | None) -> Seconds | None:
    return None if tag is None else tag.timer
