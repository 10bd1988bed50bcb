"""Timers that run, on clocks that tests move: reading starts them, nothing stops them."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import eph_e2ee
from eph_e2ee import Direction, Erasure, Expired, LocalProtocolError, Phase
from eph_e2ee.clock import MAXIMUM_NAP
from eph_e2ee.model import BareJid
from tests.support.chats import NOW, Party, bodies, fence, meet, residue
from tests.support.client import SECONDS
from tests.support.clock import ManualSource

if TYPE_CHECKING:
    from tests.integration.conftest import NewParty

pytestmark = pytest.mark.integration

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
WEEK = 7 * 86400.0


async def settled(party: Party) -> None:
    """Return once the server has been asked for its time, and has answered."""
    async with asyncio.timeout(SECONDS):
        while party.clock.doubted:
            await party.ping()


async def test_both_sides_forget_and_are_told(pair: tuple[Party, Party]) -> None:
    """F13, F17, F18: the sender's copy from sending, the reader's from reading, each by its own."""
    rosa, peter = pair
    sent = await rosa.chat.send(peter.jid, "for a minute", timer=MINUTE)
    heard = await peter.hear()
    peter.clock.advance(30)
    await heard.mark_read()
    await rosa.passes(59)
    assert bodies(await rosa.history(peter)) == ["for a minute"]
    await rosa.passes(1)
    assert await rosa.expired.next() == Expired(sent.number, BareJid(peter.jid), Direction.OUTGOING)
    peter.clock.advance(59)
    assert bodies(await peter.history(rosa)) == ["for a minute"]
    peter.clock.advance(1)
    assert await peter.expired.next() == Expired(
        heard.number, BareJid(rosa.jid), Direction.INCOMING
    )
    for one, other in ((rosa, peter), (peter, rosa)):
        (tombstone,) = await one.history(other)
        assert (tombstone.phase, tombstone.body, tombstone.elements) == (Phase.GONE, None, ())
        assert (tombstone.sender, tombstone.message_id) == (None, None)
        assert await one.chat.search(other.jid, "minute") == []
        assert len(one.expired.all) == 1


async def test_what_nobody_reads_never_starts(pair: tuple[Party, Party]) -> None:
    """F18: delivered is not read."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "unopened", timer=MINUTE)
    heard = await peter.hear()
    peter.clock.advance(365 * 86400)
    assert await fence(rosa, peter) == []
    assert (await peter.history(rosa))[0].body == "unopened"
    assert heard.deadline is None
    assert peter.expired.all == []


async def test_reading_twice_never_extends(pair: tuple[Party, Party]) -> None:
    """F18, F20: the first reading counts, through whichever object."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "once is enough", timer=MINUTE)
    heard = await peter.read()
    deadline = heard.deadline
    for _ in range(3):
        peter.clock.advance(10)
        await heard.mark_read()
        (again,) = await peter.history(rosa)
        await again.mark_read()
        assert heard.deadline == again.deadline == deadline
    peter.clock.advance(30)
    await peter.expired.next()
    await heard.mark_read()
    assert heard.phase is Phase.GONE


async def test_a_clock_turned_back_keeps_nothing(pair: tuple[Party, Party]) -> None:
    """F14: on either side, while it runs and over a restart."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "one", timer=MINUTE)
    await peter.read()
    peter.clock.turn_wall(-86400)
    rosa.clock.turn_wall(-86400)
    peter.clock.advance(60)
    await rosa.passes(60)
    await peter.expired.next()
    await rosa.expired.next()
    await rosa.chat.send(peter.jid, "two", timer=HOUR)
    await peter.read()
    await peter.leave()
    peter.clock.turn_wall(-86400)
    peter.clock.suspend(3600)
    await peter.arrive()
    assert bodies(await peter.history(rosa)) == [None, None]


