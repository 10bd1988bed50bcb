"""When accounts are tried again whose keys could not be asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from eph_e2ee import retrying as module
from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.model import BareJid
from eph_e2ee.retrying import FIRST, LONGEST, Retrying

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from eph_e2ee.xmpp.account import Account

ROSA = BareJid("rosa@example.org")
ANNA = BareJid("anna@example.org")


class Scene:
    """An account that tells of failures, and a clock that the test moves.

    Attributes:
        waiting: what is to be called, each with its seconds.
        tried: the accounts, in their order.
        failure: what the next attempts end with.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.tried: asyncio.Queue[BareJid] = asyncio.Queue()
        self.failure: Exception | None = None
        self.on_unreachable: Callable[[BareJid], None] = lambda _: None
        self.retrying = Retrying(cast("Account", self), self._retry)

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.waiting.append((seconds, call))
        loop = asyncio.get_running_loop()
        return asyncio.TimerHandle(0.0, call, (), loop)

    async def due(self) -> BareJid:
        """Have the time of the first that waits come; who is tried then."""
        _, call = self.waiting.pop(0)
        call()
        return await self.tried.get()

    @property
    def pauses(self) -> list[float]:
        return [seconds for seconds, _ in self.waiting]

    async def _retry(self, sender: BareJid) -> None:
        self.tried.put_nowait(sender)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    task = asyncio.ensure_future(scene.retrying.run())
    yield scene
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_who_is_missed_is_tried_later(scene: Scene) -> None:
    """Once, however often he is missed until then."""
    for sender in (ROSA, ANNA, ROSA):
        scene.on_unreachable(sender)
    assert scene.pauses == [FIRST, FIRST]
    assert [await scene.due(), await scene.due()] == [ROSA, ANNA]
    assert scene.pauses == []


async def test_the_pauses_grow_and_begin_anew_with_success(scene: Scene) -> None:
    scene.on_unreachable(ROSA)
    scene.failure = VaultUnavailable("the disk is full")
    pauses = []
    for _ in range(8):
        pauses += scene.pauses
        await scene.due()
    assert pauses == [min(FIRST * 2**number, LONGEST) for number in range(8)]
    scene.failure = None
    await scene.due()
    scene.on_unreachable(ROSA)
    assert scene.pauses == [FIRST]


async def test_a_session_has_all_tried_once_its_archive_is_read(scene: Scene) -> None:
    scene.failure = VaultUnavailable("the disk is full")
    scene.on_unreachable(ROSA)
    await scene.due()
    scene.on_unreachable(ANNA)
    scene.failure = None
    read = asyncio.Event()

    async def reading() -> None:
        await read.wait()
        assert scene.tried.empty()

    task = asyncio.ensure_future(reading())
    scene.retrying.begin(task)
    read.set()
    assert [await scene.tried.get(), await scene.tried.get()] == [ROSA, ANNA]
    await task


async def test_there_is_an_end_to_who_is_tried(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can write to us; what more accounts have sent waits for the next process."""
    monkeypatch.setattr(module, "MAXIMUM", 2)
    for number in range(3):
        scene.on_unreachable(BareJid(f"made-up-{number}@example.org"))
    assert len(scene.waiting) == 2


async def test_whatever_ends_an_attempt_ends_no_other(scene: Scene, caplog: Any) -> None:
    scene.failure = RuntimeError("sentinel")
    scene.on_unreachable(ROSA)
    await scene.due()
    scene.failure = None
    scene.on_unreachable(ANNA)
    assert await scene.due() == ANNA
    assert "sentinel" not in caplog.text
