"""A real, throwaway XMPP server on a loopback port, for tests, benchmarks and the demo.

What the makes of servers have in common: a process in a temporary folder that reads commands, lines
of JSON, from its standard input, and ends with it. Nothing here needs pytest or an event loop; the
calls that start or end the server block, so a coroutine runs them with `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from tests.support.port import HOST, Port

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType

    from tests.support.interference import Interference

__all__ = ["HOST", "PASSWORD", "Account", "Feature", "Server", "ServerError"]

PASSWORD: Final = "open sesame"
"""Of accounts whose password does not matter."""

START_SECONDS: Final = 60.0
"""A start takes a fifth of a second, or two; a machine under load may need many times that."""

STOP_SECONDS: Final = 60.0
"""Longer than the 5 s for which Prosody waits for its clients to close their streams."""

ANSWER_SECONDS: Final = 60.0
"""A command is answered within a millisecond or two."""

LOG_LINES: Final = 40
"""How much of the server's log an error shows."""

Feature = Literal["mam", "carbons"]
"""What a server can do without: an archive (XEP-0313), copies to other devices (XEP-0280)."""


class ServerError(Exception):
    """The server could not be started, ended, or refused a command; its log is in the text."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the throwaway server."""

    jid: str
    password: str = field(repr=False)

    @property
    def name(self) -> str:
        """The part before the at sign."""
        return self.jid.partition("@")[0]


