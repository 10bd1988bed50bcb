"""What must not happen, whatever arrives: raised, logged, answered with an error, too slow."""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

__all__ = ["KNOWN", "SLOWEST", "Found", "Watch", "place"]

SLOWEST: Final = 3.0
"""Seconds of this process that one input may take: the largest stanzas of a server included."""

NAME: Final = re.compile(r"[A-Za-z_][\w.<>]*")
"""What our own lines may hold beside their words: the name of a class, or of a handler."""

LIBRARIES: Final = re.compile(r"/(eph_e2ee|site-packages)/")

WITHHELD: Final = "text withheld: it may quote a peer, a message or a key"

MANAGED: Final = "slixmpp reads the server's count of stanzas with int(), and asks nobody"

KNOWN: Final[dict[str, str]] = {
    "raised ValueError in stanza.get_h": MANAGED,
    "raised TypeError in stream_management._handle_ack": MANAGED,
    "logged slixmpp.plugins.xep_0198.stream_management: Inconsistent sequence numbers from the "
    "server, ignoring and replacing ours with them.": MANAGED,
    "logged TypeError in stanzabase.send": (
        "slixmpp answers a roster push of a stranger's with a number, which it cannot write"
    ),
    **{
        f"logged slixmpp.plugins.xep_0045.stanza: Cannot set {name} through the %s plugin.": (
            "slixmpp warns itself while it copies a stanza; nothing of it is quoted"
        )
        for name in ("room", "nick")
    },
    "logged slixmpp.stanza.roster: Invalid JID in roster: %s": (
        "slixmpp quotes an item of a roster; nothing of ours reads one"
    ),
}
"""What slixmpp does by itself, without us, and we cannot help; by signature, with the reason."""


class Found(Exception):
    """Something happened that must not.

    Attributes:
        signature: what it is known by: the same for every input that leads to it.
    """

    def __init__(self, signature: str, detail: str = "") -> None:
        super().__init__(f"{signature}\n{detail}" if detail else signature)
        self.signature = signature


class Watch(logging.Handler):
    """Hears everything that is logged, and what asyncio and Python have nobody to give to.

    Attributes:
        lines: our own lines, by their text.
        known: what is known of slixmpp, by signature.
        slowest: seconds of the slowest input so far.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self.slowest = 0.0
        self._aside = 0.0
        self._found: list[Found] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record for what it is: a line of ours, or a finding."""
        text = record.getMessage()
        if text == WITHHELD or _is_ours(record):
            self.lines[text] += 1
            return
        error = record.exc_info[1] if record.exc_info else None
        where = f"{record.name}: {record.msg}" if error is None else place(error)
        detail = text if error is None else text + "\n" + _told(error)
        self.report(Found(f"logged {where}", detail))

    def report(self, found: Found) -> None:
        """Note something that must not happen; `check` raises it."""
        if found.signature in KNOWN:
            self.known[found.signature] += 1
        else:
            self._found.append(found)

    def unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what asyncio's loop has nobody to give to."""
        error = context.get("exception")
        where = context["message"] if error is None else place(error)
        self.report(Found(f"asyncio: {where}", "" if error is None else _told(error)))

    def unraisable(self, hint: Any) -> None:
        """Take what a finalizer raised."""
        self.report(Found(f"unraisable: {type(hint.exc_value).__name__}", str(hint.exc_value)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while one input is dealt with.

        Raises:
            Found: it led to something that must not happen.
        """
        root = logging.getLogger()
        level, hook = root.level, sys.unraisablehook
        root.addHandler(self)
        root.setLevel(logging.INFO)
        sys.unraisablehook = self.unraisable
        began, self._aside = time.process_time(), 0.0
        try:
            yield
        except Found as found:
            self.report(found)
        except Exception as error:  # noqa: BLE001 -- the question is whether anything escapes
            self.report(Found(f"raised {place(error)}", _told(error)))
        finally:
            sys.unraisablehook = hook
            root.setLevel(level)
            root.removeHandler(self)
        self._timed(time.process_time() - began - self._aside)
        self._check()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Do not count what is made ready for an input, a scene with its keys, as time of it."""
        began = time.process_time()
        try:
            yield
        finally:
            self._aside += time.process_time() - began

    def _timed(self, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        if seconds > SLOWEST:
            self.report(Found("slow", f"{seconds:.1f} s"))

    def _check(self) -> None:
        if self._found:
            found = self._found[0]
            self._found.clear()
            raise found


def place(error: BaseException) -> str:
    """The class of an exception and the function of ours, or of a library's, that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    named = [each for each in frames if LIBRARIES.search(each.filename)] or frames
    where = f" in {Path(named[-1].filename).stem}.{named[-1].name}" if named else ""
    return f"{type(error).__name__}{where}"


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it is a line of ours that holds nothing of what has arrived."""
    held = record.args if isinstance(record.args, tuple) else ()
    named = all(isinstance(each, str) and NAME.fullmatch(each) for each in held)
    return record.name.startswith("eph_e2ee") and not record.exc_info and named


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-6000:]
