"""What an application writes against: calls that cannot be meant, and what a call leaves behind."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from eph_e2ee import Erasure, Phase
from eph_e2ee.errors import LocalProtocolError

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


async def test_a_message_of_another_chat_is_not_erased(
    rosa: Party, peter: Party, town: Town
) -> None:
    """Its number is that of some other message here."""
    sent = await rosa.chat.send(peter.jid, "text")
    await town.deliver()
    (received,) = peter.events["message"]
    assert received.number == sent.number
    with pytest.raises(LocalProtocolError, match="another Chat"):
        await rosa.chat.erase(received)
    assert [each.body for each in await rosa.chat.history(peter.jid)] == ["text"]
    assert await peter.chat.erase(received) is Erasure.DESTROYED
    assert [each.body for each in await peter.chat.history(rosa.jid)] == [None]


@pytest.mark.parametrize("by_chat", [False, True])
async def test_a_message_that_was_erased_is_a_tombstone(
    by_chat: bool,  # noqa: FBT001 -- a parameter
    rosa: Party,
    peter: Party,
) -> None:
    """Also the very object by which it was."""
    sent = await rosa.chat.send(peter.jid, "text", timer=timedelta(hours=1))
    assert (sent.body, sent.phase) == ("text", Phase.RUNNING)
    await (rosa.chat.erase(sent) if by_chat else sent.erase())
    assert (sent.body, sent.phase, sent.sender) == (None, Phase.GONE, None)
    tombstone, *_ = await rosa.chat.history(peter.jid)
    assert (sent.number, sent.deadline) == (tombstone.number, tombstone.deadline)
    assert await sent.erase() is Erasure.DESTROYED
