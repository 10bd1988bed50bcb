"""What the plugin sends by itself, between clients whose streams end in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID

from eph_e2ee.errors import RemoteProtocolError
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.repair import MAXIMUM
from eph_e2ee.xmpp.unanswered import HEARTBEAT, PAYLOAD
from tests.xmpp.clients import OurPlugin, World

if TYPE_CHECKING:
    from slixmpp.stanza import Message

    from tests.xmpp.clients import TestClient

STORE = "{urn:xmpp:hints}store"
PAYLOADS = f"{{{MODERN}}}encrypted/{{{MODERN}}}payload"


class Somebody:
    """A client with the plugin, which opens what it gets."""

    def __init__(self, world: World, client: TestClient, plugin: Any) -> None:
        self.world, self.client, self.plugin = world, client, plugin
        self.jid = JID(client.boundjid.bare)

    async def write(self, other: Somebody) -> Message:
        """A message as the other gets it."""
        stanza = self.client.make_message(mto=other.jid, mbody="text", mtype="chat")
        sealed, _ = await self.plugin.encrypt_message(stanza, other.jid)
        return self.world.carry(sealed, self.client, other.client)

    async def hear(self, stanza: Message) -> Message:
        decrypted: Message
        decrypted, _ = await self.plugin.decrypt_message(stanza)
        return decrypted

    async def sent(self, other: Somebody) -> list[Message]:
        """What it has sent by itself, as the other gets it."""
        while self.plugin._upkeep:
            await asyncio.gather(*self.plugin._upkeep)
        await self.plugin.gate.run(lambda: asyncio.sleep(0))
        stanzas = [self.world.carry(each, self.client, other.client) for each in self.client.sent]
        self.client.sent.clear()
        return stanzas


async def somebody(world: World, name: str) -> Somebody:
    client = world.client(name)
    plugin = client.plug(OurPlugin)
    await client.bind()
    return Somebody(world, client, plugin)


@pytest.fixture
async def pair(world: World) -> tuple[Somebody, Somebody]:
    """Two who have exchanged a message each way."""
    rosa, peter = await somebody(world, "rosa"), await somebody(world, "peter")
    await peter.hear(await rosa.write(peter))
    await rosa.hear(await peter.write(rosa))
    for one, other in ((rosa, peter), (peter, rosa)):
        for stanza in await one.sent(other):
            await other.hear(stanza)
    return rosa, peter


async def written(writer: Somebody, reader: Somebody, count: int) -> None:
    for _ in range(count):
        await reader.hear(await writer.write(reader))


async def test_much_of_one_side_is_answered_with_a_payload(
    pair: tuple[Somebody, Somebody],
) -> None:
    """QXmpp stops after 106 messages without one; there is nothing in it for people."""
    rosa, peter = pair
    await written(rosa, peter, HEARTBEAT)
    (empty,) = await peter.sent(rosa)
    assert empty.xml.find(PAYLOADS) is None
    await rosa.hear(empty)
    await written(rosa, peter, PAYLOAD - HEARTBEAT)
    (answer,) = await peter.sent(rosa)
    assert answer.xml.find(PAYLOADS) is not None
    assert answer.xml.find(STORE) is not None
    assert answer.xml.find("{jabber:client}body") is None
    assert len(list((await rosa.hear(answer)).xml)) == 0
    assert await peter.sent(rosa) == []


class QXmpp:
    """The rule by which it gives a device up: `unrespondedSentStanzasCount`."""

    LIMIT = 106

    def __init__(self, client: Somebody) -> None:
        self._client = client
        self._sent = 0

    async def write(self, other: Somebody) -> Message | None:
        """Encrypt for a device, unless it is given up."""
        if self._sent == self.LIMIT:
            return None
        self._sent += 1
        return await self._client.write(other)

    async def hear(self, stanza: Message) -> None:
        """Only what has a payload counts as an answer."""
        await self._client.hear(stanza)
        if stanza.xml.find(PAYLOADS) is not None:
            self._sent = 0


@pytest.mark.parametrize("delay", [1, 20])
async def test_qxmpp_never_gives_us_up(delay: int, pair: tuple[Somebody, Somebody]) -> None:
    """F45: our answers come late; they stay few."""
    rosa, peter = pair
    sender, empty, answers = QXmpp(rosa), 0, 0
    for number in range(400):
        stanza = await sender.write(peter)
        assert stanza is not None
        await peter.hear(stanza)
        if number % delay == 0:
            for answer in await peter.sent(rosa):
                await sender.hear(answer)
                empty += answer.xml.find(PAYLOADS) is None
                answers += answer.xml.find(PAYLOADS) is not None
    assert 400 // PAYLOAD - 1 <= answers <= 400 // PAYLOAD  # the last may be under way
    assert answers + empty <= 16  # 40 in 1000


async def test_both_sides_do_not_answer_each_others_answers(
    pair: tuple[Somebody, Somebody],
) -> None:
    """F45: an answer is no news."""
    rosa, peter = pair
    await written(rosa, peter, PAYLOAD)
    stanzas = await peter.sent(rosa)
    for stanza in stanzas:
        await rosa.hear(stanza)
    assert await rosa.sent(peter) == []
    assert len(stanzas) == 2


async def test_a_message_of_ours_is_an_answer(pair: tuple[Somebody, Somebody]) -> None:
    rosa, peter = pair
    for _ in range(2):
        await written(rosa, peter, HEARTBEAT - 1)
        await rosa.hear(await peter.write(rosa))
    assert await peter.sent(rosa) == []


async def test_every_device_of_the_account_can_read_it(
    pair: tuple[Somebody, Somebody], world: World
) -> None:
    """One that is not addressed would report that something was not for it."""
    rosa, peter = pair
    phone = await somebody(world, "rosa")
    await written(rosa, peter, PAYLOAD)
    *_, answer = await peter.sent(rosa)
    for device in (rosa, phone):
        assert len(list((await device.hear(answer)).xml)) == 0


async def test_while_an_archive_is_read_nobody_is_answered(
    pair: tuple[Somebody, Somebody],
) -> None:
    """F45: at its end, once."""
    rosa, peter = pair
    async with peter.plugin.history_sync():
        await written(rosa, peter, 2 * PAYLOAD + 5)
        assert await peter.sent(rosa) == []
    (answer,) = await peter.sent(rosa)
    assert answer.xml.find(PAYLOADS) is not None
    async with peter.plugin.history_sync():
        pass
    assert await peter.sent(rosa) == []


async def test_an_end_that_waits_for_its_turn_ends_no_other_reading(
    pair: tuple[Somebody, Somebody], world: World
) -> None:
    """F45: python-omemo would delete the one-time keys that others in the archive have used."""
    rosa, peter = pair
    anna = await somebody(world, "anna")
    plugin, inside, done = peter.plugin, asyncio.Event(), asyncio.Event()

    async def long() -> None:
        inside.set()
        await done.wait()

    async def first() -> None:
        async with plugin.history_sync():
            pass

    busy = asyncio.create_task(plugin.gate.run(long))
    await inside.wait()
    ending = asyncio.create_task(first())
    await asyncio.sleep(0)
    async with plugin.history_sync():
        done.set()
        await asyncio.gather(busy, ending)
        await written(rosa, peter, PAYLOAD + 5)
        await peter.hear(await anna.write(peter))  # begins a session, which is answered at once
        assert await peter.sent(rosa) == []
    answers = await peter.sent(rosa)
    assert sorted(answer.xml.find(PAYLOADS) is not None for answer in answers) == [False, True]


async def test_nobody_who_is_not_trusted_gets_a_payload(pair: tuple[Somebody, Somebody]) -> None:
    """XEP-0384 section 8; an empty message says nothing, and may go."""
    rosa, peter = pair
    (known,) = await peter.plugin.sessions.get_device_information(rosa.jid.bare)
    stanzas = [await rosa.write(peter) for _ in range(PAYLOAD + HEARTBEAT)]
    for stanza in stanzas[: PAYLOAD - 1]:
        await peter.hear(stanza)
    await peter.plugin.sessions.set_trust(rosa.jid.bare, known.identity_key, "UNDECIDED")
    peter.plugin.__class__ = Cautious
    for stanza in stanzas[PAYLOAD - 1 :]:
        await peter.hear(stanza)
    sent = await peter.sent(rosa)
    assert len(sent) == 2
    assert all(each.xml.find(PAYLOADS) is None for each in sent)


class Cautious(OurPlugin):
    """An application that leaves the decision to people, who are not there."""

    @property
    def _btbv_enabled(self) -> bool:
        return False

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        """Nobody decides."""


# -- repair ----------------------------------------------------------------------------------------


async def lose(person: Somebody, other: Somebody) -> None:
    sessions = person.plugin.sessions
    for backend in sessions.backends.values():
        await person.plugin.gate.run(lambda b=backend: b.purge_bare_jid(other.jid.bare))


async def rejected(reader: Somebody, stanza: Message) -> None:
    with pytest.raises(RemoteProtocolError):
        await reader.hear(stanza)


async def test_a_missing_session_is_begun_once(pair: tuple[Somebody, Somebody]) -> None:
    """QXmpp does the same. A storm of messages in the old session begins one."""
    rosa, peter = pair
    storm = [await rosa.write(peter) for _ in range(30)]
    await lose(peter, rosa)
    await asyncio.gather(*(rejected(peter, stanza) for stanza in storm))
    (repair,) = await peter.sent(rosa)
    (key,) = repair.xml.iter(f"{{{MODERN}}}key")
    assert key.get("kex") == "true"
    assert repair.xml.find(PAYLOADS) is None
    await rosa.hear(repair)
    (confirmation,) = await rosa.sent(peter)
    await peter.hear(confirmation)
    await written(rosa, peter, 3)
    await written(peter, rosa, 3)
    assert await peter.sent(rosa) == await rosa.sent(peter) == []
    await lose(peter, rosa)
    await rejected(peter, await rosa.write(peter))
    assert await peter.sent(rosa) == []  # once in a period


async def test_a_repair_that_fails_is_no_exception(
    pair: tuple[Somebody, Somebody], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F42: a device whose keys cannot be had loses what it sends, as before."""
    rosa, peter = pair
    stanza = await rosa.write(peter)
    await lose(peter, rosa)
    world.items.clear()
    await rejected(peter, stanza)
    assert await peter.sent(rosa) == []
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


