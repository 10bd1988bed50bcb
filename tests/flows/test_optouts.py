"""A peer that opts out of OMEMO: blocked before anything is encrypted, until that is confirmed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest

from eph_e2ee import LocalProtocolError, OptedOut
from eph_e2ee.errors import Cause, NoEligibleDevices, NotSent, VaultDamaged, VaultUnavailable
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.optouts import write
from eph_e2ee.protocol import marks, optout
from tests.flows.test_incoming import body, sealed
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eph_e2ee.events import OptOut
    from tests.flows.conftest import Party, Town

SENTINEL = "sentinel: for reasons of compliance"
OPT_OUT = fromstring(  # noqa: S314 -- the example of XEP-0384 section 5.7
    f"<opt-out xmlns='urn:xmpp:omemo:2'><reason>\n  {SENTINEL}\n</reason></opt-out>"
)
NUMBERS = count(100)


def opt_outs(party: Party) -> list[OptOut]:
    return party.events["opt_out"]


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    """Somebody who knows Rosa, and what she says from now on."""
    made = await town.party("peter")
    await rosa.chat.send(made.jid, "good morning")
    await town.deliver()
    await made.chat.send(rosa.jid, "good day")
    await town.deliver()
    made.events["message"].clear()
    return made


async def say(rosa: Party, peter: Party, town: Town, *content: Element) -> None:
    """Have a client of another make say something, in an envelope."""
    peter.client.receive(await sealed(rosa, peter, *content, number=next(NUMBERS)))
    await peter.idle()
    await town.deliver()


async def refuses(peter: Party, rosa: Party) -> bool:
    try:
        await peter.chat.send(rosa.jid, "text")
    except OptedOut:
        return True
    return False


async def test_nothing_is_sent_before_it_is_confirmed(
    rosa: Party, peter: Party, town: Town
) -> None:
    """XEP-0384 section 5.7; F39: nothing ever goes in plain text instead."""
    received = (await peter.chat.history(rosa.jid))[-1]
    await say(rosa, peter, town, OPT_OUT)
    (told,) = opt_outs(peter)
    assert (told.conversation, told.device, told.reason) == (rosa.jid, rosa.device, SENTINEL)
    assert SENTINEL not in repr(told)
    assert await peter.chat.opted_out(rosa.jid)
    encrypted: list[Any] = []
    peter.chat._account.omemo.seal = encrypted.append  # type: ignore[method-assign, assignment]
    with pytest.raises(OptedOut):
        await peter.chat.send(rosa.jid, "text")
    with pytest.raises(OptedOut):
        await received.reply("text")
    with pytest.raises(OptedOut):
        await peter.chat.set_timer(rosa.jid, timedelta(hours=1))
    with pytest.raises(OptedOut):
        await peter.chat.opt_out(rosa.jid)
    with pytest.raises(OptedOut):
        await peter.chat.iq(f"{rosa.jid}/rosa", Element("{urn:example:query}query"))
    assert encrypted == []
    assert peter.client.sent == []
    assert issubclass(OptedOut, NotSent)
    assert [each.body for each in await peter.chat.history(rosa.jid)] == [
        "good day",
        "good morning",
    ]
    assert await peter.chat.timer(rosa.jid) is None


SAYING: dict[str, Callable[[Party, Party], Awaitable[object]]] = {
    "a text": lambda peter, rosa: peter.chat.send(rosa.jid, "text"),
    "a timer": lambda peter, rosa: peter.chat.set_timer(rosa.jid, timedelta(hours=1)),
    "a receipt": lambda peter, rosa: peter.chat._outgoing.signal(
        BareJid(rosa.jid), marks.write_received([MessageId("7")])
    ),
    "an opt-out": lambda peter, rosa: peter.chat.opt_out(rosa.jid),
    "a question": lambda peter, rosa: peter.chat.iq(
        f"{rosa.jid}/rosa", Element("{urn:example:query}query")
    ),
}


@pytest.mark.parametrize("name", SAYING)
async def test_one_that_comes_while_lists_are_asked_for_counts(
    name: str, rosa: Party, peter: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed after the first look at it, and before anything is encrypted."""
    devices = peter.chat._account.devices
    prepare = devices.prepare

    async def meanwhile(*accounts: Any, **options: Any) -> None:
        await say(rosa, peter, town, OPT_OUT)
        await prepare(*accounts, **options)

    monkeypatch.setattr(devices, "prepare", meanwhile)
    encrypted: list[Any] = []
    monkeypatch.setattr(peter.chat._account.omemo, "seal", encrypted.append)
    with pytest.raises(OptedOut):
        await SAYING[name](peter, rosa)
    assert len(opt_outs(peter)) == 1
    assert encrypted == []


