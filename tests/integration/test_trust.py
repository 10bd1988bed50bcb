"""Who is trusted, who decides on it, and what that does, on a real server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eph_e2ee import EphemeralError, Reason, Trust, TrustUndecided
from tests.support.chats import bodies, fence
from tests.support.client import SECONDS, Happenings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eph_e2ee import Device, NewDevice
    from tests.integration import devices
    from tests.support.wire import Wire


class Decider:
    """Somebody who decides on devices, in their own time."""

    def __init__(self) -> None:
        self.asked: list[list[Device]] = []
        self.asking = asyncio.Event()
        self.answers = asyncio.Event()
        self.party: devices.Device
        self.level: Trust | None = Trust.TRUSTED

    async def __call__(self, undecided: Sequence[Device]) -> None:
        self.asked.append(list(undecided))
        self.asking.set()
        await self.answers.wait()
        for device in undecided if self.level else ():
            await self.party.chat.trust(device.jid, device.device, self.level or "")


async def trusts(party: devices.Device, other: devices.Device, level: str = "trusted") -> None:
    await party.chat.devices(other.jid)
    await party.chat.trust(other.jid, other.chat._account.device, level)


async def own(device: devices.Device) -> Device:
    """What a device shows of itself."""
    (here,) = [each for each in await device.chat.devices(device.jid) if each.here]
    return here


def heard(party: devices.Device) -> list[str | None]:
    return bodies(party.messages.all)


async def test_a_verified_contact_gets_a_new_device(device: devices.NewDevice) -> None:
    """Blind trust ends with the first verification: from then on people are asked."""
    decider = Decider()
    rosa = device("rosa", decide=decider)
    phone = device("peter")
    decider.party = rosa
    await rosa.arrive()
    await phone.arrive()
    await rosa.chat.send(phone.jid, "blindly")
    assert (await phone.hear()).body == "blindly"
    (known,) = await rosa.chat.devices(phone.jid)
    assert known.trust is Trust.BLINDLY_TRUSTED
    assert known.fingerprint == (await own(phone)).fingerprint
    await trusts(rosa, phone)

    with Happenings(rosa.client, "ephemeral_new_device") as appeared:
        tablet = device(phone)
        await tablet.arrive()
        shown = await own(tablet)
        told: NewDevice = await appeared.next()
        assert (told.jid, told.device) == (shown.jid, shown.device)
        # Of the two lists the legacy one may come first, and that is before its keys are known.
        assert told.fingerprint in (None, shown.fingerprint)
    decider.answers.set()
    await rosa.chat.send(phone.jid, "verified")
    assert [each.fingerprint for (each,) in decider.asked] == [shown.fingerprint]
    assert (await phone.hear()).body == "verified"
    assert (await tablet.hear()).body == "verified"
    assert appeared.all == [told]

    # After a restart too, nothing is told or asked again.
    await rosa.leave()
    rosa.attach()
    with Happenings(rosa.client, "ephemeral_new_device") as appeared:
        await rosa.arrive()
        await rosa.chat.send(phone.jid, "as before")
        assert (await tablet.hear()).body == "as before"
    assert appeared.all == []
    assert len(decider.asked) == 1
    levels = {each.trust for each in await rosa.chat.devices(phone.jid)}
    assert levels == {Trust.TRUSTED}


async def test_a_decision_takes_its_time_and_nobody_else_waits(device: devices.NewDevice) -> None:
    """Trust by hand: other messages go and come meanwhile, and two share one question."""
    decider = Decider()
    rosa = device("rosa", trust="manual", decide=decider)
    peter, anna = device("peter"), device("anna")
    decider.party = rosa
    for each in (rosa, peter, anna):
        await each.arrive()
    await trusts(rosa, anna)
    sending = [
        asyncio.create_task(rosa.chat.send(peter.jid, text)) for text in ("first", "second", "none")
    ]
    await asyncio.wait_for(decider.asking.wait(), SECONDS)
    sending[2].cancel()

    await rosa.chat.send(anna.jid, "meanwhile")
    message = await anna.hear()
    assert message.body == "meanwhile"
    await message.reply("meanwhile too")
    reply = await rosa.hear()
    assert (reply.body, reply.trust) == ("meanwhile too", Trust.TRUSTED)
    await peter.chat.send(rosa.jid, "who is there?")
    question = await rosa.hear()
    assert (question.body, question.trust) == ("who is there?", Trust.UNDECIDED)
    await question.mark_read()

    assert not any(task.done() for task in sending[:2])
    assert peter.messages.all == []
    decider.answers.set()
    await asyncio.gather(*sending[:2])
    assert sending[2].cancelled()
    assert {(await peter.hear()).body for _ in range(2)} == {"first", "second"}
    assert [[each.jid for each in asked] for asked in decider.asked] == [[peter.jid]]
    assert await fence(rosa, peter) == []


async def test_the_end_of_a_chat_ends_a_decision(device: devices.NewDevice) -> None:
    """STYLE 13: and what waited for it was not sent."""
    decider = Decider()
    rosa, peter = device("rosa", trust="manual", decide=decider), device("peter")
    await rosa.arrive()
    await peter.arrive()
    sending = asyncio.create_task(rosa.chat.send(peter.jid, "never"))
    await asyncio.wait_for(decider.asking.wait(), SECONDS)
    await rosa.leave()
    with pytest.raises(EphemeralError):
        await sending
    assert peter.messages.all == []


async def test_who_decides_nothing_sends_nothing(device: devices.NewDevice) -> None:
    """F39: not even in clear, and it is asked again for the next message."""
    decider = Decider()
    decider.level = None
    decider.answers.set()
    rosa, peter = device("rosa", trust="manual", decide=decider), device("peter")
    await rosa.arrive()
    await peter.arrive()
    for count in (1, 2):
        with pytest.raises(TrustUndecided):
            await rosa.chat.send(peter.jid, "text")
        assert len(decider.asked) == count
    assert await rosa.chat.history(peter.jid) == []


def keyed(wire: Wire, device: int) -> bool:
    """Whether a client has sent a key for a device."""
    return any(
        f"rid={quote}{device}{quote}".encode() in wire.from_clients.record for quote in "'\""
    )


async def test_a_distrusted_device_gets_no_key(device: devices.NewDevice, wire: Wire) -> None:
    """Neither of a message nor of an answer; what it writes is marked, and changes no timer."""
    rosa = device("rosa", address=wire.address)
    phone = device("peter")
    tablet = device(phone)
    for each in (rosa, phone, tablet):
        await each.arrive()
    await trusts(rosa, phone)
    await trusts(rosa, tablet, "distrusted")
    await rosa.chat.send(phone.jid, "for the phone")
    assert (await phone.hear()).body == "for the phone"
    await tablet.chat.send(rosa.jid, "from the tablet")
    message = await rosa.hear()
    assert (message.body, message.trust) == ("from the tablet", Trust.DISTRUSTED)
    await message.reply("for the phone again")
    await rosa.ping()
    assert keyed(wire, phone.chat._account.device)
    assert not keyed(wire, tablet.chat._account.device)
    assert "for the phone again" in [(await phone.hear()).body for _ in range(2)]
    assert heard(tablet) == []


async def test_what_is_withheld_comes_after_the_decision(device: devices.NewDevice) -> None:
    """In its order, over a restart, and without its timer changing anything before."""
    rosa = device("rosa", trust="manual", untrusted="withhold")
    peter = device("peter")
    await rosa.arrive()
    await peter.arrive()
    for text in ("first", "second"):
        await peter.chat.send(rosa.jid, text)
        assert (await rosa.rejected.next()).reason is Reason.UNDECIDED
    assert await rosa.history(peter) == []
    await rosa.restart()
    await trusts(rosa, peter)
    assert [(await rosa.hear()).body for _ in range(2)] == ["first", "second"]
    await trusts(rosa, peter, "distrusted")
    await peter.chat.send(rosa.jid, "third")
    assert (await rosa.rejected.next()).reason is Reason.DISTRUSTED
    assert bodies(await rosa.history(peter)) == ["first", "second"]


async def test_our_own_other_devices_are_decided_on_as_any(device: devices.NewDevice) -> None:
    """Whoever takes over the account's server adds devices; this one gets nothing by itself."""
    decider = Decider()
    decider.answers.set()
    rosa = device("rosa", trust="manual", decide=decider)
    laptop = device(rosa)
    peter = device("peter")
    decider.party = rosa
    for each in (rosa, laptop, peter):
        await each.arrive()
    with Happenings(rosa.client, "ephemeral_new_device") as appeared:
        await rosa.chat.send(peter.jid, "to both")
        (asked,) = decider.asked
        assert {(each.jid, each.own) for each in asked} == {(rosa.jid, True), (peter.jid, False)}
        assert (await laptop.hear()).body == "to both"
        tablet = device(rosa)
        await tablet.arrive()
        told: NewDevice = await appeared.next()
        assert (told.jid, told.device) == (rosa.jid, tablet.chat._account.device)
