"""How far devices are trusted: slixmpp-omemo's levels in the project's words, and what they mean.

Trust belongs to an identity key of an account; several devices with one key share it.
"""

import base64
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Protocol, cast

import omemo
from omemo.storage import Storage
from omemo.types import DeviceInformation, DeviceList
from omemo.types import TrustLevel as CoreLevel
from slixmpp_omemo.base_session_manager import BaseSessionManager, TrustLevel

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.events import NewDevice
from eph_e2ee.model import BareJid, DeviceId, Trust, Untrusted
from eph_e2ee.xmpp.gate import Gate, Unit

__all__ = [
    "LEVELS",
    "TRUSTED",
    "UNASKED",
    "Policy",
    "Trusting",
    "forget_downloads",
    "grouped",
    "level_of",
    "question",
    "unasked",
]

LEVELS: Final = {
    Trust.TRUSTED: TrustLevel.TRUSTED,
    Trust.BLINDLY_TRUSTED: TrustLevel.BLINDLY_TRUSTED,
    Trust.UNDECIDED: TrustLevel.UNDECIDED,
    Trust.DISTRUSTED: TrustLevel.DISTRUSTED,
}
"""The levels under which slixmpp-omemo stores trust."""

NAMES: Final = {level.name: trust for trust, level in LEVELS.items()}

BY_HAND: Final = {Trust.TRUSTED, Trust.DISTRUSTED}
"""What only people decide. One such decision ends blind trust for the whole account."""

TRUSTED: Final = {Trust.TRUSTED, Trust.BLINDLY_TRUSTED}
"""The levels of devices whose word counts. A server can add a device to any account: where people
decide, what it says counts when they have."""

WITHHELD: Final = {
    Trust.UNDECIDED: Reason.UNDECIDED,
    Trust.DISTRUSTED: Reason.DISTRUSTED,
}

UNASKED: Final = "eph_e2ee: nobody is asked"
"""The identifier of what no person has asked for, and nobody waits for: receipts, marks of reading,
answers. Devices that have to be decided on are left out of it; applications do not see it."""

TRUST: Final = "trust"
"""What the questions of an operation begin with, among the names of what it has fetched."""

MOST_NEW: Final = 32
"""Devices of one list that are told of as new: nobody gets more at once, but a list can hold
thousands. The others are known all the same."""


class Policy(Protocol):
    """What an account does about trust beyond encrypting."""

    @property
    def untrusted(self) -> Untrusted:
        """What becomes of messages from devices that are not trusted."""

    def appeared(self, device: NewDevice) -> None:
        """An account with a trusted device has another one, and that is committed."""


