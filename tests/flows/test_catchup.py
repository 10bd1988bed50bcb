"""Catching up: what comes in between, and what other devices of ours have done meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import Reason, VaultUnavailable
from eph_e2ee.model import BareJid, Delivery, Phase
from tests.flows.archiving import Shelves, absent, missed, position, rejections

if TYPE_CHECKING:
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


async def test_a_new_session_in_the_middle(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F45: OMEMO stays in its reading of an archive until the second one has ended."""
    await missed(rosa, peter, town, *TEXTS)
    states: list[bool] = []

    def again(page: int) -> None:
        if page == 2:
            peter.client.event("session_bind", peter.client.boundjid)
        if page > 2:
            states.append(peter.chat._account.omemo.sessions._catching_up)

    world.on_page = again
    await peter.online()
    await peter.idle()
    assert peter.bodies == TEXTS
    assert states
    assert all(states)
    assert not peter.chat._account.omemo.sessions._catching_up
    assert rejections(peter) == []


async def test_without_an_archive_everything_flows(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    world.refuses = True
    await peter.online()
    (report,) = peter.events["catch_up"]
    assert (report.done, report.complete, report.fetched) == (True, False, 0)
    before = position(peter)
    await missed(rosa, peter, town, "live")
    assert peter.bodies == ["live"]
    await peter.chat._expiry.note()
    assert position(peter) == before  # there may be a gap before it
    assert not peter.chat._catching_up.has_unnoted


async def test_what_arrives_meanwhile_comes_afterwards(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """Also when it stands in a later page as well."""
    await missed(rosa, peter, town, *TEXTS)
    await rosa.chat.send(peter.jid, "live")

    def deliver(page: int) -> None:
        if page == 1:
            world.deliver()

    world.on_page = deliver
    await peter.online()
    await peter.idle()
    assert peter.bodies == [*TEXTS, "live"]
    assert rejections(peter) == []


@pytest.mark.parametrize("after", [30, 90])
async def test_what_was_read_elsewhere_stands_in_a_later_page(
    after: int, rosa: Party, peter: Party, town: Town
) -> None:
    """F21, F27: what has expired meanwhile is never told; the rest with the time it has left."""
    other = await town.party("peter")
    await missed(rosa, peter, town, "to be read", "unread", timer=MINUTE)
    (first, _) = other.events["message"]
    await first.mark_read()
    await other.idle()
    await town.deliver()
    peter.passes(after)
    await peter.online()
    history = await peter.chat.history(rosa.jid)
    read, unread = (next(m for m in history if m.number == n) for n in _numbers(peter, rosa))
    assert unread.phase is Phase.UNREAD
    if after < 60:
        assert peter.bodies == ["to be read", "unread"]
        assert (read.phase, read.deadline) == (Phase.RUNNING, other.clock.now() + 60)
    else:
        assert peter.bodies == ["unread"]
        assert (read.phase, read.body) == (Phase.GONE, None)


def _numbers(peter: Party, rosa: Party) -> list[int]:
    """Of the two messages that were missed; a line of the timer's change comes before them."""
    entries = peter.vault.transact_sync(lambda tx: tx.standings(rosa.jid, 99, 2))  # type: ignore[arg-type]
    return [entry.number for entry in reversed(entries)]


async def test_what_the_disk_refused_on_the_stream_is_found_in_the_archive(
    rosa: Party, peter: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that comes later may stand for it."""
    await peter.online()
    kind: Any = type(await peter.vault.transact(lambda tx: tx))

    def refuse(*_: Any) -> None:
        raise VaultUnavailable("the disk is full")

    await rosa.chat.send(peter.jid, "refused")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "add_many", refuse)
        await town.deliver()
    assert rejections(peter) == [Reason.NOT_STORED]
    await missed(rosa, peter, town, "taken")
    await peter.chat._expiry.note()
    again = await town.again(peter)
    assert peter.bodies == ["taken"]
    assert again.bodies == ["refused"]


async def test_one_of_ours_that_was_in_doubt_has_left_if_the_archive_has_it(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F17: the process ended before it was known."""
    peter.client.bound = True
    sent = await peter.chat.send(rosa.jid, "in doubt", timer=MINUTE)
    peter.chat._outgoing._left.clear()
    world.deliver()
    again = await town.again(peter)
    (told,) = again.events["delivery"]
    assert (told.number, told.delivery) == (sent.number, Delivery.SENT)
    assert again.bodies == []
    assert await again.chat.unsent() == []


@pytest.mark.parametrize("wanted", [True, False])
async def test_what_the_application_does_not_want_is_not_asked_for(
    wanted: bool,  # noqa: FBT001 -- a parameter
    rosa: Party,
    town: Town,
    world: Shelves,
) -> None:
    quiet = await town.party("anna", catch_up=wanted, carbons=not wanted)
    assert len(world.asked_after) == 1 + wanted
    assert (quiet.client in world._copied) is not wanted
    assert len(quiet.events["catch_up"]) == wanted * 2
    await rosa.chat.send(quiet.jid, "text")
    await town.deliver()
    assert quiet.bodies == ["text"]


async def test_closing_in_the_middle_leaves_no_task(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """STYLE 13."""
    await missed(rosa, peter, town, *TEXTS)
    tasks: list[Any] = []

    def look(page: int) -> None:
        if page == 2:
            peter.client.stopped = True
            tasks.append(peter.chat._catching_up._backlogs[peter.chat._account.bare].task)

    world.on_page = look
    peter.client.bound = True
    peter.client.event("session_bind", peter.client.boundjid)
    while not tasks:
        await town.world.clients[0].loop.run_in_executor(None, lambda: None)
    await peter.chat.close()
    assert tasks[0].done()
    assert peter.bodies == []


async def test_closing_leaves_no_task_of_the_session_before(peter: Party) -> None:
    """STYLE 13: the next session's reading waits for it, and may be canceled before it begins."""
    catching_up, answered = peter.chat._catching_up, asyncio.Event()

    async def before() -> bool:
        return await answered.wait()

    catching_up.own.begin(before, read=False)
    reading = catching_up.own.task
    assert reading is not None
    await asyncio.sleep(0)
    catching_up.own.begin(before, read=False)
    await catching_up.stop()
    assert reading.done()


async def test_without_carbons_nothing_live_tells_how_far_the_archive_was_seen(
    rosa: Party, town: Town, world: Shelves
) -> None:
    """F27: what our other device has sent stands between what we have heard."""
    phone = await town.party("peter", carbons=False)
    desk = await town.party("peter")
    await rosa.chat.send(phone.jid, "good morning")
    await town.deliver()
    before = position(phone)
    await desk.chat.send(rosa.jid, "from the desk")
    await missed(rosa, phone, town, "after it")
    await phone.chat._expiry.note()
    assert position(phone) == before
    phone.offline()
    await phone.online()
    await phone.idle()
    assert phone.bodies == ["good morning", "after it", "from the desk"]
    assert len(world.shelves[phone.jid]) == 3


async def test_what_was_told_after_an_interruption_is_told_once(
    rosa: Party, peter: Party, town: Town, world: Shelves
) -> None:
    """F36: the archive fails in the middle; the next reading begins with what is untold."""
    await missed(rosa, peter, town, *TEXTS)

    def fail(page: int) -> None:
        world.refuses = page == 1

    world.on_page = fail
    await peter.online()
    await peter.idle()
    told = list(peter.bodies)
    assert 0 < len(told) < len(TEXTS)
    world.refuses = False
    peter.offline()
    await peter.online()
    await peter.idle()
    assert peter.bodies == TEXTS


async def test_f38_a_damaged_setting_stops_no_other_conversation(
    rosa: Party, peter: Party, town: Town
) -> None:
    """F38: in one batch of an archive; what is not taken keeps its key, and is told."""
    anna = await town.party("anna")
    peter.vault.transact_sync(lambda tx: tx.put_value(f"agreement:{rosa.jid}", "{}"))
    peter.chat._conversations.forget(BareJid(rosa.jid))
    await missed(rosa, peter, town, "from rosa")
    await missed(anna, peter, town, "from anna")
    await peter.online()
    await peter.idle()
    assert peter.bodies == ["from anna"]
    assert rejections(peter) == [Reason.NOT_STORED]
