"""The device list that came last, for operations that begin again with an older one.

An operation ends when it has to download something, and begins again once it has it. By then a
newer list may have come, and been taken in: after it, the older one would bring back a device that
its owner has removed.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import omemo
from omemo.types import DeviceList

from eph_e2ee.errors import VaultError

__all__ = ["Arrived", "Latest"]

TakeIn = Callable[[Callable[[], DeviceList]], Awaitable[None]]
"""Takes in what it is given a way to look at, as often as it has to begin again."""


@dataclass(slots=True, weakref_slot=True)
class Arrived:
    """What has come of one list of an account, as long as an operation holds it.

    Attributes:
        listed: the newest; it changes when another one comes.
        awaited: whether somebody takes in whatever comes by itself: one does so for all.
    """

    listed: DeviceList
    awaited: bool = False


class Latest:
    """The lists that operations are working on, each in its newest state."""

    def __init__(self) -> None:
        self._arrived: WeakValueDictionary[tuple[str, str], Arrived] = WeakValueDictionary()

    def came(self, namespace: str, bare_jid: str, listed: DeviceList) -> Arrived:
        """Note a list in the moment in which it comes, also for who holds an older one of it."""
        arrived = self._arrived.setdefault((namespace, bare_jid), Arrived(listed))
        arrived.listed = listed
        return arrived

    async def taken_in(
        self, namespace: str, bare_jid: str, listed: DeviceList, take_in: TakeIn
    ) -> None:
        """Have a list taken in that has come by itself, or whatever newer one comes meanwhile.

        Raises:
            OMEMOException, VaultError: the newest one was not.
        """
        arrived = self.came(namespace, bare_jid, listed)
        if arrived.awaited:
            return
        arrived.awaited = True
        try:
            while await _overtaken(arrived, take_in):
                pass
        finally:
            arrived.awaited = False


async def _overtaken(arrived: Arrived, take_in: TakeIn) -> bool:
    """Take one in; whether another one has come since it was looked at last."""
    begun = arrived.listed

    def newest() -> DeviceList:
        nonlocal begun
        begun = arrived.listed
        return begun

    try:
        await take_in(newest)
    except (omemo.OMEMOException, VaultError):
        if begun is arrived.listed:
            raise
    return begun is not arrived.listed