async def test_a_jump_forward_kills_nothing_unread(pair: tuple[Party, Party]) -> None:
    """F14: a wall clock that jumps ahead does not age what nobody has read."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "unread", timer=MINUTE)
    heard = await peter.hear()
    peter.clock.turn_wall(10 * 86400)
    await peter.restart()
    (message,) = await peter.history(rosa)
    assert message.body == "unread"
    await message.mark_read()
    assert message.deadline == peter.clock.now() + 60
    assert heard.number == message.number


async def test_a_week_switched_off_ends_once_the_server_has_said_so(party: NewParty) -> None:
    """F20, F21: not shown from the start; destroyed and told of with the first session."""
    rosa, peter = party("rosa"), party("peter")
    peter.source = ManualSource(wall_time=NOW - WEEK)
    await rosa.arrive()
    await peter.arrive()
    await rosa.chat.send(peter.jid, "last week", timer=HOUR)
    number = (await peter.read()).number
    await peter.leave()
    peter.clock.reboot(WEEK)
    peter.attach()
    assert peter.clock.latest() == peter.clock.now() + WEEK
    assert bodies(await peter.history(rosa)) == [None]
    assert peter.expired.all == []
    await peter.arrive()
    assert (await peter.expired.next()).number == number
    assert not peter.clock.doubted
    assert abs(peter.clock.now() - NOW) < 3600
    await rosa.chat.send(peter.jid, "this week", timer=HOUR)
    assert (await peter.read()).body == "this week"
    assert bodies(await peter.history(rosa)) == [None, "this week"]


async def test_a_leap_during_a_session_is_confirmed_by_the_server(party: NewParty) -> None:
    """F14: a clock that was a week late is set."""
    rosa, peter = party("rosa"), party("peter")
    peter.source = ManualSource(wall_time=NOW - WEEK)
    await rosa.arrive()
    await peter.arrive()
    await rosa.chat.send(peter.jid, "one", timer=HOUR)
    await rosa.chat.send(peter.jid, "two", timer=timedelta(days=30))
    await peter.read()
    await peter.read()
    peter.clock.turn_wall(WEEK)
    assert bodies(await peter.history(rosa)) == [None, "two"]
    assert peter.clock.doubted
    peter.clock.advance(MAXIMUM_NAP)
    await peter.expired.next()
    assert bodies(await peter.history(rosa)) == [None, "two"]


async def test_a_wrong_clock_that_the_server_refutes_erases_nothing(party: NewParty) -> None:
    """F14: what was hidden is shown again, and ends by the right time."""
    rosa, peter = party("rosa"), party("peter")
    for each in (rosa, peter):
        each.set_clock()
        await each.arrive()
    await rosa.chat.send(peter.jid, "not overdue", timer=HOUR)
    await peter.read()
    peter.clock.turn_wall(10 * 365 * 86400)
    assert bodies(await peter.history(rosa)) == [None]
    peter.clock.advance(MAXIMUM_NAP)
    await settled(peter)
    assert bodies(await peter.history(rosa)) == ["not overdue"]
    assert peter.expired.all == []
    peter.clock.advance(3600)
    await peter.expired.next()
    assert bodies(await peter.history(rosa)) == [None]


async def test_what_nobody_reads_ends_at_its_cap_if_there_is_one(
    pair: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: offered, not the rule; a permanent message and one that is read are not touched."""
    rosa, peter = pair
    await peter.leave()
    capped = functools.partial(eph_e2ee.attach, unread_cap=timedelta(days=2))
    monkeypatch.setattr(eph_e2ee, "attach", capped)
    await peter.arrive()
    for text, timer in (("unopened", MINUTE), ("opened", timedelta(days=9)), ("kept", None)):
        await rosa.chat.send(peter.jid, text, timer=timer)
    unopened, opened, kept = [await peter.hear() for _ in range(3)]
    await opened.mark_read()
    assert unopened.deadline == peter.clock.now() + 2 * 86400
    assert kept.deadline is None
    peter.clock.advance(2 * 86400 - 1)
    assert bodies(await peter.history(rosa)) == ["unopened", "opened", "kept"]
    peter.clock.advance(1)
    assert (await peter.expired.next()).number == unopened.number
    assert bodies(await peter.history(rosa)) == [None, "opened", "kept"]
    assert opened.deadline == peter.clock.now() + 7 * 86400


async def test_a_cap_out_of_range_is_refused(party: NewParty) -> None:
    """F30: before anything is opened."""
    peter = party("peter")
    for cap in (timedelta(0), timedelta(seconds=2**32), timedelta(seconds=0.5)):
        with pytest.MonkeyPatch.context() as patch:
            attach = functools.partial(eph_e2ee.attach, unread_cap=cap)
            patch.setattr(eph_e2ee, "attach", attach)
            with pytest.raises(LocalProtocolError):
                peter.attach()
    assert not peter.folder.exists()


