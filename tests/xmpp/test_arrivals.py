"""Where messages come from, and who is believed: the stream, carbons, an archive, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement

import pytest

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.arrivals import Arrivals
from eph_e2ee.xmpp.members import Members
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.stanzas import Way

if TYPE_CHECKING:
    from eph_e2ee.model import MessageId
    from eph_e2ee.xmpp.stanzas import Arrival
    from tests.xmpp.clients import TestClient, World

OWN, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
TO = "rosa@example.org/rosa"
SECRET = f"<encrypted xmlns='{MODERN}'/>"
CLEAR = "<body>sentinel in clear</body>"
ERROR = "xmlns='jabber:client' type='error'>"
STANZA_ID = "<stanza-id xmlns='urn:xmpp:sid:0' id='{}' by='{}'/>"


class Heard:
    """Somebody who listens."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.bounces: list[tuple[BareJid, MessageId]] = []

    def bounced(self, sender: BareJid, message_id: MessageId) -> None:
        self.bounces.append((sender, message_id))


@pytest.fixture
def client(world: World) -> TestClient:
    made = world.client("rosa")
    for plugin in ("xep_0297", "xep_0280"):
        made.register_plugin(plugin)
    return made


@pytest.fixture
def arrivals(client: TestClient) -> Arrivals:
    return Arrivals(client, lambda: OWN, Members(client))


@pytest.fixture
def heard(arrivals: Arrivals) -> Heard:
    listener = Heard()
    arrivals.listen(listener.arrivals.append, listener.bounced)
    return listener


def message(inside: str, sender: str | None = PETER, to: str = TO, **more: str) -> str:
    attributes = {"to": to, "id": "7"} | ({} if sender is None else {"from": sender}) | more
    written = " ".join(f"{name}='{value}'" for name, value in attributes.items())
    return f"<message xmlns='jabber:client' {written}>{inside}</message>"


def forwarded(inside: str, delay: str = "") -> str:
    return f"<forwarded xmlns='urn:xmpp:forward:0'>{delay}{inside}</forwarded>"


def carbon(kind: str, inside: str, sender: str | None = OWN) -> str:
    copy = f"<{kind} xmlns='urn:xmpp:carbons:2'>{forwarded(inside)}</{kind}>"
    return message(copy, sender)


def result(inside: str, sender: str | None = OWN, query: str = "none", name: str = "a1") -> str:
    attributes = f"xmlns='urn:xmpp:mam:2' queryid='{query}' id='{name}'"
    return message(f"<result {attributes}>{forwarded(inside)}</result>", sender)


