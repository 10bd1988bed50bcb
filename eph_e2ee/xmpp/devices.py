"""The devices of accounts: what each can read, and how far it is trusted."""

import asyncio
import functools
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import omemo
from omemo.types import DeviceInformation
from slixmpp import JID

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid, DeviceId, Trust
from eph_e2ee.protocol.capability import Answer, Capability, assess
from eph_e2ee.xmpp.failures import not_sent
from eph_e2ee.xmpp.honouring import Honouring
from eph_e2ee.xmpp.omemo import XEP_0384
from eph_e2ee.xmpp.together import together
from eph_e2ee.xmpp.trust import LEVELS, grouped

__all__ = ["Device", "Devices", "described"]

PATIENCE: Final = 10.0
"""Seconds that a message to many waits for the server of one of them; its lists come later."""

SETTABLE = (Trust.TRUSTED, Trust.DISTRUSTED, Trust.UNDECIDED)
"""What people can say of a device; blindly nobody trusts by saying so."""


@dataclass(frozen=True, slots=True)
class Device:
    """What is known of a device of an account.

    Attributes:
        jid: the bare JID of the account.
        device: its id.
        fingerprint: of its identity key, to be compared with what the device itself shows: eight
            groups of eight lower-case hexadecimal digits with a space between them.
        trust: the level that its key has. Under blind trust before verification an `UNDECIDED` one
            is trusted blindly with the next message, unless somebody has decided on another device
            of the account.
        label: what its owner has named it, in omemo:2 alone; None where it has no name.
        active: whether a device list has it still; one that none has gets nothing.
        own: whether it is one of our own account.
        here: whether it is this very device.
        capability: what it can read and do, as far as that is known.
    """

    jid: BareJid
    device: DeviceId
    fingerprint: str
    trust: Trust
    label: str | None
    active: bool
    own: bool
    here: bool
    capability: Capability


