"""One stanza that leaves as two, through slixmpp's own queue and filters."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, fromstring

import pytest
from slixmpp import ClientXMPP

from eph_e2ee.xmpp.outdated import Encrypted
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.parting import Parting
from tests.support.client import SECONDS, disconnect, new_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FALLBACK = "a fallback"


class Wire(ClientXMPP):
    """A client whose bytes end here; what is in front of the socket is slixmpp's."""

    def __init__(self) -> None:
        super().__init__("rosa@example.org/x", "secret", ssl_context=new_context())
        self.written: list[Element] = []
        self.transport: Any = self
        self._session_started = True
        for name in ("xep_0198", "xep_0334", "xep_0380"):
            self.register_plugin(name)
        # As after <enabled/>: each stanza that leaves is counted and kept.
        management: Any = self.plugin["xep_0198"]
        management.enabled_out = True
        self.unacknowledged: Any = management.unacked_queue
        self.parting = Parting(self, lambda: FALLBACK)
        self.parting.start()
        self.leaving = asyncio.ensure_future(self.run_filters())

    def write(self, data: bytes) -> None:
        """Take what would go to the socket."""
        (stanza,) = fromstring(f"<stream xmlns='jabber:client'>{data.decode()}</stream>")  # noqa: S314 -- the test's own text
        if stanza.tag.startswith("{jabber:client}"):  # the others are stream management's
            self.written.append(stanza)

    async def left(self) -> list[Element]:
        """What has left, once all has."""
        async with asyncio.timeout(SECONDS):
            await self.waiting_queue.join()
        return self.written

    def encrypted(self, text: str, *, parted: bool = True) -> Encrypted:
        """A stanza as `encrypt_message` returns it."""
        stanza = Encrypted(self, sto="peter@example.org", stype="chat", sid=text)  # type: ignore[no-untyped-call]
        for namespace in (MODERN, OLD):
            element = SubElement(stanza.xml, f"{{{namespace}}}encrypted")
            SubElement(element, f"{{{namespace}}}payload").text = text
        stanza["eme"]["namespace"] = OLD
        stanza.enable("store")
        stanza.parted = parted
        return stanza


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    client = Wire()
    yield client
    client.leaving.cancel()
    client.transport = None
    await disconnect(client)


def tags(stanza: Element) -> list[str]:
    return [child.tag.rpartition("}")[2] for child in stanza]


def kinds(stanza: Element) -> list[str]:
    return [each for each in (MODERN, OLD) if stanza.find(f"{{{each}}}encrypted") is not None]


@pytest.mark.parametrize("by_client", [False, True])
async def test_each_kind_gets_a_stanza_under_one_id(by_client: bool, wire: Wire) -> None:  # noqa: FBT001 -- a case, no switch
    """The envelope first and without a body; the body tells applications of slixmpp-omemo's."""
    stanza = wire.encrypted("one")
    if by_client:
        wire.send(stanza)
    else:
        stanza.send()
    modern, old = await wire.left()
    assert (kinds(modern), kinds(old)) == ([MODERN], [OLD])
    assert {each.get("id") for each in (modern, old)} == {"one"}
    assert {each.find("{urn:xmpp:sid:0}origin-id").get("id") for each in (modern, old)} == {"one"}  # type: ignore[union-attr]
    assert [each.find("{urn:xmpp:eme:0}encryption").get("namespace") for each in (modern, old)] == [  # type: ignore[union-attr]
        MODERN,
        OLD,
    ]
    assert "body" not in tags(modern)
    assert old.findtext("{jabber:client}body") == FALLBACK
    assert tags(modern).count("store") == tags(old).count("store") == 1


async def test_stream_management_counts_both(wire: Wire) -> None:
    """XEP-0198: and keeps both, as they left, to send them again."""
    wire.encrypted("one").send()
    written = await wire.left()
    kept = [stanza for _, stanza in wire.unacknowledged]
    assert [kinds(stanza.xml) for stanza in kept] == [[MODERN], [OLD]]
    assert [stanza["id"] for stanza in kept] == [each.get("id") for each in written]


async def test_the_second_leaves_before_what_waits(wire: Wire) -> None:
    """The order of messages is the same in each kind; and slixmpp's end waits for all of them."""
    for text in ("one", "two"):
        wire.encrypted(text).send()
    wire.make_message(mto="peter@example.org", mbody="three").send()
    left = await wire.left()
    assert [each.get("id") for each in left[:4]] == ["one", "one", "two", "two"]
    assert left[4].findtext("{jabber:client}body") == "three"
    assert wire.waiting_queue.empty()


async def test_what_an_application_adds_is_on_both(wire: Wire) -> None:
    """Another id, an element in clear, a body of its own."""
    stanza = wire.encrypted("one")
    stanza["id"] = "another"
    stanza["body"] = "get a client with OMEMO"
    SubElement(stanza.xml, "{urn:xmpp:receipts}request")
    stanza.send()
    modern, old = await wire.left()
    assert {each.get("id") for each in (modern, old)} == {"another"}
    assert "request" in tags(modern)
    assert "request" in tags(old)
    assert "body" not in tags(modern)
    assert old.findtext("{jabber:client}body") == "get a client with OMEMO"


@pytest.mark.parametrize("parted", [True, False])
async def test_one_word_on_the_encryption_is_enough(parted: bool, wire: Wire) -> None:  # noqa: FBT001 -- a case, no switch
    """Applications add their own, since slixmpp-omemo has none; ours says what is there."""
    stanza = wire.encrypted("one", parted=parted)
    mine = stanza["eme"]["namespace"]
    for add in (stanza.append, stanza.xml.append):
        add(Element("{urn:xmpp:eme:0}encryption", {"namespace": "urn:example"}))
    stanza.send()
    left = await wire.left()
    hints = [[child.get("namespace") for child in each if "eme" in child.tag] for each in left]
    assert hints == ([[MODERN], [OLD]] if parted else [[mine]])
    assert tags(stanza.xml).count("encryption") == 3


async def test_the_stanza_stays_whole_for_its_owner(wire: Wire) -> None:
    stanza = wire.encrypted("one")
    again = copy(stanza)
    stanza.send()
    await wire.left()
    assert kinds(stanza.xml) == [MODERN, OLD]
    again.send()
    assert len(await wire.left()) == 4


async def test_others_are_let_be(wire: Wire) -> None:
    """One for devices that all find their element; one that an application has taken apart."""
    wire.encrypted("whole", parted=False).send()
    stanza = wire.encrypted("taken apart")
    stanza.xml.remove(stanza.xml[0])
    stanza.send()
    left = await wire.left()
    assert [kinds(each) for each in left] == [[MODERN, OLD], [OLD]]


async def test_afterwards_slixmpp_is_as_before(wire: Wire) -> None:
    wire.parting.stop()
    wire.encrypted("one").send()
    assert len(await wire.left()) == 1
