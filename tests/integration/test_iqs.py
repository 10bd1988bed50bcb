"""Questions in envelopes between real clients on a real server."""

from __future__ import annotations

import asyncio
import gc
import re
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest
from slixmpp.stanza import Iq
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from eph_e2ee import IqRefused, NoAnswer, NoEligibleDevices, Reason, Refusal, RemoteProtocolError
from eph_e2ee.protocol.xml import serialize
from eph_e2ee.xmpp.parcel import MODERN
from tests.integration.test_reconnecting import MANAGED, arrive_managed, lose, resume
from tests.integration.test_secrecy import SENTINEL, Witness, printed, text, witness
from tests.support.chats import Party, fence, meet, residue, together
from tests.support.client import connect
from tests.support.unpatched import unpatched

if TYPE_CHECKING:
    from collections.abc import Callable

    from slixmpp import ClientXMPP

    from tests.conftest import NewClient
    from tests.integration.conftest import NewParty
    from tests.integration.devices import NewDevice
    from tests.support.prosody import Account, Prosody
    from tests.support.wire import Wire

__all__ = ["witness"]

pytestmark = pytest.mark.integration

NAME = "{urn:example:tea}tea"
PLAIN_IQ = re.compile(rb"<iq\b[^>]*>(?:(?!</iq>).)*urn:example:tea", re.DOTALL)


def query(words: str = "") -> Element:
    """A payload."""
    made = Element(NAME)
    made.text = words
    return made


def jid(somebody: Party) -> str:
    """A full JID."""
    return somebody.client.boundjid.full


async def ask(asker: Party, address: str, words: str = "", **more: Any) -> str | None:
    """The text of an answer."""
    answer = await asker.chat.iq(address, query(words), **more)
    return None if answer is None else answer.text


async def refused(asker: Party, address: str, words: str = "") -> IqRefused:
    """The error that a question is answered with."""
    with pytest.raises(IqRefused) as caught:
        await ask(asker, address, words)
    return caught.value


async def outside(asker: Party, address: str) -> str:
    """The condition of an error for which nobody vouches."""
    error = await refused(asker, address)
    assert not error.authenticated
    return error.refusal.condition


def echoing(somebody: Party) -> list[Any]:
    """Have somebody repeat what is asked; the questions."""
    heard: list[Any] = []

    async def on_tea(question: Any) -> Element | Refusal | None:
        heard.append(question)
        words = question.element.text or ""
        if "fail" in words:
            raise ValueError(words)
        if "refuse" in words:
            return Refusal("forbidden", text=words)
        return None if question.kind == "set" else query(words)

    somebody.chat.on_iq(NAME, on_tea)
    return heard


def stanzas(client: ClientXMPP) -> list[Iq]:
    """The encrypted IQs that a client gets from now on, before anything is done with them."""
    kept: list[Iq] = []

    def keep(stanza: Any) -> Any:
        if isinstance(stanza, Iq) and stanza.xml.find(f"{{{MODERN}}}encrypted") is not None:
            kept.append(stanza)
        return stanza

    client.add_filter("in", keep)
    return kept


