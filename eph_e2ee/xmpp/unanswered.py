"""How much of a device stands unanswered, and which answer is due.

Two answers keep a one-sided conversation going. An empty message lets the sender's ratchet turn
(XEP-0384 section 6). But QXmpp gives a device up that has not sent it anything *with a payload*
for 106 messages, and an empty message does not count there: such a device gets an envelope with
nothing in it.
"""

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import twomemo
from omemo.storage import Storage

__all__ = ["HEARTBEAT", "PAYLOAD", "Device", "Due", "Unanswered"]

Device = tuple[str, str, int]
"""An OMEMO namespace, a bare JID, and a device's id."""

HEARTBEAT: Final = 53
"""Messages without any answer, before an empty one ("a counter of 53 or higher")."""

PAYLOAD: Final = 80
"""Messages with a payload without such an answer, before one. QXmpp stops at 106 of those that it
has sent: 26 may be under way, or lost. With `HEARTBEAT`, 25 answers to 1000 messages."""

STEP: Final = 8
"""How far a count may run ahead of what is stored: a write for each message would be one too many.
After a restart the most is assumed; an answer that comes too early harms nobody."""

MAXIMUM: Final = 4096
"""Devices whose counts are in memory; the others' are a read away."""


class Due(enum.Enum):
    """The answer that a device needs."""

    EMPTY = "empty"
    PAYLOAD = "payload"


@dataclass(slots=True)
class _Count:
    """Messages since the last answer with a payload, and since the last of any kind."""

    payload: int = 0
    heard: int = 0
    kept: tuple[int, int] | None = None


class Unanswered:
    """Counts what devices have sent; used within operations, so that it is stored with them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._counts: OrderedDict[Device, _Count] = OrderedDict()

    async def heard(self, device: Device, *, payload: bool) -> None:
        """Count a message of a device."""
        count = await self._count(device)
        count.heard += 1
        count.payload += payload
        kept = count.kept
        if kept is None or max(count.payload - kept[0], count.heard - kept[1]) >= STEP:
            await self._keep(device, count)

    async def answered(self, device: Device, *, payload: bool) -> None:
        """Begin to count anew: something was sent to it."""
        count = await self._count(device)
        count.heard = 0
        if payload:
            count.payload = 0
        if count.kept and max(count.kept[0] - count.payload, count.kept[1] - count.heard) > STEP:
            await self._keep(device, count)

    def asked(self, device: Device) -> None:
        """Begin to count anew though the answer is yet to come: one that fails starts no storm."""
        self._counts[device].payload = 0

    async def forget(self, device: Device) -> None:
        """Forget what a device has sent: it is in no list any more."""
        self._counts.pop(device, None)
        await self._storage.delete(_key(device))

    def due(self, device: Device) -> Due | None:
        """Return the answer that is due to a device that was heard; the greater one of two."""
        count = self._counts.get(device, _Count())
        if count.payload >= PAYLOAD and device[0] == twomemo.twomemo.NAMESPACE:
            return Due.PAYLOAD
        return Due.EMPTY if count.heard >= HEARTBEAT else None

    def waiting(self) -> list[Device]:
        """Return those that were heard and are due an answer."""
        return [device for device in self._counts if self.due(device)]

    async def _count(self, device: Device) -> _Count:
        count = self._counts.get(device)
        if count is None:
            stored = (await self._storage.load_list(_key(device), int)).maybe(None)
            count = self._counts.setdefault(device, _Count() if stored is None else _most(stored))
        self._counts.move_to_end(device)
        if len(self._counts) > MAXIMUM:
            self._counts.popitem(last=False)
        return count

    async def _keep(self, device: Device, count: _Count) -> None:
        count.kept = count.payload, count.heard
        await self._storage.store(_key(device), [*count.kept])


def _most(stored: list[int]) -> _Count:
    """The most that may have come, without skipping an answer."""
    payload, heard = stored
    ahead = STEP - 1
    return _Count(
        min(payload + ahead, PAYLOAD - 1), min(heard + ahead, HEARTBEAT - 1), (payload, heard)
    )


def _key(device: Device) -> str:
    namespace, bare_jid, device_id = device
    return f"/eph_e2ee/unanswered/{namespace}/{bare_jid}/{device_id}"
