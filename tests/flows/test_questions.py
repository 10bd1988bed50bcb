"""Asking and being asked: what is answered, what is not, and that it is kept nowhere."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest

from eph_e2ee import (
    Erasure,
    LocalProtocolError,
    NoAnswer,
    NotConnected,
    NotSent,
    OptedOut,
    Refusal,
    VaultError,
)
from eph_e2ee.vault.vault import Vault
from tests.flows.asking import (
    ENCRYPTED,
    ERROR,
    NAME,
    Switchboard,
    answered,
    condition,
    jid,
    query,
    refused,
)

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town

SECRET = "a text that is nobody else's business"


@pytest.fixture
def world() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


# -- what goes well --------------------------------------------------------------------------------


async def test_a_question_is_answered(rosa: Party, peter: Party, world: Switchboard) -> None:
    """XEP-0420 section 6.2: `<encrypted/>` is all that an IQ shows."""
    heard = answered(peter, query("at five"))
    answer = await rosa.chat.iq(jid(peter), query("when?"))
    assert answer is not None
    assert (answer.tag, answer.text) == (NAME, "at five")
    (question,) = heard
    assert (question.jid, question.bare, question.device) == (jid(rosa), rosa.jid, rosa.device)
    assert (question.kind, question.element.text) == ("get", "when?")
    assert [[child.tag for child in iq] for iq in world.carried] == [[ENCRYPTED], [ENCRYPTED]]
    assert [iq.get("type") for iq in world.carried] == ["get", "result"]


async def test_an_order_without_more_to_say(rosa: Party, peter: Party, world: Switchboard) -> None:
    heard = answered(peter, None)
    assert await rosa.chat.iq(jid(peter), query("boil it"), kind="set", timeout=5) is None
    assert [(question.kind, question.element.text) for question in heard] == [("set", "boil it")]
    assert [iq.get("type") for iq in world.carried] == ["set", "result"]


async def test_an_error_stands_inside(rosa: Party, peter: Party, world: Switchboard) -> None:
    """Outside is one that says nothing, and is always the same."""
    answered(peter, Refusal("item-not-found", text=SECRET))
    error = await refused(rosa, peter)
    assert error.refusal == Refusal("item-not-found", "cancel", SECRET)
    assert error.authenticated
    assert SECRET not in f"{error} {error!r} {vars(error)!r}"
    answer = world.carried[-1]
    assert [child.tag for child in answer] == [ENCRYPTED, ERROR]
    assert (answer.get("type"), condition(answer)) == ("error", ["undefined-condition"])


async def test_the_kind_of_an_error_can_be_told(rosa: Party, peter: Party) -> None:
    answered(peter, Refusal("policy-violation", "wait"))
    assert (await refused(rosa, peter)).refusal == Refusal("policy-violation", "wait")


async def test_what_nobody_answers(rosa: Party, peter: Party) -> None:
    """RFC 6120 section 8.4, inside of the envelope."""
    error = await refused(rosa, peter)
    assert (error.refusal.condition, error.authenticated) == ("service-unavailable", True)
    answered(peter)
    peter.chat.off_iq(NAME)
    peter.chat.off_iq(NAME)
    assert (await refused(rosa, peter)).refusal.condition == "service-unavailable"
    assert peter.events["rejected"] == []


async def test_many_at_once_and_both_ways(rosa: Party, peter: Party) -> None:
    async def repeated(question: Any) -> Element:
        return query(question.element.text + "!")

    answered(peter, repeated)
    answered(rosa, repeated)
    texts = [f"question {number}" for number in range(20)]
    asking = [rosa.chat.iq(jid(peter), query(text)) for text in texts]
    asking += [peter.chat.iq(jid(rosa), query(text)) for text in texts]
    answers = await asyncio.gather(*asking)
    assert [answer is not None and answer.text for answer in answers] == [
        text + "!" for text in texts
    ] * 2


async def test_our_own_other_device_can_be_asked(peter: Party, town: Town) -> None:
    other = await town.party("peter")
    answered(other, query("at six"))
    answer = await peter.chat.iq(jid(other), query())
    assert answer is not None
    assert answer.text == "at six"


async def test_an_answer_may_ask_back(rosa: Party, peter: Party) -> None:
    async def back(question: Any) -> Element | None:
        return await peter.chat.iq(question.jid, query("green or black?"))

    answered(peter, back)
    answered(rosa, query("green"))
    answer = await rosa.chat.iq(jid(peter), query("tea?"))
    assert answer is not None
    assert answer.text == "green"


async def test_whoever_has_opted_out_is_answered_but_not_asked(
    rosa: Party, peter: Party, town: Town, world: Switchboard
) -> None:
    """XEP-0384 section 5.7: it has asked in OMEMO itself, and hears nothing else."""
    answered(peter, query("at five"))
    await rosa.chat.opt_out(peter.jid)
    await town.deliver()
    answer = await rosa.chat.iq(jid(peter), query("when?"))
    assert answer is not None
    assert answer.text == "at five"
    with pytest.raises(OptedOut):
        await peter.chat.iq(jid(rosa), query())
    assert [iq.get("type") for iq in world.carried] == ["get", "result"]


async def test_it_is_no_message(rosa: Party, peter: Party) -> None:
    """No archive, no timer, no event; nothing of it is in the vault."""
    answered(peter, query(SECRET))
    await rosa.chat.iq(jid(peter), query(SECRET))
    for party, other in ((rosa, peter), (peter, rosa)):
        assert await party.chat.history(other.jid) == []
        assert await party.chat.timer(other.jid) is None
        assert {name for name, heard in party.events.items() if heard} == {"catch_up"}
        assert not [
            path
            for path in party.folder.rglob("*")
            if path.is_file() and SECRET.encode() in path.read_bytes()
        ]


# -- what goes wrong here --------------------------------------------------------------------------


PHONE = "peter@example.org/peter-1"
UNASKABLE: list[tuple[str | None, Element, dict[str, Any]]] = [
    ("peter@example.org", query(), {}),
    ("", query(), {}),
    ("@/@", query(), {}),
    (None, query(), {}),
    (PHONE, Element("tea"), {}),
    (PHONE, Element("{jabber:client}body"), {}),
    (PHONE, Element("{urn:xmpp:ephemeral:0}ephemeral", {"timer": "60"}), {}),
    (PHONE, Element("{urn:xmpp:hints}store"), {}),
    (PHONE, query("\x00"), {}),
    (PHONE, query(), {"kind": "result"}),
    (PHONE, query(), {"timeout": 0}),
]
"""What a caller may get wrong; None is our own JID."""


async def test_what_cannot_be_asked(rosa: Party, peter: Party, world: Switchboard) -> None:
    """RFC 6120 section 8: a server answers for a bare JID, and could not open the question."""
    for address, element, more in UNASKABLE:
        with pytest.raises(LocalProtocolError):
            await rosa.chat.iq(jid(rosa) if address is None else address, element, **more)
    assert world.carried == []
    await refused(rosa, peter)


async def test_without_a_session_nothing_is_asked(
    rosa: Party, peter: Party, world: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it ends while the ratchet is committed."""
    iqs = rosa.chat._account.iqs
    seal = iqs.seal

    async def cut(*arguments: Any) -> Any:
        sealed = await seal(*arguments)
        rosa.offline()
        return sealed

    monkeypatch.setattr(iqs, "seal", cut)
    for _ in range(2):
        with pytest.raises(NotConnected):
            await rosa.chat.iq(jid(peter), query())
    assert world.carried == []


