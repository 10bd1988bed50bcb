"""Who answers the questions of others: the application's handlers, within limits.

Nothing here knows of stanzas or keys; `questions.py` opens what arrives and sends what is answered.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree.ElementTree import Element

from eph_e2ee.clock import Clock
from eph_e2ee.errors import LocalProtocolError, Refusal
from eph_e2ee.events import Question
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import xml

__all__ = ["FAILED", "Answerer", "Answering", "Reply", "within"]

log = logging.getLogger(__name__)

MAXIMUM_WAITING: Final = 256
"""Questions that are being dealt with, or wait for it; each holds a stanza in memory."""

MAXIMUM_WAITING_EACH: Final = 64
"""The same of one account, so that no one takes the place of all. Once half of them are taken it is
no more than may run at once, so that a few accounts that somebody makes up do not take the rest."""

MAXIMUM_RUNNING: Final = 16
"""Handlers that run at once; a bot's may each hold a connection or a file."""

MAXIMUM_RUNNING_EACH: Final = 4
"""The same for one account."""

LONGEST: Final = 60.0
"""Seconds that a handler may take. An asker waits for half a minute, if not told otherwise."""

FAILED: Final = Refusal("internal-server-error")
"""All that an asker hears of what goes wrong here."""

UNKNOWN: Final = Refusal("service-unavailable")
"""RFC 6120 section 8.4: what a payload is answered with that nobody here understands."""

Reply = Element | Refusal | None
"""What a question is answered with: a payload, an error, or nothing, which is a result as well."""

Answerer = Callable[[Question], Awaitable[Reply] | Reply]
"""A coroutine function or a plain one, as slixmpp's handlers are."""


@dataclass(slots=True)
class _Asker:
    """An account that asks: how many questions of it are here, and how many may run."""

    waiting: int = 0
    turns: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAXIMUM_RUNNING_EACH)
    )


class Answering:
    """The application's handlers, by the name of the payload that they answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answerers: dict[str, Answerer] = {}
        self._askers: dict[BareJid, _Asker] = {}
        self._turns = asyncio.Semaphore(MAXIMUM_RUNNING)

    def register(self, name: str, answerer: Answerer) -> None:
        """Have questions answered whose payload has this name, `{namespace}local`.

        Raises:
            LocalProtocolError: the name has no namespace, or is answered already.
        """
        if not xml.split_name(name)[0]:
            raise LocalProtocolError("give the payload's name with its namespace: {namespace}local")
        if name in self._answerers:
            raise LocalProtocolError("there is a handler for this payload: call off_iq() first")
        self._answerers[name] = answerer

    def unregister(self, name: str) -> None:
        """Answer no more such questions; what is being answered goes on."""
        self._answerers.pop(name, None)

    def has_room(self, sender: BareJid) -> bool:
        """Tell whether one more question of an account can be dealt with."""
        asker = self._askers.get(sender)
        total = sum(each.waiting for each in self._askers.values())
        most = MAXIMUM_WAITING_EACH
        if total >= MAXIMUM_WAITING // 2:
            most = min(most, MAXIMUM_RUNNING_EACH)
        return total < MAXIMUM_WAITING and (asker is None or asker.waiting < most)

    @contextmanager
    def admitted(self, sender: BareJid) -> Iterator[None]:
        """Count a question of an account for the time of a block."""
        asker = self._askers.setdefault(sender, _Asker())
        asker.waiting += 1
        try:
            yield
        finally:
            asker.waiting -= 1
            if not asker.waiting:
                del self._askers[sender]

    async def answer(self, question: Question) -> Reply:
        """What the handler says when it is its turn; whatever goes wrong in it stays here.

        Call it for a question that is admitted. Canceling it ends the handler.
        """
        answerer = self._answerers.get(question.element.tag)
        if answerer is None:
            return UNKNOWN
        async with self._askers[question.bare].turns, self._turns:
            task = asyncio.ensure_future(_run(answerer, question))
            try:
                return self._said(task, done=await within(self._clock, task, LONGEST))
            finally:
                task.cancel()
                await asyncio.wait({task})

    def _said(self, task: asyncio.Task[Any], *, done: bool) -> Reply:
        error = task.exception() if done and not task.cancelled() else None
        if not done or task.cancelled():
            log.error("a handler of questions took too long, or was cancelled")
        elif error is not None:
            # Neither text nor traceback: both may quote the question.
            log.error("a handler of questions raised %s", type(error).__name__)
        elif isinstance(reply := task.result(), Element | Refusal | None):
            return reply
        else:  # an application without types
            log.error("a handler of questions gave neither an element nor a refusal nor None")
        return FAILED


async def within(clock: Clock, future: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for something, so long at most; whether it has come. Canceling it is safe."""
    over = asyncio.Event()
    future.add_done_callback(lambda _: over.set())
    await clock.wait(over, clock.now() + seconds)
    return future.done()


async def _run(answerer: Answerer, question: Question) -> Reply:
    reply = answerer(question)
    return await reply if isinstance(reply, Awaitable) else reply
