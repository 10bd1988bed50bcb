"""Timers in clear: what others say, what holds, and that nothing they send does any harm."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slixmpp import JID
from slixmpp.stanza import Message

import eph_e2ee
from eph_e2ee import PlainMessage, PlainTimerChange
from eph_e2ee.model import BareJid, MessageId, Seconds
from eph_e2ee.xmpp.elements import OTHER_ENCRYPTION
from eph_e2ee.xmpp.plain import MAXIMUM_CONVERSATIONS, STANZAS
from tests.xmpp.clients import World
from tests.xmpp.test_arrivals import carbon, forwarded, result
from tests.xmpp.test_ephemeral import ENCRYPTED, NAMESPACE, OPT_OUT, timer

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient

OWN, PETER, ROOM = "rosa@example.org", "peter@example.org", "room@rooms.example.org"
BODY = "<body>text</body>"
OUT = f"<i-want-out xmlns='{NAMESPACE}'/>"
DAY, WEEK = timedelta(days=1), timedelta(days=7)
NOW = 1_700_000_000.0


class Heard:
    """A client with the plugin, its events, and what slixmpp would have answered or logged."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        for name in ("xep_0297", "xep_0280", "xep_0045"):
            client.register_plugin(name)
        self.plugin: eph_e2ee.XEP_0466 = client.plug(eph_e2ee.XEP_0466)
        self.now = NOW
        self.plugin._timers._now = lambda: self.now
        self.messages: list[PlainMessage] = []
        self.changes: list[PlainTimerChange] = []
        self.failures: list[Exception] = []
        client.add_event_handler("ephemeral_plain_message", self.messages.append)
        client.add_event_handler("ephemeral_plain_timer_changed", self.changes.append)
        client.exception = self.failures.append  # type: ignore[method-assign]

    def get(self, inside: str, sender: str = f"{PETER}/x", **more: str) -> None:
        """Have a message arrive, a second after what was before."""
        self.now += 1
        self.client.receive(written(inside, sender, **more))

    def enter(self, nick: str, affiliation: str, real: str = "") -> None:
        """Have somebody in the room, as slixmpp's plugin notes it."""
        rooms: Any = self.client.plugin["xep_0045"]
        occupant = {"nick": nick, "affiliation": affiliation, "jid": real, "role": "participant"}
        rooms.rooms[None].setdefault(JID(ROOM), {})[nick] = occupant

    def reply(self) -> Element:
        """What the application's next message to Peter carries."""
        message = self.client.make_message(mto=JID(PETER), mbody="answer", mtype="chat")
        self.plugin.include_timer(message)
        return message.xml


def written(inside: str, sender: str = f"{PETER}/x", to: str = f"{OWN}/rosa", **more: str) -> str:
    attributes = {"from": sender, "to": to, "id": "7", "type": "chat"} | more
    text = " ".join(f"{name}='{value}'" for name, value in attributes.items())
    return f"<message xmlns='jabber:client' {text}>{inside}</message>"


def told(conversation: str, sender: str, seconds: int) -> PlainMessage:
    return PlainMessage(
        BareJid(conversation), sender, MessageId("7"), body="text", timer=Seconds(seconds)
    )


