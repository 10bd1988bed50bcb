"""An archive, read to its end: in pages, from where we stood, told of when all is known."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from sqlalchemy import bindparam, delete

from eph_e2ee import halves
from eph_e2ee.errors import Reason, VaultUnavailable
from eph_e2ee.model import Direction, Phase
from eph_e2ee.vault.database import replays
from eph_e2ee.xmpp.parcel import MODERN
from tests.flows.archiving import Kept, Shelves, absent, missed, names, position, rejections

if TYPE_CHECKING:
    from eph_e2ee.vault.archive import Transaction
    from tests.flows.conftest import Party, Town

MINUTE = timedelta(minutes=1)


@pytest.fixture
def world() -> Shelves:
    return Shelves()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    return await absent(town, rosa)


TEXTS = [f"message {number}" for number in range(5)]


async def test_what_was_missed_is_read_page_by_page(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F21: nobody is told before the end; then in order, each once, and how far it has come."""
    await missed(rosa, peter, town, *TEXTS)
    told: list[int] = []
    world.on_page = lambda _: told.append(len(peter.bodies))
    await peter.online()
    assert peter.bodies == TEXTS
    assert told == [0, 0, 0]
    first, *shelf = names(world, peter)
    assert world.asked_after == [first, shelf[1], shelf[3]]
    reports = peter.events["catch_up"]
    assert [(each.fetched, each.stored) for each in reports] == [(2, 2), (4, 4), (5, 5), (5, 5)]
    assert {(each.archive, each.total) for each in reports} == {(peter.jid, 5)}
    assert [each.done for each in reports] == [False, False, False, True]
    assert reports[-1].complete
    assert rejections(peter) == []


async def test_the_next_session_goes_on_where_this_one_ended(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F36: also behind what has arrived on the stream; nothing comes twice."""
    await missed(rosa, peter, town, *TEXTS)
    await peter.online()
    assert position(peter)["last"] == names(world, peter)[-1]
    await missed(rosa, peter, town, "live")
    await peter.chat._expiry.note()
    peter.offline()
    world.asked_after.clear()
    await peter.online()
    assert world.asked_after == [names(world, peter)[-1]]
    assert peter.bodies == [*TEXTS, "live"]


async def test_what_a_disk_refused_is_read_again(
    rosa: Party, peter: Party, town: Town, world: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page and the place behind it are stored together, or not at all."""
    await missed(rosa, peter, town, *TEXTS)
    second = names(world, peter)[4]
    kind: Any = type(await peter.vault.transact(lambda tx: tx))
    put = kind.put_value

    def refuse(self: Transaction, key: str, text: str | None) -> None:
        if key.startswith("archive:") and text is not None and second in text:
            raise VaultUnavailable("the disk is full")
        put(self, key, text)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "put_value", refuse)
        await peter.online()
    assert peter.bodies == TEXTS[:2]
    report = peter.events["catch_up"][-1]
    assert (report.done, report.complete) == (True, False)
    peter.offline()
    world.asked_after.clear()
    await peter.online()
    assert world.asked_after[0] == names(world, peter)[2]
    assert peter.bodies == TEXTS
    assert rejections(peter) == []


