"""What an application writes against: calls that cannot be meant, and what a call leaves behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest

import eph_e2ee
from eph_e2ee import Erasure, Phase
from eph_e2ee.errors import LocalProtocolError, NotConnected
from tests.flows.conftest import Party
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eph_e2ee import Chat
    from tests.flows.conftest import Town
    from tests.xmpp.clients import World


ADDRESSED: dict[str, Callable[[Chat, Any], Any]] = {
    "send": lambda chat, jid: chat.send(jid, "text"),
    "set_timer": lambda chat, jid: chat.set_timer(jid, timedelta(hours=1)),
    "timer": lambda chat, jid: chat.timer(jid),
    "trust": lambda chat, jid: chat.trust(jid, 7, "trusted"),
    "history": lambda chat, jid: chat.history(jid),
    "search": lambda chat, jid: chat.search(jid, "text"),
    "erase": lambda chat, jid: chat.erase(jid),
    "capabilities": lambda chat, jid: chat.capabilities(jid),
    "devices": lambda chat, jid: chat.devices(jid),
    "repair": lambda chat, jid: chat.repair(jid),
    "opt_out": lambda chat, jid: chat.opt_out(jid),
    "confirm_opt_out": lambda chat, jid: chat.confirm_opt_out(jid),
    "opted_out": lambda chat, jid: chat.opted_out(jid),
    "iq": lambda chat, jid: chat.iq(jid, Element("{urn:example}a")),
}
"""Every method that takes a JID."""


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


@pytest.mark.parametrize("method", ADDRESSED)
@pytest.mark.parametrize("jid", ["", None])
async def test_an_address_that_is_missing(method: str, jid: str | None, rosa: Party) -> None:
    """It is a JID to slixmpp, and its server would get what was meant for somebody."""
    with pytest.raises(LocalProtocolError, match=r"an address is missing|ask a full JID"):
        await ADDRESSED[method](rosa.chat, jid)
    assert rosa.client.sent == []


@pytest.mark.parametrize("method", [name for name in ADDRESSED if name != "iq"])
async def test_an_address_that_is_none(method: str, rosa: Party) -> None:
    with pytest.raises(ValueError, match="second @"):
        await ADDRESSED[method](rosa.chat, "@@")


@pytest.mark.parametrize("wrong", [5, 0, 2.5, "7d", True])
async def test_a_timer_is_a_timedelta(wrong: Any, rosa: Party, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="give a timer as a timedelta"):
        await rosa.chat.send("peter@example.org", "text", timer=wrong)
    with pytest.raises(TypeError, match="give a timer as a timedelta"):
        await rosa.chat.set_timer("peter@example.org", wrong)
    for name in ("timer", "unread_cap", "clear_floor"):
        options: dict[str, Any] = {name: wrong}
        with pytest.raises(TypeError, match="give a timer as a timedelta"):
            eph_e2ee.attach(rosa.client, vault=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("body", [b"text", 7, Element("{urn:example}a")])
async def test_a_body_is_a_text(body: Any, rosa: Party, peter: Party) -> None:
    with pytest.raises(TypeError, match="str"):
        await rosa.chat.send(peter.jid, body)


@pytest.mark.parametrize("elements", [Element("{urn:example}a"), "text", ["text"], None, 7])
async def test_elements_are_a_list_of_elements(elements: Any, rosa: Party, peter: Party) -> None:
    with pytest.raises(TypeError, match="list"):
        await rosa.chat.send(peter.jid, "text", elements=elements)


@pytest.mark.parametrize("method", ["send", "capabilities", "devices", "repair", "iq"])
async def test_what_the_server_is_asked_for_needs_a_session(
    method: str, rosa: Party, peter: Party
) -> None:
    """It would be waited for until there is one."""
    rosa.offline()
    async with asyncio.timeout(SECONDS):
        with pytest.raises(NotConnected):
            await ADDRESSED[method](rosa.chat, f"{peter.jid}/phone")


async def test_trust_waits_for_no_session(rosa: Party, peter: Party, world: World) -> None:
    """Before OMEMO runs there is nothing to decide on; later it needs no server."""
    nobody = Party(world, "nobody", rosa.folder.with_name("nobody"))
    async with asyncio.timeout(SECONDS):
        with pytest.raises(NotConnected):
            await nobody.chat.trust(peter.jid, peter.device, "trusted")
    await nobody.chat.close()
    await rosa.chat.devices(peter.jid)
    rosa.offline()
    async with asyncio.timeout(SECONDS):
        await rosa.chat.trust(peter.jid, peter.device, "trusted")
