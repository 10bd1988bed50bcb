"""What happens here while something is opened, and is nobody's fault but ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import Reason
from tests.flows.test_groups import PRESENCE, enter
from tests.flows.test_incoming import body, rejections, sealed
from tests.xmpp.rooming import ROOM, ROSA, Rooming

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town


@pytest.fixture
def world() -> Rooming:
    world = Rooming()
    world.lists = {"owner": [ROSA], "admin": [], "member": ["peter@example.org"]}
    return world


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    made = await town.party("peter")
    assert await rosa.chat.devices(made.jid)
    return made


async def test_an_error_of_ours_is_told_and_takes_no_other_along(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a peer sends ends in a message or in a reason."""
    stanzas = [await sealed(rosa, peter, body(f"{number}"), number=number) for number in range(3)]
    letters = peter.chat._incoming._letters
    opens = letters.open

    async def failing(arrival: Any, replay_ids: Any) -> Any:
        if arrival.message_id == stanzas[1].get("id"):
            raise RuntimeError("sentinel")
        return await opens(arrival, replay_ids)

    monkeypatch.setattr(letters, "open", failing)
    for xml in stanzas:
        peter.client.receive(xml)
    await peter.idle()
    assert peter.bodies == ["0", "2"]
    assert rejections(peter) == [Reason.NOT_OPENED]
    assert "RuntimeError" in caplog.text
    assert "sentinel" not in caplog.text


async def test_what_cannot_even_be_looked_for_is_told(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml = await sealed(rosa, peter, body("text"))

    def failing(_: object) -> Any:
        raise RuntimeError("sentinel")

    monkeypatch.setattr(peter.chat._incoming._letters, "replay_ids", failing)
    peter.client.receive(xml)
    await peter.idle()
    assert rejections(peter) == [Reason.NOT_OPENED]


async def test_a_room_that_cannot_be_asked_keeps_nobody_from_reading(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever that ends with."""
    enter(rosa)
    enter(peter)
    peter.client.receive(PRESENCE.format(nick="rosa", jid=rosa.jid).replace("'member'", "'none'"))
    await rosa.chat.send(ROOM, "to all")
    (sent,) = rosa.client.sent
    sent.xml.set("from", f"{ROOM}/rosa")
    asked: list[object] = []

    async def failing(room: object, _: object) -> Any:
        asked.append(room)
        raise RuntimeError("sentinel")

    monkeypatch.setattr(peter.chat._account.members, "_ask", failing)
    peter.client.receive(sent.xml)
    await peter.idle()
    assert asked == [ROOM]
    assert peter.bodies == ["to all"]
    assert "sentinel" not in caplog.text
