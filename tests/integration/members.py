"""Devices as a circle sees them, whatever client they run; and what it notes of what they say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from eph_e2ee import Message, Rejection, TimerChange
    from tests.support.chats import Party
    from tests.support.plain_client import PlainClient

__all__ = ["Device", "Plain", "Said", "Standing", "Tagged", "Ways"]

Standing = dict[str, tuple[int | None, float | None]]
"""The messages that a device shows, by id: each one's timer, and when it ends."""


@dataclass(frozen=True, slots=True)
class Ways:
    """By which ways what one device did reaches the account's others, and in what order they act.

    Attributes:
        archive: whether each session begins with the archive.
        carbons: whether the server copies what other devices send and get.
        absent: two devices, one of each account, in the order in which they leave and return.
        backwards: whether what was held on the way arrives in the wrong order.
    """

    archive: bool
    carbons: bool
    absent: tuple[str, str]
    backwards: bool

    def __str__(self) -> str:
        ways = [name for name in ("archive", "carbons") if getattr(self, name)]
        return f"{'+'.join(ways) or 'neither'}, {' before '.join(self.absent)}"


@dataclass(slots=True)
class Said:
    """A message, as its sender has it.

    Attributes:
        message_id: its id.
        between: the two accounts.
        timer: its own timer, in seconds.
        holders: the devices that must have it.
        ends: when it ends on each device where its timer runs.
    """

    message_id: str
    between: frozenset[str]
    timer: int | None
    holders: set[Device]
    ends: dict[Device, float] = field(default_factory=dict)


