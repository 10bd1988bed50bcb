"""A search through every interleaving of changes, messages, losses, repetitions and reorderings."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from eph_e2ee.model import BareJid, DeviceId, Seconds
from tests.protocol.modelling import (
    Behaviour,
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

__all__ = ["Search", "cast"]

START = 1_800_000_000
MINUTE = 60
OFF = 2
"""Which change turns the timer off; the others set values of their own."""

NOBODY = -1

_Item = TypeVar("_Item")


class Place(NamedTuple):
    """Where the search stands; minds and messages by number.

    Attributes:
        minds: what each device holds.
        pools: for each device, the messages that may still arrive there.
        made: all changes.
        words: how many ordinary messages were sent.
        users: how many changes users have made.
        turn: the device that has just heard something, or `NOBODY`.
    """

    minds: tuple[int, ...]
    pools: tuple[frozenset[int], ...]
    made: tuple[Made, ...] = ()
    words: int = 0
    users: int = 0
    turn: int = NOBODY

    @property
    def now(self) -> int:
        """The time, in seconds."""
        return START + MINUTE * self.users + self.words


def cast(behaviours: Sequence[Behaviour], skews: Sequence[int]) -> tuple[Device, ...]:
    """Return one device for each account."""
    return tuple(
        Device(BareJid(f"{number}@example.org"), DeviceId(number), behaviour, skew)
        for number, (behaviour, skew) in enumerate(zip(behaviours, skews, strict=True), 1)
    )


class Search:
    """Goes everywhere from where nobody has said anything, within bounds.

    A message that never arrives is lost, so the end is checked in every place. To a tag speaker
    each may arrive again and again; a plain client would go to and fro for ever.

    What arrives at one device touches no other. So it arrives right before the device says
    something, which leaves out interleavings that differ in nothing, and nothing else.
    """

    def __init__(self, devices: Sequence[Device], *, changes: int, words: int) -> None:
        self._devices = devices
        self._changes = changes
        self._words = words
        self._minds: list[Mind] = []
        self._messages: list[Message] = []
        self._numbers: dict[Mind | Message, int] = {}
        self._after: dict[tuple[int, int, int, tuple[Made, ...]], tuple[int, tuple[Made, ...]]] = {}
        self._agreed: set[tuple[tuple[int, ...], tuple[Made, ...]]] = set()

    def run(self) -> int:
        """Search, and return in how many places it was.

        Raises:
            Broken: an invariant does not hold.
        """
        start = Place(
            tuple(self._mind(Mind()) for _ in self._devices), (frozenset(),) * len(self._devices)
        )
        seen, waiting = {start}, [start]
        while waiting:
            place = waiting.pop()
            self._check(place)
            for following in self._steps(place):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return len(seen)

    def _mind(self, mind: Mind) -> int:
        number = self._numbers.setdefault(mind, len(self._minds))
        if number == len(self._minds):
            self._minds.append(mind)
        return number

    def _message(self, message: Message) -> int:
        number = self._numbers.setdefault(message, len(self._messages))
        if number == len(self._messages):
            self._messages.append(message)
        return number

    def _steps(self, place: Place) -> Iterator[Place]:
        for index, device in enumerate(self._devices):
            if place.turn not in {NOBODY, index}:
                continue
            mind = self._minds[place.minds[index]]
            if place.users < self._changes:
                value = None if place.users == OFF else Seconds(1000 + len(place.made))
                done = changed(device, mind, value, place.now, len(place.made))
                if done is not None:
                    made = (*place.made, Made(value, mind.known))
                    users = place.users + 1
                    yield self._sent(place, index, done)._replace(made=made, users=users)
            if place.words < self._words:
                done = spoken(device, mind, place.now, len(place.made))
                yield self._sent(place, index, done)._replace(words=place.words + 1)
            for number in place.pools[index]:
                yield from self._arrived(place, index, number)

    def _sent(self, place: Place, index: int, done: tuple[Mind, Message]) -> Place:
        mind, message = self._mind(done[0]), self._message(done[1])
        pools = tuple(
            pool if other == index else pool | {message} for other, pool in enumerate(place.pools)
        )
        return place._replace(minds=_put(place.minds, index, mind), pools=pools, turn=NOBODY)

    def _arrived(self, place: Place, index: int, number: int) -> Iterator[Place]:
        device = self._devices[index]
        key = (index, place.minds[index], number, place.made)
        if key not in self._after:
            mind = self._minds[place.minds[index]]
            after = heard(device, mind, self._messages[number], place.now, place.made)
            made = place.made
            if after.change == len(made):
                made = (*made, Made(after.holds(device), mind.known))
            self._after[key] = self._mind(after), made
        reached, made = self._after[key]
        if reached == place.minds[index]:
            return  # as if it had been lost
        pools = _put(place.pools, index, place.pools[index] - {number})
        yield place._replace(
            minds=_put(place.minds, index, reached), pools=pools, made=made, turn=index
        )

    def _check(self, place: Place) -> None:
        """Check that one message of the winner's holder, to everybody, would end it now."""
        if (place.minds, place.made) in self._agreed:
            return
        self._agreed.add((place.minds, place.made))
        minds = [self._minds[number] for number in place.minds]
        index = holder(self._devices, minds)
        if index is None:
            return
        tag = minds[index].state.tag
        _, message = spoken(self._devices[index], minds[index], place.now, len(place.made))
        for other, device in enumerate(self._devices):
            if other != index:
                after = heard(device, minds[other], message, place.now, place.made)
                if not agree(device, after, message, tag):
                    raise Broken("a device that has heard of the winner does not hold it")


def _put(items: tuple[_Item, ...], index: int, item: _Item) -> tuple[_Item, ...]:
    return (*items[:index], item, *items[index + 1 :])
