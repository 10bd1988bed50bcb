"""Messages that wait for somebody to decide on their device."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import SubElement, fromstring, tostring

import pytest
from slixmpp import JID

from eph_e2ee import LocalProtocolError, Reason, Trust, withheld
from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import BareJid, Delivery, DeviceId
from eph_e2ee.protocol import marks
from eph_e2ee.withheld import LARGEST_OF_ONE, MOST_OF_ONE, WAITING
from tests.flows.test_incoming import body, rejections, sealed, timer
from tests.xmpp.clients import TheirPlugin, plugged

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from eph_e2ee import Message
    from eph_e2ee.model import MessageId
    from tests.flows.conftest import Party, Town

ROSA = BareJid("rosa@example.org")


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    """Somebody who decides on every device by hand, and knows rosa's."""
    made = await town.party("peter", trust="manual", untrusted="withhold")
    await acquaint(made, rosa)
    return made


async def acquaint(one: Party, other: Party) -> None:
    """Have each ask for the other's devices."""
    assert await one.chat.devices(other.jid)
    assert await other.chat.devices(one.jid)


async def waiting(party: Party) -> int:
    """How many messages wait."""
    return len(await party.vault.transact(party.chat._withheld._alive))


async def receive(party: Party, *stanzas: Element) -> None:
    for xml in stanzas:
        party.client.receive(xml)
    await party.idle()


def named(message: Message) -> MessageId:
    assert message.message_id is not None
    return message.message_id


def large(xml: Element, size: int) -> Element:
    """A stanza with about so many characters, most of them in clear."""
    SubElement(xml, "{urn:example}other").text = "x" * max(10, size - len(tostring(xml)))
    return xml


async def trust(party: Party, other: Party, level: Trust | str = "trusted") -> None:
    await party.chat.trust(other.jid, other.device, level)
    await party.idle()


async def test_messages_come_once_their_device_is_trusted(rosa: Party, peter: Party) -> None:
    """All of them, in their order, each once, and marked as what they are by then."""
    texts = [f"message {number}" for number in range(5)]
    for number, text in enumerate(texts):
        await receive(peter, await sealed(rosa, peter, body(text), number=number))
    assert peter.events["message"] == []
    assert rejections(peter) == [Reason.UNDECIDED] * 5
    assert await peter.chat.history(rosa.jid) == []
    assert await waiting(peter) == 5
    await trust(peter, rosa)
    assert peter.bodies == texts
    assert {message.trust for message in peter.events["message"]} == {Trust.TRUSTED}
    assert await waiting(peter) == 0
    assert len(rejections(peter)) == 5


async def test_a_message_after_the_decision_comes_as_any_other(rosa: Party, peter: Party) -> None:
    await receive(peter, await sealed(rosa, peter, body("before")))
    await trust(peter, rosa)
    await receive(peter, await sealed(rosa, peter, body("after"), number=1))
    assert peter.bodies == ["before", "after"]


async def test_what_is_withheld_changes_nothing(rosa: Party, peter: Party) -> None:
    """No timer, no mark: and once it is trusted, both."""
    await trust(peter, rosa)
    mine = await peter.chat.send(rosa.jid, "mine")
    await trust(peter, rosa, "undecided")
    content = [body("theirs"), timer("60"), *marks.write_received([named(mine)])]
    await receive(peter, await sealed(rosa, peter, *content))
    assert await peter.chat.timer(rosa.jid) is None
    assert peter.events["timer_changed"] == []
    assert Delivery.DELIVERED not in [told.delivery for told in peter.events["delivery"]]
    await trust(peter, rosa)
    assert await peter.chat.timer(rosa.jid) == timedelta(minutes=1)
    assert Delivery.DELIVERED in [told.delivery for told in peter.events["delivery"]]


async def test_distrust_forgets_what_waits(rosa: Party, peter: Party) -> None:
    xml = await sealed(rosa, peter, body("text"))
    await receive(peter, xml)
    await trust(peter, rosa, "distrusted")
    assert await waiting(peter) == 0
    assert rejections(peter) == [Reason.UNDECIDED, Reason.DISTRUSTED]
    await receive(peter, await sealed(rosa, peter, body("text"), number=1))
    assert await waiting(peter) == 0
    assert rejections(peter)[2:] == [Reason.DISTRUSTED]
    assert peter.events["message"] == []


