"""How far each conversation was read, for our own devices that come later (XEP-0490).

The server keeps it in clear: which message of its archive was read last, and no more. It is used
beside the markers inside envelopes, which tell when each message was read.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement

from slixmpp import ClientXMPP
from slixmpp.exceptions import XMPPError
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.features import Features
from eph_e2ee.xmpp.nodes import Nodes
from eph_e2ee.xmpp.stanzas import STANZA_ID, bare

__all__ = ["NODE", "Displayed"]

NODE: Final = "urn:xmpp:mds:displayed:0"

DISPLAYED: Final = f"{{{NODE}}}displayed"
EVENT: Final = "{http://jabber.org/protocol/pubsub#event}"
PUBSUB: Final = "{http://jabber.org/protocol/pubsub}"
HANDLER: Final = "eph_e2ee: displayed"

ANSWER: Final = 30.0
"""Seconds that the server has for an answer."""

OPTIONS: Final = {
    "pubsub#persist_items": "true",
    "pubsub#max_items": "max",
    "pubsub#send_last_published_item": "never",
    "pubsub#access_model": "whitelist",
}
"""What XEP-0490 section 3 demands of the node: nobody else may read it."""

Told = Callable[[BareJid, str], None]


class Displayed:
    """Publishes how far we have read, and hears of it from our other devices.

    slixmpp's plugin names no archive, loses its interest in updates at bind, and leaves its
    handlers behind.
    """

    def __init__(self, client: ClientXMPP, own: Callable[[], BareJid]) -> None:
        self._client = client
        self._own = own
        self._features = Features(client, f"{NODE}+notify")
        self._nodes = Nodes(client)
        self._told: Told = lambda _conversation, _archive_id: None

    def listen(self, told: Told) -> None:
        """Begin: `told` gets a conversation, and our archive's id of the last message read."""
        self._told = told
        event = MatchXPath(f"{{jabber:client}}message/{EVENT}event")
        self._client.register_handler(Callback(HANDLER, event, self._happened))
        self._client.add_event_handler("session_bind", self._features.advertise)

    def stop(self) -> None:
        """Take the handlers and the feature away again."""
        self._client.remove_handler(HANDLER)
        self._client.del_event_handler("session_bind", self._features.advertise)
        self._features.withdraw()

    async def publish(self, conversation: BareJid, archive_id: str) -> bool:
        """Say that a conversation was read up to a message; whether the server took it."""
        payload = Element(DISPLAYED)
        SubElement(payload, STANZA_ID, {"id": archive_id, "by": self._own()})
        try:
            await self._nodes.publish(NODE, conversation, payload, OPTIONS)
        except XMPPError:
            return False
        return True

    async def fetch(self) -> list[tuple[BareJid, str]]:
        """Return what was published; nothing where there is nothing, or the server refuses."""
        pubsub: Any = self._client.plugin.get("xep_0060", None)
        try:
            answer = await pubsub.get_items(self._own(), NODE, timeout=ANSWER)
        except XMPPError:
            return []
        return self._read(answer.xml.iterfind(f"{PUBSUB}pubsub/{PUBSUB}items/{PUBSUB}item"))

    def _happened(self, stanza: Any) -> None:
        if stanza.xml.get("from", self._own()) != self._own():
            return  # nobody else tells what we have read
        items = stanza.xml.find(f"{EVENT}event/{EVENT}items")
        if items is not None and items.get("node") == NODE:
            for conversation, archive_id in self._read(items.iterfind(f"{EVENT}item")):
                self._told(conversation, archive_id)

    def _read(self, items: Iterable[Element]) -> list[tuple[BareJid, str]]:
        found = []
        for item in items:
            stanza_id = item.find(f"{DISPLAYED}/{STANZA_ID}")
            if stanza_id is None or stanza_id.get("by") != self._own():
                continue  # a room's archive, or none that we know
            try:
                conversation = bare(item.get("id", ""))
            except ValueError:
                continue
            if conversation and stanza_id.get("id"):
                found.append((conversation, stanza_id.get("id", "")))
        return found
