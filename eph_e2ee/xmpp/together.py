"""Many questions to the network at once, but not all."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

__all__ = ["together"]

AT_ONCE: Final = 16
"""Questions that are open at a time: servers slow down who asks for more."""

Value = TypeVar("Value")


async def together(questions: Iterable[Callable[[], Awaitable[Value]]]) -> list[Value]:
    """The answers, in the order of the questions; the first that raises ends it.

    Canceling it ends all of them.
    """
    turn = asyncio.Semaphore(AT_ONCE)

    async def answer(question: Callable[[], Awaitable[Value]]) -> Value:
        async with turn:
            return await question()

    return await asyncio.gather(*(answer(question) for question in questions))
