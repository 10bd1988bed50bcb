"""A device list that comes while an older one still waits for the bundle of a device."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.xmpp.latest import Latest
from eph_e2ee.xmpp.parcel import MODERN
from tests.xmpp.people import Person, Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    import omemo

    NewPerson = Callable[[str], Awaitable[Person]]


class Waiting(Server):
    """A server that holds bundles back once it is told to; everything else comes at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked = asyncio.Event()
        self.let_out = asyncio.Event()
        self.let_out.set()

    def hold(self) -> None:
        self.asked.clear()
        self.let_out.clear()

    async def bundle(self, namespace: str, jid: str, device: int) -> omemo.Bundle:
        self.asked.set()
        await self.let_out.wait()
        return await super().bundle(namespace, jid, device)


@pytest.fixture
def server() -> Server:
    return Waiting()


@pytest.fixture
async def people(person: NewPerson) -> tuple[Person, Person, Person]:
    """Rosa, who knows one of Peter's two devices."""
    rosa, kept, other = await person("rosa"), await person("peter"), await person("peter")
    await rosa.sessions.update_device_list(MODERN, kept.jid, {kept.device: None})
    return rosa, kept, other


async def active(person: Person, jid: str) -> set[int]:
    """The devices of an account to which messages go."""
    known = await person.sessions.get_device_information(jid)
    return {device.device_id for device in known if dict(device.active).get(MODERN)}


async def overtake(
    older: Coroutine[None, None, None], newer: Coroutine[None, None, None], server: Server
) -> None:
    """Have a newer list taken in while an older one waits for a bundle."""
    assert isinstance(server, Waiting)
    server.hold()
    waiting = asyncio.create_task(older)
    await server.asked.wait()
    await newer
    server.let_out.set()
    await waiting


async def test_a_removed_device_does_not_come_back(
    people: tuple[Person, Person, Person], server: Server
) -> None:
    rosa, kept, removed = people
    both = dict.fromkeys((kept.device, removed.device))
    await overtake(
        rosa.sessions.update_device_list(MODERN, kept.jid, both),
        rosa.sessions.update_device_list(MODERN, kept.jid, {kept.device: None}),
        server,
    )
    assert await active(rosa, kept.jid) == {kept.device}


async def test_nor_by_the_answer_to_a_question(
    people: tuple[Person, Person, Person], server: Server
) -> None:
    rosa, kept, removed = people
    server.lists[MODERN, kept.jid] = dict.fromkeys((kept.device, removed.device))
    await overtake(
        rosa.sessions.refresh_device_list(MODERN, kept.jid),
        rosa.sessions.update_device_list(MODERN, kept.jid, {kept.device: None}),
        server,
    )
    assert await active(rosa, kept.jid) == {kept.device}


async def test_an_answer_overtakes_as_well(
    people: tuple[Person, Person, Person], server: Server
) -> None:
    rosa, kept, removed = people
    server.lists[MODERN, kept.jid] = {kept.device: None}
    both = dict.fromkeys((kept.device, removed.device))
    await overtake(
        rosa.sessions.update_device_list(MODERN, kept.jid, both),
        rosa.sessions.refresh_device_list(MODERN, kept.jid),
        server,
    )
    assert await active(rosa, kept.jid) == {kept.device}


async def test_an_older_list_that_comes_again_is_the_newest(
    people: tuple[Person, Person, Person],
) -> None:
    rosa, kept, other = people
    for devices in ({kept.device, other.device}, {kept.device}, {kept.device, other.device}):
        await rosa.sessions.update_device_list(MODERN, kept.jid, dict.fromkeys(devices))
        assert await active(rosa, kept.jid) == devices


async def test_lists_that_come_in_a_row_are_one_operation(
    people: tuple[Person, Person, Person], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are asked for of the first, with which it begins, and of the last, which counts."""
    rosa, kept, other = people
    operations: list[object] = []
    run = rosa.gate.run

    async def counting(operation: Callable[[], Awaitable[Any]]) -> Any:
        if rosa.gate.unit is None:
            operations.append(operation)
        return await run(operation)

    monkeypatch.setattr(rosa.gate, "run", counting)
    server.downloads.clear()
    made_up = [dict.fromkeys(range(100 * each, 100 * each + 64)) for each in range(1, 51)]
    last = dict.fromkeys((kept.device, other.device))
    await asyncio.gather(
        *(rosa.sessions.update_device_list(MODERN, kept.jid, each) for each in [*made_up, last])
    )
    assert len(operations) == 1
    first = {(MODERN, kept.jid, device) for device in made_up[0]}
    assert set(server.downloads) <= {*first, (MODERN, kept.jid, other.device)}
    assert await active(rosa, kept.jid) == {kept.device, other.device}


async def test_a_list_that_comes_while_another_is_written_is_taken_in(
    people: tuple[Person, Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that one is refused."""
    rosa, kept, other = people
    both = dict.fromkeys((kept.device, other.device))
    run = rosa.gate.run

    async def late(operation: Callable[[], Awaitable[Any]]) -> Any:
        monkeypatch.setattr(rosa.gate, "run", run)
        await run(operation)
        await rosa.sessions.update_device_list(MODERN, kept.jid, both)
        raise VaultUnavailable("the disk is full")

    monkeypatch.setattr(rosa.gate, "run", late)
    await rosa.sessions.update_device_list(MODERN, kept.jid, {})
    assert await active(rosa, kept.jid) == {kept.device, other.device}


async def test_a_list_that_is_refused_is_an_error_and_stops_no_other(
    people: tuple[Person, Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    rosa, kept, _ = people

    async def refusing(_: object) -> None:
        raise VaultUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(rosa.gate, "run", refusing)
        with pytest.raises(VaultUnavailable):
            await rosa.sessions.update_device_list(MODERN, kept.jid, {})
    await rosa.sessions.update_device_list(MODERN, kept.jid, {})
    assert await active(rosa, kept.jid) == set()


def test_nothing_is_kept_of_lists_that_nobody_works_on() -> None:
    latest = Latest()
    held = latest.came(MODERN, "peter@example.org", {1: None})
    latest.came(MODERN, "rosa@example.org", {1: None})
    assert latest.came(MODERN, "peter@example.org", {2: None}) is held
    assert held.listed == {2: None}
    gc.collect()
    assert list(latest._arrived) == [(MODERN, "peter@example.org")]