class Server(ABC):
    """One server: `start` it, `restart` it with its data, `close` it; or use it in a `with`.

    Args:
        domain: the host of the accounts; group chats live at `rooms.<domain>`.
        log_level: the least severe level that its log file keeps.
        lacking: what it is to do without.
        settings: further lines of its configuration, in the server's own language, by name.
    """

    NAME: ClassVar[str]
    """Of the make."""

    PAGE: ClassVar[int]
    """Results that an archive gives at once at most."""

    def __init__(
        self,
        *,
        domain: str = "example.org",
        log_level: str = "info",
        lacking: Collection[Feature] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.domain = domain
        self.rooms = f"rooms.{domain}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.NAME.lower()}-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self.port = 0
        self._held: Port | None = None
        self._log_file = self.folder / "server.log"
        self._complaints = self.folder / "printed.log"
        self._log_level = log_level
        self._lacking = frozenset(lacking)
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = b""

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server and remove its folder."""
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for clients."""
        return HOST, self.port

    @property
    def process_id(self) -> int | None:
        """The server's process, None while it is stopped."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return once it answers; blocks for a second or two.

        The port is chosen at the first start and kept from then on.

        Raises:
            ServerError: it is not installed, or was not ready in time.
        """
        if self.running:
            return self
        if self._held is None:
            self._held = Port()
        port = self._held.number
        self._spawn(port)
        try:
            listening = self._await_listening(time.monotonic() + START_SECONDS)
            if listening:
                self._check_features(port)
        except BaseException:
            self.stop(abrupt=True)
            raise
        if not listening:
            self.stop()
            raise self._error(f"could not listen on port {port}")
        self.port = port
        return self

    def stop(self, *, abrupt: bool = False) -> None:
        """End the server by its process id and keep its data; blocks until it has ended.

        Args:
            abrupt: kill it, as a crash would, instead of asking it.
        """
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if abrupt:
                process.kill()
            else:
                process.terminate()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    # What a dead server has not read is of no use.
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._answers = b""

    def restart(self, *, abrupt: bool = False) -> Self:
        """Stop and start with the same data and port; rules and held messages are forgotten."""
        self.stop(abrupt=abrupt)
        return self.start()

    def close(self) -> None:
        """End the server and remove all that it wrote."""
        self.stop()
        if self._held is not None:
            self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, lines: int | None = None) -> str:
        """Return the server's log, or its last lines."""
        if not self._log_file.exists():
            return ""
        text = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(text if lines is None else text[-lines:])

    @abstractmethod
    def register(self, name: str, password: str = PASSWORD) -> Account:
        """Create an account; the name is of lower-case letters, digits and `-`."""

    @abstractmethod
    def unregister(self, account: Account) -> None:
        """Have an account never have been; it is not online."""

    @abstractmethod
    def befriend(self, one: Account, *others: Account) -> None:
        """Give an account mutual subscriptions; nobody may be online, nor have a roster yet."""

    def interfere(self, *rules: Interference) -> None:
        """Replace all rules; they hold for the very next message, and none means none."""
        self._command({"do": "rules", "rules": [rule.as_json() for rule in rules]})

    def deliver(self, xml: str) -> None:
        """Hand a stanza to its recipient as if it had just arrived from whoever it names."""
        self._command({"do": "deliver", "xml": xml})

    def release(self, *, backwards: bool = False) -> int:
        """Deliver the held messages, in their order or backwards, and return how many."""
        return self._command({"do": "release", "reversed": backwards})

    def discard(self) -> int:
        """Forget the held messages and return how many they were."""
        return self._command({"do": "discard"})

    @abstractmethod
    def _prepare(self, port: int) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; the command that starts the server, and its environment.

        Raises:
            ServerError: it is not installed.
        """

    def _spawn(self, port: int) -> None:
        """Start the process with a fresh configuration."""
        command, environment = self._prepare(port)
        with self._complaints.open("ab") as complaints:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                cwd=self.folder,
                # An interrupt at the terminal is for the tests, which then end the server.
                start_new_session=True,
            )

    def _await_listening(self, deadline: float) -> bool:
        """Wait for our module to say that the server has started, and whether it has the port."""
        while True:
            answer = self._answer(deadline)
            if "listening" in answer:
                return bool(answer["listening"])

    def _check_features(self, port: int) -> None:
        """Open a stream as a client would and wait for the server's features."""
        opening = (
            f"<?xml version='1.0'?><stream:stream to='{self.domain}' version='1.0' "
            "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        received = b""
        try:
            with socket.create_connection((HOST, port), timeout=START_SECONDS) as connection:
                connection.sendall(opening.encode())
                while b"</stream:features>" not in received:
                    chunk = connection.recv(4096)
                    if not chunk:
                        raise self._error("closed the first stream")
                    received += chunk
                # Until the end: a session still open would delay an early stop by a second.
                connection.sendall(b"</stream:stream>")
                while connection.recv(4096):
                    pass
        except OSError as error:
            raise self._error("answers no stream") from error
        if not self.running:
            raise self._error("ended right after its start")

    def _command(self, command: Mapping[str, Any]) -> int:
        """Send one command to our module in the server and return its answer's count."""
        process = self._process
        if process is None or process.stdin is None:
            raise ServerError(f"{self.NAME} is not running")
        try:
            process.stdin.write(json.dumps(command).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise self._error("has ended") from error
        answer = self._answer(time.monotonic() + ANSWER_SECONDS)
        if "count" not in answer:
            raise self._error(f"refused a command: {answer.get('error')}")
        return int(answer["count"])

    def _answer(self, deadline: float) -> dict[str, Any]:
        """Return the next line of JSON on the server's standard output; other lines are noise."""
        while True:
            line = self._line(deadline)
            if line.startswith(b"{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
            self._complain(line)

    def _line(self, deadline: float) -> bytes:
        """Return the next line of the server's standard output."""
        process = self._process
        if process is None or process.stdout is None:
            raise ServerError(f"{self.NAME} is not running")
        descriptor = process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._answers:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._error("did not answer in time")
                chunk = os.read(descriptor, 65536)
                if not chunk:
                    self._complain(self._answers)
                    raise self._error("ended by itself")
                self._answers += chunk
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def _complain(self, text: bytes) -> None:
        """Keep what the server printed; a broken configuration shows nowhere else."""
        with self._complaints.open("ab") as complaints:
            complaints.write(text + b"\n")

    def _error(self, what: str) -> ServerError:
        """Return an error that says what the server did, with its log's end and what it printed."""
        printed = self._complaints.read_text(errors="replace") if self._complaints.exists() else ""
        text = f"{self.NAME} {what}. Its log ends so:\n{self.log(LOG_LINES)}\n{printed}"
        return ServerError(text.rstrip())
