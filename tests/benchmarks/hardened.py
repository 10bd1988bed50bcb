"""What wiped memory costs: the same client with `python -m eph_e2ee hardened` and without.

`python -m tests.benchmarks.hardened [--quick]`. Messages wait at a real Prosody; then the client
comes, and receives, stores and marks as read as fast as it can, in a process of its own. The sides
take turns, and the numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slixmpp import JID

from tests.benchmarks.measure import SCRATCH, median, say, scratch, table
from tests.support.chats import Party
from tests.support.prosody import Prosody
from tests.support.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

TEXT: Final = "m" * 100
TIMER: Final = timedelta(days=7)

SECONDS: Final = 120.0
"""The limit of one wait: the server keeps a thousand messages in files before it answers."""

SIDES: Final = {"as it comes": False, "hardened": True}


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run gave.

    Attributes:
        rate: messages a second, from the first to the last.
        processor: milliseconds of the processor for a message, the client's start included.
    """

    rate: float
    processor: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both sides in turns and print the numbers and their ratio."""
    options = _options(arguments)
    runs: dict[str, list[Taken]] = {side: [] for side in SIDES}
    with Prosody() as server, scratch(options.folder) as folder:
        for number in range(options.rounds):
            for side in SIDES:
                place = folder / f"{side.replace(' ', '-')}-{number}"
                place.mkdir()
                runs[side].append(asyncio.run(_take(server, place, side, options.messages)))
                say(f"# {place.name}: {runs[side][-1].rate:.0f}/s")
    rates = [median(run.rate for run in runs[side]) for side in SIDES]
    processor = [median(run.processor for run in runs[side]) for side in SIDES]
    say(f"\n{options.messages} messages of 100 bytes that waited, received, stored, and read.")
    table(SIDES, [("messages a second", rates), ("ms of the processor, a message", processor)])
    say(f"  rate with freed memory wiped, against without: {rates[1] / rates[0]:.2f}x")
    say(f"  processor time of the same: {processor[1] / processor[0]:.2f}x")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round of few messages")
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.rounds = 200, 1
    return options


async def _take(server: Prosody, folder: Path, side: str, messages: int) -> Taken:
    """Let messages wait for one client, and have it take them."""
    rosa = Party(server.register(f"rosa-{folder.name}"), folder / "rosa.vault", server.address)
    account = server.register(f"peter-{folder.name}")
    hardened = SIDES[side]
    try:
        async with Watched(server, account, folder, hardened=hardened, recording=False) as peter:
            await rosa.arrive()
            await peter.ask("arrive")
            # The first contact is over before anything is measured.
            await rosa.chat.send(peter.jid, TEXT, timer=TIMER)
            await peter.ask("await_read", count=1)
            await peter.ask("leave")
            await asyncio.gather(*(rosa.chat.send(peter.jid, TEXT) for _ in range(messages)))
            # Once this is answered, all of them wait at the server.
            await rosa.client.plugin["xep_0199"].ping(JID(server.domain), timeout=SECONDS)
            taken = await peter.ask("take", count=messages)
            await peter.ask("leave")
    finally:
        await rosa.leave()
    return Taken((messages - 1) / taken["seconds"], taken["processor"] / messages * 1000)


if __name__ == "__main__":
    main()
