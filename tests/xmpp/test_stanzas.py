"""What stands outside of the encryption: read with suspicion, written sparsely."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest
from slixmpp.stanza import Message

from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.stanzas import (
    Arrival,
    Way,
    archived,
    bare,
    carbon,
    live,
    outer_message,
    remove_children,
)

if TYPE_CHECKING:
    from tests.xmpp.clients import World

OWN = BareJid("rosa@example.org")
PETER = BareJid("peter@example.org")
HEAD = "from='Peter@example.org/x' to='rosa@example.org/y' id='outer'"
DELAY = "<delay xmlns='urn:xmpp:delay' from='example.org' stamp='{}'/>"


def message(inside: str = "", head: str = HEAD) -> Any:
    xml = f"<message xmlns='jabber:client' {head}>{inside}</message>"
    return Message(xml=fromstring(xml))  # type: ignore[no-untyped-call]  # noqa: S314 -- the test's own text


def result(inside: str, delay: str = "", head: str = "from='rosa@example.org'") -> Any:
    return message(
        "<result xmlns='urn:xmpp:mam:2' id='archived'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{delay}{inside}</forwarded></result>",
        head,
    )


def taken(arrival: Arrival | None) -> Arrival:
    assert arrival is not None
    return arrival


def test_a_message_of_the_stream() -> None:
    arrival = taken(live(message(), OWN))
    assert (arrival.sender, arrival.recipient) == (PETER, OWN)
    assert (arrival.message_id, arrival.archive_id, arrival.sent_at) == ("outer", None, None)


@pytest.mark.parametrize("kind", ["error", "groupchat"])
def test_what_is_no_message_to_us(kind: str) -> None:
    assert live(message(head=f"{HEAD} type='{kind}'"), OWN) is None
    inner = f"<message xmlns='jabber:client' type='{kind}' {HEAD}/>"
    assert archived(result(inner), OWN) is None


@pytest.mark.parametrize("head", ["from='@'", f"{HEAD.replace('rosa@example.org/y', '@@')}"])
def test_an_address_that_is_none(head: str) -> None:
    assert live(message(head=head), OWN) is None


def test_no_address_is_our_own() -> None:
    """RFC 6120: without `from` it is our own account's, without `to` it is to us."""
    arrival = taken(live(message(head=""), OWN))
    assert (arrival.sender, arrival.recipient, arrival.message_id) == (OWN, OWN, "")


def test_the_senders_own_id_comes_first() -> None:
    """F36: a server may give a stanza another id."""
    origin = "<origin-id xmlns='urn:xmpp:sid:0' id='origin'/>"
    assert taken(live(message(origin), OWN)).message_id == "origin"
    assert taken(live(message("<origin-id xmlns='urn:xmpp:sid:0'/>"), OWN)).message_id == "outer"


@pytest.mark.parametrize(
    ("by", "found"),
    [(OWN, "real"), ("example.org", None), ("rooms.example.org", None), (PETER, None), ("", None)],
)
def test_only_our_own_archive_names_messages(by: str, found: str | None) -> None:
    """XEP-0359 section 6: otherwise a sender could name one that is yet to come."""
    stanza_id = f"<stanza-id xmlns='urn:xmpp:sid:0' id='real' by='{by}'/>"
    other = "<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='example.net'/>"
    assert taken(live(message(other + stanza_id), OWN)).archive_id == found


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.5Z", datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_when_it_was_sent(stamp: str, moment: datetime | None) -> None:
    """F13: the servers' word; what cannot be read is as if it were not there."""
    assert taken(live(message(DELAY.format(stamp)), OWN)).sent_at == moment
    inner = f"<message xmlns='jabber:client' {HEAD}/>"
    assert taken(archived(result(inner, DELAY.format(stamp)), OWN)).sent_at == moment


INNER = f"<message xmlns='jabber:client' {HEAD}/>"


@pytest.mark.parametrize("head", ["from='rosa@example.org'", ""])
def test_a_message_out_of_our_archive(head: str) -> None:
    arrival = taken(archived(result(INNER, head=head), OWN))
    assert (arrival.sender, arrival.recipient) == (PETER, OWN)
    assert (arrival.message_id, arrival.archive_id) == ("outer", "archived")
    assert arrival.xml.get("id") == "outer"


def test_the_archives_time_goes_before_the_messages_own() -> None:
    delay = DELAY.format("2020-01-01T00:00:00Z")
    inner = f"<message xmlns='jabber:client' {HEAD}>{delay}</message>"
    arrival = taken(archived(result(inner, DELAY.format("2026-01-01T00:00:00Z")), OWN))
    assert arrival.sent_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert taken(archived(result(inner), OWN)).sent_at == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("sender", ["peter@example.org", "example.org", "peter@example.org/x"])
def test_an_archive_of_anybody_elses_is_not_heard(sender: str) -> None:
    """Anyone can send what looks like a result."""
    assert archived(result(INNER, head=f"from='{sender}'"), OWN) is None