async def test_a_suspended_machine_shows_nothing_overdue(pair: tuple[Party, Party]) -> None:
    """F15: right after resuming, before any timer of the event loop has noticed."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "asleep", timer=MINUTE)
    heard = await peter.read()
    peter.clock.suspend(61)
    (tombstone,) = await peter.history(rosa)
    assert (tombstone.phase, tombstone.body) == (Phase.GONE, None)
    assert peter.expired.all == []
    assert await peter.chat.search(rosa.jid, "asleep") == []
    peter.clock.advance(10)
    assert (await peter.expired.next()).number == heard.number


@pytest.mark.parametrize(
    "timer", [timedelta(seconds=2**31 // 1000 + 1), timedelta(seconds=2**32 - 1)]
)
async def test_a_long_timer_is_an_ordinary_one(pair: tuple[Party, Party], timer: timedelta) -> None:
    """F16: beyond 2**31 ms, beyond 2038 and 2106."""
    rosa, peter = pair
    sent = await rosa.chat.send(peter.jid, "for our grandchildren", timer=timer)
    heard = await peter.read()
    seconds = int(timer.total_seconds())
    assert heard.timer == sent.timer == timer
    assert heard.deadline == peter.source.wall_time + seconds
    peter.clock.advance(seconds - 1)
    assert bodies(await peter.history(rosa)) == ["for our grandchildren"]
    assert peter.expired.all == []
    await peter.restart()
    assert bodies(await peter.history(rosa)) == ["for our grandchildren"]
    peter.clock.advance(1)
    await peter.expired.next()
    assert bodies(await peter.history(rosa)) == [None]


async def test_timers_out_of_range_are_refused(pair: tuple[Party, Party]) -> None:
    """F16, F30: nothing is sent and nothing changes."""
    rosa, peter = pair
    for timer in (timedelta(0), -MINUTE, timedelta(seconds=2**32), timedelta(milliseconds=1500)):
        with pytest.raises(LocalProtocolError):
            await rosa.chat.set_timer(peter.jid, timer)
        with pytest.raises(LocalProtocolError):
            await rosa.chat.send(peter.jid, "hello", timer=timer)
    assert await fence(rosa, peter) == []
    assert await rosa.chat.timer(peter.jid) is None
    assert peter.changes.all == []


async def test_expiry_needs_no_network(pair: tuple[Party, Party]) -> None:
    """F37: the connection may be gone, or never have been."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "first", timer=MINUTE)
    await rosa.chat.send(peter.jid, "second", timer=HOUR)
    await peter.read()
    await peter.read()
    await peter.client.disconnect()
    peter.clock.advance(60)
    await peter.expired.next()
    await peter.leave()
    peter.attach()
    peter.clock.advance(3600)
    await peter.expired.next()
    assert bodies(await peter.history(rosa)) == [None, None]


async def test_each_message_keeps_the_timer_it_was_sent_with(pair: tuple[Party, Party]) -> None:
    """F22, F29: a change leaves what exists alone, also when it overtakes a message."""
    rosa, peter = pair
    await meet(rosa, peter)
    await rosa.chat.send(peter.jid, "for an hour", timer=HOUR)
    await rosa.chat.set_timer(peter.jid, MINUTE)
    await rosa.chat.send(peter.jid, "for a minute")
    hour, minute = await peter.read(), await peter.read()
    assert (hour.timer, minute.timer) == (HOUR, MINUTE)
    await rosa.passes(60)
    peter.clock.advance(60)
    await peter.expired.next()
    await rosa.expired.next()
    assert bodies(await peter.history(rosa))[2:] == ["for an hour", None]
    assert bodies(await rosa.history(peter))[2:] == ["for an hour", None]
    assert await peter.chat.timer(rosa.jid) == MINUTE


async def test_many_that_are_due_at_once(pair: tuple[Party, Party]) -> None:
    """F38, F45: one pass for all of them; each is told of once; a damaged row stops none."""
    rosa, peter = pair
    await rosa.chat.set_timer(peter.jid, MINUTE)
    for number in range(20):
        await rosa.chat.send(peter.jid, f"number {number}")
    numbers = {(await peter.read()).number for _ in range(20)}
    victim = min(numbers)

    def damage(transaction: object) -> None:
        shared = transaction._shared  # type: ignore[attr-defined]
        shared.connection.exec_driver_sql(
            "UPDATE messages SET content = zeroblob(64) WHERE number = ?", (victim,)
        )

    await peter.chat._vault.transact(damage)
    assert len(await peter.history(rosa)) == 19
    peter.clock.advance(60)
    assert {(await peter.expired.next()).number for _ in range(20)} == numbers
    assert bodies(await peter.history(rosa)) == [None] * 20


async def test_erasing_here_and_now(pair: tuple[Party, Party]) -> None:
    rosa, peter = pair
    for text in ("keep this not", "nor this", "nor that"):
        await rosa.chat.send(peter.jid, text)
        await peter.hear()
    first, *_ = await peter.history(rosa)
    assert await first.erase() is Erasure.DESTROYED
    assert bodies(await peter.history(rosa)) == [None, "nor this", "nor that"]
    assert await peter.chat.erase(rosa.jid) is Erasure.DESTROYED
    assert bodies(await peter.history(rosa)) == [None, None, None]
    assert bodies(await rosa.history(peter)) == ["keep this not", "nor this", "nor that"]
    assert residue(peter.folder, "keep this not", "nor this", "nor that") == []
    await rosa.chat.send(peter.jid, "and on")
    assert (await peter.hear()).body == "and on"
