"""The scenario of XEP-0466 section 3, played by two processes on a real server."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.rosa_and_peter.actor import Actor, StageError
from examples.rosa_and_peter.evidence import (
    FIVE_DAYS,
    WEEK,
    Evidence,
    Look,
    Recording,
    spoken,
    with_text,
)
from examples.rosa_and_peter.screen import Board, Cell, Line, Screen
from examples.rosa_and_peter.stream import encrypted, readable
from examples.rosa_and_peter.thief import copy_vault
from tests.support.prosody import Prosody
from tests.support.wire import Wire

FIRST: Final = "I have read the book you sent me, it was very insightful."
ANSWER: Final = "Something told me that you would like it."
ACCEPTED: Final = "I see you changed the settings slightly. It's just as good to me!"
KEY: Final = "The spare key is under the third flowerpot."
FOUND: Final = "Found it. I shall water the geraniums."
BATTERY: Final = "Sorry, my battery had died."

GLANCE: Final = 0.25
"""Seconds between two looks at the histories."""

OVERTIME: Final = 15.0
"""Seconds after the last deadline, when waiting for the end of the countdown is given up."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the story goes.

    Attributes:
        timer: seconds that the last messages live.
        pause: seconds for a person to read what has just happened.
    """

    timer: int = 12
    pause: float = 0.0


async def play(folder: Path, screen: Screen, pace: Pace) -> Evidence:
    """Play the story in an empty folder and return what was seen of it.

    Raises:
        StageError: it did not go as it should.
        ServerError: the server could not be started.
    """
    server = Prosody()
    try:
        await asyncio.to_thread(server.start)
        rosa, peter = server.register("rosa"), server.register("peter")
        server.befriend(rosa, peter)
        async with Wire(server.port) as at_rosa, Wire(server.port) as at_peter:
            story = Story(folder, screen, pace)
            story.cast(
                Actor(
                    "Rosa",
                    rosa,
                    peer=peter.jid,
                    address=at_rosa.address,
                    home=folder / "rosa",
                    timer=None,
                ),
                Actor(
                    "Peter",
                    peter,
                    peer=rosa.jid,
                    address=at_peter.address,
                    home=folder / "peter",
                    timer=WEEK,
                ),
            )
            try:
                return await story.play({"Rosa": at_rosa, "Peter": at_peter})
            finally:
                # Before the wires end: then nothing is under way on them any more.
                await asyncio.to_thread(server.stop)
    finally:
        await asyncio.to_thread(server.close)


class Story:
    """Two actors, what they do, and what is noted of it."""

    def __init__(self, folder: Path, screen: Screen, pace: Pace) -> None:
        self._folder = folder
        self._screen = screen
        self._pace = pace
        self._rosa: Actor
        self._peter: Actor
        self._last: dict[str, Look] = {}
        self._gone = asyncio.Event()
        self._evidence = Evidence(FIRST, ANSWER, ACCEPTED)

    def cast(self, rosa: Actor, peter: Actor) -> None:
        """Say who plays."""
        self._rosa, self._peter = rosa, peter
        self._evidence.homes = {"Rosa": rosa.home, "Peter": peter.home}

    async def play(self, wires: dict[str, Wire]) -> Evidence:
        """Play it all; both processes are killed at the end, so that nothing is tidied up."""
        actors = (self._rosa, self._peter)
        try:
            await asyncio.gather(*(actor.enter() for actor in actors))
            await self._without_timer()
            await self._a_week(wires["Peter"])
            await self._five_days(wires["Rosa"])
            await self._accepted()
            await self._countdown()
        finally:
            await asyncio.gather(*(actor.kill() for actor in actors))
        for actor in actors:
            self._evidence.changes += actor.changes
            self._evidence.vanished += actor.vanished
        for name, wire in wires.items():
            recorded = Recording(wire.from_clients.record, wire.to_clients.record)
            self._evidence.recordings[name] = recorded
        return self._evidence

    async def _without_timer(self) -> None:
        self._screen.scene("1  Rosa writes to Peter, without a timer")
        await self._said(self._rosa, FIRST, self._peter)
        await self._pause()

    async def _a_week(self, wire: Wire) -> None:
        self._screen.scene("2  Peter's client is set to a week. He answers")
        await self._said(self._peter, ANSWER, self._rosa)
        await self._is_told(self._rosa)
        await self._pause()
        self._shown(wire, "Peter's answer")
        await self._pause()

    async def _five_days(self, wire: Wire) -> None:
        self._screen.scene("3  A week is too long for Rosa. She sets five days, and writes nothing")
        await self._rosa.set_timer(FIVE_DAYS)
        await self._rosa.is_told()
        await self._is_told(self._peter)
        await self._pause()
        self._shown(wire, "Rosa's change of the timer")
        await self._pause()

    async def _accepted(self) -> None:
        self._screen.scene("4  Peter is fine with that, and goes on writing")
        await self._said(self._peter, ACCEPTED, self._rosa)
        for actor in (self._rosa, self._peter):
            self._evidence.before[actor.name] = (await actor.look()).seen
        answer = with_text(self._evidence.before["Rosa"], ANSWER)
        if answer is not None:
            self._screen.happens(
                f"Peter's earlier message still disappears after {spoken(answer.timer)}"
            )
        await self._pause()

    async def _countdown(self) -> None:
        timer = self._pace.timer
        self._screen.scene(f"5  The same with {timer} seconds, and a client that is killed")
        await self._rosa.set_timer(timer)
        await self._rosa.is_told()
        await self._is_told(self._peter)
        for author, text, reader in (
            (self._rosa, KEY, self._peter),
            (self._peter, FOUND, self._rosa),
        ):
            self._evidence.doomed.append(text)
            await self._said(author, text, reader)
        with self._screen.board(timer) as board:
            showing = asyncio.create_task(self._show(board))
            try:
                await self._killed()
                async with asyncio.timeout(timer + OVERTIME):
                    await self._gone.wait()
            except TimeoutError:
                self._screen.happens("Some messages have not disappeared in time")
            finally:
                showing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await showing
            board.show(list(self._lines()))
        for actor in (self._rosa, self._peter):
            self._evidence.after[actor.name] = (await actor.look()).seen

    async def _killed(self) -> None:
        """Kill Peter's client in the middle; somebody copies both vaults; he comes back."""
        await asyncio.sleep(self._pace.timer / 6)
        await self._peter.kill()
        self._evidence.killed, self._evidence.killed_at = "Peter", self._last["Peter"].at
        self._screen.happens("kill -9: Peter's client is gone")
        for actor in (self._rosa, self._peter):
            copy = self._folder / f"copy-of-{actor.home.name}"
            self._evidence.copies[actor.name] = copy_vault(actor.vault, copy)
        self._screen.happens("Somebody copies both vaults: databases, key files, root keys")
        await asyncio.sleep(self._pace.timer / 12)
        self._evidence.back_at = await self._peter.enter()
        self._screen.happens("Peter's client is back, on the same vault")
        self._evidence.doomed.append(BATTERY)
        self._gone.clear()
        await self._said(self._peter, BATTERY, self._rosa)

    async def _said(self, author: Actor, text: str, reader: Actor) -> None:
        """Let somebody say something, and the other read it."""
        sent = await author.say(text)
        self._screen.says(author.name, text, sent.timer)
        heard = await reader.hears()
        if heard.body != text:
            raise StageError(f"{reader.name} has heard something else: message {heard.number}")
        await reader.read(heard)

    async def _is_told(self, actor: Actor) -> None:
        change = await actor.is_told()
        self._screen.client_says(
            actor.name, f"messages disappear after {spoken(change.new)} from now on"
        )

    def _shown(self, wire: Wire, what: str) -> None:
        self._screen.server_sees(what, readable(encrypted(wire.from_clients.record)[-1]))

    async def _show(self, board: Board) -> None:
        """Look at both histories again and again, note it, and show it."""
        while True:
            for actor in (self._rosa, self._peter):
                if actor.present:
                    with contextlib.suppress(StageError):
                        self._last[actor.name] = await actor.look()
                        self._evidence.looks.append(self._last[actor.name])
            board.show(list(self._lines()))
            if self._all_gone():
                self._gone.set()
            await asyncio.sleep(GLANCE)

    def _lines(self) -> Iterator[Line]:
        for text in self._evidence.doomed:
            author = "Rosa" if text == KEY else "Peter"
            cells = {
                actor.name: self._cell(actor, self._number(actor.name, text))
                for actor in (self._rosa, self._peter)
            }
            yield Line(author, text, cells)

    def _cell(self, actor: Actor, number: int | None) -> Cell | None:
        look = self._last.get(actor.name)
        if look is None or number is None:
            return None
        (seen,) = [each for each in look.seen if each.number == number]
        if seen.body is None or seen.deadline is None:
            return Cell(None)
        return Cell(seen.deadline - look.at, dark=not actor.present)

    def _number(self, person: str, text: str) -> int | None:
        """Return the number under which somebody's client has a text, or had it."""
        for look in self._evidence.looks:
            if look.person == person and (seen := with_text(look.seen, text)) is not None:
                return seen.number
        return None

    def _all_gone(self) -> bool:
        """Whether the clients have told of the end of each message, on both sides."""
        told = {(each.person, each.number) for each in self._rosa.vanished + self._peter.vanished}
        return {
            (actor.name, self._number(actor.name, text))
            for actor in (self._rosa, self._peter)
            for text in self._evidence.doomed
        } <= told

    async def _pause(self) -> None:
        await asyncio.sleep(self._pace.pause)
