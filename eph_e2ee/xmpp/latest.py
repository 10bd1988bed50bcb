"""The device list that came last, for operations that begin again with an older one.

An operation ends when it has to download something, and begins again once it has it. By then a
newer list may have come, and been taken in: after it, the older one would bring back a device that
its owner has removed.
"""

from dataclasses import dataclass
from weakref import WeakValueDictionary

from omemo.types import DeviceList

__all__ = ["Arrived", "Latest"]


@dataclass(slots=True, weakref_slot=True)
class Arrived:
    """What has come of one list of an account, as long as an operation holds it.

    Attributes:
        listed: the newest; it changes when another one comes.
    """

    listed: DeviceList


class Latest:
    """The lists that operations are working on, each in its newest state."""

    def __init__(self) -> None:
        self._arrived: WeakValueDictionary[tuple[str, str], Arrived] = WeakValueDictionary()

    def came(self, namespace: str, bare_jid: str, listed: DeviceList) -> Arrived:
        """Note a list in the moment in which it comes, also for who holds an older one of it."""
        arrived = self._arrived.setdefault((namespace, bare_jid), Arrived(listed))
        arrived.listed = listed
        return arrived
