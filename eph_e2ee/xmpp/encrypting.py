"""One message for many devices, each in the namespace that it can read.

python-omemo's own `encrypt` ends when one of many recipients has no device that can be used (F41),
chooses namespaces by account, and asks for bundles one by one. In a group none of that will do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import omemo
from omemo import session_manager
from omemo.backend import Backend, KeyExchangeFailed
from omemo.message import EncryptedKeyMaterial, KeyExchange, PlainKeyMaterial
from omemo.session import Initiation, Session
from omemo.session_manager import (
    BundleDownloadFailed,
    BundleNotFound,
    EncryptionError,
    StillUndecided,
)
from omemo.types import DeviceInformation, TrustLevel

from eph_e2ee.errors import Cause
from eph_e2ee.events import LeftOut
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.xmpp.parcel import MODERN, OLD

if TYPE_CHECKING:
    from eph_e2ee.xmpp.sessions import Sessions

__all__ = ["Addressee", "Encrypted", "NoEligibleDevices", "asked", "encrypt"]

Addressee = tuple[BareJid, DeviceId]
"""A device, with its account."""

Routes = dict[DeviceInformation, str]
"""The namespace that each device is addressed in."""

Key = tuple[EncryptedKeyMaterial, KeyExchange | None]

NO_KEYS: Final = (BundleDownloadFailed, BundleNotFound, KeyExchangeFailed)
"""What leaves out one device and no other."""


UNDECIDED: Final = "trust of some devices has not been decided on"


class NoEligibleDevices(session_manager.NoEligibleDevices):
    """Accounts have no device that could be addressed.

    Applications on slixmpp-omemo know it by the name of its class, too, and look for the accounts
    in its text.

    Attributes:
        causes: why their devices were left out.
    """

    def __init__(self, accounts: frozenset[BareJid], causes: frozenset[Cause]) -> None:
        super().__init__(accounts, f"no device of these accounts can be addressed: {accounts}")
        self.causes = causes


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What encrypting gave.

    Attributes:
        messages: one for each namespace that some device was addressed in, with its key.
        errors: devices whose keys could not be had, as python-omemo tells of them.
        left_out: every device, and every account as a whole, that the message is not for.
        legacy: the recipients' devices that read no envelopes, or are not known to.
        addressed: the devices, our own included, that were addressed in legacy OMEMO.
        doubtful: whether one of them is in both lists, as slixmpp-omemo's devices are: beside an
            omemo:2 element it would not look at another one.
    """

    messages: dict[omemo.Message, PlainKeyMaterial] = field(repr=False)
    errors: frozenset[EncryptionError]
    left_out: frozenset[LeftOut]
    legacy: frozenset[Addressee]
    addressed: frozenset[Addressee]
    doubtful: bool


def asked(plaintexts: Mapping[str, bytes], order: Sequence[str] | None) -> Sequence[str] | None:
    """The order of namespaces that an application has asked for; None where it leaves it to us.

    Without a plaintext for legacy OMEMO it has asked for omemo:2, also for devices that are not
    known to read envelopes: what it sends may be none.

    Raises:
        UnknownNamespace: something else than these two.
    """
    if order is None:
        return None if OLD in plaintexts else [MODERN]
    if not {MODERN, OLD}.issuperset(order):
        raise omemo.UnknownNamespace("an order of namespaces may name omemo:2 and legacy OMEMO")
    return order


async def encrypt(
    sessions: "Sessions",
    recipients: frozenset[BareJid],
    plaintexts: Mapping[str, bytes],
    identifier: str | None = None,
    *,
    strict: bool = False,
    order: Sequence[str] | None = None,
) -> Encrypted:
    """Encrypt for all devices of the recipients, and our own others; inside of an operation.

    Without omemo:2 among the plaintexts every device is addressed in legacy OMEMO. With an `order`
    each is in the first of its namespaces that lists it, whatever it is known to read. Devices and
    accounts that cannot be reached are left out, unless all of them are; with `strict`, as
    python-omemo has it, no account may be, and nobody's trust may be undecided.

    Raises:
        NoEligibleDevices: none of the recipients has a device that could be addressed.
        StillUndecided: so it is, for want of a decision on trust.
    """
    work = _Work(sessions, recipients, plaintexts, order)
    routes = await work.trusted(await work.routes(), identifier, strict=strict)
    standing = await work.standing(routes)
    messages: dict[omemo.Message, PlainKeyMaterial] = {}
    for namespace, backend in sessions.backends.items():
        devices = [device for device in routes if routes[device] == namespace]
        found = await work.encrypted(backend, devices, standing) if devices else None
        if found is not None:
            messages.update([found])
    work.check_reached(strict=strict)
    await work.store()
    await sessions.note_sent(messages)
    return work.result(messages)


