"""Which device is addressed in which OMEMO, by what has been seen of it."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree.ElementTree import Element

import slixmpp_omemo
from omemo.types import DeviceInformation

from eph_e2ee.protocol.capability import Answer, DeviceFacts, assess, is_marked
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.proofs import READS_ENVELOPES, SENDS_TIMERS, Proofs, speaks_of_timers

__all__ = ["Routing"]


class Routing(slixmpp_omemo.XEP_0384, metaclass=ABCMeta):
    """The part of the plugin that knows what devices read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._readers = Proofs(READS_ENVELOPES)
        self._timekeepers = Proofs(SENDS_TIMERS)
        self._addressed: Callable[[DeviceInformation], bool] = lambda _: True

    @property
    @abstractmethod
    def gate(self) -> Gate:
        """The lock of this account's sessions."""

    def namespaces(self, device: DeviceInformation) -> frozenset[str]:
        """Where a device may be addressed: in omemo:2 only when it is known to read envelopes."""
        if not self._addressed(device):
            return frozenset()
        reads = assess(self.facts(device)).reads_sce
        return frozenset({MODERN if reads is Answer.YES else OLD})

    @contextmanager
    def addressing(self, wanted: Callable[[DeviceInformation], bool]) -> Iterator[None]:
        """Address no devices but these. Only inside of an operation, which runs alone."""
        self._addressed = wanted
        try:
            yield
        finally:
            self._addressed = lambda _: True

    def facts(self, device: DeviceInformation, *, advertised: bool | None = None) -> DeviceFacts:
        """What has been seen of a device (its lists, its label, what it has sent, and disco)."""
        active = dict(device.active)
        return DeviceFacts(
            listed=active.get(MODERN, False),
            listed_legacy=active.get(OLD, False),
            sent_envelope=self._readers.has(device.bare_jid, device.device_id),
            marked=is_marked(device.label),
            sent_timer=self.has_sent_timer(device.bare_jid, device.device_id),
            advertised=advertised,
        )

    def has_sent_timer(self, jid: str, device: int) -> bool:
        """Whether a device has ever sent a timer, or turned timers off, in an envelope."""
        return self._timekeepers.has(jid, device)

    async def remember_reader(
        self, device: DeviceInformation, content: Sequence[Element] = ()
    ) -> None:
        """Note that a device has sent an envelope that we read: it can be sent one, too.

        Its content may show that the device knows timers.
        """
        storage = self.gate.storage
        await self._readers.add(device, storage)
        if speaks_of_timers(content):
            await self._timekeepers.add(device, storage)
