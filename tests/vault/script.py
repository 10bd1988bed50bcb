"""Programs that use a vault and are watched from outside, each told by marks how far they came.

    python -m tests.vault.script crash|adversary HOME MARKS SEED COUNT

The vault is HOME/vault, and its root key moves to HOME/elsewhere. Each mark is a line of JSON in
the file MARKS: before a step what it will change, after it what has become of that, and "settled"
once the vault has said that what is gone is gone for good.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from eph_e2ee.model import BareJid, Direction, Erasure, Seconds
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault.rootkey import FileRootKey
from eph_e2ee.vault.vault import Vault
from tests.support.clock import START, ManualClock, ManualSource
from tests.vault.making import MINUTE, PETER, ROSA, new_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eph_e2ee.vault.archive import NewMessage, Transaction

__all__ = ["ALIVE", "GONE", "PLACES", "Facts", "clock_at", "text_of", "value_of"]

ALIVE: Final = "alive"
GONE: Final = "gone"
PLACES: Final = ("vault", "elsewhere")
"""Where the root key is, at first and later, below HOME."""

MUTATION: Final = "EPH_E2EE_TEST_MUTATION"
"""The variable that names the mistake to make on purpose; tests of the tests set it."""

ADDRESS: Final = "EPH_E2EE_TEST_DATABASE"
"""The variable with the address of the database; without one, it is in the vault's folder."""

LARGEST: Final = 20_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What a step changes.

    Attributes:
        messages: by the number in their text, what becomes of them.
        values: by key, the text.
        seen: replay ids that must be known from then on.
        deadlines: of messages, by their number.
        place: where the root key is.
    """

    messages: dict[int, str] = field(default_factory=dict)
    values: dict[str, str | None] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    deadlines: dict[int, int] = field(default_factory=dict)
    place: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "values": self.values,
            "seen": self.seen,
            "deadlines": self.deadlines,
            "place": self.place,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        return cls(
            {int(number): what for number, what in fields["messages"].items()},
            fields["values"],
            fields["seen"],
            {int(number): deadline for number, deadline in fields["deadlines"].items()},
            fields["place"],
        )


def clock_at(now: float) -> ManualClock:
    """The machine's clock at a moment of the script."""
    passed = now - START
    return ManualClock(ManualSource(wall_time=now, boot_time=1_000.0 + passed))


