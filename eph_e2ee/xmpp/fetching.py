"""What an operation has to download: asked for together, without the lock, and for a while kept."""

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import omemo
from omemo.types import DeviceList
from slixmpp_omemo.base_session_manager import BaseSessionManager

from eph_e2ee.xmpp.gate import Absent, Gate, Unit
from eph_e2ee.xmpp.uploads import Name

__all__ = ["Fetching"]

PATIENCE = 10.0
"""Seconds that a message waits for the bundle of one device, or for a device list: a mute server
delays it, and those behind it, no longer."""

MAXIMUM_KEYS = 1024
"""Devices whose keys are fetched for one message. Accounts with many of them come last, so that
whoever makes up devices keeps no key from anybody else (F41)."""


FAILURES: Final[dict[object, type[omemo.OMEMOException]]] = {
    "bundle": omemo.BundleDownloadFailed,
    "devices": omemo.DeviceListDownloadFailed,
}
"""What python-omemo expects of downloads that fail, by the first part of their names."""


class Fetching(BaseSessionManager):
    """The part of the session manager that downloads; `sessions.Sessions` is the rest."""

    _opening: bool
    gate: ClassVar[Gate]
    own_bare_jid: ClassVar[str]
    network: ClassVar[type[BaseSessionManager]]

    async def _fetched(self, name: Name, fetch: Callable[[], Awaitable[Any]]) -> Any:
        unit = self.gate.unit
        if unit is None:
            return await fetch()
        if not self._at_hand(unit, name):
            raise Absent({name: fetch})
        outcome = unit.fetched[name]
        if isinstance(outcome, omemo.OMEMOException):
            raise outcome
        return outcome

    def have_bundles(self, wanted: Iterable[tuple[str, str, int]]) -> None:
        """Have bundles (namespace, account, device) fetched together, which are needed one by one.

        Raises:
            Absent: inside of an operation, when they are not at hand.
        """
        unit = self.gate.unit
        if unit is None:
            return
        absent: dict[Name, Callable[[], Awaitable[Any]]] = {
            ("bundle", *each): functools.partial(self._downloaded, *each)
            for each in wanted
            if not self._at_hand(unit, ("bundle", *each))
        }
        if absent:
            raise Absent(absent)

    def have_keys(self, unknown: Mapping[tuple[str, int], Sequence[str]]) -> None:
        """Have the keys of devices fetched together, whose bundles may be in one place or another.

        Args:
            unknown: by account and device, the namespaces to look in, one after the other.

        Raises:
            Absent: inside of an operation, when they are not at hand.
        """
        unit = self.gate.unit
        if unit is None:
            return
        crowds = Counter(jid for jid, _ in unknown)
        wanted = sorted(unknown, key=lambda each: (crowds[each[0]], each))
        for jid, device in wanted[MAXIMUM_KEYS:]:
            for namespace in unknown[jid, device]:
                failure = omemo.BundleDownloadFailed("too many devices for one message")
                unit.fetched.setdefault(("bundle", namespace, jid, device), failure)
        for place in range(max(map(len, unknown.values()), default=0)):
            self.have_bundles(
                (namespaces[place], jid, device)
                for (jid, device), namespaces in unknown.items()
                if len(namespaces) > place
                and all(_failed(unit, each, jid, device) for each in namespaces[:place])
            )

    def _at_hand(self, unit: Unit, name: Name) -> bool:
        """Whether an operation has what it wants to download, if only from the one before it.

        Where others have us download it, a message that is being opened, it goes on without what
        could not be had a moment ago. Whoever asks for something himself does ask again.
        """
        downloads = self.gate.downloads
        if name not in unit.fetched and (kept := downloads.get(name)) is not None:
            unit.fetched[name] = kept
        if name not in unit.fetched and self._opening and downloads.get(_in_vain(name)):
            unit.fetched[name] = FAILURES[name[0]]("it could not be had a moment ago")
        return name in unit.fetched

    async def _downloaded(self, namespace: str, bare_jid: str, device_id: int) -> omemo.Bundle:
        """A bundle, kept for the next operations unless it is of our own account: we change it."""
        try:
            async with asyncio.timeout(PATIENCE):
                bundle = await self.network._download_bundle(namespace, bare_jid, device_id)
        except TimeoutError:
            self._note_in_vain(("bundle", namespace, bare_jid, device_id), bare_jid)
            raise omemo.BundleDownloadFailed("the server does not answer") from None
        if bare_jid != self.own_bare_jid:
            self.gate.downloads.keep(("bundle", namespace, bare_jid, device_id), bundle)
        return bundle

    async def _listed(self, namespace: str, bare_jid: str) -> DeviceList:
        """A device list; that another account's could not be had is remembered for a while."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.network._download_device_list(namespace, bare_jid)
        except (omemo.DeviceListDownloadFailed, TimeoutError) as failure:
            self._note_in_vain(("devices", namespace, bare_jid), bare_jid)
            if isinstance(failure, omemo.DeviceListDownloadFailed):
                raise
        raise omemo.DeviceListDownloadFailed("the server does not answer")

    def _note_in_vain(self, name: Name, bare_jid: str) -> None:
        if bare_jid != self.own_bare_jid:
            self.gate.downloads.keep(_in_vain(name), value=True)

    async def update_device_list(
        self, namespace: str, bare_jid: str, device_list: DeviceList
    ) -> None:
        """Take a list in as python-omemo does; whoever has sent one can be asked again."""
        self.gate.downloads.forget(_in_vain(("devices", namespace, bare_jid)))
        await super().update_device_list(namespace, bare_jid, device_list)


def _in_vain(name: Name) -> Name:
    """What is kept, among downloads, of one that could not be had."""
    return "in vain", *name


def _failed(unit: Unit, namespace: str, jid: str, device: int) -> bool:
    return isinstance(unit.fetched.get(("bundle", namespace, jid, device)), omemo.OMEMOException)
