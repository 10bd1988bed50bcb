"""Which answer is due to a device, counted over restarts, with few writes."""

from __future__ import annotations

import pytest

from eph_e2ee.xmpp import unanswered
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.unanswered import HEARTBEAT, PAYLOAD, STEP, Device, Due, Unanswered
from tests.xmpp.clients import Kept

ROSA: Device = (MODERN, "rosa@example.org", 7)
QXMPP_STOPS = 106


class Counted(Kept):
    """A storage that counts what is written."""

    writes = 0

    async def _store(self, key: str, value: object) -> None:
        self.writes += 1
        await super()._store(key, value)  # type: ignore[arg-type]


@pytest.fixture
def storage() -> Counted:
    return Counted()


async def heard(
    counts: Unanswered, count: int, device: Device = ROSA, *, payload: bool = True
) -> None:
    for _ in range(count):
        await counts.heard(device, payload=payload)


async def test_an_empty_message_is_due_first_then_one_with_a_payload(storage: Counted) -> None:
    counts = Unanswered(storage)
    await heard(counts, HEARTBEAT - 1)
    assert counts.due(ROSA) is None
    await heard(counts, 1)
    assert counts.due(ROSA) is Due.EMPTY
    assert counts.waiting() == [ROSA]
    await counts.answered(ROSA, payload=False)
    await heard(counts, PAYLOAD - HEARTBEAT - 1)
    assert counts.due(ROSA) is None
    await heard(counts, 1)
    assert counts.due(ROSA) is Due.PAYLOAD
    await counts.answered(ROSA, payload=True)
    assert counts.due(ROSA) is None


async def test_an_empty_message_does_not_count_where_a_payload_is_needed(storage: Counted) -> None:
    """QXmpp: neither does ours reset its count, nor does its own raise it."""
    counts = Unanswered(storage)
    for _ in range(PAYLOAD - 1):
        await counts.heard(ROSA, payload=True)
        await counts.answered(ROSA, payload=False)
    await heard(counts, HEARTBEAT, payload=False)
    assert counts.due(ROSA) is Due.EMPTY
    await heard(counts, 1)
    assert counts.due(ROSA) is Due.PAYLOAD


async def test_legacy_devices_are_sent_nothing_but_empty_ones(storage: Counted) -> None:
    counts, legacy = Unanswered(storage), (OLD, *ROSA[1:])
    await heard(counts, PAYLOAD, legacy)
    assert counts.due(legacy) is Due.EMPTY


async def test_an_answer_that_does_not_leave_starts_no_storm(storage: Counted) -> None:
    """F45."""
    counts = Unanswered(storage)
    asked = 0
    for _ in range(1000):
        await heard(counts, 1)
        if counts.due(ROSA) is Due.PAYLOAD:
            counts.asked(ROSA)
            asked += 1
    assert asked == 1000 // PAYLOAD


@pytest.mark.parametrize("every", [1, 3, 10, 50])
async def test_no_restart_makes_it_forget(every: int, storage: Counted) -> None:
    """A bot that is started for a moment, again and again, is not given up by QXmpp."""
    counts, since = Unanswered(storage), 0
    for number in range(500):
        if number % every == 0:
            counts = Unanswered(storage)
        await heard(counts, 1)
        since += 1
        due = counts.due(ROSA)
        if due is not None:
            since = 0 if due is Due.PAYLOAD else since
            await counts.answered(ROSA, payload=due is Due.PAYLOAD)
        assert since <= PAYLOAD < QXMPP_STOPS


async def test_a_restart_alone_makes_nothing_due(storage: Counted) -> None:
    """F45: as many as may have come are assumed, but an answer needs one more."""
    for _ in range(2):
        counts = Unanswered(storage)
        await heard(counts, HEARTBEAT - STEP)
        await counts.answered(ROSA, payload=True)
        for _ in range(20):
            counts = Unanswered(storage)
            assert counts.waiting() == []


async def test_few_writes(storage: Counted) -> None:
    counts = Unanswered(storage)
    await heard(counts, 1)
    await counts.answered(ROSA, payload=True)
    before = storage.writes
    for _ in range(100):  # a conversation: nobody is ever far behind
        await heard(counts, 1)
        await counts.answered(ROSA, payload=True)
    assert storage.writes == before
    await heard(counts, HEARTBEAT)
    assert storage.writes <= before + HEARTBEAT // STEP + 1


async def test_memory_is_bounded(storage: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers with many devices fill nothing; what is not in memory is read again."""
    monkeypatch.setattr(unanswered, "MAXIMUM", 10)
    counts = Unanswered(storage)
    await heard(counts, PAYLOAD - 1)
    for number in range(100):
        await heard(counts, 1, (MODERN, "anna@example.org", number))
    assert len(counts._counts) == 10
    assert counts.due(ROSA) is None
    await heard(counts, 1)
    assert counts.due(ROSA) is Due.PAYLOAD
