"""Reading anywhere starts the timer everywhere: what is told to whom, when, and how often."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import reading as module
from eph_e2ee.errors import NotSent, VaultUnavailable
from eph_e2ee.model import BareJid, Delivery, Phase
from eph_e2ee.protocol.marks import MAX_MARKS
from eph_e2ee.reading import UNTOLD, _gathered
from eph_e2ee.xmpp.displayed import NODE
from eph_e2ee.xmpp.parcel import is_empty
from tests.flows.archiving import Shelves
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from eph_e2ee.message import Message
    from tests.flows.conftest import Party, Town

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def world() -> Shelves:
    return Shelves()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town, rosa: Party) -> Party:
    return await acquainted(town, rosa)


async def acquainted(town: Town, rosa: Party, **options: Any) -> Party:
    """Peter, who has heard from rosa and has nothing to say to anybody any more."""
    made = await town.party("peter", **options)
    await rosa.chat.send(made.jid, "good morning")
    await town.deliver()
    await made.events["message"].pop().mark_read()
    await made.idle()
    await town.deliver()
    for heard in made.events.values():
        heard.clear()
    return made


async def written(rosa: Party, town: Town, to: Party, *texts: str, **options: Any) -> list[Message]:
    """Messages that have arrived and were not read."""
    before = len(to.events["message"])
    for text in texts:
        await rosa.chat.send(to.jid, text, **options)
    await town.deliver()
    found: list[Message] = to.events["message"][before:]
    return found


async def read(party: Party, *found: Message) -> None:
    for message in found:
        await message.mark_read()
    await party.idle()


def sent_to(party: Party) -> list[str]:
    """To whom it has written, but for what only turns a ratchet."""
    return [stanza["to"].bare for stanza in party.client.sent if not is_empty(stanza.xml)]


def untold(party: Party) -> Any:
    text = party.vault.transact_sync(lambda tx: tx.value(UNTOLD))
    return None if text is None else json.loads(text)


async def phase(party: Party, peer: BareJid = ROSA) -> tuple[Phase, int | None]:
    """Of the newest message."""
    message, *_ = await party.chat.history(peer)
    return message.phase, message._entry.deadline


# -- our other devices -----------------------------------------------------------------------------


async def test_our_other_devices_are_told_once(peter: Party, rosa: Party, town: Town) -> None:
    """F27: with the time of reading, however late they hear of it."""
    other = await town.party("peter")
    (message,) = await written(rosa, town, peter, "text", timer=MINUTE)
    deadline = int(peter.clock.now()) + 60
    await read(peter, message)
    await read(peter, message)
    assert sent_to(peter) == [PETER]
    other.passes(20)
    await town.deliver()
    assert await phase(other) == await phase(peter) == (Phase.RUNNING, deadline)
    assert untold(peter) is None


async def test_the_other_device_does_not_tell_it_on(peter: Party, rosa: Party, town: Town) -> None:
    """F45: two devices would tell each other for ever."""
    other = await town.party("peter")
    (message,) = await written(rosa, town, peter, "text")
    await read(peter, message)
    assert town.world.deliver() == 1
    await other.idle()
    assert sent_to(other) == []
    (copy,) = other.events["message"]
    await read(other, copy)
    assert sent_to(other) == []


async def test_what_is_read_together_is_told_together(
    peter: Party, rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In few envelopes, none of which is larger than a peer's would be."""
    monkeypatch.setattr(module, "PORTION", 3)
    other = await town.party("peter")
    found = await written(rosa, town, peter, *(f"{number}" for number in range(7)))
    peter.offline()
    await read(peter, *found)
    await peter.online()
    await peter.idle()
    assert sent_to(peter) == [PETER] * 3
    await town.deliver()
    history = await other.chat.history(ROSA)
    assert {each.phase for each in history[:7]} == {Phase.READ}


