"""One catching up of one side, in a process of its own; `catching_up` starts it and reads its JSON.

Two accounts meet, one goes away, the other writes to it, and it reads its archive when it is back,
with a client made anew over the storage that it had.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.benchmarks.measure import Syncs, Written
from tests.benchmarks.sides import FileStorage, MemoryStorage, Ours, Theirs
from tests.benchmarks.talking import TEXT, Commits
from tests.support.client import Happenings
from tests.support.prosody import HOST, PASSWORD, Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.benchmarks.sides import Talker

__all__ = ["SIDES", "Reading"]

PAGE: Final = 100
"""Results of one query, the same on every side."""

READING_SECONDS: Final = 240.0
"""The limit of one reading: five thousand messages take half a minute."""

QUERY: Final = "{urn:xmpp:mam:2}query"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one catching up gave. Counts are the reader's alone, its end included.

    Attributes:
        messages: how many were told of.
        seconds: from the first query to the last event.
        fetching: the same pages again, with nothing decrypted; 0 where that was not measured.
        handed: bytes given to `write` calls.
        stored: bytes of pages that were made dirty.
        commits: of SQLite transactions that changed something.
        syncs: by Python, beside SQLite's own.
        rewrites: of the whole JSON file.
        processor: seconds of processor time that the reader's process spent from its connecting on.
    """

    messages: int
    seconds: float
    fetching: float
    handed: int
    stored: int
    commits: int
    syncs: int
    rewrites: int
    processor: float


class Reader(Protocol):
    """One account that catches up."""

    told: int

    @property
    def rewrites(self) -> int:
        """How often it has written its storage's whole file."""

    async def arrive(self) -> None:
        """Connect, and wait until OMEMO has started."""

    async def read(self) -> float:
        """Catch up; return the seconds from the first query to the last event."""

    async def fetch(self) -> float:
        """Fetch the same pages again and do nothing with them; 0 where that makes no sense."""

    async def leave(self) -> None:
        """Settle what is gathered, and disconnect."""


class OurReader(Ours):
    """This library reads by itself when a session begins; the end of that is an event.

    Attributes:
        told: how many messages were told of.
    """

    def __init__(self, account: Account, address: tuple[str, int], folder: Path) -> None:
        super().__init__(account, address, folder)
        self._messages.close()  # it would keep them all
        self.told = 0
        self._began = self._ended = 0.0
        self._done = Happenings(self.client, "ephemeral_catch_up", wanted=self._is_last)
        self.client.add_event_handler("ephemeral_message", self._heard)
        self.client.add_filter("out", self._timed)

    async def read(self) -> float:
        """Wait for the end of what `arrive` has begun."""
        await self._done.next(READING_SECONDS)
        return self._ended - self._began

    async def fetch(self) -> float:
        """Nothing: who asks again gets the same from the same server as the other sides."""
        return 0.0

    def _heard(self, _: Any) -> None:
        self.told += 1

    def _is_last(self, report: Any) -> bool:
        self._ended = time.perf_counter()
        return bool(report.done)

    def _timed(self, stanza: Any) -> Any:
        if not self._began and stanza.xml.find(QUERY) is not None:
            self._began = time.perf_counter()
        return stanza


class TheirReader(Theirs):
    """slixmpp-omemo behind slixmpp's own reading of archives, as an application would write it.

    Attributes:
        told: how many messages were decrypted.
        after: the id of the last result that was seen before; None for none.
    """

    def __init__(
        self,
        account: Account,
        address: tuple[str, int],
        storage: MemoryStorage,
        after: str | None = None,
    ) -> None:
        super().__init__(account, address, storage)
        self.told = 0
        self.after = after
        self.client.register_plugin("xep_0313")

    async def read(self) -> float:
        """Decrypt one after another, since a ratchet skips a thousand messages at most."""
        self.client.remove_handler("messages")  # all that comes from now on are results
        sessions = await self._plugin.get_session_manager()
        start = time.perf_counter()
        sessions.before_history_sync()
        async for result in self._results():
            stanza = result["mam_result"]["forwarded"]["stanza"]
            # What it has written itself stands there as well, and is for others.
            if stanza["from"].bare != self.client.boundjid.bare:
                decrypted, _ = await self._plugin.decrypt_message(stanza)
                self.told += bool(decrypted["body"])
        await sessions.after_history_sync()
        return time.perf_counter() - start

    async def fetch(self) -> float:
        """Let slixmpp alone read the same pages."""
        start = time.perf_counter()
        async for _ in self._results():
            pass
        return time.perf_counter() - start

    async def see(self) -> str | None:
        """The id of the last result that there is."""
        last = self.after
        async for result in self._results():
            last = str(result["mam_result"]["id"])
        return last

    def _results(self) -> AsyncIterator[Any]:
        page: dict[str, Any] = {"max": PAGE}
        if self.after is not None:
            page["after"] = self.after
        results: AsyncIterator[Any] = self.client.plugin["xep_0313"].iterate(rsm=page)
        return results


