"""A device list is waited for only so long, and one that cannot be had not for every message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from omemo.session_manager import DeviceListDownloadFailed, SenderNotFound

from eph_e2ee.xmpp import fetching
from eph_e2ee.xmpp.downloads import FRESH, Downloads
from eph_e2ee.xmpp.parcel import MODERN
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import omemo

    from tests.xmpp.people import Person, Server

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def rosa(person: NewPerson) -> Person:
    return await person("rosa")


@pytest.fixture
async def anna(person: NewPerson, rosa: Person, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Somebody of whom Rosa knows nothing, and whose server is mute from now on."""
    anna = await person("anna")
    await anna.knows(rosa)
    monkeypatch.setattr(fetching, "PATIENCE", 0)
    return anna


@pytest.fixture
async def message(rosa: Person, anna: Person, server: Server) -> omemo.Message:
    """What Anna has sent to Rosa."""
    sealed = await anna.encrypt(rosa, b"text")
    server.opened.clear()
    return sealed


def asked(person: Person) -> int:
    """How often somebody's list was asked for in omemo:2."""
    return person.server.downloads.count((MODERN, person.jid))


async def read(person: Person, message: omemo.Message) -> bytes | None:
    """What a message holds, for somebody who can open it later as well."""

    async def opened() -> bytes | None:
        person.sessions.spare()
        return await person.decrypt(message)

    return await person.gate.run(opened)


async def refused(person: Person, message: omemo.Message) -> None:
    with pytest.raises(DeviceListDownloadFailed):
        await read(person, message)


async def opens(
    person: Person, message: omemo.Message, server: Server, patch: pytest.MonkeyPatch
) -> None:
    """Have the server answer again, and open a message."""
    patch.setattr(fetching, "PATIENCE", SECONDS)
    server.opened.set()
    assert await read(person, message) == b"text"


async def test_a_mute_server_is_waited_for_once(
    rosa: Person, anna: Person, message: omemo.Message
) -> None:
    before = asked(anna)
    for _ in range(3):
        await refused(rosa, message)
    assert asked(anna) == before + 1


async def test_who_cannot_open_it_later_asks_each_time(
    rosa: Person, anna: Person, message: omemo.Message
) -> None:
    """An application that reads stanzas itself is given each once."""
    before = asked(anna)
    for _ in range(3):
        with pytest.raises(DeviceListDownloadFailed):
            await rosa.decrypt(message)
    assert asked(anna) == before + 3


async def test_a_mute_server_is_waited_for_once_for_a_bundle(
    rosa: Person, anna: Person, message: omemo.Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is had, and names the device, whose key is not."""

    async def listed(namespace: str, jid: str) -> dict[int, None]:
        assert jid == anna.jid
        return {anna.device: None} if namespace == MODERN else {}

    monkeypatch.setattr(anna.server, "devices", listed)
    for _ in range(3):
        with pytest.raises(SenderNotFound):
            await read(rosa, message)
    assert anna.server.downloads.count((MODERN, anna.jid, anna.device)) == 1


async def test_it_is_asked_again_after_a_while(
    rosa: Person,
    message: omemo.Message,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    rosa.gate.downloads = Downloads(lambda: now)
    await refused(rosa, message)
    now += FRESH
    await opens(rosa, message, server, monkeypatch)


async def test_who_asks_for_a_list_does_ask(
    rosa: Person,
    anna: Person,
    message: omemo.Message,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And if it is had, messages are opened again."""
    await refused(rosa, message)
    before = asked(anna)
    with pytest.raises(DeviceListDownloadFailed):
        await rosa.knows(anna)
    assert asked(anna) == before + 1
    monkeypatch.setattr(fetching, "PATIENCE", SECONDS)
    server.opened.set()
    await rosa.knows(anna)
    await opens(rosa, message, server, monkeypatch)


async def test_a_list_that_comes_by_itself_has_others_asked_for(
    rosa: Person,
    anna: Person,
    message: omemo.Message,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even one without the device."""
    await refused(rosa, message)
    await rosa.sessions.update_device_list(MODERN, anna.jid, {})
    await opens(rosa, message, server, monkeypatch)


async def test_our_own_lists_are_always_asked_for(
    rosa: Person, person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is the server that we are connected to."""
    other = await person("rosa")
    await other.sessions.update_device_list(MODERN, rosa.jid, {rosa.device: None})
    sealed = await other.encrypt(rosa, b"text")
    monkeypatch.setattr(fetching, "PATIENCE", 0)
    server.opened.clear()
    await refused(rosa, sealed)
    server.lists[MODERN, rosa.jid] = {rosa.device: None, other.device: None}
    await opens(rosa, sealed, server, monkeypatch)
