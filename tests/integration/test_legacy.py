"""Legacy OMEMO beside omemo:2: unpatched slixmpp-omemo 2.2 on the other side."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from slixmpp import JID

from eph_e2ee import Cause, Legacy, NoEligibleDevices
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.integration.rooms import ROOM_PLUGINS, enter, plugin_of, set_affiliation
from tests.support.chats import bodies, element
from tests.support.interference import Interference
from tests.support.unpatched import unpatched

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration

EPHEMERAL = "{urn:xmpp:ephemeral:0}ephemeral"
PUBSUB_EVENT = "{http://jabber.org/protocol/pubsub#event}event"
WEEK, DAY = timedelta(days=7), timedelta(days=1)


@pytest.mark.parametrize(("legacy", "timers"), [("deliver", ["604800"]), ("omit", [])])
async def test_a_legacy_client_gets_the_text_and_we_are_told(
    party: NewParty,
    account: Callable[[str], Account],
    prosody: Prosody,
    legacy: str,
    timers: list[str],
) -> None:
    """F40, F32: encrypted in any case; the timer stands in clear only where we said so."""
    rosa = party("rosa", timer=WEEK, legacy=legacy)
    await rosa.arrive()
    async with unpatched(account("peter"), prosody.address) as peter:
        jid = peter.client.boundjid.bare
        sent = await rosa.chat.send(jid, "for old clients, too")
        stanza, text = await peter.hear()
        assert text == "for old clients, too"
        assert [each.get("timer") for each in stanza.xml.findall(EPHEMERAL)] == timers
        assert stanza["body"] == peter.plugin.fallback_message
        assert "for old clients" not in str(stanza)
        warning = await rosa.unsupported.next()
        assert (warning.conversation, warning.legacy) == (jid, Legacy(legacy))
        assert len(warning.devices) == 1
        assert sent.timer == WEEK
        await rosa.chat.send(jid, "told but once")
        assert (await peter.hear())[1] == "told but once"
        assert len(rosa.unsupported.all) == 1


async def test_our_own_legacy_device_is_named_as_well(party: NewParty, prosody: Prosody) -> None:
    """F40: the timer stands in clear for it, whoever the message is for."""
    rosa, peter = party("rosa", timer=WEEK), party("peter")
    async with unpatched(rosa.account, prosody.address) as old:
        own, _ = await (await old.plugin.get_session_manager()).get_own_device_information()
        await rosa.arrive()
        await peter.arrive()
        await rosa.chat.send(peter.jid, "in clear, when")
        assert (await peter.hear()).timer == WEEK
        warning = await rosa.unsupported.next()
        assert warning.conversation == peter.jid
        assert warning.addresses == {(rosa.jid, own.device_id)}


async def test_who_refuses_legacy_sends_nothing(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F39: no device that reads envelopes is an error, not a reason to send less protected."""
    rosa = party("rosa", legacy="refuse")
    await rosa.arrive()
    async with unpatched(account("peter"), prosody.address) as peter:
        with pytest.raises(NoEligibleDevices, match="legacy OMEMO is refused") as caught:
            await rosa.chat.send(peter.client.boundjid.bare, "only in an envelope")
        assert caught.value.causes == {Cause.LEGACY}
        await rosa.ping()
        assert await rosa.chat.history(peter.client.boundjid.bare) == []
        assert peter.stanzas.all == []


