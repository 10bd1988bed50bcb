"""What stays in a living client's memory of messages that have disappeared, and of their keys.

The client is a real one on a real server, in a process of its own: it takes messages, marks them as
read, replies, shows the history, and lets them expire. Then its memory is read from here.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from tests.benchmarks.measure import say
from tests.support.chats import Party
from tests.support.memory import Canaries, Found, scan
from tests.support.receiving import KEY_KINDS
from tests.support.watched import HARDENED, Watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.prosody import Account, Prosody

HOUR: Final = timedelta(hours=1)
BATCHES: Final = 4
"""After each the erasures so far are settled, which replaces the root key."""

HOLDER: Final = """
import hashlib, json, sys
from tests.support.memory import Canaries
seed = bytes.fromhex(sys.argv[1])
canaries = Canaries(hashlib.sha256(seed).hexdigest()[:8], 30)
texts = [canaries.text(number) for number in range(30)]
utf_8 = [canaries.text(number).encode() for number in range(20, 30)]
whole = bytearray(b"." + hashlib.sha256(b"whole" + seed).digest())
text = hashlib.sha256(b"json" + seed).digest().decode("latin-1")
text = json.dumps({"key": text}, ensure_ascii=False)
half = hashlib.sha256(b"half" + seed).digest()[9:25]
third = hashlib.sha256(b"third" + seed).digest()[4:15]
del texts[20:]
print("ready", flush=True)
sys.stdin.read()
"""


STACK: Final = """
import hashlib, os, sys
from eph_e2ee.hardening import wipe_stack
def pass_by(seed, depth):
    if depth:
        list(map(lambda _: pass_by(seed, depth - 1), [0]))
    else:
        mark = hashlib.sha256(seed).hexdigest()[:8]
        ("\u0436" + mark + "00000").encode()
pass_by(bytes.fromhex(sys.argv[1]), 20)
wipe_stack()
os.write(1, b"ready\\n")
os.read(0, 1)
"""
"""Encodes a short text deep down in the stack. Without the wiping, CPython 3.11 leaves it there."""


@dataclass(frozen=True, slots=True)
class Residue:
    """What a scan has found of a conversation that is over.

    Attributes:
        texts: how many of the messages.
        keys: how many of the dead keys, by their kind.
        all_keys: how many there have been.
    """

    texts: int
    keys: Counter[str]
    all_keys: Counter[str]


def test_a_scan_finds_every_form_of_a_text_and_parts_of_a_key() -> None:
    seed = secrets.token_bytes(16)
    canaries = Canaries(hashlib.sha256(seed).hexdigest()[:8], 30)
    names = (b"whole", b"json", b"half", b"third", b"never there")
    keys = [hashlib.sha256(name + seed).digest() for name in names]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, seed.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        found = scan(holder.pid, canaries, keys)
        strange = scan(holder.pid, Canaries(secrets.token_hex(4), 30), [secrets.token_bytes(32)])
        holder.communicate()
    assert found.texts == frozenset(range(30))
    assert found.keys == {0, 1, 2}
    assert (strange.texts, strange.keys) == (frozenset(), frozenset())


def test_a_text_that_was_encoded_is_wiped_from_the_stack() -> None:
    seed = secrets.token_bytes(16)
    command = [*HARDENED, sys.executable, "-c", STACK, seed.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = scan(process.pid, Canaries(hashlib.sha256(seed).hexdigest()[:8], 1), [])
        process.communicate()
    assert found.texts == frozenset()


async def converse(rosa: Party, peter: Watched, canaries: Canaries) -> None:
    """Send every canary, and have each read and answered."""
    await rosa.arrive()
    await peter.ask("arrive")
    await rosa.chat.send(peter.jid, canaries.text(0), timer=HOUR)
    await peter.ask("await_read", count=1)
    share = -(-canaries.count // BATCHES)
    for start in range(1, canaries.count, share):
        numbers = range(start, min(start + share, canaries.count))
        await asyncio.gather(*(rosa.chat.send(peter.jid, canaries.text(n)) for n in numbers))
        await peter.ask("await_read", count=numbers.stop)
        await peter.ask("expire", seconds=1, count=0)


async def residue(rosa: Party, peter: Watched, canaries: Canaries) -> Residue:
    """Converse, and look into the memory once all of it has expired."""
    await converse(rosa, peter, canaries)
    assert (await peter.ask("hold", peer=rosa.jid))["held"] == 2 * canaries.count
    held = await looked_into(peter, canaries, *peter.live_keys())
    assert held.texts == frozenset(range(canaries.count)), "the scan does not see texts"
    assert held.keys, "the scan does not see keys"
    await peter.ask("drop")
    await peter.ask("expire", seconds=HOUR.total_seconds() + 1, count=2 * canaries.count)
    keys = await peter.dead_keys()
    found = await looked_into(peter, canaries, *keys)
    kinds = list(keys.values())
    return Residue(len(found.texts), Counter(kinds[at] for at in found.keys), Counter(kinds))


async def looked_into(peter: Watched, canaries: Canaries, *keys: bytes) -> Found:
    return await asyncio.to_thread(scan, peter.process, canaries, keys)


@pytest.fixture
async def rosa(prosody: Prosody, account: Callable[[str], Account], tmp_path: Path) -> Party:
    return Party(account("rosa"), tmp_path / "rosa.vault", prosody.address)


@pytest.mark.integration
@pytest.mark.parametrize("hardened", [False, True], ids=["as it comes", "hardened"])
async def test_no_text_and_no_key_outlives_its_message_in_hardened_memory(
    prosody: Prosody,
    account: Callable[[str], Account],
    tmp_path: Path,
    rosa: Party,
    record_property: Callable[[str, object], None],
    *,
    hardened: bool,
    full: bool,
) -> None:
    canaries = Canaries(secrets.token_hex(4), 1000 if full else 100)
    peter = Watched(prosody, account("peter"), tmp_path, hardened=hardened, echo=True)
    try:
        async with peter:
            left = await residue(rosa, peter, canaries)
    finally:
        await rosa.leave()
    record_property("residue", str(left))
    say(f"\n{'hardened' if hardened else 'as it comes'}: {left.texts} of {canaries.count} texts")
    say(f"keys: {dict(left.keys)} of {dict(left.all_keys)}")
    assert set(left.all_keys) == set(KEY_KINDS) - {"next chain"}, "some keys were not recorded"
    assert left.all_keys["root"] >= BATCHES
    for kind in ("content", "leaf", "chain", "message", "payload"):
        assert left.all_keys[kind] >= 2 * canaries.count
    if hardened:
        assert (left.texts, left.keys) == (0, Counter())
