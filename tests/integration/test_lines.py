"""The history's lines about changes of the timer, and the event that tells of each."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from eph_e2ee import Direction, Erasure, Phase, TimerChange
from eph_e2ee.model import BareJid, Seconds
from tests.integration.devices import Device, NewDevice, caught_up
from tests.support.chats import bodies, fence

if TYPE_CHECKING:
    from eph_e2ee import Message

pytestmark = pytest.mark.integration

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


async def three(device: NewDevice) -> tuple[Device, Device, Device]:
    """Two devices of Rosa's and one of Peter's, who know each other."""
    phone = device("rosa")
    desk, peter = device(phone), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    return phone, desk, peter


def changed(
    seen_by: Device, other: Device, made_by: Device, old: int | None, new: int | None
) -> TimerChange:
    """The change that one device made, as another one is told of it."""
    own = made_by.account == seen_by.account
    return TimerChange(
        conversation=BareJid(other.jid),
        old=None if old is None else Seconds(old),
        new=None if new is None else Seconds(new),
        author=BareJid(made_by.jid),
        device=made_by.chat._account.device,
        own=own,
        here=made_by is seen_by,
        authenticated=True,
    )


async def lines(somebody: Device, other: Device) -> list[Message]:
    """The lines of the history, the oldest first."""
    entries = await somebody.chat.history(other.jid, limit=1000)
    return [entry for entry in entries[::-1] if entry.change is not None]


async def test_every_device_is_told_who_changed_the_timer_and_keeps_a_line(
    device: NewDevice,
) -> None:
    """Ours, our other device's, the peer's, with a message and without; on both sides the same."""
    phone, desk, peter = await three(device)
    await phone.chat.set_timer(peter.jid, HOUR)
    for each in (phone, desk, peter):
        await each.changes.next()
    await peter.chat.send(phone.jid, "for a minute", timer=MINUTE)
    for each in (phone, desk, peter):
        await each.changes.next()
    await desk.chat.set_timer(peter.jid, None)
    for each in (phone, desk, peter):
        await each.changes.next()
    made = [(phone, None, 3600), (peter, 3600, 60), (desk, 60, None)]
    for each, other in ((phone, peter), (desk, peter), (peter, phone)):
        expected = [changed(each, other, by, old, new) for by, old, new in made]
        assert each.changes.all == expected
        kept = await lines(each, other)
        assert [line.change for line in kept] == expected
        assert [line.direction for line in kept] == [
            Direction.OUTGOING if change.own else Direction.INCOMING for change in expected
        ]
        assert [(line.sender, line.device) for line in kept] == [
            (change.author, change.device) for change in expected
        ]
        # The line stands before the message that brought the change.
        history = await each.chat.history(other.jid)
        assert [entry.change is not None for entry in history] == [True, False, True, True]
        assert await each.chat.timer(other.jid) is None
        assert each.rejected.all == []


async def test_lines_do_not_disappear_and_are_no_messages(device: NewDevice) -> None:
    """Signal#5628: after all messages the lines are still there, also after a restart."""
    phone, desk, peter = await three(device)
    await phone.chat.send(peter.jid, "minute by minute", timer=MINUTE)
    await peter.read()
    await phone.chat.set_timer(peter.jid, HOUR)
    for each in (phone, peter, desk):
        for _ in range(2):
            await each.changes.next()
    await desk.hear()
    for each in (phone, desk, peter):
        await each.passes(365 * 86400)
        await each.expired.next()
    await desk.restart()
    for each, other in ((phone, peter), (desk, peter), (peter, phone)):
        kept = await lines(each, other)
        assert [(line.change and line.change.new) for line in kept] == [60, 3600]
        assert all(
            (line.phase, line.timer, line.deadline, line.body) == (Phase.READ, None, None, None)
            for line in kept
        )
        assert await each.chat.search(other.jid, "") == []
    assert await phone.chat.unsent() == []


async def test_lines_are_found_by_no_search_and_go_with_the_conversation(
    device: NewDevice,
) -> None:
    """`search` gives messages alone; `erase` of a conversation leaves nothing of its lines."""
    phone, desk, peter = await three(device)
    await phone.chat.send(peter.jid, "anything at all", timer=HOUR)
    await peter.hear()
    await phone.chat.set_timer(peter.jid, MINUTE)
    assert bodies(await phone.chat.search(peter.jid, "")) == ["anything at all"]
    assert len(await lines(phone, peter)) == 2
    assert await phone.chat.erase(peter.jid) is Erasure.DESTROYED
    assert await lines(phone, peter) == []
    left = await phone.chat.history(peter.jid)
    assert {entry.phase for entry in left} <= {Phase.GONE}
    assert await phone.chat.timer(peter.jid) == MINUTE
    for _ in range(2):
        await desk.changes.next()
    assert len(await lines(desk, peter)) == 2
    await phone.restart()
    await caught_up(phone)
    assert await lines(phone, peter) == []
    assert phone.changes.all == []


async def test_a_setting_that_is_passed_on_counts_and_is_told_as_such(device: NewDevice) -> None:
    """The peer tells of what our other device set: it holds, and nobody of ours has vouched."""
    phone = device("rosa")
    desk, peter = device(phone, carbons=False), device("peter")
    for each in (phone, desk, peter):
        await each.arrive()
    await caught_up(desk)  # its archive is to tell nothing before the next session
    await phone.chat.set_timer(peter.jid, HOUR)
    await peter.changes.next()
    assert desk.changes.all == []
    await peter.chat.send(phone.jid, "as you wish")
    heard = await desk.hear()
    assert heard.timer == HOUR
    (told,) = desk.changes.all
    assert told == TimerChange(
        conversation=BareJid(peter.jid),
        old=None,
        new=Seconds(3600),
        author=BareJid(phone.jid),
        device=phone.chat._account.device,
        own=True,
        here=False,
        authenticated=False,
    )
    (line,) = await lines(desk, peter)
    assert line.change == told
    # What the phone has said itself, out of the archive, is no second change.
    await desk.restart()
    await caught_up(desk)
    assert await fence(peter, desk) == []
    assert desk.changes.all == []
    assert [line.change for line in await lines(desk, peter)] == [told]