def text_of(number: int) -> str:
    """The text of a message: it tells its number, and none of it looks like anything else."""
    size = random.Random(number).choice([0, 40, 300, 3_000, LARGEST])  # noqa: S311  sizes
    size = random.Random(-number).randint(0, size)  # noqa: S311  the same
    return f"{number} " + "sentinel " * (size // 9)


def value_of(key: str, version: int) -> str:
    """The text of a value: it tells its key."""
    return f"{key} sentinel {version} " + "sentinel " * (version * 7919 % 200)


def message(number: int, to: BareJid, timer: Seconds | None, direction: Direction) -> NewMessage:
    """The message with a number of the script's own."""
    return new_message(
        text_of(number),
        conversation=to,
        direction=direction,
        timer=timer,
        message_id=f"sentinel-id-{number}",
    )


class Script:
    """What the programs have in common: the vault, the marks, and steps between marks."""

    def __init__(self, home: Path, marks: Path, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  which step comes next is no secret
        self.clock = clock_at(START)
        self.numbers: dict[int, int] = {}
        self.conversations: dict[int, BareJid] = {}
        self.alive: set[int] = set()
        self.deadlines: dict[int, int] = {}
        self.permanent: set[int] = set()
        self.unsent: set[int] = set()
        self.versions = 0
        self._home = home
        self._place = PLACES[0]
        self._marks = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.vault: Vault

    def mark(self, phase: str, facts: Facts | None = None) -> None:
        fields = (facts or Facts()).to_json()
        line = json.dumps({"phase": phase, "now": self.clock.source.wall_time, **fields})
        os.write(self._marks, line.encode() + b"\n")

    async def step(self, facts: Facts, act: Callable[[], Awaitable[object]]) -> None:
        self.mark("will", facts)
        await act()
        self.mark("did", facts)

    async def work(self, facts: Facts, work: Callable[[Transaction], object]) -> None:
        await self.step(facts, lambda: self.vault.transact(work))

    def open(self) -> None:
        place = FileRootKey(self._home / self._place)
        self.vault = Vault.open(
            self._home / "vault",
            clock=self.clock,
            root_key=place,
            database=os.environ.get(ADDRESS) or None,
        )
        # They may have left just before: their timers run from now on.
        self.deadlines |= dict.fromkeys(self.unsent, self._deadline())
        self.mark("settled")

    async def close(self) -> None:
        assert await self.vault.close() is Erasure.DESTROYED
        self.mark("settled")

    async def settle(self) -> None:
        assert await self.vault.settle() is Erasure.DESTROYED
        self.mark("settled")

    async def add(
        self,
        count: int,
        to: BareJid = ROSA,
        timer: Seconds | None = MINUTE,
        direction: Direction = Direction.INCOMING,
    ) -> list[int]:
        """Add messages in one transaction; the numbers are the script's own."""
        first = len(self.conversations)
        new = list(range(first, first + count))
        self.conversations |= dict.fromkeys(new, to)
        if timer is None:
            self.permanent |= set(new)
        elif direction is Direction.OUTGOING:
            self.unsent |= set(new)
        made = [message(number, to, timer, direction) for number in new]
        ids = [str(each.replay_ids[0]) for each in made]

        def work(transaction: Transaction) -> None:
            entries = transaction.add_many(made)
            self.numbers |= {own: entry.number for own, entry in zip(new, entries, strict=True)}

        await self.work(Facts(messages=dict.fromkeys(new, ALIVE), seen=ids), work)
        self.alive |= set(new)
        return new

    async def start(self, numbers: list[int], event: Event = Event.READ) -> None:
        """Read messages, or send ours: their timers run from now on."""
        fresh = [each for each in numbers if each not in self.deadlines]
        timed = [each for each in fresh if each not in self.permanent]
        deadlines = dict.fromkeys(timed, self._deadline())

        def work(transaction: Transaction) -> None:
            for number in fresh:
                transaction.apply(self.numbers[number], event, transaction.now())

        await self.work(Facts(deadlines=deadlines), work)
        self.deadlines |= deadlines
        self.unsent -= set(fresh)

    def _deadline(self) -> int:
        return math.ceil(self.clock.now()) + MINUTE

    async def erase(self, numbers: list[int]) -> None:
        def work(transaction: Transaction) -> None:
            for number in numbers:
                transaction.erase(self.numbers[number])

        await self.work(Facts(messages=dict.fromkeys(numbers, GONE)), work)
        self.alive -= set(numbers)

    async def clear(self, jid: BareJid) -> None:
        numbers = [number for number in self.alive if self.conversations[number] == jid]
        facts = Facts(messages=dict.fromkeys(numbers, GONE))
        await self.work(facts, lambda transaction: transaction.erase_conversation(jid))
        self.alive -= set(numbers)

    async def put(self, *keys: str, gone: bool = False) -> None:
        self.versions += 1
        values = {key: None if gone else value_of(key, self.versions) for key in keys}
        await self.work(Facts(values=dict(values)), lambda tx: tx.put_values(values))

    async def undo(self) -> None:
        """A work that fails after it has written: the message was never stored."""
        lost = message(10_000_000 + self.versions, ROSA, MINUTE, Direction.INCOMING)

        def work(transaction: Transaction) -> None:
            transaction.add(lost)
            transaction.put_value("the undone", "undone sentinel")
            raise KeyError

        with suppress(KeyError):
            await self.vault.transact(work)

    async def expire(self, seconds: float) -> None:
        """Let time pass and forget what is due."""
        self.clock.advance(seconds)
        now = self.clock.now()
        due = {number for number in self.alive if self.deadlines.get(number, now + 1) <= now}
        facts = Facts(messages=dict.fromkeys(due, GONE))
        await self.step(facts, self.vault.expire_due)
        self.mark("settled")
        self.alive -= due

    async def sweep(self) -> None:
        while (await self.vault.sweep(3)).rows:
            pass

    async def move_root_key(self) -> None:
        """Keep the root key elsewhere from now on."""
        self._place = PLACES[1 - PLACES.index(self._place)]
        place = FileRootKey(self._home / self._place)
        await self.step(Facts(place=self._place), lambda: self.vault.change_root_key(place))
        self.mark("settled")


async def crash(script: Script, _: int) -> None:
    """A little of everything: each kind of write, in different company."""
    script.open()
    await script.add(3)
    await script.put("chain", "session")
    await script.start([0])
    await script.settle()
    await script.close()
    script.open()
    await script.add(5)
    await script.add(2, PETER, None)
    await script.work(Facts(seen=["a change"]), lambda tx: tx.remember(["a change"]))
    await script.erase([1, 3])
    await script.settle()
    await script.put("chain")
    await script.start([4, 5])
    await script.settle()
    await script.undo()
    await script.add(2, direction=Direction.OUTGOING)
    await script.start([10], Event.SENT)
    await script.settle()
    await script.expire(30)
    await script.start([6])
    await script.expire(31)
    await script.sweep()
    await script.move_root_key()
    await script.clear(PETER)
    await script.put("session", gone=True)
    await script.add(1, PETER)
    await script.settle()
    await script.vault.scrub()
    await script.vault.reseal()
    script.mark("settled")
    await script.put("chain", "other")
    await script.add(1)
    await script.erase([2])
    await script.close()
    script.open()
    await script.expire(61)
    await script.close()


async def adversary(script: Script, count: int) -> None:
    """Thousands of records of all sizes, in an order that chance has made."""
    script.open()
    peers = [ROSA, PETER, *(BareJid(f"sentinel-{index}@example.org") for index in range(6))]
    chances = {
        "add": 40,
        "start": 20,
        "erase": 10,
        "put": 14,
        "settle": 8,
        "expire": 5,
        "undo": 3,
        "sweep": 3,
        "scrub": 2,
        "clear": 1,
    }
    while len(script.conversations) < count:
        (name,) = script.random.choices(list(chances), list(chances.values()))
        await _act(script, name, peers)
    await script.vault.reseal()
    await script.settle()
    await script.sweep()
    await script.close()
    script.open()
    await script.add(1)
    await script.close()


async def _act(script: Script, name: str, peers: list[BareJid]) -> None:
    chance = script.random
    some = chance.sample(sorted(script.alive), min(len(script.alive), chance.randint(1, 6)))
    match name:
        case "add":
            timer = chance.choice([None, MINUTE, MINUTE])
            await script.add(chance.randint(1, 8), chance.choice(peers), timer)
        case "start":
            await script.start(some)
        case "erase":
            await script.erase(some[:2])
        case "put":
            await script.put(*{f"key-{chance.randint(1, 40)}" for _ in range(5)})
        case "expire":
            await script.expire(chance.randint(1, 30))
        case "clear":
            await script.clear(chance.choice(peers))
        case "settle" | "undo" | "sweep":
            await getattr(script, name)()
        case "scrub":
            await script.vault.scrub()


PROGRAMS: Final = {"crash": crash, "adversary": adversary}


def main(arguments: list[str]) -> None:
    """Run one of the programs."""
    program, home, marks, seed, count = arguments
    if name := os.environ.get(MUTATION):
        from tests.vault import mutations  # noqa: PLC0415  only tests of the tests have it

        mutations.apply(name)
    script = Script(Path(home), Path(marks), int(seed))
    asyncio.run(PROGRAMS[program](script, int(count)))


if __name__ == "__main__":
    main(sys.argv[1:])
