"""What is known of the soak by looking at everything from above, and what must hold by it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eph_e2ee.model import Direction, Phase
from tests.flows.soaking_devices import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eph_e2ee import Message
    from tests.flows.soaking_devices import Ours, Plain

__all__ = ["Ledger", "Said"]

MILLISECONDS: Final = 1
"""Seconds that times may differ by, since they travel in milliseconds and are rounded up later."""


@dataclass(frozen=True)
class Said:
    """A message as it was sent.

    Attributes:
        account: who sent it.
        parties: the accounts of its conversation.
        timer: its own.
        stamp: when, by its sender's clock.
        at: when, by a clock that is right.
        message_id: its sender's id of it.
    """

    account: str
    parties: frozenset[str]
    timer: int | None
    stamp: float
    at: float
    message_id: str


@dataclass(frozen=True)
class Reading:
    """A message that somebody has read.

    Attributes:
        text: which one.
        account: whose device it was.
        stamp: when, by its clock.
        at: when, by a clock that is right.
    """

    text: str
    account: str
    stamp: float
    at: float


class Ledger:
    """Every message, every reading, and the order in which the server got the messages."""

    def __init__(self) -> None:
        self.said: dict[str, Said] = {}
        self.readings: list[Reading] = []
        self.order: dict[str, int] = {}
        self.values: set[int | None] = {None}

    def arrived(self, message_id: str) -> None:
        """A message has reached the server."""
        self.order.setdefault(message_id, len(self.order))

    # -- at any time ---------------------------------------------------------------------------

    async def check(self, device: Ours, peers: list[str]) -> None:
        """Look at everything that a device shows."""
        for peer in peers:
            living: set[str] = set()
            for message in await device.history(peer):
                self._check_message(device, peer, message)
                text = message.body
                if text is not None:
                    _must(text not in living, f"{device.name} shows {text} twice (F36)")
                    living.add(text)
            for message in await device.chat.search(peer, "message", limit=9999):
                self._check_message(device, peer, message)
            await self._check_setting(device, peer)

    def _check_message(self, device: Ours, peer: str, message: Message) -> None:
        number, text, now = message.number, message.body, device.clock.now()
        what = f"{text or device.texts.get(number)} on {device.name}"
        if text is not None:
            due = message.deadline is not None and message.deadline <= now
            _must(not due, f"{what} is shown after its deadline")
            _must(number not in device.gone, f"{what} has come back (F36)")
            _must(text in self.said, f"{what} was never sent")
            device.texts[number] = text
        else:
            device.gone.add(number)
        said = self.said.get(device.texts.get(number, ""))
        if said is None:
            return  # its text was never seen here: it had ended before
        timer = None if message.timer is None else int(message.timer.total_seconds())
        _must(timer == said.timer, f"{what} has {timer} for its own timer, not {said.timer}")
        _must(said.parties == {device.account, peer}, f"{what} is in the wrong conversation")
        outgoing = message.direction is Direction.OUTGOING
        _must(outgoing == (said.account == device.account), f"{what} went the other way")
        if text is not None and message.phase is Phase.RUNNING:
            self._check_start(device, said, message, what)

    def _check_start(self, device: Ours, said: Said, message: Message, what: str) -> None:
        """A timer that runs has been started by somebody, and not before (F17, F18)."""
        if said.timer is None or message.deadline is None:
            raise Broken(f"{what} runs without a timer or a deadline")
        started = message.deadline - said.timer
        starts = list(self._starts(device, said))
        earliest = min((min(stamp, at + device.skew) for stamp, at in starts), default=math.inf)
        _must(
            started >= earliest - MILLISECONDS,
            f"{what} runs since {started}, before anybody has seen it at {earliest}",
        )

    def _starts(self, device: Ours, said: Said) -> Iterator[tuple[float, float]]:
        """When a timer may have been started on one of an account's devices.

        A message that is sent, then. One that is read, when it was, or a later one: how far a
        conversation was read is all that XEP-0490 tells.
        """
        if said.account == device.account:
            yield said.stamp, said.at
            return
        for reading in self._readings_from(device.account, said):
            yield reading.stamp, reading.at

    def _readings_from(self, account: str, said: Said) -> Iterator[Reading]:
        """What an account has read of a conversation, from a message on."""
        place = self.order[said.message_id]
        for reading in self.readings:
            read = self.said[reading.text]
            later = self.order[read.message_id] >= place
            if later and reading.account == account and read.parties == said.parties:
                yield reading

    async def _check_setting(self, device: Ours, peer: str) -> None:
        tag, before = await device.tag(peer), device.tags.get(peer)
        if tag is None:
            _must(before is None, f"{device.name} has lost its setting with {peer}")
            return
        _must(tag.timer in self.values, f"{tag.timer} is a timer that nobody has set")
        _must(
            before is None or before.rank <= tag.rank,
            f"{device.name} has gone back from {before} to {tag} with {peer} (F22, F25)",
        )
        device.tags[peer] = tag

    def check_plain(self, device: Plain) -> None:
        """Look at the timers under which another client has got its messages."""
        for text, timer in device.got.items():
            said = self.said[text]
            _must(timer == said.timer, f"{text} has {timer} on {device.name}, not {said.timer}")

    # -- when everybody has heard of everything ------------------------------------------------

    async def compare(self, one: Ours, other: Ours, peers: list[str], spread: float) -> None:
        """Hold two devices of an account against each other.

        Args:
            one: a device.
            other: another one.
            peers: the account's conversations.
            spread: seconds for which a message may already have ended on one of them alone, by its
                clock.
        """
        ids = one.untold | other.untold
        untold = {text for text, said in self.said.items() if said.message_id in ids}
        for peer in peers:
            mine, others = await _living(one, peer), await _living(other, peer)
            apart = one.erased | other.erased | untold
            for device, here, there in ((one, mine, others), (other, others, mine)):
                for text in here.keys() - there.keys() - apart:
                    lost = other if device is one else one
                    _must(
                        self._is_ending(device, here[text], spread),
                        f"{text} lives on {device.name} alone (F27); "
                        f"{lost.name} was {'' if text in lost.told else 'not '}told of it",
                    )
            for text in (mine.keys() & others.keys()) - untold:
                self._check_deadline(one, mine[text])
                self._check_deadline(other, others[text])
                phases = {mine[text].phase, others[text].phase}
                _must(
                    len(phases) == 1,
                    f"{text} stands differently (F27): {mine[text].phase} on {one.name}, "
                    f"{others[text].phase} on {other.name}",
                )
        for device in (one, other):
            unsent = [each.body for each in await device.chat.unsent()]
            _must(unsent == [], f"{device.name} thinks that it has not sent {unsent}")

    def _is_ending(self, device: Ours, message: Message, spread: float) -> bool:
        """Tell whether it may have ended elsewhere already."""
        deadline = message.deadline
        return deadline is not None and deadline - device.clock.now() <= spread

    def _check_deadline(self, device: Ours, message: Message) -> None:
        """The earliest start that was heard of counts, never a later one."""
        said = self.said[message.body or ""]
        stamps = [
            reading.stamp
            for reading in self.readings
            if reading.account == device.account and reading.text == message.body
        ]
        if said.account == device.account:
            # A process that dies before it has noted that a message left asks the archive.
            stamps = [max(said.stamp, said.at)]
        if said.timer is None or not stamps:
            return
        latest = math.ceil(min(stamps)) + said.timer + MILLISECONDS
        what = f"{message.body} on {device.name}"
        _must(
            message.deadline is not None and message.deadline <= latest,
            f"{what} ends at {message.deadline}, after {latest} of its first reading",
        )


async def _living(device: Ours, peer: str) -> dict[str, Message]:
    return {each.body: each for each in await device.history(peer) if each.body is not None}


def _must(holds: bool, otherwise: str) -> None:  # noqa: FBT001 -- an assertion
    if not holds:
        raise Broken(otherwise)
