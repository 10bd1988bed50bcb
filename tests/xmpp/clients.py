"""Clients of slixmpp whose stream ends in this process: real stanzas, real plugins, no socket."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import slixmpp_omemo
from omemo.storage import Just, Maybe, Nothing, Storage
from slixmpp import JID, ClientXMPP
from slixmpp.plugins.base import register_plugin
from slixmpp.stanza import Iq, Message, Presence

import eph_e2ee
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from omemo.types import JSONType

__all__ = ["Kept", "OurPlugin", "TestClient", "TheirPlugin", "World", "plugged"]

PUBSUB: Final = "{http://jabber.org/protocol/pubsub}"
EVENT: Final = "{http://jabber.org/protocol/pubsub#event}"
ERRORS: Final = "{urn:ietf:params:xml:ns:xmpp-stanzas}"


class Kept(Storage):
    """A storage as applications write it: a dictionary, with awaits in between."""

    def __init__(self) -> None:
        super().__init__(disable_cache=True)
        self.values: dict[str, JSONType] = {}

    async def _load(self, key: str) -> Maybe[JSONType]:
        await asyncio.sleep(0)
        return Just(self.values[key]) if key in self.values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        await asyncio.sleep(0)
        self.values[key] = value

    async def _delete(self, key: str) -> None:
        await asyncio.sleep(0)
        self.values.pop(key, None)


class OurPlugin(eph_e2ee.XEP_0384):
    """An application's plugin, written against slixmpp-omemo's documentation alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: Storage = Kept()
        self.told: list[tuple[frozenset[Any], str | None]] = []

    @property
    def storage(self) -> Storage:
        return self.kept

    @property
    def _btbv_enabled(self) -> bool:
        return True

    async def _devices_blindly_trusted(
        self, blindly_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        self.told.append((blindly_trusted, identifier))

    async def _prompt_manual_trust(
        self,
        manually_trusted: frozenset[Any],  # noqa: ARG002 -- slixmpp-omemo's signature
        identifier: str | None,  # noqa: ARG002 -- the same
    ) -> None:
        raise AssertionError("blind trust needs no prompt")


class TheirPlugin(slixmpp_omemo.XEP_0384):
    """The same application's plugin before its line was changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: Storage = Kept()

    @property
    def storage(self) -> Storage:
        return self.kept

    @property
    def _btbv_enabled(self) -> bool:
        return True

    async def _devices_blindly_trusted(
        self, blindly_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        """Nothing to tell."""

    async def _prompt_manual_trust(
        self,
        manually_trusted: frozenset[Any],  # noqa: ARG002 -- slixmpp-omemo's signature
        identifier: str | None,  # noqa: ARG002 -- the same
    ) -> None:
        raise AssertionError("blind trust needs no prompt")


class TestClient(ClientXMPP):
    """A client that hands what it sends to its world."""

    __test__ = False

    def __init__(self, world: World, jid: str) -> None:
        super().__init__(jid, "secret", ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self.boundjid = JID(jid)
        self.world = world
        self.sent: list[Message] = []
        self.presences: list[Presence] = []
        self.stopped = False

    def send(self, data: Any, use_filters: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 -- slixmpp's signature
        """Take a stanza as slixmpp would, without a queue."""
        if isinstance(data, Iq):
            self.loop.call_soon(self.world.asked, self, fromstring(tostring(data.xml)))  # noqa: S314 -- the test's own text
        elif isinstance(data, Message):
            self.sent.append(data)
        elif isinstance(data, Presence):
            self.presences.append(data)
            self.roster._save_last_status(data)

    def receive(self, xml: str | Element) -> None:
        """Have a stanza arrive, through slixmpp's filters and handlers."""
        if not self.stopped:
            self._spawn_event(fromstring(xml) if isinstance(xml, str) else xml)  # noqa: S314 -- the test's own text

    def plug(self, plugin: type[Any], **config: Any) -> Any:
        """Enable a class as its application does: its registration is the last one."""
        register_plugin(plugin)
        self.register_plugin(plugin.name, config or None)
        return self.plugin.get(plugin.name, None)

    def is_connected(self) -> bool:
        """Whether there is a session with the world."""
        return bool(self.bound)

    async def bind(self) -> None:
        """Tell the plugins that the server has bound the resource; wait for OMEMO if there is."""
        started = asyncio.Event()
        self.bound = True
        self.add_event_handler("omemo_initialized", lambda _: started.set())
        self.event("session_bind", self.boundjid)
        if "xep_0384" in self.plugin:
            async with asyncio.timeout(SECONDS):
                await started.wait()


class World:
    """A server for clients: PubSub as OMEMO needs it, and delivery when the test says so.

    Attributes:
        items: what was published, by account and node, then by item.
        failing: nodes whose requests end in an error.
        requests: what was asked for, as pairs of account and kind.
    """

    def __init__(self) -> None:
        self.clients: list[TestClient] = []
        self.items: dict[tuple[str, str], dict[str, Element]] = {}
        self.subscribed: set[tuple[str, str, str]] = set()
        self.failing: set[str] = set()
        self.requests: list[tuple[str, str]] = []

    def client(self, name: str) -> TestClient:
        """A client that is not bound yet."""
        client = TestClient(self, f"{name}@example.org/{name}")
        self.clients.append(client)
        return client

    async def end(self) -> None:
        """Disable OMEMO everywhere and end slixmpp's own tasks."""
        for client in self.clients:
            client.stopped = True
            plugin = client.plugin.get("xep_0384", None)
            if plugin is not None:
                manager: Any = client.plugin
                manager.disable("xep_0384")
                if isinstance(plugin, eph_e2ee.XEP_0384):
                    await plugin.ended()
            for name in list(client.scheduled_events):
                client.cancel_schedule(name)
        await asyncio.sleep(0)

    def carry(self, stanza: Message, sender: TestClient, recipient: TestClient) -> Message:
        """What a recipient gets of a stanza, as slixmpp parses it."""
        xml = fromstring(tostring(stanza.xml))  # noqa: S314 -- the test's own text
        xml.set("from", sender.boundjid.full)
        return Message(recipient, xml=xml)  # type: ignore[no-untyped-call]

    def deliver(self) -> int:
        """Hand every message that was sent to its recipients; how many there were."""
        sent = [(client, stanza) for client in self.clients for stanza in client.sent]
        for client in self.clients:
            client.sent.clear()
        for sender, stanza in sent:
            for client in self.clients:
                if client.boundjid.bare == stanza["to"].bare:
                    client.receive(self.carry(stanza, sender, client).xml)
        return len(sent)

    def asked(self, client: TestClient, iq: Element) -> None:
        """Answer a request of a client's."""
        if client.stopped:
            return
        answer = Element(
            iq.tag, {"id": iq.get("id", ""), "type": "result", "to": client.boundjid.full}
        )
        answer.set("from", iq.get("to") or client.boundjid.bare)
        account = JID(answer.get("from")).bare
        for verb in (child for pubsub in iq for child in pubsub):
            self.requests.append((account, verb.tag.partition("}")[2]))
            if verb.get("node") in self.failing:
                _fail(answer, "internal-server-error")
            else:
                self._do(client, account, verb, answer)
        client.receive(answer)

    def _do(self, client: TestClient, account: str, verb: Element, answer: Element) -> None:
        node = verb.get("node", "")
        if verb.tag == f"{PUBSUB}publish":
            (item,) = verb
            items = self.items.setdefault((account, node), {})
            items[item.get("id", "")] = item[0]
            self._notify(account, node, item)
        elif verb.tag == f"{PUBSUB}items":
            self._fetch(account, verb, answer)
        elif verb.tag == f"{PUBSUB}subscribe":
            self.subscribed.add((client.boundjid.bare, account, node))

    def _fetch(self, account: str, verb: Element, answer: Element) -> None:
        node = verb.get("node", "")
        kept = self.items.get((account, node), {})
        names = [item.get("id", "") for item in verb] or list(kept)
        found = [name for name in names if name in kept]
        if not found:
            _fail(answer, "item-not-found")
            return
        items = SubElement(SubElement(answer, f"{PUBSUB}pubsub"), f"{PUBSUB}items", {"node": node})
        for name in found:
            SubElement(items, f"{PUBSUB}item", {"id": name}).append(kept[name])

    def _notify(self, account: str, node: str, item: Element) -> None:
        for client in self.clients:
            own = client.boundjid.bare
            if own != account and (own, account, node) not in self.subscribed:
                continue
            message = Element("{jabber:client}message", {"from": account, "to": own})
            event = SubElement(message, f"{EVENT}event")
            items = SubElement(event, f"{EVENT}items", {"node": node})
            SubElement(items, f"{EVENT}item", {"id": item.get("id", "")}).append(item[0])
            client.receive(fromstring(tostring(message)))  # noqa: S314 -- the test's own text


def _fail(answer: Element, condition: str) -> None:
    answer.set("type", "error")
    error = SubElement(answer, "{jabber:client}error", {"type": "cancel"})
    SubElement(error, f"{ERRORS}{condition}")


async def plugged(world: World, name: str, plugin: type[Any]) -> tuple[TestClient, Any]:
    """A client with a plugin whose OMEMO runs."""
    client = world.client(name)
    made = client.plug(plugin)
    await client.bind()
    return client, made