def test_one_moment_of_a_conversation_is_one_reading() -> None:
    found = _gathered(
        [
            (ROSA, "1", 5),  # type: ignore[list-item]
            (ROSA, "2", 5),  # type: ignore[list-item]
            (PETER, "3", 5),  # type: ignore[list-item]
            (ROSA, "4", 6),  # type: ignore[list-item]
        ]
    )
    assert [(each.conversation, each.message_ids, each.stamp) for each in found] == [
        (ROSA, ("1", "2"), 5),
        (PETER, ("3",), 5),
        (ROSA, ("4",), 6),
    ]


async def test_without_another_device_nothing_is_sent(
    peter: Party, rosa: Party, town: Town
) -> None:
    (message,) = await written(rosa, town, peter, "text")
    await read(peter, message)
    assert peter.client.sent == []
    assert untold(peter) is None


async def test_what_was_read_offline_is_told_later_also_by_the_next_process(
    peter: Party, rosa: Party, town: Town
) -> None:
    """F20: with the time at which it was read."""
    other = await town.party("peter")
    first, second = await written(rosa, town, peter, "first", "second", timer=MINUTE)
    peter.offline()
    await read(peter, first)
    (kept,) = untold(peter)
    assert kept == [ROSA, first.message_id, round(peter.clock.now() * 1000)]
    peter.passes(10)
    await read(peter, second)
    for device in (peter, other):
        device.passes(20)
    again = await town.again(peter)
    await again.idle()
    await town.deliver()
    late, early, *_ = await other.chat.history(ROSA)
    now = int(other.clock.now())
    assert [early.deadline, late.deadline] == [now + 40, now + 50]
    assert untold(again) is None


