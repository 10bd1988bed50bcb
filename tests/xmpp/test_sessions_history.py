"""Ratchets while an archive is read: whoever is to be answered is answered once, at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eph_e2ee.xmpp.unanswered import HEARTBEAT, PAYLOAD
from tests.xmpp.people import talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.xmpp.people import Person, Server

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


async def hear(reader: Person, writer: Person, count: int) -> None:
    """Have messages written, and read out of an archive."""
    for _ in range(count):
        assert await reader.decrypt(await writer.encrypt(reader, b"text")) == b"text"


async def test_answers_wait_for_the_end_and_each_device_gets_one(
    pair: tuple[Person, Person], person: NewPerson, server: Server
) -> None:
    """F45: python-omemo and our own heartbeat, after a long absence."""
    rosa, peter = pair
    anna = await person("anna")
    await anna.knows(peter)
    peter.sessions.before_history_sync()
    await hear(peter, rosa, HEARTBEAT + 5)
    await hear(peter, anna, 3)
    assert server.sent == []
    await peter.sessions.after_history_sync()
    assert peter.asked == []
    assert sorted(recipient for _, recipient in server.sent) == [anna.jid, rosa.jid]
    for message, recipient in server.sent:
        assert await (rosa if recipient == rosa.jid else anna).decrypt(message) is None
    server.sent.clear()
    await peter.sessions.after_history_sync()
    assert server.sent == []


async def test_whoever_needs_a_payload_gets_no_empty_message_beside_it(
    pair: tuple[Person, Person], server: Server
) -> None:
    """F45: one answer for each device, and the greater one."""
    rosa, peter = pair
    peter.sessions.before_history_sync()
    await hear(peter, rosa, 2 * PAYLOAD)
    assert peter.asked == []
    await peter.sessions.after_history_sync()
    assert peter.asked == [rosa.jid]
    assert server.sent == []
    await peter.sessions.after_history_sync()
    assert peter.asked == [rosa.jid]


async def test_the_count_goes_on_where_it_stood(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    await hear(peter, rosa, HEARTBEAT - 3)
    peter.sessions.before_history_sync()
    await hear(peter, rosa, 2)
    await peter.sessions.after_history_sync()
    assert server.sent == []
    await hear(peter, rosa, 1)
    assert [recipient for _, recipient in server.sent] == [rosa.jid]


async def test_a_message_of_ours_meanwhile_is_an_answer(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    peter.sessions.before_history_sync()
    await hear(peter, rosa, HEARTBEAT + 5)
    await rosa.decrypt(await peter.encrypt(rosa, b"answer"))
    await peter.sessions.after_history_sync()
    assert server.sent == []


async def test_afterwards_answers_come_at_once_again(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    peter.sessions.before_history_sync()
    await peter.sessions.after_history_sync()
    await hear(peter, rosa, HEARTBEAT)
    assert len(server.sent) == 1


async def test_a_key_exchange_that_comes_late_ends_no_session(person: NewPerson) -> None:
    """F36: out of an archive, when both have long agreed on another one."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    await peter.knows(rosa)
    late = await rosa.encrypt(peter, b"written first")
    assert await rosa.decrypt(await peter.encrypt(rosa, b"good morning")) == b"good morning"
    assert await peter.decrypt(await rosa.encrypt(peter, b"good day")) == b"good day"
    assert await rosa.decrypt(await peter.encrypt(rosa, b"now we agree")) == b"now we agree"
    peter.sessions.before_history_sync()
    assert await peter.decrypt(late) == b"written first"
    await peter.sessions.after_history_sync()
    for number in range(3):
        text = b"number %d" % number
        assert await peter.decrypt(await rosa.encrypt(peter, text)) == text
        assert await rosa.decrypt(await peter.encrypt(rosa, text)) == text
