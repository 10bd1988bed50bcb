"""XEP-0466 without encryption: plain clients on a real server, and one that encrypts among them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID

from eph_e2ee import LocalProtocolError
from tests.support.chats import element
from tests.support.client import SECONDS, Happenings
from tests.support.unencrypted import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration

NAMESPACE = "urn:xmpp:ephemeral:0"
DAY, WEEK = timedelta(days=1), timedelta(days=7)


async def test_two_plain_clients_agree_as_the_specification_tells(
    account: Callable[[str], Account], prosody: Prosody
) -> None:
    """XEP-0466 section 4: Rosa and Peter; a week, then five days, which he goes on with."""
    five = timedelta(days=5)
    async with (
        plain(account("rosa"), prosody) as rosa,
        plain(account("peter"), prosody, no_permanent_store=True) as peter,
    ):
        rosa.say(peter.jid, "I have read the book you sent me")
        assert (await peter.stanzas.next())["ephemeral"]["timer"] is None
        peter.say(rosa.jid, "and what did you think?", WEEK)
        change, heard = await rosa.changes.next(), await rosa.messages.next()
        assert (change.conversation, change.old, change.new) == (peter.jid, None, 604800)
        assert (heard.body, heard.timer, heard.own) == ("and what did you think?", 604800, False)
        stanza = await rosa.stanzas.next()
        hints = [child.tag for child in stanza.xml if child.tag.startswith("{urn:xmpp:hints}")]
        assert hints == ["{urn:xmpp:hints}no-permanent-store"]
        rosa.plugin.change(peter.jid, five)
        assert [(await peter.changes.next()).new for _ in range(2)] == [604800, 432000]
        peter.say(rosa.jid, "It's just as good to me!")
        assert (await rosa.messages.next()).timer == 432000
        assert rosa.plugin.timer(peter.jid) == peter.plugin.timer(rosa.jid) == five
        assert peter.messages.all == []


async def test_a_change_waits_for_who_is_offline(
    account: Callable[[str], Account], prosody: Prosody
) -> None:
    """XEP-0466 section 3.4: "so that offline clients see it"; F34: no hint says otherwise."""
    absent = account("peter")
    async with plain(account("rosa"), prosody, no_permanent_store=True) as rosa:
        rosa.plugin.change(absent.jid, DAY)
        rosa.plugin.change(absent.jid, None)
        domain = JID(rosa.client.boundjid.domain)
        await rosa.client.plugin["xep_0199"].ping(domain, timeout=SECONDS)
        async with plain(absent, prosody) as peter:
            assert [(await peter.changes.next()).new for _ in range(2)] == [86400, None]


async def test_an_encrypting_client_hears_what_is_plain_apart(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F31, F32, F33: plain timers have their own events, and touch neither vault nor setting."""
    rosa = party("rosa", timer=WEEK)
    rosa.attach()
    messages = Happenings(rosa.client, "ephemeral_plain_message")
    changes = Happenings(rosa.client, "ephemeral_plain_timer_changed")
    await rosa.arrive()
    own: Any = rosa.client.plugin.get("xep_0466", None)
    async with plain(account("peter"), prosody) as peter:
        peter.say(rosa.jid, "in clear", DAY)
        assert ((await changes.next()).new, (await messages.next()).body) == (86400, "in clear")
        assert (rosa.messages.all, rosa.changes.all) == ([], [])
        assert await rosa.chat.history(peter.jid) == []
        assert await rosa.chat.timer(peter.jid) == WEEK
        with pytest.raises(LocalProtocolError):
            own.change(peter.jid, DAY)
        answer: Any = rosa.client.make_message(mto=JID(peter.jid), mbody="no", mtype="chat")
        with pytest.raises(LocalProtocolError):
            own.set_timer(answer, DAY)
        await rosa.ping()
        assert (peter.stanzas.all, peter.messages.all, len(peter.changes.all)) == ([], [], 1)


async def test_what_stands_outside_of_an_envelope_is_nobodys_word(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F31: neither for who encrypts nor for a plain client that gets the same stanza."""
    rosa, peter = party("rosa"), party("peter")
    await rosa.arrive()
    peter.attach()
    plain_changes = Happenings(peter.client, "ephemeral_plain_timer_changed")
    await peter.arrive()
    sent = rosa.client

    def tampered(stanza: Any) -> Any:
        if stanza.xml.find("{urn:xmpp:omemo:2}encrypted") is not None:
            stanza.xml.append(element(f"<ephemeral xmlns='{NAMESPACE}' timer='5'/>"))
        return stanza

    async with plain(account("paula"), prosody) as paula:
        sent.add_filter("out", tampered)
        await rosa.chat.send(peter.jid, "for ever")
        heard = await peter.hear()
        assert (heard.body, heard.timer) == ("for ever", None)
        copy: Any = rosa.client.make_message(mto=JID(paula.jid), mbody="?", mtype="chat")
        copy.xml.append(element("<encrypted xmlns='urn:xmpp:omemo:2'/>"))
        copy.send()
        assert (await paula.stanzas.next())["ephemeral"]["timer"] is None
        assert (plain_changes.all, paula.changes.all, paula.messages.all) == ([], [], [])
