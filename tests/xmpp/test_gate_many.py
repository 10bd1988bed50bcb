"""Many operations under one lock and in one commit, each of which fails for itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import omemo
import pytest

from eph_e2ee.errors import Reason, RemoteProtocolError, VaultUnavailable
from eph_e2ee.xmpp.gate import Absent, Gate
from tests.xmpp.test_gate import counting, noted, number, refuses, sending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eph_e2ee.vault.ratchets import Ratchets

    Operation = Callable[[], Awaitable[Any]]


@pytest.fixture
def gate(ratchets: Ratchets) -> Gate:
    return Gate(ratchets)


def breaking(storage: Any, error: BaseException) -> Operation:
    """An operation that ends halfway."""

    async def operation() -> None:
        await storage.store("number", 1000)
        raise error

    return operation


def rejected() -> RemoteProtocolError:
    return RemoteProtocolError(Reason.UNDECRYPTABLE)


def no_rows(_: Any) -> Callable[[Any], None]:
    return lambda _: None


def downloading(gate: Gate, storage: Any, name: str) -> Operation:
    """An operation that needs something of the network."""

    async def operation() -> str:
        unit = gate.unit
        assert unit is not None
        await storage.store(f"touched by {name}", 1)
        if (name,) not in unit.fetched:
            raise Absent({(name,): lambda: noted([], name)})
        return name

    return operation


async def test_all_are_done_in_one_commit(gate: Gate, ratchets: Ratchets) -> None:
    commits: list[list[Any]] = []

    def work(values: list[Any]) -> Callable[[Any], int]:
        commits.append(values)
        return lambda _: len(values)

    pending = await gate.begin_many([counting(ratchets) for _ in range(5)], work)
    assert await pending.finish() == 5
    assert commits == [[1, 2, 3, 4, 5]] == [pending.value]
    ratchets.forget_cached()
    assert await number(ratchets) == 5


async def test_none_is_a_commit_as_well(gate: Gate) -> None:
    pending = await gate.begin_many(list[Any](), no_rows)
    assert pending.value == []
    await pending.finish()


async def test_one_that_a_peer_made_fail_takes_no_other_along(
    gate: Gate, ratchets: Ratchets
) -> None:
    """F38, F43: of its steps nothing stays, of the others' everything."""
    operations = [
        breaking(ratchets, rejected()),
        counting(ratchets),
        breaking(ratchets, rejected()),
        counting(ratchets),
        breaking(ratchets, rejected()),
    ]
    pending = await gate.begin_many(operations, no_rows)
    await pending.finish()
    kinds = [value if isinstance(value, int) else type(value) for value in pending.value]
    assert kinds == [RemoteProtocolError, 1, RemoteProtocolError, 2, RemoteProtocolError]
    ratchets.forget_cached()
    assert await number(ratchets) == 2


async def test_what_a_failed_one_would_have_sent_does_not_leave(gate: Gate) -> None:
    """F43: an answer out of a session that was not kept."""
    sent: list[str] = []

    async def failing(name: str) -> None:
        await sending(gate, sent, name)()
        raise rejected()

    operations: list[Operation] = [
        sending(gate, sent, "first"),
        partial(failing, "lost"),
        partial(failing, "first"),
        sending(gate, sent, "last"),
    ]
    pending = await gate.begin_many(operations, no_rows)
    await pending.finish()
    await pending.publish()
    assert sent == ["first", "last", "upload of first", "upload of last"]


@pytest.mark.parametrize(
    "error", [omemo.OMEMOException(), VaultUnavailable("full"), ZeroDivisionError()]
)
async def test_what_is_no_peers_fault_ends_all(
    error: Exception, gate: Gate, ratchets: Ratchets
) -> None:
    operations = [counting(ratchets), breaking(ratchets, error), counting(ratchets)]
    with pytest.raises(type(error)):
        await gate.begin_many(operations, no_rows)
    assert not ratchets.pending
    assert await number(ratchets) == 0


async def test_it_ends_before_one_that_has_to_wait(gate: Gate, ratchets: Ratchets) -> None:
    """The others do not wait for the network; what the one has begun is forgotten."""
    operations = [
        counting(ratchets),
        breaking(ratchets, rejected()),
        downloading(gate, ratchets, "bundle"),
        counting(ratchets),
    ]
    pending = await gate.begin_many(operations, no_rows)
    await pending.finish()
    assert len(pending.value) == 2
    assert await number(ratchets) == 1
    assert await number(ratchets, "touched by bundle") == 0
    rest = await gate.begin_many(operations[2:], no_rows)
    await rest.finish()
    assert rest.value == ["bundle", 2]
    assert await number(ratchets, "touched by bundle") == 1


async def test_a_commit_that_fails_fails_for_all(gate: Gate, ratchets: Ratchets) -> None:
    pending = await gate.begin_many([counting(ratchets), counting(ratchets)], refuses)
    with pytest.raises(VaultUnavailable):
        await pending.finish()
    assert await number(ratchets) == 0
