"""Encrypted IQs at the rim: what is heard, who is waited for, what goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, tostring

import pytest

from eph_e2ee.errors import LocalProtocolError, NoAnswer, NotSent, Refusal
from eph_e2ee.model import DeviceId
from eph_e2ee.protocol import refusals
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.iqs import MAXIMUM_ID, MAXIMUM_OPEN, IqArrival, Iqs, SealedIq
from tests.xmpp.test_servertime import traces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eph_e2ee.vault.vault import Vault
    from tests.xmpp.clients import TestClient, World

ROSA, PETER = "rosa@example.org/rosa", "peter@example.org/phone"
ENCRYPTED = "<encrypted xmlns='urn:xmpp:omemo:2'/>"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
ERROR = f"<error type='cancel'><service-unavailable xmlns='{STANZAS}'/></error>"


@pytest.fixture
def client(world: World) -> TestClient:
    made = world.client("rosa")
    made.bound = True
    return made


@pytest.fixture
def iqs(client: TestClient, vault: Vault) -> Iterator[Iqs]:
    account = Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 1.0)
    yield account.iqs
    account.iqs.stop()


@pytest.fixture
def heard(iqs: Iqs) -> list[IqArrival]:
    """The questions that were heard."""
    heard: list[IqArrival] = []
    iqs.listen(heard.append)
    return heard


@pytest.fixture
def sent(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the client sends."""
    sent: list[Any] = []
    monkeypatch.setattr(client, "send", sent.append)
    return sent


def iq(kind: str, inside: str, *, sender: str | None = PETER, iq_id: str = "q1") -> str:
    named = "" if sender is None else f"from='{sender}'"
    return f"<iq xmlns='jabber:client' type='{kind}' id='{iq_id}' {named} to='{ROSA}'>{inside}</iq>"


# -- questions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["get", "set"])
async def test_a_question_is_heard(
    client: TestClient, heard: list[IqArrival], sent: list[Any], kind: str
) -> None:
    """And slixmpp does not answer it by itself."""
    client.receive(iq(kind, ENCRYPTED))
    (arrival,) = heard
    assert arrival.header == IqHeader(kind, "q1", PETER, ROSA)
    assert (arrival.sender, arrival.is_encrypted, arrival.refusal) == (
        "peter@example.org",
        True,
        None,
    )
    assert "encrypted" not in repr(arrival)
    assert sent == []


@pytest.mark.parametrize(
    "stanza",
    [
        iq("get", "<query xmlns='jabber:iq:version'/>"),
        iq("get", "<encrypted xmlns='eu.siacs.conversations.axolotl'/>"),
        iq("get", "<envelope xmlns='urn:xmpp:sce:1'><content/></envelope>"),
        iq("get", f"<envelope xmlns='urn:xmpp:sce:1'><content/></envelope>{ENCRYPTED}"),
        iq("get", ENCRYPTED, sender="peter@example.org"),
        iq("get", ENCRYPTED, iq_id=""),
        iq("get", ENCRYPTED, iq_id="x" * (MAXIMUM_ID + 1)),
    ],
)
async def test_what_is_not_heard_is_answered_by_slixmpp(
    client: TestClient, heard: list[IqArrival], sent: list[Any], stanza: str
) -> None:
    """XEP-0420 section 9: an envelope in clear is dropped, whatever stands beside it."""
    client.receive(stanza)
    assert heard == []
    (answer,) = sent
    assert answer["error"]["condition"] == "feature-not-implemented"


@pytest.mark.parametrize("sender", [None, "@", "/x"])
async def test_what_nobody_sent_is_dropped(
    client: TestClient, heard: list[IqArrival], sent: list[Any], sender: str | None
) -> None:
    """It cannot be answered, and raises nothing."""
    client.receive(iq("get", ENCRYPTED, sender=sender))
    assert (heard, sent) == ([], [])


@pytest.mark.parametrize("kind", ["result", "error"])
async def test_answers_that_nobody_awaits(
    client: TestClient, heard: list[IqArrival], sent: list[Any], kind: str
) -> None:
    client.receive(iq(kind, ENCRYPTED))
    assert (heard, sent) == ([], [])


async def test_what_did_not_open_is_answered_like_what_is_unknown(
    client: TestClient, iqs: Iqs, heard: list[IqArrival], sent: list[Any]
) -> None:
    """F42."""
    client.receive(iq("get", ENCRYPTED))
    iqs.decline(heard[0])
    client.receive(iq("get", "<query xmlns='jabber:iq:version'/>"))
    opened, unknown = [tostring(stanza.xml) for stanza in sent]
    assert opened == unknown


async def test_too_much_at_once(
    client: TestClient, iqs: Iqs, heard: list[IqArrival], sent: list[Any]
) -> None:
    client.receive(iq("get", ENCRYPTED))
    iqs.put_off(heard[0])
    (answer,) = sent
    assert (answer["type"], str(answer["to"]), answer["id"]) == ("error", PETER, "q1")
    assert refusals.read(answer.xml) == Refusal("resource-constraint", "wait")
    assert len(answer.xml) == 1


