"""The end of messages: on time, all at once, and whatever the disk or a row does meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import VaultDamaged, VaultUnavailable
from eph_e2ee.expiry import GATHER, RETRY, Expiry
from eph_e2ee.model import Direction, Erasure, Expired, Phase
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.keytree import UntilCut
from tests.vault.making import PETER, ROSA, add_read, bodies, new_message, reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


class Nothing:
    """Messages that have left: none, or some that cannot be noted."""

    def __init__(self) -> None:
        self.on_left: Callable[[], None] = lambda: None
        self.has_unnoted = False
        self.failure: Exception | None = None
        self.noted = 0

    async def note_what_left(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.has_unnoted = False
        self.noted += 1


class Watch:
    """A running expiry, what it has told, and how often it asked the vault for what."""

    def __init__(self, vault: Vault, clock: ManualClock, patch: pytest.MonkeyPatch) -> None:
        self.vault, self.clock, self._patch = vault, clock, patch
        self.left = Nothing()
        self.told: list[Expired] = []
        self.calls: list[str] = []
        self.failing: set[str] = set()
        for name in ("expire_due", "settle", "sweep", "scrub"):
            self._count(name)
        self.expiry = Expiry(vault, self.left, clock, self.told.append)
        self.task = asyncio.create_task(self.expiry.run())

    def _count(self, name: str) -> None:
        inherited = getattr(self.vault, name)

        async def counted(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                raise VaultUnavailable("the disk is full")
            return await inherited(*arguments)

        self._patch.setattr(self.vault, name, counted)

    async def rest(self) -> None:
        """Return once it waits, for the clock or for something to happen."""
        async with asyncio.timeout(10):
            for _ in range(3):
                await self.vault.transact(lambda _: None)
                while self.expiry._woken.is_set() and not self.task.done():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                for _ in range(20):
                    await asyncio.sleep(0)

    def unsettled(self) -> bool:
        return self.vault.unsettled

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.rest()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def watch(
    vault: Vault, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watch]:
    watch = Watch(vault, clock, monkeypatch)
    await watch.rest()
    yield watch
    await watch.stop()


async def test_a_message_disappears_on_time(vault: Vault, watch: Watch) -> None:
    """F13, F37: not a second early; with a tombstone and an event, and without any network."""
    number = await vault.transact(reading("one"))
    await watch.passes(59)
    assert watch.told == []
    await watch.passes(1)
    assert watch.told == [Expired(number, ROSA, Direction.INCOMING)]
    (entry,) = await vault.transact(lambda tx: tx.entries(ROSA, None, 10))
    assert (entry.phase, entry.content) == (Phase.GONE, None)
    assert not watch.unsettled()


async def test_many_are_cut_at_once_and_told_one_by_one(
    vault: Vault, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cut and one settling for all, whatever conversation they belong to."""
    cuts: list[Any] = []
    intend = Transaction.intend

    def intending(self: Transaction, wanted: Any) -> None:
        listed = list(wanted)
        cuts.extend(listed)
        intend(self, listed)

    def add(transaction: Transaction) -> None:
        for number in range(50):
            add_read(transaction, message_id=f"{number}")

    await vault.transact(add)
    await watch.passes(1.5)  # so that what reading left to forget is settled
    monkeypatch.setattr(Transaction, "intend", intending)
    watch.calls.clear()
    await watch.passes(60)
    assert [type(cut) for cut in cuts] == [UntilCut]
    assert watch.calls.count("expire_due") == 1
    assert sorted(expired.number for expired in watch.told) == list(range(1, 51))