async def test_what_could_not_be_told_is_told_on_the_next_occasion(
    peter: Party, rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await town.party("peter")
    found = await written(rosa, town, peter, "first", "second")

    async def refuse(*_: Any) -> None:
        raise NotSent("not now")

    with monkeypatch.context() as patch:
        patch.setattr(peter.chat._outgoing, "signal", refuse)
        await read(peter, found[0])
    assert peter.client.sent == []
    assert len(untold(peter)) == 1
    await read(peter, found[1])
    await town.deliver()
    history = await other.chat.history(ROSA)
    assert {each.phase for each in history[:2]} == {Phase.READ}


async def test_closing_while_it_is_told_loses_nothing(
    peter: Party, rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17: otherwise the timer would never start on the others."""
    await town.party("peter")
    (message,) = await written(rosa, town, peter, "text")
    asking = asyncio.Event()

    async def slow(_: BareJid) -> bool:
        asking.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(peter.chat._account.devices, "has_readers", slow)
    await message.mark_read()
    async with asyncio.timeout(SECONDS):
        await asking.wait()
    again = await town.again(peter)
    await again.idle()
    assert sent_to(again) == [PETER]


async def test_only_so_many_readings_are_kept(
    peter: Party, rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest ones: a device that is offline for a year does not fill the disk."""
    monkeypatch.setattr(module, "MAX_MARKS", 2)
    assert MAX_MARKS == 1000
    found = await written(rosa, town, peter, "first", "second", "third")
    peter.offline()
    await read(peter, *found)
    assert [kept[1] for kept in untold(peter)] == [each.message_id for each in found[1:]]


async def test_a_disk_that_refuses_stops_nothing(
    peter: Party, rosa: Party, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await written(rosa, town, peter, "first", "second")
    peter.offline()
    kind: Any = type(await peter.vault.transact(lambda tx: tx))
    put = kind.put_value

    def refuse(self: Any, key: str, text: str | None) -> None:
        if key == UNTOLD:
            raise VaultUnavailable("the disk is full")
        put(self, key, text)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "put_value", refuse)
        await read(peter, first)
    assert untold(peter) is None
    await read(peter, second)
    assert len(untold(peter)) == 2


# -- the peer --------------------------------------------------------------------------------------


async def test_a_peer_is_told_only_where_the_application_wants_it(
    peter: Party, rosa: Party, town: Town
) -> None:
    (message,) = await written(rosa, town, peter, "text")
    await read(peter, message)
    assert ROSA not in sent_to(peter)
    assert rosa.events["delivery"] == []


async def test_receipts_and_markers_are_given_to_those_who_ask(town: Town) -> None:
    """XEP-0184, XEP-0333; each once, in envelopes, and never for each other."""
    rosa = await town.party("rosa", receipts=True)
    peter = await acquainted(town, rosa, receipts=True)
    rosa.events["delivery"].clear()
    (message,) = await written(rosa, town, peter, "text", timer=MINUTE)
    numbers = [each.number for each in rosa.events["delivery"]]
    assert [each.delivery for each in rosa.events["delivery"]] == [Delivery.DELIVERED]
    await read(peter, message)
    assert not [stanza for stanza in peter.client.sent if stanza["body"]]
    assert not any(
        child.tag.startswith(("{urn:xmpp:receipts}", "{urn:xmpp:chat-markers:0}"))
        for stanza in peter.client.sent
        for child in stanza.xml.iter()
    )
    await town.deliver()
    assert rosa.events["delivery"][-1].delivery is Delivery.DISPLAYED
    assert rosa.events["delivery"][-1].number == numbers[0]
    assert town.world.deliver() == 0


async def test_a_receipt_is_given_to_nobody_who_does_not_ask(rosa: Party, town: Town) -> None:
    peter = await acquainted(town, rosa, receipts=True)
    await rosa.chat.send(PETER, "text")
    town.world.deliver()
    await peter.idle()
    assert ROSA not in sent_to(peter)


# -- the server ------------------------------------------------------------------------------------


def place(town: Town) -> str | None:
    """Our archive's id of the last message that was read."""
    items = town.world.items.get((PETER, NODE), {})
    return None if ROSA not in items else items[ROSA][0].get("id")


def archived(message: Message) -> str | None:
    content = message._entry.content
    return None if content is None else content.archive_id


async def test_a_place_is_published_only_if_nothing_before_it_is_unread(
    peter: Party, rosa: Party, town: Town
) -> None:
    """F18: it would say more than is true; afterwards as far as it is true."""
    before = place(town)
    found: list[Message] = []
    for text in ("first", "second", "third"):
        for party in (rosa, peter):
            party.passes(1)
        found += await written(rosa, town, peter, text)
    first, second, third = found
    await read(peter, second)
    assert place(town) == before
    await read(peter, first)
    assert place(town) == archived(second)
    await read(peter, third)
    assert place(town) == archived(third)


async def test_a_place_is_published_only_where_that_is_wanted(rosa: Party, town: Town) -> None:
    peter = await acquainted(town, rosa, displayed_sync=False)
    (message,) = await written(rosa, town, peter, "text")
    await read(peter, message)
    assert place(town) is None


async def test_with_a_gap_in_what_we_know_no_place_is_published(
    peter: Party, rosa: Party, town: Town, world: Shelves
) -> None:
    """F18: there may be something before it that nobody has seen."""
    before = place(town)
    world.refuses = True
    peter.offline()
    await peter.online()
    (message,) = await written(rosa, town, peter, "text")
    await read(peter, message)
    assert place(town) == before


async def test_while_the_archive_is_read_a_place_waits_for_it(town: Town) -> None:
    """F18: then it is told, once: nothing that nobody has seen stands before it."""
    rosa = await town.party("rosa", receipts=True)
    peter = await acquainted(town, rosa, receipts=True)
    (message,) = await written(rosa, town, peter, "text")
    before, whole = place(town), asyncio.Event()

    async def wait() -> bool:
        return await whole.wait()

    peter.chat._catching_up.own.begin(wait, read=True)
    await message.mark_read()
    while not peter._has_told():
        await peter.vault.transact(lambda _: None)
    assert (place(town), sent_to(peter).count(ROSA)) == (before, 0)
    whole.set()
    await peter.idle()
    assert (place(town), sent_to(peter).count(ROSA)) == (archived(message), 1)


async def test_a_server_that_refuses_a_place_stops_nothing(
    peter: Party, rosa: Party, town: Town
) -> None:
    await town.party("peter")
    town.world.failing = {NODE}
    (message,) = await written(rosa, town, peter, "text")
    await read(peter, message)
    assert sent_to(peter) == [PETER]
    assert not peter.chat._tasks[1].done()
