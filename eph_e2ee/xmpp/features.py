"""Disco features that stay true: advertised on every bind, withdrawn at a plugin's end."""

import asyncio
from typing import Any

from slixmpp import JID

from eph_e2ee.xmpp.redaction import contained

__all__ = ["Features"]


class Features:
    """Some disco features of one plugin.

    slixmpp keeps features by full JID: what a plugin adds before the server has given a resource is
    lost at bind (F46). And it counts them into XEP-0115's hash at leisure, while the application's
    first presence may be out: then the presence is sent once more, with the true hash.
    """

    def __init__(self, xmpp: Any, *names: str) -> None:
        self._xmpp = xmpp
        self._names = names
        self._advertised: set[JID] = set()
        self._broadcast: asyncio.Task[None] | None = None

    def advertise(self, jid: JID | str) -> None:
        """Add the features to the full JID that was bound; call it inside the event loop.

        An application that starts a plugin by hand may name its account alone.
        """
        jid = JID(jid) if JID(jid).resource else self._xmpp.boundjid
        for name in self._names:
            self._xmpp.plugin["xep_0030"].add_feature(name, jid=jid)
        self._advertised.add(jid)
        self._broadcast = asyncio.ensure_future(self._tell(jid))

    def withdraw(self) -> None:
        """Remove the features again, wherever they were added."""
        if self._broadcast is not None:
            self._broadcast.cancel()
        for jid in self._advertised:
            for name in self._names:
                self._xmpp.plugin["xep_0030"].del_feature(feature=name, jid=jid)
        self._advertised.clear()

    @contained
    async def _tell(self, jid: JID) -> None:
        caps, roster = self._xmpp.plugin["xep_0115"], self._xmpp.client_roster
        before = await caps.get_verstring(jid)
        await caps.update_caps(jid, broadcast=False)
        if roster.last_status is not None and await caps.get_verstring(jid) != before:
            roster.send_last_presence()
