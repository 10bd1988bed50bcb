"""Many things at once: each message once, few empty ones, and nobody stops anybody else."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import NoEligibleDevices
from eph_e2ee.vault.ratchets import Ratchets
from tests.support.chats import TOGETHER_SECONDS, Party, bodies, fence, meet, together
from tests.support.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from eph_e2ee.xmpp.stanzas import Arrival
    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

ENCRYPTED = re.compile(rb"<message\b[^>]*>(?:(?!</message>).)*<encrypted\b.*?</message>", re.DOTALL)
SENT = 300
MOST_EMPTY = 12
"""Of 300: at most 40 in 1000 (DESIGN.md section 6)."""


async def heard(somebody: Party, count: int) -> list[str | None]:
    """The texts of so many messages, as they come."""
    return [(await somebody.hear()).body for _ in range(count)]


def empty_messages(wire: Wire) -> int:
    """How many encrypted messages without a payload clients have sent."""
    stanzas = ENCRYPTED.findall(wire.from_clients.record)
    return sum(b"<payload" not in stanza for stanza in stanzas)


@pytest.fixture
def slow_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every read of a ratchet give way to others, as one from a cold disk does."""
    load = Ratchets._load

    async def slowly(self: Ratchets, key: str) -> Any:
        await asyncio.sleep(0)
        return await load(self, key)

    monkeypatch.setattr(Ratchets, "_load", slowly)


@pytest.mark.usefixtures("slow_storage")
@pytest.mark.parametrize("met", [True, False], ids=["acquainted", "first contact"])
async def test_sends_and_receipts_at_once(
    pair: tuple[Party, Party],
    met: bool,  # noqa: FBT001 -- pytest's
) -> None:
    """F43: fifty each way at once: each arrives once, and no key is used twice."""
    rosa, peter = pair
    if met:
        await meet(rosa, peter)
    count = 50
    there = [f"there {number}" for number in range(count)]
    back = [f"back {number}" for number in range(count)]
    *_, at_peter, at_rosa = await together(
        *(rosa.chat.send(peter.jid, text) for text in there),
        *(peter.chat.send(rosa.jid, text) for text in back),
        heard(peter, count),
        heard(rosa, count),
    )
    assert Counter(at_peter) == Counter(there)
    assert Counter(at_rosa) == Counter(back)
    assert await fence(rosa, peter) == []
    assert await fence(peter, rosa) == []
    for one, other in ((rosa, peter), (peter, rosa)):
        assert one.rejected.all == []
        assert Counter(bodies(await one.history(other)))[there[0]] == 1
        await one.restart()
    await rosa.chat.send(peter.jid, "still the same ratchet")
    assert (await peter.hear()).body == "still the same ratchet"


@pytest.mark.parametrize("rounds", [1, 3])
async def test_first_messages_that_cross(pair: tuple[Party, Party], rounds: int) -> None:
    """Both begin a session at the same moment: nothing is lost, then or later."""
    rosa, peter = pair
    for number in range(rounds):
        await together(
            rosa.chat.send(peter.jid, f"there {number}"),
            peter.chat.send(rosa.jid, f"back {number}"),
        )
    assert await heard(peter, rounds) == [f"there {number}" for number in range(rounds)]
    assert await heard(rosa, rounds) == [f"back {number}" for number in range(rounds)]
    for _ in range(3):
        for one, other in ((rosa, peter), (peter, rosa)):
            await one.chat.send(other.jid, "and on")
            assert (await other.hear()).body == "and on"
            await other.restart()
    for each in (rosa, peter):
        assert each.rejected.all == []


async def test_first_messages_that_cross_offline(party: NewParty) -> None:
    """Somebody writes right after arriving, before what waited has come."""
    rosa, peter = party("rosa"), party("peter")
    await rosa.arrive()
    await peter.arrive()
    await peter.leave()
    await rosa.chat.send(peter.jid, "while you were away")
    peter.attach()
    await connect(peter.client, peter.address, presence=False)
    await peter.started.next()
    await peter.chat.send(rosa.jid, "I am back")
    assert (await rosa.hear()).body == "I am back"
    peter.client.send_presence()
    assert (await peter.hear()).body == "while you were away"
    for one, other in ((rosa, peter), (peter, rosa), (rosa, peter)):
        await one.chat.send(other.jid, "so you are")
        assert (await other.hear()).body == "so you are"
    assert rosa.rejected.all == []
    assert peter.rejected.all == []


