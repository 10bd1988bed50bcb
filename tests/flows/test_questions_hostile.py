"""Servers and peers that do with questions and answers what they must not (F42)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, tostring

import pytest

from eph_e2ee import Reason, RemoteProtocolError
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.protocol import marks
from eph_e2ee.protocol.iqheader import IqHeader
from tests.flows.asking import (
    ENCRYPTED,
    ERROR,
    NAME,
    Switchboard,
    altered,
    answered,
    changed,
    condition,
    disbelieved,
    echo,
    heard,
    idle,
    jid,
    of_another_make,
    query,
    question,
    said,
    sealed_iq,
    unauthenticated,
    written,
)
from tests.flows.test_incoming import body, rejections, sealed, timer

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town


@pytest.fixture
def world() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


# -- answers ---------------------------------------------------------------------------------------


async def test_an_answer_in_clear_is_not_believed(
    rosa: Party, peter: Party, world: Switchboard
) -> None:
    """F39: neither a payload nor an empty result; an error is one, but nobody vouches for it."""
    answered(peter, query("true"))

    def in_clear(iq: Element) -> None:
        iq[:] = [query("forged")]

    changed(world, "result", in_clear)
    assert await disbelieved(rosa, peter) is Reason.CLEAR_ANSWER
    changed(world, "result", lambda iq: iq.remove(iq[0]))
    assert await disbelieved(rosa, peter) is Reason.CLEAR_ANSWER

    def failed(iq: Element) -> None:
        iq.set("type", "error")
        iq[:] = [Element(ERROR, {"type": "cancel"})]
        SubElement(iq[0], "{urn:ietf:params:xml:ns:xmpp-stanzas}remote-server-not-found")

    changed(world, "result", failed)
    assert await unauthenticated(rosa, peter) == "remote-server-not-found"


async def test_only_who_was_asked_is_heard(
    rosa: Party, peter: Party, town: Town, world: Switchboard
) -> None:
    """Neither another resource, nor another account, nor another id; and what no JID is."""
    other = await town.party("peter")
    answered(peter, echo)
    world.holding = {"result"}
    asking = asyncio.ensure_future(said(rosa, peter, "tea"))
    await world.next()
    await world.next()
    (answer,) = world.held
    strangers = ("@", "peter@example.org", "example.org", "anna@example.org/x", jid(other))
    for sender in strangers:
        world.hand_over(altered(answer, sender=sender))
    world.hand_over(altered(answer, iq_id="another"))
    await idle(rosa)
    assert not asking.done()
    world.hand_over(answer)
    assert await asking == "tea"


async def test_answers_cannot_be_swapped(rosa: Party, peter: Party, world: Switchboard) -> None:
    """The id of an IQ stands outside; it is repeated inside."""
    answered(peter, echo)
    assert await _swapped(rosa, peter, world) == [Reason.WRONG_STANZA] * 2
    assert rejections(rosa) == [Reason.WRONG_STANZA] * 2


async def test_answers_of_other_makes_can_be_swapped(
    rosa: Party, town: Town, world: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XEP-0420 has nothing against it: what is promised is that the peer has said both."""
    peter = await of_another_make(town, "peter", monkeypatch)
    answered(peter, echo)
    assert await _swapped(rosa, peter, world) == ["two", "one"]


async def _swapped(rosa: Party, peter: Party, world: Switchboard) -> list[Any]:
    world.holding = {"result"}
    asking = [asyncio.ensure_future(said(rosa, peter, text)) for text in ("one", "two")]
    for _ in range(4):
        await world.next()
    one, two = world.held
    world.hand_over(altered(one, iq_id=two.get("id", "")))
    world.hand_over(altered(two, iq_id=one.get("id", "")))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    return [each.reason if isinstance(each, RemoteProtocolError) else each for each in answers]


async def test_an_answer_comes_from_a_device_that_was_asked(
    rosa: Party, peter: Party, town: Town, world: Switchboard
) -> None:
    """One that a server has put into the list of the account, say."""
    answered(peter)
    await rosa.chat.iq(jid(peter), query())
    other = await town.party("peter")
    world.holding = {"get"}
    asking = asyncio.ensure_future(disbelieved(rosa, peter))
    await world.next()
    await world.next()
    asked = await world.next()
    await other.chat._account.audience(BareJid(rosa.jid))
    header = IqHeader("result", asked.get("id", ""), jid(peter), jid(rosa))
    iq = await sealed_iq(other, header, query("forged"))
    world.hand_over(written(header, iq.encrypted))
    assert await asking is Reason.NOT_ASKED


