"""What was withheld and is opened is told of once, whoever waits for it and whatever ends that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import withheld
from eph_e2ee.errors import VaultClosed, VaultDamaged, VaultUnavailable
from eph_e2ee.withheld import UNTOLD
from tests.flows.test_incoming import body, sealed
from tests.flows.test_withheld import acquaint, receive, trust, waiting
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    """Somebody for whom a message waits until he has decided on its device."""
    made = await town.party("peter", trust="manual", untrusted="withhold")
    await acquaint(made, rosa)
    await receive(made, await sealed(rosa, made, body("text")))
    return made


class Cut:
    """An opening that stops when all is stored and nobody was told, and what then goes on."""

    def __init__(self, party: Party, other: Party) -> None:
        self.stored, self.goes_on = asyncio.Event(), asyncio.Event()
        incoming: Any = party.chat._incoming
        take = incoming.take_archived

        async def stopping(*arguments: Any, **options: Any) -> Any:
            kept = await take(*arguments, **options)
            self.stored.set()
            await self.goes_on.wait()
            return kept

        incoming.take_archived = stopping
        self.task = asyncio.ensure_future(party.chat.trust(other.jid, other.device, "trusted"))

    async def reached(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.stored.wait()


async def test_a_caller_that_is_canceled(rosa: Party, peter: Party) -> None:
    cut = Cut(peter, rosa)
    await cut.reached()
    cut.task.cancel()
    await asyncio.wait({cut.task})
    assert cut.task.cancelled()
    cut.goes_on.set()
    await trust(peter, rosa)
    assert peter.bodies == ["text"]
    assert await waiting(peter) == 0


async def test_a_chat_that_is_closed(town: Town, rosa: Party, peter: Party) -> None:
    """The next one tells, and the one after that does not."""
    cut = Cut(peter, rosa)
    await cut.reached()
    again = await town.again(peter)
    cut.goes_on.set()
    with pytest.raises(VaultClosed, match="chat was closed"):
        await cut.task
    assert peter.bodies == []
    await again.chat._tasks[2]
    assert again.bodies == ["text"]
    assert again.events["message"][0].number == 1
    last = await town.again(again)
    await last.chat._tasks[2]
    assert last.bodies == []


async def test_a_disk_that_refuses_the_second_part(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be a copy is looked at when the first is stored."""

    def refuse(*_: object) -> None:
        raise VaultUnavailable("the disk is full")

    await receive(peter, await sealed(rosa, peter, body("under the same id")))
    assert await waiting(peter) == 2
    with monkeypatch.context() as patch:
        patch.setattr(withheld, "_write", refuse)
        with pytest.raises(VaultUnavailable):
            await trust(peter, rosa)
    assert peter.bodies == ["text"]
    assert await waiting(peter) == 2
    await trust(peter, rosa)
    assert peter.bodies == ["text"]
    assert await waiting(peter) == 0


async def test_a_disk_that_does_not_take_that_it_was_told(
    town: Town, rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise VaultUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(withheld, "_strike", refuse)
        await trust(peter, rosa)
        await trust(peter, rosa)
    assert peter.bodies == ["text"]
    await trust(peter, rosa)
    assert peter.bodies == ["text"]
    again = await town.again(peter)
    await again.chat._tasks[2]
    assert again.bodies == []


async def test_what_was_erased_in_between_is_not_told(
    town: Town, rosa: Party, peter: Party
) -> None:
    cut = Cut(peter, rosa)
    await cut.reached()
    await peter.chat.erase(rosa.jid)
    cut.goes_on.set()
    await cut.task
    assert peter.bodies == []
    again = await town.again(peter)
    await again.chat._tasks[2]
    assert again.bodies == []


@pytest.mark.parametrize("text", ["", "7", "[null]", '["sentinel"]'])
async def test_a_note_that_is_damaged_keeps_nothing_from_being_opened(
    text: str, rosa: Party, peter: Party
) -> None:
    """F38: it is an error where it is asked for, and nowhere else."""
    await peter.vault.transact(lambda vault: vault.put_value(UNTOLD, text))
    with pytest.raises(VaultDamaged) as caught:
        await trust(peter, rosa)
    assert "sentinel" not in str(caught.value)
    assert [each.body for each in await peter.chat.history(rosa.jid)] == ["text"]
    assert await waiting(peter) == 0
