"""What the plugin sends by itself, in operations of its own, so that sessions go on."""

import asyncio
from abc import ABCMeta
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

import omemo
from omemo.types import DeviceInformation
from slixmpp import JID

from eph_e2ee.errors import NotSent
from eph_e2ee.model import BareJid, DeviceId, MessageId
from eph_e2ee.xmpp.parcel import MODERN, written
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.repair import Repairs, begin_anew
from eph_e2ee.xmpp.sce import XEP_0420
from eph_e2ee.xmpp.sealing import Sealed, Sealing
from eph_e2ee.xmpp.stanzas import outer_message
from eph_e2ee.xmpp.trust import UNASKED
from eph_e2ee.xmpp.unanswered import Device

__all__ = ["Answering"]


async def _anybody(_: BareJid) -> bool:
    return True


class Answering(Sealing, metaclass=ABCMeta):
    """The part of the plugin that answers and repairs; `sessions.Sessions` tells it when.

    Attributes:
        answers: whether an account may be sent answers with a payload; asked inside of operations.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._upkeep: set[asyncio.Task[None]] = set()
        self._repairs = Repairs(self._moment)
        self.answers: Callable[[BareJid], Awaitable[bool]] = _anybody

    def plugin_end(self) -> None:
        """Leave slixmpp as it was before, and end every task."""
        super().plugin_end()
        for task in self._upkeep:
            task.cancel()

    async def ended(self) -> None:
        """Wait, after the plugin's end, until nothing of it runs any more."""
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await super().ended()

    def answer(self, bare_jid: str) -> None:
        """Send an envelope with nothing in it to an account, soon."""
        self._soon(self._answer(BareJid(bare_jid)))

    def missing(self, device: Device) -> None:
        """Begin a session with a device that has sent something in one that is not here, soon."""
        if not self._ended and self._repairs.admits(device):
            self._soon(self._begin(device))

    async def repair(self, jid: BareJid) -> frozenset[DeviceId]:
        """Begin anew every session with an account's devices, for messages do not open any more.

        What is under way in the old ones still opens, if it can be opened at all.

        Returns:
            The devices with new sessions: none that had one less than `repair.PERIOD` ago, nor
            those that publish no usable keys.

        Raises:
            NotSent: the server could not be asked.
        """
        known = await self._known(jid)
        begun = set[DeviceId]()
        for device_id in (device.device_id for device in known):
            for namespace in self.sessions.backends:
                if await self._repaired((namespace, jid, device_id)):
                    begun.add(DeviceId(device_id))
        return frozenset(begun)

    async def _known(self, jid: BareJid) -> frozenset[DeviceInformation]:
        try:
            await self.get_session_manager()
            await self.refresh_device_lists({JID(jid)})
            return await self.sessions.get_device_information(jid)
        except omemo.OMEMOException as failure:
            kind = type(failure).__name__
        raise NotSent(f"the devices are not known ({kind}); repair again later")

    async def _repaired(self, device: Device) -> bool:
        """Begin one session anew; whatever is wrong with a device's keys stops no other one."""
        if not self._repairs.admits_asked(device):
            return False
        begun = False
        with suppress(omemo.OMEMOException):
            begun = await self.gate.run(lambda: begin_anew(self.sessions, device, standing=True))
        if not begun:
            self._repairs.withdraw(device)
        return begun

    def _soon(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.xmpp.loop.create_task(coroutine)
        self._upkeep.add(task)
        task.add_done_callback(self._upkeep.discard)

    @contained
    async def _answer(self, jid: BareJid) -> None:
        """Answer all of the account's devices: one that is not addressed would report a loss."""
        # Nobody left to answer, or nobody that is trusted: the next message of ours is an answer.
        with suppress(omemo.OMEMOException):
            await self.refresh_device_lists({JID(jid)})
            sealed = await self.gate.run(lambda: self._sealed_answer(jid))
            for message in sealed.messages:
                name = MessageId(self.xmpp.new_id())
                outer_message(self.xmpp, jid, name, [written(message)]).send()

    async def _sealed_answer(self, jid: BareJid) -> Sealed:
        """An answer for the devices that are trusted as things are; nobody is asked for it."""
        if not await self.answers(jid):
            return Sealed()
        envelope = self._envelopes.build([], to=jid)
        return await self.seal(frozenset({jid}), {MODERN: envelope}, UNASKED)

    @contained
    async def _begin(self, device: Device) -> None:
        # No keys, or unusable ones: what it sends is told of as lost, as before.
        with suppress(omemo.OMEMOException):
            await self.gate.run(lambda: begin_anew(self.sessions, device, standing=False))

    def _moment(self) -> float:
        return self.xmpp.loop.time()

    @property
    def _envelopes(self) -> XEP_0420:
        return cast("XEP_0420", self.xmpp.plugin.get("xep_0420", None))
