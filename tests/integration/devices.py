"""Several devices of one account, each with a vault of its own, and what is told of messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from eph_e2ee.backlog import PAGE
from tests.support.chats import NOW, Party
from tests.support.client import SECONDS, Happenings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from eph_e2ee import CatchUp, Chat
    from tests.support.server import Account, Server

__all__ = ["Device", "NewDevice", "caught_up", "ends", "ends_at", "has_told", "page_of", "until"]


class Device(Party):
    """A party that may share its account with another one, and is told what becomes of messages."""

    def attach(self) -> Chat:
        """Make a client and attach to it, as any party does."""
        chat = super().attach()
        self.deliveries = Happenings(self.client, "ephemeral_delivery")
        return chat


class NewDevice:
    """Makes devices; use it in an `async with`, at whose end they have left."""

    def __init__(self, server: Server, account: Callable[[str], Account], folder: Path) -> None:
        self.made: list[Device] = []
        self._server = server
        self._account = account
        self._folder = folder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self.made:
            await each.leave()

    def __call__(
        self, owner: str | Device, *, address: tuple[str, int] | None = None, **options: Any
    ) -> Device:
        own = self._account(owner) if isinstance(owner, str) else owner.account
        folder = self._folder / f"{own.name}.{len(self.made)}.vault"
        self.made.append(Device(own, folder, address or self._server.address, **options))
        return self.made[-1]


def page_of(server: Server) -> int:
    """How many results of its archive are read at once."""
    return min(PAGE, server.PAGE)


async def ends(device: Party, other: Party) -> list[float | None]:
    """When each of its messages with somebody ends, in seconds from the clocks' beginning."""
    return [
        None if each.deadline is None else each.deadline - NOW
        for each in await device.history(other)
    ]


async def until(device: Party, reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that no event tells of, as long as the server answers."""
    async with asyncio.timeout(SECONDS):
        while not await reached():
            await device.ping()


async def has_told(device: Party) -> None:
    """Wait until a device has told the others what was read on it, and the server knows."""
    reading = device.chat._reading

    async def is_told() -> bool:
        return not (reading._reads or reading._woken.is_set())

    await until(device, is_told)
    await device.ping()


async def ends_at(device: Party, other: Party, *seconds: float | None) -> None:
    """Wait until its messages with somebody end then."""
    try:
        await until(device, lambda: _is(ends(device, other), list(seconds)))
    except TimeoutError:
        assert await ends(device, other) == list(seconds)
        raise


async def _is(value: Awaitable[object], expected: object) -> bool:
    return await value == expected


async def caught_up(device: Device) -> CatchUp:
    """The end of its reading of the archive."""
    report: CatchUp = await device.progress.next()
    while not report.done:
        report = await device.progress.next()
    return report
