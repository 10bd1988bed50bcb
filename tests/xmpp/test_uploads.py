"""Uploads go out one at a time, and what is published last is the newest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from omemo.session_manager import BundleUploadFailed

from eph_e2ee.xmpp.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BUNDLE = ("bundle",)
DEVICES = ("devices",)


@dataclass
class Slow:
    """A server that answers when the test lets it.

    Attributes:
        begun: the names of uploads that have come.
        published: those that it has taken.
        refuses: names that it does not take.
    """

    begun: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def upload(self, name: str) -> Callable[[], Awaitable[None]]:
        async def upload() -> None:
            self.begun.append(name)
            await self.answers.wait()
            if name in self.refuses:
                raise BundleUploadFailed(name)
            self.published.append(name)

        return upload


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


async def begun(*publications: Awaitable[None]) -> list[asyncio.Future[None]]:
    """Tasks that have come as far as they can, in their order."""
    tasks: list[asyncio.Future[None]] = []
    for publication in publications:
        tasks.append(asyncio.ensure_future(publication))
        for _ in range(5):
            await asyncio.sleep(0)
    return tasks


async def test_of_what_waits_only_the_newest_is_made(uploads: Uploads, slow: Slow) -> None:
    """They come in any order: whose messages take longer to leave publishes later."""
    tasks = await begun(
        *(uploads.publish(each, {BUNDLE: slow.upload(f"{each}")}) for each in (1, 2, 4, 3))
    )
    assert slow.begun == ["1"]
    slow.answers.set()
    await asyncio.gather(*tasks)
    assert slow.published == ["1", "4"]


async def test_what_comes_after_a_newer_one_is_not_made(uploads: Uploads, slow: Slow) -> None:
    slow.answers.set()
    await uploads.publish(2, {BUNDLE: slow.upload("newer")})
    await uploads.publish(1, {BUNDLE: slow.upload("older"), DEVICES: slow.upload("devices")})
    assert slow.published == ["newer", "devices"]


async def test_all_go_out_one_at_a_time(uploads: Uploads, slow: Slow) -> None:
    tasks = await begun(
        uploads.publish(1, {BUNDLE: slow.upload("bundle")}),
        uploads.publish(2, {DEVICES: slow.upload("devices")}),
    )
    assert slow.begun == ["bundle"]
    slow.answers.set()
    await asyncio.gather(*tasks)
    assert slow.published == ["bundle", "devices"]


async def test_who_was_replaced_hears_of_the_failure(uploads: Uploads, slow: Slow) -> None:
    slow.refuses.add("3")
    tasks = await begun(
        *(uploads.publish(each, {BUNDLE: slow.upload(f"{each}")}) for each in (1, 2, 3))
    )
    slow.answers.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is None
    assert [str(each) for each in others] == ["3", "3"]
    assert all(isinstance(each, BundleUploadFailed) for each in others)
    assert slow.begun == ["1", "3"]


async def test_what_failed_is_made_again_in_place_of_an_older_one(
    uploads: Uploads, slow: Slow
) -> None:
    slow.answers.set()
    slow.refuses.add("newer")
    with pytest.raises(BundleUploadFailed, match="newer"):
        await uploads.publish(2, {BUNDLE: slow.upload("newer")})
    with pytest.raises(BundleUploadFailed, match="newer"):
        await uploads.publish(1, {BUNDLE: slow.upload("older")})
    slow.refuses.clear()
    await uploads.publish(1, {BUNDLE: slow.upload("older")})
    assert slow.published == ["newer"]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_one_that_is_cancelled_takes_nothing_along(
    cancelled: int, uploads: Uploads, slow: Slow
) -> None:
    """Whether it is the one that uploads, the newest, or one that was replaced."""
    numbers = 1, 3, 2
    tasks = await begun(
        *(uploads.publish(each, {BUNDLE: slow.upload(f"{each}")}) for each in numbers)
    )
    tasks[cancelled].cancel()
    slow.answers.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(cancelled), asyncio.CancelledError)
    assert outcomes == [None, None]
    assert slow.published[-1] == "3"
    assert slow.published.count("3") == 1


async def test_what_comes_while_an_upload_fails_has_a_turn_of_its_own(
    uploads: Uploads, slow: Slow
) -> None:
    """Whoever asked for the failed one hears of it, and nobody else."""
    slow.refuses.add("1")
    tasks = await begun(
        uploads.publish(1, {BUNDLE: slow.upload("1")}),
        uploads.publish(2, {BUNDLE: slow.upload("2")}),
    )
    slow.answers.set()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, BundleUploadFailed)
    assert second is None
    assert slow.published == ["2"]


async def test_any_other_error_leaves_the_upload_to_the_others(
    uploads: Uploads, slow: Slow
) -> None:
    tries: list[int] = []

    async def breaks() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ZeroDivisionError
        slow.published.append("newest")

    tasks = await begun(
        uploads.publish(1, {BUNDLE: slow.upload("1")}),
        uploads.publish(2, {BUNDLE: slow.upload("2")}),
        uploads.publish(3, {BUNDLE: breaks}),
    )
    slow.answers.set()
    _, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(second, ZeroDivisionError)
    assert third is None
    assert slow.published == ["1", "newest"]
