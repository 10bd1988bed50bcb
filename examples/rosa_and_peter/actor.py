"""A person's process, as the story sees it."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, TypeVar

from examples.rosa_and_peter.evidence import Change, Look, Seen, Vanished
from tests.support.prosody import Account

T = TypeVar("T")

CHECKOUT: Final = Path(__file__).parent.parent.parent

PATIENCE: Final = 60.0
"""Seconds for an answer; a start takes about two, everything else a fraction of one."""


class StageError(Exception):
    """A person's process ended, or did not answer; the end of its log is in the text."""


class Actor:
    """One person: a vault that stays, and a process that comes and goes.

    Args:
        name: of the person.
        account: on the throwaway server.
        peer: the other's JID.
        address: where the server is to be reached.
        home: a folder for the vault and the log.
        timer: seconds, as the client is configured; None for none.
    """

    def __init__(
        self,
        name: str,
        account: Account,
        *,
        peer: str,
        address: tuple[str, int],
        home: Path,
        timer: int | None,
    ) -> None:
        self.name = name
        self.jid = account.jid
        self.home = home
        self.vault = home / "vault"
        self.changes: list[Change] = []
        self.vanished: list[Vanished] = []
        self._role = {
            "jid": account.jid,
            "password": account.password,
            "peer": peer,
            "host": address[0],
            "port": address[1],
            "vault": str(self.vault),
            "timer": timer,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._messages: asyncio.Queue[Seen] = asyncio.Queue()
        self._told: asyncio.Queue[Change] = asyncio.Queue()
        self._one_at_a_time = asyncio.Lock()

    @property
    def present(self) -> bool:
        """Whether the process has come up and not been killed."""
        return self._process is not None

    async def enter(self) -> float:
        """Start the process on the vault, and return when it was connected."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "client.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "examples.rosa_and_peter.person"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=CHECKOUT,
                start_new_session=True,
            )
        # An answer to somebody who was killed is for nobody.
        self._answers = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen(process))
        connected: float = await self._exchange(process, self._role)
        self._process = process
        return connected

    async def kill(self) -> None:
        """End the process with SIGKILL: it has no time to put anything in order."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        await process.wait()
        if self._listening is not None:
            await self._listening

    async def say(self, text: str) -> Seen:
        """Send a text to the other."""
        return Seen(**await self._ask(do="say", text=text))

    async def read(self, message: Seen) -> Seen:
        """See a message: its timer starts."""
        return Seen(**await self._ask(do="read", number=message.number))

    async def set_timer(self, timer: int | None) -> None:
        """Change the conversation's timer without text."""
        await self._ask(do="set_timer", timer=timer)

    async def look(self) -> Look:
        """Look at the history, the newest first."""
        answer = await self._ask(do="history")
        seen = tuple(Seen(**each) for each in answer["messages"])
        return Look(self.name, answer["asked"], answer["at"], seen)

    async def hears(self) -> Seen:
        """Wait for the next message."""
        return await self._within(self._messages.get())

    async def is_told(self) -> Change:
        """Wait until the client says that the timer is another one."""
        return await self._within(self._told.get())

    async def _ask(self, **order: Any) -> Any:
        if self._process is None:
            raise StageError(f"{self.name} is not here")
        return await self._exchange(self._process, order)

    async def _exchange(self, process: asyncio.subprocess.Process, order: dict[str, Any]) -> Any:
        """Give an order and return the answer to it."""
        async with self._one_at_a_time:
            if process.stdin is None:
                raise StageError(f"{self.name} cannot be told anything")
            process.stdin.write(json.dumps(order).encode() + b"\n")
            return await self._within(self._answers.get())

    async def _within(self, event: Awaitable[T]) -> T:
        """Wait for an event, but neither for ever nor for a process that has ended."""
        waiting = asyncio.ensure_future(event)
        ended = [] if self._listening is None else [self._listening]
        await asyncio.wait([waiting, *ended], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        log = (self.home / "client.log").read_text(errors="replace")
        raise StageError(f"{self.name} does not answer. The log ends so:\n{log[-2000:]}")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Take in the events of one process, to its end."""
        if process.stdout is None:
            return
        while line := await process.stdout.readline():
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "answer":
                self._answers.put_nowait(event["value"])
            case "message":
                self._messages.put_nowait(Seen(**event["message"]))
            case "timer":
                self.changes.append(Change(self.name, **event))
                self._told.put_nowait(self.changes[-1])
            case "vanished":
                self.vanished.append(Vanished(self.name, **event))
            case other:
                raise StageError(f"{self.name} was not to tell this: {other} {event}")
