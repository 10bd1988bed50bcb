"""The events that an application waits for, raised for encrypted messages without a body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar
from xml.etree.ElementTree import Element, SubElement, tostring

import pytest
from slixmpp import JID
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

import eph_e2ee
from eph_e2ee.vault.rootkey import MemoryRootKey
from eph_e2ee.xmpp.bodiless import HALVES
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp.clients import OurPlugin, World

if TYPE_CHECKING:
    from slixmpp.stanza import Message

    from tests.xmpp.clients import TestClient

ROSA, ROOM = "rosa@example.org/x", "room@rooms.example.org"
EVENTS = ("message", "groupchat_message", f"muc::{ROOM}::message")


class Listening:
    """A client with the plugin, and what its application is told."""

    def __init__(self, client: TestClient, plugin: Any) -> None:
        self.client = client
        self.plugin = plugin
        self.told: list[tuple[str, Message]] = []
        self.stanzas: list[Any] = []
        for name in EVENTS:
            client.add_event_handler(name, self._handler(name))
        matcher = MatchXPath("{jabber:client}message")
        client.register_handler(Callback("all", matcher, self.stanzas.append))

    def _handler(self, name: str) -> Any:
        return lambda stanza: self.told.append((name, stanza))

    async def receive(self, xml: Element) -> list[str]:
        """Have a stanza arrive; the names of the events that it causes."""
        self.told.clear()
        self.client.receive(xml)
        await asyncio.sleep(0)
        return [name for name, _ in self.told]

    def stanza(
        self,
        *namespaces: str,
        device: int | None = None,
        kind: str = "chat",
        body: str | None = None,
        payload: bool = True,
        name: str = "7",
    ) -> Element:
        """A stanza with elements for a device, by default this one."""
        xml = Element(
            "{jabber:client}message",
            {"from": f"{ROOM}/rosa" if kind == "groupchat" else ROSA, "type": kind, "id": name},
        )
        xml.set("to", self.client.boundjid.full)
        rid = str(self.plugin.own_device if device is None else device)
        for namespace in namespaces:
            encrypted = SubElement(xml, f"{{{namespace}}}encrypted")
            keys = SubElement(encrypted, f"{{{namespace}}}header")
            if namespace == MODERN:
                keys = SubElement(keys, f"{{{MODERN}}}keys", {"jid": self.client.boundjid.bare})
            SubElement(keys, f"{{{namespace}}}key", {"rid": rid}).text = "AAAA"
            if payload:
                SubElement(encrypted, f"{{{namespace}}}payload").text = name
        if body is not None:
            SubElement(xml, "{jabber:client}body").text = body
        return xml


@pytest.fixture
async def listening(world: World) -> Listening:
    client = world.client("peter")
    client.register_plugin("xep_0045")
    plugin = client.plug(OurPlugin)
    await client.bind()
    return Listening(client, plugin)


@pytest.mark.parametrize("namespaces", [(MODERN,), (OLD,), (MODERN, OLD)], ids=len)
async def test_a_message_is_told_once(namespaces: tuple[str, ...], listening: Listening) -> None:
    xml = listening.stanza(*namespaces)
    assert await listening.receive(xml) == ["message"]
    ((_, stanza),) = listening.told
    assert listening.plugin.is_encrypted(stanza) == set(namespaces)
    assert tostring(stanza.xml) == tostring(
        listening.stanza(*namespaces, body=listening.plugin.fallback_message)
    )
    assert listening.stanzas == [stanza]  # every handler sees it


@pytest.mark.parametrize("kind", ["chat", "normal", "groupchat"])
async def test_one_with_a_body_is_slixmpps_to_tell(kind: str, listening: Listening) -> None:
    """With a body and without, the same events come, once, in the same order."""
    bodiless = await listening.receive(listening.stanza(OLD, kind=kind))
    listening.told.clear()
    assert await listening.receive(listening.stanza(OLD, kind=kind, body="fallback")) == bodiless
    assert bodiless == list(EVENTS if kind == "groupchat" else EVENTS[:1])


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "error"},
        {"payload": False},
        {"device": 7},
    ],
    ids=["an error", "an empty one", "for another device"],
)
@pytest.mark.parametrize("namespace", [MODERN, OLD])
async def test_what_says_nothing_is_not_told(
    namespace: str, given: dict[str, Any], listening: Listening
) -> None:
    assert await listening.receive(listening.stanza(namespace, **given)) == []
    assert listening.stanzas[-1].xml.find("{jabber:client}body") is None


class WithoutFallback(OurPlugin):
    """An application's class that leaves slixmpp-omemo's configuration away."""

    default_config: ClassVar[dict[str, Any]] = {}


async def test_what_an_application_configures_raises_nothing_here(world: World) -> None:
    for number, (kind, config) in enumerate(
        [(WithoutFallback, {}), (OurPlugin, {"fallback_message": ""})]
    ):
        client = world.client(f"peter{number}")
        listening = Listening(client, client.plug(kind, **config))
        assert await listening.receive(listening.stanza(MODERN)) == ["message"]
        ((_, stanza),) = listening.told
        assert stanza["body"]


async def test_anothers_key_of_the_same_number(listening: Listening) -> None:
    """Device ids are no account's alone."""
    xml = listening.stanza(MODERN)
    keys = xml.find(f".//{{{MODERN}}}keys")
    assert keys is not None
    keys.set("jid", "anna@example.org")
    assert await listening.receive(xml) == []


