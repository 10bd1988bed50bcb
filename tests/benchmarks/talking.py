"""One run of one side, in a process of its own; `end_to_end` starts it and reads its JSON.

A process of its own, because slixmpp knows one plugin of a name: ours or slixmpp-omemo's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, event

from tests.benchmarks.measure import Syncs, Written, median
from tests.benchmarks.sides import SIDES
from tests.support.prosody import HOST, PASSWORD, Account

if TYPE_CHECKING:
    from tests.benchmarks.sides import Talker

__all__ = ["TEXT", "Run"]

TEXT: Final = "m" * 100


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave. Counts are those of both accounts together, their end included.

    Attributes:
        messages: how many went, one way.
        seconds: from the first send to the last event.
        latency: the median from a send to its event, in seconds; 0 in a burst.
        empties: OMEMO messages without payload that the run caused.
        handed: bytes given to `write` calls.
        stored: bytes of pages that were made dirty.
        commits: of SQLite transactions that changed something.
        syncs: by Python, beside SQLite's own.
        rewrites: of the whole JSON file.
    """

    messages: int
    seconds: float
    latency: float
    empties: int
    handed: int
    stored: int
    commits: int
    syncs: int
    rewrites: int


class Commits:
    """Counts the commits of all SQLite connections that changed something."""

    def __init__(self) -> None:
        self.count = 0
        self._changes: dict[int, int] = {}
        event.listen(Engine, "commit", self._committed)

    def _committed(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if driver.total_changes != self._changes.get(id(driver), 0):
            self._changes[id(driver)] = driver.total_changes
            self.count += 1


async def talk(rosa: Talker, peter: Talker, mode: str, messages: int) -> Run:
    """Let two accounts meet; then one sends and the other hears."""
    commits = Commits()
    await rosa.arrive()
    await peter.arrive()
    await _meet(rosa, peter)
    before = (rosa.empties + peter.empties, rosa.rewrites + peter.rewrites, commits.count)
    written = Written.now()
    with Syncs() as syncs:
        start = time.perf_counter()
        latencies = await (_burst if mode == "burst" else _one_by_one)(rosa, peter, messages)
        seconds = time.perf_counter() - start
        # What the last messages caused has arrived, and been counted, after these.
        await peter.ping()
        await rosa.ping()
        await rosa.leave()
        await peter.leave()
    written = Written.now() - written
    return Run(
        messages=messages,
        seconds=seconds,
        latency=median(latencies),
        empties=rosa.empties + peter.empties - before[0],
        handed=written.handed,
        stored=written.stored,
        commits=commits.count - before[2],
        syncs=syncs.count,
        rewrites=rosa.rewrites + peter.rewrites - before[1],
    )


async def _meet(rosa: Talker, peter: Talker) -> None:
    """Have the key exchange over."""
    for sender, recipient in ((rosa, peter), (peter, rosa), (rosa, peter)):
        await sender.send(recipient.client.boundjid.bare, TEXT)
        await recipient.hear()


async def _burst(rosa: Talker, peter: Talker, messages: int) -> list[float]:
    to = peter.client.boundjid.bare
    await asyncio.gather(*(rosa.send(to, TEXT) for _ in range(messages)))
    for _ in range(messages):
        await peter.hear()
    return [0.0]


async def _one_by_one(rosa: Talker, peter: Talker, messages: int) -> list[float]:
    to, latencies = peter.client.boundjid.bare, []
    for _ in range(messages):
        start = time.perf_counter()
        await rosa.send(to, TEXT)
        await peter.hear()
        latencies.append(time.perf_counter() - start)
    return latencies


async def _run(options: argparse.Namespace) -> Run:
    address = (HOST, options.port)
    make = SIDES[options.side]
    rosa, peter = (
        make(Account(jid, PASSWORD), address, options.folder) for jid in options.accounts
    )
    return await talk(rosa, peter, options.mode, options.messages)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--mode", choices=("burst", "one"), required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("accounts", nargs=2)
    return parser.parse_args()


if __name__ == "__main__":
    # What is logged goes nowhere, on every side.
    logging.getLogger().addHandler(logging.NullHandler())
    sys.stdout.write(json.dumps(asdict(asyncio.run(_run(_options())))))