class Device:
    """What a circle does with any device.

    Attributes:
        name: whose, and which.
        jid: its account's.
        online: whether the circle has it online.
        heard: every message that it has told of by an event.
    """

    def __init__(self, name: str, jid: str) -> None:
        self.name = name
        self.jid = jid
        self.online = False
        self.heard: list[Message] = []

    def __repr__(self) -> str:
        return self.name

    async def begin(self) -> None:
        """Begin a session; nothing that waits at the server is delivered yet."""
        raise NotImplementedError

    async def become_available(self) -> None:
        """Get what has waited, and return once what a session begins with is done."""
        raise NotImplementedError

    async def leave(self) -> None:
        """End it."""
        raise NotImplementedError

    async def ping(self) -> None:
        """Return once the server has dealt with everything that was sent before."""
        raise NotImplementedError

    async def send(self, jid: str, text: str) -> tuple[str, int | None]:
        """Send a text with the conversation's timer; the message's id, and its timer."""
        raise NotImplementedError

    async def set_timer(self, jid: str, timer: int | None) -> None:
        """Change a conversation's timer."""
        raise NotImplementedError

    async def timer(self, jid: str) -> int | None:
        """A conversation's timer."""
        raise NotImplementedError

    async def mark_read(self, jid: str, message_ids: Collection[str]) -> None:
        """Have somebody read messages on it."""
        raise NotImplementedError

    async def standing(self, jid: str) -> Standing:
        """What it shows of a conversation."""
        raise NotImplementedError

    async def passes(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    def now(self) -> float:
        """What its clock shows."""
        raise NotImplementedError

    @property
    def is_idle(self) -> bool:
        """Whether everything that has arrived is dealt with."""
        raise NotImplementedError

    def complaints(self) -> list[object]:
        """What was rejected in its sessions, and what was shown wrongly."""
        raise NotImplementedError


class Tagged(Device):
    """A device with this library.

    Attributes:
        party: it.
        told: every change of the timer that it was told of.
        rejected: everything that it was told is not taken.
        hostile: the ids of messages that it is right to reject.
    """

    def __init__(self, name: str, party: Party, *, archive: bool) -> None:
        super().__init__(name, party.jid)
        self.party = party
        self.told: list[TimerChange] = []
        self.rejected: list[Rejection] = []
        self.hostile: set[str] = set()
        self._archive = archive

    async def begin(self) -> None:
        self.party.attach()
        # One list for all sessions.
        self.party.changes.all = self.told
        self.party.messages.all = self.heard
        self.party.rejected.all = self.rejected
        await self.party.arrive(presence=False)

    async def become_available(self) -> None:
        self.party.client.send_presence()
        while self._archive and not (await self.party.progress.next()).done:
            pass

    async def ask_the_archive(self) -> None:
        """Ask for all that it holds, as an application may."""
        results = self.party.client.plugin["xep_0313"].iterate(rsm={"max": 50})
        assert len([result async for result in results]) > 0

    async def leave(self) -> None:
        await self.party.leave()

    async def ping(self) -> None:
        await self.party.ping()

    async def send(self, jid: str, text: str) -> tuple[str, int | None]:
        return _named(await self.party.chat.send(jid, text))

    async def send_for_ever(self, jid: str, text: str) -> tuple[str, int | None]:
        """Send a message that is permanent, whatever the conversation's timer."""
        return _named(await self.party.chat.send(jid, text, timer=None))

    async def set_timer(self, jid: str, timer: int | None) -> None:
        await self.party.chat.set_timer(jid, None if timer is None else timedelta(seconds=timer))

    async def timer(self, jid: str) -> int | None:
        timer = await self.party.chat.timer(jid)
        return None if timer is None else round(timer.total_seconds())

    async def mark_read(self, jid: str, message_ids: Collection[str]) -> None:
        found = [each for each in await self._living(jid) if each.message_id in message_ids]
        assert len(found) == len(message_ids)
        for message in found:
            await message.mark_read()

    async def standing(self, jid: str) -> Standing:
        return {
            str(each.message_id): (_seconds(each.timer), each.deadline)
            for each in await self._living(jid)
        }

    async def passes(self, seconds: float) -> None:
        if self.online:
            await self.party.passes(seconds)
        else:
            self.party.clock.suspend(seconds)

    def now(self) -> float:
        return self.party.source.wall_time

    @property
    def is_idle(self) -> bool:
        incoming: Any = self.party.chat._incoming
        return not incoming._waiting

    def complaints(self) -> list[object]:
        shown = Counter(message.message_id for message in self.heard)
        twice = [message_id for message_id, count in shown.items() if count > 1]
        return [*(each for each in self.rejected if each.message_id not in self.hostile), *twice]

    async def _living(self, jid: str) -> list[Message]:
        history = await self.party.chat.history(jid, limit=10_000)
        return [each for each in history if each.message_id is not None and each.change is None]


class Plain(Device):
    """Carol's."""

    def __init__(self, name: str, party: PlainClient) -> None:
        super().__init__(name, party.jid)
        self.party = party

    async def begin(self) -> None:
        await self.party.arrive(presence=False)

    async def become_available(self) -> None:
        self.party.become_available()

    async def leave(self) -> None:
        await self.party.leave()

    async def ping(self) -> None:
        await self.party.ping()

    async def send(self, jid: str, text: str) -> tuple[str, int | None]:
        return await self.party.send(jid, text), self.party.letters[-1].timer

    async def send_without_timer(self, jid: str, text: str) -> tuple[str, int | None]:
        """Send a text as a client does that knows no timers."""
        return await self.party.send_without_timer(jid, text), None

    async def set_timer(self, jid: str, timer: int | None) -> None:
        await self.party.set_timer(jid, timer)

    async def timer(self, jid: str) -> int | None:
        return self.party.timers.get(jid)

    async def mark_read(self, jid: str, message_ids: Collection[str]) -> None:
        self.party.mark_read(jid, message_ids)

    async def standing(self, jid: str) -> Standing:
        return {
            letter.message_id: (letter.timer, letter.deadline) for letter in self.party.living(jid)
        }

    async def passes(self, seconds: float) -> None:
        self.party.source.wall_time += seconds

    def now(self) -> float:
        return self.party.source.wall_time

    @property
    def is_idle(self) -> bool:
        return self.party.is_idle

    def complaints(self) -> list[object]:
        return list(self.party.refused)


def _named(message: Message) -> tuple[str, int | None]:
    return str(message.message_id), _seconds(message.timer)


def _seconds(timer: timedelta | None) -> int | None:
    return None if timer is None else round(timer.total_seconds())
