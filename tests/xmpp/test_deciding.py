"""Devices that people decide on: who is asked, who waits, and who does not."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.model import BareJid, DeviceId, Trust
from eph_e2ee.protocol.capability import Answer, Capability
from eph_e2ee.xmpp.deciding import Deciding
from eph_e2ee.xmpp.devices import Device
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence


def device(number: int) -> Device:
    return Device(
        jid=BareJid("peter@example.org"),
        device=DeviceId(number),
        fingerprint="",
        trust=Trust.UNDECIDED,
        label=None,
        active=True,
        own=False,
        here=False,
        capability=Capability(Answer.UNKNOWN, Answer.UNKNOWN),
    )


ONE, TWO, THREE = device(1), device(2), device(3)


class Person:
    """Somebody who is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[list[Device]] = []
        self.answers = asyncio.Event()
        self.deciding = Deciding(self.decide)

    async def decide(self, devices: Sequence[Device]) -> None:
        self.asked.append(list(devices))
        await self.answers.wait()

    def send(self, *devices: Device) -> asyncio.Task[None]:
        """Something that needs a decision on these."""
        return asyncio.ensure_future(self.deciding.ask(devices))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_goes_on_once_it_is_decided() -> None:
    person = Person()
    sending = person.send(ONE, TWO)
    await settled()
    assert person.asked == [[ONE, TWO]]
    assert not sending.done()
    person.answers.set()
    await sending


async def test_all_that_need_a_decision_share_one_call() -> None:
    person = Person()
    sending = [person.send(ONE), person.send(ONE), person.send(TWO, ONE), person.send(TWO)]
    await settled()
    assert person.asked == [[ONE], [TWO]]
    person.answers.set()
    await asyncio.gather(*sending)


async def test_what_was_left_undecided_is_asked_again_for_the_next_message() -> None:
    person = Person()
    person.answers.set()
    for _ in range(2):
        await person.send(ONE)
    assert person.asked == [[ONE], [ONE]]


async def test_nobody_is_asked_about_nothing() -> None:
    """Every device had keys that are none."""
    person = Person()
    await person.send()
    assert person.asked == []


async def test_a_message_that_is_given_up_leaves_the_others_waiting() -> None:
    person = Person()
    one, other = person.send(ONE), person.send(ONE)
    await settled()
    one.cancel()
    await settled()
    assert one.cancelled()
    assert not other.done()
    person.answers.set()
    await other
    assert len(person.asked) == 1


async def test_a_call_goes_on_when_nobody_waits_any_more() -> None:
    """Its dialog is open; the answer counts for the next message."""
    person = Person()
    sending = person.send(ONE)
    await settled()
    sending.cancel()
    await settled()
    again = person.send(ONE)
    await settled()
    assert len(person.asked) == 1
    person.answers.set()
    await again


async def test_a_callback_that_fails_decides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its class is logged, and nothing else: its text may quote a message."""

    async def decide(devices: Sequence[Device]) -> None:
        raise RuntimeError(f"sentinel {devices}")

    with caplog.at_level(logging.DEBUG):
        await Deciding(decide).ask([ONE])
    (record,) = caplog.records
    assert record.getMessage() == "deciding on devices raised RuntimeError"
    assert record.exc_info is None


@pytest.mark.parametrize("inside", [False, True])
async def test_what_the_callback_sends_does_not_wait_for_itself(inside: bool) -> None:  # noqa: FBT001 -- a case, no switch
    """It may ask somebody by a message, in a task of its own or not."""
    heard: list[list[Device]] = []

    async def decide(devices: Sequence[Device]) -> None:
        heard.append(list(devices))
        if THREE in devices:
            return
        question = deciding.ask([ONE, THREE])
        await (question if inside else asyncio.create_task(question))

    deciding = Deciding(decide)
    async with asyncio.timeout(SECONDS):
        await deciding.ask([ONE, TWO])
    assert heard == [[ONE, TWO], [THREE]]


async def test_a_task_of_a_callback_that_has_ended_asks_as_any_other() -> None:
    later = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    heard: list[list[Device]] = []

    async def afterwards() -> None:
        await later.wait()
        await deciding.ask([ONE])

    async def decide(devices: Sequence[Device]) -> None:
        heard.append(list(devices))
        if not tasks:
            tasks.append(asyncio.create_task(afterwards()))

    deciding = Deciding(decide)
    await deciding.ask([ONE])
    later.set()
    await tasks[0]
    assert heard == [[ONE], [ONE]]


async def test_the_end_ends_every_call() -> None:
    """STYLE 13: who waits goes on with devices that are as undecided as before."""
    person = Person()
    sending = [person.send(ONE), person.send(TWO)]
    await settled()
    await person.deciding.close()
    await asyncio.gather(*sending)
    await person.deciding.close()
    assert len(person.asked) == 2
    assert person.deciding._calls == {}


async def test_a_callback_may_end_everything() -> None:
    async def decide(_: Sequence[Device]) -> None:
        await deciding.close()

    deciding = Deciding(decide)
    async with asyncio.timeout(SECONDS):
        await deciding.ask([ONE])
