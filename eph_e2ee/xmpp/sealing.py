"""Sealing and opening: what one operation of the gate encrypts and decrypts."""

from abc import ABCMeta
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from xml.etree.ElementTree import Element

import omemo
from omemo.session_manager import EncryptionError
from omemo.types import DeviceInformation

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.xmpp.parcel import (
    MODERN,
    OLD,
    Opened,
    encrypted_child,
    opened,
    own_legacy_share,
    own_share,
    parsed,
    parsed_legacy,
)
from eph_e2ee.xmpp.startup import Startup

__all__ = ["Sealed", "Sealing"]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What encrypting gave.

    Attributes:
        messages: one for each namespace that some device was addressed in.
        errors: devices that were left out because their keys could not be had.
        legacy: devices of the recipients that cannot read envelopes, or are not known to.
    """

    messages: tuple[omemo.Message, ...]
    errors: frozenset[EncryptionError]
    legacy: frozenset[DeviceId]

    @property
    def without_envelope(self) -> frozenset[DeviceId]:
        """Every device, our own others included, that was taken for one without envelopes."""
        addressed = {
            DeviceId(key.device_id)
            for message in self.messages
            if message.namespace == OLD
            for key, _ in message.keys
        }
        return self.legacy | addressed


class Sealing(Startup, metaclass=ABCMeta):
    """The part of the plugin that encrypts and decrypts, inside of an operation of the gate."""

    async def seal(
        self,
        recipients: frozenset[BareJid],
        plaintexts: dict[str, bytes],
        identifier: str | None = None,
    ) -> Sealed:
        """Encrypt for every device of the recipients, and our own, that can read a namespace given.

        Raises:
            OMEMOException: as python-omemo's `encrypt` does; nothing was encrypted.
        """
        messages, errors = await self.sessions.encrypt(
            cast("frozenset[str]", recipients),
            plaintexts,
            [namespace for namespace in (MODERN, OLD) if namespace in plaintexts],
            identifier,
        )
        # Encrypting has just looked up the same devices; nothing else runs in between.
        routed = self.sessions.routed
        legacy = (
            self._legacy_among(device for jid in recipients for device in routed[jid])
            if recipients <= routed.keys()
            else await self.legacy_devices(recipients)
        )
        return Sealed(tuple(messages), errors, legacy)

    async def legacy_devices(self, recipients: frozenset[BareJid]) -> frozenset[DeviceId]:
        """The recipients' devices that cannot read envelopes, or are not known to."""
        return self._legacy_among(
            [
                device
                for recipient in recipients
                for device in await self.sessions.get_device_information(recipient)
            ]
        )

    async def unseal(self, stanza: Element, sender: BareJid) -> Opened:
        """Decrypt the `<encrypted/>` of a stanza: omemo:2 if it holds a key for us, else legacy.

        Raises:
            RemoteProtocolError: there is none, it is not for this device, or it does not open.
        """
        modern, old = encrypted_child(stanza, MODERN), encrypted_child(stanza, OLD)
        if modern is None and old is None:
            raise RemoteProtocolError(Reason.MALFORMED_OMEMO)
        if modern is not None:
            try:
                share = own_share(modern, self.xmpp.boundjid.bare, self.own_device)
            except RemoteProtocolError as error:
                if old is None or error.reason is not Reason.NOT_FOR_THIS_DEVICE:
                    raise
            else:
                return await opened(self.sessions, parsed(share, sender))
        share = own_legacy_share(cast("Element", old), self.own_device)
        message = await parsed_legacy(share, sender, self.xmpp.boundjid.bare, self.sessions)
        return await opened(self.sessions, message)

    def _legacy_among(self, devices: Iterable[DeviceInformation]) -> frozenset[DeviceId]:
        return frozenset(
            DeviceId(device.device_id)
            for device in devices
            if any(dict(device.active).values()) and MODERN not in self.namespaces(device)
        )