async def test_a_timer_in_clear_binds_its_message_alone(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F31: anybody on the way may have written it: a floor, a mark, no change of the setting."""
    rosa = party("rosa")
    await rosa.arrive()
    async with unpatched(account("peter"), prosody.address) as peter:
        burn = element("<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='1'/>")
        await peter.send(rosa.jid, "burned by the server?", burn)
        heard = await rosa.hear()
        assert (heard.body, heard.timer) == ("burned by the server?", timedelta(seconds=5))
        assert heard.findings == (Finding.CLEAR_TIMER,)
        await peter.send(rosa.jid, "without")
        assert (await rosa.hear()).timer is None
        assert rosa.changes.all == []
        assert await rosa.chat.timer(peter.client.boundjid.bare) is None


async def test_a_timer_is_set_also_where_nobody_can_be_told(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    rosa = party("rosa")
    await rosa.arrive()
    async with unpatched(account("peter"), prosody.address) as peter:
        jid = peter.client.boundjid.bare
        await rosa.chat.set_timer(jid, DAY)
        assert (await rosa.changes.next()).new == DAY.total_seconds()
        assert await rosa.chat.timer(jid) == DAY
        await rosa.chat.send(jid, "first")
        stanza, _ = await peter.hear()
        assert [each.get("timer") for each in stanza.xml.findall(EPHEMERAL)] == ["86400"]


@pytest.mark.core
async def test_an_account_with_both_kinds_of_client(party: NewParty, prosody: Prosody) -> None:
    """F31, F36: each hears it once, in what it reads; ours does not believe the clear timer."""
    rosa, peter = party("rosa", timer=WEEK), party("peter")
    await rosa.arrive()
    await peter.arrive()
    async with unpatched(peter.account, prosody.address) as older:
        await rosa.chat.send(peter.jid, "both")
        assert (await older.hear())[1] == "both"
        heard = await peter.hear()
        assert (heard.body, heard.timer, heard.findings) == ("both", WEEK, ())
        await rosa.ping()
        await peter.ping()
        assert peter.rejected.all == []
        assert bodies(await peter.history(rosa)) == ["both"]
        warning = await rosa.unsupported.next()
        plugin = older.plugin
        own, _ = await (await plugin.get_session_manager()).get_own_device_information()
        assert warning.devices == {own.device_id}


async def test_a_list_that_comes_first_makes_nobody_a_legacy_client(
    party: NewParty, prosody: Prosody
) -> None:
    """F31, F40: lists come one by one; nothing less than an envelope is sent on the first."""
    rosa, peter = party("rosa", timer=WEEK), party("peter")
    prosody.befriend(rosa.account, peter.account)
    prosody.interfere(Interference(having=PUBSUB_EVENT, drop=True))
    await rosa.arrive()
    await peter.arrive()
    device = peter.chat._account.device
    manager = await rosa.chat._account.omemo.get_session_manager()
    await manager.update_device_list(OLD, peter.jid, {device: None})
    await rosa.chat.send(peter.jid, "in an envelope")
    heard = await peter.hear()
    assert (heard.body, heard.timer, heard.findings) == ("in an envelope", WEEK, ())
    assert heard.encrypted_with == MODERN
    assert rosa.unsupported.all == []
    prosody.interfere()


async def test_a_list_that_comes_first_makes_nobody_a_reader_of_envelopes(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F40: nor is a message lost on slixmpp-omemo because its omemo:2 list is there before."""
    rosa, peters = party("rosa", timer=WEEK), account("peter")
    prosody.befriend(rosa.account, peters)
    prosody.interfere(Interference(having=PUBSUB_EVENT, drop=True))
    await rosa.arrive()
    async with unpatched(peters, prosody.address) as peter:
        own, _ = await (await peter.plugin.get_session_manager()).get_own_device_information()
        manager = await rosa.chat._account.omemo.get_session_manager()
        await manager.update_device_list(MODERN, peters.jid, {own.device_id: None})
        await rosa.chat.send(peters.jid, "in what it reads")
        assert (await peter.hear())[1] == "in what it reads"
        assert (await rosa.unsupported.next()).devices == {own.device_id}
    prosody.interfere()


async def test_an_application_may_believe_timers_in_clear(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F31: only if it says so; the event tells that nobody has vouched for it, and the floor holds.

    The floor is the application's as well.
    """
    rosa = party("rosa", clear_changes=True, clear_floor=timedelta(minutes=1))
    await rosa.arrive()
    async with unpatched(account("peter"), prosody.address) as peter:
        jid = peter.client.boundjid.bare
        for timer, counted in ((3600, 3600), (1, 60)):
            clear = element(f"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='{timer}'/>")
            await peter.send(rosa.jid, "with a timer", clear)
            assert (await rosa.hear()).timer == timedelta(seconds=counted)
            change = await rosa.changes.next()
            assert (change.new, change.author, change.authenticated) == (counted, jid, False)
            assert await rosa.chat.timer(jid) == timedelta(seconds=counted)
        await peter.send(rosa.jid, "without")
        assert (await rosa.hear()).timer is None
        assert await rosa.chat.timer(jid) == timedelta(minutes=1)
        sent = await rosa.chat.send(jid, "an answer")
        assert sent.timer == timedelta(minutes=1)


async def test_legacy_policies_hold_in_a_room(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F40, F41: who refuses legacy OMEMO sends to the others, and is told whom it leaves out."""
    rosa, anna = (party(name, plugins=ROOM_PLUGINS) for name in ("rosa", "anna"))
    strict = party("strict", plugins=ROOM_PLUGINS, legacy="refuse")
    for each in (rosa, anna, strict):
        await each.arrive()
    room = f"{rosa.account.name}@{prosody.rooms}"
    await enter(rosa, room, found=True)
    async with unpatched(account("peter"), prosody.address, plugins=ROOM_PLUGINS) as peter:
        jid = peter.client.boundjid.bare
        rooms = plugin_of(rosa)
        await rooms.set_affiliation(JID(room), "member", jid=JID(jid))
        await set_affiliation(rosa, room, "member", anna, strict)
        await enter(anna, room)
        await enter(strict, room)
        await peter.enter(room)
        sent = await rosa.chat.send(room, "for everybody", timer=DAY)
        assert sent.left_out == frozenset()
        stanza, text = await peter.hear()
        assert (text, stanza["type"]) == ("for everybody", "groupchat")
        assert [each.get("timer") for each in stanza.xml.findall(EPHEMERAL)] == ["86400"]
        for each in (anna, strict):
            heard = await each.hear()
            assert (heard.body, heard.timer, heard.encrypted_with) == (text, DAY, MODERN)
        warning = await rosa.unsupported.next()
        assert (warning.conversation, warning.legacy) == (room, Legacy.DELIVER)
        assert {account for account, _ in warning.addresses} == {jid}
        sent = await strict.chat.send(room, "not for everybody")
        assert {(each.jid, each.cause) for each in sent.left_out} == {(jid, Cause.LEGACY)}
        assert (await anna.hear()).body == "not for everybody"
        await peter.send(room, "from an old client", kind="groupchat", to={rosa.jid, anna.jid})
        heard = await anna.hear()
        assert (heard.body, heard.sender, heard.encrypted_with) == ("from an old client", jid, OLD)
        for each in (rosa, anna, strict):
            await each.ping()
            assert each.changes.all[1:] == []
