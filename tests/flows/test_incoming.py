"""The way in: whatever arrives is stored, or rejected with a reason; and only once."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import pytest
from slixmpp import JID

from eph_e2ee.clear import SHORTEST_CLEAR_TIMER, text_of
from eph_e2ee.errors import Reason, RemoteProtocolError, VaultUnavailable
from eph_e2ee.letters import _taken_apart
from eph_e2ee.model import BareJid, Direction, MessageId, Phase
from eph_e2ee.protocol import ephemeral
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp.clients import TheirPlugin

if TYPE_CHECKING:
    from eph_e2ee.xmpp.stanzas import Arrival
    from tests.flows.conftest import Party, Town

MINUTE = timedelta(minutes=1)
BODY = "{jabber:client}body"


def body(text: str) -> Element:
    made = Element(BODY)
    made.text = text
    return made


def timer(value: str) -> Element:
    return Element(f"{{{ephemeral.NAMESPACE}}}ephemeral", {"timer": value})


# -- the smaller functions -------------------------------------------------------------------------


def test_a_content_is_taken_apart() -> None:
    other = Element("{urn:example}other")
    wants_out = Element("{jabber:client}i-want-out")
    assert _taken_apart((body("text"), timer("5"), other, wants_out)) == ("text", (other,))
    assert _taken_apart((timer("5"),)) == (None, ())
    assert _taken_apart((body(""),)) == ("", ())
    assert _taken_apart((Element(BODY),)) == ("", ())
    assert _taken_apart((body("first"), body("second"))) == ("first", ())


@pytest.mark.parametrize("text", ["", "text", "\u00e4\U0001f600", "\ufffd"])
def test_a_legacy_text(text: str) -> None:
    assert text_of(text.encode()) == text


@pytest.mark.parametrize("data", [b"\xff", b"text\xc3", "\u00e4".encode("latin-1")])
def test_a_legacy_text_that_is_none(data: bytes) -> None:
    """F10: an error of Python's own would carry the plaintext along."""
    with pytest.raises(RemoteProtocolError) as caught:
        text_of(data)
    assert caught.value.reason is Reason.MALFORMED_BODY
    assert caught.value.__context__ is None


# -- with a peer -----------------------------------------------------------------------------------


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    made = await town.party("peter")
    await rosa.chat.send(made.jid, "good morning")
    await town.deliver()
    made.events["message"].clear()
    return made


async def sealed(rosa: Party, peter: Party, *content: Element, number: int = 0) -> Element:
    """A stanza with any content, sealed with the true ratchets; it is not sent."""
    account = rosa.chat._account
    jid = BareJid(peter.jid)
    envelope, audience = account.build(list(content), to=jid), await account.audience(jid)
    pending = await account.begin(
        lambda: account.seal(audience, envelope, None), lambda _: lambda _: None
    )
    await pending.finish()
    account.send(audience, MessageId(f"made {number}"), pending.value, None)
    stanza = rosa.client.sent.pop()
    xml = fromstring(tostring(stanza.xml))  # noqa: S314 -- the test's own text
    xml.set("from", rosa.client.boundjid.full)
    return xml


def rejections(peter: Party) -> list[Reason]:
    return [rejection.reason for rejection in peter.events["rejected"]]


async def test_messages_arrive_in_their_order(rosa: Party, peter: Party, town: Town) -> None:
    texts = [f"message {number}" for number in range(100)]
    for text in texts:
        await rosa.chat.send(peter.jid, text)
    await town.deliver()
    assert peter.bodies == texts
    assert peter.events["rejected"] == []


async def test_a_duplicate_is_dropped_whenever_it_comes(rosa: Party, peter: Party) -> None:
    """F36: in the same batch, later, and when the message is long gone."""
    xml = await sealed(rosa, peter, body("text"), timer("60"))
    for _ in range(3):
        peter.client.receive(xml)
    await peter.idle()
    peter.client.receive(xml)
    await peter.idle()
    (message,) = peter.events["message"]
    await message.mark_read()
    peter.clock.advance(61)
    peter.client.receive(xml)
    await peter.idle()
    assert len(peter.events["message"]) == 1
    assert peter.events["rejected"] == []


