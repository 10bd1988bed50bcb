"""For which devices questions are encrypted, and which may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import NoEligibleDevices, Reason, TrustUndecided
from eph_e2ee.model import DeviceId
from tests.flows.asking import (
    Switchboard,
    answered,
    jid,
    of_another_make,
    query,
    refused,
    sealed_for,
)
from tests.flows.test_incoming import rejections
from tests.xmpp.clients import TheirPlugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eph_e2ee import Device
    from tests.flows.conftest import Party, Town


@pytest.fixture
def world() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


async def test_what_is_known_to_be_one_device_is_asked_alone(
    rosa: Party, peter: Party, town: Town, world: Switchboard
) -> None:
    """The others, ours too, would have to skip a message key for each: a thousand are too many."""
    other = await town.party("peter")
    await town.party("rosa")
    answered(peter)
    for _ in range(2):
        await rosa.chat.iq(jid(peter), query())
    first, answer, second, _ = world.carried
    assert sealed_for(first) == {peter.jid: {str(peter.device), str(other.device)}}
    assert sealed_for(answer) == {rosa.jid: {str(rosa.device)}}
    assert sealed_for(second) == {peter.jid: {str(peter.device)}}


async def test_an_answer_asks_nobody_to_decide(town: Town, peter: Party) -> None:
    """Trust that is taken back while the handler runs; whoever has asked would wait for people."""
    asked: list[Any] = []

    async def decide(devices: Sequence[Device]) -> None:
        asked.append(devices)

    rosa = await town.party("rosa", trust="manual", decide=decide)
    assert await rosa.chat.devices(peter.jid)
    await rosa.chat.trust(peter.jid, peter.device, "trusted")

    async def answer(question: Any) -> Any:
        await rosa.chat.trust(peter.jid, peter.device, "undecided")
        return query(question.element.text)

    answered(rosa, answer)
    assert not (await refused(peter, rosa)).authenticated
    assert asked == []


async def test_who_does_not_answer_is_not_known_any_more(
    rosa: Party, peter: Party, town: Town, world: Switchboard
) -> None:
    other = await town.party("peter")
    answered(peter)
    await rosa.chat.iq(jid(peter), query())
    peter.offline()
    assert not (await refused(rosa, peter)).authenticated
    await refused(rosa, peter)
    alone, together = map(sealed_for, world.carried[-2:])
    assert alone == {peter.jid: {str(peter.device)}}
    assert together == {peter.jid: {str(peter.device), str(other.device)}}


async def test_only_so_many_are_known(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eph_e2ee.questions.MAXIMUM_KNOWN", 2)
    answered(peter)
    questions = rosa.chat._questions
    questions._devices.update({"a@example.org/1": DeviceId(1), "b@example.org/1": DeviceId(2)})
    await rosa.chat.iq(jid(peter), query())
    assert list(questions._devices) == ["b@example.org/1", jid(peter)]


async def test_a_device_that_is_gone_is_not_asked(rosa: Party, peter: Party) -> None:
    """Another one has taken its JID."""
    answered(peter)
    rosa.chat._questions._devices[jid(peter)] = DeviceId(4711)
    assert await rosa.chat.iq(jid(peter), query()) is None
    assert rosa.chat._questions._devices == {jid(peter): peter.device}


async def test_never_in_legacy_omemo(rosa: Party, world: Switchboard) -> None:
    """F32, F39: who reads no envelopes is asked nothing."""
    client = world.client("anna")
    client.plug(TheirPlugin)
    await client.bind()
    with pytest.raises(NoEligibleDevices):
        await rosa.chat.iq(client.boundjid.full, query())
    with pytest.raises(NoEligibleDevices):
        await rosa.chat.iq("nobody@example.org/home", query())
    with pytest.raises(NoEligibleDevices):  # our account has no other device
        await rosa.chat.iq(f"{rosa.jid}/elsewhere", query())
    assert world.carried == []
    # Others are addressed again as before.
    await rosa.chat.send(client.boundjid.bare, "a message")


async def test_lists_come_in_any_order(rosa: Party, town: Town, world: Switchboard) -> None:
    """An empty one that was just fetched is fetched once more before anybody gives up."""
    with pytest.raises(NoEligibleDevices):
        await rosa.chat.iq("peter@example.org/peter-1", query())
    world.subscribed.clear()
    peter = await town.party("peter")
    answered(peter)
    assert await rosa.chat.iq(jid(peter), query()) is None


async def test_who_asks_in_an_envelope_reads_one(
    rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its device lists say; and it can be asked from then on."""
    peter = await of_another_make(town, "peter", monkeypatch, legacy=True)
    answered(rosa)
    answered(peter)
    with pytest.raises(NoEligibleDevices):
        await rosa.chat.iq(jid(peter), query())
    assert await peter.chat.iq(jid(rosa), query()) is None
    assert await rosa.chat.iq(jid(peter), query()) is None


async def test_trust_by_hand_comes_before_questions(peter: Party, town: Town) -> None:
    """F39: an undecided device is not asked, and what it asks reaches no handler."""
    careful = await town.party("rosa", trust="manual")
    heard = answered(careful)
    answered(peter)
    with pytest.raises(TrustUndecided):
        await careful.chat.iq(jid(peter), query())
    error = await refused(peter, careful)
    assert (error.refusal.condition, error.authenticated) == ("feature-not-implemented", False)
    assert rejections(careful) == [Reason.UNDECIDED]
    assert heard == []
    sessions = careful.chat._account.omemo.sessions
    (device,) = await sessions.get_device_information(peter.jid)
    await sessions.set_trust(peter.jid, device.identity_key, "TRUSTED")
    await peter.chat.iq(jid(careful), query())
    await careful.chat.iq(jid(peter), query())
    assert len(heard) == 1
