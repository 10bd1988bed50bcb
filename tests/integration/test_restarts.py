"""Processes that end at every stage, asked or killed, and begin again on the same vault."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import Delivery, Phase
from tests.support.chats import Party, bodies, fence, meet
from tests.support.client import SECONDS
from tests.support.clock import ManualSource

if TYPE_CHECKING:
    from typing import NoReturn

    from tests.integration.conftest import NewParty

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
HOUR = timedelta(hours=1)


@pytest.fixture(params=["rosa", "peter"])
def restarted(request: pytest.FixtureRequest, pair: tuple[Party, Party]) -> Party:
    """Either side of the pair."""
    return pair[("rosa", "peter").index(request.param)]


async def talk(one: Party, other: Party) -> None:
    """Exchange a message each way, and nothing else arrives."""
    await one.chat.send(other.jid, "are you there?")
    heard = await other.hear()
    assert heard.body == "are you there?"
    await heard.reply("I am")
    assert (await one.hear()).body == "I am"
    for each in (one, other):
        assert each.rejected.all == []


async def test_before_the_first_message(pair: tuple[Party, Party], restarted: Party) -> None:
    device = restarted.chat._account.device
    await restarted.restart()
    assert restarted.chat._account.device == device
    await talk(*pair)


async def test_between_the_first_message_and_its_answer(
    pair: tuple[Party, Party], restarted: Party
) -> None:
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "first")
    assert (await peter.hear()).body == "first"
    await restarted.restart()
    await peter.chat.send(rosa.jid, "second")
    assert (await rosa.hear()).body == "second"
    await talk(*pair)


async def test_after_the_key_exchange(pair: tuple[Party, Party], restarted: Party) -> None:
    """F43, F44: the same identity and the same ratchet go on."""
    await meet(*pair)
    device = restarted.chat._account.device
    for _ in range(3):
        await restarted.restart()
        await talk(*pair)
    assert restarted.chat._account.device == device


async def test_with_a_first_message_still_on_its_way(party: NewParty) -> None:
    rosa, peter = party("rosa"), party("peter")
    await peter.arrive()
    await peter.leave()
    await rosa.arrive()
    await rosa.chat.send(peter.jid, "first")
    await rosa.restart()
    await rosa.chat.send(peter.jid, "second")
    await peter.arrive()
    assert [(await peter.hear()).body for _ in range(2)] == ["first", "second"]
    await talk(peter, rosa)


async def test_an_unread_message_stays_and_waits(pair: tuple[Party, Party]) -> None:
    """F18, F20: nothing runs over a restart that nobody has started."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "look at me", timer=HOUR)
    await peter.hear()
    await peter.leave()
    peter.clock.suspend(100 * 3600)
    await peter.arrive()
    (message,) = await peter.history(rosa)
    assert (message.body, message.phase, message.deadline) == ("look at me", Phase.UNREAD, None)
    await message.mark_read()
    assert message.deadline == peter.source.wall_time + 3600
    assert peter.expired.all == []


async def test_a_running_timer_keeps_its_deadline(pair: tuple[Party, Party]) -> None:
    """F20: it is neither lost at a restart nor armed again from zero."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "for an hour", timer=HOUR)
    deadline = (await peter.read()).deadline
    assert deadline == peter.source.wall_time + 3600
    for _ in range(3):
        await peter.leave()
        peter.clock.suspend(900)
        await peter.arrive()
        (message,) = await peter.history(rosa)
        await message.mark_read()
        assert (message.deadline, message.body) == (deadline, "for an hour")
    peter.clock.advance(899)
    assert bodies(await peter.history(rosa)) == ["for an hour"]
    peter.clock.advance(1)
    expired = await peter.expired.next()
    assert expired.number == message.number
    assert bodies(await peter.history(rosa)) == [None]


async def test_the_senders_timer_keeps_its_deadline(pair: tuple[Party, Party]) -> None:
    """F17, F20: the sender's copy runs since it was sent, over restarts."""
    rosa, peter = pair
    sent = await rosa.chat.send(peter.jid, "for an hour", timer=HOUR)
    assert sent.deadline == rosa.source.wall_time + 3600
    await rosa.leave()
    rosa.clock.suspend(1800)
    await rosa.arrive()
    (message,) = await rosa.history(peter)
    assert (message.deadline, message.phase) == (sent.deadline, Phase.RUNNING)
    assert message.delivery is Delivery.SENT
    assert await rosa.chat.unsent() == []
    rosa.clock.advance(1800)
    await rosa.expired.next()


