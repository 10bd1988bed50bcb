"""The queues of conversations: in order, and within bounds that nobody fills alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import pytest

from eph_e2ee import queues as module
from eph_e2ee.errors import Reason
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.queues import Queues
from eph_e2ee.xmpp.stanzas import Arrival
from tests.flows.test_incoming import body, rejections, sealed

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town

ROSA, ANNA, PETER = (BareJid(f"{name}@example.org") for name in ("rosa", "anna", "peter"))
KILO = 1024


def arrival(sender: BareJid, name: str = "", size: int = 0) -> Arrival:
    """Something that a conversation has waiting, of so many bytes at least."""
    xml = Element("message")
    xml.text = "x" * size
    return Arrival(xml, sender, PETER, MessageId(name), None, None)


def put(queues: Queues, sender: BareJid, *names: str, size: int = 0) -> list[str]:
    """Queue arrivals; the ids of those that are given up, with their senders."""
    return [
        f"{each.sender.partition('@')[0]} {each.message_id}"
        for name in names
        for each in queues.put(sender, arrival(sender, name, size))
    ]


def names(arrivals: list[Arrival]) -> list[str]:
    return [each.message_id for each in arrivals]


@pytest.fixture
def queues() -> Queues:
    return Queues()


def test_each_conversation_keeps_its_order(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    put(queues, ROSA, "1", "2", "3")
    put(queues, ANNA, "a")
    assert names(queues.take(ROSA)) == ["1", "2"]
    queues.done(ROSA)
    put(queues, ROSA, "4")
    assert names(queues.take(ROSA)) == ["3", "4"]
    assert names(queues.take(ANNA)) == ["a"]
    queues.done(ROSA)
    assert not queues.waits(ROSA)
    assert queues.take(ROSA) == []


def test_a_conversation_is_there_until_its_end(queues: Queues) -> None:
    put(queues, ROSA, "1", "2")
    queues.take(ROSA)
    queues.done(ROSA)
    assert ROSA in queues
    assert len(queues) == 1
    queues.end(ROSA)
    assert ROSA not in queues
    assert (len(queues), queues._count, queues._size) == (0, 0, 0)


def test_what_is_not_done_when_it_ends_counts_no_more(queues: Queues) -> None:
    put(queues, ROSA, "1")
    queues.take(ROSA)
    put(queues, ROSA, "2")
    queues.end(ROSA)
    assert (queues._count, queues._size) == (0, 0)


def test_one_conversation_has_a_bound(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being dealt with counts: it is in memory still."""
    monkeypatch.setattr(module, "MAXIMUM_OF_ONE", 2)
    assert put(queues, ROSA, "1", "2", "3") == ["rosa 3"]
    queues.take(ROSA)
    assert put(queues, ROSA, "4") == ["rosa 4"]
    assert put(queues, ANNA, "a") == []
    queues.done(ROSA)
    assert put(queues, ROSA, "5") == []


def test_who_has_most_gives_way(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last one; of two with as much it is the one whose arrival is too many."""
    monkeypatch.setattr(module, "MAXIMUM_WAITING", 4)
    put(queues, ROSA, "1", "2", "3", "4")
    assert put(queues, ROSA, "5") == ["rosa 5"]
    assert put(queues, ANNA, "a", "b", "c") == ["rosa 4", "rosa 3", "anna c"]
    assert put(queues, PETER, "p") == ["rosa 2"]
    assert names(queues.take(ROSA)) == ["1"]
    assert names(queues.take(ANNA)) == ["a", "b"]


def test_a_new_conversation_without_a_place_is_not_begun(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAXIMUM_WAITING", 1)
    put(queues, ROSA, "1")
    assert put(queues, ANNA, "a") == ["anna a"]
    assert ANNA not in queues


def test_what_is_being_dealt_with_is_not_given_up(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAXIMUM_WAITING", 2)
    put(queues, ROSA, "1", "2")
    queues.take(ROSA)
    assert put(queues, ANNA, "a") == ["anna a"]
    queues.done(ROSA)
    assert put(queues, ANNA, "b") == []


def test_what_is_large_gives_way(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the largest conversation as many as it takes, and never one of a smaller."""
    monkeypatch.setattr(module, "LARGEST", 40 * KILO)
    assert put(queues, ROSA, "1", "2", "3", size=10 * KILO) == []
    assert put(queues, ANNA, "a", "b", "c", size=KILO) == []
    assert put(queues, ROSA, "4", size=10 * KILO) == ["rosa 4"]
    assert put(queues, ANNA, "d", size=12 * KILO) == ["rosa 3"]
    assert put(queues, PETER, "p", size=50 * KILO) == ["peter p"]
    assert queues._size <= module.LARGEST


def test_markup_has_a_size(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stanza of empty elements takes more memory than it has bytes on the wire."""
    monkeypatch.setattr(module, "LARGEST", 100 * KILO)
    found = arrival(ROSA, "1")
    found.xml.extend(Element("x", {"name": "value"}) for _ in range(1000))
    assert queues.put(ROSA, found) == [found]


def test_a_batch_has_a_size(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at least, however large it is."""
    monkeypatch.setattr(module, "LARGEST_BATCH", 15 * KILO)
    put(queues, ROSA, "1", "2", "3", size=10 * KILO)
    put(queues, ANNA, "a", "b", size=20 * KILO)
    assert names(queues.take(ROSA)) == ["1", "2"]
    assert names(queues.take(ANNA)) == ["a"]


# -- the way in ------------------------------------------------------------------------------------


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    made = await town.party("peter")
    await made.chat.devices(rosa.jid)
    return made


def by_a_stranger(stanza: Element, message_id: str, size: int = 0) -> Element:
    """A stanza as somebody else can send it."""
    xml = fromstring(tostring(stanza))  # noqa: S314 -- the test's own text
    xml.set("from", "stranger@example.org/x")
    xml.set("id", message_id)
    SubElement(xml, "padding").text = "x" * size
    return xml


async def test_who_floods_one_conversation_takes_no_other_ones_place(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: its messages are rejected, and nobody else's."""
    monkeypatch.setattr(module, "MAXIMUM_WAITING", 4)
    incoming, own = peter.chat._incoming, BareJid(peter.jid)
    stanzas = [await sealed(rosa, peter, body(f"{number}"), number=number) for number in range(2)]
    incoming.hold(own)
    for number in range(5):
        peter.client.receive(by_a_stranger(stanzas[0], f"made up {number}"))
    for xml in stanzas:
        peter.client.receive(xml)
    given_up = [each.sender for each in peter.events["rejected"]]
    assert given_up == ["stranger@example.org"] * 3
    assert rejections(peter) == [Reason.NOT_STORED] * 3
    incoming.release(own)
    await peter.idle()
    assert peter.bodies == ["0", "1"]


async def test_a_conversation_that_has_given_up_all_is_over(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever makes up accounts would leave a task for each of them."""
    incoming, own = peter.chat._incoming, BareJid(peter.jid)
    xml = await sealed(rosa, peter, body("text"))
    incoming.hold(own)
    peter.client.receive(by_a_stranger(xml, "large", 10 * KILO))
    (task,) = incoming._tasks
    monkeypatch.setattr(module, "LARGEST", incoming._waiting._size)
    peter.client.receive(xml)
    assert [each.sender for each in peter.events["rejected"]] == ["stranger@example.org"]
    await asyncio.wait({task})
    assert list(incoming._waiting._queues) == [rosa.jid]
    incoming.release(own)
    await peter.idle()
    assert peter.bodies == ["text"]
