"""Ids are their senders' choice: none keeps us from telling of others what was read or came."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import reading as module
from eph_e2ee.model import Phase
from eph_e2ee.protocol import marks
from eph_e2ee.protocol.marks import MAX_ID
from eph_e2ee.reading import UNTOLD
from tests.flows.archiving import Shelves
from tests.flows.test_incoming import body, sealed
from tests.flows.test_reading import (
    PETER,
    ROSA,
    acquainted,
    phase,
    read,
    sent_to,
    untold,
    written,
)

if TYPE_CHECKING:
    from eph_e2ee.message import Message
    from tests.flows.conftest import Party, Town

TOO_LONG = "a" * (MAX_ID + 1)


@pytest.fixture
def world() -> Shelves:
    return Shelves()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    return await acquainted(town, rosa, receipts=True)


async def named(rosa: Party, peter: Party, *ids: str) -> list[Message]:
    """Messages with such ids that have arrived, and ask to be told of."""
    for number, each in enumerate(ids):
        xml = await sealed(rosa, peter, body("text"), *marks.write_wanted(), number=number)
        xml.set("id", each)
        for origin in xml.findall("{urn:xmpp:sid:0}origin-id"):
            origin.set("id", each)
        peter.client.receive(xml)
    await peter.idle()
    found: list[Message] = peter.events["message"][-len(ids) :]
    assert [each.message_id for each in found] == list(ids)
    return found


async def test_one_that_is_too_long_is_read_and_told_to_nobody(
    peter: Party, rosa: Party, town: Town
) -> None:
    """No server would take the stanza, and nobody looks at such an id."""
    await town.party("peter")
    long, short = await named(rosa, peter, TOO_LONG, "b")
    peter.client.sent.clear()
    await read(peter, long)
    assert long.phase is Phase.READ
    assert sent_to(peter) == []
    assert untold(peter) is None
    await read(peter, short)
    assert sent_to(peter) == [PETER, ROSA]


async def test_no_receipt_is_given_for_one_that_is_too_long(peter: Party, rosa: Party) -> None:
    await named(rosa, peter, TOO_LONG)
    assert ROSA not in sent_to(peter)


async def test_long_ones_are_told_in_more_envelopes(peter: Party, rosa: Party, town: Town) -> None:
    """No envelope takes more, since servers end the session over a larger stanza."""
    await town.party("peter")
    peter.offline()
    ids = [f"{number}{'&' * (MAX_ID - 2)}" for number in range(10, 40)]
    found = await named(rosa, peter, *ids)
    await asyncio.gather(*(message.mark_read() for message in found))
    peter.client.sent.clear()
    await peter.online()
    await peter.idle()
    assert sent_to(peter) == [ROSA] * 4 + [PETER] * 5 + [ROSA]
    assert max(len(str(stanza)) for stanza in peter.client.sent) < 160 * 1024


@pytest.mark.parametrize("name", [TOO_LONG, "", "no character: \0"])
async def test_a_kept_one_that_cannot_be_told_stands_in_nobodys_way(
    name: str, peter: Party, rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PORTION", 1)
    other = await town.party("peter")
    (message,) = await written(rosa, town, peter, "text")
    peter.offline()
    await read(peter, message)
    reads: list[Any] = [[ROSA, name, 1000], *untold(peter)]
    peter.chat._reading._reads.clear()
    peter.vault.transact_sync(lambda tx: tx.put_value(UNTOLD, json.dumps(reads)))
    again = await town.again(peter)
    await again.idle()
    await town.deliver()
    assert (await phase(other))[0] is Phase.READ
    assert untold(again) is None


async def test_what_is_kept_of_such_alone_is_forgotten(peter: Party, town: Town) -> None:
    text = json.dumps([[ROSA, TOO_LONG, 1000]])
    peter.vault.transact_sync(lambda tx: tx.put_value(UNTOLD, text))
    again = await town.again(peter)
    await again.idle()
    assert untold(again) is None
