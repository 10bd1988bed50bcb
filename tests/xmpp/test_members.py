"""Who is in a room, and who belongs to it: asked for, and kept current."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slixmpp import JID
from slixmpp.stanza import Message, Presence

from eph_e2ee.errors import NotSent, RoomUnsuitable
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp import members as subject
from eph_e2ee.xmpp.members import MAXIMUM_MEMBERS, Audience, Members
from tests.xmpp.rooming import OCCUPANT, PETER, ROOM, ROSA, USER, Inside, Rooming

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


ANNA, OTTO = "anna@example.org", "otto@example.org"


@pytest.fixture
def world() -> Rooming:
    return Rooming()


@pytest.fixture
async def inside(world: Rooming) -> AsyncIterator[Inside]:
    made = Inside(world)
    yield made
    made.members.detach()


async def test_whether_we_belong_to_it_ourselves(inside: Inside) -> None:
    """F28: as the room says it of us, then and later."""
    inside.enter(100)
    assert (await inside.members.audience(BareJid(ROOM))).member
    inside.presence("rosa", f"{ROSA}/rosa", "none", 110, 100)
    assert not (await inside.members.audience(BareJid(ROOM))).member
    inside.presence("rosa", f"{ROSA}/rosa", "admin", 110, 100)
    assert (await inside.members.audience(BareJid(ROOM))).member


async def test_those_who_belong_to_it_and_those_who_are_there(inside: Inside) -> None:
    """Ourselves are not among them; what is known is not asked for again."""
    inside.presence("early", f"{ANNA}/x", "none")
    inside.rooms.rooms[None][JID(ROOM)] = {}
    inside.presence("anna", f"{ANNA}/x", "none")
    inside.enter(100)
    audience = await inside.members.audience(BareJid(ROOM))
    expected = frozenset({BareJid(PETER), BareJid(ANNA)})
    assert audience == Audience(BareJid(ROOM), expected, room=True)
    assert inside.world.asked_for == ["member", "admin", "owner"]
    await inside.jids()
    assert len(inside.world.asked_for) == 3


async def test_the_audience_changes_with_the_room(inside: Inside) -> None:
    """F28, F41: who enters, leaves, is made a member, is banned; there or not."""
    inside.enter(100)
    assert await inside.jids() == {PETER}
    inside.presence("otto", f"{OTTO}/x", "none")
    assert await inside.jids() == {PETER, OTTO}
    inside.presence("otto", f"{OTTO}/x", "none", kind="unavailable")
    assert await inside.jids() == {PETER}
    inside.told(f"<item jid='{ANNA}' affiliation='member'/>")
    assert await inside.jids() == {PETER, ANNA}
    inside.presence("anna", f"{ANNA}/x", "member", kind="unavailable")
    assert await inside.jids() == {PETER, ANNA}
    inside.told(f"<item jid='{PETER}' affiliation='outcast'/>")
    inside.presence("anna", f"{ANNA}/x", "none", 321, kind="unavailable")
    assert await inside.jids() == set()


async def test_who_changes_while_the_lists_come_is_not_forgotten(inside: Inside) -> None:
    inside.enter(100)
    message = (
        f"<message xmlns='jabber:client' from='{ROOM}'><x xmlns='{USER}'>"
        f"<item jid='{ANNA}' affiliation='admin'/><item jid='{PETER}' affiliation='none'/></x>"
        "</message>"
    )
    inside.world.meanwhile.append(fromstring(message))  # noqa: S314 -- our own
    assert await inside.jids() == {ANNA}


async def test_lists_are_asked_for_again_after_a_while(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every server tells of members who are not there."""
    inside.enter(100)
    await inside.jids()
    inside.world.lists["member"] = [OTTO]
    assert await inside.jids() == {PETER}
    monkeypatch.setattr(subject, "FRESH", 0.0)
    assert await inside.jids() == {OTTO}


async def test_a_room_that_does_not_tell(inside: Inside) -> None:
    """Those who are there get it; that others may be missing is said."""
    del inside.world.lists["member"]
    inside.enter(100)
    inside.presence("anna", f"{ANNA}/x", "none")
    audience = await inside.members.audience(BareJid(ROOM))
    anna = frozenset({BareJid(ANNA)})
    assert audience == Audience(BareJid(ROOM), anna, room=True, complete=False)


@pytest.mark.parametrize(
    ("codes", "features", "is_open"),
    [
        ([100], [], True),
        ([], ["muc_nonanonymous"], True),
        ([], ["muc_semianonymous"], False),
        ([], [], False),
    ],
)
async def test_whether_jids_are_shown(
    inside: Inside, codes: list[int], features: list[str], *, is_open: bool
) -> None:
    """By what it says on entering, else by its features."""
    inside.world.features = features
    inside.enter(*codes)
    if is_open:
        assert await inside.jids() == {PETER}
    else:
        with pytest.raises(RoomUnsuitable):
            await inside.jids()
        assert "member" not in inside.world.asked_for