async def test_rows_are_cleaned_up_in_batches(
    vault: Vault, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    inherited = vault.sweep
    monkeypatch.setattr(vault, "sweep", lambda: inherited(2))
    for number in range(5):
        await vault.transact(reading(f"{number}"))
    await watch.passes(60)
    assert watch.calls.count("sweep") == 4
    assert len(watch.told) == 5
    assert watch.calls.count("scrub") == 1


async def test_what_is_not_due_stays(vault: Vault, watch: Watch) -> None:
    """F18: unread messages wait for their reader; the others for their own time."""
    await vault.transact(reading("due"))
    await vault.transact(lambda tx: tx.add(new_message("unread", message_id="unread")))
    await watch.passes(30)
    await vault.transact(lambda tx: add_read(tx, "later", "later"))
    await watch.passes(30)
    entries = await vault.transact(lambda tx: tx.entries(ROSA, None, 10))
    assert bodies(entries) == ["later", "unread", None]
    await watch.passes(30)
    entries = await vault.transact(lambda tx: tx.entries(ROSA, None, 10))
    assert bodies(entries) == [None, "unread", None]


async def test_erasures_are_gathered(vault: Vault, watch: Watch) -> None:
    """A burst costs one replacement of the root key, after a second at most."""
    numbers = [
        (await vault.transact(lambda tx: tx.add(new_message(message_id=f"{tx.now()}")))).number
        for _ in range(3)
    ]
    await watch.passes(GATHER)
    watch.calls.clear()
    for number in numbers:
        await vault.transact(lambda tx, number=number: tx.erase(number))  # type: ignore[misc]
        await watch.passes(GATHER / 4)
    assert watch.calls == []
    assert watch.unsettled()
    await watch.passes(GATHER / 4)
    assert watch.calls == ["settle"]
    assert not watch.unsettled()
    await watch.passes(10 * GATHER)
    assert watch.calls == ["settle"]


async def test_what_has_left_is_noted_within_the_same_second(watch: Watch) -> None:
    """F17."""
    watch.left.has_unnoted = True
    watch.left.on_left()
    await watch.rest()
    assert watch.left.noted == 0
    await watch.passes(GATHER)
    assert watch.left.noted == 1


@pytest.mark.parametrize("failing", ["expire_due", "sweep", "scrub"])
async def test_a_disk_that_refuses_is_tried_again(failing: str, vault: Vault, watch: Watch) -> None:
    """F2: and nothing due is shown in the meantime."""
    number = await vault.transact(reading("one"))
    watch.failing = {failing}
    await watch.passes(60)
    assert bodies(await vault.transact(lambda tx: tx.entries(ROSA, None, 10))) == [None]
    assert not watch.task.done()
    watch.failing = set()
    await watch.passes(RETRY - 1)
    await watch.passes(1)
    assert watch.told == [Expired(number, ROSA, Direction.INCOMING)]
    assert not watch.unsettled()


async def test_a_settling_that_fails_is_tried_again(vault: Vault, watch: Watch) -> None:
    entry = await vault.transact(lambda tx: tx.add(new_message()))
    await vault.transact(lambda tx: tx.erase(entry.number))
    await watch.rest()
    watch.failing = {"settle"}
    await watch.passes(GATHER)
    assert watch.unsettled()
    watch.failing = set()
    await watch.passes(RETRY + GATHER)
    await watch.passes(GATHER)
    assert not watch.unsettled()


@pytest.mark.parametrize(
    "failure",
    [VaultDamaged("a row"), VaultUnavailable("full"), RuntimeError("nobody has thought of it")],
)
async def test_what_cannot_be_noted_holds_no_erasure_up(
    failure: Exception, vault: Vault, watch: Watch
) -> None:
    """F38."""
    watch.left.failure, watch.left.has_unnoted = failure, True
    entry = await vault.transact(lambda tx: tx.add(new_message()))
    await vault.transact(lambda tx: tx.erase(entry.number))
    await watch.rest()
    await watch.passes(GATHER)
    assert not watch.unsettled()
    assert not watch.task.done()
    watch.left.failure = None
    await watch.passes(RETRY)
    await watch.passes(GATHER)
    assert watch.left.noted == 1


async def test_a_failing_listener_is_the_applications_affair(
    vault: Vault, clock: ManualClock
) -> None:
    """Every message of a batch is told of once; slixmpp keeps what handlers raise."""
    numbers = [await vault.transact(reading(f"{number}")) for number in range(3)]
    told: list[int] = []
    expiry = Expiry(vault, Nothing(), clock, lambda expired: told.append(expired.number))
    task = asyncio.create_task(expiry.run())
    clock.advance(60)
    async with asyncio.timeout(10):
        while len(told) < 3:  # noqa: ASYNC110 -- a list is no event
            await asyncio.sleep(0)
    assert sorted(told) == numbers
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_suspended_machine(vault: Vault, watch: Watch) -> None:
    """F15: its clock went on while the event loop's stood still; on waking, all is due."""
    await vault.transact(reading("one"))
    await watch.rest()
    watch.clock.suspend(3600)
    assert bodies(await vault.transact(lambda tx: tx.entries(ROSA, None, 10))) == [None]
    await watch.passes(10)
    assert len(watch.told) == 1


async def test_a_clock_turned_back(vault: Vault, watch: Watch) -> None:
    """F14."""
    await vault.transact(reading("one"))
    await watch.rest()
    watch.clock.turn_wall(-86_400)
    await watch.passes(60)
    assert len(watch.told) == 1


@pytest.mark.parametrize("days", [30, 40_000])
async def test_a_long_timer_is_an_ordinary_value(days: int, vault: Vault, watch: Watch) -> None:
    """F16: 2**31 ms, 2038 and 2106."""

    def add(transaction: Transaction) -> None:
        message = new_message(timer=days * 86_400)  # type: ignore[arg-type]
        transaction.apply(transaction.add(message).number, Event.READ, transaction.now())

    await vault.transact(add)
    await watch.passes(days * 86_400 - 1)
    assert watch.told == []
    await watch.passes(1)
    assert len(watch.told) == 1


async def test_the_end_of_the_vault_ends_it(vault: Vault, watch: Watch) -> None:
    await vault.transact(reading("one"))
    await watch.rest()
    await vault.close()
    watch.clock.advance(60)
    async with asyncio.timeout(10):
        await watch.task


async def test_settling_now(vault: Vault, watch: Watch) -> None:
    entry = await vault.transact(lambda tx: tx.add(new_message()))
    await vault.transact(lambda tx: tx.erase(entry.number))
    assert await watch.expiry.settle() is Erasure.DESTROYED
    assert not watch.unsettled()


async def test_settling_that_the_disk_refuses(watch: Watch) -> None:
    """F2: nobody is told that something is gone that is not."""
    watch.failing = {"settle"}
    assert await watch.expiry.settle() is Erasure.PENDING


async def test_another_conversation_is_not_touched(vault: Vault, watch: Watch) -> None:
    await vault.transact(reading("one"))
    await vault.transact(lambda tx: tx.add(new_message("kept", conversation=PETER)))
    await watch.passes(60)
    assert bodies(await vault.transact(lambda tx: tx.entries(PETER, None, 10))) == ["kept"]
