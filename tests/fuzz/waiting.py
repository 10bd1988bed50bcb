"""Waiting until nothing goes on any more, in a loop whose clock can be put forward."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tests.fuzz.watching import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from eph_e2ee import Chat

__all__ = ["Loop", "Quiet"]

PATIENCE: Final = 40
"""Rounds in which nothing moves before time passes: an answer is awaited that never comes."""

ROUNDS: Final = 4000
"""Rounds after which one input has led to work without an end."""

WAITING: Final = "Event.wait"

SKIPPED: Final = 400.0
"""Seconds that pass then: longer than anybody waits for an answer."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward.

    Attributes:
        ahead: seconds by which it is ahead of the machine's.
    """

    ahead = 0.0

    def time(self) -> float:
        """The time of its timers, in seconds."""
        return super().time() + self.ahead


class Quiet:
    """Knows what a scene has running when nothing happens, and waits for the rest to end.

    Args:
        loop: where it runs.
        chat: whose work is awaited; None where there is the plugin alone.
        skip: lets seconds pass.
    """

    def __init__(self, loop: Loop, chat: Chat | None, skip: Callable[[float], None]) -> None:
        self._loop = loop
        self._chat = chat
        self._skip = skip
        self._resident = set[Any]()

    async def begin(self) -> None:
        """Take what runs now for what always runs."""
        for _ in range(20):
            await self._round()
        self._resident = asyncio.all_tasks()

    async def reached(self) -> None:
        """Return once nothing goes on; what awaits an answer that never comes gives up.

        Raises:
            Found: it goes on and on.
        """
        still, before = 0, set[Any]()
        for _ in range(ROUNDS):
            await self._round()
            busy = self._busy()
            if not busy:
                return
            still = still + 1 if busy == before else 0
            before = busy
            if still > PATIENCE:
                self._skip(SKIPPED)
                still = 0
        names = sorted(_name(task) for task in before)
        raise Found("it goes on and on", " ".join(names))

    async def _round(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0)
        if self._chat is not None and self._busy():
            await self._chat._vault.transact(lambda _: None)

    def _busy(self) -> set[Any]:
        others = asyncio.all_tasks() - self._resident - {asyncio.current_task()}
        # The expiry waits for its next deadline in a task of its own.
        busy: set[Any] = {task for task in others if _name(task) != WAITING}
        if self._chat is None:
            return busy
        telling = self._chat._tasks[1]
        waits: Any = telling.get_coro()
        waiting = getattr(waits.cr_await, "__qualname__", "") == WAITING
        if not telling.done() and (not waiting or self._chat._reading._woken.is_set()):
            busy.add(telling)
        return busy


def _name(task: Any) -> str:
    return str(getattr(task.get_coro(), "__qualname__", ""))