@pytest.mark.parametrize(("code", "is_open"), [(172, True), (173, False), (174, False)])
async def test_a_room_that_becomes_another_one(inside: Inside, code: int, *, is_open: bool) -> None:
    inside.world.features = []
    inside.enter(100) if not is_open else inside.enter()
    inside.told("<status code='104'/>")
    inside.told(f"<status code='{code}'/>")
    if is_open:
        assert await inside.jids() == {PETER}
    else:
        with pytest.raises(RoomUnsuitable):
            await inside.jids()


async def test_any_other_change_of_it_is_looked_into(inside: Inside) -> None:
    inside.enter(100)
    await inside.jids()
    inside.world.features = []
    inside.told("<status code='104'/>")
    with pytest.raises(RoomUnsuitable):
        await inside.jids()


async def test_a_room_that_is_silent(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent to, and can be asked again; two who ask at once ask once."""
    monkeypatch.setattr(subject, "ANSWER", 0.0)
    inside.world.silent = True
    inside.enter(100)
    for outcome in await asyncio.gather(inside.jids(), inside.jids(), return_exceptions=True):
        assert isinstance(outcome, NotSent)
    assert len(inside.world.asked_for) == 3
    inside.world.silent = False
    monkeypatch.setattr(subject, "ANSWER", 30.0)
    assert await inside.jids() == {PETER}


async def test_a_session_that_ends_meanwhile(inside: Inside) -> None:
    """Who waits is told so, and is not himself taken for canceled; who is, is."""
    inside.world.silent = True
    inside.enter(100)
    waiting = asyncio.ensure_future(inside.jids())
    canceled = asyncio.ensure_future(inside.jids())
    await asyncio.sleep(0)
    canceled.cancel()
    await asyncio.wait({canceled})
    assert canceled.cancelled()
    assert not waiting.done()
    inside.client.event("session_bind", inside.client.boundjid)
    with pytest.raises(NotSent, match="does not answer"):
        await waiting
    with pytest.raises(NotSent, match="not in that room yet"):
        await inside.jids()


async def test_leaving_and_other_nicknames(inside: Inside) -> None:
    inside.enter(100)
    inside.presence("rosa", f"{ROSA}/rosa", "owner", 110, 303, kind="unavailable")
    inside.presence("other", f"{ROSA}/rosa", "owner", 110, 100)
    assert await inside.jids() == {PETER}
    inside.presence("other", f"{ROSA}/rosa", "owner", 110, kind="unavailable")
    with pytest.raises(NotSent):
        await inside.jids()


async def test_whose_occupant_id_that_is(inside: Inside) -> None:
    """XEP-0421: also after he has gone, and whatever his nickname was."""
    inside.enter(100)
    inside.presence("anna", f"{ANNA}/x", occupant="1")
    inside.presence("anna", f"{ANNA}/x", kind="unavailable", occupant="1")
    inside.presence("anna", f"{OTTO}/x", occupant="2")
    room = BareJid(ROOM)
    found = [inside.members.real_jid(room, each) for each in ("1", "2", "3", None)]
    assert found == [ANNA, OTTO, None, None]
    assert inside.members.real_jid(BareJid("other@rooms.example.org"), "1") is None


async def test_a_room_with_too_many(inside: Inside) -> None:
    """Nobody makes us encrypt, or remember, without end."""
    many = [f"{number}@example.org" for number in range(3 * MAXIMUM_MEMBERS)]
    inside.world.lists["member"] = many
    inside.enter(100)
    for number in range(MAXIMUM_MEMBERS + 10):
        inside.presence(f"{number}", f"there-{number}@example.org/x", occupant=f"{number}")
    with pytest.raises(RoomUnsuitable, match="more members"):
        await inside.jids()
    (state,) = inside.members._rooms.values()
    assert len(state.members) <= 2 * MAXIMUM_MEMBERS
    assert len(state.occupants) <= MAXIMUM_MEMBERS + 1


async def test_nobody_makes_a_room_of_himself(inside: Inside) -> None:
    """A presence as from a room that was not joined, or a message as of one."""
    inside.presence("rosa", f"{ROSA}/rosa", "owner", 110, 100)
    inside.told(f"<item jid='{ANNA}' affiliation='member'/>")
    assert not inside.members.is_room(BareJid(ROOM))
    assert inside.members._rooms == {}


async def test_a_list_that_was_given_takes_the_place_of_what_was_known(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another one is refused: who was taken off a list gets no key any more."""
    monkeypatch.setattr(subject, "FRESH", 0.0)
    del inside.world.lists["admin"]
    inside.world.lists["member"] = [PETER, ANNA]
    inside.enter(100)
    assert await inside.jids() == {PETER, ANNA}
    inside.world.lists["member"] = [PETER]
    assert await inside.jids() == {PETER}


async def test_an_error_makes_no_room_unsuitable_for_good(inside: Inside) -> None:
    """It has not answered: whether it hides JIDs is asked again."""
    inside.world.broken = True
    inside.enter()
    with pytest.raises(NotSent, match="does not answer"):
        await inside.jids()
    inside.world.broken = False
    assert await inside.jids() == {PETER}


async def test_one_that_hid_jids_is_asked_again(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.world.features = []
    inside.enter()
    with pytest.raises(RoomUnsuitable):
        await inside.jids()
    inside.world.features = ["muc_nonanonymous"]
    with pytest.raises(RoomUnsuitable):
        await inside.jids()
    monkeypatch.setattr(subject, "FRESH", 0.0)
    assert await inside.jids() == {PETER}


async def test_what_it_says_while_it_is_asked_counts_for_more(inside: Inside) -> None:
    """An answer that was on its way is older than the news that JIDs are hidden now."""
    inside.enter()
    news = f"<message xmlns='jabber:client' from='{ROOM}'><x xmlns='{USER}'>"
    news += "<status code='104'/><status code='173'/></x></message>"
    inside.world.meanwhile.append(fromstring(news))  # noqa: S314 -- our own
    with pytest.raises(RoomUnsuitable):
        await inside.jids()


async def test_who_only_listens_remembers_nothing_for_a_question(inside: Inside) -> None:
    inside.enter(100)
    for number in range(100):
        inside.told(f"<item jid='{number}@example.org' affiliation='none'/>")
    (state,) = inside.members._rooms.values()
    assert state.changed == {}


async def test_who_belongs_to_it_is_asked_of_the_lists(inside: Inside) -> None:
    """For old messages, whose senders need not be there (F28)."""
    room = BareJid(ROOM)
    await inside.members.known(room)  # we are not there
    assert not inside.members.belongs(room, BareJid(PETER))
    inside.enter(100)
    inside.presence("anna", f"{ANNA}/x", "none")
    await inside.members.known(room)
    assert [inside.members.belongs(room, BareJid(each)) for each in (PETER, ANNA, OTTO)] == [
        True,
        False,
        False,
    ]


async def test_lists_that_cannot_be_had_make_nobody_a_member(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "ANSWER", 0.0)
    inside.world.silent = True
    inside.enter(100)
    await inside.members.known(BareJid(ROOM))
    assert not inside.members.belongs(BareJid(ROOM), BareJid(PETER))


async def test_whom_it_may_be_encrypted_for_at_the_last_moment(inside: Inside) -> None:
    """F41: who has left meanwhile gets no key, who has come meanwhile has to wait."""
    inside.enter(100)
    inside.presence("anna", f"{ANNA}/x", "none")
    audience = await inside.members.audience(BareJid(ROOM))
    inside.presence("otto", f"{OTTO}/x", "none")
    inside.told(f"<item jid='{PETER}' affiliation='outcast'/>")
    assert inside.members.still(audience) == {ANNA}
    inside.told("<status code='173'/>")
    with pytest.raises(RoomUnsuitable):
        inside.members.still(audience)
    inside.presence("rosa", f"{ROSA}/rosa", "owner", 110, kind="unavailable")
    with pytest.raises(NotSent):
        inside.members.still(audience)
    alone = Audience(BareJid(PETER), frozenset({BareJid(PETER)}))
    assert inside.members.still(alone) == {PETER}


async def test_a_list_with_what_is_no_jid(inside: Inside) -> None:
    """F38: one item costs nobody else his key."""
    inside.world.lists["member"] = ["@", PETER, "", "a b@c"]
    inside.enter(100)
    assert await inside.jids() == {PETER}


async def test_without_the_plugin_there_are_no_rooms(world: Rooming) -> None:
    members = Members(world.client("peter"))
    assert not members.is_room(BareJid(ROOM))


HOSTILE = st.sampled_from(
    ["", "@", "x@@y", "a@b", "\u00e9@\u00e9", "/", "a" * 5000, f"{ANNA}/x", "a b@c", "@b", "b/"]
)


@settings(max_examples=100)
@given(jid=HOSTILE, affiliation=HOSTILE, code=HOSTILE, occupant=HOSTILE)
async def test_whatever_a_room_says_raises_nothing(
    jid: str, affiliation: str, code: str, occupant: str
) -> None:
    """Given to our handlers alone: slixmpp's own raise at a code that is no number."""
    inside = Inside(Rooming())
    inside.enter(100)
    content = f"<item jid='{jid}' affiliation='{affiliation}'/><status code='{code}'/>"
    children = f"<x xmlns='{USER}'>{content}</x><occupant-id xmlns='{OCCUPANT}' id='{occupant}'/>"
    for name, handler in (
        ("message", "_affiliated"),
        ("message", "_configured"),
        ("presence", "_seen"),
    ):
        sender = ROOM if name == "message" else f"{ROOM}/anna"
        xml = fromstring(f"<{name} xmlns='jabber:client' from='{sender}'>{children}</{name}>")  # noqa: S314 -- the test's own text
        made: Any = Message if name == "message" else Presence
        getattr(inside.members, handler)(made(inside.client, xml=xml))
    for state in inside.members._rooms.values():
        for known in state.jids:
            assert known == JID(known).bare != ""