MISTAKES: list[Any] = [
    ValueError(SECRET),
    SECRET,
    Element("tea"),
    Element("{jabber:client}body"),
    Refusal(SECRET),
    Refusal("gone", SECRET),
]


async def test_whatever_goes_wrong_in_a_handler_stays_there(
    rosa: Party, peter: Party, caplog: pytest.LogCaptureFixture
) -> None:
    """F10, F42: not a word of it leaves, or is logged."""
    for mistake in MISTAKES:
        answered(peter, mistake)
        error = await refused(rosa, peter)
        assert error.refusal == Refusal("internal-server-error", "cancel")
        assert error.authenticated
        peter.chat.off_iq(NAME)
    assert caplog.text.count("a handler of questions") == len(MISTAKES)
    assert SECRET not in caplog.text


async def test_no_answer_comes(rosa: Party, peter: Party, world: Switchboard) -> None:
    """A late one is nobody's, and does no harm."""
    answered(peter, query("late"))
    await rosa.chat.iq(jid(peter), query())
    world.holding = {"result"}
    asking = asyncio.ensure_future(rosa.chat.iq(jid(peter), query()))
    for _ in range(4):
        await world.next()
    assert not asking.done()
    rosa.passes(31)
    with pytest.raises(NoAnswer):
        await asking
    assert rosa.chat._questions._devices == {}
    world.holding = set()
    world.hand_over(world.held[0])
    answer = await rosa.chat.iq(jid(peter), query())
    assert answer is not None
    assert rosa.events["rejected"] == []


async def test_canceling_leaves_nothing_open(rosa: Party, peter: Party, world: Switchboard) -> None:
    """The question may have been heard; the next one is answered."""
    answered(peter)
    world.rule = lambda _: []
    asking = asyncio.ensure_future(rosa.chat.iq(jid(peter), query()))
    await world.next()
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    assert rosa.chat._account.iqs._open == {}
    world.rule = lambda iq: [iq]
    assert await rosa.chat.iq(jid(peter), query()) is None


async def test_only_so_many_questions_are_open(
    rosa: Party, peter: Party, world: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eph_e2ee.xmpp.iqs.MAXIMUM_OPEN", 1)
    world.rule = lambda _: []
    asking = asyncio.ensure_future(rosa.chat.iq(jid(peter), query()))
    await world.next()
    with pytest.raises(NotSent):
        await rosa.chat.iq(jid(peter), query())
    asking.cancel()


async def test_the_end_of_a_chat_ends_questions(
    rosa: Party, peter: Party, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that we ask, and the handlers of those that we are asked."""
    caplog.set_level(logging.WARNING)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def never(_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    answered(peter, never)
    asking = asyncio.ensure_future(rosa.chat.iq(jid(peter), query()))
    await begun.wait()
    await peter.chat.close()
    assert ended.is_set()
    await rosa.chat.close()
    with pytest.raises(NoAnswer):
        await asking
    with pytest.raises((NotSent, VaultError)):
        await rosa.chat.iq(jid(peter), query())
    assert caplog.records == []


async def test_a_handler_may_end_the_chat(rosa: Party, peter: Party) -> None:
    """That ends the handler, and the chat wholly: its vault can be opened again."""

    async def last(_: object) -> None:
        await peter.chat.close()

    answered(peter, last)
    asking = asyncio.ensure_future(rosa.chat.iq(jid(peter), query()))
    while peter.chat._closing is None:
        await rosa.vault.transact(lambda _: None)
    assert await peter.chat.close() is Erasure.DESTROYED
    Vault.open(peter.folder, clock=peter.clock).close_sync()
    asking.cancel()


async def test_an_end_goes_on_though_nobody_waits_for_it(peter: Party) -> None:
    waiting = asyncio.ensure_future(peter.chat.close())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    closing = peter.chat._closing
    assert closing is not None
    assert not closing.done()
    await closing
    Vault.open(peter.folder, clock=peter.clock).close_sync()
