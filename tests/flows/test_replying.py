"""The application's handlers: whose turn it is, how long they may take, what may go wrong."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest

from eph_e2ee.errors import LocalProtocolError, Refusal
from eph_e2ee.events import Question
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.replying import FAILED, LONGEST, UNKNOWN, Answering, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.clock import ManualClock

NAME = "{urn:example:tea}tea"
ROSA, ANNA = BareJid("rosa@example.org"), BareJid("anna@example.org")


def question(bare: BareJid = ROSA, name: str = NAME) -> Question:
    return Question(f"{bare}/desk", bare, DeviceId(1), "get", Element(name))


@pytest.fixture
def answering(clock: ManualClock) -> Answering:
    return Answering(clock)


class Slow:
    """A handler that waits until it is let go."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.begun = asyncio.Semaphore(0)
        self.released = asyncio.Semaphore(0)

    async def __call__(self, _: Question) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.release()
        try:
            await self.released.acquire()
        finally:
            self.running -= 1


async def answers(answering: Answering, *questions: Question) -> Sequence[Any]:
    """Have questions answered at once, each admitted."""
    with contextlib.ExitStack() as admitted:
        for each in questions:
            admitted.enter_context(answering.admitted(each.bare))
        return await asyncio.gather(*(answering.answer(each) for each in questions))


async def test_by_name(answering: Answering) -> None:
    tea, coffee = Element(NAME), Refusal("gone")

    async def on_tea(_: Question) -> Element:
        return tea

    async def on_coffee(_: Question) -> Refusal:
        return coffee

    answering.register(NAME, on_tea)
    answering.register("{urn:example:coffee}coffee", on_coffee)
    asked = [question(name=name) for name in (NAME, "{urn:example:coffee}coffee", "{urn:x}y")]
    assert list(await answers(answering, *asked)) == [tea, coffee, UNKNOWN]


async def test_what_cannot_be_registered(answering: Answering) -> None:
    handler = Slow()
    for name in ("tea", "", "{}tea", "{urn:example:tea}", "a b"):
        with pytest.raises(LocalProtocolError):
            answering.register(name, handler)
    answering.register(NAME, handler)
    with pytest.raises(LocalProtocolError):
        answering.register(NAME, handler)
    answering.unregister(NAME)
    answering.register(NAME, handler)


async def test_only_so_many_run_at_once(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one account, and of all: the others wait for their turn."""
    slow = Slow()
    answering.register(NAME, slow)
    answering._turns = asyncio.Semaphore(6)
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_RUNNING_EACH", 4)
    of_rosa = asyncio.ensure_future(answers(answering, *[question(ROSA)] * 10))
    for _ in range(4):
        await slow.begun.acquire()
    of_anna = asyncio.ensure_future(answers(answering, *[question(ANNA)] * 10))
    for _ in range(2):
        await slow.begun.acquire()
    for _ in range(50):
        await asyncio.sleep(0)
    assert slow.running == 6
    for _ in range(20):
        slow.released.release()
    assert list(await of_rosa) + list(await of_anna) == [None] * 20
    assert slow.most == 6
    assert answering._askers == {}


async def test_only_so_many_are_admitted(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So one account never takes the place of all, and all together no more than there is."""
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_WAITING", 3)
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_WAITING_EACH", 2)
    with contextlib.ExitStack() as admitted:
        for _ in range(2):
            assert answering.has_room(ROSA)
            admitted.enter_context(answering.admitted(ROSA))
        assert not answering.has_room(ROSA)
        assert answering.has_room(ANNA)
        admitted.enter_context(answering.admitted(ANNA))
        assert not answering.has_room(ANNA)
    assert answering.has_room(ROSA)
    assert answering._askers == {}


async def test_a_few_accounts_do_not_take_all_places(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has none waiting is let in, while four of them ask as much as they can."""
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_WAITING", 16)
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_WAITING_EACH", 4)
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_RUNNING_EACH", 1)
    strangers = [BareJid(f"{number}@example.com") for number in range(4)]
    with contextlib.ExitStack() as admitted:
        for _ in range(10):
            for each in strangers:
                if answering.has_room(each):
                    admitted.enter_context(answering.admitted(each))
        assert [answering._askers[each].waiting for each in strangers] == [2, 2, 2, 2]
        for each in (ROSA, ANNA):
            assert answering.has_room(each)
            admitted.enter_context(answering.admitted(each))
            assert not answering.has_room(each)
    assert answering._askers == {}


async def test_one_that_takes_too_long_is_ended(
    answering: Answering, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow()
    answering.register(NAME, slow)
    asked = asyncio.ensure_future(answers(answering, question()))
    await slow.begun.acquire()
    clock.advance(LONGEST - 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asked.done()
    clock.advance(1)
    assert list(await asked) == [FAILED]
    assert slow.running == 0
    assert "took too long" in caplog.text


async def test_whoever_waits_may_be_cancelled(answering: Answering) -> None:
    """Then the handler ends, and the turn goes to the next."""
    slow = Slow()
    answering.register(NAME, slow)
    asked = asyncio.ensure_future(answers(answering, question()))
    await slow.begun.acquire()
    asked.cancel()
    await asyncio.wait({asked})
    assert asked.cancelled()
    assert (slow.running, answering._askers) == (0, {})


async def test_a_handler_that_cancels_itself(answering: Answering) -> None:
    """It is not our task that ends."""

    async def cancels(_: Question) -> None:
        raise asyncio.CancelledError

    answering.register(NAME, cancels)
    assert list(await answers(answering, question())) == [FAILED]


async def test_a_plain_function(answering: Answering) -> None:
    """As handlers of slixmpp may be, too."""
    tea = Element(NAME)
    answering.register(NAME, lambda _: tea)
    assert list(await answers(answering, question())) == [tea]


async def test_a_plain_function_that_raises(
    answering: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(asked: Question) -> Any:
        raise ValueError(asked.jid)

    answering.register(NAME, plain)
    assert list(await answers(answering, question())) == [FAILED]
    assert [record.getMessage() for record in caplog.records] == [
        "a handler of questions raised ValueError"
    ]


async def test_waiting_within_a_limit(clock: ManualClock) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(clock, future, 30))
    await asyncio.sleep(0)
    clock.advance(29)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    future.set_result(None)
    assert await waiting
    assert await within(clock, future, 30)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(clock, never, 30))
    await asyncio.sleep(0)
    clock.advance(30)
    assert not await waiting
