"""Whom messages do not reach, or not as they should; the application hears of it once."""

from collections import OrderedDict
from typing import Final

from eph_e2ee.model import BareJid, Cause, LeftOut, Legacy, Skipped, Unsupported
from eph_e2ee.xmpp.account import Account, Audience
from eph_e2ee.xmpp.encrypting import Addressee
from eph_e2ee.xmpp.sealing import Sealed

__all__ = ["Warnings"]

MAXIMUM_REMEMBERED: Final = 1024
"""Conversations whose last warning is remembered; the application hears of another one again."""

Told = tuple[frozenset[Addressee], frozenset[LeftOut]]

NOTHING: Final[Told] = (frozenset(), frozenset())


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

    def tell(self, sealed: Sealed, audience: Audience, *, spoken: bool) -> frozenset[LeftOut]:
        """Tell what is new since the conversation's last message; returns whom this one leaves out.

        A change of the timer that is `spoken` of to nobody has nothing for devices without
        envelopes, which are no news with it.
        """
        left_out = sealed.left_out if spoken else _but_legacy(sealed.left_out)
        if not audience.complete:
            unknown = LeftOut(audience.conversation, None, Cause.UNKNOWN_MEMBERS)
            left_out |= {unknown}
        conversation = audience.conversation
        legacy_before, left_out_before = self._told.get(conversation, NOTHING)
        self._remember(conversation, (sealed.legacy, left_out))
        if sealed.legacy and sealed.legacy != legacy_before:
            devices = frozenset(device for _, device in sealed.legacy)
            self._account.emit(
                "ephemeral_unsupported",
                Unsupported(conversation, devices, self._legacy, sealed.legacy),
            )
        if left_out != left_out_before:
            self._account.emit("ephemeral_skipped", Skipped(conversation, left_out))
        return left_out

    def _remember(self, conversation: BareJid, told: Told) -> None:
        self._told[conversation] = told
        self._told.move_to_end(conversation)
        if len(self._told) > MAXIMUM_REMEMBERED:
            self._told.popitem(last=False)


def _but_legacy(left_out: frozenset[LeftOut]) -> frozenset[LeftOut]:
    return frozenset(each for each in left_out if each.cause is not Cause.LEGACY)