async def test_before_omemo_has_started_all_are_told(world: World) -> None:
    """Nobody knows our device yet; decrypting waits for the start."""
    client = world.client("peter")
    listening = Listening(client, client.plug(OurPlugin))
    assert await listening.receive(listening.stanza(MODERN, device=7)) == ["message"]


async def test_without_an_address_it_is_to_us(listening: Listening) -> None:
    """As slixmpp has it for those with a body."""
    xml = listening.stanza(MODERN)
    del xml.attrib["to"]
    await listening.receive(xml)
    ((_, stanza),) = listening.told
    assert stanza["to"] == listening.client.boundjid


@pytest.mark.parametrize("kind", ["chat", "groupchat"])
async def test_the_other_half_of_a_pair_is_silent(kind: str, listening: Listening) -> None:
    """Its body would tell of a message that is not for this device; nobody sees anything of it."""
    assert await listening.receive(listening.stanza(MODERN, kind=kind)) != []
    half = listening.stanza(OLD, device=7, kind=kind, body="fallback")
    assert await listening.receive(half) == []
    assert len(listening.stanzas) == 2
    assert list(listening.stanzas[-1].xml) == []


async def test_what_only_looks_like_one_is_told(listening: Listening) -> None:
    """Another id, another sender, an own key: each is a message of its own."""
    await listening.receive(listening.stanza(MODERN))
    another = listening.stanza(OLD, device=7, body="fallback", name="8")
    assert await listening.receive(another) == ["message"]
    foreign = listening.stanza(OLD, device=7, body="fallback")
    foreign.set("from", "anna@example.org/x")
    assert await listening.receive(foreign) == ["message"]
    assert await listening.receive(listening.stanza(OLD, body="fallback")) == ["message"]
    plain = listening.stanza(body="in clear")
    assert await listening.receive(plain) == ["message"]
    assert listening.stanzas[-1]["body"] == "in clear"


async def test_stanzas_without_an_id_are_no_pair(listening: Listening) -> None:
    for xml in (listening.stanza(MODERN), listening.stanza(OLD, device=7, body="fallback")):
        del xml.attrib["id"]
        assert await listening.receive(xml) == ["message"]


async def test_few_halves_are_remembered(listening: Listening) -> None:
    for number in range(HALVES + 5):
        await listening.receive(listening.stanza(MODERN, name=f"{number}"))
    assert len(listening.plugin._bodiless._halves) == HALVES
    forgotten = listening.stanza(OLD, device=7, body="fallback", name="0")
    assert await listening.receive(forgotten) == ["message"]


@pytest.mark.parametrize("sender", [None, "", "@", "a@b@c", "x" * 5000])
async def test_an_address_that_is_none_raises_nothing(
    sender: str | None, listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    xml = listening.stanza(MODERN)
    if sender is None:
        del xml.attrib["from"]
    else:
        xml.set("from", sender)
    await listening.receive(xml)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_under_attach_nobody_is_told(world: World, tmp_path: Any) -> None:
    """A `Chat` reads them, and has events of its own."""
    client = world.client("peter")
    chat = eph_e2ee.attach(client, vault=tmp_path / "vault", root_key=MemoryRootKey())
    try:
        listening = Listening(client, client.plugin.get("xep_0384", None))
        assert await listening.receive(listening.stanza(MODERN)) == []
    finally:
        await chat.close()


async def test_afterwards_slixmpp_is_as_before(listening: Listening) -> None:
    manager: Any = listening.client.plugin
    await listening.receive(listening.stanza(MODERN))
    listening.stanzas.clear()
    half = listening.stanza(OLD, device=7, body="fallback")
    manager.disable("xep_0384")
    assert await listening.receive(listening.stanza(MODERN)) == []
    assert await listening.receive(half) == ["message"]
    await listening.plugin.ended()


async def test_nothing_of_the_envelope_is_in_the_event(world: World) -> None:
    """What an application is told is what came; it decrypts itself, as before."""
    rosa, peter = world.client("rosa"), world.client("peter")
    ours, theirs = rosa.plug(OurPlugin), peter.plug(OurPlugin)
    for client in (rosa, peter):
        await client.bind()
    listening = Listening(peter, theirs)
    stanza = rosa.make_message(mto=JID("peter@example.org"), mbody="sentinel", mtype="chat")
    sealed, _ = await ours.encrypt_message(stanza, JID("peter@example.org"))
    assert await listening.receive(world.carry(sealed, rosa, peter).xml) == ["message"]
    ((_, told),) = listening.told
    assert b"sentinel" not in tostring(told.xml)
    opened, _ = await theirs.decrypt_message(told)
    assert opened["body"] == "sentinel"
    assert theirs.fallback_message not in str(opened)
    assert b"sentinel" not in tostring(told.xml)