class _Work:
    """One message on its way; nothing is stored before the end."""

    def __init__(
        self,
        sessions: "Sessions",
        recipients: frozenset[BareJid],
        plaintexts: Mapping[str, bytes],
        order: Sequence[str] | None,
    ) -> None:
        self._sessions = sessions
        self._order = order
        self._own = BareJid(sessions.own_bare_jid)
        self._recipients = recipients - {self._own}
        self._plaintexts = plaintexts
        self._left_out: set[LeftOut] = set()
        self._errors: set[EncryptionError] = set()
        self._legacy: set[Addressee] = set()
        self._changed: list[tuple[Backend, Session, DeviceInformation]] = []
        self._unknown: dict[tuple[str, int], list[str]] = {}

    # -- who, and in which namespace -------------------------------------------------------------

    async def routes(self) -> Routes:
        """The namespace of each device that can be addressed in one."""
        accounts = {jid: await self._listed(jid) for jid in self._recipients | {self._own}}
        self._sessions.have_keys(self._unknown)
        routes: Routes = {}
        for jid, listed in accounts.items():
            devices = {
                DeviceId(device.device_id): device
                for device in await self._sessions.get_device_information(jid)
                if DeviceId(device.device_id) in listed
            }
            for unknown in listed - devices.keys():
                self._left_out.add(LeftOut(jid, unknown, Cause.NO_KEYS))
            for device in devices.values():
                self._route(device, routes)
            if not listed and jid != self._own:
                self._left_out.add(LeftOut(jid, None, Cause.NO_DEVICE))
        return routes

    async def _listed(self, jid: BareJid) -> set[DeviceId]:
        """The active devices of an account but this one; those without a known key are noted."""
        devices = self._sessions.knowing.get(jid)
        if devices is not None:
            return self._active(jid, {each.device_id: dict(each.active) for each in devices})
        storage = self._sessions.storage
        actives: dict[int, dict[str, bool]] = {}
        for device in (await storage.load_list(f"/devices/{jid}/list", int)).maybe([]):
            place = f"/devices/{jid}/{device}"
            active = (await storage.load_dict(f"{place}/active", bool)).maybe({})
            actives[device] = active
            if (await storage.load_bytes(f"{place}/identity_key")).is_nothing:
                # Where it is in use first, and there omemo:2; python-omemo looks everywhere.
                tried = sorted(active, key=lambda each: (not active[each], each != MODERN))
                self._unknown[jid, device] = tried
        return self._active(jid, actives)

    def _active(self, jid: BareJid, actives: Mapping[int, Mapping[str, bool]]) -> set[DeviceId]:
        here = (self._own, self._sessions.own_device)
        return {
            DeviceId(device)
            for device, active in actives.items()
            if any(active.values()) and (jid, device) != here
        }

    def _route(self, device: DeviceInformation, routes: Routes) -> None:
        active = {namespace for namespace, is_active in device.active if is_active}
        reads = self._sessions.router.namespaces(device)
        if not reads:
            return  # nobody wants it to be addressed
        if MODERN not in reads and device.bare_jid != self._own:
            self._legacy.add(_addressee(device))
        usable = active & self._plaintexts.keys()
        found = [namespace for namespace in self._order_for(reads) if namespace in usable]
        if found:
            routes[device] = found[0]
        else:
            self._leave_out(device, Cause.LEGACY)

    def _order_for(self, reads: frozenset[str]) -> Sequence[str]:
        """Where a device is to be addressed that reads so much, the best first."""
        if self._order is not None:
            return self._order
        if MODERN not in self._plaintexts:
            return [OLD]
        return [namespace for namespace in (MODERN, OLD) if namespace in reads]

    async def trusted(self, routes: Routes, identifier: str | None, *, strict: bool) -> Routes:
        """Those that are trusted, once who has to decide was asked.

        Raises:
            StillUndecided: with `strict`, some are neither trusted nor distrusted.
        """
        levels = [await self._trust(device) for device in routes]
        undecided = _undecided(routes, levels)
        if undecided:
            await self._sessions._make_trust_decision(undecided, identifier)
            routes = {await self._decided(device): routes[device] for device in routes}
            levels = [await self._trust(device) for device in routes]
            undecided = _undecided(routes, levels)
        if undecided and strict:
            raise StillUndecided(UNDECIDED)
        trusted: Routes = {}
        for (device, namespace), level in zip(routes.items(), levels, strict=True):
            if level is TrustLevel.TRUSTED:
                trusted[device] = namespace
            else:
                undecided_yet = level is TrustLevel.UNDECIDED
                self._leave_out(device, Cause.UNDECIDED if undecided_yet else Cause.DISTRUSTED)
        return trusted

    async def _trust(self, device: DeviceInformation) -> TrustLevel:
        return await self._sessions._evaluate_custom_trust_level(device)

    async def _decided(self, device: DeviceInformation) -> DeviceInformation:
        known = await self._sessions.get_device_information(device.bare_jid)
        now = (each for each in known if each.device_id == device.device_id)
        return next(now, device)

    # -- keys ------------------------------------------------------------------------------------

    async def standing(self, routes: Routes) -> dict[DeviceInformation, Session]:
        """The sessions that there are. Bundles for the others are fetched together."""
        backends = self._sessions.backends
        sessions: dict[DeviceInformation, Session] = {}
        for device, namespace in routes.items():
            session = await backends[namespace].load_session(device.bare_jid, device.device_id)
            if session is not None:
                sessions[device] = session
        self._sessions.have_bundles(
            (routes[device], device.bare_jid, device.device_id)
            for device in routes.keys() - sessions.keys()
        )
        return sessions

    async def encrypted(
        self,
        backend: Backend,
        devices: Iterable[DeviceInformation],
        standing: Mapping[DeviceInformation, Session],
    ) -> tuple[omemo.Message, PlainKeyMaterial] | None:
        """A message for devices of one namespace; None if the keys of none of them could be had."""
        content, plain = await backend.encrypt_plaintext(self._plaintexts[backend.namespace])
        keys: set[Key] = set()
        for device in devices:
            try:
                keys.add(await self._key(backend, device, standing.get(device), plain))
            except NO_KEYS as failure:
                self._leave_out(device, Cause.NO_KEYS)
                jid, number = device.bare_jid, device.device_id
                self._errors.add(EncryptionError(backend.namespace, jid, number, failure))
        if not keys:
            return None
        own, number = self._own, self._sessions.own_device
        return omemo.Message(backend.namespace, own, number, content, frozenset(keys)), plain

    async def _key(
        self,
        backend: Backend,
        device: DeviceInformation,
        session: Session | None,
        plain: PlainKeyMaterial,
    ) -> Key:
        jid, number = device.bare_jid, device.device_id
        if session is None:
            bundle = await self._sessions._download_bundle(backend.namespace, jid, number)
            session, key = await backend.build_session_active(jid, number, bundle, plain)
        else:
            key = await backend.encrypt_key_material(session, plain)
        self._changed.append((backend, session, device))
        unanswered = session.initiation is Initiation.ACTIVE and not session.confirmed
        return key, session.key_exchange if unanswered else None

    # -- the end ---------------------------------------------------------------------------------

    def check_reached(self, *, strict: bool) -> None:
        """Refuse a message that reaches nobody; with `strict`, one that does not reach everybody.

        Raises:
            NoEligibleDevices: so it is.
            StillUndecided: so it is, and some of the devices nobody has decided on.
        """
        unreached = self._recipients - {device.bare_jid for _, _, device in self._changed}
        if unreached and (strict or unreached == self._recipients):
            if any(each.cause is Cause.UNDECIDED for each in self._left_out):
                raise StillUndecided(UNDECIDED)
            causes = (each.cause for each in self._left_out if each.jid in unreached)
            raise NoEligibleDevices(frozenset(unreached), frozenset(causes))

    async def store(self) -> None:
        """Have the ratchets that turned written."""
        for backend, session, _ in self._changed:
            await backend.store_session(session)

    def result(self, messages: dict[omemo.Message, PlainKeyMaterial]) -> Encrypted:
        """What encrypting gave."""
        old = [device for backend, _, device in self._changed if backend.namespace == OLD]
        return Encrypted(
            messages=messages,
            errors=frozenset(self._errors),
            left_out=frozenset(self._left_out),
            legacy=frozenset(self._legacy),
            addressed=frozenset(map(_addressee, old)),
            doubtful=any(dict(device.active).get(MODERN, False) for device in old),
        )

    def _leave_out(self, device: DeviceInformation, cause: Cause) -> None:
        self._left_out.add(LeftOut(*_addressee(device), cause))


def _undecided(
    devices: Iterable[DeviceInformation], levels: Iterable[TrustLevel]
) -> frozenset[DeviceInformation]:
    pairs = zip(devices, levels, strict=True)
    return frozenset(device for device, level in pairs if level is TrustLevel.UNDECIDED)


def _addressee(device: DeviceInformation) -> Addressee:
    return BareJid(device.bare_jid), DeviceId(device.device_id)
