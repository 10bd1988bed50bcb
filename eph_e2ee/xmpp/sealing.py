"""Sealing and opening: what one operation of the gate encrypts and decrypts."""

from abc import ABCMeta
from dataclasses import dataclass
from typing import cast
from xml.etree.ElementTree import Element

import omemo
from omemo.session_manager import EncryptionError

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.events import LeftOut
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.xmpp.encrypting import Addressee, encrypt
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
        messages: one for each namespace that some device was addressed in, omemo:2 first.
        errors: devices that were left out because their keys could not be had.
        left_out: every device, and every account as a whole, that the message is not for.
        without_envelope: devices of the recipients that cannot read envelopes, or are not known
            to, and those of our own others that were addressed without one.
        apart: whether each message needs a stanza of its own. One that holds both serves all but
            slixmpp-omemo, which looks no further than an omemo:2 element that is not for it.
    """

    messages: tuple[omemo.Message, ...] = ()
    errors: frozenset[EncryptionError] = frozenset()
    left_out: frozenset[LeftOut] = frozenset()
    without_envelope: frozenset[Addressee] = frozenset()
    apart: bool = False

    @property
    def stanzas(self) -> tuple[tuple[omemo.Message, ...], ...]:
        """What goes into each stanza; nothing where there is nothing to send."""
        if self.apart:
            return tuple((message,) for message in self.messages)
        return (self.messages,) if self.messages else ()


class Sealing(Startup, metaclass=ABCMeta):
    """The part of the plugin that encrypts and decrypts, inside of an operation of the gate."""

    async def seal(
        self,
        recipients: frozenset[BareJid],
        plaintexts: dict[str, bytes],
        identifier: str | None = None,
        *,
        strict: bool = False,
    ) -> Sealed:
        """Encrypt for every device of the recipients, and our own, that can read a namespace given.

        With `strict` no recipient may be left without a device.

        Raises:
            OMEMOException: as `encrypting.encrypt`; nothing was encrypted.
        """
        made = await encrypt(self.sessions, recipients, plaintexts, identifier, strict=strict)
        return Sealed(
            messages=tuple(sorted(made.messages, key=lambda each: each.namespace != MODERN)),
            errors=made.errors,
            left_out=made.left_out,
            without_envelope=made.legacy | made.addressed,
            apart=made.doubtful and len(made.messages) > 1,
        )

    async def legacy_devices(self, recipients: frozenset[BareJid]) -> frozenset[Addressee]:
        """The recipients' devices that cannot read envelopes, or are not known to."""
        devices = [
            device
            for recipient in recipients
            for device in await self.sessions.get_device_information(recipient)
        ]
        return frozenset(
            (BareJid(device.bare_jid), DeviceId(device.device_id))
            for device in devices
            if any(dict(device.active).values()) and MODERN not in self.namespaces(device)
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
