"""Rooms: what others say in them is read, live and out of their archives; timers by members alone.

The senders here seal by hand what the library itself would not say.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import JID

from eph_e2ee import Delivery, Reason
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import ephemeral, setting
from eph_e2ee.protocol.setting import Setting, Tag
from eph_e2ee.xmpp.parcel import MODERN, written
from tests.support.chats import NOW, Party, bodies, body, element
from tests.support.client import PLUGINS, SECONDS, Happenings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.conftest import NewParty
    from tests.support.prosody import Prosody

pytestmark = pytest.mark.integration

ROOM_PLUGINS = (*PLUGINS, "xep_0045")
HOUR, DAY = Seconds(3600), Seconds(86400)


async def enter(somebody: Party, room: str, *, found: bool = False) -> None:
    """Join, and with `found` make the room: everybody sees real JIDs."""
    rooms: Any = somebody.client.plugin["xep_0045"]
    with Happenings(somebody.client, "ephemeral_catch_up", wanted=lambda told: told.done) as done:
        await rooms.join_muc_wait(JID(room), somebody.account.name, timeout=SECONDS)
        if found:
            form = await rooms.get_room_config(JID(room))
            form["type"] = "submit"
            form["values"] = {**form.get_values(), "muc#roomconfig_whois": "anyone"}
            await rooms.set_room_config(JID(room), form)
        while (await done.next()).archive != room:
            pass


async def say(
    somebody: Party,
    room: str,
    to: list[Party],
    *content: Element,
    beside: Sequence[Element] = (),
) -> None:
    """Send elements to a room, in an envelope for some of its members; others beside that."""
    account = somebody.chat._account
    for each in to:
        await account.audience(BareJid(each.jid))
    envelope = account.build(list(content), to=BareJid(room))
    jids = frozenset(BareJid(each.jid) for each in to)
    pending = await account.begin(
        lambda: account.omemo.seal(jids, {MODERN: envelope}), lambda _: lambda _: None
    )
    await pending.finish()
    (message,) = pending.value.messages
    stanza: Any = somebody.client.make_message(mto=JID(room), mtype="groupchat")
    for child in beside:
        stanza.append(child)
    stanza.append(written(message))
    SubElement(stanza.xml, "{urn:xmpp:hints}store")
    stanza.send()


def tagged(somebody: Party, timer: Seconds) -> Element:
    """A setting of somebody's."""
    device = DeviceId(somebody.chat._account.device)
    return setting.write(Setting(Tag(1, int(NOW * 1000), BareJid(somebody.jid), device, timer)))


@pytest.fixture
async def room(party: NewParty, prosody: Prosody) -> tuple[str, Party, Party]:
    """A room with its owner and somebody whom she has made a member."""
    rosa = party("rosa", plugins=ROOM_PLUGINS)
    peter = party("peter", plugins=ROOM_PLUGINS)
    await rosa.arrive()
    await peter.arrive()
    jid = f"{rosa.account.name}@{prosody.rooms}"
    await enter(rosa, jid, found=True)
    plugin: Any = rosa.client.plugin["xep_0045"]
    await plugin.set_affiliation(JID(jid), "member", jid=JID(peter.jid))
    await enter(peter, jid)
    return jid, rosa, peter


@pytest.mark.core
async def test_a_room_is_a_conversation(room: tuple[str, Party, Party]) -> None:
    """The timer is everybody's, the sender an account; a reflection of ours is no news."""
    jid, rosa, peter = room
    await say(rosa, jid, [peter], body("hello, room"), ephemeral.write(HOUR), tagged(rosa, HOUR))
    heard = await peter.hear()
    assert (heard.body, heard.conversation, heard.sender) == ("hello, room", jid, rosa.jid)
    change = await peter.changes.next()
    assert (change.conversation, change.new, change.author) == (jid, HOUR, rosa.jid)
    assert await peter.chat.timer(jid) == heard.timer
    assert await peter.chat.timer(rosa.jid) is None
    await rosa.ping()
    assert rosa.messages.all == rosa.rejected.all == []


async def test_f28_a_visitor_changes_no_timer(
    room: tuple[str, Party, Party], party: NewParty
) -> None:
    """F28: only members may; what a visitor says has its own timer all the same."""
    jid, _rosa, peter = room
    visitor = party("visitor", plugins=ROOM_PLUGINS)
    await visitor.arrive()
    await enter(visitor, jid)
    await say(visitor, jid, [peter], body("a minute"), ephemeral.write(DAY), tagged(visitor, DAY))
    heard = await peter.hear()
    assert (heard.body, heard._entry.timer) == ("a minute", DAY)
    assert await peter.chat.timer(jid) is None
    assert peter.changes.all == []


def forged(somebody: Party, *, delayed: bool) -> list[Element]:
    """What makes somebody the owner of a room, by his own word."""
    item = f"<item jid='{somebody.client.boundjid.full}' affiliation='owner' role='moderator'/>"
    elements = [element(f"<x xmlns='http://jabber.org/protocol/muc#user'>{item}</x>")]
    if delayed:
        stamp = "stamp='2031-01-01T00:00:00Z' from='somewhere.example'"
        elements.append(element(f"<delay xmlns='urn:xmpp:delay' {stamp}/>"))
    return elements