async def test_once_confirmed_messages_are_encrypted_as_before(
    rosa: Party, peter: Party, town: Town
) -> None:
    await say(rosa, peter, town, OPT_OUT)
    await peter.chat.confirm_opt_out(rosa.jid)
    assert not await peter.chat.opted_out(rosa.jid)
    await peter.chat.send(rosa.jid, "text")
    assert all(stanza.xml.find("{jabber:client}body") is None for stanza in peter.client.sent)
    await town.deliver()
    assert rosa.bodies[-1] == "text"
    await say(rosa, peter, town, OPT_OUT)  # once more
    assert len(opt_outs(peter)) == 2
    assert await refuses(peter, rosa)


async def test_omemo_does_not_answer_by_itself_either(
    rosa: Party, peter: Party, town: Town
) -> None:
    """Nor where nobody can tell whether it may."""
    await say(rosa, peter, town, OPT_OUT)
    omemo = peter.chat._account.omemo

    async def answers() -> int:
        omemo.answer(rosa.jid)
        await asyncio.gather(*omemo._upkeep)
        return len(peter.client.sent)

    assert await answers() == 0
    await peter.vault.transact(lambda vault: vault.put_value(f"opt-out:{rosa.jid}", "damaged"))
    peter.chat._incoming._letters._opt_outs.forget(BareJid(rosa.jid))
    assert await answers() == 0
    await peter.chat.confirm_opt_out(rosa.jid)
    assert await answers() == 1


async def test_it_outlives_a_restart(rosa: Party, peter: Party, town: Town) -> None:
    await say(rosa, peter, town, OPT_OUT)
    again = await town.again(peter)
    assert await refuses(again, rosa)
    await again.chat.confirm_opt_out(rosa.jid)
    once_more = await town.again(again)
    assert not await refuses(once_more, rosa)
    assert opt_outs(once_more) == []


async def test_a_peer_that_writes_again_has_reverted_it(
    rosa: Party, peter: Party, town: Town
) -> None:
    """XEP-0384 section 5.7: "At any point any party MAY revert their decision"."""
    await say(rosa, peter, town, OPT_OUT)
    rosa.passes(1)
    peter.passes(1)
    await rosa.chat.send(peter.jid, "encrypted after all")
    await town.deliver()
    assert peter.bodies == ["encrypted after all"]
    assert not await refuses(peter, rosa)


async def test_marks_and_empty_envelopes_revert_nothing(
    rosa: Party, peter: Party, town: Town
) -> None:
    await say(rosa, peter, town, OPT_OUT)
    rosa.passes(1)
    peter.passes(1)
    await say(rosa, peter, town, Element("{urn:xmpp:receipts}received", {"id": "7"}))
    await say(rosa, peter, town)
    assert await refuses(peter, rosa)


async def test_what_was_written_before_reverts_nothing(
    rosa: Party, peter: Party, town: Town
) -> None:
    """F26: messages overtake each other, and archives give old ones late."""
    early = await sealed(rosa, peter, body("before"), number=1)
    earlier = await sealed(rosa, peter, OPT_OUT, number=2)
    rosa.passes(10)
    peter.passes(10)
    await say(rosa, peter, town, OPT_OUT)
    peter.client.receive(early)
    await peter.idle()
    assert peter.bodies == ["before"]
    assert await refuses(peter, rosa)
    await peter.chat.confirm_opt_out(rosa.jid)
    peter.client.receive(earlier)
    await peter.idle()
    assert len(opt_outs(peter)) == 1
    assert not await refuses(peter, rosa)


async def test_receipts_are_held_back_as_well(town: Town) -> None:
    rosa = await town.party("rosa", receipts=True)
    peter = await town.party("peter", receipts=True)
    await rosa.chat.send(peter.jid, "good morning")
    await town.deliver()
    await say(rosa, peter, town, OPT_OUT)
    await peter.events["message"][0].mark_read()
    await peter.idle()
    assert [stanza for stanza in peter.client.sent if stanza["to"].bare == rosa.jid] == []


async def test_only_what_stands_in_an_envelope_counts(
    rosa: Party, peter: Party, town: Town
) -> None:
    """A server could block every conversation otherwise."""
    stanza = await sealed(rosa, peter, body("text"))
    stanza.insert(0, OPT_OUT)
    peter.client.receive(stanza)
    peter.client.receive(
        "<message xmlns='jabber:client' from='rosa@example.org/rosa' to='peter@example.org'>"
        f"{tostring(OPT_OUT).decode()}</message>"
    )
    nested = Element("{urn:xmpp:forward:0}forwarded")
    nested.append(OPT_OUT)
    await say(rosa, peter, town, nested)
    assert opt_outs(peter) == []
    assert not await refuses(peter, rosa)


async def test_a_text_beside_it_is_delivered(rosa: Party, peter: Party, town: Town) -> None:
    await say(rosa, peter, town, body("and I mean it"), OPT_OUT)
    assert peter.bodies == ["and I mean it"]
    assert peter.events["message"][0].elements == ()
    assert await refuses(peter, rosa)


async def test_our_own_device_blocks_nothing(peter: Party, rosa: Party, town: Town) -> None:
    phone = await town.party("peter")
    await phone.chat.opt_out(rosa.jid, SENTINEL)
    await town.deliver()
    assert opt_outs(peter) == []
    assert not await refuses(peter, rosa)
    (told,) = opt_outs(rosa)
    assert (told.conversation, told.reason) == (peter.jid, SENTINEL)


