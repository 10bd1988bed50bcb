"""Messages whose sender's keys could not be asked for: they wait, and come once the keys do."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import Reason
from eph_e2ee.retrying import FIRST, GIVEN_UP
from eph_e2ee.xmpp import fetching
from tests.flows.archiving import Shelves, absent, missed, names, position, rejections
from tests.flows.test_groups import enter
from tests.flows.test_withheld import ROSA, acquaint, trust, waiting
from tests.support.client import SECONDS
from tests.xmpp.rooming import ROOM, Rooming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Party, Town


class Both(Shelves, Rooming):
    """A server with archives and a room."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = {"owner": [ROSA], "admin": [], "member": ["peter@example.org"]}


@pytest.fixture
def world() -> Both:
    return Both()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


class Attempts:
    """When somebody tries again, as far as a test lets him.

    Attributes:
        pauses: seconds until each attempt, the last one last.
    """

    def __init__(self, party: Party, patch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        self._party = party
        self._calls: list[Callable[[], None]] = []
        patch.setattr(party.chat._withheld.retrying, "_later", self._later)

    def _later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.pauses.append(seconds)
        self._calls.append(call)
        loop = asyncio.get_running_loop()
        return asyncio.TimerHandle(loop.time(), call, (), loop)

    async def due(self) -> None:
        """Let the time of all that wait come, and return once they were tried."""
        retrying, tried = self._party.chat._withheld.retrying, asyncio.Event()
        retry = retrying._retry

        async def noted(sender: Any) -> None:
            try:
                await retry(sender)
            finally:
                tried.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retrying, "_retry", noted)
            calls, self._calls = self._calls, []
            for call in calls:
                call()
            async with asyncio.timeout(SECONDS):
                await tried.wait()


