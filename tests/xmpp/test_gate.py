"""One operation at a time: lock, commit, and only then whatever leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import omemo
import pytest
from omemo.session_manager import BundleNotFound, BundleUploadFailed

from eph_e2ee.errors import VaultError, VaultUnavailable
from eph_e2ee.xmpp.gate import MAXIMUM_FETCHES, Absent, Gate
from tests.support.client import SECONDS
from tests.vault.making import hold
from tests.xmpp.clients import Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eph_e2ee.vault.ratchets import Ratchets
    from eph_e2ee.vault.vault import Vault


@pytest.fixture
def gate(ratchets: Ratchets) -> Gate:
    return Gate(ratchets)


async def number(storage: Any, key: str = "number") -> int:
    value: int = (await storage.load_primitive(key, int)).maybe(0)
    return value


def counting(storage: Any) -> Callable[[], Awaitable[int]]:
    """An operation that loses counts when another one runs between its steps."""

    async def operation() -> int:
        before = await number(storage)
        for _ in range(3):
            await asyncio.sleep(0)
        await storage.store("number", before + 1)
        return before + 1

    return operation


def refuses(_: Any) -> Callable[[Any], None]:
    """Rows of the caller's that the vault refuses."""

    def work(_: Any) -> None:
        raise VaultUnavailable("the disk is full")

    return work


def sending(gate: Gate, to: list[str], name: str = "message") -> Callable[[], Awaitable[None]]:
    """An operation during which python-omemo sends and publishes something."""

    async def operation() -> None:
        unit = gate.unit
        assert unit is not None
        unit.messages["message", name] = lambda: noted(to, name)
        unit.uploads["upload", name] = lambda: noted(to, f"upload of {name}")

    return operation


async def noted(to: list[str], name: str) -> None:
    to.append(name)


async def test_operations_without_the_gate_lose_each_others_steps(ratchets: Ratchets) -> None:
    """What the next test is about: this is how a message key is used twice."""
    await asyncio.gather(*(counting(ratchets)() for _ in range(20)))
    assert await number(ratchets) < 20


@pytest.mark.parametrize("kind", ["vault", "application"])
async def test_operations_never_overlap(kind: str, ratchets: Ratchets) -> None:
    """F43: also with a storage of the application's own, which awaits."""
    gate = Gate(ratchets if kind == "vault" else Kept())
    storage = gate.storage
    results = await asyncio.gather(*(gate.run(counting(storage)) for _ in range(20)))
    assert sorted(results) == list(range(1, 21))
    assert await number(storage) == 20


async def test_an_operation_may_call_another_of_the_same_gate(
    gate: Gate, ratchets: Ratchets
) -> None:
    async def outer() -> tuple[int, int]:
        return await gate.run(counting(ratchets)), await gate.run(counting(ratchets))

    async with asyncio.timeout(SECONDS):
        assert await gate.run(outer) == (1, 2)


async def test_a_failure_takes_the_inner_operations_steps_along(
    gate: Gate, ratchets: Ratchets
) -> None:
    async def outer() -> None:
        await gate.run(counting(ratchets))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await gate.run(outer)
    assert await number(ratchets) == 0


async def test_only_the_task_that_holds_the_lock_is_inside(gate: Gate) -> None:
    inside: list[bool] = []

    async def look() -> None:
        inside.append(gate.unit is not None)

    async def operation() -> None:
        await asyncio.create_task(look())
        await look()

    await gate.run(operation)
    await look()
    assert inside == [False, True, False]


async def test_what_a_failed_operation_stored_is_discarded(gate: Gate, ratchets: Ratchets) -> None:
    async def operation() -> None:
        await ratchets.store("number", 7)
        raise omemo.OMEMOException

    with pytest.raises(omemo.OMEMOException):
        await gate.run(operation)
    assert await number(ratchets) == 0
    assert not ratchets.pending


async def test_what_a_cancelled_operation_stored_is_discarded(
    gate: Gate, ratchets: Ratchets
) -> None:
    stored = asyncio.Event()

    async def operation() -> None:
        await ratchets.store("number", 7)
        stored.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(gate.run(operation))
    await stored.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gate.run(counting(ratchets)) == 1


async def test_a_commit_that_is_queued_survives_the_caller(
    gate: Gate, ratchets: Ratchets, vault: Vault
) -> None:
    assert await gate.run(counting(ratchets)) == 1  # it is in memory from now on
    release = await hold(vault)
    task = asyncio.create_task(gate.run(counting(ratchets)))
    for wanted in (True, False):
        while gate._lock.locked() is not wanted:  # noqa: ASYNC110 -- a state, not an event
            await asyncio.sleep(0)
    task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    ratchets.forget_cached()
    assert await number(ratchets) == 2


async def test_a_download_happens_without_the_lock(gate: Gate, ratchets: Ratchets) -> None:
    """Another operation runs while it takes its time; then everything begins again."""
    attempts, sent = 0, list[str]()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def fetch() -> str:
        asked.set()
        await answered.wait()
        return "bundle"

    async def operation() -> tuple[int, object]:
        nonlocal attempts
        attempts += 1
        count = await counting(ratchets)()
        await sending(gate, sent, f"attempt {attempts}")()
        unit = gate.unit
        assert unit is not None
        if ("bundle",) not in unit.fetched:
            raise Absent({("bundle",): fetch})
        return count, unit.fetched["bundle",]

    task = asyncio.create_task(gate.run(operation))
    await asked.wait()
    assert await gate.run(counting(ratchets)) == 1
    assert sent == []
    answered.set()
    assert await task == (2, "bundle")
    assert attempts == 2
    assert sent == ["attempt 2", "upload of attempt 2"]