async def test_asking_and_answering(party: NewParty, wire: Wire) -> None:
    """XEP-0420 section 6.2: get, set, errors inside; many at once, both ways; nothing in clear."""
    rosa, peter = party("rosa", address=wire.address), party("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    heard = [echoing(rosa), echoing(peter)]
    assert await ask(rosa, jid(peter), "when?") == "when?"
    assert await ask(rosa, jid(peter), "boil it", kind="set") is None
    error = await refused(rosa, jid(peter), "refuse this")
    assert (error.refusal, error.authenticated) == (
        Refusal("forbidden", "auth", "refuse this"),
        True,
    )
    error = await refused(rosa, jid(peter), "fail at this")
    assert (error.refusal, error.authenticated) == (
        Refusal("internal-server-error", "cancel"),
        True,
    )
    with pytest.raises(IqRefused) as unknown:
        await rosa.chat.iq(jid(peter), Element("{urn:example:coffee}coffee"))
    assert unknown.value.refusal == Refusal("service-unavailable", "cancel")
    assert unknown.value.authenticated
    words = [f"question {number}" for number in range(30)]
    asking = [ask(rosa, jid(peter), each) for each in words]
    asking += [ask(peter, jid(rosa), each) for each in words]
    assert await together(*asking) == words * 2
    (question, *_) = heard[1]
    assert (question.jid, question.bare, question.kind) == (jid(rosa), rosa.jid, "get")
    assert question.device == rosa.chat._account.device
    assert PLAIN_IQ.search(wire.record) is None
    assert b"question" not in wire.record
    assert [party.messages.all + party.rejected.all for party in (rosa, peter)] == [[], []]
    await meet(rosa, peter)
    assert [len(await party.chat.history(rosa.jid)) for party in (rosa, peter)] == [0, 2]


async def test_who_knows_nothing_of_it(
    party: NewParty, client: NewClient, prosody: Prosody, account: Callable[[str], Account]
) -> None:
    """F39: a client without the plugin, one that is gone, one with legacy OMEMO alone."""
    rosa, peter = party("rosa"), party("peter")
    await rosa.arrive()
    await peter.arrive()
    plain = client(peter.account, resource="plain")
    await connect(plain, prosody.address)
    assert await outside(rosa, plain.boundjid.full) == "feature-not-implemented"
    assert await outside(rosa, f"{peter.jid}/gone") == "service-unavailable"
    # It answers what it cannot read, as if it had been asked in clear.
    plain.register_handler(Callback("all", MatchXPath("{jabber:client}iq"), _answer_in_clear))
    with pytest.raises(RemoteProtocolError) as caught:
        await ask(rosa, plain.boundjid.full)
    assert caught.value.reason is Reason.CLEAR_ANSWER
    assert (await rosa.rejected.next()).reason is Reason.CLEAR_ANSWER
    async with unpatched(account("anna"), prosody.address) as anna:
        with pytest.raises(NoEligibleDevices):
            await ask(rosa, anna.client.boundjid.full)


def _answer_in_clear(stanza: Any) -> None:
    if stanza["type"] in ("get", "set"):
        reply = stanza.reply()
        reply.append(query("in the open"))
        reply.send()


async def test_nobody_answers(party: NewParty, client: NewClient, prosody: Prosody) -> None:
    """The clock ends it, or whoever waits; the next question is answered."""
    rosa, peter = party("rosa"), party("peter")
    await rosa.arrive()
    await peter.arrive()
    echoing(peter)
    mute = client(peter.account, resource="mute")
    await connect(mute, prosody.address)
    asked: asyncio.Queue[Any] = asyncio.Queue()
    mute.register_handler(Callback("all", MatchXPath("{jabber:client}iq"), asked.put_nowait))
    waiting = asyncio.ensure_future(ask(rosa, mute.boundjid.full, timeout=20))
    await asked.get()
    rosa.clock.advance(20)
    with pytest.raises(NoAnswer):
        await waiting
    waiting = asyncio.ensure_future(ask(rosa, mute.boundjid.full))
    await asked.get()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert rosa.chat._account.iqs._open == {}
    assert await ask(rosa, jid(peter), "still there?") == "still there?"


async def test_a_question_is_answered_once(pair: tuple[Party, Party], prosody: Prosody) -> None:
    """F42: its replay is heard by nobody; what does not open is answered as what is unknown."""
    rosa, peter = pair
    heard, asked, answers = echoing(peter), stanzas(peter.client), stanzas(rosa.client)
    assert await ask(rosa, jid(peter), "once") == "once"
    (iq,) = asked
    prosody.deliver(serialize(iq.xml).decode())
    assert (await peter.rejected.next()).reason is Reason.DUPLICATE
    broken = fromstring(tostring(iq.xml))  # noqa: S314 -- the client's own
    broken[0].clear()
    prosody.deliver(serialize(broken).decode())
    assert (await peter.rejected.next()).reason is Reason.MALFORMED_OMEMO
    assert await ask(rosa, jid(peter), "twice") == "twice"
    assert [len(each) for each in (heard, answers)] == [2, 2]


async def test_only_one_device_is_asked(device: NewDevice) -> None:
    """The others of both accounts miss nothing: messages open there as before."""
    rosa, peter = device("rosa"), device("peter")
    other, tablet = device(rosa), device(peter)
    for each in (rosa, peter, other, tablet):
        await each.arrive()
    for each in (peter, tablet):
        echoing(each)
    for _ in range(3):
        assert await ask(rosa, jid(peter), "phone") == "phone"
    assert await ask(rosa, jid(tablet), "tablet") == "tablet"
    assert await ask(tablet, jid(peter), "ours") == "ours"
    await rosa.chat.send(peter.jid, "a message")
    assert [(await each.hear()).body for each in (peter, tablet, other)] == ["a message"] * 3
    assert [each.rejected.all for each in (rosa, peter, other, tablet)] == [[]] * 4


async def test_restarts_in_between(pair: tuple[Party, Party]) -> None:
    """The ratchets go on where they stood; the new resource is a stranger at first."""
    rosa, peter = pair
    echoing(peter)
    assert await ask(rosa, jid(peter), "one") == "one"
    before = jid(peter)
    await peter.restart()
    echoing(peter)
    assert await outside(rosa, before) == "service-unavailable"
    assert await ask(rosa, jid(peter), "two") == "two"
    await rosa.restart()
    assert await ask(rosa, jid(peter), "three") == "three"
    assert peter.rejected.all == []


async def test_a_question_waits_for_a_stream_that_is_resumed(party: NewParty, wire: Wire) -> None:
    """XEP-0198: it comes when the session goes on, and its answer is counted as any stanza."""
    rosa, peter = party("rosa"), party("peter", address=wire.address, plugins=MANAGED)
    await rosa.arrive()
    await arrive_managed(peter)
    heard = echoing(peter)
    assert await ask(rosa, jid(peter), "before") == "before"
    await lose(peter, wire)
    waiting = asyncio.ensure_future(ask(rosa, jid(peter), "meanwhile"))
    await rosa.ping()
    await resume(peter, wire)
    assert await waiting == "meanwhile"
    await lose(peter, wire)
    await resume(peter, wire)
    assert await ask(rosa, jid(peter), "after") == "after"
    assert [question.element.text for question in heard] == ["before", "meanwhile", "after"]
    assert await fence(rosa, peter) == []


async def test_a_text_is_nowhere(
    pair: tuple[Party, Party],
    witness: Witness,
    prosody: Prosody,
) -> None:
    """F4, F10: of questions, answers, errors and faults; no log, no repr, no exception, no file."""
    rosa, peter = pair
    made: list[Any] = echoing(peter)
    asked = stanzas(peter.client)
    assert await ask(rosa, jid(peter), text(1)) == text(1)
    made.append(await refused(rosa, jid(peter), "refuse " + text(2)))
    assert made[-1].refusal.text == "refuse " + text(2)
    made.append(await refused(rosa, jid(peter), "fail " + text(3)))
    prosody.deliver(serialize(asked[0].xml).decode())
    made.append(await peter.rejected.next())
    peter.chat.off_iq(NAME)
    made.append(await refused(rosa, jid(peter), text(4)))
    with pytest.raises(NoEligibleDevices) as caught:
        await ask(rosa, "nobody@example.org/x", text(5))
    made.append(caught.value)
    for somebody in (rosa, peter):
        await somebody.leave()
        assert residue(somebody.folder, SENTINEL, "urn:example:tea") == []
    gc.collect()
    assert [each for each in map(printed, made) if SENTINEL in each] == []
    assert len(witness.texts) > 50
    assert [each for each in witness.texts if SENTINEL in each] == []
