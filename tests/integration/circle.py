"""Alice with two devices, Bob with two, and Carol, whose client knows XEP-0466 alone.

A circle keeps a ledger of what was said, and of which devices it can have reached: by the stream,
by carbons, by the archive, by the server's offline storage. By that it knows which messages each
device must show at any time, with which timer and which end; no more and no fewer.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, Final

from tests.integration.members import Device, Plain, Said, Tagged, Ways
from tests.support.chats import NOW, Party
from tests.support.client import PLUGINS, SECONDS
from tests.support.interference import Interference
from tests.support.plain_client import PlainClient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tests.integration.members import Standing
    from tests.support.prosody import Prosody

__all__ = ["HOUR", "Circle"]

HOUR: Final = 3600

_circles = itertools.count(1)


class Circle:
    """The five devices, and the ledger of what they have said.

    Args:
        prosody: the server.
        folder: of the vaults.
        ways: what reaches whom.

    Attributes:
        ledger: all that was said.
        apart: the timer of Bob and Carol, in whose conversation nobody changes anything.
    """

    def __init__(self, prosody: Prosody, folder: Path, ways: Ways) -> None:
        self.prosody = prosody
        self.ways = ways
        self.ledger: list[Said] = []
        self._numbers = itertools.count(1)
        self.apart = self.fresh()
        self._waiting: dict[str, list[Said]] = {}
        options: dict[str, Any] = {"carbons": ways.carbons, "catch_up": ways.archive}
        plugins = (*PLUGINS, "xep_0313")
        self.devices: dict[str, Device] = {}
        unique = next(_circles)
        for owner in ("alice", "bob"):
            account = prosody.register(f"{owner}-of-{unique}")
            for place in ("phone", "desk"):
                name = f"{owner}'s {place}"
                party = Party(
                    account, folder / f"{name}.vault", prosody.address, plugins=plugins, **options
                )
                self.devices[name] = Tagged(name, party, archive=ways.archive)
        carol = PlainClient(prosody.register(f"carol-of-{unique}"), prosody.address, now=NOW)
        self.carol = Plain("carol", carol)
        self.devices["carol"] = self.carol

    # -- who there is --------------------------------------------------------------------------

    def of(self, jid: str) -> list[Device]:
        """All devices of an account."""
        return [device for device in self.devices.values() if device.jid == jid]

    @property
    def jids(self) -> set[str]:
        """The three accounts."""
        return {device.jid for device in self.devices.values()}

    def tagged(self, name: str) -> Tagged:
        """One of Alice's or Bob's, by its name."""
        device = self.devices[name]
        assert isinstance(device, Tagged)
        return device

    def staying(self, owner: str) -> Tagged:
        """The device of Alice's or Bob's that does not leave."""
        names = {f"{owner}'s phone", f"{owner}'s desk"} - set(self.ways.absent)
        return self.tagged(names.pop())

    @property
    def alice(self) -> Tagged:
        """The one of Alice's that stays."""
        return self.staying("alice")

    @property
    def bob(self) -> Tagged:
        """The one of Bob's that stays."""
        return self.staying("bob")

    @property
    def absent(self) -> list[Tagged]:
        """Those that leave, in the order in which they leave and return."""
        return [self.tagged(name) for name in self.ways.absent]

    def fresh(self) -> int:
        """A timer that nobody has had yet: between one hour and two."""
        return HOUR + next(self._numbers)

    # -- what they do --------------------------------------------------------------------------

    async def arrive(self, *devices: Device) -> None:
        """Have devices begin a session, one after the other; what has ended is not shown."""
        for device in devices:
            heard = len(device.heard)
            await device.begin()
            await self._arrived(device, heard)

    async def arrive_speaking(self, device: Device, to: Device) -> Said:
        """Have a device say something before it has got anything, unless its archive is quicker."""
        heard = len(device.heard)
        await device.begin()
        said = await self.say(device, to)
        await self._arrived(device, heard)
        return said

    async def leave(self, *devices: Device) -> None:
        """Have devices end their session, one after the other, once they know what there is."""
        await self.settle()
        for device in devices:
            device.online = False
            await device.leave()

    def hold(self, *ways: tuple[Device, Device]) -> None:
        """Keep what one account sends to another on the way, until `release`."""
        self.prosody.interfere(
            *(Interference(sender=one.jid, recipient=other.jid, hold=True) for one, other in ways)
        )

    async def release(self) -> None:
        """Let it go on."""
        await self.settle()
        self.prosody.interfere()
        assert self.prosody.release(backwards=self.ways.backwards) > 0
        await self.settle()

    async def replay_the_archive(self) -> None:
        """Have devices get all of the archive again, as results that nobody has waited for.

        Only those for which it is nothing new: it is not what `attach` does with an archive.
        """
        replaying = [self.alice, self.bob, *(self.absent if self.ways.archive else ())]
        for device in replaying:
            await device.ask_the_archive()
            self._has_read_the_archive(device)
        await self.settle()

    async def gather(self) -> None:
        """Have everybody online, and nothing on the way."""
        self.prosody.interfere()
        self.prosody.discard()
        await self.arrive(*(device for device in self.devices.values() if not device.online))

    async def meet(self) -> None:
        """Have everybody online for the first time, and Bob and Carol on a timer of their own."""
        await self.gather()
        await self.bob.set_timer(self.carol.jid, self.apart)
        for sender, to in ((self.bob, self.carol), (self.carol, self.bob)):
            await self.say(sender, to)
            await self.settle()

    async def end(self) -> None:
        """Have everybody leave."""
        for device in self.devices.values():
            await device.leave()

    async def say(
        self, sender: Device, to: Device, how: Callable[..., Coroutine[Any, Any, Any]] | None = None
    ) -> Said:
        """Have a device send a message to an account; `how`, if not in the ordinary way."""
        said = Said("", frozenset({sender.jid, to.jid}), None, self._reached(sender, to))
        if not any(device.online for device in self.of(to.jid)):
            self._waiting.setdefault(to.jid, []).append(said)
        said.message_id, said.timer = await (how or sender.send)(to.jid, "anything")
        if said.timer is not None:
            said.ends = dict.fromkeys(self.of(sender.jid), math.ceil(sender.now()) + said.timer)
        self.ledger.append(said)
        return said

    async def read(self, device: Device, *messages: Said) -> None:
        """Have somebody read messages on a device, in one conversation.

        The account's other devices that can hear of it do.
        """
        (peer,) = messages[0].between - {device.jid}
        await self.until(functools.partial(self._differs, device, peer))
        await device.mark_read(peer, {said.message_id for said in messages})
        for said in messages:
            if said.timer is not None:
                end = math.ceil(device.now()) + said.timer
                for other in self.of(device.jid):
                    if other.online:
                        said.ends.setdefault(other, end)

    async def read_all(self) -> None:
        """Have everybody read everything, on any device that has it."""
        for device in self.devices.values():
            for jid in self.jids - {device.jid} if device.online else ():
                unread = [
                    said
                    for said in self.ledger
                    if said.between == {device.jid, jid}
                    and device in said.holders - said.ends.keys()
                    and said.timer is not None
                ]
                if unread:
                    await self.read(device, *unread)

    async def passes(self, seconds: float) -> None:
        """Let time pass, for those who are away as well."""
        for device in self.devices.values():
            await device.passes(seconds)

    async def base(self) -> tuple[int, int]:
        """Have everybody online, and on new timers of Alice's with Bob and with Carol."""
        await self.gather()
        with_bob, with_carol = self.fresh(), self.fresh()
        alice, bob = self.alice, self.bob
        await alice.set_timer(bob.jid, with_bob)
        await alice.set_timer(self.carol.jid, with_carol)
        await self.ring()
        await self.agree(alice, bob, {with_bob})
        await self.agree(alice, self.carol, {with_carol})
        return with_bob, with_carol

    async def ring(self) -> None:
        """Have a message go from Alice to Bob and to Carol, and one back from each.

        From the devices that have stayed: another one that nobody has told anything yet says what
        it knows, and all that a client without tags can do is to believe it.
        """
        for other in (self.bob, self.carol):
            await self.say(self.alice, other)
            await self.settle()
            await self.say(other, self.alice)
        await self.settle()

    # -- what is to be true --------------------------------------------------------------------

    async def end_on(self, with_bob: set[int | None], with_carol: set[int | None]) -> None:
        """Everybody is on one timer and shows the same living messages, and none that has ended.

        Where carbons and the archive tell, the devices of Alice and Bob agree already. Without one
        of them a device may not have heard yet: all have once a message has gone each way.
        """
        for device in self.devices.values():
            assert device.online
        if self.ways.archive and self.ways.carbons:
            await self.agree(self.alice, self.bob, with_bob)
        await self.ring()
        await self.agree(self.alice, self.bob, with_bob)
        await self.agree(self.alice, self.carol, with_carol)
        await self.agree(self.bob, self.carol, {self.apart})
        if self.ways.archive:
            behind = [device for device in self.devices.values() if self._is_behind(device)]
            await self.leave(*behind)
            await self.arrive(*behind)
            assert not any(self._is_behind(device) for device in self.devices.values())
        await self.show_what_lives()
        await self.read_all()
        await self.show_what_lives()
        await self.passes(2 * HOUR)
        await self.show_what_lives()
        assert all(said.timer is None for said in self.ledger if not self._has_ended(said))
        for device in self.devices.values():
            assert (device, device.complaints()) == (device, [])

    async def agree(self, one: Device, other: Device, allowed: set[Any]) -> None:
        """All devices of two accounts come to be on one timer with each other, one of these."""
        ends = [(device, other.jid) for device in self.of(one.jid)]
        ends += [(device, one.jid) for device in self.of(other.jid)]

        async def differ() -> object:
            timers = {device.name: await device.timer(jid) for device, jid in ends}
            agreed = set(timers.values())
            return None if len(agreed) == 1 and agreed <= allowed else (timers, allowed)

        await self.until(differ)
        await self.settle()
        assert await differ() is None

    async def show_what_lives(self) -> None:
        """Each device shows what it must show by the ledger, and nothing else."""
        await self.settle()
        for device in self.devices.values():
            for jid in self.jids - {device.jid} if device.online else ():
                await self.until(functools.partial(self._differs, device, jid))

    async def until(self, differ: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Wait until nothing differs, as long as the server answers.

        Raises:
            AssertionError: it does; with what differs.
        """
        end = asyncio.get_running_loop().time() + SECONDS
        while (found := await differ()) is not None:
            assert asyncio.get_running_loop().time() < end, found
            await self.settle()

    async def settle(self) -> None:
        """Return once what is on the way has arrived and is dealt with."""
        online = [device for device in self.devices.values() if device.online]
        for _ in range(2):  # what was sent is at the server; what the server had is here
            await asyncio.gather(*(device.ping() for device in online))
        while not all(device.is_idle for device in online):
            await online[0].ping()

    async def _arrived(self, device: Device, heard: int) -> None:
        alone = not any(other.online for other in self.of(device.jid))
        await device.become_available()
        device.online = True
        if alone:
            for said in self._waiting.pop(device.jid, []):
                said.holders.add(device)
        if self.ways.archive and device is not self.carol:
            self._has_read_the_archive(device)
        await self.settle()
        shown = {str(message.message_id) for message in device.heard[heard:]}
        assert self._ended(device).isdisjoint(shown)

    def _has_read_the_archive(self, device: Device) -> None:
        """Note that a device has got all that its account's archive holds."""
        for said in self.ledger:
            if device.jid in said.between:
                said.holders.add(device)
                ends = [said.ends[each] for each in self.of(device.jid) if each in said.ends]
                if ends:
                    said.ends[device] = min(ends)

    def _reached(self, sender: Device, to: Device) -> set[Device]:
        reached = {device for device in self.of(to.jid) if device.online}
        if self.ways.carbons:
            reached |= {device for device in self.of(sender.jid) if device.online}
        return reached | {sender}

    async def _differs(self, device: Device, peer: str) -> object:
        shown, expected = await device.standing(peer), self._expected(device, peer)
        if shown == expected:
            return None
        return device, peer, shown.items() - expected.items(), expected.items() - shown.items()

    def _expected(self, device: Device, peer: str) -> Standing:
        return {
            said.message_id: (said.timer, said.ends.get(device))
            for said in self.ledger
            if device in said.holders
            and said.between == {device.jid, peer}
            and said.ends.get(device, math.inf) > device.now()
        }

    def _ended(self, device: Device) -> set[str]:
        return {
            said.message_id
            for said in self.ledger
            if said.ends.get(device, math.inf) <= device.now()
        }

    def _has_ended(self, said: Said) -> bool:
        return all(said.ends.get(each, math.inf) <= each.now() for each in said.holders)

    def _is_behind(self, device: Device) -> bool:
        return any(
            device.jid in said.between and device not in said.holders for said in self.ledger
        )