async def test_a_distrusted_device_blocks_nothing(rosa: Party, peter: Party, town: Town) -> None:
    """It may be somebody's who would have people write in plain text."""
    await peter.chat.trust(rosa.jid, rosa.device, "distrusted")
    await say(rosa, peter, town, OPT_OUT)
    assert opt_outs(peter) == []
    assert not await peter.chat.opted_out(rosa.jid)


async def test_a_distrusted_device_takes_back_nothing(
    rosa: Party, peter: Party, town: Town
) -> None:
    phone = await town.party("rosa")
    assert await phone.chat.devices(peter.jid)
    await peter.chat.trust(rosa.jid, rosa.device, "trusted")
    assert await peter.chat.devices(rosa.jid)
    await peter.chat.trust(rosa.jid, phone.device, "distrusted")
    await say(rosa, peter, town, OPT_OUT)
    for each in (peter, phone):
        each.passes(1)
    await say(phone, peter, town, body("never mind"))
    assert peter.bodies == ["never mind"]
    assert await peter.chat.opted_out(rosa.jid)


async def test_ours_is_taken_back_by_what_we_send(peter: Party, rosa: Party, town: Town) -> None:
    await peter.chat.opt_out(rosa.jid)
    await town.deliver()
    (told,) = opt_outs(rosa)
    assert told.reason is None
    assert await refuses(rosa, peter)
    peter.passes(1)
    rosa.passes(1)
    await peter.chat.send(rosa.jid, "text")
    await town.deliver()
    assert not await refuses(rosa, peter)


async def test_an_opt_out_that_nobody_would_understand(town: Town, peter: Party) -> None:
    with pytest.raises(NoEligibleDevices):
        await peter.chat.opt_out("nobody@example.org")
    client = town.world.client("paul")
    plugin = client.plug(OurPlugin)
    await client.bind()
    town.world.items.pop(("paul@example.org", "urn:xmpp:omemo:2:devices"))
    assert plugin.own_device
    with pytest.raises(NoEligibleDevices, match="reads no envelopes") as caught:
        await peter.chat.opt_out("paul@example.org")
    assert caught.value.causes == {Cause.LEGACY}


async def test_it_is_no_element_of_an_application(rosa: Party, peter: Party) -> None:
    with pytest.raises(LocalProtocolError):
        await peter.chat.send(rosa.jid, "text", elements=[optout.write(None)])
    with pytest.raises(LocalProtocolError):
        await peter.chat.opt_out(rosa.jid, "x" * (optout.MAX_REASON + 1))


async def test_a_commit_that_fails_blocks_nothing(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not taken; it comes again from the archive."""
    stanza = await sealed(rosa, peter, OPT_OUT)
    transact = peter.vault.transact
    failing = True

    def refuse(work: Any) -> Any:
        def refused(vault: Any) -> Any:
            done = work(vault)
            if failing and type(done).__name__ == "_Filed":
                raise VaultUnavailable("the disk is full")
            return done

        return transact(refused)

    monkeypatch.setattr(peter.vault, "transact", refuse)
    peter.client.receive(stanza)
    await peter.idle()
    assert opt_outs(peter) == []
    assert not await peter.chat.opted_out(rosa.jid)
    failing = False
    peter.client.receive(stanza)
    await peter.idle()
    assert len(opt_outs(peter)) == 1
    assert await peter.chat.opted_out(rosa.jid)


async def test_what_was_read_before_a_commit_is_not_kept(
    rosa: Party, peter: Party, town: Town
) -> None:
    """Where something else has had it forgotten meanwhile."""
    await say(rosa, peter, town, OPT_OUT)
    known = peter.chat._incoming._letters._opt_outs
    jid, state = BareJid(rosa.jid), await known._state(BareJid(rosa.jid))
    await peter.chat.confirm_opt_out(rosa.jid)
    known.forget(jid)
    asking = asyncio.create_task(known.blocked(jid))
    await asyncio.sleep(0)
    written = peter.vault.transact(lambda vault: write(vault, jid, state.to_json()))
    known.forget(jid)
    assert await asking
    await written
    assert await known.blocked(jid)


async def test_a_damaged_state_lets_nothing_pass(rosa: Party, peter: Party, town: Town) -> None:
    await peter.vault.transact(lambda vault: vault.put_value(f"opt-out:{rosa.jid}", "damaged"))
    again = await town.again(peter)
    for call in (again.chat.send(rosa.jid, "text"), again.chat.opted_out(rosa.jid)):
        with pytest.raises(VaultDamaged):
            await call
    await say(rosa, again, town, body("text"))
    assert again.bodies == ["text"]
    with pytest.raises(VaultDamaged):
        await again.chat.send(rosa.jid, "text")
    await again.chat.confirm_opt_out(rosa.jid)
    assert not await refuses(again, rosa)
