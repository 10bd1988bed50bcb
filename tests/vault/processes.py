"""Programs that open a vault on a server in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os, pathlib, signal, sys
from eph_e2ee.errors import VaultError
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock
from tests.vault.making import adding, new_message, texts

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, address, argument = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
"""

OPEN = """
try:
    vault = Vault.open(folder, clock=ManualClock(), database=address)
except VaultError as error:
    sys.exit(type(error).__name__)
"""


def run(program: str, folder: Path, address: str, argument: str = "") -> tuple[int, str]:
    """Run a program in a process of its own; return its exit status and what it said."""
    command = [sys.executable, "-c", PROGRAM + program, str(folder), address, argument]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, (ended.stdout + ended.stderr).strip()