async def test_an_archive_that_has_forgotten_where_we_stood(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """XEP-0313 section 4.3.1: then by time, with what is known already left out."""
    await missed(rosa, peter, town, *TEXTS)
    world.shelves[peter.jid] = [
        Kept(f"new {kept.name}", kept.stamp, kept.xml) for kept in world.shelves[peter.jid]
    ]
    await peter.online()
    assert world.asked_after[:2] == ["a2", None]
    assert peter.bodies == TEXTS
    assert rejections(peter) == []
    assert position(peter)["last"] == names(world, peter)[-1]


async def test_pages_without_a_message_for_us(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    clear = Element("{jabber:client}message", {"from": "anna@example.org/x", "to": peter.jid})
    SubElement(clear, "{jabber:client}body").text = "in clear"
    for _ in range(4):
        world.keep(peter.jid, clear)
    await missed(rosa, peter, town, "behind them")
    await peter.online()
    assert peter.bodies == ["behind them"]
    report = peter.events["catch_up"][-1]
    assert (report.fetched, report.stored, report.complete) == (5, 1, True)
    assert position(peter)["last"] == names(world, peter)[-1]


async def test_f21_what_its_sender_gave_no_longer_is_a_tombstone_only(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """One of our own, sent elsewhere: its timer has run since then."""
    world.carbons = False
    other = await town.party("peter")
    await other.chat.send(rosa.jid, "from the other", timer=MINUTE)
    await town.deliver()
    peter.passes(61)
    await peter.online()
    assert peter.bodies == []
    (entry,) = [m for m in await peter.chat.history(rosa.jid) if m.phase is Phase.GONE]
    assert (entry.direction, entry.body) == (Direction.OUTGOING, None)


async def test_what_another_device_of_ours_has_sent_is_told_and_our_own_is_not(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F27."""
    world.carbons = False
    other = await town.party("peter")
    await other.chat.send(rosa.jid, "from the other", timer=MINUTE)
    await town.deliver()
    peter.client.bound = True
    await peter.chat.send(rosa.jid, "from here")
    await town.deliver()
    await peter.online()
    assert peter.bodies == ["from the other"]
    (message,) = peter.events["message"]
    assert (message.direction, message.phase) == (Direction.OUTGOING, Phase.RUNNING)
    assert message.deadline == other.clock.now() + 60


async def test_what_nobody_was_told_of_is_told_by_the_next_process(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F20: stored, and its telling cut short."""
    await missed(rosa, peter, town, *TEXTS)

    def cut(page: int) -> None:
        if page == 3:
            for task in [peter.chat._catching_up._backlogs[peter.chat._account.bare].task]:
                assert task is not None
                task.cancel()

    world.on_page = cut
    await peter.online()
    assert peter.bodies == []
    assert position(peter)["untold"] is not None
    world.on_page = lambda _: None
    again = await town.again(peter)
    assert again.bodies == TEXTS
    assert position(again)["untold"] is None
    assert (await town.again(again)).bodies == []


def without(world: Shelves, party: Party, *devices: int) -> None:
    """Take the keys for some devices out of what an archive holds."""
    gone = {str(device) for device in devices}
    for kept in world.shelves[party.jid]:
        for group in kept.xml.iter(f"{{{MODERN}}}keys"):
            for key in [key for key in group if key.get("rid") in gone]:
                group.remove(key)


async def test_a_new_device_is_quiet_about_what_is_not_for_it(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """Of what came before it there is nothing that it could have missed."""
    await missed(rosa, peter, town, *TEXTS)
    new = await town.party("peter")
    assert new.bodies == []
    assert rejections(new) == []
    assert new.events["catch_up"][-1].fetched == 6
    new.offline()
    await missed(rosa, new, town, "not for it", "for it")
    without(world, new, new.device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halves, "PATIENCE", 0.0)
        await new.online()
        await asyncio.sleep(0)
    assert rejections(new) == [Reason.NOT_FOR_THIS_DEVICE] * 2


async def test_what_is_older_than_the_device_can_be_is_not_asked_for(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    world.now -= 2 * 86_400
    await missed(rosa, peter, town, "long ago")
    world.now += 2 * 86_400
    new = await town.party("peter")
    assert new.events["catch_up"][-1].fetched == 1


async def test_a_key_that_is_spent_is_reported_where_nothing_is_known(
    peter: Party, world: Shelves
) -> None:
    """The same message once more is silent (F36); one that was lost here is not."""
    world.shelves[peter.jid] += [kept._replace(name="b1") for kept in world.shelves[peter.jid]]
    await peter.online()
    assert rejections(peter) == []
    peter.offline()
    every = delete(replays).where(replays.c.number >= bindparam("first"))
    await peter.vault.transact(lambda tx: tx.change(every, {"first": 0}))
    world.shelves[peter.jid].append(world.shelves[peter.jid][0]._replace(name="b2"))
    await peter.online()
    assert peter.bodies == []
    assert rejections(peter) == [Reason.DUPLICATE]
    assert position(peter)["last"] == "b2"