async def test_a_changing_timer_under_way(pair: tuple[Party, Party]) -> None:
    """F29: sender and peer agree on each message's timer, whatever changes meanwhile."""
    rosa, peter = pair
    await meet(rosa, peter)
    count = 30

    async def change() -> None:
        for hours in range(1, 6):
            await rosa.chat.set_timer(peter.jid, timedelta(hours=hours))

    await together(
        *(rosa.chat.send(peter.jid, f"number {number}") for number in range(count // 2)),
        change(),
        *(rosa.chat.send(peter.jid, f"number {number}") for number in range(count // 2, count)),
    )
    received = {(message := await peter.hear()).body: message.timer for _ in range(count)}
    sent = {message.body: message.timer for message in (await rosa.history(peter))[2:]}
    assert received == sent
    assert len(set(sent.values())) > 1
    assert await fence(rosa, peter) == []  # the last change may have come after the last text
    assert await peter.chat.timer(rosa.jid) == timedelta(hours=5)


async def test_events_come_in_the_order_of_sending(pair: tuple[Party, Party]) -> None:
    rosa, peter = pair
    await meet(rosa, peter)
    texts = [f"number {number}" for number in range(100)]
    await together(*(rosa.chat.send(peter.jid, text) for text in texts))
    assert await heard(peter, len(texts)) == texts
    assert bodies(await peter.history(rosa))[2:] == texts


@pytest.mark.parametrize("burst", [True, False], ids=["burst", "one at a time"])
async def test_few_empty_messages(
    party: NewParty,
    wire: Wire,
    burst: bool,  # noqa: FBT001 -- pytest's
) -> None:
    """F45: an answer now and then, so that the ratchet turns, and never one for each."""
    rosa, peter = party("rosa", address=wire.address), party("peter", address=wire.address)
    await rosa.arrive()
    await peter.arrive()
    if burst:
        await together(*(rosa.chat.send(peter.jid, str(number)) for number in range(SENT)))
        await heard(peter, SENT)
    else:
        for number in range(SENT):
            await rosa.chat.send(peter.jid, str(number))
            await peter.hear()
    assert await fence(rosa, peter) == []
    await peter.ping()
    assert 1 <= empty_messages(wire) <= MOST_EMPTY
    assert await fence(peter, rosa) == []
    assert rosa.rejected.all == []
    assert rosa.messages.all[:-1] == []


async def test_after_a_long_absence_few_empty_messages(party: NewParty, wire: Wire) -> None:
    """F45: a first contact that waited offline, each message with the key exchange."""
    rosa, peter = party("rosa"), party("peter", address=wire.address)
    await peter.arrive()
    await peter.leave()
    await rosa.arrive()
    texts = [str(number) for number in range(120)]
    await together(*(rosa.chat.send(peter.jid, text) for text in texts))
    await rosa.ping()
    await peter.arrive()
    assert await heard(peter, len(texts)) == texts
    await peter.ping()
    assert empty_messages(wire) <= 5
    await peter.chat.send(rosa.jid, "quite a lot")
    assert (await rosa.hear()).body == "quite a lot"
    assert peter.rejected.all == []


async def test_a_failing_message_takes_no_other_along(
    pair: tuple[Party, Party], party: NewParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F38, F42: a fault of our own while one is read harms that one alone."""
    rosa, peter = pair
    paul = party("paul")
    await paul.arrive()
    await meet(rosa, peter)
    await meet(paul, peter)
    opened = peter.chat._incoming._letters.open
    failed: list[str] = []

    async def failing(arrival: Arrival, replay_ids: tuple[str, ...]) -> Any:
        if arrival.sender == rosa.jid and arrival.message_id in (failed or [arrival.message_id]):
            failed.append(arrival.message_id)
            raise RuntimeError("a fault of our own")
        return await opened(arrival, replay_ids)

    monkeypatch.setattr(peter.chat._incoming._letters, "open", failing)
    texts = [f"number {number}" for number in range(10)]
    await together(
        *(rosa.chat.send(peter.jid, text) for text in texts), paul.chat.send(peter.jid, "and I")
    )
    came = await heard(peter, len(texts))
    assert sorted(each or "" for each in came) == sorted([*texts[1:], "and I"])
    assert await fence(rosa, peter) == []


async def test_a_slow_conversation_stops_no_other(
    pair: tuple[Party, Party], party: NewParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: one queue for each conversation, and no lock is held while one waits."""
    rosa, peter = pair
    paul = party("paul")
    await paul.arrive()
    await meet(rosa, peter)
    await meet(paul, peter)
    go_on = asyncio.Event()
    unseen = peter.chat._incoming._unseen

    async def slow(batch: Any) -> Any:
        if batch[0].sender == rosa.jid:
            await go_on.wait()
        return await unseen(batch)

    monkeypatch.setattr(peter.chat._incoming, "_unseen", slow)
    await rosa.chat.send(peter.jid, "slowly")
    await paul.chat.send(peter.jid, "quickly")
    assert (await peter.hear()).body == "quickly"
    await peter.chat.send(paul.jid, "I heard you")
    assert (await paul.hear()).body == "I heard you"
    go_on.set()
    assert (await peter.hear()).body == "slowly"


async def test_a_failing_recipient_stops_no_other(
    pair: tuple[Party, Party], account: Callable[[str], Account]
) -> None:
    """F39, F43: errors and messages at once, through the one lock."""
    rosa, peter = pair
    nobody = account("nobody").jid
    sends = [rosa.chat.send(peter.jid if n % 2 else nobody, f"number {n}") for n in range(20)]
    async with asyncio.timeout(TOGETHER_SECONDS):
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert all(isinstance(outcome, NoEligibleDevices) for outcome in outcomes[::2])
    expected = [f"number {n}" for n in range(1, 20, 2)]
    assert await heard(peter, 10) == expected
    assert bodies(await rosa.history(peter)) == expected


async def test_a_cancelled_send_is_whole_or_not_at_all(pair: tuple[Party, Party]) -> None:
    """F43: cancelled at any point, no key is used twice and no message is half there."""
    rosa, peter = pair
    await meet(rosa, peter)
    for steps in range(12):
        task = asyncio.ensure_future(rosa.chat.send(peter.jid, f"cancelled after {steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    came = bodies(await fence(rosa, peter))
    kept = bodies(await rosa.history(peter))[2:-1]
    unsent = bodies(await rosa.chat.unsent())
    assert [text for text in kept if text not in unsent] == came
    for message in await rosa.chat.unsent():
        await message.resend()
    assert bodies(await fence(rosa, peter)) == unsent
    assert peter.rejected.all == []
