"""Groups: five clients in a room, of which some are away, without keys, banned, or late."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID

from eph_e2ee import (
    Cause,
    LeftOut,
    LocalProtocolError,
    NoEligibleDevices,
    NotSent,
    Reason,
    RoomUnsuitable,
)
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.parcel import written
from tests.integration.devices import until
from tests.integration.rooms import (
    ROOM_PLUGINS,
    Wiretap,
    configure,
    enter,
    leave_room,
    plugin_of,
    set_affiliation,
)
from tests.support.chats import Party, body
from tests.support.client import SECONDS, Happenings, new_client, online

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import NewParty
    from tests.integration.devices import NewDevice
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)


class Group:
    """A room of members, and the people who are asked into it."""

    def __init__(self, jid: str, owner: Party, party: NewParty) -> None:
        self.jid = jid
        self.owner = owner
        self._party = party

    async def member(self, name: str, *, enters: bool = True) -> Party:
        """Somebody who belongs to it, has keys, and is there or not."""
        new = self._party(name, plugins=ROOM_PLUGINS)
        await new.arrive()
        await set_affiliation(self.owner, self.jid, "member", new)
        if enters:
            await enter(new, self.jid)
        await self.owner.ping()  # the room has told her before
        return new


@pytest.fixture
async def group(party: NewParty, prosody: Prosody) -> Group:
    """A new room, with its owner in it."""
    rosa = party("rosa", plugins=ROOM_PLUGINS)
    await rosa.arrive()
    jid = f"{rosa.account.name}@{prosody.rooms}"
    await enter(rosa, jid, found=True)
    return Group(jid, rosa, party)


@pytest.mark.core
async def test_everybody_hears_also_who_is_away(group: Group) -> None:
    """F27, F41: five of them; the timer is everybody's, and nobody has to be there."""
    rosa = group.owner
    peter, anna = await group.member("peter"), await group.member("anna")
    otto = await group.member("otto")
    ines = await group.member("ines", enters=False)
    leave_room(otto, group.jid)
    await otto.leave()
    await rosa.chat.set_timer(group.jid, HOUR)
    sent = await rosa.chat.send(group.jid, "for all")
    assert sent.left_out == frozenset()
    await otto.arrive()
    for each in (otto, ines):
        await enter(each, group.jid)
    for each in (peter, anna, otto, ines):
        heard = await each.hear()
        assert (heard.body, heard.sender, heard.timer) == ("for all", rosa.jid, HOUR)
        assert heard.conversation == group.jid
        assert await each.chat.timer(group.jid) == HOUR
    await ines.chat.send(group.jid, "an answer", timer=HOUR * 2)
    for each in (rosa, peter, anna, otto):
        assert (await each.hear()).timer == HOUR * 2
        assert each.rejected.all == []
    assert ines.messages.all[1:] == []


