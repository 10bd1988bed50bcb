"""What we publish stays beside what our other devices do, whatever options the server knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp.exceptions import IqError

from eph_e2ee.xmpp.nodes import BUNDLES_OPTIONS, Nodes
from tests.support.chats import element
from tests.xmpp.clients import TestClient, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROSA: Final = "rosa@example.org"
NODE: Final = "urn:example:keys"
PUBLICATION: Final = "http://jabber.org/protocol/pubsub#publish-options"
CONFIGURATION: Final = "http://jabber.org/protocol/pubsub#node_config"
BY_ITSELF: Final = {"pubsub#access_model": "presence", "pubsub#max_items": "1"}
"""How a server makes a node of an account, when it is told nothing (XEP-0163)."""


class Choosy(World):
    """A server of one account that knows some options of a publication and refuses any other.

    Attributes:
        known: the options.
        nodes: how each node is configured.
        refuses: what of an account's wishes it does not do at all.
        asked_for: what it was asked to do, one after the other.
    """

    def __init__(self, *known: str) -> None:
        super().__init__()
        self.known = set(known)
        self.nodes: dict[str, dict[str, str]] = {}
        self.refuses: set[str] = set()
        self.asked_for: list[str] = []

    def asked(self, client: TestClient, iq: Element) -> None:
        verb = iq[0][0]
        kind, node = verb.tag.partition("}")[2], verb.get("node", "")
        self.asked_for.append(kind)
        condition = self._condition(kind, node, dict(_options(iq)))
        if condition is None and kind == "publish":
            kept = self.items.setdefault((ROSA, node), {})
            kept[verb[0].get("id", "")] = verb[0][0]
            while self.nodes[node]["pubsub#max_items"] == "1" and len(kept) > 1:
                del kept[next(iter(kept))]
        answer = Element(iq.tag, {"id": iq.get("id", ""), "to": client.boundjid.full})
        answer.set("type", "result" if condition is None else "error")
        if condition is not None:
            error = SubElement(answer, "{jabber:client}error", {"type": "cancel"})
            SubElement(error, f"{{urn:ietf:params:xml:ns:xmpp-stanzas}}{condition}")
        client.receive(answer)

    def _condition(self, kind: str, node: str, options: dict[str, str]) -> str | None:
        """Do what concerns the node; the error, if there is one."""
        form = options.pop("FORM_TYPE", None)
        if kind in self.refuses:
            return "forbidden"
        if kind == "publish":
            if options.keys() - self.known or form not in (None, PUBLICATION):
                return "resource-constraint"
            found = self.nodes.setdefault(node, {**BY_ITSELF, **options})
            return None if options.items() <= found.items() else "conflict"
        assert form == CONFIGURATION
        if kind == "configure" and node not in self.nodes:
            return "item-not-found"
        assert kind in ("configure", "create")
        self.nodes.setdefault(node, dict(BY_ITSELF)).update(options)
        return None


def _options(iq: Element) -> list[tuple[str, str]]:
    fields = iq.iter("{jabber:x:data}field")
    return [(each.get("var", ""), each.findtext("{jabber:x:data}value", "")) for each in fields]


@pytest.fixture
async def served() -> AsyncIterator[Callable[[World], Nodes]]:
    """Make accounts of servers."""
    worlds: list[World] = []

    def new(world: World) -> Nodes:
        worlds.append(world)
        client = world.client("rosa")
        for plugin in ("xep_0060", "xep_0004"):
            client.register_plugin(plugin)
        client.bound = True
        return Nodes(client)

    yield new
    for world in worlds:
        await world.end()


def payload(number: int) -> Element:
    return element(f"<keys xmlns='urn:example'>{number}</keys>")


EVERYTHING: Final = tuple(BUNDLES_OPTIONS)
LITTLE: Final = ("pubsub#access_model", "pubsub#persist_items")


@pytest.mark.parametrize("before", [None, BY_ITSELF, {**BY_ITSELF, "pubsub#max_items": "max"}])
@pytest.mark.parametrize("known", [EVERYTHING, LITTLE], ids=["everything", "little"])
async def test_each_device_has_its_item(
    served: Callable[[World], Nodes], known: tuple[str, ...], before: dict[str, str] | None
) -> None:
    """XEP-0384 section 5.3.2; the node may be there already, as an older client has made it."""
    server = Choosy(*known)
    if before is not None:
        server.nodes[NODE] = dict(before)
        server.items[ROSA, NODE] = {"1": payload(1)}
    nodes = served(server)
    for number in (1, 2, 3, 2):
        await nodes.publish(NODE, str(number), payload(number), BUNDLES_OPTIONS)
    kept = {name: item.text for name, item in server.items[ROSA, NODE].items()}
    assert kept == {"1": "1", "2": "2", "3": "3"}
    assert server.nodes[NODE].items() >= BUNDLES_OPTIONS.items()


async def test_a_server_is_asked_in_vain_once(served: Callable[[World], Nodes]) -> None:
    server = Choosy(*LITTLE)
    nodes = served(server)
    for number in range(3):
        await nodes.publish(NODE, str(number), payload(number), BUNDLES_OPTIONS)
    assert server.asked_for == ["publish", "configure", "create", *["publish"] * 3]
    await nodes.publish("urn:example:others", "1", payload(1), BUNDLES_OPTIONS)
    assert server.nodes["urn:example:others"].items() >= BUNDLES_OPTIONS.items()


@pytest.mark.parametrize("refused", ["configure", "publish", "create"])
async def test_a_node_that_cannot_be_as_it_must_gets_nothing(
    served: Callable[[World], Nodes], refused: str
) -> None:
    """A list for ourselves alone must not be published where contacts see it."""
    server = Choosy(*LITTLE)
    server.refuses = {refused}
    nodes = served(server)
    options: dict[str, Any] = {**BUNDLES_OPTIONS, "pubsub#access_model": "whitelist"}
    for _ in range(2):
        with pytest.raises(IqError):
            await nodes.publish(NODE, "1", payload(1), options)
    assert server.items == {}
