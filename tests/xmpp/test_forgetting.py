"""Devices that no list has any more: what is forgotten of them, and what never is."""

from __future__ import annotations

import base64
from itertools import count, islice
from typing import TYPE_CHECKING

import pytest
from omemo.session_manager import StillUndecided

from eph_e2ee.model import Trust
from eph_e2ee.vault.exporting import SESSION
from eph_e2ee.vault.ratchets import PREFIX
from eph_e2ee.xmpp.crossing import ASIDE, laid_aside
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.published import MAX_DEVICES
from tests.xmpp.people import Person, talk
from tests.xmpp.test_trust import decide, device_of, level, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eph_e2ee.vault.archive import Transaction
    from tests.xmpp.test_trust import NewPerson


def made_up(person: Person) -> Iterator[int]:
    """Numbers of devices, none of which is a true one's: those are drawn from all there are."""
    true = {device for _, _, device in person.server.bundles}
    return (number for number in count(1) if number not in true)


async def flood(person: Person, jid: str, *last: int) -> None:
    """Bring lists of made-up devices, and at last one with these.

    In legacy OMEMO, which has no labels: nobody looks for the keys of made-up devices.
    """
    numbers = made_up(person)
    await person.sessions.update_device_list(MODERN, jid, {})
    for _ in range(2):
        devices = dict.fromkeys(islice(numbers, MAX_DEVICES))
        await person.sessions.update_device_list(OLD, jid, devices)
    await person.sessions.update_device_list(OLD, jid, {})
    await person.sessions.update_device_list(MODERN, jid, dict.fromkeys(last))


def session(jid: str, device: int) -> list[str]:
    """The names of what is kept of a device in sessions."""
    places = [f"/{MODERN}/{account}/{device}" for account in (jid, jid + ASIDE)]
    count = f"/eph_e2ee/unanswered/{MODERN}/{jid}/{device}"
    return [count, *(f"{place}/{value}" for place in places for value in SESSION)]


async def stored(person: Person, names: list[str]) -> list[str]:
    """Which of these values are in the vault's rows, whatever is in memory."""

    def found(vault: Transaction) -> list[str]:
        return [name for name in names if vault.value(PREFIX + name) is not None]

    return await person.vault.transact(found)


async def accounts(person: Person) -> list[str]:
    """The accounts with sessions, as python-omemo has them."""
    return (await person.ratchets.load_list(f"/{MODERN}/bare_jids", str)).maybe([])


async def lay_aside(person: Person, other: Person) -> None:
    backend = person.sessions.backends[MODERN]

    async def lay() -> None:
        await laid_aside(backend, await backend.load_session(other.jid, other.device))

    await person.gate.run(lay)


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed; each trusts the other blindly."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


# -- trust -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [Trust.TRUSTED, Trust.DISTRUSTED])
@pytest.mark.parametrize("account", ["peter", "rosa"])
async def test_no_server_has_a_decision_forgotten(
    decision: Trust, account: str, person: NewPerson
) -> None:
    """Lists of made-up devices, then one with its own: that would be trusted blindly."""
    rosa, other = await person("rosa"), await person(account)
    await rosa.knows(other)
    await decide(rosa, other, decision)
    mallory = await person(account)
    await flood(rosa, other.jid, mallory.device)
    assert await level(rosa, other) is decision
    assert await standing(rosa, mallory) is Trust.UNDECIDED
    if other.jid != rosa.jid:
        with pytest.raises(StillUndecided):
            await rosa.encrypt(mallory, b"text")
    assert await level(rosa, mallory) is Trust.UNDECIDED


async def test_a_device_that_was_decided_on_goes_on_in_its_session(
    pair: tuple[Person, Person],
) -> None:
    rosa, peter = pair
    await decide(rosa, peter, Trust.TRUSTED)
    under_way = await peter.encrypt(rosa, b"under way")
    await flood(rosa, peter.jid, peter.device)
    assert await rosa.decrypt(under_way) == b"under way"
    ((_, exchange),) = (await rosa.encrypt(peter, b"text")).keys
    assert exchange is None


# -- what stays of nobody --------------------------------------------------------------------------


async def test_nothing_is_left_of_a_device_that_is_forgotten(
    pair: tuple[Person, Person], person: NewPerson
) -> None:
    rosa, peter = pair
    anna = await person("anna")
    await talk(rosa, anna)
    await lay_aside(rosa, peter)
    key = (await device_of(rosa, peter)).identity_key
    trust = f"/trust/{peter.jid}/{base64.urlsafe_b64encode(key).decode()}"
    names = [*session(peter.jid, peter.device), trust]
    assert await stored(rosa, names) == names
    await flood(rosa, peter.jid)
    assert await stored(rosa, names) == []
    assert await accounts(rosa) == [anna.jid]
    ids = [f"/{MODERN}/{account}/device_ids" for account in (peter.jid, peter.jid + ASIDE)]
    assert await stored(rosa, ids) == []
    assert await anna.decrypt(await rosa.encrypt(anna, b"text")) == b"text"


async def test_who_cycles_devices_fills_nothing(person: NewPerson) -> None:
    """Each with a session; those that are listed keep theirs."""
    rosa = await person("rosa")
    cycled = [await person("mallory") for _ in range(3)]
    for each in cycled:
        await rosa.sessions.update_device_list(MODERN, each.jid, {each.device: None})
        await each.knows(rosa)
        await rosa.decrypt(await each.encrypt(rosa, b"text"))
        await lay_aside(rosa, each)
    *gone, listed = cycled
    jid, numbers = listed.jid, made_up(rosa)
    for _ in range(2):
        others = dict.fromkeys(islice(numbers, MAX_DEVICES - 1))
        await rosa.sessions.update_device_list(OLD, jid, {listed.device: None, **others})
    for each in gone:
        assert await stored(rosa, session(jid, each.device)) == []
    assert await stored(rosa, session(jid, listed.device)) == session(jid, listed.device)
    for account in (jid, jid + ASIDE):
        name = f"/{MODERN}/{account}/device_ids"
        assert (await rosa.ratchets.load_list(name, int)).maybe([]) == [listed.device]


async def test_a_device_that_returns_begins_a_new_session(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    await flood(rosa, peter.jid)
    await rosa.knows(peter)
    message = await rosa.encrypt(peter, b"text")
    ((_, exchange),) = message.keys
    assert exchange is not None
    assert await peter.decrypt(message) == b"text"
    assert await rosa.decrypt(await peter.encrypt(rosa, b"text")) == b"text"
