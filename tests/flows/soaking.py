"""The soak: five devices of three accounts, anything in any order, and what must hold throughout.

The same seed gives the same actions as far as threads and key exchanges allow; the last of them
come with every failure.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Final

from eph_e2ee import AGREED
from eph_e2ee.model import Direction, Phase
from tests.flows.soaking_devices import Broken, Ours, Plain
from tests.flows.soaking_ledger import Reading, Said
from tests.flows.soaking_scene import ACCOUNTS, CAROL, SKEW, Scene
from tests.support.clock import START

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["HOUR", "Soak"]

HOUR: Final = 3600.0

TIMERS: Final = (15, 60, 300, 1200, 172_800)
"""Some that end while others are away, and one that nobody sees the end of."""

SHORT: Final = 1200
"""The longest one that ends here."""

MOMENT: Final = 0.01
"""Seconds between two messages: nobody can tell the order of those that are sent at once."""


class Soak(Scene):
    """An hour of actions, and what must hold in it."""

    # -- running -------------------------------------------------------------------------------

    async def run(self, actions: int) -> None:
        """Begin, do so many things in an hour, and see how it ends."""
        try:
            await self._begin()
            for number in range(1, actions + 1):
                await self._act(self.random.choices(*self._choices(HOUR / actions))[0])
                if number % 3 == 0:
                    await self._look(everywhere=number % 30 == 0)
                if number % 100 == 0:
                    await self.gather()
            await self._pass(max(0.0, START + HOUR - self.now))
            await self._end()
        except BaseException as failure:
            self._explain(failure)
            raise
        finally:
            await self.close()

    async def _begin(self) -> None:
        """Everybody knows of all devices before the first message, and has sessions with them.

        One after the other: two that begin at once may take the same of a device's pre keys, of
        which only one then opens. That is OMEMO's, and one in a hundred.
        """
        for device in self.devices:
            await device.arrive()
        await self.settle()
        for device in self.devices:
            for peer in self._peers(device):
                await self._send(device, peer)
                await self.settle()
        if not self.carbons:
            self.server.carbons = False
            for one in self.ours:
                await one.leave()
                await one.arrive()
            await self.settle()

    def _choices(self, step: float) -> tuple[list[Callable[[], Awaitable[None]]], list[int]]:
        table: dict[Callable[[], Awaitable[None]], int] = {
            self._say: 30,
            self._say_under_a_timer: 5,
            self._say_for_good: 3,
            self._set: 7,
            self._set_at_once: 2,
            self._read: 16,
            self._erase: 2,
            self._go: 3,
            self._crash: 3,
            self._return: 8,
            self._hold_up: 5,
            self._let_go: 7,
            self._lose: 2,
            self._repeat: 4,
            lambda: self._pass(self.random.uniform(0, 2 * step / 0.15)): 15,
            self.settle: 5,
        }
        return list(table), list(table.values())

    async def _act(self, action: Callable[[], Awaitable[None]]) -> None:
        self.count += 1
        await action()
        if self.random.random() < 0.6:
            await self.settle()
        else:  # in the middle of whatever it has begun
            for _ in range(self.random.randint(0, 40)):
                await asyncio.sleep(0)

    # -- actions -------------------------------------------------------------------------------

    async def _say(self) -> None:
        device = self._somebody()
        if device is not None:
            await self._send(device, self.random.choice(self._peers(device)))

    async def _say_under_a_timer(self) -> None:
        device = self._somebody()
        if isinstance(device, Ours):
            peer, timer = self.random.choice(self._peers(device)), self.random.choice(TIMERS)
            self.ledger.values.add(timer)
            await self._send(device, peer, timedelta(seconds=timer))

    async def _say_for_good(self) -> None:
        device = self._somebody()
        if isinstance(device, Ours):
            await self._send(device, self.random.choice(self._peers(device)), None)

    async def _send(
        self,
        device: Ours | Plain,
        peer: str,
        timer: timedelta | object | None = AGREED,
    ) -> None:
        await self._pass(MOMENT)
        text = f"message {len(self.ledger.said) + 1}"
        own: int | None
        if isinstance(device, Plain):
            own, message_id = await device.send(peer, text)
        else:
            sent = await device.chat.send(peer, text, timer=timer)  # type: ignore[arg-type]
            own = None if sent.timer is None else int(sent.timer.total_seconds())
            message_id = str(sent.message_id)
        self._note(f"{device.name} sends {text} to {peer} under {own}")
        parties = frozenset({device.account, peer})
        stamp = device.now()
        said = Said(device.account, parties, own, stamp, self.now, message_id)
        self.ledger.said[text] = said

    async def _set(self) -> None:
        device = self._somebody()
        if device is not None:
            await self._change(device, self.random.choice(self._peers(device)))

    async def _set_at_once(self) -> None:
        """Both sides of a conversation change its timer before either has heard of it (F23)."""
        pair = self.random.sample(self.ours, 2)
        if pair[0].account == pair[1].account or not all(
            each.online and not self.server.streams[each.client].dead for each in pair
        ):
            return
        await asyncio.gather(
            self._change(pair[0], pair[1].account), self._change(pair[1], pair[0].account)
        )

    async def _change(self, device: Ours | Plain, peer: str) -> None:
        timer = self.random.choice((None, *TIMERS))
        self.ledger.values.add(timer)
        self._note(f"{device.name} sets {timer} with {peer}")
        if isinstance(device, Plain):
            await device.set_timer(peer, timer)
        else:
            await device.chat.set_timer(peer, None if timer is None else timedelta(seconds=timer))

    async def _read(self) -> None:
        device = self._somebody()
        if not isinstance(device, Ours):
            return
        peer = self.random.choice(self._peers(device))
        unread = [
            each
            for each in await device.history(peer)
            if each.phase is Phase.UNREAD and each.direction is Direction.INCOMING
        ]
        for message in self.random.sample(unread, min(len(unread), self.random.randint(1, 3))):
            text = device.texts.setdefault(message.number, message.body or "")
            self._note(f"{device.name} reads {text}")
            reading = Reading(text, device.account, device.now(), self.now)
            self.ledger.readings.append(reading)
            await message.mark_read()

    async def _erase(self) -> None:
        device = self._somebody()
        if not isinstance(device, Ours):
            return
        history = await device.history(self.random.choice(self._peers(device)))
        living = [each for each in history if each.body is not None]
        if living:
            message = self.random.choice(living)
            self._note(f"{device.name} erases {message.body}")
            device.erased.add(message.body or "")
            await message.erase()

    async def _go(self) -> None:
        await self._leave(crash=False)

    async def _crash(self) -> None:
        await self._leave(crash=True)

    async def _leave(self, *, crash: bool) -> None:
        online = [each for each in self.devices if each.online]
        if online:
            device = self.random.choice(online)
            self._note(f"{device.name} {'crashes' if crash else 'goes offline'}")
            await device.leave(crash=crash)
            self.stuck.discard(device.name)

    async def _return(self) -> None:
        away = [each for each in self.devices if not each.online]
        if away:
            device = self.random.choice(away)
            catch_up = not self.gaps or self.random.random() < 0.7
            self._note(f"{device.name} returns{'' if catch_up else ', without the archive'}")
            await device.arrive(catch_up=catch_up)

    async def _hold_up(self) -> None:
        """A stream stands still, in one of its directions."""
        device = self._somebody()
        if device is not None and self.random.random() < 0.6:
            self._note(f"what is for {device.name} is late")
            self.server.streams[device.client].late = True
        elif device is not None:
            self._note(f"what {device.name} sends is late")
            self.stuck.add(device.name)

    async def _let_go(self) -> None:
        """A stream moves again, perhaps only a little."""
        late = [each for each in self.server.streams.values() if each.late]
        if late and self.random.random() < 0.7:
            stream = self.random.choice(late)
            count = self.random.choice((None, 1, 2, 3))
            self._note(f"{count or 'everything'} arrives at {stream.client.boundjid.resource}")
            stream.late = False
            stream.move(count)
            stream.late = count is not None
        elif self.stuck:
            self.stuck.discard(self.random.choice(sorted(self.stuck)))

    async def _lose(self) -> None:
        """A stream dies: its end is lost, and the archive has it. Carol's stays: she has none."""
        device = self._somebody()
        if isinstance(device, Ours):
            self._note(f"the stream to {device.name} is dead")
            self.server.streams[device.client].die()

    async def _repeat(self) -> None:
        device = self._somebody()
        if device is not None:
            self._note(f"the last stanzas come to {device.name} again")
            self.server.streams[device.client].repeat(self.random.randint(1, 8))

    # -- what must hold ------------------------------------------------------------------------

    async def _look(self, *, everywhere: bool) -> None:
        """Look at what one device shows, or all of them."""
        online = [each for each in self.ours if each.online]
        for device in online if everywhere else self.random.sample(online, min(1, len(online))):
            await self.ledger.check(device, self._peers(device))
        self.ledger.check_plain(self.carol)
        broken = [f"{each.name}: {what}" for each in self.devices for what in each.broken]
        broken += [f"key {key} was used twice (F43)" for key in self.server.reused]
        if broken:
            raise Broken("; ".join(broken))

    async def gather(self) -> None:
        """Let everybody hear of everything, and hold the devices of each account together."""
        self._note("everybody gathers")
        self.stuck.clear()
        for stream in self.server.streams.values():
            stream.late = False
        await self.settle()
        for device in self.devices:
            if device.online and self._has_missed(device):
                await device.leave()
        for device in self.devices:
            if not device.online:
                await device.arrive()
                await self.settle()
        await self._look(everywhere=True)
        await self._compare(spread=3 * SKEW)

    def _has_missed(self, device: Ours | Plain) -> bool:
        """Tell whether only the archive has all that was for a device."""
        if isinstance(device, Plain):
            return False
        dead = self.server.streams[device.client].dead
        return dead or not device.caught_up or not self.server.carbons

    async def _compare(self, spread: float) -> None:
        for one, other in zip(self.ours[::2], self.ours[1::2], strict=True):
            await self.ledger.compare(one, other, self._peers(one), spread)

    async def _end(self) -> None:
        """All come to one timer, and the devices of an account to the same living messages."""
        await self.gather()
        for parties in combinations(ACCOUNTS, 2):
            await self._agree(parties)
        await self.gather()
        await self._pass(SHORT + 3 * SKEW)
        await self.settle()
        await self._look(everywhere=True)
        await self._compare(spread=0)

    async def _agree(self, parties: tuple[str, str]) -> None:
        """Whoever holds the greatest tag sends one message; then it is everybody's."""
        one, other = parties
        sides = [(each, other if each.account == one else one) for each in self.ours]
        sides = [(each, peer) for each, peer in sides if each.account in parties]
        tags = [(await each.tag(peer), each, peer) for each, peer in sides]
        known = [(tag, each, peer) for tag, each, peer in tags if tag is not None]
        if not known:
            return
        tag, holder, peer = max(
            known, key=lambda each: (each[0].rank, each[0].author == each[1].account)
        )
        await self._send(holder, peer)
        carried = tag.timer is not None or await holder.opts_out(peer)
        await (self.settle() if self.server.carbons else self.gather())
        held = {each.name: await each.tag(peer) for each, peer in sides}
        if set(held.values()) != {tag}:
            raise Broken(f"no agreement between {one} and {other}: {held}")
        if CAROL in parties and carried:
            value = self.carol.values.get(holder.account)
            if value != tag.timer:
                raise Broken(f"{CAROL} is at {value} with {holder.account}, not {tag}")
