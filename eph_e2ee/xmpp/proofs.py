"""What devices have shown that they can do, kept beside the OMEMO keys."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element

from omemo.storage import Storage
from omemo.types import DeviceInformation

from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.protocol import ephemeral
from eph_e2ee.protocol.ephemeral import Kind

__all__ = ["MAXIMUM_PROOFS", "READS_ENVELOPES", "SENDS_TIMERS", "Proofs", "speaks_of_timers"]

READS_ENVELOPES: Final = "/eph_e2ee/reads_sce"
"""Where the storage keeps which devices have sent us an envelope: a list of "jid device"."""

SENDS_TIMERS: Final = "/eph_e2ee/sends_timers"
"""The same for those that have sent a timer, or have turned timers off, in an envelope."""

MAXIMUM_PROOFS: Final = 4096
"""Devices that are remembered: some hundred kilobytes, written when there is a new one. Beyond it
the account with most of them loses its oldest, so that nobody pushes out others by making up
devices of their own."""


class Proofs:
    """The devices that have shown one thing, the oldest first.

    Args:
        key: where the storage keeps them.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._names: dict[str, None] = {}

    async def load(self, storage: Storage) -> None:
        """Read what was kept."""
        self._names = dict.fromkeys((await storage.load_list(self._key, str)).maybe([]))

    def has(self, jid: str, device: int) -> bool:
        """Whether a device of an account has shown it."""
        return _name(jid, device) in self._names

    async def add(self, device: DeviceInformation, storage: Storage) -> None:
        """Keep that a device has shown it; inside of the operation that has opened its message.

        The storage is asked each time: what an operation has stored is gone if its commit fails,
        and the next message stores it again. Until then the device is known by what it has shown.
        """
        name = _name(device.bare_jid, device.device_id)
        kept = dict.fromkeys((await storage.load_list(self._key, str)).maybe([]))
        if name in kept and name in self._names:
            return
        kept[name] = None
        while len(kept) > MAXIMUM_PROOFS:
            _forget_one(kept)
        self._names = kept
        await storage.store(self._key, list[Any](kept))


def speaks_of_timers(content: Sequence[Element]) -> bool:
    """Tell whether who has written this knows timers: one that can be read, or their end."""
    return ephemeral.read(content).kind in (Kind.TIMER, Kind.OFF)


def _forget_one(names: dict[str, None]) -> None:
    accounts = Counter(_account(name) for name in names)
    ((account, _),) = accounts.most_common(1)
    del names[next(name for name in names if _account(name) == account)]


def _name(jid: str, device: int) -> str:
    return f"{BareJid(jid)} {DeviceId(device)}"


def _account(name: str) -> str:
    return name.rpartition(" ")[0]