async def test_an_application_can_have_sessions_repaired(pair: tuple[Somebody, Somebody]) -> None:
    """XEP-0384 section 6: "Clients MUST offer a way to manually replace broken sessions"."""
    rosa, peter = pair
    device = int(rosa.plugin.own_device)
    assert await peter.plugin.repair(rosa.jid.bare) == {device}
    (repair,) = await peter.sent(rosa)
    await rosa.hear(repair)
    await peter.hear((await rosa.sent(peter))[0])
    await written(rosa, peter, 2)
    await written(peter, rosa, 2)
    assert await peter.plugin.repair(rosa.jid.bare) == frozenset()
    assert await peter.plugin.repair("nobody@example.org") == frozenset()


async def test_a_repair_that_is_asked_for_finds_no_full_table(
    pair: tuple[Somebody, Somebody],
) -> None:
    """Strangers fill it, whatever they write; people are not to wait for them."""
    rosa, peter = pair
    for number in range(MAXIMUM):
        assert peter.plugin._repairs.admits((MODERN, f"stranger{number}@example.org", 1))
    assert await peter.plugin.repair(rosa.jid.bare) == {int(rosa.plugin.own_device)}


async def test_a_repair_without_keys_may_be_asked_for_again(
    pair: tuple[Somebody, Somebody], world: World
) -> None:
    rosa, peter = pair
    kept = dict(world.items)
    world.items.clear()
    assert await peter.plugin.repair(rosa.jid.bare) == frozenset()
    world.items.update(kept)
    assert len(await peter.plugin.repair(rosa.jid.bare)) == 1


async def test_the_end_ends_what_is_sent_by_itself(pair: tuple[Somebody, Somebody]) -> None:
    rosa, peter = pair
    peter.plugin.answer(rosa.jid.bare)
    (task,) = peter.plugin._upkeep
    manager: Any = peter.client.plugin
    manager.disable("xep_0384")
    await peter.plugin.ended()
    assert task.cancelled()
    peter.plugin.missing((OLD, rosa.jid.bare, 1))
    assert peter.plugin._upkeep == set()
    assert peter.client.sent == []