async def test_one_that_is_broken_takes_no_other_along(rosa: Party, peter: Party) -> None:
    """F38: whatever a peer or a server writes into the element."""
    stanzas = [await sealed(rosa, peter, body(f"{number}"), number=number) for number in range(6)]
    (key,) = stanzas[0].iter(f"{{{MODERN}}}key")
    key.text = "\u00e4"
    (key,) = stanzas[1].iter(f"{{{MODERN}}}key")
    data = base64.b64decode(key.text or "")
    key.text = base64.b64encode(data[:-1] + bytes([data[-1] ^ 1])).decode()
    (header,) = stanzas[2].iter(f"{{{MODERN}}}header")
    header.set("sid", "sentinel")
    SubElement(stanzas[3], f"{{{MODERN}}}encrypted")
    (payload,) = stanzas[4].iter(f"{{{MODERN}}}payload")
    payload.text = "AAAA"
    for xml in stanzas:
        peter.client.receive(xml)
    await peter.idle()
    assert peter.bodies == ["5"]
    assert rejections(peter) == [
        Reason.MALFORMED_OMEMO,
        Reason.UNDECRYPTABLE,
        Reason.MALFORMED_OMEMO,
        Reason.MALFORMED_OMEMO,
        Reason.UNDECRYPTABLE,
    ]
    assert {rejection.sender for rejection in peter.events["rejected"]} == {rosa.jid}


async def test_nothing_is_answered_to_what_is_broken(
    rosa: Party, peter: Party, caplog: pytest.LogCaptureFixture
) -> None:
    """F42, F10: no error stanza, no log, no second attempt."""
    xml = await sealed(rosa, peter, body("text"))
    (key,) = xml.iter(f"{{{MODERN}}}key")
    key.text = "sentinel"
    peter.client.sent.clear()
    peter.client.receive(xml)
    await peter.idle()
    assert rejections(peter) == [Reason.MALFORMED_OMEMO]
    assert peter.client.sent == []
    assert "sentinel" not in caplog.text


