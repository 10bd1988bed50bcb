"""The devices of accounts: what each can read."""

from collections.abc import Awaitable, Callable

import omemo

from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.protocol.capability import Answer, Capability, assess
from eph_e2ee.xmpp.failures import not_sent
from eph_e2ee.xmpp.omemo import XEP_0384

__all__ = ["Devices"]


class Devices:
    """What is known of the devices of accounts, our own included.

    Args:
        omemo: the running XEP-0384 plugin.
        prepare: awaited with an account whose device lists are to be at hand.
    """

    def __init__(self, omemo: XEP_0384, prepare: Callable[[BareJid], Awaitable[None]]) -> None:
        self._omemo = omemo
        self._prepare = prepare

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
        await self._prepare(jid)
        try:
            devices = await self._omemo.sessions.get_device_information(jid)
        except omemo.OMEMOException as failure:
            raise not_sent(failure) from None
        return {DeviceId(device.device_id): assess(self._omemo.facts(device)) for device in devices}