async def test_what_expired_while_away_is_never_shown(pair: tuple[Party, Party]) -> None:
    """F15, F20, F21: overdue at the next start means gone before anything can be read."""
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "for an hour", timer=HOUR)
    number = (await peter.read()).number
    await peter.leave()
    peter.clock.suspend(3601)
    peter.attach()
    (tombstone,) = await peter.history(rosa)
    assert (tombstone.phase, tombstone.body) == (Phase.GONE, None)
    assert (await peter.expired.next()).number == number
    await peter.arrive()
    assert await fence(rosa, peter) == []


async def test_an_erasure_outlives_a_restart(pair: tuple[Party, Party]) -> None:
    rosa, peter = pair
    await rosa.chat.send(peter.jid, "regrettable")
    message = await peter.hear()
    await message.erase()
    await peter.restart()
    (tombstone,) = await peter.history(rosa)
    assert (tombstone.number, tombstone.phase, tombstone.body) == (message.number, Phase.GONE, None)


async def test_the_setting_outlives_a_restart(pair: tuple[Party, Party], restarted: Party) -> None:
    rosa, peter = pair
    await rosa.chat.set_timer(peter.jid, HOUR)
    await peter.changes.next()
    await restarted.restart()
    for one, other in ((rosa, peter), (peter, rosa)):
        assert await one.chat.timer(other.jid) == HOUR
        await one.chat.send(other.jid, "still for an hour")
        assert (await other.hear()).timer == HOUR


