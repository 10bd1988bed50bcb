"""An application that reads stanzas on its own, as one on slixmpp-omemo does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from slixmpp import JID
from slixmpp.stanza import Message

from eph_e2ee import XEP_0466
from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.xmpp.stanzas import bare
from tests.fuzz import words
from tests.fuzz.answering import SECRET
from tests.fuzz.deeds import DEEDS
from tests.fuzz.scene import Scene
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from eph_e2ee import Chat
    from tests.fuzz.deeds import Deed

__all__ = ["Adopted"]

EVENTS: Final = ("message", "groupchat_message")


class Adopted(Scene):
    """Peter's client has the OMEMO plugin and the one for timers in clear, and no chat.

    Attributes:
        plugin: the OMEMO plugin.
        reasons: why stanzas did not open.
    """

    deeds: ClassVar[dict[str, Deed]] = {}

    def _attach(self, _folder: Path) -> None:
        self.client.register_plugin("xep_0280")
        self.client.plug(XEP_0466)
        self.plugin: Any = self.client.plug(OurPlugin)
        self.reasons: set[Reason] = set()
        for event in EVENTS:
            self.client.add_event_handler(event, self._opened)
        self.client.add_event_handler("carbon_received", self._received)
        self.client.add_event_handler("carbon_sent", self._sent)

    @property
    def _chat(self) -> Chat | None:
        return None

    @property
    def held(self) -> list[object]:
        """The plugin's parts: its class is the application's, and not looked into."""
        return list(vars(self.plugin).values())

    @property
    def omemo(self) -> Any:
        """The OMEMO plugin."""
        return self.plugin

    async def _closed(self) -> None:
        """The world ends the plugin."""

    async def _received(self, stanza: Any) -> None:
        await self._opened(stanza["carbon_received"])

    async def _sent(self, stanza: Any) -> None:
        await self._opened(stanza["carbon_sent"])

    async def _opened(self, stanza: Any) -> None:
        """Read a stanza; only what is documented may be raised."""
        if not isinstance(stanza, Message):
            return  # a copy of nothing
        timer = stanza["ephemeral"]["timer"]
        assert timer is None or 0 <= timer < 2**32
        assert stanza["i_want_out"] in (True, False)
        if not self.plugin.is_encrypted(stanza):
            return
        try:
            decrypted, _ = await self.plugin.decrypt_message(stanza)
        except RemoteProtocolError as error:
            self.rejections += 1
            self.reasons.add(error.reason)
            return
        self.messages += 1
        self._texts.add(decrypted["body"])


async def _send(scene: Any, step: Element) -> None:
    """Encrypt, and have the stanza leave through the plugin's filter, as slixmpp does."""
    to = JID(step.get("jid", words.PEER))
    room = to.bare == words.ROOM
    kind = "groupchat" if room else "chat"
    stanza = scene.client.make_message(mto=to, mbody=SECRET, mtype=kind)
    people = {JID(words.PEER), JID(words.OWN)} if room else {to}
    encrypted, _ = await scene.plugin.encrypt_message(stanza, people)
    if encrypted is not None:
        scene.client.send(scene.plugin._parting._part(encrypted))
        while not scene.client.waiting_queue.empty():
            scene.client.send(scene.client.waiting_queue.get_nowait()[0])


async def _lists(scene: Any, step: Element) -> None:
    await scene.plugin.refresh_device_lists({JID(step.get("jid", words.PEER))}, True)


async def _devices(scene: Any, step: Element) -> None:
    sessions = await scene.plugin.get_session_manager()
    await sessions.get_device_information(step.get("jid", words.PEER))


async def _repair(scene: Any, step: Element) -> None:
    await scene.plugin.repair(bare(step.get("jid", words.PEER)))


SHARED: Final = ("session", "wait", "timer", "join", "leave", "echo", "lose", "save", "restore")
"""Deeds that need no chat."""

Adopted.deeds |= {name: DEEDS[name] for name in SHARED} | {
    "send": _send,
    "lists": _lists,
    "devices": _devices,
    "repair": _repair,
}
