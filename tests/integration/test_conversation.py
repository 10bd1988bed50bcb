"""Two people talk: first contact, both directions, offline, and what the server sees of it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import pytest

from eph_e2ee import Delivery, Direction, NoEligibleDevices, Phase
from tests.integration.devices import until
from tests.support.chats import NOW, Party, bodies, fence, meet
from tests.support.client import connect, subscribe_mutually
from tests.support.plain_client import PlainClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from eph_e2ee.model import BareJid
    from tests.conftest import NewClient
    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
MESSAGE = re.compile(rb"<message\b.*?</message>", re.DOTALL)
ADVERTISED = b'<feature var="urn:xmpp:ephemeral:0"'


def messages_on(wire: Wire) -> list[bytes]:
    """Return the message stanzas that clients have sent."""
    return MESSAGE.findall(wire.from_clients.record)


@pytest.mark.core
async def test_strangers_talk_in_both_directions(pair: tuple[Party, Party]) -> None:
    rosa, peter = pair
    sent = await rosa.chat.send(peter.jid, "good morning")
    assert (sent.direction, sent.delivery, sent.body) == (
        Direction.OUTGOING,
        Delivery.SENT,
        "good morning",
    )
    heard = await peter.hear()
    assert (heard.body, heard.sender, heard.conversation) == ("good morning", rosa.jid, rosa.jid)
    assert (heard.direction, heard.phase) == (Direction.INCOMING, Phase.UNREAD)
    assert heard.message_id == sent.message_id
    assert heard.findings == ()
    await heard.reply("good day")
    answer = await rosa.hear()
    assert (answer.body, answer.sender) == ("good day", peter.jid)
    assert bodies(await rosa.history(peter)) == ["good morning", "good day"]
    assert bodies(await peter.history(rosa)) == ["good morning", "good day"]


async def test_friends_with_bare_jids_get_device_lists(
    party: NewParty, prosody: Prosody, wire: Wire
) -> None:
    """F46: with a bare JID and a mutual subscription the lists come by notification."""
    rosa, peter = party("rosa", address=wire.address), party("peter")
    prosody.befriend(rosa.account, peter.account)
    await rosa.arrive()
    assert "/" in rosa.client.boundjid.full
    assert "/" not in rosa.account.jid
    await peter.arrive()
    announced = re.compile(
        rb"<message[^>]*from=['\"]%b['\"][^>]*><event [^>]*><items node=['\"]urn:xmpp:omemo:2:dev"
        % peter.jid.encode()
    )
    await rosa.chat.send(peter.jid, "hello, friend")
    assert (await peter.hear()).body == "hello, friend"
    await peter.chat.send(rosa.jid, "hello")
    assert (await rosa.hear()).body == "hello"

    async def is_announced() -> bool:
        return announced.search(wire.to_clients.record) is not None

    await until(rosa, is_announced)


@pytest.mark.core
async def test_who_has_just_become_a_friend_is_written_to(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody
) -> None:
    """From then on the server sends device lists, but not each server those that are there."""
    rosa = party("rosa")
    await rosa.arrive()
    peter = PlainClient(account("peter"), prosody.address, now=NOW)
    await peter.arrive()
    try:
        await subscribe_mutually(rosa.client, peter.client)
        await peter.send(rosa.jid, "hello, friend")
        assert (await rosa.hear()).body == "hello, friend"
    finally:
        await peter.leave()


@pytest.mark.core
async def test_a_message_waits_for_somebody_who_is_offline(pair: tuple[Party, Party]) -> None:
    rosa, peter = pair
    await peter.leave()
    texts = [f"while you were away, {number}" for number in range(5)]
    for text in texts:
        await rosa.chat.send(peter.jid, text)
    await peter.arrive()
    assert [(await peter.hear()).body for _ in texts] == texts
    assert await fence(rosa, peter) == []


async def test_who_publishes_later_is_written_to_later(
    party: NewParty, client: NewClient, prosody: Prosody
) -> None:
    """F39: an account without devices is an error, and nothing of the text leaves."""
    rosa, peter = party("rosa"), party("peter")
    plain = client(peter.account)
    await connect(plain, prosody.address)
    await rosa.arrive()
    with pytest.raises(NoEligibleDevices) as refused:
        await rosa.chat.send(peter.jid, "can you read this?")
    assert refused.value.recipients == frozenset({peter.jid})
    assert await rosa.history(peter) == []
    await peter.arrive()
    await rosa.chat.send(peter.jid, "and now?")
    assert (await peter.hear()).body == "and now?"
    assert bodies(await rosa.history(peter)) == ["and now?"]


@pytest.mark.core
async def test_rosa_and_peter(party: NewParty) -> None:
    """The seed's scenario, F22, F29: a week by configuration, five days by agreement."""
    rosa, peter = party("rosa"), party("peter", timer=timedelta(days=7))
    await rosa.arrive()
    await peter.arrive()
    first = await rosa.chat.send(peter.jid, "no timer yet")
    assert first.timer is None
    heard = await peter.read()
    assert (heard.timer, heard.phase) == (None, Phase.READ)
    assert await peter.chat.timer(rosa.jid) == timedelta(days=7)

    await heard.reply("for a week")
    change = await rosa.changes.next()
    assert (change.old, change.new, change.author, change.own) == (
        None,
        7 * 86400,
        peter.jid,
        False,
    )
    answer = await rosa.read()
    assert answer.timer == timedelta(days=7)

    await rosa.chat.set_timer(peter.jid, timedelta(days=5))
    assert (await rosa.changes.next()).own
    told = await peter.changes.next()
    assert (told.new, told.author, told.own) == (5 * 86400, rosa.jid, False)
    assert peter.messages.all == [heard]

    await peter.chat.send(rosa.jid, "for five days")
    assert (await rosa.hear()).timer == timedelta(days=5)
    assert [message.timer for message in await rosa.history(peter)] == [
        None,
        timedelta(days=7),
        timedelta(days=5),
    ]
    assert rosa.changes.all[2:] == []
    assert peter.changes.all[1:] == []