class Trusting(BaseSessionManager):
    """The part of the session manager that knows of trust; `sessions.Sessions` is the rest.

    Attributes:
        policy: what is done beyond slixmpp-omemo's own; None: a message of a distrusted device is
            not opened, any other is, and nobody hears of new devices.
    """

    gate: ClassVar[Gate]
    own_bare_jid: ClassVar[str]
    policy: ClassVar[Policy | None] = None

    def __init__(self) -> None:
        super().__init__()
        self._opening = False

    def counted(self, device: DeviceInformation) -> Trust:
        """The level that a device has; where nobody is trusted blindly, that is undecided."""
        level = level_of(device)
        blindly = level is Trust.BLINDLY_TRUSTED
        return Trust.UNDECIDED if blindly and not self._btbv_enabled else level

    async def standing(self, device: DeviceInformation) -> Trust:
        """How far a device is trusted as things are: blindly before its first message, too.

        Only inside of an operation.
        """
        level = self.counted(device)
        if level is Trust.UNDECIDED and self._btbv_enabled:
            known = await self._known(device.bare_jid)
            if BY_HAND.isdisjoint([await self._level(device.bare_jid, each) for each in known]):
                return Trust.BLINDLY_TRUSTED
        return level

    async def is_decided(self, bare_jid: str, device: int) -> bool:
        """Tell whether people have decided on the key of a device."""
        return await self._level(bare_jid, device) in BY_HAND

    async def decrypt(self, message: omemo.Message) -> Any:
        """Decrypt as python-omemo does, where the policy lets the sending device speak.

        Raises:
            RemoteProtocolError: it is withheld; its key is not spent.
        """
        self._opening = True
        try:
            return await super().decrypt(message)
        finally:
            self._opening = False

    async def _evaluate_custom_trust_level(self, device: DeviceInformation) -> CoreLevel:
        """Answer python-omemo, which asks while it decrypts about the sending device alone."""
        if self.policy is None or not self._opening:
            return await super()._evaluate_custom_trust_level(device)
        if self.policy.untrusted is Untrusted.WITHHOLD:
            reason = WITHHELD.get(await self.standing(device))
            if reason is not None:
                raise RemoteProtocolError(reason)
        return CoreLevel.TRUSTED

    # -- new devices ---------------------------------------------------------------------------

    async def update_device_list(
        self, namespace: str, bare_jid: str, device_list: DeviceList
    ) -> None:
        """Take in a list as python-omemo does, and tell what is new in a verified account's.

        What is known is kept with what the list brings, so nothing is told twice. Nothing is
        downloaded for it.
        """
        before = await self._known(bare_jid)
        await super().update_device_list(namespace, bare_jid, device_list)
        if self.policy is None:
            return
        new = await self._known(bare_jid) - before
        if bare_jid == self.own_bare_jid:
            new -= {self.own_device}
        levels = [await self._level(bare_jid, device) for device in before] if new else []
        if Trust.TRUSTED in levels:
            for device in sorted(new)[:MOST_NEW]:
                await self._tell(bare_jid, device)

    async def _tell(self, bare_jid: str, device: int) -> None:
        policy, unit = self.policy, self.gate.unit
        key = await self._identity_key(bare_jid, device)
        told = NewDevice(BareJid(bare_jid), DeviceId(device), None if key is None else grouped(key))

        async def tell() -> None:
            if policy is not None:
                policy.appeared(told)

        if unit is not None:  # after the commit, as everything that others see
            unit.messages["new device", bare_jid, device] = tell

    # -- what python-omemo has stored ----------------------------------------------------------

    async def is_shunned(self, bare_jid: str, devices: frozenset[int]) -> bool:
        """Tell whether nothing at all is sent to these devices of an account, by what is stored."""
        if self.policy is None:
            return False
        levels = [await self._level(bare_jid, device) for device in devices]
        return set(levels) == {Trust.DISTRUSTED}

    @property
    def own_device(self) -> DeviceId:
        """The id of this device."""
        # Private, but asking for it in public would look up every device of ours.
        return DeviceId(self._SessionManager__own_device_id)  # type: ignore[attr-defined]

    @property
    def storage(self) -> Storage:
        """Where python-omemo keeps what it knows."""
        return self.gate.storage

    async def _known(self, bare_jid: str) -> frozenset[int]:
        """The ids of an account's devices, with or without keys."""
        known = await self.storage.load_list(f"/devices/{bare_jid}/list", int)
        return frozenset(known.maybe([]))

    async def _identity_key(self, bare_jid: str, device: int) -> bytes | None:
        key = await self.storage.load_bytes(f"/devices/{bare_jid}/{device}/identity_key")
        return key.maybe(None)

    async def _level(self, bare_jid: str, device: int) -> Trust:
        key = await self._identity_key(bare_jid, device)
        if key is None:
            return Trust.UNDECIDED
        name = base64.urlsafe_b64encode(key).decode()
        stored = await self.storage.load_primitive(f"/trust/{bare_jid}/{name}", str)
        return NAMES.get(stored.maybe(""), Trust.UNDECIDED)


def question(devices: Iterable[DeviceInformation]) -> tuple[str, frozenset[tuple[str, bytes]]]:
    """The name, in an operation, of a question about the trust of devices' keys."""
    return TRUST, frozenset((device.bare_jid, device.identity_key) for device in devices)


def unasked(unit: Unit, devices: frozenset[DeviceInformation]) -> frozenset[DeviceInformation]:
    """Those of the devices that no question of an operation has been about.

    Raises:
        OMEMOException: what an earlier question has ended with.
    """
    for (kind, *about), outcome in unit.fetched.items():
        if kind != TRUST:
            continue
        if isinstance(outcome, omemo.OMEMOException):
            raise outcome
        (keys,) = about
        devices -= {each for each in devices if question([each])[1] <= cast("frozenset[Any]", keys)}
    return devices


def forget_downloads(unit: Unit) -> None:
    """Have an operation download again: while people decide, bundles and lists grow old."""
    for name in [name for name in unit.fetched if name[0] != TRUST]:
        del unit.fetched[name]


def level_of(device: DeviceInformation) -> Trust:
    """The level that is stored for a device; one that is not ours decides nothing."""
    return NAMES.get(device.trust_level_name, Trust.UNDECIDED)


def grouped(identity_key: bytes) -> str | None:
    """A fingerprint as people compare it: eight groups of eight lower-case hexadecimal digits.

    It is the key in its Curve25519 form, which other clients show, whatever form it came in.

    Returns:
        None: these bytes are no key that can be used.
    """
    try:
        return " ".join(omemo.SessionManager.format_identity_key(identity_key))
    except Exception:  # noqa: BLE001 -- a peer has published it, and the library has several answers
        return None