async def test_only_what_is_decided_on_is_opened(town: Town, rosa: Party, peter: Party) -> None:
    """Another device of the account waits on, and nobody is told of it again."""
    tablet = await town.party("rosa")
    await acquaint(tablet, peter)
    assert len(await peter.chat.devices(rosa.jid)) == 2
    await receive(
        peter,
        await sealed(tablet, peter, body("from the tablet")),
        await sealed(rosa, peter, body("text"), number=1),
    )
    await trust(peter, rosa)
    assert peter.bodies == ["text"]
    assert await waiting(peter) == 1
    await trust(peter, tablet)
    assert peter.bodies == ["text", "from the tablet"]
    assert rejections(peter) == [Reason.UNDECIDED] * 2


async def test_what_waits_outlives_the_process(town: Town, rosa: Party, peter: Party) -> None:
    await receive(peter, await sealed(rosa, peter, body("text")))
    again = await town.again(peter)
    assert await waiting(again) == 1
    await trust(again, rosa)
    assert again.bodies == ["text"]


async def test_what_was_decided_just_before_the_end_is_opened_at_the_beginning(
    town: Town, rosa: Party, peter: Party
) -> None:
    """A crash between the decision and the opening."""
    await receive(peter, await sealed(rosa, peter, body("text")))
    devices = peter.chat._account.devices
    await devices.trust(ROSA, DeviceId(rosa.device), Trust.TRUSTED)
    again = await town.again(peter)
    await again.chat._tasks[2]
    assert again.bodies == ["text"]
    assert await waiting(again) == 0


async def test_a_message_from_a_stranger_leaves_its_device_known(town: Town, rosa: Party) -> None:
    """It can be decided on without asking the server again."""
    peter = await town.party("peter", trust="manual", untrusted="withhold")
    assert await rosa.chat.devices(peter.jid)
    await receive(peter, await sealed(rosa, peter, body("text")))
    assert rejections(peter) == [Reason.UNDECIDED]
    peter.client.world.failing = {"urn:xmpp:omemo:2:devices", "urn:xmpp:omemo:2:bundles"}
    await trust(peter, rosa)
    assert peter.bodies == ["text"]


async def test_a_duplicate_is_opened_once(rosa: Party, peter: Party) -> None:
    """F36: the archive may bring it once more while it waits."""
    xml = await sealed(rosa, peter, body("text"))
    await receive(peter, xml, xml)
    await receive(peter, xml)
    await trust(peter, rosa)
    assert peter.bodies == ["text"]
    await receive(peter, xml)
    assert peter.bodies == ["text"]


async def test_its_time_of_sending_stays(rosa: Party, peter: Party) -> None:
    """F13: it is not the time of the decision."""
    await receive(peter, await sealed(rosa, peter, body("text")))
    before = peter.clock.now()
    peter.passes(86400)
    await trust(peter, rosa)
    (message,) = peter.events["message"]
    assert message.sent_at.timestamp() <= before
    assert message.deadline is None


async def test_nothing_waits_longer_than_the_cap(town: Town, rosa: Party) -> None:
    """F19."""
    peter = await town.party(
        "peter", trust="manual", untrusted="withhold", unread_cap=timedelta(days=1)
    )
    await acquaint(peter, rosa)
    await receive(peter, await sealed(rosa, peter, body("old")))
    peter.passes(86400)
    await receive(peter, await sealed(rosa, peter, body("new"), number=1))
    assert await waiting(peter) == 1
    await trust(peter, rosa)
    assert peter.bodies == ["new"]
    await trust(peter, rosa, "undecided")
    await receive(peter, await sealed(rosa, peter, body("lost"), number=2))
    peter.passes(86400)
    await trust(peter, rosa)
    assert peter.bodies == ["new"]


async def test_erasing_a_conversation_erases_what_waits(rosa: Party, peter: Party) -> None:
    await receive(peter, await sealed(rosa, peter, body("text")))
    await peter.chat.erase(rosa.jid)
    await trust(peter, rosa)
    assert peter.events["message"] == []


