"""Two stanzas of one message: that one of them is for others is no news."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest

from eph_e2ee import halves as module
from eph_e2ee.errors import Reason
from eph_e2ee.halves import MAXIMUM_WAITING, Halves
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.protocol import ephemeral
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.stanzas import Arrival
from tests.flows.test_incoming import body, sealed
from tests.xmpp.clients import TheirPlugin, plugged

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.flows.conftest import Party, Town

ROSA = BareJid("rosa@example.org")


class Handle:
    """A call that waits for its time."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds = seconds
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def due(self) -> None:
        if not self.cancelled:
            self.call()


class Waiting:
    """Halves, what they have told of, and the calls that they have asked for."""

    def __init__(self) -> None:
        self.told: list[Arrival] = []
        self.handles: list[Handle] = []
        later: Any = self._later
        self.halves = Halves(later, self.told.append)

    def _later(self, seconds: float, call: Callable[[], None]) -> Handle:
        self.handles.append(Handle(seconds, call))
        return self.handles[-1]

    def all_due(self) -> None:
        for handle in self.handles:
            handle.due()


def half(message_id: str = "1", sender: BareJid = ROSA) -> Arrival:
    return Arrival(Element("message"), sender, ROSA, MessageId(message_id), None, None)


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_one_that_stays_alone_is_told_of(waiting: Waiting) -> None:
    first = half()
    waiting.halves.put(first)
    assert waiting.told == []
    assert [handle.seconds for handle in waiting.handles] == [module.PATIENCE]
    waiting.all_due()
    assert waiting.told == [first]
    waiting.halves.put(half())
    assert len(waiting.told) == 1


def test_one_whose_other_half_was_for_us_is_not(waiting: Waiting) -> None:
    waiting.halves.put(half())
    waiting.halves.taken(half("2"))
    waiting.halves.taken(half("1", BareJid("peter@example.org")))
    waiting.halves.taken(half())
    waiting.all_due()
    assert waiting.told == []


def test_of_two_that_are_not_for_us_one_is_told_of(waiting: Waiting) -> None:
    waiting.halves.put(half())
    waiting.halves.put(half())
    waiting.all_due()
    assert len(waiting.told) == 1


def test_one_without_a_name_has_no_other_half(waiting: Waiting) -> None:
    waiting.halves.put(half(""))
    assert len(waiting.told) == 1
    assert waiting.handles == []


def test_there_is_a_limit_to_those_that_wait(waiting: Waiting) -> None:
    for number in range(MAXIMUM_WAITING + 3):
        waiting.halves.put(half(str(number)))
    assert [arrival.message_id for arrival in waiting.told] == ["0", "1", "2"]
    waiting.all_due()
    assert len(waiting.told) == MAXIMUM_WAITING + 3


def test_after_the_end_nothing_is_told(waiting: Waiting) -> None:
    waiting.halves.put(half())
    waiting.halves.stop()
    waiting.all_due()
    assert waiting.told == []


# -- as they come ----------------------------------------------------------------------------------


def without_key(xml: Element, namespace: str) -> Element:
    """The stanza as it is for everybody but its one recipient."""
    other = fromstring(tostring(xml))  # noqa: S314 -- our own
    for element in other.iter(f"{{{namespace}}}keys"):
        element.set("jid", "somebody@example.org")
    for element in other.iter(f"{{{namespace}}}key"):
        element.set("rid", "1")
    return other


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
async def test_either_half_may_be_the_one_for_us(
    town: Town, *, together: bool, swapped: bool
) -> None:
    """Also when both come in one batch, and are alike by their id."""
    rosa, peter = await town.party("rosa"), await town.party("peter")
    await rosa.chat.send(peter.jid, "good morning")
    await town.deliver()
    for_us = await sealed(rosa, peter, body("for us"), number=1)
    not_for_us = without_key(for_us, MODERN)
    halves = [for_us, not_for_us] if swapped else [not_for_us, for_us]
    for xml in halves:
        peter.client.receive(xml)
        if not together:
            await peter.idle()
    await peter.idle()
    assert peter.bodies == ["good morning", "for us"]
    assert peter.events["rejected"] == []
    assert not peter.chat._incoming._halves._waiting


async def test_neither_half_is_for_us(town: Town) -> None:
    """It is told of once, and without waiting."""
    rosa, peter = await town.party("rosa"), await town.party("peter")
    await rosa.chat.send(peter.jid, "good morning")
    await town.deliver()
    xml = without_key(await sealed(rosa, peter, body("for others"), number=1), MODERN)
    for _ in range(2):
        peter.client.receive(xml)
    await peter.idle()
    (rejected,) = peter.events["rejected"]
    assert rejected.reason is Reason.NOT_FOR_THIS_DEVICE


@pytest.fixture
async def both(town: Town) -> tuple[Party, Party, Any]:
    """Rosa, and Peter with one device of ours and one on slixmpp-omemo."""
    rosa, peter = await town.party("rosa"), await town.party("peter")
    _, theirs = await plugged(town.world, "peter", TheirPlugin)
    await theirs.get_session_manager()
    return rosa, peter, theirs


async def test_where_slixmpp_omemo_may_read_there_are_two_stanzas(
    both: tuple[Party, Party, Any],
) -> None:
    """Each has one `<encrypted/>`, and no body; the id is the same, and the envelope goes first."""
    rosa, peter, theirs = both
    rosa.client.sent.clear()
    await rosa.chat.send(peter.jid, "for both", timer=timedelta(hours=1))
    first, second = rosa.client.sent
    assert [namespaces(each) for each in (first, second)] == [[MODERN], [OLD]]
    assert first["id"] == second["id"]
    assert first["body"] == second["body"] == ""
    assert [clear_timers(each) for each in (first, second)] == [[], ["3600"]]
    carried = rosa.client.world.carry(second, rosa.client, peter.client)
    assert (await theirs.decrypt_message(carried))[0]["body"] == "for both"


async def test_where_nobody_is_led_astray_there_is_one(both: tuple[Party, Party, Any]) -> None:
    """A device that is no omemo:2 device looks at nothing but legacy OMEMO, as Conversations'."""
    rosa, peter, theirs = both
    own, _ = await (await theirs.get_session_manager()).get_own_device_information()
    listed = rosa.client.world.items[peter.jid, "urn:xmpp:omemo:2:devices"]["current"]
    (unlisted,) = [each for each in listed if each.get("id") == str(own.device_id)]
    listed.remove(unlisted)
    rosa.client.sent.clear()
    await rosa.chat.send(peter.jid, "for both", timer=timedelta(hours=1))
    (mixed,) = rosa.client.sent
    assert namespaces(mixed) == [MODERN, OLD]
    assert mixed["body"] == ""
    assert clear_timers(mixed) == ["3600"]
    peter.client.receive(rosa.client.world.carry(mixed, rosa.client, peter.client).xml)
    await peter.idle()
    (heard,) = peter.events["message"]
    assert (heard.body, heard.encrypted_with, heard.findings) == ("for both", MODERN, ())


def namespaces(stanza: Any) -> list[str]:
    """The namespaces of its `<encrypted/>` elements."""
    return [
        child.tag[1:].partition("}")[0] for child in stanza.xml if child.tag.endswith("}encrypted")
    ]


def clear_timers(stanza: Any) -> list[str | None]:
    """The timers that stand on it in clear."""
    return [each.get("timer") for each in stanza.xml.iter(f"{{{ephemeral.NAMESPACE}}}ephemeral")]