def as_result(iq: Element) -> None:
    """Make a result of an error; slixmpp takes whatever has an `<error/>` for one."""
    iq.set("type", "result")
    iq.remove(iq[1])


async def test_a_result_is_no_error_and_an_error_no_result(
    rosa: Party, peter: Party, world: Switchboard
) -> None:
    answered(peter, query("fine"))
    changed(world, "result", lambda iq: iq.set("type", "error"))
    assert await disbelieved(rosa, peter) is Reason.WRONG_STANZA
    peter.chat.off_iq(NAME)
    changed(world, "error", as_result)
    assert await disbelieved(rosa, peter) is Reason.WRONG_STANZA


async def test_of_other_makes_an_error_is_no_payload(
    rosa: Party, town: Town, world: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where a type alone says that something is an error, nobody vouches for it."""
    peter = await of_another_make(town, "peter", monkeypatch)
    changed(world, "error", as_result)
    assert await disbelieved(rosa, peter) is Reason.NO_PAYLOAD
    answered(peter, query("fine"))
    changed(world, "result", lambda iq: iq.set("type", "error"))
    assert await unauthenticated(rosa, peter) == "undefined-condition"


async def test_an_answer_opens_once(rosa: Party, peter: Party, world: Switchboard) -> None:
    answered(peter, query("yesterday"))
    assert await said(rosa, peter, "") == "yesterday"
    old = world.carried[-1]
    changed(world, "result", lambda iq: iq.__setitem__(slice(None), list(old)))
    assert await disbelieved(rosa, peter) is Reason.DUPLICATE


# -- questions -------------------------------------------------------------------------------------


async def test_a_get_is_no_set_and_goes_to_one_device(
    rosa: Party, peter: Party, town: Town, world: Switchboard
) -> None:
    """Also as the first question, which every device of the account can open."""
    other = await town.party("peter")
    heard = [answered(peter, echo), answered(other, echo)]
    changed(world, "get", lambda iq: iq.set("type", "set"))
    assert await unauthenticated(rosa, peter) == "feature-not-implemented"
    assert rejections(peter) == [Reason.WRONG_STANZA]

    def redirected(iq: Element) -> list[Element]:
        if iq.get("type") == "get":
            iq.set("to", jid(other))
        else:
            iq.set("from", jid(peter))
        return [iq]

    world.rule = redirected
    assert await unauthenticated(rosa, peter) == "feature-not-implemented"
    assert rejections(other) == [Reason.WRONG_STANZA]
    assert heard == [[], []]


async def test_a_question_is_dealt_with_once(rosa: Party, peter: Party, world: Switchboard) -> None:
    """Whatever the server calls it the second time; and a stream may well send it twice."""
    asked = answered(peter, echo)
    iq = await question(rosa, peter, query("once"))
    first = await heard(rosa, peter, iq, world)
    assert first is not None
    assert first.get("type") == "result"
    for again in (iq, altered(iq, iq_id="another"), altered(iq, kind="set")):
        assert await heard(rosa, peter, again, world) is None
    assert len(asked) == 1
    assert rejections(peter) == [Reason.DUPLICATE] * 3
    # One that breaks a rule is spent as well.
    iq = await question(rosa, peter, query("changed"))
    assert await heard(rosa, peter, altered(iq, kind="set"), world) is not None
    assert await heard(rosa, peter, iq, world) is None
    assert rejections(peter)[3:] == [Reason.WRONG_STANZA, Reason.DUPLICATE]
    assert len(asked) == 1


async def test_there_is_no_telling_why_a_question_did_not_open(
    rosa: Party, peter: Party, world: Switchboard
) -> None:
    """F42: all get the answer that slixmpp gives to what it does not know."""
    asked = answered(peter, echo)
    unknown = written(IqHeader("get", "q1", jid(rosa), jid(peter)), query())
    expected = await heard(rosa, peter, unknown, world)
    assert expected is not None
    assert condition(expected) == ["feature-not-implemented", "text"]
    for reason, iq in await _broken(rosa, peter):
        before = rejections(peter)
        answer = await heard(rosa, peter, iq, world)
        assert answer is not None, reason
        assert tostring(answer) == tostring(expected), reason
        assert rejections(peter)[len(before) :] == [reason]
    assert asked == []
    assert await peter.chat.timer(rosa.jid) is None


async def _broken(rosa: Party, peter: Party) -> list[tuple[Reason, Element]]:
    """Questions that are none, each for another reason."""
    return [
        (Reason.NO_PAYLOAD, await question(rosa, peter)),
        (Reason.NO_PAYLOAD, await question(rosa, peter, query(), query())),
        (Reason.NO_PAYLOAD, await question(rosa, peter, body("a message"))),
        (Reason.NO_PAYLOAD, await question(rosa, peter, query(), timer("60"))),
        (Reason.NO_PAYLOAD, await question(rosa, peter, Element(ERROR))),
        (Reason.NO_PAYLOAD, await question(rosa, peter, timer("60"))),
        (Reason.NO_PAYLOAD, await question(rosa, peter, *marks.write_received([MessageId("1")]))),
        (Reason.NO_PAYLOAD, await question(rosa, peter, Element("{eph-e2ee:agreement:0}setting"))),
        (Reason.WRONG_STANZA, await question(rosa, peter, query(), kind="set")),
        *await _wrong_envelopes(rosa, peter),
        *await _wrong_elements(rosa, peter),
    ]


async def _wrong_envelopes(rosa: Party, peter: Party) -> list[tuple[Reason, Element]]:
    envelopes = rosa.chat._account.iqs._envelopes
    build, to = envelopes.build, BareJid(peter.jid)

    async def made(envelope: bytes) -> Element:
        envelopes.build = lambda *_, **__: envelope  # type: ignore[method-assign]
        try:
            return await question(rosa, peter)
        finally:
            envelopes.build = build  # type: ignore[method-assign]

    header = IqHeader("get", "q1", jid(rosa), jid(peter))
    late = build([query()], to=to, header=header).replace(b"stamp='2025", b"stamp='2020")
    return [
        (Reason.NOT_XML, await made(b"no envelope")),
        (Reason.NOT_AN_ENVELOPE, await made(b"<other/>")),
        (
            Reason.WRONG_RECIPIENT,
            await made(build([query()], to=BareJid("anna@example.org"), header=header)),
        ),
        (Reason.MISSING_AFFIX, await made(build([query()], to=to))),
        (Reason.WRONG_TIME, await made(late)),
    ]


async def _wrong_elements(rosa: Party, peter: Party) -> list[tuple[Reason, Element]]:
    tampered, empty, legacy, unkeyed = [await question(rosa, peter, query()) for _ in range(4)]
    payload = tampered[0][1]
    payload.text = "AAAA" + (payload.text or "")[4:]
    empty[0].remove(empty[0][1])
    SubElement(legacy, "{eu.siacs.conversations.axolotl}encrypted")
    unkeyed[0][0].clear()
    nothing = written(IqHeader("get", "q1", jid(rosa), jid(peter)), Element(ENCRYPTED))
    return [
        (Reason.UNDECRYPTABLE, tampered),
        (Reason.NOT_AN_ENVELOPE, empty),
        (Reason.MALFORMED_OMEMO, legacy),
        (Reason.NOT_FOR_THIS_DEVICE, unkeyed),
        (Reason.MALFORMED_OMEMO, nothing),
    ]


async def test_a_question_without_a_name_or_a_device(
    rosa: Party, peter: Party, world: Switchboard
) -> None:
    """It could not be answered where it belongs; nothing is decrypted for it."""
    asked = answered(peter, echo)
    iq = await question(rosa, peter, query())
    answer = await heard(rosa, peter, altered(iq, iq_id="x" * 1025), world)
    assert answer is not None
    assert condition(answer) == ["feature-not-implemented", "text"]
    for changes in ({"sender": rosa.jid}, {"sender": "@"}):
        assert await heard(rosa, peter, altered(iq, **changes), world) is None
    del iq.attrib["from"]
    assert await heard(rosa, peter, iq, world) is None
    assert (asked, rejections(peter)) == ([], [])


async def test_a_message_is_no_question_and_a_question_no_message(
    rosa: Party, peter: Party, world: Switchboard
) -> None:
    """The server puts what is encrypted into another stanza; neither is archived, or answered."""
    asked = answered(peter, echo)
    await rosa.chat.capabilities(peter.jid)
    message = await sealed(rosa, peter, query("a message"))
    carried = written(IqHeader("set", "q1", jid(rosa), jid(peter)), message[0])
    answer = await heard(rosa, peter, carried, world)
    assert answer is not None
    assert condition(answer) == ["feature-not-implemented", "text"]
    iq = await question(rosa, peter, query("a question"))
    message[0][:] = iq[0]
    peter.client.receive(message)
    await peter.idle()
    assert rejections(peter) == [Reason.MISSING_AFFIX, Reason.WRONG_STANZA]
    assert asked == []
    assert peter.events["message"] == []
    assert await peter.chat.history(rosa.jid) == []
