"""Devices that people decide on: one call for all who wait for it, and nobody else waits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Final, cast

from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.xmpp.devices import Device

__all__ = ["Decide", "Deciding"]

log = logging.getLogger(__name__)

Decide = Callable[[Sequence[Device]], Awaitable[None]]
"""What an application decides with: it is given devices, and calls `Chat.trust` for each."""

Name = tuple[BareJid, DeviceId]

_deciding: Final[ContextVar[frozenset[asyncio.Task[None]]]] = ContextVar(
    "deciding", default=frozenset()
)
"""The calls that whatever runs now is a part of. A message that is sent from there, to ask somebody
perhaps, must not wait for the answer."""


class Deciding:
    """Has the application decide. Owns a task for each call.

    Args:
        decide: the application's callback; it may take as long as people do.
    """

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._calls: dict[Name, asyncio.Task[None]] = {}

    async def ask(self, devices: Sequence[Device]) -> None:
        """Return once all of these devices have been decided on, or left as they are.

        Canceling it is safe: the call goes on, for others.
        """
        asked = {
            _name(device): device
            for device in devices
            if self._calls.get(_name(device)) not in _deciding.get()
        }
        new = [device for name, device in asked.items() if name not in self._calls]
        if new:
            self._call(new)
        if asked:
            await asyncio.wait({self._calls[name] for name in asked})

    async def close(self) -> None:
        """End every call; its devices stay as they are."""
        tasks = set(self._calls.values()) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, devices: list[Device]) -> None:
        task = asyncio.ensure_future(self._called(devices))
        names = [_name(device) for device in devices]
        self._calls |= dict.fromkeys(names, task)
        task.add_done_callback(lambda _: [self._calls.pop(name) for name in names])

    async def _called(self, devices: list[Device]) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        _deciding.set(_deciding.get() | {task})
        try:
            await self._decide(devices)
        except Exception as error:  # noqa: BLE001 -- the application's; the devices stay undecided
            # No traceback: it would quote the exception's text.
            log.error("deciding on devices raised %s", type(error).__name__)  # noqa: TRY400 -- as said


def _name(device: Device) -> Name:
    return device.jid, device.device
