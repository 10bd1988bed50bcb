"""Each message that an archive had is told of once, whoever opens it and whatever comes between."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import backlog
from eph_e2ee.errors import VaultUnavailable
from tests.flows.archiving import Shelves, absent, missed, position
from tests.flows.test_withheld import acquaint, trust, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eph_e2ee import Message
    from eph_e2ee.vault.archive import Transaction
    from tests.flows.conftest import Party, Town

TEXTS = [f"message {number}" for number in range(5)]


@pytest.fixture
def world() -> Shelves:
    return Shelves()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    return await absent(town, rosa)


@pytest.fixture
async def anna(town: Town, rosa: Party) -> Party:
    """Somebody who is away, trusts rosa, and has a message of paul's that is withheld."""
    made = await town.party("anna", trust="manual", untrusted="withhold")
    paul = await town.party("paul")
    for each in (rosa, paul):
        await acquaint(made, each)
    await trust(made, rosa)
    await paul.chat.send(made.jid, "withheld")
    await town.deliver()
    assert await waiting(made) == 1
    await made.chat._expiry.note()
    made.offline()
    return made


def paul(town: Town) -> Party:
    (found,) = (each for each in town.people if each.name == "paul")
    return found


@contextmanager
def refusing(party: Party, part: str, times: int) -> Iterator[None]:
    """Have the vault refuse some writes of how far an archive was read that have a part."""
    kind: Any = type(party.vault.transact_sync(lambda tx: tx))
    put, left = kind.put_value, [times]

    def refuse(self: Transaction, key: str, text: str | None) -> None:
        if key.startswith("archive:") and part in (text or "") and left[0]:
            left[0] -= 1
            raise VaultUnavailable("the disk is full")
        put(self, key, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "put_value", refuse)
        yield
    assert left == [0]


OVER = '"untold": null'


async def again(party: Party) -> None:
    party.offline()
    await party.online()
    await party.idle()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_vault_that_does_not_take_that_all_was_told(
    times: int, rosa: Party, peter: Party, town: Town
) -> None:
    """Neither at once nor in the next session, and nothing that came live in between."""
    await missed(rosa, peter, town, *TEXTS)
    with refusing(peter, OVER, times):
        await peter.online()
    assert peter.bodies == TEXTS
    await missed(rosa, peter, town, "live")
    await again(peter)
    assert peter.bodies == [*TEXTS, "live"]
    assert position(peter)["untold"] is None
    await missed(rosa, peter, town, "live again")
    assert (await town.again(peter)).bodies == []


async def test_a_vault_that_takes_nothing_of_the_next_session_either(
    rosa: Party, peter: Party, town: Town
) -> None:
    await missed(rosa, peter, town, *TEXTS)
    with refusing(peter, OVER, 2):
        await peter.online()
    await missed(rosa, peter, town, "live")
    with refusing(peter, '"untold": ', 2):
        await again(peter)
    await again(peter)
    assert peter.bodies == [*TEXTS, "live"]
    assert position(peter)["untold"] is None


async def test_a_session_that_begins_while_it_is_told(
    rosa: Party, peter: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next reading goes on behind what was told."""
    monkeypatch.setattr(backlog, "TELL", 1)
    await missed(rosa, peter, town, *TEXTS)
    begun = []

    def begin(message: Message) -> None:
        if message.body in TEXTS[1:3] and message.body not in begun:
            begun.append(message.body)
            peter.client.event("session_bind", peter.client.boundjid)

    peter.client.add_event_handler("ephemeral_message", begin)
    await peter.online()
    for _ in begun:  # each has a reading of its own
        await peter.idle()
    assert begun == TEXTS[1:3]
    assert peter.bodies == TEXTS
    assert position(peter)["untold"] is None


async def test_what_is_opened_while_an_archive_is_read(
    rosa: Party, anna: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F21: it is told with the rest, at the end."""
    catching_up = anna.chat._catching_up
    displayed = catching_up._displayed

    async def opening() -> None:
        await anna.chat.trust(paul(town).jid, paul(town).device, "trusted")
        assert anna.bodies == []
        assert await waiting(anna) == 0
        await displayed()

    monkeypatch.setattr(catching_up, "_displayed", opening)
    await missed(rosa, anna, town, *TEXTS)
    await anna.online()
    assert anna.bodies == [*TEXTS, "withheld"]
    assert (await town.again(anna)).bodies == []


async def test_what_is_opened_when_the_vault_has_not_taken_that_all_was_told(
    rosa: Party, anna: Party, town: Town
) -> None:
    """No reading will tell of it."""
    await missed(rosa, anna, town, *TEXTS)
    with refusing(anna, OVER, 2):
        await anna.online()
    assert position(anna)["untold"] is not None
    await trust(anna, paul(town))
    assert anna.bodies == [*TEXTS, "withheld"]
    await again(anna)
    assert anna.bodies == [*TEXTS, "withheld"]


async def test_what_is_opened_after_a_reading_that_was_cut_short(
    rosa: Party, anna: Party, town: Town, world: Shelves
) -> None:
    """The one that goes on tells of it, in another process as well."""
    await missed(rosa, anna, town, *TEXTS)

    def cut(_: int) -> None:
        task = anna.chat._catching_up.own.task
        assert task is not None
        task.cancel()

    world.on_page = cut
    await anna.online()
    world.on_page = lambda _: None
    assert position(anna)["untold"] is not None
    await trust(anna, paul(town))
    assert anna.bodies == []
    last = await town.again(anna)
    await last.chat._tasks[2]
    assert sorted(str(each) for each in last.bodies) == [*TEXTS, "withheld"]
    assert (await town.again(last)).bodies == []