async def test_a_failed_download_is_for_the_operation_to_judge(gate: Gate) -> None:
    async def fetch() -> None:
        raise BundleNotFound("there is none")

    async def operation() -> object:
        unit = gate.unit
        assert unit is not None
        if ("bundle",) not in unit.fetched:
            raise Absent({("bundle",): fetch})
        return unit.fetched["bundle",]

    assert isinstance(await gate.run(operation), BundleNotFound)


async def test_the_downloads_of_one_operation_are_limited(gate: Gate) -> None:
    fetched: list[int] = []

    async def fetch() -> None:
        fetched.append(1)

    async def operation() -> None:
        raise Absent({(object(),): fetch})

    with pytest.raises(omemo.OMEMOException):
        await gate.run(operation)
    assert len(fetched) == MAXIMUM_FETCHES


async def test_nothing_leaves_before_the_commit(
    gate: Gate, ratchets: Ratchets, vault: Vault
) -> None:
    sent: list[str] = []

    async def operation() -> None:
        await ratchets.store("number", 1)
        await sending(gate, sent)()

    release = await hold(vault)
    task = asyncio.create_task(gate.run(operation))
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent == []
    release.set()
    await task
    assert sent == ["message", "upload of message"]


async def test_nothing_leaves_when_the_commit_fails(gate: Gate, ratchets: Ratchets) -> None:
    sent: list[str] = []

    async def operation() -> None:
        await ratchets.store("number", 1)
        await sending(gate, sent)()

    pending = await gate.begin(operation, refuses)
    with pytest.raises(VaultUnavailable):
        await pending.finish()
    assert sent == []
    assert await gate.run(counting(ratchets)) == 1


async def test_what_was_built_on_a_lost_commit_is_lost_with_it(
    gate: Gate, ratchets: Ratchets, vault: Vault
) -> None:
    """F43: half of a ratchet's steps on disk would mean a key that is used again."""
    assert await number(ratchets) == 0  # it is in memory from now on
    release = await hold(vault)  # else the worker may be past the first before the second begins
    lost = await gate.begin(counting(ratchets), refuses)
    later = await gate.begin(counting(ratchets))
    release.set()
    assert later.value == 2
    for pending in (lost, later):
        with pytest.raises(VaultError):
            await pending.finish()
    assert await gate.run(counting(ratchets)) == 1


async def test_a_lost_commit_whose_caller_has_gone_costs_no_other(
    gate: Gate, ratchets: Ratchets, vault: Vault
) -> None:
    """The next operation begins long after the disk has recovered."""
    assert await gate.run(counting(ratchets)) == 1  # it is in memory from now on
    release = await hold(vault)
    pending = await gate.begin(counting(ratchets), refuses)
    task = asyncio.create_task(pending.finish())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await vault.transact(lambda _: None)  # the worker is past the commit that fails
    assert await gate.run(counting(ratchets)) == 2
    ratchets.forget_cached()
    assert await number(ratchets) == 2


async def test_a_failed_commit_does_not_reach_into_another_operation(
    gate: Gate, ratchets: Ratchets, vault: Vault
) -> None:
    """F43: an operation that is half done keeps all of its steps, or none of them."""
    half, go_on = asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        await ratchets.store("first half", 1)
        half.set()
        await go_on.wait()
        await ratchets.store("second half", 1)

    lost = await gate.begin(counting(ratchets), refuses)
    task = asyncio.create_task(gate.run(operation))
    await half.wait()
    failing = asyncio.create_task(lost.finish())
    await vault.transact(lambda _: None)  # the worker is past the commit that fails
    for _ in range(5):
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(task, failing, return_exceptions=True)
    ratchets.forget_cached()
    assert await number(ratchets, "first half") == await number(ratchets, "second half")


async def test_commits_come_in_the_order_of_the_lock(gate: Gate, ratchets: Ratchets) -> None:
    order: list[int] = []

    def noting(value: int) -> Callable[[Any], None]:
        return lambda _: order.append(value)

    begun = await asyncio.gather(*(gate.begin(counting(ratchets), noting) for _ in range(20)))
    await asyncio.gather(*(pending.finish() for pending in begun))
    assert order == list(range(1, 21))


async def test_uploads_are_all_tried_and_the_first_failure_is_told(
    gate: Gate, ratchets: Ratchets
) -> None:
    tried: list[str] = []

    async def refused(name: str) -> None:
        tried.append(name)
        raise BundleUploadFailed(name)

    async def operation() -> None:
        unit = gate.unit
        assert unit is not None
        await ratchets.store("number", 1)
        unit.uploads["one",] = lambda: refused("one")
        unit.uploads["two",] = lambda: refused("two")
        unit.uploads["three",] = lambda: noted(tried, "three")

    with pytest.raises(BundleUploadFailed, match="one"):
        await gate.run(operation)
    assert tried == ["one", "two", "three"]
    assert await number(ratchets) == 1


async def test_of_messages_of_one_name_the_newest_leaves(gate: Gate) -> None:
    """F45: at most one waiting for a device and a commit."""
    sent: list[str] = []

    async def operation() -> None:
        unit = gate.unit
        assert unit is not None
        unit.messages["to a device",] = lambda: noted(sent, "older")
        unit.messages["to a device",] = lambda: noted(sent, "newer")

    await gate.run(operation)
    assert sent == ["newer"]


async def test_a_pending_operation_does_not_print_its_value(gate: Gate) -> None:
    """F10."""

    async def operation() -> str:
        return "sentinel plaintext"

    pending = await gate.begin(operation)
    assert "sentinel" not in repr(pending)
    await pending.finish()