async def test_there_is_an_end_to_what_waits(rosa: Party, peter: Party) -> None:
    """The first ones stay: they carry the key exchange."""
    for number in range(MOST_OF_ONE + 3):
        peter.client.receive(await sealed(rosa, peter, body(str(number)), number=number))
    await peter.idle()
    assert await waiting(peter) == MOST_OF_ONE
    await trust(peter, rosa)
    assert peter.bodies == [str(number) for number in range(MOST_OF_ONE)]


async def test_large_stanzas_fill_it_sooner(rosa: Party, peter: Party) -> None:
    for number in range(3):
        xml = await sealed(rosa, peter, body(str(number)), number=number)
        large(xml, LARGEST_OF_ONE // 2 - 2000)
        peter.client.receive(xml)
    await peter.idle()
    assert await waiting(peter) == 2
    await receive(peter, await sealed(rosa, peter, body("3"), number=3))
    assert await waiting(peter) == 3


async def test_whoever_fills_it_leaves_room_for_others(town: Town, rosa: Party) -> None:
    """Nobody need have a limit to how long they wait."""
    peter = await town.party("peter", trust="manual", untrusted="withhold")
    anna = await town.party("anna")
    for each in (anna, rosa):
        await acquaint(peter, each)
    for number in range(5):
        xml = await sealed(anna, peter, body(str(number)), number=number)
        await receive(peter, large(xml, LARGEST_OF_ONE // 4))
    assert await waiting(peter) == 4
    await receive(peter, await sealed(rosa, peter, body("text")))
    await trust(peter, rosa)
    assert peter.bodies == ["text"]


async def test_the_account_with_most_gives_way_to_one_that_has_less(
    town: Town, rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several that are made up fill it; the last of the largest goes, and no more than has to."""
    monkeypatch.setattr(withheld, "LARGEST", 50_000)
    others = [await town.party(name) for name in ("anna", "paul")]
    for other, sizes in zip(others, ([10_000, 10_000], [6_000, 6_000, 6_000]), strict=True):
        await acquaint(peter, other)
        for number, size in enumerate(sizes):
            xml = await sealed(other, peter, body(f"{other.name} {number}"), number=number)
            await receive(peter, large(xml, size))
    await receive(peter, large(await sealed(rosa, peter, body("text")), 14_000))
    await receive(peter, large(await sealed(rosa, peter, body("more"), number=1), 12_000))
    assert await waiting(peter) == 5
    for each in (*others, rosa):
        await trust(peter, each)
    assert peter.bodies == ["anna 0", "paul 0", "paul 1", "paul 2", "text"]


async def test_copies_take_no_place(town: Town, rosa: Party, peter: Party) -> None:
    """F36: whatever servers write beside them, and however often they bring them."""
    xml = await sealed(rosa, peter, body("text"))
    for number in range(MOST_OF_ONE + 1):
        copied = fromstring(tostring(xml))  # noqa: S314 -- made here
        SubElement(copied, "{urn:example}mark").text = str(number)
        copied.set("id", f"copy-{number}")
        await receive(peter, copied)
    assert await waiting(peter) == 1
    client, plugin = await plugged(town.world, "paul", TheirPlugin)
    assert await peter.chat.devices("paul@example.org")
    await plugin.refresh_device_lists({JID(peter.jid)})
    for _ in range(2):
        stanza = client.make_message(mto=peter.jid, mbody="legacy", mtype="chat")
        encrypted, _ = await plugin.encrypt_message(stanza, JID(peter.jid))
        legacy = town.world.carry(encrypted, client, peter.client).xml
        await receive(peter, legacy, large(fromstring(tostring(legacy)), 10))  # noqa: S314 -- the test's own text
    assert await waiting(peter) == 3
    await receive(peter, await sealed(rosa, peter, body("second"), number=1))
    await trust(peter, rosa)
    assert peter.bodies == ["text", "second"]


async def test_a_stanza_that_cannot_be_written_is_not_kept(rosa: Party, peter: Party) -> None:
    """F38: nor does it keep others from it."""
    wide = await sealed(rosa, peter, body("wide"))
    for _ in range(5000):
        SubElement(wide, "{urn:example}other")
    await receive(peter, wide, await sealed(rosa, peter, body("text"), number=1))
    assert await waiting(peter) == 1
    assert rejections(peter) == [Reason.UNDECIDED] * 2


@pytest.mark.parametrize("text", ["", "[[1]]", "7", '[["sentinel"]]'])
async def test_what_is_damaged_stops_nobody(text: str, rosa: Party, peter: Party) -> None:
    """F38: it is an error where it is asked for, and nowhere else."""
    await peter.vault.transact(lambda vault: vault.put_value(WAITING, text))
    await receive(peter, await sealed(rosa, peter, body("text")))
    assert rejections(peter) == [Reason.UNDECIDED]
    await peter.chat.erase(rosa.jid)
    with pytest.raises(VaultDamaged) as caught:
        await trust(peter, rosa)
    assert "sentinel" not in str(caught.value)
    (device,) = await peter.chat.devices(rosa.jid)
    assert device.trust is Trust.TRUSTED


# -- delivered all the same ------------------------------------------------------------------------


@pytest.fixture
async def anna(town: Town, rosa: Party) -> Party:
    """Somebody who decides by hand too, and wants to see everything."""
    made = await town.party("anna", trust="manual")
    await acquaint(made, rosa)
    return made


async def test_a_message_is_marked_and_stays_so(rosa: Party, anna: Party) -> None:
    levels: list[Any] = ["undecided", "trusted", "distrusted"]
    for number, level in enumerate(levels):
        await trust(anna, rosa, level)
        await receive(anna, await sealed(rosa, anna, body(level), number=number))
    expected = [Trust(level) for level in levels]
    assert [message.trust for message in anna.events["message"]] == expected
    history = await anna.chat.history(rosa.jid)
    assert [message.trust for message in reversed(history)] == expected
    assert rejections(anna) == []


async def test_ours_and_tombstones_have_no_mark(rosa: Party, anna: Party) -> None:
    await trust(anna, rosa)
    assert (await anna.chat.send(rosa.jid, "text")).trust is None
    await receive(anna, await sealed(rosa, anna, body("text")))
    await anna.chat.erase(rosa.jid)
    assert {message.trust for message in await anna.chat.history(rosa.jid)} == {None}


async def test_blind_trust_is_a_mark_of_its_own(town: Town, rosa: Party) -> None:
    """Also before anything was sent to the device."""
    peter = await town.party("peter", untrusted="withhold")
    assert await rosa.chat.devices(peter.jid)
    await receive(peter, await sealed(rosa, peter, body("text")))
    (message,) = peter.events["message"]
    assert message.trust is Trust.BLINDLY_TRUSTED


@pytest.mark.parametrize("level", ["distrusted", "undecided"])
async def test_who_is_not_trusted_changes_nothing_but_its_message(
    level: str, rosa: Party, anna: Party
) -> None:
    """It may be somebody's who wants timers off, or messages burned."""
    await trust(anna, rosa)
    mine = await anna.chat.send(rosa.jid, "mine")
    await trust(anna, rosa, level)
    content = [body("theirs"), timer("60"), *marks.write_received([named(mine)])]
    await receive(anna, await sealed(rosa, anna, *content))
    (message,) = anna.events["message"]
    assert message.timer == timedelta(minutes=1)
    assert await anna.chat.timer(rosa.jid) is None
    assert anna.events["timer_changed"] == []
    assert Delivery.DELIVERED not in [told.delivery for told in anna.events["delivery"]]


async def test_nobody_decides_on_what_is_not_there(rosa: Party, anna: Party) -> None:
    for jid, device_id, level in [
        (rosa.jid, 1, "trusted"),
        ("nobody@example.org", rosa.device, "trusted"),
        (rosa.jid, rosa.device, "blindly trusted"),
        (rosa.jid, rosa.device, "TRUSTED"),
        (anna.jid, anna.device, "distrusted"),
    ]:
        with pytest.raises(LocalProtocolError):
            await anna.chat.trust(jid, device_id, level)
    (device,) = await anna.chat.devices(rosa.jid)
    assert device.trust is Trust.UNDECIDED
