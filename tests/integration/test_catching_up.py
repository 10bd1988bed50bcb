"""What the archive has for a device that was away: once, in order, and only what still lives."""

from __future__ import annotations

import itertools
import math
import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, event

from eph_e2ee import Direction, Phase, Reason
from tests.integration.devices import Device, NewDevice, caught_up, has_told, page_of, until
from tests.support.chats import FENCE, NOW, bodies, fence, meet, together
from tests.support.interference import Interference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.conftest import NewServer
    from tests.support.prosody import Prosody
    from tests.support.server import Server
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
QUERY = re.compile(r"<query xmlns=.urn:xmpp:mam:2.*?</query>", re.DOTALL)
AFTER = re.compile(r"<after>([^<]*)</after>")
MANY = 230
MOST_COMMITS = 6
"""For a page: which are known, then all that is new, and what the clients do besides."""


async def write_many(sender: Device, recipient: Device, count: int) -> list[str]:
    """Send so many messages; their texts."""
    texts = [f"number {number}" for number in range(count)]
    await together(*(sender.chat.send(recipient.jid, text) for text in texts))
    await sender.ping()
    return texts


def queries(wire: Wire, start: int = 0) -> list[str]:
    """What clients have asked the archive for."""
    found: list[str] = QUERY.findall(wire.from_clients.record[start:].decode())
    return found


@contextmanager
def commits() -> Iterator[list[object]]:
    """Count the transactions of all vaults of this process."""
    counted: list[object] = []
    note = counted.append
    event.listen(Engine, "commit", note)
    try:
        yield counted
    finally:
        event.remove(Engine, "commit", note)


async def arrive_counting(somebody: Device) -> list[tuple[int, int]]:
    """Arrive and catch up; at each report, how much was told, and how many commits there were."""
    somebody.attach()
    steps: list[tuple[int, int]] = []

    def reported(_: object) -> None:
        steps.append((len(somebody.messages.all), len(counted)))

    with commits() as counted:
        somebody.client.add_event_handler("ephemeral_catch_up", reported)
        await somebody.arrive()
        await caught_up(somebody)
    return steps