def silent(client: TestClient, heard: Heard, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether nothing was taken, answered, or written to a log."""
    return not (heard.arrivals or heard.bounces or client.sent or caplog.records)


# -- carbons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", [OWN, f"{OWN.upper()}"])
async def test_copies_of_both_directions_are_heard(
    sender: str, client: TestClient, heard: Heard
) -> None:
    """F27: as what they are, under our own archive's id."""
    got = message(SECRET + STANZA_ID.format("a1", OWN), f"{PETER}/x")
    sent = message(SECRET + STANZA_ID.format("a2", OWN), f"{OWN}/other", to=f"{PETER}/x", id="8")
    client.receive(carbon("received", got, sender))
    client.receive(carbon("sent", sent, sender))
    found = [(each.sender, each.recipient, each.archive_id) for each in heard.arrivals]
    assert found == [(PETER, OWN, "a1"), (OWN, PETER, "a2")]
    assert [each.message_id for each in heard.arrivals] == ["7", "8"]
    assert {each.way for each in heard.arrivals} == {Way.CARBON}


@pytest.mark.parametrize("kind", ["sent", "received"])
@pytest.mark.parametrize(
    "sender", [PETER, f"{PETER}/x", "example.org", "rosa@example.net", "xrosa@example.org"]
)
async def test_copies_from_anybody_else_are_not_heard(
    kind: str,
    sender: str,
    client: TestClient,
    heard: Heard,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """XEP-0280 section 11: otherwise anyone writes in anyone's name (CVE-2017-5589 and others)."""
    client.receive(carbon(kind, message(SECRET, OWN if kind == "sent" else PETER), sender))
    assert silent(client, heard, caplog)


@pytest.mark.parametrize("sender", [PETER, "rosa@example.net/x", "example.org"])
async def test_a_copy_of_what_somebody_else_has_sent_is_none_of_ours(
    sender: str, client: TestClient, heard: Heard
) -> None:
    client.receive(carbon("sent", message(SECRET, sender, to=PETER)))
    assert heard.arrivals == []


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "<x xmlns='y'/>",
        message(CLEAR),
        message(SECRET, type="error"),
        message(SECRET, type="groupchat"),
        message(SECRET, "@"),
        message(SECRET, to="@@"),
        message(carbon("received", message(SECRET))),
        message(f"<x xmlns='urn:example'>{SECRET}</x>"),
    ],
)
@pytest.mark.parametrize("kind", ["sent", "received"])
async def test_a_copy_of_nothing_is_nothing(
    kind: str, inside: str, client: TestClient, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    client.receive(carbon(kind, inside))
    assert silent(client, heard, caplog)


async def test_a_copy_does_not_name_its_message_for_another_archive(
    client: TestClient, heard: Heard
) -> None:
    """XEP-0359 section 6: a room's id, or a sender's own, is none of our archive's."""
    ids = STANZA_ID.format("r1", "room@rooms.example.org") + STANZA_ID.format("p1", PETER)
    client.receive(carbon("received", message(SECRET + ids)))
    assert [each.archive_id for each in heard.arrivals] == [None]


@pytest.mark.parametrize("refused", [False, True])
async def test_copies_are_asked_for_and_can_be_refused(
    refused: bool,  # noqa: FBT001 -- a parameter
    arrivals: Arrivals,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions: list[Element] = []

    def answer(asking: TestClient, iq: Element) -> None:
        questions.append(iq)
        kind = "error" if refused else "result"
        made = Element("{jabber:client}iq", {"id": iq.get("id", ""), "type": kind})
        if refused:
            error = SubElement(made, "{jabber:client}error", {"type": "cancel"})
            SubElement(error, "{urn:ietf:params:xml:ns:xmpp-stanzas}forbidden")
        asking.receive(made)

    monkeypatch.setattr(world, "asked", answer)
    await arrivals.enable_carbons()
    assert [child.tag for iq in questions for child in iq] == ["{urn:xmpp:carbons:2}enable"]


# -- the archive -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", [OWN, None, f"{OWN}/x"])
async def test_a_result_that_nobody_waits_for_is_an_arrival(
    sender: str | None, client: TestClient, heard: Heard
) -> None:
    client.receive(result(message(SECRET), sender))
    assert [(each.archive_id, each.way) for each in heard.arrivals] == [("a1", Way.ARCHIVE)]


async def test_the_results_of_a_query_are_collected(
    arrivals: Arrivals, client: TestClient, heard: Heard
) -> None:
    """Those without an encrypted message count as read, and hold nothing."""
    page = arrivals.collect("q", OWN)
    for number, inside in enumerate(
        [message(SECRET), message(CLEAR), "", message(f"<encrypted xmlns='{OLD}'/>")]
    ):
        client.receive(result(inside, query="q", name=f"a{number}"))
    assert [(name, arrival is not None) for name, arrival in page] == [
        ("a0", True),
        ("a1", False),
        ("a2", False),
        ("a3", True),
    ]
    assert heard.arrivals == []
    arrivals.collected("q")
    client.receive(result(message(SECRET), query="q"))
    assert len(page) == 4
    assert len(heard.arrivals) == 1
    arrivals.collected("q")


@pytest.mark.parametrize("sender", [PETER, "example.org", "rosa@example.net", "@"])
async def test_nobody_else_adds_to_a_query(
    sender: str, arrivals: Arrivals, client: TestClient, heard: Heard
) -> None:
    """Nor moves the place from which it goes on: what was skipped would never be read."""
    page = arrivals.collect("q", OWN)
    client.receive(result(message(SECRET), sender, query="q"))
    client.receive(result(message(CLEAR), sender, query="q"))
    client.receive(result("", sender, query="q"))
    assert page == []
    assert heard.arrivals == []
    assert client.sent == []


# -- the stream, and whatever else comes -----------------------------------------------------------


@pytest.mark.parametrize("sender", ["@", "@example.org", "a@b@c", "x" * 1100 + "@example.org"])
@pytest.mark.parametrize(
    "make",
    [
        lambda sender: message(SECRET, sender),
        lambda sender: result(message(SECRET), sender),
        lambda sender: result(message(SECRET, sender)),
        lambda sender: carbon("received", message(SECRET, sender)),
        lambda sender: message(SECRET, sender, type="groupchat"),
        lambda sender: message("<error type='cancel'/>", sender, type="error"),
    ],
)
async def test_an_address_that_is_none_is_nobodys(
    make: Any, sender: str, client: TestClient, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """F42: nothing raises into slixmpp, which would answer with an error."""
    client.receive(make(sender))
    assert silent(client, heard, caplog)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (f"from='{PETER}' id='7'", (PETER, "7")),
        (f"from='{PETER}/x' id='7'", (PETER, "7")),
        (f"from='{PETER}' id=''", (PETER, "")),
        (f"from='{PETER}'", (PETER, "")),
        ("from='' id='7'", (OWN, "7")),
        ("id='7'", (OWN, "7")),
    ],
)
async def test_what_comes_back_as_an_error(
    attributes: str, expected: Any, client: TestClient, heard: Heard
) -> None:
    client.receive(f"<message {attributes} {ERROR}{SECRET}{CLEAR}<error type='cancel'/></message>")
    assert heard.bounces == [expected]
    assert heard.arrivals == []


async def test_after_the_end_nothing_is_heard_and_nothing_is_left(
    arrivals: Arrivals, client: TestClient, heard: Heard
) -> None:
    stream: Any = client
    arrivals.stop()
    names = [handler.name for handler in stream._XMLStream__handlers]
    assert not [name for name in names if name.startswith("eph_e2ee")]
    for stanza in (
        message(SECRET),
        result(message(SECRET)),
        carbon("received", message(SECRET)),
        message("<error type='cancel'/>", type="error"),
    ):
        client.receive(stanza)
    assert (heard.arrivals, heard.bounces) == ([], [])
    arrivals.stop()


async def test_a_query_of_a_rooms_archive_is_answered_by_the_room(
    arrivals: Arrivals, client: TestClient, heard: Heard
) -> None:
    """Not by our own server in its place, nor by another room."""
    room = BareJid("room@rooms.example.org")
    page = arrivals.collect("q", room)
    inside = message(SECRET, f"{room}/nick", type="groupchat")
    for sender in (OWN, None, "other@rooms.example.org", "rooms.example.org"):
        client.receive(result(inside, sender, query="q"))
    assert page == []
    assert heard.arrivals == []
    client.receive(result(inside, room, query="q"))
    ((name, arrival),) = page
    assert (name, arrival is not None) == ("a1", True)