async def test_the_end_leaves_nothing_behind(client: TestClient, iqs: Iqs) -> None:
    """After it slixmpp answers as before."""
    before = traces(client)
    iqs.listen(lambda _: None)
    assert traces(client) != before
    iqs.stop()
    iqs.stop()
    assert traces(client) == before


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "inside"), [("result", ENCRYPTED), ("result", ""), ("error", ERROR)]
)
async def test_the_first_answer_counts(
    client: TestClient, iqs: Iqs, heard: list[IqArrival], kind: str, inside: str
) -> None:
    header = IqHeader("get", "q1", ROSA, PETER)
    with iqs.awaiting(header) as answer:
        client.receive(iq(kind, inside))
        client.receive(iq("result", "<other xmlns='urn:example'/>"))
        arrival = answer.result()
    assert arrival.header == IqHeader(kind, "q1", PETER, ROSA)
    assert arrival.is_encrypted == bool(inside == ENCRYPTED)
    expected = Refusal("service-unavailable", "cancel") if kind == "error" else None
    assert arrival.refusal == expected
    assert heard == []


@pytest.mark.parametrize(
    "stanza",
    [
        iq("result", ENCRYPTED, sender="peter@example.org"),
        iq("result", ENCRYPTED, sender="peter@example.org/desk"),
        iq("result", ENCRYPTED, sender="example.org"),
        iq("result", ENCRYPTED, sender=ROSA),
        iq("result", ENCRYPTED, sender=None),
        iq("result", ENCRYPTED, sender="@"),
        iq("result", ENCRYPTED, iq_id="q2"),
        iq("error", ERROR, sender="example.org"),
        iq("other", ENCRYPTED),
    ],
)
@pytest.mark.usefixtures("heard")
async def test_only_who_was_asked_can_answer(client: TestClient, iqs: Iqs, stanza: str) -> None:
    """Slixmpp itself would take an answer of our own server, or of the account's."""
    with iqs.awaiting(IqHeader("get", "q1", ROSA, PETER)) as answer:
        client.receive(stanza)
        assert not answer.done()


@pytest.mark.usefixtures("heard")
async def test_an_address_has_one_form(client: TestClient, iqs: Iqs) -> None:
    header = iqs.question("Peter@EXAMPLE.org/phone", "get")
    with iqs.awaiting(header) as answer:
        client.receive(iq("result", ENCRYPTED, iq_id=header.iq_id))
        assert answer.done()


async def test_only_so_many_are_awaited(iqs: Iqs) -> None:
    waiting = [iqs.awaiting(IqHeader("get", f"{i}", ROSA, PETER)) for i in range(MAXIMUM_OPEN + 1)]
    for each in waiting[:-1]:
        each.__enter__()
    with pytest.raises(NotSent), waiting[-1]:
        pass
    for each in waiting[:-1]:
        each.__exit__(None, None, None)
    assert iqs._open == {}


async def test_at_the_end_nobody_waits_any_more(iqs: Iqs) -> None:
    with iqs.awaiting(IqHeader("get", "q1", ROSA, PETER)) as answer:
        iqs.stop()
        with pytest.raises(NoAnswer):
            answer.result()
        iqs.stop()


# -- what goes out ---------------------------------------------------------------------------------


def test_the_header_of_a_question(iqs: Iqs) -> None:
    """Its id is another one each time, and no one can guess it."""
    one, two = [iqs.question(PETER, "set") for _ in range(2)]
    assert (one.kind, one.sender, one.recipient) == ("set", ROSA, PETER)
    assert one.iq_id != two.iq_id
    assert len(one.iq_id) >= 32


@pytest.mark.parametrize("jid", ["peter@example.org", "example.org", "", "@/x", ROSA])
def test_who_cannot_be_asked(iqs: Iqs, jid: str) -> None:
    with pytest.raises(LocalProtocolError):
        iqs.question(jid, "get")


async def test_the_header_of_an_answer(
    client: TestClient, iqs: Iqs, heard: list[IqArrival]
) -> None:
    client.receive(iq("get", ENCRYPTED))
    assert iqs.reply(heard[0], "result") == IqHeader("result", "q1", ROSA, PETER)


@pytest.mark.parametrize("kind", ["get", "set", "result", "error"])
async def test_what_an_iq_shows(iqs: Iqs, sent: list[Any], kind: str) -> None:
    """RFC 6120 section 8.3.1: an error has an `<error/>`; here it says nothing."""
    encrypted = Element("{urn:xmpp:omemo:2}encrypted")
    iqs.send(IqHeader(kind, "q1", ROSA, PETER), SealedIq(encrypted, frozenset({DeviceId(1)})))
    (stanza,) = sent
    assert (stanza["type"], stanza["id"], str(stanza["to"])) == (kind, "q1", PETER)
    assert stanza.xml[0] is encrypted
    assert len(stanza.xml) == (2 if kind == "error" else 1)
    if kind == "error":
        assert refusals.read(stanza.xml) == Refusal("undefined-condition", "cancel")
