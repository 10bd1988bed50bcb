"""Which device lists are in doubt, and are asked for."""

from __future__ import annotations

from eph_e2ee.xmpp import lists
from eph_e2ee.xmpp.lists import Lists
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp.clients import Kept

PETER = "peter@example.org"


async def listing(**devices: set[str]) -> Kept:
    """A storage as python-omemo leaves it: the devices of Peter's, and the lists of each."""
    storage = Kept()
    numbers = {int(name.removeprefix("n")): active for name, active in devices.items()}
    await storage.store(f"/devices/{PETER}/list", [*numbers])
    for number, active in numbers.items():
        await storage.store(f"/devices/{PETER}/{number}/active", dict.fromkeys(active, True))
    return storage


async def test_who_is_not_known_is_asked_for() -> None:
    assert await Lists().are_doubtful(PETER, await listing())


async def test_devices_in_both_lists_are_no_question() -> None:
    assert not await Lists().are_doubtful(PETER, await listing(n7={MODERN, OLD}, n8={OLD, MODERN}))


async def test_a_device_in_one_list_is_asked_for_once() -> None:
    """Conversations has no other list, and is not asked for with every message."""
    settled = Lists()
    for alone in (MODERN, OLD):
        storage = await listing(n7={MODERN, OLD}, n8={alone})
        assert await Lists().are_doubtful(PETER, storage)
        await settled.settle(PETER, storage)
        assert not await settled.are_doubtful(PETER, storage)
    assert await settled.are_doubtful(PETER, await listing(n8={OLD}, n9={MODERN}))


async def test_what_was_not_answered_stays_in_doubt() -> None:
    doubting, storage = Lists(), await listing(n7={MODERN})
    for _ in range(2):
        assert await doubting.are_doubtful(PETER, storage)


async def test_many_accounts_fill_nothing() -> None:
    settled, storage = Lists(), await listing(n7={MODERN})
    await settled.settle(PETER, storage)
    for number in range(lists.MAXIMUM_REMEMBERED):
        await settled.settle(f"{number}@example.org", storage)
    assert await settled.are_doubtful(PETER, storage)
    assert len(settled._settled) == lists.MAXIMUM_REMEMBERED
