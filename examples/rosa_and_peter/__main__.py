"""Plays the story, then checks what is left of it: `python -m examples.rosa_and_peter`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from examples.rosa_and_peter.checks import CHECKS, examine
from examples.rosa_and_peter.evidence import Evidence
from examples.rosa_and_peter.rich_screen import RichScreen
from examples.rosa_and_peter.screen import PlainScreen, Screen
from examples.rosa_and_peter.story import Pace, play

READING_PACE = 1.2
"""Seconds after each event in a terminal."""


def main() -> int:
    """Play and check; return the exit status."""
    watched = sys.stdout.isatty()
    screen: Screen = RichScreen() if watched else PlainScreen()
    screen.title(
        "eph_e2ee: two clients, a real server, and messages that disappear for good",
        "Rosa and Peter, each in a process of its own; the server is a Prosody on loopback",
    )
    with tempfile.TemporaryDirectory(prefix="rosa-and-peter-") as folder:
        pace = Pace(pause=READING_PACE if watched else 0.0)
        return report(asyncio.run(play(Path(folder), screen, pace)), screen)


def report(evidence: Evidence, screen: Screen) -> int:
    """Show every check; return 0 when all of them hold, 1 otherwise."""
    screen.scene("6  What is left of it? Both clients were killed, and their files are examined")
    failed = 0
    for result in examine(evidence):
        screen.result(holds=result.holds, claim=result.claim, found=result.found)
        failed += not result.holds
    count = len(CHECKS)
    text = f"{failed} of {count} checks FAILED" if failed else f"all {count} checks hold"
    screen.verdict(holds=not failed, text=text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
