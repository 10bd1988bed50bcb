"""A process that dies at any step of forgetting: the vault reopens by itself and finishes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vault.making import opened, texts
from tests.vault.test_residue import copy_of_database, open_everything

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import ManualClock

# Dies in the given sync of the keys: before it, in the middle of what it writes, or after it.
PROGRAM = """
import os, pathlib, sys, signal
from eph_e2ee.vault import keyfile, privatefile, rootkey
from tests.support.clock import ManualClock
from tests.vault.making import adding, opened
folder, step, moment = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
vault = opened(folder, ManualClock())
vault.transact_sync(adding("kept", "1"))
number = vault.transact_sync(adding("erased", "2"))
vault.transact_sync(lambda tx: tx.put_value("key", "old"))
os.system(f"cp -r {folder} {folder}.copy")

def erase(tx):
    tx.erase(number)
    tx.put_value("key", "new")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

write = privatefile.write_through
steps = iter(range(99))

def dying(descriptor, offset, data):
    mine = next(steps) == step
    if mine and moment == "before":
        die()
    if mine and moment == "within":
        os.pwrite(descriptor, data[: 60], offset)
        die()
    write(descriptor, offset, data)
    if mine:
        die()

keyfile.write_through = rootkey.write_through = dying
vault.transact_sync(erase)
if step < 0:
    die()
vault._run_alone(vault._settle)
if step == 3:
    die()
vault.transact_sync(adding("more", "3"))
die()
"""

MOMENTS = [
    (-1, "between the commit and the settling"),
    *((step, moment) for step in range(3) for moment in ("before", "within", "after")),
    (3, "between the settling and the next commit"),
    (4, "after the next commit"),
]


@pytest.mark.parametrize(("step", "moment"), MOMENTS)
def test_f44_a_crash_at_any_step_of_forgetting_is_finished_at_the_next_opening(
    folder: Path, clock: ManualClock, tmp_path: Path, step: int, moment: str
) -> None:
    program = [sys.executable, "-c", PROGRAM, str(folder), str(step), moment]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(program, env=environment, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    vault = opened(folder, clock)
    assert texts(vault)[-2:] == [None, "kept"]
    assert vault.transact_sync(lambda tx: tx.value("key")) == "new"
    assert not vault.unsettled
    copy = copy_of_database(tmp_path / "vault.copy", tmp_path / "copy")
    assert len(open_everything(copy, folder, clock)) == 1
    vault.close_sync()
