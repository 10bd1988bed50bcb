"""Interoperability: messages as other clients put them on the wire, and what becomes of them.

The stanzas are written out as those clients write them; keys and ciphertexts are of real sessions.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest

from eph_e2ee.errors import Reason
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.parcel import MODERN, OLD, encrypted_child, written
from eph_e2ee.xmpp.unanswered import PAYLOAD
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from omemo import Message as Encrypted

    from tests.flows.conftest import Party, Town

ROSA, PETER = "rosa@example.org", "peter@example.org"
FALLBACK = "sentinel of a fallback body"
NUMBERS = count(1)

QXMPP = """\
<message xmlns="jabber:client" id="{id}" to="peter@example.org" from="rosa@example.org/QXmpp"\
 type="chat"><store xmlns="urn:xmpp:hints"/>\
<encryption xmlns="urn:xmpp:eme:0" namespace="urn:xmpp:omemo:2" name="OMEMO"/>\
<body>sentinel of a fallback body</body>\
<encrypted xmlns="urn:xmpp:omemo:2"><header sid="{sid}">\
<keys jid="peter@example.org"><key rid="{rid}"{kex}>{key}</key></keys></header>\
<payload>{payload}</payload></encrypted></message>"""
"""The affixes come first; `kex` stands at the first message of a session alone."""

ENVELOPE = """\
<envelope xmlns="urn:xmpp:sce:1"><time stamp="{stamp}"/><to jid="peter@example.org"/>\
<from jid="rosa@example.org"/><rpad>{rpad}</rpad><content>{content}</content></envelope>"""

PREFIXED = """\
<?xml version="1.0" encoding="UTF-8"?>
<sce:envelope xmlns:sce="urn:xmpp:sce:1" xmlns:c="jabber:client">\
<sce:rpad/><sce:from jid="rosa@example.org"/><sce:content>{content}</sce:content>\
<sce:to jid="peter@example.org"/><other xmlns="urn:example:affix"/>\
<sce:time stamp="{stamp}"/></sce:envelope>"""

LEGACY = """\
<message xmlns="jabber:client" from="rosa@example.org/Conversations" to="peter@example.org"\
 id="{id}" type="chat"><encrypted xmlns="eu.siacs.conversations.axolotl"><header sid="{sid}">\
{keys}<iv>{iv}</iv></header><payload>{payload}</payload></encrypted>\
<encryption xmlns="urn:xmpp:eme:0" name="OMEMO" namespace="eu.siacs.conversations.axolotl"/>\
<body>sentinel of a fallback body</body><store xmlns="urn:xmpp:hints"/>\
<markable xmlns="urn:xmpp:chat-markers:0"/></message>"""


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    assert rosa.device
    return await town.party("peter")


def stamp(party: Party) -> str:
    """The time of a party's clock as XEP-0082 writes it."""
    return datetime.fromtimestamp(party.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def envelope(rosa: Party, content: str, form: str = ENVELOPE) -> bytes:
    rpad = b64encode(bytes(range(60))).decode()
    return form.format(stamp=stamp(rosa), rpad=rpad, content=content).encode()


async def encrypted(rosa: Party, peter: Party, plaintext: bytes) -> Encrypted:
    """What a real session gives."""
    account = rosa.chat._account
    audience = await account.audience(BareJid(peter.jid))
    pending = await account.begin(
        lambda: account.seal(audience, plaintext, None), lambda _: lambda _: None
    )
    await pending.finish()
    (message,) = pending.value.messages
    return message


def on_the_wire(message: Encrypted, kex: str, number: int) -> Element:
    """The stanza around it, as QXmpp writes it."""
    xml = written(message)
    (key,) = xml.iter(f"{{{MODERN}}}key")
    text = QXMPP.format(
        id=f"qx-{number}",
        sid=message.device_id,
        rid=key.get("rid"),
        kex=kex,
        key=key.text,
        payload=xml.findtext(f"{{{MODERN}}}payload"),
    )
    return fromstring(text)  # noqa: S314 -- written by the test


async def receive(
    rosa: Party, peter: Party, content: str, *, form: str = ENVELOPE, kex: str = ""
) -> None:
    message = await encrypted(rosa, peter, envelope(rosa, content, form))
    peter.client.receive(on_the_wire(message, kex, next(NUMBERS)))
    await peter.idle()


def reasons(party: Party) -> list[Reason]:
    return [rejection.reason for rejection in party.events["rejected"]]


BODY = '<body xmlns="jabber:client">{}</body>'


@pytest.mark.parametrize("first", [' kex="true"', ' kex="1"', ""])
async def test_key_exchanges_that_are_not_marked(first: str, rosa: Party, peter: Party) -> None:
    """QXmpp: all messages before our first answer carry one, and only the first one says so."""
    for number in range(4):
        await receive(rosa, peter, BODY.format(number), kex=first if number == 0 else "")
    assert peter.bodies == ["0", "1", "2", "3"]
    assert reasons(peter) == []
    answers = [encrypted_child(each.xml, MODERN) for each in peter.client.sent]
    assert len([each for each in answers if each is not None]) == 1  # F45


async def test_marked_as_an_exchange_and_none(rosa: Party, peter: Party, town: Town) -> None:
    """The first byte decides, here as well."""
    await receive(rosa, peter, BODY.format("first"))
    await town.deliver()
    await receive(rosa, peter, BODY.format("second"), kex=' kex="true"')
    assert peter.bodies == ["first", "second"]


async def test_a_fallback_body_is_nobodys_text(rosa: Party, peter: Party) -> None:
    """F31: it stands outside; QXmpp itself would show one where the content has no body."""
    await receive(rosa, peter, BODY.format("the text"))
    await receive(rosa, peter, '<ephemeral xmlns="urn:xmpp:ephemeral:0" timer="60"/>')
    await receive(rosa, peter, "")
    assert peter.bodies == ["the text"]
    assert await peter.chat.timer(ROSA) == timedelta(seconds=60)
    history = await peter.chat.history(ROSA)
    assert [each.body for each in history] == [None, "the text"]  # and the line of the change
    assert FALLBACK not in repr(peter.events)
    assert await peter.chat.search(ROSA, "sentinel") == []


async def test_nor_is_one_that_stands_where_nothing_opens(rosa: Party, peter: Party) -> None:
    """F39, F42."""
    message = await encrypted(rosa, peter, envelope(rosa, BODY.format("text")))
    stanza = on_the_wire(message, "", next(NUMBERS))
    (payload,) = stanza.iter(f"{{{MODERN}}}payload")
    payload.text = b64encode(bytes(64)).decode()
    peter.client.receive(stanza)
    await peter.idle()
    assert peter.bodies == []
    assert reasons(peter) == [Reason.UNDECRYPTABLE]
    assert await peter.chat.history(ROSA) == []


async def test_legacy_with_a_fallback_body(town: Town, peter: Party) -> None:
    """Conversations: an empty exchange has none, and a message has one beside the element."""
    client = town.world.client("rosa")
    plugin: Any = client.plug(OurPlugin)
    await client.bind()
    await plugin.sessions.refresh_device_lists(PETER)
    messages, _ = await plugin.sessions.encrypt(frozenset({PETER}), {OLD: b"a text"}, [OLD])
    (message,) = messages
    xml = written(message)
    key = next(each for each in xml.iter(f"{{{OLD}}}key") if each.get("rid") == str(peter.device))
    key.set("prekey", "true")
    stanza = fromstring(  # noqa: S314 -- written by the test
        LEGACY.format(
            id="c-1",
            sid=message.device_id,
            keys=tostring(key).decode(),
            iv=xml.findtext(f".//{{{OLD}}}iv"),
            payload=xml.findtext(f"{{{OLD}}}payload"),
        )
    )
    peter.client.receive(stanza)
    await peter.idle()
    assert peter.bodies == ["a text"]
    assert [each.body for each in await peter.chat.history(ROSA)] == ["a text"]
    assert FALLBACK not in repr(peter.events)


@pytest.mark.parametrize("form", [ENVELOPE, PREFIXED], ids=["reordered", "prefixed"])
async def test_envelopes_in_other_forms(form: str, rosa: Party, peter: Party) -> None:
    await receive(rosa, peter, BODY.format("a text"), form=form)
    (message,) = peter.events["message"]
    assert message.body == "a text"
    assert message.sent_at.timestamp() == int(rosa.clock.now())
    assert reasons(peter) == []


GERMAN = '<body xmlns="jabber:client" xml:lang="de">Hallo</body>'
ENGLISH = '<body xmlns="jabber:client" xml:lang="en">hello</body>'
MIXED = '<body xmlns="jabber:client">a<x xmlns="urn:example:x"/>b</body>'
THREAD = '<thread xmlns="jabber:client">7</thread>'
XHTML = (
    '<html xmlns="http://jabber.org/protocol/xhtml-im">'
    '<body xmlns="http://www.w3.org/1999/xhtml"><p>rich</p></body></html>'
)


@pytest.mark.parametrize(
    ("content", "text", "elements"),
    [
        (GERMAN, "Hallo", 0),
        (GERMAN + BODY.format("hi") + ENGLISH, "hi", 0),
        (GERMAN + ENGLISH, "Hallo", 0),
        (BODY.format("one") + BODY.format("two"), "one", 0),
        (XHTML + BODY.format("plain"), "plain", 1),
        ('<body xmlns="http://jabber.org/protocol/xhtml-im">x</body>', None, 1),
        ('<body xmlns="urn:xmpp:sce:1">x</body>', None, 1),
        ("<body>x</body>", None, 1),
        ('<body xmlns="">x</body>', None, 1),
        ('<body xmlns="jabber:server">x</body>', None, 1),
        ('<body xmlns="jabber:client"/>', "", 0),
        ('<b:body xmlns:b="jabber:client" xmlns:o="urn:o" o:a="1">x</b:body>', "x", 0),
        (MIXED + THREAD, "a", 1),
    ],
)
async def test_bodies_of_other_namespaces_and_languages(
    content: str, text: str | None, elements: int, rosa: Party, peter: Party
) -> None:
    """XEP-0420: each child of the content has its own namespace; the text is `jabber:client`'s."""
    await receive(rosa, peter, content)
    (message,) = peter.events["message"]
    assert message.body == text
    assert len(message.elements) == elements


async def test_an_envelope_with_nothing_in_it_is_no_message(
    rosa: Party, peter: Party, town: Town
) -> None:
    """What answers QXmpp, and what QXmpp would send: no event, no row, no timer, no change."""
    await rosa.chat.send(PETER, "a text", timer=timedelta(minutes=5))
    await town.deliver()
    before = await peter.chat.history(ROSA)
    for content in ("", "   "):
        await receive(rosa, peter, content)
    assert peter.bodies == ["a text"]
    assert len(await peter.chat.history(ROSA)) == len(before)
    assert await peter.chat.timer(ROSA) == timedelta(minutes=5)
    assert peter.events["timer_changed"] == peter.events["timer_changed"][:1]
    assert peter.events["message"][0].deadline is None
    assert reasons(peter) == []


async def test_a_talkative_peer_is_answered_without_a_word(rosa: Party, peter: Party) -> None:
    """F45: one empty message, one envelope; rosa's application hears of neither."""
    for number in range(PAYLOAD):
        await receive(rosa, peter, BODY.format(number))
    await upkeep(peter)
    sent = [tostring(each.xml).decode() for each in peter.client.sent]
    answers = [each for each in sent if re.search("payload", each)]
    assert len(answers) == 1
    for each in sent:
        stanza = fromstring(each)  # noqa: S314 -- our own
        stanza.set("from", peter.client.boundjid.full)
        rosa.client.receive(stanza)
    await rosa.idle()
    assert rosa.events["message"] == rosa.events["rejected"] == []
    assert await rosa.chat.history(PETER) == []
    assert rosa.client.sent == []


# -- sessions that are out of step -----------------------------------------------------------------


async def forget_sessions(party: Party, jid: str) -> None:
    omemo = party.chat._account.omemo
    await omemo.gate.run(lambda: omemo.sessions.backends[MODERN].purge_bare_jid(jid))


async def upkeep(party: Party) -> None:
    """Wait for what the plugin sends by itself."""
    omemo: Any = party.chat._account.omemo
    while omemo._upkeep:  # to await one that has just ended would give the loop no turn to drop it
        await asyncio.wait(set(omemo._upkeep))


async def test_a_lost_session_is_told_of_and_mended(rosa: Party, peter: Party, town: Town) -> None:
    """Both ways, after one message that is lost."""
    await rosa.chat.send(PETER, "first")
    await town.deliver()
    await forget_sessions(peter, ROSA)
    await rosa.chat.send(PETER, "lost")
    await town.deliver()
    await upkeep(peter)
    await town.deliver()
    assert reasons(peter) == [Reason.NO_SESSION]
    await rosa.chat.send(PETER, "here again")
    await peter.chat.send(ROSA, "and here")
    await town.deliver()
    assert peter.bodies == ["first", "here again"]
    assert rosa.bodies == ["and here"]
    assert reasons(rosa) == []
    assert len(reasons(peter)) == 1


async def test_an_application_that_repairs_whatever_fails_starts_no_loop(
    rosa: Party, peter: Party, town: Town
) -> None:
    """F45: on both sides at once, and the server damages everything for a while."""
    await rosa.chat.send(PETER, "first")
    await town.deliver()
    repaired: list[Any] = []
    for party, other in ((rosa, PETER), (peter, ROSA)):

        async def repair(_: Any, party: Party = party, other: str = other) -> None:
            repaired.extend(await party.chat.repair(other))

        party.client.add_event_handler("ephemeral_rejected", repair)
    for number in range(20):
        for sender, reader in ((rosa, peter), (peter, rosa)):
            await sender.chat.send(reader.jid, f"damaged {number}")
            for stanza in sender.client.sent:
                for payload in stanza.xml.iter(f"{{{MODERN}}}payload"):
                    payload.text = b64encode(bytes(64)).decode()
        await town.deliver()
    await town.deliver()
    assert len(repaired) <= 2
    assert len(reasons(peter)) == len(reasons(rosa)) == 20
    await rosa.chat.send(PETER, "at last")
    await peter.chat.send(ROSA, "at last")
    await town.deliver()
    assert peter.bodies == ["first", "at last"]
    assert rosa.bodies == ["at last"]
