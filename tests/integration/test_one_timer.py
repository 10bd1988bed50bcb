"""One timer for everyone: Alice and Bob with two devices each, and Carol, who knows no tag."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

import pytest
import pytest_asyncio

from eph_e2ee.protocol.envelope import Finding
from tests.integration.circle import HOUR, Circle
from tests.integration.members import Ways
from tests.support.chats import element, together
from tests.support.interference import Interference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.members import Device
    from tests.support.prosody import Prosody

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

DAY = 24 * HOUR
FORGED = (
    "<setting xmlns='eph-e2ee:agreement:0' counter='1000' stamp='2030-01-01T00:00:00.000Z' "
    "author='{author}' device='4711' timer='{timer}'/>"
)

ORDERS = [
    ("alice's desk", "bob's desk"),
    ("bob's desk", "alice's phone"),
    ("bob's phone", "alice's desk"),
    ("alice's phone", "bob's phone"),
]
MODES = [(archive, carbons) for archive in (True, False) for carbons in (True, False)]
ALL = [
    Ways(archive, carbons, absent, backwards=absent in ORDERS[1:3])
    for archive, carbons in MODES
    for absent in ORDERS
]
SAMPLE = ALL[:: len(ORDERS) + 1]
"""Each of the orders, and each of the ways by which devices hear of each other, once."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take every scenario through a fair sample of orders and ways, or through all of them."""
    if "circle" in metafunc.fixturenames:
        ways = ALL if metafunc.config.getoption("--full") else SAMPLE
        metafunc.parametrize("circle", ways, ids=str, indirect=True, scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def circle(
    request: pytest.FixtureRequest,
    prosody_process: Prosody,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Circle]:
    """The five, who know each other; every test begins with all of them online."""
    made = Circle(prosody_process.start(), tmp_path_factory.mktemp("circle"), request.param)
    try:
        await made.meet()
        yield made
    finally:
        await made.end()


async def test_what_is_on_the_way_with_the_old_timer_undoes_nothing(circle: Circle) -> None:
    """F22: a message from before the change arrives after it, and keeps its own timer."""
    old_with_bob, old_with_carol = await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    with_bob, with_carol = circle.fresh(), circle.fresh()
    await circle.leave(*circle.absent)
    circle.hold((bob, alice), (carol, alice))
    late = [await circle.say(bob, alice), await circle.say(carol, alice)]
    await alice.set_timer(bob.jid, with_bob)
    await alice.set_timer(carol.jid, with_carol)
    await circle.settle()
    assert (await bob.timer(alice.jid), await carol.timer(alice.jid)) == (with_bob, with_carol)
    told = len(alice.told)
    await circle.release()
    assert [said.timer for said in late] == [old_with_bob, old_with_carol]
    assert alice.told[told:] == []
    await circle.arrive(*circle.absent)
    await circle.end_on({with_bob}, {with_carol})
    assert alice.told[told:] == []


async def test_changes_at_the_same_time_end_on_one_of_them(circle: Circle) -> None:
    """F23: each side hears of the other's change after its own; nothing is swapped."""
    await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    mine, theirs, carols = circle.fresh(), circle.fresh(), circle.fresh()
    await circle.leave(*circle.absent)
    circle.hold((bob, alice), (alice, bob), (carol, alice), (alice, carol))
    changes = [
        alice.set_timer(bob.jid, mine),
        bob.set_timer(alice.jid, theirs),
        alice.set_timer(carol.jid, mine),
        carol.set_timer(alice.jid, carols),
    ]
    for change in changes if circle.ways.backwards else changes[::-1]:
        await change
        await circle.passes(1)
    assert (await alice.timer(bob.jid), await bob.timer(alice.jid)) == (mine, theirs)
    await circle.release()
    await circle.arrive(*circle.absent)
    later = circle.ways.backwards
    await circle.end_on({theirs if later else mine}, {carols if later else mine})


async def test_a_message_without_a_timer_turns_nothing_off(circle: Circle) -> None:
    """F24: one permanent message, or one old client, says nothing about the conversation."""
    with_bob, with_carol = await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    told = [len(device.told) for device in (alice, bob, *circle.absent)]
    await circle.leave(*circle.absent)
    permanent = [
        await circle.say(bob, alice, bob.send_for_ever),
        await circle.say(carol, alice, carol.send_without_timer),
        await circle.say(alice, bob, alice.send_for_ever),
    ]
    assert [said.timer for said in permanent] == [None] * 3
    await circle.settle()
    await circle.arrive(*circle.absent)
    await circle.say(carol, alice, carol.send_without_timer)
    await circle.end_on({with_bob}, {with_carol})
    assert [len(device.told) for device in (alice, bob, *circle.absent)] == told


async def test_a_device_that_returns_after_months_turns_nothing_on(circle: Circle) -> None:
    """F25: it repeats its old timer, having read nothing yet; for the others nothing changes."""
    old_with_bob, old_with_carol = await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    await circle.leave(*circle.absent, carol)
    await alice.set_timer(bob.jid, None)
    await circle.settle()
    await circle.say(bob, alice)
    await alice.set_timer(carol.jid, with_carol := circle.fresh())
    await circle.passes(90 * DAY)
    told = [len(alice.told), len(bob.told)]
    repeated = {old_with_bob, None} if circle.ways.archive else {old_with_bob}
    for device in circle.absent:
        stale = await circle.arrive_speaking(device, alice if device.jid == bob.jid else bob)
        assert stale.timer in repeated  # the archive may have been quicker
    assert (await circle.arrive_speaking(carol, alice)).timer == old_with_carol
    await circle.end_on({None}, {with_carol})
    assert [len(alice.told), len(bob.told)] == told


async def test_the_archive_brings_no_old_timer_back(circle: Circle) -> None:
    """F26: what was missed, and the whole archive once more, with every timer that ever was."""
    await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    await circle.leave(*circle.absent)
    for timer in (circle.fresh(), None, circle.fresh()):
        await bob.set_timer(alice.jid, timer)
        await circle.say(bob, alice)
        await circle.settle()
        await carol.set_timer(alice.jid, timer)
        await circle.say(carol, alice)
        await circle.settle()
    await alice.set_timer(bob.jid, with_bob := circle.fresh())
    await alice.set_timer(carol.jid, with_carol := circle.fresh())
    await circle.say(alice, bob)
    await circle.arrive(*circle.absent)
    await circle.ring()
    told = [len(device.told) for device in (alice, bob, *circle.absent)]
    await circle.replay_the_archive()
    await circle.end_on({with_bob}, {with_carol})
    assert [len(device.told) for device in (alice, bob, *circle.absent)] == told


async def test_what_one_device_sets_and_reads_the_others_follow(circle: Circle) -> None:
    """F27: whether they are online or not, and whoever tells them."""
    await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    other = next(device for device in circle.absent if device.jid == alice.jid)
    with_bob, with_carol = circle.fresh(), circle.fresh()
    told = len(other.told)
    await alice.set_timer(bob.jid, with_bob)
    if not circle.ways.carbons and circle.ways.archive:
        await circle.leave(other)
        await circle.arrive(other)
    if not circle.ways.carbons and not circle.ways.archive:
        await circle.settle()
        await circle.say(bob, alice)
    await circle.settle()
    (change,) = other.told[told:]
    assert (change.new, change.own, change.here) == (with_bob, True, False)
    assert change.author == alice.jid
    assert change.device == alice.party.chat._account.device
    assert change.authenticated == (circle.ways.carbons or circle.ways.archive)
    await circle.leave(*circle.absent)
    await circle.say(alice, bob)
    await circle.read(alice, await circle.say(bob, alice))
    await circle.read(alice, await circle.say(carol, alice))
    await circle.arrive(*circle.absent)
    await circle.leave(alice)
    await other.set_timer(carol.jid, with_carol)
    await circle.say(other, carol)
    await circle.arrive(alice)
    await circle.say(carol, alice)  # with neither archive nor carbons, she tells the first one
    await circle.settle()
    await circle.end_on({with_bob}, {with_carol})


async def test_a_stranger_and_a_server_change_nothing(circle: Circle) -> None:
    """F28, F31: another's conversation, another's name, the outside of an envelope."""
    with_bob, _ = await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    await circle.leave(*circle.absent)
    told = len(alice.told)
    # Carol, who is nobody in the conversation of Alice and Bob.
    await carol.party.send(alice.jid, None, forged(bob, 5))
    # Bob, in the name of somebody who is not in it.
    await bob.party.send_content(alice.party, forged(carol, 6))
    await circle.settle()
    outside = tostring(forged(bob, 7)).decode()
    added = [tostring(ephemeral(8)).decode(), outside]
    circle.prosody.interfere(Interference(recipient=alice.jid, sender=bob.jid, add=added))
    said = await circle.say(bob, alice)
    await circle.settle()
    assert Finding.OUTER_EPHEMERAL in alice.heard[-1].findings
    assert said.timer == with_bob
    # Carol's message in Bob's name: her key is not one of his.
    rule = Interference(recipient=alice.jid, sender=carol.jid, claimed_sender=bob.jid)
    circle.prosody.interfere(rule)
    hostile = await carol.party.send(alice.jid, None, ephemeral(9))
    await circle.settle()
    circle.prosody.interfere()
    assert [each.message_id for each in alice.rejected] == [hostile]
    for device in (alice, *circle.absent):
        device.hostile.add(hostile)
    assert alice.told[told:] == []
    # Carol in Alice's own name, in their own conversation: she may change it, and is not believed.
    await carol.party.send(alice.jid, None, forged(alice, named := circle.fresh()))
    await circle.settle()
    (change,) = alice.told[told:]
    assert (change.conversation, change.new) == (carol.jid, named)
    assert not change.authenticated
    await circle.arrive(*circle.absent)
    await circle.end_on({with_bob}, {named})
    assert alice.told[told:] == [change]


async def test_a_message_and_a_change_at_once_agree_on_the_message(circle: Circle) -> None:
    """F29: its timer is the one that was sealed with it, on every device that gets it."""
    with_bob, with_carol = await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    mine, theirs, carols = circle.fresh(), circle.fresh(), circle.fresh()
    await circle.leave(*circle.absent)
    *said, _, _, _ = await together(
        circle.say(alice, bob),
        circle.say(bob, alice),
        circle.say(alice, carol),
        alice.set_timer(bob.jid, mine),
        bob.set_timer(alice.jid, theirs),
        carol.set_timer(alice.jid, carols),
    )
    more = await together(circle.say(alice, bob), circle.say(bob, alice), circle.say(alice, carol))
    assert {each.timer for each in (*said, *more)} <= {
        with_bob,
        with_carol,
        mine,
        theirs,
        carols,
    }
    await circle.show_what_lives()
    await circle.arrive(*circle.absent)
    await circle.end_on({mine, theirs}, {carols})


async def test_what_has_ended_does_not_come_back(circle: Circle) -> None:
    """F36, F21: gone while others were away; delivered twice, archived, and asked for again."""
    with_bob, with_carol = await circle.base()
    alice, bob, carol = circle.alice, circle.bob, circle.carol
    await circle.leave(*circle.absent)
    circle.prosody.interfere(Interference(copies=1))
    gone = [
        await circle.say(alice, bob),
        await circle.say(bob, alice),
        await circle.say(carol, alice),
    ]
    await circle.settle()
    circle.prosody.interfere()
    await circle.read_all()
    await circle.passes(2 * HOUR)
    kept = await circle.say(bob, alice)
    await circle.show_what_lives()
    heard = [len(device.heard) for device in (alice, bob)]
    await circle.arrive(*circle.absent)
    await circle.show_what_lives()
    await circle.replay_the_archive()
    await circle.show_what_lives()
    assert [len(device.heard) for device in (alice, bob)] == heard
    ids = {said.message_id for said in gone}
    for device in circle.absent:
        assert ids.isdisjoint(str(message.message_id) for message in device.heard)
    assert kept.timer == with_bob
    await circle.end_on({with_bob}, {with_carol})


def forged(author: Device, timer: int) -> Element:
    """A change of the timer in somebody's name, with a counter that nobody is at."""
    return element(FORGED.format(author=author.jid, timer=timer))


def ephemeral(timer: int) -> Element:
    """What carries a timer."""
    return element(f"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='{timer}'/>")
