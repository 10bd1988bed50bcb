"""Whose devices honour timers, by what they have sent and by what disco says (F40).

XEP-0466 section 3: "If this includes sending to non-supporting clients, and they can be detected,
sending clients SHOULD warn the user in some way." Nobody is asked anything for it: slixmpp looks up
what the presences of contacts and occupants announce (XEP-0115) by itself.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from slixmpp import JID, ClientXMPP

from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.protocol import ephemeral
from eph_e2ee.protocol.capability import Answer, DeviceFacts, assess
from eph_e2ee.xmpp.parcel import MODERN
from eph_e2ee.xmpp.sealing import Sealed
from eph_e2ee.xmpp.startup import Startup

__all__ = ["MAXIMUM_RESOURCES", "Honouring"]

MAXIMUM_RESOURCES: Final = 64
"""Resources of an account that are looked at. Nobody has as many; with more, nothing is known."""


class Honouring:
    """What is known of timers on the devices of accounts.

    Args:
        client: has the presences, and what slixmpp has learned from them.
        omemo: remembers which devices have sent timers.
    """

    def __init__(self, client: ClientXMPP, omemo: Startup) -> None:
        self._client = client
        self._omemo = omemo

    async def advertised(
        self, jid: BareJid, *, devices: int = 0, room: BareJid | None = None
    ) -> bool | None:
        """What disco says of an account's resources that are online, as `DeviceFacts` has it.

        Of our own account, the others. With fewer of them than it has devices, some device is not
        there to be asked, and all cannot be said to have the feature. In a room, its occupants'
        presences count as well.
        """
        return await self._said(self._places(jid, self._occupants(room)), devices)

    async def ignoring(
        self, jids: Iterable[BareJid], sealed: Sealed, *, room: BareJid | None = None
    ) -> frozenset[DeviceId]:
        """Accounts' devices that a message was put into an envelope for, and that ignore timers.

        As far as it is known: the resources online all lack the feature, and the device has never
        sent a timer. It waits for nothing and raises nothing: the message has left already.
        """
        occupants = self._occupants(room)
        said = {jid: await self._said(self._places(jid, occupants)) for jid in jids}
        silent = {jid for jid, advertised in said.items() if advertised is False}
        if not silent:
            return frozenset()
        addressed = {
            (BareJid(key.bare_jid), DeviceId(key.device_id))
            for message in sealed.messages
            if message.namespace == MODERN
            for key, _ in message.keys
            if key.bare_jid in silent
        }
        return frozenset(
            device
            for jid, device in addressed
            if assess(self._facts(jid, device, said[jid])).honours_timers is Answer.NO
        )

    def _facts(self, jid: BareJid, device: DeviceId, advertised: bool | None) -> DeviceFacts:  # noqa: FBT001 -- a fact, no switch
        sent_timer = self._omemo.has_sent_timer(jid, device)
        return DeviceFacts(sent_timer=sent_timer, advertised=advertised)

    async def _said(self, places: Mapping[str, str], devices: int = 0) -> bool | None:
        if not 0 < len(places) <= MAXIMUM_RESOURCES:
            return None
        answers = {await self._has_feature(place) for place in places.values()}
        if answers == {True}:
            return True if len(places) >= devices else None
        return False if answers == {False} else None

    def _places(self, jid: BareJid, occupants: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """By the full JID of each resource, the one by which its presence is known."""
        places = dict(occupants.get(jid, {}))
        roster = self._client.client_roster
        if roster.has_jid(jid):
            online = (f"{jid}/{name}" if name else jid for name in roster[jid].resources)
            places |= {full: full for full in online}
        places.pop(self._client.boundjid.full, None)
        return places

    def _occupants(self, room: BareJid | None) -> dict[str, dict[str, str]]:
        """What `_places` gives of a room's occupants, by the accounts that they are of."""
        rooms: Any = self._client.plugin.get("xep_0045", None)
        if room is None or rooms is None or room not in rooms.get_joined_rooms():
            return {}
        place = JID(room)
        found: dict[str, dict[str, str]] = {}
        for nick in rooms.get_roster(place):
            real = str(rooms.get_jid_property(place, nick, "jid") or "")
            found.setdefault(real.partition("/")[0], {})[real] = f"{room}/{nick}"
        return found

    async def _has_feature(self, place: str) -> bool | None:
        caps: Any = self._client.plugin.get("xep_0115", None)
        info = None
        with suppress(ValueError):  # a nick that makes no JID
            info = None if caps is None else await caps.get_caps(jid=JID(place))
        return None if info is None else ephemeral.NAMESPACE in info["features"]
