"""A message to a group of 50 devices, against python-omemo's bare session manager in memory.

`python -m tests.benchmarks.groups [--quick]`. Ours is `chat.send` to a room, from the call until
the stanza is handed over: members, envelope, archive, one commit to the disk. Theirs is `encrypt`
alone, for the same devices, with nothing durable. Before the first message both sides ask for all
lists and bundles through slixmpp and slixmpp-omemo, which parse them; there is no network, and the
answers are in dictionaries. The sides take turns, and the numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import twomemo
import twomemo.etree
from slixmpp_omemo.xep_0384 import _make_session_manager

import eph_e2ee
from tests.benchmarks.measure import SCRATCH, Target, judge, median, say, scratch, table
from tests.benchmarks.sides import MemoryStorage
from tests.xmpp.clients import TheirPlugin
from tests.xmpp.people import Server, network
from tests.xmpp.rooming import ROOM, ROSA, Rooming, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omemo.session_manager import SessionManager

    from tests.xmpp.clients import TestClient

__all__ = ["main"]

MODERN: Final = twomemo.twomemo.NAMESPACE
TIMER: Final = timedelta(days=7)
TEXT: Final = "x" * 100
PADDED: Final = b"x" * 1124
"""What the bare session manager encrypts: as much as an envelope around the text has on average."""

DEVICES_EACH: Final = 2


@dataclass
class Times:
    """Milliseconds of one side."""

    first: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


async def published(devices: int) -> Server:
    """A server with accounts of two devices each; their owners are not there."""
    server = Server()
    for number in range(devices):
        jid = f"member-{number // DEVICES_EACH}@example.org"
        await _manager(server, jid)
    return server


async def _manager(server: Server, jid: str) -> SessionManager:
    storage = MemoryStorage()
    made: Any = type("SessionManager", (network(server, jid),), {})
    manager: SessionManager = await made.create(
        [twomemo.Twomemo(storage)], storage, jid, None, "UNDECIDED"
    )
    await manager.after_history_sync()
    return manager


def world_of(server: Server) -> Rooming:
    """The same, for clients of slixmpp, with a room of all accounts."""
    world = Rooming()
    for (_, jid, device), bundle in server.bundles.items():
        element = twomemo.etree.serialize_bundle(bundle)  # type: ignore[arg-type]
        world.items.setdefault((jid, f"{MODERN}:bundles"), {})[str(device)] = element
    for (_, jid), listed in server.lists.items():
        element = twomemo.etree.serialize_device_list(listed)
        world.items[jid, f"{MODERN}:devices"] = {"current": element}
    world.lists["member"] = [jid for _, jid in server.lists]
    return world


async def _ours(server: Server, folder: Path, messages: int, times: Times) -> None:
    world = world_of(server)
    client = world.client("rosa")
    client.register_plugin("xep_0045")
    chat = eph_e2ee.attach(client, vault=folder, timer=TIMER, catch_up=False)
    await client.bind()
    join(client, 100)
    durations = []
    for _ in range(messages + 1):
        begun = time.perf_counter()
        message = await chat.send(ROOM, TEXT)
        durations.append((time.perf_counter() - begun) * 1000)
        if message.left_out:
            raise RuntimeError("somebody was left out")
    await chat.close()
    await world.end()
    times.first.append(durations[0])
    times.others.append(median(durations[1:]))


async def _theirs(server: Server, messages: int, times: Times) -> None:
    others = {jid for _, jid in server.lists if jid != ROSA}
    world = world_of(server)
    manager = await _bare(world.client("rosa"))
    durations = []
    for number in range(messages + 1):
        begun = time.perf_counter()
        if not number:
            for jid in others:
                await manager.refresh_device_lists(jid)
        encrypted, errors = await manager.encrypt(frozenset(others), {MODERN: PADDED})
        durations.append((time.perf_counter() - begun) * 1000)
        if errors or len(encrypted) != 1:
            raise RuntimeError("somebody was left out")
    await manager.shutdown()
    await world.end()
    times.first.append(durations[0])
    times.others.append(median(durations[1:]))


async def _bare(client: TestClient) -> SessionManager:
    """The session manager that slixmpp-omemo makes, with omemo:2 alone and nothing on a disk."""
    storage = MemoryStorage()
    made: Any = _make_session_manager(client, client.plug(TheirPlugin))
    manager: SessionManager = await made.create(
        [twomemo.Twomemo(storage)], storage, ROSA, None, "UNDECIDED"
    )
    await manager.after_history_sync()
    return manager


async def _run(options: argparse.Namespace, folder: Path) -> tuple[Times, Times]:
    say(f"# publishing the keys of {options.devices} devices")
    server = await published(options.devices)
    ours, theirs = Times(), Times()
    for number in range(options.rounds):
        await _theirs(server, options.messages, theirs)
        await _ours(server, folder / str(number), options.messages, ours)
        say(f"# round {number}: {ours.others[-1]:.1f} ms against {theirs.others[-1]:.1f} ms")
    return ours, theirs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both sides in turns and print both the numbers and the target."""
    options = _options(arguments)
    with scratch(options.folder) as folder:
        ours, theirs = asyncio.run(_run(options, folder))
    say(f"\nA message of 100 bytes to {options.devices} devices of {options.devices // 2} members;")
    say(f"medians of {options.rounds} rounds of {options.messages} messages, sides in turns.")
    rows: list[tuple[str, Sequence[float | None]]] = [
        ("ms, the first message (lists, bundles, sessions)", _middle(ours.first, theirs.first)),
        ("ms, each of the others", _middle(ours.others, theirs.others)),
    ]
    table(("eph_e2ee", "bare"), rows)
    judge(
        [
            Target(
                f"group of {options.devices} devices, time against bare",
                _ratio(*rows[1][1]),
                1.0,
                False,
            ),
            Target("the first message to it, against bare", _ratio(*rows[0][1]), 1.0, False),
        ]
    )


def _middle(ours: list[float], theirs: list[float]) -> list[float | None]:
    return [median(ours), median(theirs)]


def _ratio(ours: float | None, theirs: float | None) -> float:
    return (ours or 0.0) / (theirs or float("nan"))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--messages", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=SCRATCH, help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round of few messages")
    options = parser.parse_args(arguments)
    if options.quick:
        options.messages, options.rounds = 10, 1
    return options


if __name__ == "__main__":
    main()
