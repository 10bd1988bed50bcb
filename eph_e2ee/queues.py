"""Arrivals that wait for their turn, in a queue for each conversation, each with its fair share.

Whatever is given up is in the archive, and read from there with the next session.
"""

import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import chain
from typing import Final
from xml.etree.ElementTree import Element

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.stanzas import Arrival

__all__ = ["MAXIMUM_WAITING", "Queues"]

BATCH: Final = 64
"""Arrivals of one conversation that are dealt with together."""

MAXIMUM_OF_ONE: Final = 1000
"""Arrivals of one conversation that wait: for an archive that never ends, or a server that is mute.
In a room that is an hour of much talk."""

MAXIMUM_WAITING: Final = 10_000
"""Arrivals that wait together. Beyond it the conversation with most of them gives up its last."""

LARGEST: Final = 32 * 1024 * 1024
"""Bytes in memory of all that wait together, about; beyond it the largest conversation does so."""

LARGEST_BATCH: Final = 1024 * 1024
"""Bytes that are dealt with together: those cannot be given up any more."""

ELEMENT: Final = 256
"""Bytes that an element takes beside its texts, about."""


@dataclass(slots=True)
class _Queue:
    """A conversation's arrivals, each with its size.

    Attributes:
        waiting: in their order.
        begun: those that are being dealt with.
        size: of all, in bytes.
    """

    waiting: deque[tuple[Arrival, int]] = field(default_factory=deque)
    begun: list[tuple[Arrival, int]] = field(default_factory=list)
    size: int = 0

    @property
    def count(self) -> int:
        return len(self.waiting) + len(self.begun)


class Queues:
    """The queues of all conversations that have something waiting, or being dealt with."""

    def __init__(self) -> None:
        self._queues: dict[BareJid, _Queue] = {}
        self._count = self._size = 0

    def __len__(self) -> int:
        return len(self._queues)

    def __contains__(self, peer: BareJid) -> bool:
        return peer in self._queues

    def waits(self, peer: BareJid) -> bool:
        """Whether a conversation has something that nobody deals with yet."""
        return bool(self._queues[peer].waiting)

    def put(self, peer: BareJid, arrival: Arrival) -> list[Arrival]:
        """Queue an arrival behind the others of its conversation.

        Returns:
            What is given up: itself, or the last ones of a conversation that has more. A new
            conversation whose arrival is given up is not begun.
        """
        is_new = peer not in self._queues
        queue, size = self._queues.setdefault(peer, _Queue()), _size(arrival.xml)
        queue.waiting.append((arrival, size))
        self._counts(queue, 1, size)
        given_up = [self._last_of(queue)] if queue.count > MAXIMUM_OF_ONE else []
        while self._count > MAXIMUM_WAITING:
            given_up.append(self._last_of(max(self._able(queue), key=lambda each: each.count)))
        while self._size > LARGEST:
            given_up.append(self._last_of(max(self._able(queue), key=lambda each: each.size)))
        if is_new and not queue.waiting:
            del self._queues[peer]
        return given_up

    def take(self, peer: BareJid) -> list[Arrival]:
        """The next arrivals of a conversation; they count until they are `done`."""
        queue, size = self._queues[peer], 0
        while queue.waiting and len(queue.begun) < BATCH and size <= LARGEST_BATCH:
            queue.begun.append(queue.waiting.popleft())
            size += queue.begun[-1][1]
        return [arrival for arrival, _ in queue.begun]

    def done(self, peer: BareJid) -> None:
        """What was taken is dealt with."""
        queue = self._queues[peer]
        self._counts(queue, -len(queue.begun), -sum(size for _, size in queue.begun))
        queue.begun.clear()

    def end(self, peer: BareJid) -> None:
        """Nobody deals with a conversation any more, whatever it has waiting."""
        queue = self._queues.pop(peer)
        self._counts(queue, -queue.count, -queue.size)

    def _able(self, newest: _Queue) -> list[_Queue]:
        """Those that can give up something; of two with as much, that of the newest arrival."""
        others = (queue for queue in self._queues.values() if queue is not newest)
        return [queue for queue in (newest, *others) if queue.waiting]

    def _last_of(self, queue: _Queue) -> Arrival:
        arrival, size = queue.waiting.pop()
        self._counts(queue, -1, -size)
        return arrival

    def _counts(self, queue: _Queue, count: int, size: int) -> None:
        queue.size += size
        self._count += count
        self._size += size


def _size(xml: Element) -> int:
    """How much memory a stanza takes, about."""
    return sum(
        ELEMENT + sum(map(sys.getsizeof, (each.tag, each.text, each.tail, *chain(*each.items()))))
        for each in xml.iter()
    )