async def test_a_change_has_no_text_and_asks_to_be_stored(party: NewParty, wire: Wire) -> None:
    """F33, F34: a change of the timer is encrypted, with the one hint that it is to be kept."""
    rosa, peter = party("rosa", address=wire.address), party("peter")
    await rosa.arrive()
    await peter.arrive()
    await rosa.chat.set_timer(peter.jid, DAY)
    await peter.changes.next()
    (stanza,) = (each for each in messages_on(wire) if peter.jid.encode() in each)
    assert stanza.count(b'<store xmlns="urn:xmpp:hints"') == 1
    for absent in (b"no-permanent-store", b"no-store", b"<body", b"ephemeral", b"timer="):
        assert absent not in stanza
    assert peter.messages.all == []
    assert await peter.history(rosa) == []
    assert await peter.chat.timer(rosa.jid) == DAY
    before = len(messages_on(wire))
    await rosa.chat.set_timer(peter.jid, DAY)
    await fence(rosa, peter)
    assert len(messages_on(wire)) == before + 1


@pytest.mark.core
async def test_a_change_waits_for_somebody_who_is_offline(pair: tuple[Party, Party]) -> None:
    """F34: the hint has the server keep a change without a body."""
    rosa, peter = pair
    await meet(rosa, peter)
    await peter.leave()
    await rosa.chat.set_timer(peter.jid, DAY)
    await peter.arrive()
    assert (await peter.changes.next()).new == 86400


async def test_a_message_of_its_own_timer_changes_the_conversation(
    pair: tuple[Party, Party],
) -> None:
    rosa, peter = pair
    sent = await rosa.chat.send(peter.jid, "for an hour", timer=timedelta(hours=1))
    assert sent.timer == timedelta(hours=1)
    assert (await peter.changes.next()).new == 3600
    assert (await peter.hear()).timer == timedelta(hours=1)
    permanent = await rosa.chat.send(peter.jid, "for ever", timer=None)
    assert permanent.timer is None
    assert (await peter.hear()).timer is None
    assert await peter.chat.timer(rosa.jid) == timedelta(hours=1)


async def test_opting_out_is_repeated_until_it_is_answered(
    pair: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F33: off goes along inside the encryption, until a message without a timer comes back."""
    rosa, peter = pair
    await rosa.chat.set_timer(peter.jid, DAY)
    await peter.changes.next()
    carried: list[list[str]] = []
    build = rosa.chat._account.build

    def noting(content: list[Element], *, to: BareJid) -> bytes:
        carried.append([each.tag.partition("}")[2] for each in content])
        return build(content, to=to)

    monkeypatch.setattr(rosa.chat._account, "build", noting)
    await rosa.chat.set_timer(peter.jid, None)
    assert (await peter.changes.next()).new is None
    await rosa.chat.send(peter.jid, "one")
    await rosa.chat.send(peter.jid, "two")
    assert carried == [
        ["ephemeral", "i-want-out", "setting"],
        ["body", "i-want-out", "setting"],
        ["body", "i-want-out", "setting"],
    ]
    assert [(await peter.hear()).timer for _ in range(2)] == [None, None]
    await peter.chat.send(rosa.jid, "as you like")
    assert (await rosa.hear()).timer is None
    await rosa.chat.send(peter.jid, "thank you")
    assert carried[3:] == [["body", "setting"]]
    assert (await peter.hear()).elements == ()
    assert peter.changes.all[2:] == []


async def test_elements_travel_inside(party: NewParty, wire: Wire) -> None:
    rosa, peter = party("rosa", address=wire.address), party("peter")
    await rosa.arrive()
    await peter.arrive()
    mood = Element("{urn:example:mood}mood", {"of": "cheerful"})
    await rosa.chat.send(peter.jid, "look", elements=[mood])
    await rosa.chat.send(peter.jid, elements=[mood])
    first, second = await peter.hear(), await peter.hear()
    assert (first.body, second.body) == ("look", None)
    for message in (first, second):
        (found,) = message.elements
        assert (found.tag, found.attrib) == (mood.tag, mood.attrib)
    assert b"cheerful" not in wire.record


async def test_the_server_sees_neither_text_nor_timer(party: NewParty, wire: Wire) -> None:
    """F31, F32, F33, F34: on the wire, both directions, nothing stands outside the ciphertext."""
    rosa, peter = party("rosa", address=wire.address), party("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    await rosa.chat.send(peter.jid, "the cat sat on the mat", timer=DAY)
    await (await peter.read()).reply("the dog sat on the log")
    await rosa.read()
    await rosa.chat.set_timer(peter.jid, None)
    await peter.changes.next()
    await peter.changes.next()
    await rosa.chat.send(peter.jid, "the frog sat on the fog")
    await peter.read()
    assert b"urn:xmpp:omemo:2" in wire.from_clients.record
    record = wire.record.replace(ADVERTISED, b"")
    # A word as short as "timer" may stand in a ciphertext's letters, but not before a quote.
    for absent in (b" sat on ", b"ephemeral", b"i-want-out", b"timer=", b"<envelope", b"<body"):
        assert absent not in record


async def test_somebody_else_is_not_shown_a_conversation(
    pair: tuple[Party, Party], account: Callable[[str], Account]
) -> None:
    rosa, peter = pair
    await meet(rosa, peter)
    assert await rosa.chat.history(account("paul").jid) == []
    assert bodies(await rosa.chat.search(peter.jid, "GOOD d")) == ["good day"]