async def test_a_crash_before_sending_leaves_an_unsent_message(
    pair: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17, F43: committed but not sent; sent again on demand, once, and never with a used key."""
    rosa, peter = pair
    await meet(rosa, peter)

    class Crash(Exception):
        """The process ends here."""

    def crash(*_: object) -> NoReturn:
        raise Crash

    monkeypatch.setattr(rosa.chat._account, "send", crash)
    with pytest.raises(Crash):
        await rosa.chat.send(peter.jid, "lost?", timer=HOUR)
    await rosa.restart()
    assert await fence(rosa, peter) == []
    (unsent,) = await rosa.chat.unsent()
    assert (unsent.body, unsent.delivery, unsent.timer) == ("lost?", Delivery.UNSENT, HOUR)
    assert unsent.phase is Phase.RUNNING
    assert unsent.deadline is not None
    rosa.clock.advance(600)
    again = await unsent.resend()
    assert (again.number, again.message_id) == (unsent.number, unsent.message_id)
    assert (again.delivery, again.deadline) == (Delivery.SENT, unsent.deadline)
    heard = await peter.hear()
    assert (heard.body, heard.message_id, heard.timer) == ("lost?", unsent.message_id, HOUR)
    assert await fence(rosa, peter) == []
    assert await rosa.chat.unsent() == []
    assert peter.rejected.all == []


async def test_what_had_left_all_the_same_is_heard_once(pair: tuple[Party, Party]) -> None:
    """F36: sent again although it had arrived, it is dropped under its own id."""
    rosa, peter = pair
    await meet(rosa, peter)
    await rosa.chat._expiry.note()
    await rosa.chat.send(peter.jid, "it did arrive", timer=HOUR)
    assert (await peter.hear()).body == "it did arrive"
    # A process that is killed has not noted what left within the last second.
    rosa.chat._outgoing._left.clear()
    await rosa.restart()
    (unsent,) = await rosa.chat.unsent()
    await unsent.resend()
    assert await fence(rosa, peter) == []
    assert bodies(await peter.history(rosa)).count("it did arrive") == 1
    assert peter.rejected.all == []


CHILD = """
import asyncio, sys
from datetime import timedelta
import eph_e2ee
from tests.support.client import Happenings, connect, new_client
from tests.support.prosody import Account

async def main(jid, password, folder, port, other, task):
    client = new_client(Account(jid, password))
    chat = eph_e2ee.attach(client, vault=folder)
    heard = Happenings(client, "ephemeral_message")
    started = Happenings(client, "omemo_initialized")
    await connect(client, ("127.0.0.1", int(port)))
    await started.next()
    if task == "read":
        print("ready", flush=True)
        message = await heard.next()
        await message.mark_read()
        print("read", message.number, int(message.deadline), flush=True)
        await heard.next(3600)
    number = 0
    while True:
        await chat.send(other, f"message {number}", timer=timedelta(hours=1))
        print("sent", number, flush=True)
        number += 1

asyncio.run(main(*sys.argv[1:]))
"""


class Victim:
    """A process that plays somebody until it is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def playing(cls, somebody: Party, other: Party, task: str) -> Victim:
        """Start it; `task` is "read", a message, or "write", for ever."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                CHILD,
                somebody.jid,
                somebody.account.password,
                str(somebody.folder),
                str(somebody.address[1]),
                other.jid,
                task,
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def says(self, word: str) -> list[str]:
        """Wait for a line that begins so."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self._process.stdout.readline()).decode().split():
                if line[0] == word:
                    return line[1:]
        raise AssertionError(f"it ended without {word}")

    async def killed(self) -> None:
        """Kill it, as kill -9 does, and read what it had still said."""
        self._process.kill()
        await self._process.communicate()


async def test_killed_while_a_timer_runs(party: NewParty) -> None:
    """F20, F44: the same identity, and the deadline that was set before."""
    rosa, peter = party("rosa"), party("peter")
    await rosa.arrive()
    victim = await Victim.playing(peter, rosa, "read")
    try:
        await victim.says("ready")
        await rosa.chat.send(peter.jid, "for an hour", timer=HOUR)
        number, deadline = map(int, await victim.says("read"))
    finally:
        await victim.killed()
    peter.source = ManualSource(wall_time=float(deadline - 1))
    await peter.arrive()
    (message,) = await peter.history(rosa)
    assert (message.number, message.body) == (number, "for an hour")
    assert message.deadline == deadline
    peter.clock.advance(1)
    assert (await peter.expired.next()).number == number
    await peter.chat.send(rosa.jid, "it has gone")
    assert (await rosa.hear()).body == "it has gone"
    assert await fence(rosa, peter) == []


async def test_killed_while_writing(party: NewParty) -> None:
    """F17, F43, F44: each message once, in order, whatever had been committed or sent."""
    rosa, peter = party("rosa"), party("peter")
    await peter.arrive()
    victim = await Victim.playing(rosa, peter, "write")
    try:
        heard = [(await peter.hear()).body for _ in range(40)]
    finally:
        await victim.killed()
    await rosa.arrive()
    for unsent in await rosa.chat.unsent():
        await unsent.resend()
    heard += bodies(await fence(rosa, peter))
    written = [each for each in bodies(await rosa.history(peter)) if each != "nothing after this"]
    assert heard == [f"message {number}" for number in range(len(heard))]
    assert heard == written
    assert peter.rejected.all == []
    await talk(peter, rosa)


async def test_an_event_that_the_end_interrupts_is_in_the_archive(
    pair: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message whose event never came, for the process ended, is in the history."""
    rosa, peter = pair
    arrived = asyncio.Event()

    def too_late(_: Any) -> None:
        arrived.set()

    monkeypatch.setattr(peter.chat._incoming, "on_message", too_late)
    await rosa.chat.send(peter.jid, "did you see this?")
    async with asyncio.timeout(SECONDS):
        await arrived.wait()
    await peter.restart()
    assert bodies(await peter.history(rosa)) == ["did you see this?"]
    assert await fence(rosa, peter) == []
