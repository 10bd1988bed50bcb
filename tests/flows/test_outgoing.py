"""The way out: what stands in an envelope, and that nothing leaves by another way."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, tostring

import pytest

from eph_e2ee.drafts import AGREED, Draft, content_of
from eph_e2ee.errors import (
    Cause,
    LocalProtocolError,
    NoEligibleDevices,
    NotConnected,
    NotSent,
    VaultDamaged,
    VaultUnavailable,
)
from eph_e2ee.model import BareJid, Delivery, MessageId, Phase, Seconds
from eph_e2ee.protocol import ephemeral, marks, setting
from eph_e2ee.protocol.ephemeral import Kind
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from eph_e2ee.vault.archive import Transaction
    from tests.flows.conftest import Party, Town

PETER = BareJid("peter@example.org")
MINUTE, HOUR = Seconds(60), Seconds(3600)
LOCATION = Element("{http://jabber.org/protocol/geoloc}geoloc")
TAGS = {
    "{jabber:client}body": "body",
    "{urn:xmpp:ephemeral:0}ephemeral": "timer",
    "{urn:xmpp:ephemeral:0}i-want-out": "opt-out",
    LOCATION.tag: "element",
}


def content(
    body: str | None = None,
    timer: Seconds | None = None,
    *elements: Element,
    opting_out: bool = False,
) -> list[Element]:
    return content_of(Draft(PETER, body, elements), timer, opting_out=opting_out)


def names(elements: list[Element]) -> list[str]:
    return [TAGS[element.tag] for element in elements]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (content("text"), ["body"]),
        (content("text", MINUTE), ["body", "timer"]),
        (content("text", None, LOCATION), ["body", "element"]),
        (content("text", MINUTE, LOCATION), ["body", "timer", "element"]),
        (content("text", opting_out=True), ["body", "opt-out"]),
        (content("text", MINUTE, opting_out=True), ["body", "timer"]),
        (content(None, MINUTE), ["timer"]),
        (content(None, None), ["timer", "opt-out"]),
        (content(None, MINUTE, LOCATION), ["timer", "element"]),
        (content(None, None, LOCATION), ["element"]),
    ],
)
def test_what_a_content_holds(found: list[Element], expected: list[str]) -> None:
    assert names(found) == expected


@pytest.mark.parametrize("timer", [None, MINUTE])
@pytest.mark.parametrize("elements", [(), (LOCATION,)])
def test_no_text_goes_out_with_a_timer_of_zero(
    timer: Seconds | None, elements: tuple[Element, ...]
) -> None:
    """F30: other clients burn such a message at once."""
    for opting_out in (False, True):
        found = content("text", timer, *elements, opting_out=opting_out)
        assert not any(element.get("timer") == "0" for element in found)


def test_off_is_said_in_every_clients_words() -> None:
    zero, opt_out = content(None, None)
    assert zero.get("timer") == "0"
    assert opt_out.tag.endswith("i-want-out")
    assert ephemeral.read([zero, opt_out]).kind is Kind.OFF


@pytest.mark.parametrize("timer", [0, -1, 2**32])
def test_a_timer_that_is_none_cannot_be_sent(timer: int) -> None:
    """F16, F30."""
    with pytest.raises(LocalProtocolError):
        content("text", Seconds(timer))


@pytest.mark.parametrize(
    "element",
    [
        ephemeral.write(HOUR),
        ephemeral.write_opt_out(),
        Element("{urn:xmpp:ephemeral:0}ephemeral", {"timer": "0"}),
        Element("{jabber:client}body"),
        Element(f"{{{setting.NAMESPACE}}}setting"),
        *marks.write_wanted(),
        marks.write_displayed(MessageId("7")),
        Element(f"{{{marks.NAMESPACE}}}read"),
    ],
)
def test_what_is_sent_by_itself_is_not_an_element(element: Element) -> None:
    """F30, F29: a second one would contradict the first."""
    with pytest.raises(LocalProtocolError):
        content("text", MINUTE, element)


def test_a_draft_does_not_print() -> None:
    """F10."""
    assert "sentinel" not in repr(Draft(PETER, "sentinel", (Element("sentinel"),)))
    assert repr(AGREED) == "AGREED"


# -- with a peer -----------------------------------------------------------------------------------


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


async def test_a_message_arrives_as_it_was_sent(rosa: Party, peter: Party, town: Town) -> None:
    sent = await rosa.chat.send(peter.jid, "text", timer=timedelta(minutes=1), elements=[LOCATION])
    await town.deliver()
    (received,) = peter.events["message"]
    assert received.body == sent.body == "text"
    assert received.timer == sent.timer == timedelta(minutes=1)
    assert [tostring(each) for each in received.elements] == [tostring(LOCATION)]
    assert received.message_id == sent.message_id
    assert received.findings == ()
    assert peter.events["rejected"] == []


async def test_a_timer_that_changes_meanwhile(rosa: Party, peter: Party, town: Town) -> None:
    """F29: both sides have the same timer for each message, whichever came first."""
    await rosa.chat.send(peter.jid, "first", timer=timedelta(hours=1))
    sent = await asyncio.gather(
        *(rosa.chat.send(peter.jid, f"before {number}") for number in range(3)),
        rosa.chat.set_timer(peter.jid, timedelta(minutes=1)),
        *(rosa.chat.send(peter.jid, f"after {number}") for number in range(3)),
    )
    await town.deliver()
    ours = {message.body: message.timer for message in sent if message is not None}
    theirs = {message.body: message.timer for message in peter.events["message"]}
    assert {body: theirs[body] for body in ours} == ours
    assert set(ours.values()) == {timedelta(hours=1), timedelta(minutes=1)}
    assert await peter.chat.timer(rosa.jid) == timedelta(minutes=1)


async def test_a_permanent_message_among_others(rosa: Party, peter: Party, town: Town) -> None:
    await rosa.chat.send(peter.jid, "first", timer=timedelta(hours=1))
    permanent = await rosa.chat.send(peter.jid, "second", timer=None)
    assert permanent.timer is None
    assert (await rosa.chat.send(peter.jid, "third")).timer == timedelta(hours=1)
    await town.deliver()
    timers = [message.timer for message in peter.events["message"]]
    assert timers == [timedelta(hours=1), None, timedelta(hours=1)]
    assert await peter.chat.timer(rosa.jid) == timedelta(hours=1)


async def test_a_commit_that_fails_sends_nothing(
    rosa: Party, peter: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F43, F29: neither the message nor the setting has changed; the next one goes out."""
    await rosa.chat.send(peter.jid, "first", timer=timedelta(hours=1))
    await town.deliver()

    def refuse(*_: Any) -> Any:
        def work(_: Transaction) -> None:
            raise VaultUnavailable("the disk is full")

        return work

    with monkeypatch.context() as patch:
        patch.setattr(rosa.chat._outgoing, "_archived", refuse)
        with pytest.raises(VaultUnavailable):
            await rosa.chat.send(peter.jid, "lost", timer=timedelta(minutes=1))
    assert rosa.client.sent == []
    assert await rosa.chat.timer(peter.jid) == timedelta(hours=1)
    await rosa.chat.send(peter.jid, "second")
    await town.deliver()
    assert peter.bodies == ["first", "second"]
    assert [message.timer for message in peter.events["message"]] == [timedelta(hours=1)] * 2
    second, first, line = await rosa.chat.history(peter.jid)
    assert (second.body, first.body, line.body) == ("second", "first", None)


