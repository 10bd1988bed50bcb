"""New devices of verified accounts: told once, after the commit, and of nobody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.events import NewDevice
from eph_e2ee.model import BareJid, DeviceId, Trust
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.trust import MOST_NEW, grouped
from tests.xmpp.people import Person, talk
from tests.xmpp.test_trust import decide, device_of, governed

if TYPE_CHECKING:
    from omemo.types import DeviceList

    from tests.xmpp.test_trust import NewPerson


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


def new(person: Person, device: int, fingerprint: str | None) -> NewDevice:
    return NewDevice(BareJid(person.jid), DeviceId(device), fingerprint)


async def test_a_new_device_of_a_verified_account_is_told_once(
    pair: tuple[Person, Person], person: NewPerson
) -> None:
    rosa, peter = pair
    policy = governed(rosa)
    await decide(rosa, peter, Trust.TRUSTED)
    tablet = await person("peter")
    for _ in range(2):
        await rosa.knows(peter)
    key = (await device_of(rosa, tablet)).identity_key
    assert policy.told == [new(peter, tablet.device, grouped(key))]
    await rosa.stop()
    await rosa.start()
    policy = governed(rosa)
    await rosa.knows(peter)
    assert policy.told == []


@pytest.mark.parametrize("level", [Trust.BLINDLY_TRUSTED, Trust.UNDECIDED, Trust.DISTRUSTED])
async def test_nobody_hears_of_the_devices_of_others(
    level: Trust, pair: tuple[Person, Person], person: NewPerson
) -> None:
    rosa, peter = pair
    policy = governed(rosa)
    await decide(rosa, peter, level)
    await person("peter")
    await rosa.knows(peter)
    assert policy.told == []


async def test_a_device_without_keys_has_no_fingerprint_yet(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    policy = governed(rosa)
    await decide(rosa, peter, Trust.TRUSTED)
    await rosa.sessions.update_device_list(OLD, peter.jid, {peter.device: None, 7: None})
    assert policy.told == [new(peter, 7, None)]


async def test_a_device_that_comes_back_is_not_new(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    policy = governed(rosa)
    await decide(rosa, peter, Trust.TRUSTED)
    lists: list[DeviceList] = [{}, {peter.device: None}]
    for listed in lists:
        await rosa.sessions.update_device_list(MODERN, peter.jid, listed)
        await rosa.sessions.update_device_list(OLD, peter.jid, listed)
    assert policy.told == []


async def test_our_own_new_devices_are_told_and_this_one_is_not(person: NewPerson) -> None:
    rosa, laptop = await person("rosa"), await person("rosa")
    policy = governed(rosa)
    await rosa.knows(rosa)
    await decide(rosa, laptop, Trust.TRUSTED)
    tablet = await person("rosa")
    await rosa.knows(rosa)
    assert [told.device for told in policy.told] == [tablet.device]


async def test_a_list_of_thousands_does_not_tell_thousands(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    policy = governed(rosa)
    await decide(rosa, peter, Trust.TRUSTED)
    await rosa.sessions.update_device_list(OLD, peter.jid, dict.fromkeys(range(1, 3000)))
    assert len(policy.told) == MOST_NEW
    assert all(told.jid == peter.jid for told in policy.told)


async def test_a_list_that_is_not_committed_tells_nothing(
    pair: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    rosa, peter = pair
    policy = governed(rosa)
    await decide(rosa, peter, Trust.TRUSTED)

    def refuse(_: Any) -> Any:
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(RemoteProtocolError(Reason.NOT_STORED))
        return refused

    with monkeypatch.context() as patch:
        patch.setattr(rosa.ratchets, "commit_with", refuse)
        with pytest.raises(RemoteProtocolError):
            await rosa.sessions.update_device_list(OLD, peter.jid, {7: None})
    assert policy.told == []
    await rosa.sessions.update_device_list(OLD, peter.jid, {7: None})
    assert [told.device for told in policy.told] == [7]
