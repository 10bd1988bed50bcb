"""Whom messages do not reach, or not as they should; the application hears of it once."""

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from eph_e2ee.errors import Cause
from eph_e2ee.events import LeftOut, Skipped, Unsupported
from eph_e2ee.model import BareJid, DeviceId, Legacy
from eph_e2ee.xmpp.account import Account, Audience
from eph_e2ee.xmpp.sealing import Sealed

__all__ = ["Warnings"]

MAXIMUM_REMEMBERED: Final = 1024
"""Conversations whose last warning is remembered; the application hears of another one again."""

Told = tuple[Unsupported, frozenset[LeftOut]]


class Warnings:
    """Tells the application of devices that get less than an envelope, or nothing.

    Args:
        account: where the events are raised.
        legacy: what devices get that read no envelopes.
    """

    def __init__(self, account: Account, legacy: Legacy) -> None:
        self._account = account
        self._legacy = legacy
        self._told: OrderedDict[BareJid, Told] = OrderedDict()

    async def tell(
        self, sealed: Sealed, audience: Audience, *, spoken: bool, timed: bool
    ) -> frozenset[LeftOut]:
        """Tell what is new since the conversation's last message; returns whom this one leaves out.

        A change of the timer that is not `spoken` of has nothing for devices without envelopes. A
        message that is not `timed` has nothing for others to let go by.
        """
        conversation = audience.conversation
        left_out = _left_out(sealed, audience, spoken=spoken)
        before = Unsupported(conversation, frozenset(), self._legacy)
        before, left_out_before = self._told.get(conversation, (before, frozenset()))
        devices = frozenset(device for _, device in sealed.without_envelope)
        warning = replace(before, devices=devices, addresses=sealed.without_envelope)
        if timed:
            warning = replace(warning, ignoring=await self._ignoring(sealed, audience))
        self._remember(conversation, (warning, left_out))
        if warning != before and (warning.devices or warning.ignoring):
            self._account.emit("ephemeral_unsupported", warning)
        if left_out != left_out_before:
            self._account.emit("ephemeral_skipped", Skipped(conversation, left_out))
        return left_out

    async def _ignoring(self, sealed: Sealed, audience: Audience) -> frozenset[DeviceId]:
        room = audience.conversation if audience.room else None
        return await self._account.honouring.ignoring(audience.jids, sealed, room=room)

    def _remember(self, conversation: BareJid, told: Told) -> None:
        self._told[conversation] = told
        self._told.move_to_end(conversation)
        if len(self._told) > MAXIMUM_REMEMBERED:
            self._told.popitem(last=False)


def _left_out(sealed: Sealed, audience: Audience, *, spoken: bool) -> frozenset[LeftOut]:
    left_out = {each for each in sealed.left_out if spoken or each.cause is not Cause.LEGACY}
    if not audience.complete:
        left_out.add(LeftOut(audience.conversation, None, Cause.UNKNOWN_MEMBERS))
    return frozenset(left_out)