async def test_nobody_to_encrypt_to(rosa: Party) -> None:
    """F39, F40: no plaintext instead; nothing in the archive; the peer is named."""
    with pytest.raises(NoEligibleDevices) as caught:
        await rosa.chat.send("nobody@example.org", "sentinel")
    assert caught.value.recipients == {"nobody@example.org"}
    assert caught.value.causes == {Cause.NO_DEVICE}
    assert "publishes no OMEMO device" in str(caught.value)
    assert "sentinel" not in str(caught.value)
    assert rosa.client.sent == []
    assert await rosa.chat.history("nobody@example.org") == []


async def test_devices_that_come_later_are_found(rosa: Party, town: Town) -> None:
    with pytest.raises(NoEligibleDevices):
        await rosa.chat.send("peter@example.org", "too early")
    peter = await town.party("peter")
    await rosa.chat.send(peter.jid, "now")
    await town.deliver()
    assert peter.bodies == ["now"]


async def test_without_a_session(rosa: Party, peter: Party) -> None:
    rosa.client.bound = False
    with pytest.raises(NotConnected):
        await rosa.chat.send(peter.jid, "text")
    assert await rosa.chat.history(peter.jid) == []


async def test_after_the_end_nothing_is_sent(rosa: Party, peter: Party) -> None:
    await rosa.chat.close()
    with pytest.raises(NotSent):
        await rosa.chat.send(peter.jid, "text")
    assert rosa.client.sent == []


async def test_the_timer_runs_from_the_sending(rosa: Party, peter: Party, town: Town) -> None:
    """F17, F18."""
    sent = await rosa.chat.send(peter.jid, "text", timer=timedelta(minutes=1))
    await town.deliver()
    assert sent.delivery is Delivery.SENT
    assert sent.deadline == rosa.clock.now() + 60
    kept, line = await rosa.chat.history(peter.jid)
    assert line.change is not None
    assert (kept.phase, kept.deadline) == (Phase.RUNNING, sent.deadline)
    (received,) = peter.events["message"]
    assert (received.phase, received.deadline) == (Phase.UNREAD, None)


