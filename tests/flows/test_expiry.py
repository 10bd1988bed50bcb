"""The end of messages: on time, all at once, and whatever the disk or a row does meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.clock import MAXIMUM_NAP
from eph_e2ee.errors import VaultDamaged, VaultUnavailable
from eph_e2ee.events import Expired
from eph_e2ee.expiry import ASK_AGAIN, GATHER, RETRY, Expiry
from eph_e2ee.model import Direction, Erasure, Phase
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault import keeper
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.paths import UntilCut
from tests.flows.watching import Nothing, Watch
from tests.support.client import SECONDS
from tests.support.clock import ManualServer
from tests.vault.making import PETER, ROSA, add_read, bodies, new_message, reading

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


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
    watch.left.on_gathered()
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
    expiry = Expiry(
        vault, [Nothing()], clock, lambda gone: told.append(gone.number), ManualServer()
    )
    task = asyncio.create_task(expiry.run())
    clock.advance(60)
    async with asyncio.timeout(SECONDS):
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


WEEK = 7 * 86_400


async def test_a_leap_erases_nothing_until_the_server_confirms_it(
    vault: Vault, watch: Watch
) -> None:
    """F14, F20: asked within a nap; then everything due goes at once, and is told."""
    number = await vault.transact(reading("one"))
    await watch.rest()
    watch.server.time = watch.clock.now() + WEEK
    watch.clock.turn_wall(WEEK)
    assert watch.told == []
    await watch.passes(MAXIMUM_NAP)
    assert watch.server.asked == 1
    assert watch.told == [Expired(number, ROSA, Direction.INCOMING)]
    await watch.passes(10 * MAXIMUM_NAP)
    assert watch.server.asked == 1


async def test_a_leap_that_the_server_refutes_erases_nothing(vault: Vault, watch: Watch) -> None:
    """F14: a wrong clock; the message has its full time by the right one."""
    await vault.transact(reading("one"))
    await watch.rest()
    watch.server.time = watch.clock.now()
    watch.clock.turn_wall(WEEK)
    await watch.passes(MAXIMUM_NAP)
    await watch.passes(59 - MAXIMUM_NAP)
    assert (watch.told, watch.server.asked) == ([], 1)
    await watch.passes(1)
    assert len(watch.told) == 1


@pytest.mark.parametrize("failure", [None, RuntimeError("nobody has thought of it")])
async def test_a_server_that_gives_no_time_is_asked_again(
    failure: Exception | None, vault: Vault, watch: Watch
) -> None:
    """F37: seldom, and nothing else waits for it: what is due by the confirmed time goes."""
    await vault.transact(reading("one"))
    await watch.rest()
    watch.server.failure = failure
    watch.clock.turn_wall(WEEK)
    await watch.passes(MAXIMUM_NAP)
    await watch.passes(ASK_AGAIN - 1)
    assert watch.server.asked == 1
    assert len(watch.told) == 1
    await watch.passes(1)
    assert watch.server.asked == 2
    assert not watch.task.done()


async def test_a_session_is_asked_at_its_start(vault: Vault, watch: Watch) -> None:
    """F21: without waiting for the next time to ask; and only when there is something to ask."""
    await vault.transact(reading("one"))
    watch.server.on_session()
    await watch.rest()
    assert watch.server.asked == 0
    watch.clock.turn_wall(WEEK)
    await watch.passes(MAXIMUM_NAP)
    assert watch.server.asked == 1
    watch.server.time = watch.clock.latest()
    watch.server.on_session()
    await watch.rest()
    assert watch.server.asked == 2
    assert len(watch.told) == 1


async def test_a_useless_answer_is_not_asked_for_without_end(watch: Watch) -> None:
    """A server without a clock battery."""
    watch.server.time = 0.0
    watch.clock.turn_wall(WEEK)
    await watch.passes(MAXIMUM_NAP)
    for _ in range(5):
        await watch.passes(ASK_AGAIN / 6)
    assert watch.server.asked == 1
    assert watch.clock.doubted


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
    async with asyncio.timeout(SECONDS):
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


async def test_a_crowded_key_tree_is_sealed_anew_without_being_asked(
    vault: Vault, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MANY_NODES", 150)
    new = [new_message(f"text {i}", message_id=str(i), timer=None) for i in range(120)]
    numbers = [entry.number for entry in await vault.transact(lambda tx: tx.add_many(new))]
    for number in numbers[::2]:
        await vault.transact(lambda tx, number=number: tx.erase(number))  # type: ignore[misc]  # mypy cannot type a lambda's default
    await watch.passes(GATHER)
    await watch.passes(GATHER)
    await watch.passes(GATHER)
    assert not vault.must_reseal
    assert not watch.unsettled()
    assert vault.run_alone_sync(lambda open_vault: open_vault.keys.nodes) < 150
    entries = await vault.transact(lambda tx: tx.entries(ROSA, None, 200))
    assert [text for text in bodies(entries) if text] == [f"text {i}" for i in range(119, 0, -2)]