async def _catch_up(side: str, accounts: Sequence[Account], options: argparse.Namespace) -> Reading:
    commits = Commits()
    meet = _our_meeting if side == "vault" else _their_meeting
    make = await meet(side, accounts, options)
    gc.collect()  # the writer's part is over
    peter = make()
    changes, rewrites, written = commits.count, peter.rewrites, Written.now()
    with Syncs() as syncs:
        spent = time.process_time()
        await peter.arrive()
        seconds = await peter.read()
        spent = time.process_time() - spent
        fetching = await peter.fetch()
        await peter.leave()
    written = Written.now() - written
    if peter.told != options.messages:
        raise RuntimeError(f"{peter.told} of {options.messages} messages were read")
    return Reading(
        messages=peter.told,
        seconds=seconds,
        fetching=fetching,
        handed=written.handed,
        stored=written.stored,
        commits=commits.count - changes,
        syncs=syncs.count,
        rewrites=peter.rewrites - rewrites,
        processor=spent,
    )


async def _our_meeting(
    _: str, accounts: Sequence[Account], options: argparse.Namespace
) -> Callable[[], Reader]:
    address = (HOST, options.port)
    rosa, peter = (Ours(account, address, options.folder) for account in accounts)
    await rosa.arrive()
    await peter.arrive()
    await _meet(rosa, peter)
    await peter.leave()
    await _write(rosa, accounts[1], options.messages)
    return lambda: OurReader(accounts[1], address, options.folder)


async def _their_meeting(
    side: str, accounts: Sequence[Account], options: argparse.Namespace
) -> Callable[[], Reader]:
    address = (HOST, options.port)
    files = (options.folder / f"{account.name}.json" for account in accounts)
    # Both write to memory: how fast a file's owner can send is not asked here.
    kept = MemoryStorage()
    own = FileStorage(next(files)) if side == "file" else MemoryStorage()
    rosa = Theirs(accounts[0], address, kept)
    peter = TheirReader(accounts[1], address, own)
    await rosa.arrive()
    await peter.arrive()
    await _meet(rosa, peter)
    last = await peter.see()
    await peter.leave()
    await _write(rosa, accounts[1], options.messages)
    return lambda: TheirReader(accounts[1], address, own, last)


async def _meet(rosa: Talker, peter: Talker) -> None:
    """Have the key exchange over, and the server done with all that it caused."""
    for sender, recipient in ((rosa, peter), (peter, rosa), (rosa, peter)):
        await sender.send(recipient.client.boundjid.bare, TEXT)
        await recipient.hear()
    await peter.ping()
    await rosa.ping()


async def _write(rosa: Talker, to: Account, messages: int) -> None:
    """Write into the archive of somebody who is away, and leave."""
    await asyncio.gather(*(rosa.send(to.jid, TEXT) for _ in range(messages)))
    await rosa.ping()
    await rosa.leave()


SIDES: Final = ("vault", "file", "memory")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("accounts", nargs=2)
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> Reading:
    accounts = [Account(jid, PASSWORD) for jid in options.accounts]
    return await _catch_up(options.side, accounts, options)


if __name__ == "__main__":
    # What is logged goes nowhere, on every side.
    logging.getLogger().addHandler(logging.NullHandler())
    sys.stdout.write(json.dumps(asdict(asyncio.run(_run(_options())))))
