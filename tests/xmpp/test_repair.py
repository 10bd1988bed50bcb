"""Sessions that are out of step, between accounts with real ratchets: mended, and no loops."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import omemo
import pytest
from omemo.session_manager import NoSession

from eph_e2ee.xmpp import repair
from eph_e2ee.xmpp.parcel import MODERN
from eph_e2ee.xmpp.repair import Repairs, begin_anew
from tests.xmpp.people import Person, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from eph_e2ee.xmpp.unanswered import Device
    from tests.xmpp.people import Server

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


def device(person: Person) -> Device:
    return MODERN, person.jid, person.device


async def mend(person: Person, other: Person, *, standing: bool) -> bool:
    return await person.gate.run(
        lambda: begin_anew(person.sessions, device(other), standing=standing)
    )


async def lose(person: Person, other: Person) -> None:
    """Forget every session with somebody."""
    await person.gate.run(lambda: person.sessions.backends[MODERN].purge_bare_jid(other.jid))


async def copied(person: Person, folder: Path) -> None:
    """Make a backup."""
    await person.stop()
    shutil.copytree(person.folder, folder)
    await person.start()


async def restored(person: Person, folder: Path) -> None:
    """Go on from a backup."""
    await person.stop()
    shutil.rmtree(person.folder)
    shutil.copytree(folder, person.folder)
    await person.start()


async def deliver(server: Server, *people: Person) -> int:
    """Carry empty messages until nobody answers any more; how many there were."""
    count = 0
    while server.sent:
        waiting, server.sent[:] = list(server.sent), []
        for message, recipient in waiting:
            count += 1
            (reader,) = (each for each in people if each.jid == recipient)
            assert await reader.decrypt(message) is None
    return count


async def both_ways(one: Person, other: Person) -> None:
    for number in range(3):
        text = b"number %d" % number
        assert await other.decrypt(await one.encrypt(other, text)) == text
        assert await one.decrypt(await other.encrypt(one, text)) == text


async def opens(reader: Person, message: omemo.Message) -> bool:
    try:
        await reader.decrypt(message)
    except omemo.OMEMOException:
        return False
    return True


async def test_a_missing_session_is_begun_anew(pair: tuple[Person, Person], server: Server) -> None:
    """XEP-0384 section 6: it is created, and an empty message tells of it."""
    rosa, peter = pair
    await lose(peter, rosa)
    lost = await rosa.encrypt(peter, b"lost")
    with pytest.raises(NoSession):
        await peter.decrypt(lost)
    assert peter.missed == [device(rosa)]
    assert await mend(peter, rosa, standing=False)
    assert len(server.sent) == 1
    assert await deliver(server, rosa, peter) == 2  # the key exchange and its answer
    await both_ways(rosa, peter)
    assert not await opens(peter, lost)
    assert peter.missed == [device(rosa)]


async def test_archived_messages_begin_nothing(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    await lose(peter, rosa)
    peter.sessions.before_history_sync()
    assert not await opens(peter, await rosa.encrypt(peter, b"old"))
    await peter.sessions.after_history_sync()
    assert peter.missed == []


async def test_a_session_that_came_meanwhile_is_left_alone(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    assert not await mend(peter, rosa, standing=False)
    await lose(peter, rosa)
    assert not await mend(peter, rosa, standing=True)
    assert server.sent == []


@pytest.mark.parametrize("who", ["distrusted", "not listed", "unknown"])
async def test_nobody_else_is_written_to(
    who: str, pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    await lose(peter, rosa)
    if who == "distrusted":
        (known,) = await peter.sessions.get_device_information(rosa.jid)
        await peter.sessions.set_trust(rosa.jid, known.identity_key, "DISTRUSTED")
    elif who == "not listed":
        await peter.sessions.update_device_list(MODERN, rosa.jid, {})
    else:
        rosa.device += 1
    assert not await mend(peter, rosa, standing=False)
    assert server.sent == []


async def test_keys_of_somebody_else_are_not_taken(
    pair: tuple[Person, Person], person: NewPerson, server: Server
) -> None:
    """A server that answers with a bundle of its own gets no session."""
    rosa, peter = pair
    mallory = await person("mallory")
    theirs: Any = server.bundles[MODERN, mallory.jid, mallory.device]
    ids = theirs.signed_pre_key_id, theirs.pre_key_ids
    forged = type(theirs)(rosa.jid, rosa.device, theirs.bundle, *ids)
    server.bundles[MODERN, rosa.jid, rosa.device] = forged
    await lose(peter, rosa)
    with pytest.raises(omemo.BundleDownloadFailed):
        await mend(peter, rosa, standing=False)
    assert server.sent == []


async def test_garbage_leaves_the_session_as_it_is(
    pair: tuple[Person, Person], server: Server
) -> None:
    """XEP-0384 section 8: no reaction to what does not open, be it a thousand times."""
    rosa, peter = pair
    for _ in range(20):
        whole = await rosa.encrypt(peter, b"text")
        ((key, exchange),) = whole.keys
        sound: Any = key
        damaged = type(sound.encrypted_message)(sound.encrypted_message.header, bytes(48))
        garbage = type(sound)(key.bare_jid, key.device_id, damaged)
        assert not await opens(peter, whole._replace(keys=frozenset({(garbage, exchange)})))
        assert await peter.decrypt(whole) == b"text"
    assert peter.missed == []
    assert server.sent == []
    await both_ways(rosa, peter)


async def test_one_side_from_a_backup(
    pair: tuple[Person, Person], server: Server, tmp_path: Path
) -> None:
    rosa, peter = pair
    await copied(peter, tmp_path / "backup")
    await both_ways(rosa, peter)
    await restored(peter, tmp_path / "backup")
    assert not await opens(peter, await rosa.encrypt(peter, b"lost"))
    assert not await opens(rosa, await peter.encrypt(rosa, b"lost"))
    assert peter.missed == rosa.missed == []
    assert await mend(peter, rosa, standing=True)
    assert await deliver(server, rosa, peter) == 2
    await both_ways(rosa, peter)


async def test_both_sides_from_backups_repair_at_once(
    pair: tuple[Person, Person], server: Server, tmp_path: Path
) -> None:
    """The sessions cross; both end in one, and nobody begins a third."""
    rosa, peter = pair
    await copied(rosa, tmp_path / "rosa")
    await both_ways(rosa, peter)
    await copied(peter, tmp_path / "peter")
    await both_ways(rosa, peter)
    await restored(rosa, tmp_path / "rosa")
    await restored(peter, tmp_path / "peter")
    assert not await opens(peter, await rosa.encrypt(peter, b"lost"))
    begun = await asyncio.gather(mend(rosa, peter, standing=True), mend(peter, rosa, standing=True))
    assert all(begun)
    assert await deliver(server, rosa, peter) <= 4
    await both_ways(rosa, peter)
    assert server.sent == []
    assert rosa.missed == peter.missed == []


async def test_what_is_under_way_in_the_old_session_opens(
    pair: tuple[Person, Person], server: Server
) -> None:
    """A session that was sound after all, and was begun anew."""
    rosa, peter = pair
    under_way = [await rosa.encrypt(peter, b"under way") for _ in range(3)]
    assert await mend(peter, rosa, standing=True)
    assert await peter.decrypt(under_way[0]) == b"under way"
    await deliver(server, rosa, peter)
    assert [await peter.decrypt(each) for each in under_way[1:]] == [b"under way"] * 2
    await both_ways(rosa, peter)


async def test_the_message_waits_for_its_commit(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    pending = await peter.gate.begin(
        lambda: begin_anew(peter.sessions, device(rosa), standing=True)
    )
    assert server.sent == []
    await pending.finish()
    assert len(server.sent) == 1


# -- how often -------------------------------------------------------------------------------------


class Time:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_device_is_repaired_once_in_a_period() -> None:
    now = Time()
    repairs = Repairs(now)
    one, other = (MODERN, "rosa@example.org", 1), (MODERN, "rosa@example.org", 2)
    assert repairs.admits(one)
    assert repairs.admits(other)
    now.now += repair.PERIOD - 1
    assert not repairs.admits(one)
    now.now += 1
    assert repairs.admits(one)
    assert not repairs.admits(one)


def test_what_was_not_repaired_can_be_tried_again() -> None:
    repairs = Repairs(Time())
    one = (MODERN, "rosa@example.org", 1)
    assert repairs.admits(one)
    repairs.withdraw(one)
    repairs.withdraw(one)
    assert repairs.admits(one)


def test_a_storm_of_devices_fills_nothing_and_repairs_nothing() -> None:
    """Made-up accounts with made-up devices."""
    now = Time()
    repairs = Repairs(now)
    admitted = sum(
        repairs.admits((MODERN, f"rosa{each % 200}@example.org", each))
        for each in range(5 * repair.MAXIMUM)
    )
    assert admitted == repair.MAXIMUM == len(repairs._unasked)
    now.now += repair.PERIOD
    assert repairs.admits((MODERN, "peter@example.org", 1))
    assert len(repairs._unasked) == 1


def test_an_account_uses_up_no_more_than_its_own_places() -> None:
    repairs = Repairs(Time())
    admitted = sum(
        repairs.admits((MODERN, "mallory@example.org", each)) for each in range(repair.MAXIMUM)
    )
    assert admitted == repair.MOST_OF_ONE
    assert repairs.admits((MODERN, "peter@example.org", 1))


def test_who_asks_for_a_repair_needs_no_place() -> None:
    """But each device has one in a period all the same, asked for or not."""
    now = Time()
    repairs = Repairs(now)
    for each in range(repair.MAXIMUM):
        repairs.admits((MODERN, f"mallory{each}@example.org", 1))
    peter = MODERN, "peter@example.org", 1
    assert not repairs.admits(peter)
    assert repairs.admits_asked(peter)
    assert not repairs.admits_asked(peter)
    assert not repairs.admits_asked((MODERN, "mallory0@example.org", 1))
    repairs.withdraw(peter)
    assert repairs.admits_asked(peter)
    now.now += repair.PERIOD
    assert repairs.admits(peter)
    assert not repairs.admits_asked(peter)
    assert not repairs._asked