@pytest.mark.parametrize("failing", ["seen", "add_many"])
async def test_what_the_vault_refuses_is_told(
    failing: str, rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half done: the same message arrives when it is delivered again."""
    xml = await sealed(rosa, peter, body("text"), timer("60"))
    kind: Any = type(await peter.vault.transact(lambda tx: tx))

    def refuse(*_: Any) -> None:
        raise VaultUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(kind, failing, refuse)
        peter.client.receive(xml)
        await peter.idle()
    assert rejections(peter) == [Reason.NOT_STORED]
    assert peter.events["timer_changed"] == []
    assert await peter.chat.timer(rosa.jid) is None
    peter.client.receive(xml)
    await peter.idle()
    assert peter.bodies == ["text"]
    assert await peter.chat.timer(rosa.jid) == MINUTE
    assert len(peter.events["timer_changed"]) == 1


async def test_each_of_a_batch_that_the_vault_refuses_is_told(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are opened one by one, because of one that nobody has foreseen."""
    stanzas = [await sealed(rosa, peter, body(f"{number}"), number=number) for number in range(3)]
    letters, kind = peter.chat._incoming._letters, type(await peter.vault.transact(lambda tx: tx))
    opened: Any = letters.open

    async def unforeseen(arrival: Arrival, ids: tuple[str, ...]) -> Any:
        if arrival.message_id == stanzas[1].get("id"):
            raise RuntimeError("sentinel")
        return await opened(arrival, ids)

    def refuse(*_: Any) -> None:
        raise VaultUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(letters, "open", unforeseen)
        patch.setattr(kind, "add_many", refuse)
        for xml in stanzas:
            peter.client.receive(xml)
        await peter.idle()
    assert rejections(peter) == [Reason.NOT_STORED] * 3


async def test_the_timer_is_told_before_its_message(rosa: Party, peter: Party) -> None:
    order: list[str] = []
    for event in ("ephemeral_timer_changed", "ephemeral_message"):
        peter.client.add_event_handler(event, lambda _, event=event: order.append(event))
    peter.client.receive(await sealed(rosa, peter, body("text"), timer("60")))
    await peter.idle()
    assert order == ["ephemeral_timer_changed", "ephemeral_message"]


async def test_nothing_is_told_before_it_is_stored(rosa: Party, peter: Party) -> None:
    """F21: an event means that the message can be found, read and erased."""
    found: list[Any] = []

    def look(message: Any) -> None:
        found.append(peter.vault.transact_sync(lambda tx: tx.entry(message.number)))

    peter.client.add_event_handler("ephemeral_message", look)
    peter.client.receive(await sealed(rosa, peter, body("text")))
    await peter.idle()
    assert [entry.content.body for entry in found] == ["text"]


@pytest.mark.parametrize(
    ("value", "expected", "finding"),
    [
        ("60", MINUTE, None),
        ("0", None, None),
        ("sentinel", timedelta(hours=1), Finding.MALFORMED_TIMER),
        ("-5", timedelta(hours=1), Finding.MALFORMED_TIMER),
    ],
)
async def test_a_messages_own_timer(
    value: str, expected: timedelta | None, finding: Finding | None, rosa: Party, peter: Party
) -> None:
    """F30: zero is permanent and never at once; rubbish is under the conversation's."""
    peter.client.receive(await sealed(rosa, peter, body("first"), timer("3600")))
    await peter.idle()
    peter.client.receive(await sealed(rosa, peter, body("second"), timer(value), number=1))
    await peter.idle()
    message = peter.events["message"][-1]
    assert (message.body, message.timer) == ("second", expected)
    assert (finding is None) == (message.findings == ())
    if finding is not None:
        assert finding in message.findings


async def test_an_outer_timer_is_reported_and_not_obeyed(rosa: Party, peter: Party) -> None:
    """F31."""
    xml = await sealed(rosa, peter, body("text"))
    xml.append(timer("1"))
    peter.client.receive(xml)
    await peter.idle()
    (message,) = peter.events["message"]
    assert message.timer is None
    assert Finding.OUTER_EPHEMERAL in message.findings
    assert await peter.chat.timer(rosa.jid) is None


async def test_a_change_without_text_is_no_message(rosa: Party, peter: Party) -> None:
    xml = await sealed(rosa, peter, timer("60"))
    for _ in range(2):
        peter.client.receive(xml)
        await peter.idle()
    assert peter.events["message"] == []
    (change,) = peter.events["timer_changed"]
    assert (change.conversation, change.old, change.new, change.own) == (rosa.jid, None, 60, False)
    assert await peter.chat.history(rosa.jid, limit=1) != []


async def test_from_the_archive(rosa: Party, peter: Party) -> None:
    """F36: it is the same message, whichever way it came first."""
    xml = await sealed(rosa, peter, body("text"))
    result = Element("{jabber:client}message", {"from": peter.jid, "to": peter.jid})
    inner = SubElement(result, "{urn:xmpp:mam:2}result", {"id": "9"})
    SubElement(inner, "{urn:xmpp:forward:0}forwarded").append(xml)
    peter.client.receive(result)
    peter.client.receive(xml)
    await peter.idle()
    peter.client.receive(xml)
    await peter.idle()
    assert peter.bodies == ["text"]


async def test_what_was_accepted_can_be_read(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its namespaces are written out in the vault, where the peer had a letter for each."""
    account = rosa.chat._account
    items = "<b:i c:x='' d:y=''/>" * 1500
    names = "xmlns:b='urn:b' xmlns:c='urn:c' xmlns:d='urn:d'"
    before, after = account.build([body("hi")], to=BareJid(peter.jid)).split(b"</content>")
    parts = before, f"<list xmlns='urn:a' {names}>{items}</list></content>".encode(), after
    monkeypatch.setattr(account, "build", lambda *_, **__: b"".join(parts))
    peter.client.receive(await sealed(rosa, peter))
    await peter.idle()
    (message,) = peter.events["message"]
    (kept, *_) = await peter.chat.history(rosa.jid)
    for each in (message, kept):
        (element,) = each.elements
        assert [item.keys() for item in element] == [["{urn:c}x", "{urn:d}y"]] * 1500


async def test_a_message_of_another_device_of_ours(rosa: Party, peter: Party, town: Town) -> None:
    """F27: from the archive; sent, so that its timer runs already."""
    other = await town.party("peter")
    await rosa.chat.send(peter.jid, "first", timer=MINUTE)
    await town.deliver()
    await other.chat._account.audience(BareJid(rosa.jid))
    await other.chat.send(rosa.jid, "from the other")
    stanza = other.client.sent[-1]
    xml = fromstring(tostring(stanza.xml))  # noqa: S314 -- the test's own text
    xml.set("from", other.client.boundjid.full)
    result = Element("{jabber:client}message", {"from": peter.jid, "to": peter.jid})
    inner = SubElement(result, "{urn:xmpp:mam:2}result", {"id": "9"})
    SubElement(inner, "{urn:xmpp:forward:0}forwarded").append(xml)
    peter.events["message"].clear()
    peter.client.receive(result)
    await peter.idle()
    (message,) = peter.events["message"]
    assert (message.body, message.direction) == ("from the other", Direction.OUTGOING)
    assert message.conversation == rosa.jid
    assert message.phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("outer", "expected"),
    [(None, None), ("60", 60), ("1", SHORTEST_CLEAR_TIMER), ("0", None), ("sentinel", None)],
)
async def test_a_legacy_message(
    outer: str | None, expected: int | None, peter: Party, town: Town
) -> None:
    """F31: a timer in clear is honoured, not below a floor, and changes no setting."""
    client = town.world.client("anna")
    plugin = client.plug(TheirPlugin)
    await client.bind()
    to = JID(peter.jid)
    stanza = client.make_message(mto=to, mbody="from a legacy client", mtype="chat")
    encrypted, _ = await plugin.encrypt_message(stanza, to)
    if outer is not None:
        encrypted.xml.append(timer(outer))
    encrypted.send()
    await town.deliver()
    (message,) = peter.events["message"]
    assert (message.body, message.encrypted_with) == ("from a legacy client", OLD)
    assert message.timer == (None if expected is None else timedelta(seconds=expected))
    assert (Finding.CLEAR_TIMER in message.findings) == (expected is not None)
    assert await peter.chat.timer("anna@example.org") is None


async def test_stopping_leaves_no_task(rosa: Party, peter: Party) -> None:
    peter.client.receive(await sealed(rosa, peter, body("text")))
    await peter.chat._incoming.stop()
    assert not peter.chat._incoming._tasks


async def test_what_waits_for_an_archive_without_an_end_is_given_up_one_day(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: the archive has it; here it is rejected, and read with the next session."""
    monkeypatch.setattr("eph_e2ee.queues.MAXIMUM_WAITING", 2)
    incoming, own = peter.chat._incoming, BareJid(peter.jid)
    stanzas = [await sealed(rosa, peter, body(f"{number}"), number=number) for number in range(4)]
    incoming.hold(own)
    for xml in stanzas[:3]:
        peter.client.receive(xml)
    assert rejections(peter) == [Reason.NOT_STORED]
    incoming.release(own)
    await peter.idle()
    peter.client.receive(stanzas[3])
    await peter.idle()
    assert peter.bodies == ["0", "1", "3"]
    assert rejections(peter) == [Reason.NOT_STORED]