@pytest.mark.core
async def test_many_messages_come_in_their_order_with_few_commits(
    device: NewDevice, wire: Wire, server: Server
) -> None:
    """F36: page by page; the server's offline messages, the same ones, are no news then."""
    rosa, peter = device("rosa", address=wire.address), device("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await peter.ping()
    await rosa.leave()
    texts = await write_many(peter, rosa, MANY)
    await peter.leave()
    place = len(wire.from_clients.record)
    steps = await arrive_counting(rosa)
    assert [(await rosa.hear()).body for _ in texts] == texts
    first, *_, last = queries(wire, place)
    assert AFTER.search(first)
    assert "jabber:x:data" not in first
    (beginning, *pages), (end,) = fetched(rosa)
    assert 0 < beginning < MANY / 2
    assert pages == sorted(set(pages))
    assert len(queries(wire, place)) == len(pages) + 1 == math.ceil(MANY / page_of(server)) >= 3
    assert (end, rosa.progress.all[-1].stored) == (pages[-1], MANY)
    told = [told for told, _ in steps]
    assert told == [0] * (len(steps) - 1) + [MANY]
    each = [after - before for (_, before), (_, after) in itertools.pairwise(steps[:-1])]
    assert max(each) <= MOST_COMMITS
    await peter.arrive()
    assert await fence(peter, rosa) == []
    assert rosa.rejected.all == []
    assert wire.to_clients.record.count(b"<delay") >= 2 * MANY
    await rosa.restart()
    assert (await caught_up(rosa)).fetched == 0
    (again,) = queries(wire, wire.from_clients.record.find(last.encode()) + len(last))
    assert AFTER.search(again)


def fetched(somebody: Device) -> tuple[list[int], list[int]]:
    """How much of the archive had been read at each report, and at the last ones."""
    return (
        [report.fetched for report in somebody.progress.all if not report.done],
        [report.fetched for report in somebody.progress.all if report.done],
    )


async def test_what_expired_meanwhile_is_never_shown(device: NewDevice) -> None:
    """F21, F26: read or sent on another device; neither an event nor a word in the history."""
    phone = device("rosa")
    desk, peter = device(phone), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    await meet(phone, peter)
    assert bodies([await desk.hear() for _ in range(2)]) == ["good morning", "good day"]
    await desk.leave()
    await peter.chat.send(phone.jid, "read elsewhere", timer=MINUTE)
    await phone.read()
    await phone.chat.send(peter.jid, "sent elsewhere", timer=MINUTE)
    await phone.ping()  # the archive has it before what others send from now on
    await peter.chat.send(phone.jid, "unread", timer=MINUTE)
    await peter.chat.send(phone.jid, "read, and alive", timer=HOUR)
    await phone.hear()
    await phone.read()
    await has_told(phone)
    desk.source.wall_time += 600
    await desk.arrive()
    assert (await caught_up(desk)).complete
    heard = [await desk.hear() for _ in desk.messages.all]
    assert bodies(heard) == ["unread", "read, and alive"]
    assert [each.deadline for each in heard] == [None, NOW + 3600]
    kept = await desk.history(peter)
    assert bodies(kept[2:]) == [None, None, "unread", "read, and alive"]
    assert [each.phase for each in kept[2:4]] == [Phase.GONE, Phase.GONE]
    assert await desk.chat.search(peter.jid, "elsewhere") == []
    assert await fence(peter, desk) == []
    # At most that it has gone is told, of what was there before it was known to have been read.
    assert {each.number for each in desk.expired.all} <= {kept[2].number}
    assert desk.rejected.all == []


async def test_a_tampered_message_in_the_archive_is_reported_and_stops_no_other(
    device: NewDevice, prosody: Prosody
) -> None:
    """F38: what does not open is told of, unless it is a copy of what has opened (F36)."""
    rosa, peter = device("rosa"), device("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await rosa.leave()
    await peter.chat.send(rosa.jid, "before")
    await peter.ping()
    prosody.interfere(
        Interference(recipient=rosa.jid, substitute=[("<payload>", "<payload>AAAA")], times=1)
    )
    broken = await peter.chat.send(rosa.jid, "tampered with")
    await peter.ping()
    prosody.interfere(Interference(recipient=rosa.jid, copies=2, times=1))
    await peter.chat.send(rosa.jid, "three times")
    await peter.chat.send(rosa.jid, "after")
    await peter.ping()
    await rosa.arrive()
    report = await caught_up(rosa)
    assert (report.stored, report.complete) == (3, True)
    assert report.fetched >= 6
    heard = [await rosa.hear() for _ in rosa.messages.all]
    assert bodies(heard) == ["before", "three times", "after"]
    assert await fence(peter, rosa) == []
    reported = {(each.reason, each.message_id) for each in rosa.rejected.all}
    assert reported == {(Reason.UNDECRYPTABLE, broken.message_id)}


async def test_a_new_device_is_quiet_about_what_was_never_for_it(device: NewDevice) -> None:
    """Everything in the archive is older than its keys; from then on everything is for it."""
    phone, peter = device("rosa"), device("peter")
    await phone.arrive()
    await peter.arrive()
    await meet(phone, peter)
    desk = device(phone)
    await desk.arrive()
    report = await caught_up(desk)
    assert (report.stored, report.complete) == (0, True)
    assert report.fetched >= 2

    async def is_known() -> bool:
        devices = await peter.chat.devices(phone.jid)
        return desk.chat._account.device in {each.device for each in devices}

    await until(peter, is_known)
    await peter.chat.send(phone.jid, "to both")
    assert [(await each.hear()).body for each in (phone, desk)] == ["to both"] * 2
    assert desk.rejected.all == []


async def test_without_carbons_the_next_session_brings_what_was_sent_elsewhere(
    device: NewDevice,
) -> None:
    """F27: nothing that arrives in between makes it look further on."""
    phone = device("rosa")
    desk, peter = device(phone, carbons=False), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    await caught_up(desk)  # what comes from now on is for the next session
    await phone.chat.send(peter.jid, "from the phone", timer=HOUR)
    assert await fence(peter, desk) == []
    assert bodies(await desk.history(peter)) == [FENCE]
    await desk.restart()
    await caught_up(desk)
    copy = await desk.hear()
    assert (copy.body, copy.direction) == ("from the phone", Direction.OUTGOING)
    assert copy.deadline == NOW + 3600
    assert await fence(peter, desk) == []
    assert desk.rejected.all == []


async def test_without_catching_up_the_stream_is_all_there_is(
    device: NewDevice, wire: Wire
) -> None:
    """The archive is not asked; offline messages come by the stream, and nothing waits for long."""
    rosa, peter = device("rosa", address=wire.address, catch_up=False), device("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await rosa.leave()
    await peter.chat.send(rosa.jid, "while you were away")
    await peter.ping()
    await rosa.arrive()
    assert (await rosa.hear()).body == "while you were away"
    assert await fence(peter, rosa) == []
    assert queries(wire) == []
    assert rosa.progress.all == []


@pytest.fixture
async def bare(new_server: NewServer, tmp_path: Path) -> AsyncIterator[NewDevice]:
    """Devices on a server that has neither an archive nor carbons."""
    server = new_server(lacking=("mam", "carbons"))
    async with NewDevice(server, server.register, tmp_path) as new:
        yield new


async def test_without_an_archive_the_stream_is_enough(bare: NewDevice) -> None:
    """Live and offline messages are heard; that there is no archive is told, once a session."""
    rosa, peter = bare("rosa"), bare("peter")
    await rosa.arrive()
    report = await caught_up(rosa)
    assert (report.fetched, report.complete) == (0, False)
    await peter.arrive()
    await meet(rosa, peter)
    await rosa.leave()
    await peter.chat.send(rosa.jid, "while you were away", timer=HOUR)
    await peter.ping()
    await rosa.arrive()
    heard = await rosa.read()
    assert (heard.body, heard.deadline) == ("while you were away", NOW + 3600)
    await heard.reply("here I am")
    assert (await peter.hear()).body == "here I am"
    assert await fence(peter, rosa) == []
    assert rosa.rejected.all == []


@pytest.mark.core
async def test_what_comes_before_we_are_available_is_not_missed(device: NewDevice) -> None:
    """F21: neither live nor stored for us: the server has seen us read the archive."""
    rosa, peter = device("rosa"), device("peter")
    await rosa.arrive()
    await peter.arrive(presence=False)
    assert (await caught_up(peter)).complete
    await rosa.chat.send(peter.jid, "are you there?")
    await rosa.ping()
    await peter.ping()
    assert peter.messages.all == []
    peter.client.send_presence()
    assert (await peter.hear()).body == "are you there?"
    assert bodies(await peter.history(rosa)) == ["are you there?"]