async def test_a_row_that_is_damaged_stops_no_other(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F38: the timers of the others start."""
    first = await rosa.chat.send(peter.jid, "first", timer=timedelta(minutes=1))
    second = await rosa.chat.send(peter.jid, "second")
    kind: Any = type(await rosa.vault.transact(lambda tx: tx))
    apply = kind.apply

    def damaged(self: Transaction, number: int, *rest: Any) -> Any:
        if number == first.number:
            raise VaultDamaged("the row does not open")
        return apply(self, number, *rest)

    monkeypatch.setattr(kind, "apply", damaged)
    await rosa.chat._outgoing.note()
    assert not rosa.chat._outgoing.has_unnoted
    entry = await rosa.vault.transact(lambda tx: tx.entry(second.number))
    assert entry is not None
    assert entry.phase is Phase.RUNNING


async def test_what_could_not_be_noted_is_noted_later(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17: a disk that refuses for a moment starts no timer late."""
    sent = await rosa.chat.send(peter.jid, "text", timer=timedelta(minutes=1))
    outgoing = rosa.chat._outgoing

    async def refuse(_: Any) -> None:
        raise VaultUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(rosa.vault, "transact", refuse)
        with pytest.raises(VaultUnavailable):
            await outgoing.note()
    assert outgoing.has_unnoted
    rosa.clock.source.wall_time += 30
    await outgoing.note()
    kept, line = await rosa.chat.history(peter.jid)
    assert line.change is not None
    assert kept.deadline == sent.deadline


# -- what goes along, read by another client -------------------------------------------------------


class Reader:
    """A client that shows everything that stands in an envelope."""

    def __init__(self, town: Town) -> None:
        self.world = town.world
        self.client = town.world.client("anna")
        self.plugin = self.client.plug(OurPlugin)
        self.jid = BareJid("anna@example.org")

    async def read(self, sender: Party) -> list[list[str]]:
        """The elements of each envelope that was sent."""
        found = []
        for stanza in sender.client.sent:
            carried = self.world.carry(stanza, sender.client, self.client)
            opened, _ = await self.plugin.decrypt_message(carried)
            found.append([child.tag for child in opened.xml])
        sender.client.sent.clear()
        return found


@pytest.fixture
async def reader(town: Town) -> Reader:
    made = Reader(town)
    await made.client.bind()
    return made


SETTING = f"{{{setting.NAMESPACE}}}setting"
WANTED = [element.tag for element in marks.write_wanted()]


@pytest.mark.parametrize("receipts", [False, True])
async def test_the_setting_goes_along_and_what_is_wanted_is_asked_for(
    receipts: bool,  # noqa: FBT001 -- a parameter
    reader: Reader,
    town: Town,
) -> None:
    """Whoever gets one message knows which change it knows; receipts are asked for texts only."""
    rosa = await town.party("rosa", receipts=receipts)
    await rosa.chat.send(reader.jid, "text", timer=timedelta(hours=1))
    await rosa.chat.send(reader.jid, "permanent", timer=None)
    await rosa.chat.send(reader.jid, elements=[LOCATION])
    await rosa.chat.set_timer(reader.jid, timedelta(minutes=1))
    await rosa.chat.set_timer(reader.jid, None)
    found = await reader.read(rosa)
    assert [tags.count(SETTING) for tags in found] == [1] * 5
    asked = [[tag for tag in tags if tag in WANTED] for tags in found]
    assert asked == [WANTED if receipts else []] * 3 + [[], []]


async def test_a_signal_is_for_clients_alone(rosa: Party, reader: Reader) -> None:
    """F24, F32: no copy, no timer, no setting, nothing in clear; and it is no change."""
    await rosa.chat.set_timer(reader.jid, timedelta(hours=1))
    rosa.client.sent.clear()
    before = await rosa.chat.history(reader.jid)
    content = marks.write_received([MessageId("sentinel")])
    await rosa.chat._outgoing.signal(reader.jid, content)
    (stanza,) = rosa.client.sent
    assert "sentinel" not in str(stanza)
    assert await reader.read(rosa) == [[content[0].tag]]
    assert len(await rosa.chat.history(reader.jid)) == len(before)
    assert await rosa.chat.unsent() == []
    assert await rosa.chat.timer(reader.jid) == timedelta(hours=1)


async def test_a_signal_to_nobody_is_not_sent(rosa: Party, reader: Reader) -> None:
    content = marks.write_received([MessageId("7")])
    with pytest.raises(NoEligibleDevices):
        await rosa.chat._outgoing.signal(BareJid("nobody@example.org"), content)
    rosa.client.bound = False
    with pytest.raises(NotConnected):
        await rosa.chat._outgoing.signal(reader.jid, content)
    assert rosa.client.sent == []