def copied(kind: str, inside: str, head: str = "from='rosa@example.org'", delay: str = "") -> Any:
    forwarded = f"<forwarded xmlns='urn:xmpp:forward:0'>{delay}{inside}</forwarded>"
    return message(f"<{kind} xmlns='urn:xmpp:carbons:2'>{forwarded}</{kind}>", head)


def test_a_copy_of_what_another_device_of_ours_has_got() -> None:
    stanza_id = f"<stanza-id xmlns='urn:xmpp:sid:0' id='real' by='{OWN}'/>"
    inner = f"<message xmlns='jabber:client' {HEAD}>{stanza_id}</message>"
    delay = DELAY.format("2026-01-01T00:00:00Z")
    arrival = taken(carbon(copied("received", inner, delay=delay), OWN))
    assert (arrival.sender, arrival.recipient, arrival.way) == (PETER, OWN, Way.CARBON)
    assert (arrival.message_id, arrival.archive_id) == ("outer", "real")
    assert arrival.sent_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert arrival.xml.get("id") == "outer"


def test_a_copy_of_what_we_have_sent_is_from_ourselves() -> None:
    ours = f"<message xmlns='jabber:client' from='{OWN}/x' to='{PETER}/y' id='7'/>"
    arrival = taken(carbon(copied("sent", ours), OWN))
    assert (arrival.sender, arrival.recipient) == (OWN, PETER)
    assert carbon(copied("sent", INNER), OWN) is None
    assert taken(carbon(copied("sent", "<message xmlns='jabber:client'/>"), OWN)).sender == OWN


@pytest.mark.parametrize("sender", ["peter@example.org", "example.org", "rosa@example.net"])
@pytest.mark.parametrize("kind", ["sent", "received"])
def test_only_our_own_server_copies(kind: str, sender: str) -> None:
    """XEP-0280 section 11."""
    inner = f"<message xmlns='jabber:client' from='{OWN}' to='{PETER}'/>"
    assert carbon(copied(kind, inner, f"from='{sender}'"), OWN) is None
    assert carbon(copied(kind, inner), OWN) is not None


@pytest.mark.parametrize(
    "stanza",
    [
        message(head="from='rosa@example.org'"),
        message("<sent xmlns='urn:xmpp:carbons:2'/>", "from='rosa@example.org'"),
        copied("received", ""),
        copied("received", "<message xmlns='other'/>"),
        copied("received", "<message xmlns='jabber:client' type='error'/>"),
        copied("received", "<message xmlns='jabber:client' type='groupchat'/>"),
        copied("received", "<message xmlns='jabber:client' from='@'/>"),
        copied("private", INNER),
    ],
)
def test_a_copy_of_nothing(stanza: Any) -> None:
    assert carbon(stanza, OWN) is None


@pytest.mark.parametrize("inside", ["", "<x xmlns='y'/>", "<message xmlns='other'/>"])
def test_a_result_without_a_message(inside: str) -> None:
    assert archived(result(inside), OWN) is None
    assert archived(message(head="from='rosa@example.org'"), OWN) is None


def test_an_arrival_does_not_print_its_stanza() -> None:
    """F10: legacy clients put text in clear beside the encrypted element."""
    assert "sentinel" not in repr(live(message("<body>sentinel</body>"), OWN))


def test_names_are_brought_to_one_form() -> None:
    assert bare("PETER@Example.ORG/Phone") == PETER
    with pytest.raises(ValueError, match="nodepart"):
        bare("@")


@pytest.mark.parametrize("namespace", [MODERN, OLD])
async def test_the_stanza_around_it_says_next_to_nothing(namespace: str, world: World) -> None:
    """F31 to F34: no body, no timer, one hint; a store hint, since the archive has to have it."""
    encrypted = Element(f"{{{namespace}}}encrypted")
    stanza = outer_message(world.client("rosa"), PETER, MessageId("7"), [encrypted])
    xml = fromstring(tostring(stanza.xml))  # noqa: S314 -- the test's own text
    assert [child.tag for child in xml] == [
        f"{{{namespace}}}encrypted",
        "{urn:xmpp:sid:0}origin-id",
        "{urn:xmpp:eme:0}encryption",
        "{urn:xmpp:hints}store",
    ]
    assert xml.attrib | {"{http://www.w3.org/XML/1998/namespace}lang": ""} == {
        "to": PETER,
        "type": "chat",
        "id": "7",
        "{http://www.w3.org/XML/1998/namespace}lang": "",
    }
    assert xml[1].attrib == {"id": "7"}
    assert xml[2].attrib == {"namespace": namespace, "name": "OMEMO"}


def test_a_stanza_is_emptied_in_place() -> None:
    stanza = message("<body>text</body><x xmlns='y'/>")
    remove_children(stanza.xml)
    assert list(stanza.xml) == []
    assert stanza["id"] == "outer"
