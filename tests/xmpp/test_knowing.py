"""What is known of devices is read once, and again as soon as any of it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import omemo
import pytest

from eph_e2ee.xmpp import knowing
from eph_e2ee.xmpp.knowing import Knowing
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp.people import Person, talk
from tests.xmpp.test_standing import Plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    NewPerson = Callable[[str], Awaitable[Person]]

TRUSTED = "TRUSTED"


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


async def read(person: Person, jid: str) -> frozenset[omemo.DeviceInformation]:
    """What python-omemo itself reads."""
    found: frozenset[omemo.DeviceInformation] = await person.gate.run(
        lambda: omemo.SessionManager.get_device_information(person.sessions, jid)
    )
    return found


async def test_what_has_not_changed_is_not_read_again(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    first = await rosa.sessions.get_device_information(peter.jid)
    assert await rosa.sessions.get_device_information(peter.jid) is first
    assert first == await read(rosa, peter.jid)


async def test_every_change_is_seen(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    place = f"/devices/{peter.jid}/{peter.device}"
    (known,) = await rosa.sessions.get_device_information(peter.jid)
    changes: list[Callable[[], Awaitable[Any]]] = [
        lambda: rosa.sessions.set_trust(peter.jid, known.identity_key, TRUSTED),
        lambda: rosa.sessions.update_device_list(OLD, peter.jid, {}),
        lambda: rosa.sessions.update_device_list(MODERN, peter.jid, {}),
        lambda: rosa.ratchets.store(f"{place}/label", "a name"),
        lambda: rosa.ratchets.store(f"{place}/namespaces", [MODERN]),
        lambda: rosa.ratchets.store_bytes(f"{place}/identity_key", bytes(32)),
        lambda: rosa.ratchets.store(f"/devices/{peter.jid}/list", []),
    ]
    for number, change in enumerate(changes):
        before = await rosa.sessions.get_device_information(peter.jid)
        await change()
        after = await rosa.sessions.get_device_information(peter.jid)
        assert after == await read(rosa, peter.jid)
        assert after != before, number


async def test_what_is_discarded_is_not_known(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    (before,) = await rosa.sessions.get_device_information(peter.jid)

    async def operation() -> None:
        await rosa.sessions.set_trust(peter.jid, before.identity_key, TRUSTED)
        (within,) = await rosa.sessions.get_device_information(peter.jid)
        assert within.trust_level_name == TRUSTED
        raise omemo.OMEMOException

    with pytest.raises(omemo.OMEMOException):
        await rosa.gate.run(operation)
    assert await rosa.sessions.get_device_information(peter.jid) == {before}


async def test_a_missing_key_is_looked_for_each_time(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    await rosa.sessions.update_device_list(MODERN, peter.jid, {peter.device: None, 4711: None})
    for _ in range(2):
        peter.server.downloads.clear()
        await rosa.sessions.get_device_information(peter.jid)
        assert (MODERN, peter.jid, 4711) in peter.server.downloads


async def test_the_number_of_accounts_is_bounded(
    pair: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowing, "MAXIMUM", 1)
    rosa, peter = pair
    known = Knowing(rosa.ratchets)
    for person in (rosa, peter):
        devices = await rosa.sessions.get_device_information(person.jid)
        known.keep(person.jid, devices, [person.device])
    assert known.get(rosa.jid) is None
    assert known.get(peter.jid) == devices


async def test_other_storages_are_read_each_time(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    devices = await rosa.sessions.get_device_information(peter.jid)
    known = Knowing(Plain())
    known.keep(peter.jid, devices, [peter.device])
    assert known.get(peter.jid) is None