class Devices:
    """What is known of the devices of accounts, our own included.

    Args:
        omemo: the running XEP-0384 plugin.
        honouring: knows what is advertised of timers.
    """

    def __init__(self, omemo: XEP_0384, honouring: Honouring) -> None:
        self._omemo = omemo
        self._honouring = honouring

    async def prepare(self, jids: frozenset[BareJid], *, again: bool = False) -> None:
        """Have OMEMO running and the device lists of accounts at hand.

        With `again` the server is asked for them, and for our own, whatever it has sent us. Of
        many, those that cannot be asked for keep nobody waiting (F41).

        Raises:
            NotSent: the server did not answer.
        """
        try:
            await self._omemo.get_session_manager()
            if len(jids) == 1:
                await self._refresh(*jids, again=again)
            else:
                await together(
                    functools.partial(self._try_to_refresh, jid, again=again)
                    for jid in jids
                    if self._omemo.may_refresh(jid, PATIENCE, again=again)
                )
            if again:
                await self._omemo.sessions.refresh_device_lists(self._omemo.xmpp.boundjid.bare)
        except omemo.OMEMOException as failure:
            raise not_sent(failure) from None

    async def _refresh(self, jid: BareJid, *, again: bool) -> None:
        await self._omemo.refresh_device_lists({JID(jid)}, force_download=again)

    async def _try_to_refresh(self, jid: BareJid, *, again: bool) -> None:
        with suppress(omemo.OMEMOException, TimeoutError):  # what was known of its devices holds
            async with asyncio.timeout(PATIENCE):
                await self._refresh(jid, again=again)

    async def has_readers(self, jid: BareJid) -> bool:
        """Whether an account has devices that read envelopes; of our own, others than this one.

        Raises:
            NotSent: OMEMO does not run, or the server did not answer.
        """
        return any(
            capability.reads_sce is Answer.YES and device != self._omemo.own_device
            for device, capability in (await self.capabilities(jid)).items()
        )

    async def capabilities(self, jid: BareJid) -> dict[DeviceId, Capability]:
        """What each device of an account can read and do, as far as it is known.

        Raises:
            NotSent: the server did not answer.
        """
        devices = await self._known(jid)
        own = self._omemo.own_device
        others = sum(
            any(dict(device.active).values()) and device.device_id != own for device in devices
        )
        advertised = await self._honouring.advertised(jid, devices=others)
        return {
            DeviceId(device.device_id): assess(self._omemo.facts(device, advertised=advertised))
            for device in devices
        }

    async def known(self, jid: BareJid) -> list[Device]:
        """Every device of an account whose key is known, in the order of their ids.

        Raises:
            NotSent: the server did not answer.
        """
        return described(self._omemo, await self._known(jid))

    async def trust(self, jid: BareJid, device: DeviceId, level: Trust | str) -> None:
        """Set how far the key of a device is trusted; committed when it returns.

        Canceling it is safe: it is done wholly, or not at all.

        Raises:
            LocalProtocolError: there is no such device, it is this one, or nobody can say so.
            NotSent: OMEMO does not run.
            VaultError: nothing was written.
        """
        wanted = _settable(level)
        try:
            await self._omemo.get_session_manager()
            await self._omemo.gate.run(lambda: self._set(jid, device, wanted))
        except omemo.OMEMOException as failure:
            raise not_sent(failure) from None

    async def undecided(self, jid: BareJid) -> frozenset[DeviceId]:
        """The devices of an account that have to be decided on, as things are.

        Raises:
            NotSent: OMEMO does not run.
        """

        async def found() -> frozenset[DeviceId]:
            sessions = self._omemo.sessions
            devices = await sessions.get_device_information(jid)
            return frozenset(
                [
                    DeviceId(device.device_id)
                    for device in devices
                    if await sessions.standing(device) is Trust.UNDECIDED
                ]
            )

        try:
            await self._omemo.get_session_manager()
            return await self._omemo.gate.run(found)
        except omemo.OMEMOException as failure:
            raise not_sent(failure) from None

    async def standing(self, device: DeviceInformation) -> Trust:
        """How far a device that has sent us something is trusted; only inside of an operation."""
        return await self._omemo.sessions.standing(device)

    async def _known(self, jid: BareJid) -> frozenset[DeviceInformation]:
        await self.prepare(frozenset({jid}))
        try:
            return await self._omemo.sessions.get_device_information(jid)
        except omemo.OMEMOException as failure:
            raise not_sent(failure) from None

    async def _set(self, jid: BareJid, device: DeviceId, level: Trust) -> None:
        sessions = self._omemo.sessions
        if (jid, device) == (self._omemo.xmpp.boundjid.bare, self._omemo.own_device):
            raise LocalProtocolError("this is the device itself, which need not be trusted")
        for known in await sessions.get_device_information(jid):
            if known.device_id == device:
                await sessions.set_trust(jid, known.identity_key, LEVELS[level].name)
                return
        raise LocalProtocolError("no such device is known: see `Chat.devices`")


def described(omemo: XEP_0384, devices: frozenset[DeviceInformation]) -> list[Device]:
    """Devices as people are shown them, in the order of their ids.

    One whose key is no key is left out: nothing can ever be encrypted for it.
    """
    made = (_described(omemo, device) for device in devices)
    return sorted((device for device in made if device), key=lambda each: (each.jid, each.device))


def _described(omemo: XEP_0384, device: DeviceInformation) -> Device | None:
    fingerprint = grouped(device.identity_key)
    if fingerprint is None:
        return None
    own = device.bare_jid == omemo.xmpp.boundjid.bare
    here = own and device.device_id == omemo.own_device
    return Device(
        jid=BareJid(device.bare_jid),
        device=DeviceId(device.device_id),
        fingerprint=fingerprint,
        trust=Trust.TRUSTED if here else omemo.sessions.counted(device),
        label=device.label,
        active=any(active for _, active in device.active),
        own=own,
        here=here,
        capability=assess(omemo.facts(device)),
    )


def _settable(level: Trust | str) -> Trust:
    try:
        wanted = Trust(level)
    except ValueError:
        wanted = Trust.BLINDLY_TRUSTED
    if wanted not in SETTABLE:
        raise LocalProtocolError('a device is "trusted", "distrusted" or "undecided"')
    return wanted