async def test_f41_members_without_keys_keep_nobody_from_hearing(
    group: Group, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """F41: each is named, and told of once; also a member whose server does not exist."""
    rosa, peter = group.owner, await group.member("peter")
    keyless, nowhere = account("keyless").jid, "nobody@nowhere.example"
    rooms = plugin_of(rosa)
    skipped = Happenings(rosa.client, "ephemeral_skipped")
    for jid in (keyless, nowhere):
        await rooms.set_affiliation(JID(group.jid), "member", jid=JID(jid))
    expected = {LeftOut(BareJid(jid), None, Cause.NO_DEVICE) for jid in (keyless, nowhere)}
    for _ in range(2):
        sent = await rosa.chat.send(group.jid, "without them")
        assert sent.left_out == expected
        assert (await peter.hear()).body == "without them"
    assert [told.left_out for told in skipped.all] == [expected]
    await rooms.set_affiliation(JID(group.jid), "none", jid=JID(nowhere))
    sent = await rosa.chat.send(group.jid, "without one")
    assert {each.jid for each in sent.left_out} == {keyless}
    assert len(skipped.all) == 2
    assert prosody.running


@pytest.mark.core
async def test_who_is_banned_or_leaves_gets_no_key_any_more(group: Group) -> None:
    """Kept current as affiliations change, of those who are there and of those who are not."""
    rosa, peter = group.owner, await group.member("peter")
    anna, otto = await group.member("anna"), await group.member("otto", enters=False)
    wiretap = Wiretap(rosa)
    await rosa.chat.send(group.jid, "all four")
    await set_affiliation(rosa, group.jid, "outcast", anna)
    await set_affiliation(rosa, group.jid, "none", otto)
    await rosa.ping()
    await rosa.chat.send(group.jid, "the two of us")
    late = await group.member("late")
    await rosa.chat.send(group.jid, "one more")
    await rosa.ping()
    assert wiretap.addressed == [
        {peter.jid, anna.jid, otto.jid},
        {peter.jid},
        {peter.jid, late.jid},
    ]
    assert [(await peter.hear()).body for _ in range(3)] == [
        "all four",
        "the two of us",
        "one more",
    ]
    assert (await late.hear()).body == "one more"
    assert (await anna.hear()).body == "all four"
    await anna.ping()
    assert len(anna.messages.all) == 1


async def test_a_room_that_hides_jids_is_refused_before_anything_is_encrypted(
    group: Group,
) -> None:
    """F39: whether it was made so, or becomes so later; and it can become usable again."""
    rosa, peter = group.owner, await group.member("peter")
    await rosa.chat.send(group.jid, "while it is open")
    await rosa.ping()
    wiretap = Wiretap(rosa)
    await configure(rosa, group.jid, whois="moderators")
    await rosa.ping()
    with pytest.raises(RoomUnsuitable, match="non-anonymous"):
        await rosa.chat.send(group.jid, "never sent")
    with pytest.raises(RoomUnsuitable):
        await rosa.chat.set_timer(group.jid, HOUR)
    assert wiretap.stanzas == []
    assert await rosa.chat.timer(group.jid) is None
    assert await rosa.chat.unsent() == []
    await configure(rosa, group.jid, whois="anyone")
    await rosa.ping()
    await rosa.chat.send(group.jid, "open again")
    heard = [(await peter.hear()).body for _ in range(2)]
    assert heard == ["while it is open", "open again"]


async def test_only_a_room_that_was_entered_is_one(group: Group, party: NewParty) -> None:
    """Its name is that of an account without devices, until then and after leaving."""
    otto = party("otto", plugins=ROOM_PLUGINS)
    await otto.arrive()
    with pytest.raises(NoEligibleDevices, match="joined first"):
        await otto.chat.send(group.jid, "hello?")
    await set_affiliation(group.owner, group.jid, "member", otto)
    plugin_of(otto).rooms[None][JID(group.jid)] = {}  # as while it is being joined
    with pytest.raises(NotSent, match="not in that room yet"):
        await otto.chat.send(group.jid, "hello?")
    await enter(otto, group.jid)
    await otto.chat.send(group.jid, "hello")
    assert (await group.owner.hear()).body == "hello"
    leave_room(otto, group.jid)
    with pytest.raises(NoEligibleDevices):
        await otto.chat.send(group.jid, "still there?")


async def test_f28_a_visitor_does_not_change_the_timer_for_himself(
    group: Group, party: NewParty
) -> None:
    """F28: the others would not follow; what he says has the room's timer, as they know it."""
    rosa = group.owner
    await configure(rosa, group.jid, membersonly=False)
    peter = await group.member("peter")
    await rosa.chat.set_timer(group.jid, HOUR)
    visitor = party("visitor", plugins=ROOM_PLUGINS)
    await visitor.arrive()
    await enter(visitor, group.jid)
    await rosa.ping()  # the room has told her that he is there
    with pytest.raises(LocalProtocolError, match="members"):
        await visitor.chat.set_timer(group.jid, HOUR * 2)
    with pytest.raises(LocalProtocolError, match="members"):
        await visitor.chat.send(group.jid, "mine is shorter", timer=HOUR / 2)
    await rosa.chat.send(group.jid, "an hour")
    assert (await visitor.hear()).timer == HOUR
    sent = await visitor.chat.send(group.jid, "as you like it")
    assert sent.timer == HOUR
    assert [(await peter.hear()).timer for _ in range(2)] == [HOUR, HOUR]
    for each in (rosa, peter, visitor):
        assert await each.chat.timer(group.jid) == HOUR


async def test_private_messages_through_a_room_are_refused(group: Group) -> None:
    """Both ways: an occupant is no account, and whoever answers would answer the room."""
    rosa, peter = group.owner, await group.member("peter")
    occupant = f"{group.jid}/{peter.account.name}"
    wiretap = Wiretap(rosa)
    with pytest.raises(LocalProtocolError, match="private messages"):
        await rosa.chat.send(occupant, "psst")
    with pytest.raises(LocalProtocolError, match="private messages"):
        await rosa.chat.set_timer(occupant, HOUR)
    assert wiretap.stanzas == []
    await rosa.chat.send(peter.jid, "by his own JID")
    assert (await peter.hear()).body == "by his own JID"
    # What a client of another make sends: a message for him, through the room.
    envelope = rosa.chat._account.build([body("psst")], to=BareJid(peter.jid))
    (sealed,) = (await rosa.seal(peter, envelope)).messages
    private: Any = rosa.client.make_message(mto=JID(occupant), mtype="chat")
    private.append(written(sealed))
    private.send()
    rejected = await peter.rejected.next()
    assert (rejected.reason, rejected.sender) == (Reason.PRIVATE_IN_ROOM, group.jid)


async def test_subjects_and_joins_are_as_ever(
    group: Group, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """What is no encrypted message is not looked at; somebody without OMEMO joins and speaks."""
    rosa, peter = group.owner, await group.member("peter")
    plain = account("plain")
    await plugin_of(rosa).set_affiliation(JID(group.jid), "member", jid=JID(plain.jid))
    subjects = Happenings(peter.client, "groupchat_subject")
    spoken = Happenings(peter.client, "groupchat_message")
    plugin_of(rosa).set_subject(JID(group.jid), "plans")
    assert (await subjects.next())["subject"] == "plans"
    joins = Happenings(peter.client, f"muc::{group.jid}::got_online")
    client = new_client(plain, plugins=ROOM_PLUGINS)
    async with online(client, prosody.address):
        rooms: Any = client.plugin["xep_0045"]
        await rooms.join_muc_wait(JID(group.jid), "plain", timeout=SECONDS)
        assert (await joins.next())["from"].resource == "plain"
        client.send_message(mto=JID(group.jid), mbody="in clear", mtype="groupchat")
        assert (await spoken.next())["body"] == "in clear"
    assert peter.messages.all == peter.rejected.all == []


async def test_a_nickname_of_somebody_else_now_tells_nothing_of_then(group: Group) -> None:
    """The archive says whose it was; who has the name now is another one."""
    rosa, peter = group.owner, await group.member("peter", enters=False)
    anna, otto = await group.member("anna"), await group.member("otto", enters=False)
    await anna.chat.send(group.jid, "I am Anna")
    await rosa.hear()
    leave_room(anna, group.jid)
    await anna.ping()
    await plugin_of(otto).join_muc_wait(JID(group.jid), anna.account.name, timeout=SECONDS)
    await otto.hear()
    await otto.chat.send(group.jid, "and I am Otto")
    await rosa.hear()
    await enter(peter, group.jid)
    heard = [(message.body, message.sender) for message in peter.messages.all]
    assert heard == [("I am Anna", anna.jid), ("and I am Otto", otto.jid)]
    assert peter.rejected.all == []


async def test_what_a_room_sends_back_is_known_by_its_id(
    device: NewDevice, prosody: Prosody
) -> None:
    """F36: nothing of the text is kept for it; our other device gets it as any member does."""
    phone = device("rosa", plugins=ROOM_PLUGINS)
    desk = device(phone, plugins=ROOM_PLUGINS)
    peter = device("peter", plugins=ROOM_PLUGINS)
    for each in (phone, desk, peter):
        await each.arrive()
    room = f"{phone.account.name}@{prosody.rooms}"
    await enter(phone, room, found=True)
    await set_affiliation(phone, room, "member", peter)
    await enter(desk, room)
    await enter(peter, room)
    sent = await phone.chat.send(room, "once", timer=HOUR)
    heard = await peter.hear()
    own = await desk.hear()
    assert (own.body, own.direction) == ("once", sent.direction)
    assert own.deadline is not None
    await phone.ping()
    assert phone.messages.all == phone.rejected.all == desk.rejected.all == []
    (entry,) = [each for each in await phone.chat.history(room) if each.change is None]
    assert entry.body == "once"
    assert heard.body == "once"


async def test_f27_reading_in_a_room_starts_the_timer_on_our_other_device(
    device: NewDevice, prosody: Prosody
) -> None:
    """F27: the members read for themselves, our own devices together."""
    phone = device("rosa", plugins=ROOM_PLUGINS)
    desk = device(phone, plugins=ROOM_PLUGINS)
    peter = device("peter", plugins=ROOM_PLUGINS)
    for each in (phone, desk, peter):
        await each.arrive()
    room = f"{phone.account.name}@{prosody.rooms}"
    await enter(phone, room, found=True)
    await set_affiliation(phone, room, "member", peter)
    await enter(desk, room)
    await enter(peter, room)
    sent = await peter.chat.send(room, "to be read", timer=HOUR)
    await desk.hear()
    read = await phone.read()
    assert read.deadline == sent.deadline

    async def is_read_there() -> bool:
        (last,) = [each for each in await desk.chat.history(room) if each.change is None]
        return last.deadline == read.deadline

    await until(desk, is_read_there)