def delayed(seconds: float) -> str:
    stamp = datetime.fromtimestamp(NOW + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"<delay xmlns='urn:xmpp:delay' stamp='{stamp}'/>"


@pytest.fixture
def heard(world: World) -> Heard:
    return Heard(world.client("rosa"))


async def test_a_message_with_a_timer_is_told_of(heard: Heard) -> None:
    heard.get(BODY + timer("604800"))
    assert heard.changes == [PlainTimerChange(BareJid(PETER), None, Seconds(604800), own=False)]
    assert heard.messages == [told(PETER, f"{PETER}/x", 604800)]
    assert heard.plugin.timer(f"{PETER}/other") == WEEK
    assert heard.client.sent == []


async def test_its_text_does_not_print(heard: Heard) -> None:
    """F10."""
    heard.get("<body>sentinel</body>" + timer("5"))
    assert "sentinel" not in repr(heard.messages)


@pytest.mark.parametrize(
    ("inside", "change", "lives"),
    [
        (timer("86400"), 86400, None),
        (BODY + timer("86400"), 86400, 86400),
        (BODY, 604800, None),
        (BODY + timer("604800"), 604800, 604800),
        (BODY + timer("0"), None, None),
        (BODY + OUT, None, None),
        (timer("0") + OUT, None, None),
        (BODY + timer("86400") + OUT, 86400, 86400),
        (BODY + timer("99") + timer("86400") + timer("0"), 99, 99),
        (BODY + timer("soon"), 604800, 604800),
        (BODY + f"<x xmlns='urn:example'>{timer('5')}</x>", 604800, None),
    ],
)
async def test_what_a_message_says_holds(
    inside: str, change: int | None, lives: int | None, heard: Heard
) -> None:
    """F24, F30: absence says nothing, zero is off and burns nothing, what is malformed inherits."""
    heard.get(timer("604800"))
    heard.get(inside)
    found = heard.plugin.timer(PETER)
    assert found == (None if change is None else timedelta(seconds=change))
    assert [each.timer for each in heard.messages] == ([] if lives is None else [lives])
    assert [each.malformed for each in heard.messages] == ["soon" in inside] * len(heard.messages)
    assert len(heard.changes) == 1 + (change != 604800)


@pytest.mark.parametrize("secret", ENCRYPTED)
async def test_what_stands_beside_the_encryption_is_not_heard(secret: str, heard: Heard) -> None:
    """F31: it is the server's word."""
    heard.get(secret + timer("5") + OUT)
    copy = written(secret + timer("5"), f"{OWN}/other", to=PETER)
    heard.client.receive(carbon("sent", copy))
    assert (heard.messages, heard.changes) == ([], [])
    assert heard.plugin.timer(PETER) is None


def test_each_kind_of_encryption_is_tried() -> None:
    names = {fromstring(secret).tag for secret in ENCRYPTED if not secret.startswith("<body")}  # noqa: S314 -- the test's own text
    assert names >= OTHER_ENCRYPTION


@pytest.mark.parametrize(
    "received",
    [
        written(BODY + timer("5"), type="error"),
        written(BODY + timer("5"), sender="@"),
        written(timer("5"), to="@@"),
        result(written(BODY + timer("5"))),
        written(BODY + timer("5"), sender=f"{ROOM}/peter", type="groupchat"),
        carbon("received", written(BODY + timer("5")), PETER),
        carbon("sent", written(BODY + timer("5"))),
        written(forwarded(written(BODY + timer("5")))),
    ],
)
async def test_what_is_no_message_of_anybody_is_not_heard(received: str, heard: Heard) -> None:
    """Errors, nobody, archives (F26), rooms that were not joined, forged copies."""
    heard.client.receive(received)
    assert (heard.messages, heard.changes, heard.failures) == ([], [], [])
    assert heard.plugin.timer(PETER) is None


async def test_ones_own_other_devices_count(heard: Heard) -> None:
    """F27."""
    sent = written(BODY + timer("5"), f"{OWN}/other", to=f"{PETER}/x")
    heard.client.receive(carbon("sent", sent))
    heard.now += 1
    heard.client.receive(carbon("received", written(BODY + timer("7"), f"{PETER}/y")))
    assert [(each.conversation, each.timer, each.own) for each in heard.messages] == [
        (PETER, 5, True),
        (PETER, 7, False),
    ]
    assert [(each.new, each.own) for each in heard.changes] == [(5, True), (7, False)]


async def test_whoever_repeats_the_old_timer_undoes_nothing(heard: Heard) -> None:
    """F22: it has not seen the change yet; once it has, it changes what it likes."""
    heard.get(BODY + timer("604800"))
    heard.plugin.change(PETER, DAY)
    heard.get(BODY + timer("604800"))
    assert heard.plugin.timer(PETER) == DAY
    assert heard.messages[-1].timer == 604800
    heard.get(BODY + timer("86400"))
    heard.get(BODY + timer("604800"))
    assert heard.plugin.timer(PETER) == WEEK
    assert [(each.new, each.own) for each in heard.changes] == [
        (604800, False),
        (86400, True),
        (604800, False),
    ]


async def test_what_was_said_before_sets_nothing(heard: Heard) -> None:
    """F26: offline messages and a room's history come late."""
    heard.get(BODY + timer("604800"))
    heard.get(BODY + timer("5") + delayed(-1000))
    assert heard.plugin.timer(PETER) == WEEK
    assert [each.timer for each in heard.messages] == [604800, 5]


async def test_an_opt_out_is_repeated_until_it_is_noticed(heard: Heard) -> None:
    """XEP-0466 section 3.5; F25."""
    heard.get(BODY + timer("604800"))
    assert heard.reply().find(f"{{{NAMESPACE}}}ephemeral") is not None
    heard.plugin.change(PETER, None)
    for _ in range(2):
        assert [each.tag for each in heard.reply()][1:] == [OPT_OUT]
        heard.get(BODY + timer("604800"))
        assert heard.plugin.timer(PETER) is None
    heard.get(BODY)
    assert [each.tag for each in heard.reply()] == ["{jabber:client}body"]


# -- rooms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", ["", f"{PETER}/x"], ids=["hidden", "shown"])
@pytest.mark.parametrize(("affiliation", "holds"), [("member", DAY), ("none", None)])
async def test_in_a_room_its_members_set_the_timer(
    real: str, affiliation: str, holds: timedelta | None, heard: Heard
) -> None:
    """F28; but everybody says how long a message of theirs may live."""
    heard.enter("peter", affiliation, real)
    heard.get(BODY + timer("86400"), f"{ROOM}/peter", type="groupchat")
    assert heard.messages == [told(ROOM, f"{ROOM}/peter", 86400)]
    assert heard.plugin.timer(ROOM) == holds
    assert heard.plugin.timer(PETER) is None


async def test_a_private_message_through_a_room_says_nothing_of_the_room(heard: Heard) -> None:
    heard.enter("peter", "owner")
    heard.get(BODY + timer("86400"), f"{ROOM}/peter")
    assert [each.timer for each in heard.messages] == [86400]
    private: Any = heard.client.make_message(mto=JID(f"{ROOM}/peter"), mbody="x", mtype="chat")
    heard.plugin.set_timer(private, WEEK)
    heard.plugin.include_timer(private)
    assert private["ephemeral"]["timer"] == 604800
    assert (heard.changes, heard.plugin.timer(ROOM)) == ([], None)


@pytest.mark.parametrize("real", ["", f"{OWN}/rosa"], ids=["hidden", "shown"])
async def test_what_a_room_sends_back_is_ours(real: str, heard: Heard) -> None:
    rooms: Any = heard.client.plugin["xep_0045"]
    heard.enter("rosa", "member", real)
    heard.get(BODY + timer("3"), f"{ROOM}/rosa", type="groupchat")
    rooms.our_nicks[None][JID(ROOM)] = "rosa"
    sent = [heard.plugin.change(ROOM, each) for each in (DAY, WEEK)]
    assert {each["type"] for each in sent} == {"groupchat"}
    for each in sent:
        heard.get(BODY + timer(each["ephemeral"]["timer"]), f"{ROOM}/rosa", type="groupchat")
    assert [each.own for each in heard.messages] == [bool(real), True, True]
    assert heard.plugin.timer(ROOM) == WEEK


# -- limits ----------------------------------------------------------------------------------------


async def test_strangers_fill_no_memory(heard: Heard) -> None:
    """The one silent for longest is forgotten; who never speaks of timers takes no place."""
    known = heard.plugin._timers._known
    heard.get(BODY)
    assert not known
    for number in range(MAXIMUM_CONVERSATIONS + 1):
        heard.get(timer("5"), f"stranger-{number}@example.net/x")
        if number == 1:
            heard.get(BODY, "stranger-0@example.net/x")
    assert len(known) == MAXIMUM_CONVERSATIONS
    assert heard.plugin.timer("stranger-0@example.net") is not None
    assert heard.plugin.timer("stranger-1@example.net") is None


NAMES = st.sampled_from(
    [
        *("ephemeral", "i-want-out", "body", "encrypted", "delay", "sent", "received"),
        *("forwarded", "message", "result", "x", "store", "origin-id", "stanza-id"),
    ]
)
NAMESPACES = st.sampled_from(
    [
        *(NAMESPACE, "jabber:client", "urn:xmpp:carbons:2", "urn:xmpp:forward:0", "urn:example"),
        *("urn:xmpp:mam:2", "urn:xmpp:delay", "urn:xmpp:sid:0", "urn:xmpp:hints"),
        "urn:xmpp:omemo:2",
    ]
)
JIDS = st.sampled_from([OWN, f"{PETER}/x", f"{ROOM}/peter", ROOM, "@", "", "a" * 1100]) | st.text()
STAMPS = st.sampled_from(["2023-11-14T22:13:20Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
VALUES = JIDS | STAMPS | st.integers(-1, 2**33).map(str)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["timer", "from", "to", "type", "id", "stamp", "by"]), VALUES, max_size=3
)
TYPES = st.sampled_from(["chat", "normal", "groupchat", "headline", "error", "other", ""])


@st.composite
def element(draw: st.DrawFn, children: st.SearchStrategy[list[Element]]) -> Element:
    made = Element(f"{{{draw(NAMESPACES)}}}{draw(NAMES)}", draw(ATTRIBUTES))
    made.text = draw(st.text(max_size=5))
    made.extend(draw(children))
    return made


ELEMENTS = st.recursive(
    element(st.just([])), lambda inner: element(st.lists(inner, max_size=3)), max_leaves=8
)


@st.composite
def stanza(draw: st.DrawFn) -> Element:
    made = Element("{jabber:client}message", {"from": draw(JIDS), "to": draw(JIDS), "id": "7"})
    made.set("type", draw(TYPES))
    made.extend(draw(st.lists(ELEMENTS, max_size=5)))
    return made


@settings(max_examples=60)
@given(st.lists(stanza(), min_size=1, max_size=6))
def test_nothing_that_is_sent_raises(stanzas: list[Element]) -> None:
    """F42: no exception reaches slixmpp, nothing is answered, and what is told fits any timer."""
    asyncio.run(_received(stanzas))


async def _received(stanzas: list[Element]) -> None:
    heard = Heard(World().client("rosa"))
    heard.enter("peter", "member")
    streamed: Any = heard.client
    # Some of slixmpp's own raise where a JID is none.
    handlers = streamed._XMLStream__handlers
    handlers[:] = [handler for handler in handlers if handler.name == STANZAS]
    assert len(handlers) == 1
    for xml in stanzas:
        heard.client.receive(xml)
        copy = fromstring(carbon("sent", ""))  # noqa: S314 -- the test's own text
        copy[0][0].append(xml)
        heard.plugin._timers._from_carbon(Message(heard.client, xml=copy))  # type: ignore[no-untyped-call]
    assert heard.failures == []
    assert heard.client.sent == []
    assert all(1 <= each.timer < 2**32 for each in heard.messages)
