"""A receiver (`receiving.py`) seen from the process that started it, and looks into its memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from tests.benchmarks.measure import REPOSITORY
from tests.support.receiving import KEY_KINDS, RECORD_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.prosody import Account, Prosody

__all__ = ["HARDENED", "Watched"]

HARDENED = (sys.executable, "-m", "eph_e2ee", "hardened", "--")
"""What stands before a command to have its freed memory wiped."""

END_SECONDS = 60.0


class Watched:
    """A client of an account in a process of its own; use it in an `async with`.

    Args:
        server: where the account is.
        account: the client's.
        folder: for its vault, and for the keys that it records.
        hardened: whether its freed memory is to be wiped.
        echo: whether it replies to each message with the same text.
        recording: whether it records keys.
    """

    def __init__(
        self,
        server: Prosody,
        account: Account,
        folder: Path,
        *,
        hardened: bool,
        echo: bool = False,
        recording: bool = True,
    ) -> None:
        self.jid = account.jid
        self._record = folder / f"{account.name}.keys"
        self._record.touch()
        self._command = [*(HARDENED if hardened else ()), sys.executable]
        self._command += ["-m", "tests.support.receiving", "--port", str(server.port)]
        self._command += ["--vault", str(folder / f"{account.name}.vault")]
        self._command += ["--record", str(self._record)] if recording else []
        self._command += ["--echo"] if echo else []

    async def __aenter__(self) -> Self:
        """Start it; it does not arrive."""
        self._process = await asyncio.to_thread(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it: the end of its input ends it, and whatever it does not end."""
        try:
            await asyncio.to_thread(self._process.communicate, None, END_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()

    @property
    def process(self) -> int:
        """The process's id, which `hardened` leaves as it is."""
        return self._process.pid

    async def ask(self, do: str, **values: object) -> dict[str, Any]:
        """Have it do something, and return its answer once it is done."""
        return await asyncio.to_thread(self._ask, {"do": do, **values})

    async def dead_keys(self) -> dict[bytes, str]:
        """Every key that has been used and must not be there any more, and of what kind it was."""
        forgotten = iter((await self.ask("dead"))["dead"])
        keys: dict[bytes, str] = {}
        newest_root = b""
        for kind, key in self._recorded():
            if kind == "next chain" or (kind == "leaf" and not next(forgotten)):
                continue
            # A leaf may end as a node of its own: then it has been seen before.
            keys.setdefault(key, kind)
            newest_root = key if kind == "root" else newest_root
        del keys[newest_root]
        return keys

    def live_keys(self) -> set[bytes]:
        """The keys of the ratchets as they stand, and of ones that have been left standing."""
        recorded = list(self._recorded())
        stepped = {key for kind, key in recorded if kind == "chain"}
        return {key for kind, key in recorded if kind == "next chain"} - stepped

    def _recorded(self) -> Iterator[tuple[str, bytes]]:
        data = self._record.read_bytes()
        for at in range(0, len(data), RECORD_SIZE):
            yield KEY_KINDS[data[at]], data[at + 1 : at + RECORD_SIZE]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command, self.jid],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _ask(self, command: dict[str, object]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the receiver was started without pipes")
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the receiver has ended; its standard error says why")
        answer: dict[str, Any] = json.loads(line)
        return answer
