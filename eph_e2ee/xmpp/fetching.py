"""What an operation has to download: asked for together, without the lock, and for a while kept."""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, cast

import omemo
from omemo.types import DeviceList
from slixmpp_omemo.base_session_manager import BaseSessionManager

from eph_e2ee.xmpp.gate import Absent, Gate, Unit
from eph_e2ee.xmpp.parcel import MODERN
from eph_e2ee.xmpp.uploads import Name

__all__ = ["Fetching"]

PATIENCE = 10.0
"""Seconds that an operation waits for the server of one account, with all that it asks of it: a
mute one delays a message, and those behind it, no longer, however many devices it lists."""

MAXIMUM_KEYS = 1024
"""Devices whose keys are fetched for one message. Accounts with many of them come last, so that
whoever makes up devices keeps no key from anybody else (F41)."""


FAILURES: Final[dict[object, type[omemo.OMEMOException]]] = {
    "bundle": omemo.BundleDownloadFailed,
    "devices": omemo.DeviceListDownloadFailed,
}
"""What python-omemo expects of downloads that fail, by the first part of their names."""

SPARING: Final[Name] = ("sparing",)
"""The mark of an operation that asks nobody who has not answered a moment ago."""


@dataclass(slots=True)
class _Patience:
    """What is left for the server of one account, in an operation.

    Attributes:
        left: seconds of waiting for it; what is asked side by side counts once.
        over: whether it has not answered in time. Nothing more is asked of it.
    """

    left: float = field(default_factory=lambda: PATIENCE)
    over: bool = False

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for an answer.

        Raises:
            TimeoutError: the server has not answered, this time or before.
        """
        if self.over:
            raise TimeoutError
        time, left = asyncio.get_running_loop().time, self.left
        begun = time()
        try:
            async with asyncio.timeout(left):
                yield
        except TimeoutError:
            self.over = True
            raise
        finally:
            self.left = max(0.0, min(self.left, left - (time() - begun)))


class Fetching(BaseSessionManager):
    """The part of the session manager that downloads; `sessions.Sessions` is the rest."""

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
            ("bundle", *each): functools.partial(self._downloaded, *each, self._patience(each[1]))
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
                (namespace, jid, device)
                for (jid, device), namespaces in unknown.items()
                if len(namespaces) > place
                and all(_failed(unit, each, jid, device) for each in namespaces[:place])
                for namespace in _looked_in(namespaces, place)
            )

    def spare(self) -> None:
        """Have an operation ask nobody who has not answered a moment ago.

        For what many get: one of them is left out, and keeps the others waiting no second time. And
        for what arrives, where it can be opened later: anybody can write to us.
        """
        unit = self.gate.unit
        if unit is not None:
            unit.fetched[SPARING] = True

    def missed(self, bare_jid: str, device: int | None) -> bool:
        """Tell whether an operation could not ask for an account's list, or for a device's keys.

        That there are none is an answer.
        """
        unit = self.gate.unit
        wanted = [("devices", bare_jid), ("bundle", bare_jid, device)]
        return unit is not None and any(
            (name[0], *name[2:]) in wanted
            and isinstance(outcome, omemo.OMEMOException)
            and not isinstance(outcome, omemo.BundleNotFound)
            for name, outcome in unit.fetched.items()
        )

    def _at_hand(self, unit: Unit, name: Name) -> bool:
        """Whether an operation has what it wants to download, if only from the one before it.

        Where it spares, it goes on without what could not be had a moment ago. Whoever asks for
        something himself does ask again.
        """
        downloads = self.gate.downloads
        if name not in unit.fetched and (kept := downloads.get(name)) is not None:
            unit.fetched[name] = kept
        if name not in unit.fetched and name[0] in FAILURES and self._is_given_up(unit, name):
            unit.fetched[name] = FAILURES[name[0]]("it could not be had a moment ago")
        return name in unit.fetched

    def _is_given_up(self, unit: Unit, name: Name) -> bool:
        if SPARING in unit.fetched and self.gate.downloads.get(_in_vain(name)):
            return True
        patience = unit.fetched.get(("patience", name[2]))
        return isinstance(patience, _Patience) and patience.over

    def _patience(self, bare_jid: str) -> _Patience:
        """What is left for an account's server, in this operation or outside of any."""
        unit, whole = self.gate.unit, _Patience()
        if unit is None:
            return whole
        return cast("_Patience", unit.fetched.setdefault(("patience", bare_jid), whole))

    async def _downloaded(
        self, namespace: str, bare_jid: str, device_id: int, patience: _Patience
    ) -> omemo.Bundle:
        """A bundle, kept for the next operations unless it is of our own account: we change it."""
        name = ("bundle", namespace, bare_jid, device_id)
        try:
            async with patience.waiting():
                bundle = await self.network._download_bundle(namespace, bare_jid, device_id)
        except TimeoutError:
            self._note_in_vain(name)
            raise omemo.BundleDownloadFailed("the server does not answer") from None
        if bare_jid != self.own_bare_jid:
            self.gate.downloads.keep(name, bundle)
        return bundle

    async def _listed(self, namespace: str, bare_jid: str, patience: _Patience) -> DeviceList:
        """A device list; that another account's could not be had is remembered for a while."""
        try:
            async with patience.waiting():
                return await self.network._download_device_list(namespace, bare_jid)
        except (omemo.DeviceListDownloadFailed, TimeoutError) as failure:
            self._note_in_vain(("devices", namespace, bare_jid))
            if isinstance(failure, omemo.DeviceListDownloadFailed):
                raise
        raise omemo.DeviceListDownloadFailed("the server does not answer")

    def _note_in_vain(self, name: Name) -> None:
        if name[2] != self.own_bare_jid:
            self.gate.downloads.keep(_in_vain(name), value=True)

    async def update_device_list(
        self, namespace: str, bare_jid: str, device_list: DeviceList
    ) -> None:
        """Take a list in as python-omemo does; whoever has sent one can be asked again."""
        self.gate.downloads.forget(_in_vain(("devices", namespace, bare_jid)))
        await super().update_device_list(namespace, bare_jid, device_list)


def _in_vain(name: Name) -> Name:
    """What is kept, among downloads, of one that could not be had.

    Of bundles one note serves for all of an account: some hundreds would push out what was had.
    """
    kind, namespace, bare_jid, *_ = name
    return (
        ("in vain", kind, bare_jid) if kind == "bundle" else ("in vain", kind, namespace, bare_jid)
    )


def _looked_in(namespaces: Sequence[str], place: int) -> set[str]:
    """Where to look for a device's keys; with the first place also where its session will begin.

    Else all messages of a first burst would ask for that, and those behind them overtake them.
    """
    sessions = {MODERN} & set(namespaces) if place == 0 else set()
    return {namespaces[place], *sessions}


def _failed(unit: Unit, namespace: str, jid: str, device: int) -> bool:
    return isinstance(unit.fetched.get(("bundle", namespace, jid, device)), omemo.OMEMOException)
