"""Whether the device lists of a friend are all at hand, or have to be asked for.

slixmpp-omemo trusts the server to send those of whoever sees our presence. ejabberd sends what
changes, but to a new friend not what was there before; and every server sends them one by one. The
list of omemo:2, if it comes first, makes slixmpp-omemo's device one that reads envelopes, and what
it is sent would be lost. The other one, if it comes first, gives less protection for no reason.
"""

from collections import OrderedDict
from typing import Final

from omemo.storage import Storage

from eph_e2ee.xmpp.parcel import MODERN, OLD

__all__ = ["Lists"]

MAXIMUM_REMEMBERED: Final = 1024
"""Accounts of which it is known what is settled; the lists of another one are asked for again."""


class Lists:
    """The devices that are in one list alone, and of which the server has confirmed that."""

    def __init__(self) -> None:
        self._settled: OrderedDict[str, frozenset[int]] = OrderedDict()

    async def are_doubtful(self, jid: str, storage: Storage) -> bool:
        """Tell whether nothing is known of an account, or a device is in one list for all we know.

        Args:
            jid: the bare JID.
            storage: where python-omemo keeps what is known of devices.
        """
        known = await _known(jid, storage)
        return not known or bool(await _alone(jid, storage) - self._settled.get(jid, frozenset()))

    async def settle(self, jid: str, storage: Storage) -> None:
        """Note that the server was asked for both lists of an account, and has answered."""
        self._settled[jid] = await _alone(jid, storage)
        self._settled.move_to_end(jid)
        if len(self._settled) > MAXIMUM_REMEMBERED:
            self._settled.popitem(last=False)


async def _known(jid: str, storage: Storage) -> list[int]:
    return (await storage.load_list(f"/devices/{jid}/list", int)).maybe([])


async def _alone(jid: str, storage: Storage) -> frozenset[int]:
    alone = set()
    for device in await _known(jid, storage):
        active = (await storage.load_dict(f"/devices/{jid}/{device}/active", bool)).maybe({})
        if active.get(MODERN, False) != active.get(OLD, False):
            alone.add(device)
    return frozenset(alone)