@pytest.fixture
def attempts(peter: Party, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    return Attempts(peter, monkeypatch)


@contextmanager
def mute() -> Iterator[None]:
    """Have nobody's server answer in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "PATIENCE", 0)
        yield


def after_a_minute(party: Party) -> None:
    """What could not be had is asked for again."""
    party.chat._account.omemo.gate.downloads.clear()


async def unheard(rosa: Party, peter: Party, town: Town, *texts: str) -> None:
    """Have Rosa send something while her server does not answer Peter."""
    for text in texts:
        await rosa.chat.send(peter.jid, text)
        with mute():
            await town.deliver()


async def test_a_message_comes_once_its_senders_keys_do(
    rosa: Party, peter: Party, town: Town, attempts: Attempts
) -> None:
    """Those of the next minute, too, for which nobody is asked; each is told of once."""
    texts = ["first", "second", "third"]
    await unheard(rosa, peter, town, *texts)
    assert peter.bodies == []
    assert rejections(peter) == [Reason.UNREACHABLE] * 3
    assert await waiting(peter) == 3
    after_a_minute(peter)
    await attempts.due()
    assert peter.bodies == texts
    assert await waiting(peter) == 0
    assert rejections(peter) == [Reason.UNREACHABLE] * 3
    assert attempts.pauses == [FIRST]


async def test_an_attempt_in_vain_is_no_news(
    rosa: Party, peter: Party, town: Town, attempts: Attempts
) -> None:
    """The next one comes later; after a week there is none."""
    await unheard(rosa, peter, town, "text")
    with mute():
        for _ in range(3):
            await attempts.due()
    assert attempts.pauses == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert rejections(peter) == [Reason.UNREACHABLE]
    assert await waiting(peter) == 1
    peter.passes(GIVEN_UP)
    await attempts.due()
    assert await waiting(peter) == 0
    assert len(attempts.pauses) == 4
    assert rejections(peter) == [Reason.UNREACHABLE]


async def test_an_archive_is_read_on_and_nothing_is_lost(
    town: Town, world: Both, rosa: Party
) -> None:
    """Of others that stand there nobody has to wait; the next session brings the rest, once."""
    anna = await town.party("anna")
    peter = await absent(town, anna)
    await missed(rosa, peter, town, "from Rosa")
    await missed(anna, peter, town, "from Anna")
    with mute():
        await peter.online()
    assert peter.bodies == ["from Anna"]
    assert rejections(peter) == [Reason.UNREACHABLE]
    assert position(peter)["last"] == names(world, peter)[-1]
    peter.offline()
    after_a_minute(peter)
    told = asyncio.Event()
    peter.client.add_event_handler("ephemeral_message", lambda _: told.set())
    await peter.online()
    async with asyncio.timeout(SECONDS):
        await told.wait()
    peter.offline()
    await peter.online()
    assert peter.bodies == ["from Anna", "from Rosa"]
    assert [each.body for each in await peter.chat.history(rosa.jid)] == ["from Rosa"]


async def test_what_waits_outlives_the_process(town: Town, rosa: Party, peter: Party) -> None:
    await unheard(rosa, peter, town, "text")
    again = await town.again(peter)
    await again.chat._tasks[2]
    assert again.bodies == ["text"]
    assert await waiting(again) == 0


async def test_an_answer_is_final(town: Town, world: Both, rosa: Party, peter: Party) -> None:
    """Whose server says that there are no such keys cannot have sent it."""
    await rosa.chat.devices(peter.jid)
    for node in [node for jid, node in world.items if jid == rosa.jid and "bundles" in node]:
        del world.items[rosa.jid, node]
    await rosa.chat.send(peter.jid, "text")
    await town.deliver()
    assert rejections(peter) == [Reason.UNKNOWN_SENDER]
    assert await waiting(peter) == 0


async def test_a_server_that_fails_has_not_answered(
    town: Town, world: Both, rosa: Party, peter: Party, attempts: Attempts
) -> None:
    await rosa.chat.send(peter.jid, "text")
    world.failing = {"urn:xmpp:omemo:2:bundles"}
    await town.deliver()
    assert rejections(peter) == [Reason.UNREACHABLE]
    world.failing = set()
    after_a_minute(peter)
    await attempts.due()
    assert peter.bodies == ["text"]


async def test_whoever_has_to_be_decided_on_waits_for_that(
    town: Town, rosa: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer for keys; both are news."""
    peter = await town.party("peter", trust="manual", untrusted="withhold")
    attempts = Attempts(peter, monkeypatch)
    await unheard(rosa, peter, town, "text")
    after_a_minute(peter)
    await attempts.due()
    assert rejections(peter) == [Reason.UNREACHABLE, Reason.UNDECIDED]
    peter.passes(GIVEN_UP)
    await acquaint(peter, rosa)
    await trust(peter, rosa)
    assert peter.bodies == ["text"]


async def test_nothing_waits_longer_than_the_cap(
    town: Town, rosa: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19."""
    peter = await town.party("peter", unread_cap=timedelta(days=1))
    attempts = Attempts(peter, monkeypatch)
    await unheard(rosa, peter, town, "text")
    peter.passes(86400)
    after_a_minute(peter)
    await attempts.due()
    assert peter.bodies == []
    assert await waiting(peter) == 0


async def test_a_room_goes_on_without_it(rosa: Party, peter: Party, attempts: Attempts) -> None:
    enter(rosa)
    enter(peter)
    await peter.caught_up()
    peter.client.receive(
        f"<presence xmlns='jabber:client' from='{ROOM}/rosa'>"
        "<x xmlns='http://jabber.org/protocol/muc#user'>"
        f"<item jid='{rosa.jid}/x' affiliation='owner' role='moderator'/></x></presence>"
    )
    await rosa.chat.send(ROOM, "to all")
    (sent,) = rosa.client.sent
    rosa.client.sent.clear()
    sent.xml.set("from", f"{ROOM}/rosa")
    with mute():
        peter.client.receive(sent.xml)
        await peter.idle()
    assert rejections(peter) == [Reason.UNREACHABLE]
    after_a_minute(peter)
    await attempts.due()
    assert [(each.body, each.conversation) for each in peter.events["message"]] == [
        ("to all", ROOM)
    ]