@pytest.mark.parametrize("delayed", [True, False])
async def test_f28_nobody_makes_himself_a_member_by_what_he_sends(
    room: tuple[str, Party, Party],
    party: NewParty,
    *,
    delayed: bool,
) -> None:
    """F28: neither live nor in the archive, where his word stands beside the room's own."""
    jid, rosa, peter = room
    visitor = party("visitor", plugins=ROOM_PLUGINS)
    await visitor.arrive()
    await enter(visitor, jid)
    beside = forged(visitor, delayed=delayed)
    await say(visitor, jid, [rosa, peter], body("live"), tagged(visitor, DAY), beside=beside)
    assert (await peter.hear()).body == "live"
    await peter.leave()
    await say(
        visitor,
        jid,
        [rosa, peter],
        body("archived"),
        ephemeral.write(DAY),
        tagged(visitor, DAY),
        beside=beside,
    )
    await visitor.ping()
    await peter.arrive()
    await enter(peter, jid)
    assert (await peter.hear()).body == "archived"
    for each in (rosa, peter):
        assert await each.chat.timer(jid) is None
        assert each.changes.all == []


async def test_an_occupant_does_not_bounce_our_messages(room: tuple[str, Party, Party]) -> None:
    """He knows their ids, and answers through the room; the room itself has said nothing."""
    jid, rosa, peter = room
    told = Happenings(rosa.client, "ephemeral_delivery")
    sent = await rosa.chat.send(jid, "hello")
    await peter.hear()
    error: Any = peter.client.make_message(mto=JID(f"{jid}/{rosa.account.name}"), mtype="error")
    error["id"] = str(sent.message_id)
    error["error"]["condition"] = "not-acceptable"
    error.send()
    await peter.ping()
    await rosa.ping()
    (entry,) = await rosa.chat.history(jid)
    assert (entry.delivery, told.all) == (Delivery.SENT, [])


async def test_what_was_said_while_one_was_away(room: tuple[str, Party, Party]) -> None:
    """F26, F36: from the last id seen, once, and told when it is complete."""
    jid, rosa, peter = room
    await say(rosa, jid, [peter], body("before"), ephemeral.write(HOUR), tagged(rosa, HOUR))
    await peter.hear()
    await peter.leave()
    for number in range(3):
        await say(rosa, jid, [peter], body(f"number {number}"), ephemeral.write(HOUR))
    await rosa.ping()
    await peter.arrive()
    assert peter.messages.all == []
    await enter(peter, jid)
    assert [message.body for message in peter.messages.all] == [
        f"number {number}" for number in range(3)
    ]
    assert [message.conversation for message in peter.messages.all] == [jid] * 3
    await peter.restart()
    await enter(peter, jid)
    assert peter.messages.all == peter.rejected.all == []
    history = await peter.chat.history(jid)
    texts = [each for each in bodies(history[::-1]) if each is not None]
    assert texts == ["before", "number 0", "number 1", "number 2"]


@pytest.mark.core
async def test_a_timer_that_was_set_while_one_was_away(
    room: tuple[str, Party, Party], party: NewParty
) -> None:
    """F26, F28: a member's, out of the archive, and a visitor's not, who has left since."""
    jid, rosa, peter = room
    visitor = party("visitor", plugins=ROOM_PLUGINS)
    await visitor.arrive()
    await enter(visitor, jid)
    await peter.leave()
    await say(rosa, jid, [peter], body("an hour"), ephemeral.write(HOUR), tagged(rosa, HOUR))
    await rosa.ping()
    await say(visitor, jid, [peter], body("a day"), ephemeral.write(DAY), tagged(visitor, DAY))
    await visitor.ping()
    await visitor.leave()
    await peter.arrive()
    await enter(peter, jid)
    assert [(await peter.hear()).body for _ in range(2)] == ["an hour", "a day"]
    change = await peter.changes.next()
    assert (change.conversation, change.new, change.author) == (jid, HOUR, rosa.jid)
    assert await peter.chat.timer(jid) == timedelta(hours=1)


async def test_a_room_without_real_jids_is_rejected(party: NewParty, prosody: Prosody) -> None:
    """OMEMO knows accounts: nobody there can be told from anybody else."""
    rosa, peter = party("rosa", plugins=ROOM_PLUGINS), party("peter", plugins=ROOM_PLUGINS)
    await rosa.arrive()
    await peter.arrive()
    jid = f"{rosa.account.name}@{prosody.rooms}"
    await enter(rosa, jid)
    plugin: Any = rosa.client.plugin["xep_0045"]
    await plugin.set_room_config(JID(jid), await _unlocked(plugin, jid))
    await enter(peter, jid)
    await say(rosa, jid, [peter], body("who am I?"))
    rejected = await peter.rejected.next()
    assert (rejected.reason, rejected.sender) == (Reason.UNKNOWN_SENDER, jid)
    assert peter.messages.all == []


async def _unlocked(plugin: Any, jid: str) -> Any:
    form = await plugin.get_room_config(JID(jid))
    form["type"] = "submit"
    return form
