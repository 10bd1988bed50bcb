"""What is known of the devices of accounts, read once while it does not change.

For each message python-omemo reads five values of each device of each account again.
"""

import base64
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from omemo.storage import Storage
from omemo.types import DeviceInformation

from eph_e2ee.xmpp.standing import Texts

__all__ = ["MAXIMUM", "Knowing"]

MAXIMUM: Final = 1024
"""Accounts whose devices are remembered, some 3 kB each; others are read again."""

Devices = frozenset[DeviceInformation]


@dataclass(frozen=True, slots=True)
class _Known:
    devices: Devices = field(repr=False)
    texts: dict[str, str | None] = field(repr=False)


class Knowing:
    """Devices of accounts, each account's with the stored values that they were read from.

    Args:
        storage: with one that is not `Texts` nothing is remembered.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage: Texts | None = storage if isinstance(storage, Texts) else None
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def get(self, bare_jid: str) -> Devices | None:
        """All devices of an account, as the storage has them now; None where that is to be read."""
        known = self._known.get(bare_jid)
        if known is None or self._storage is None or not self._storage.holds(known.texts):
            return None
        self._known.move_to_end(bare_jid)
        return known.devices

    def keep(self, bare_jid: str, devices: Devices, listed: Iterable[int]) -> None:
        """Remember what was just read of an account.

        Args:
            bare_jid: the account.
            devices: of its devices, those whose keys are known.
            listed: the ids of all that are listed. Where a key is missing, it is looked for again
                each time.
        """
        self._known.pop(bare_jid, None)
        if self._storage is None or {device.device_id for device in devices} != set(listed):
            return
        texts = self._storage.texts(_names(bare_jid, devices))
        if texts is not None:
            self._known[bare_jid] = _Known(devices, texts)
            if len(self._known) > MAXIMUM:
                self._known.popitem(last=False)


def _names(bare_jid: str, devices: Devices) -> Iterator[str]:
    """The keys of all that python-omemo reads for an account's devices."""
    yield f"/devices/{bare_jid}/list"
    for device in devices:
        for value in ("active", "identity_key", "label", "namespaces"):
            yield f"/devices/{bare_jid}/{device.device_id}/{value}"
        key = base64.urlsafe_b64encode(device.identity_key).decode("ascii")
        yield f"/trust/{bare_jid}/{key}"
