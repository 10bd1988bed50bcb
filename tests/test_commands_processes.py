"""`eph-e2ee vault` as operators run it: processes of their own, terminals, and a bot that runs."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from eph_e2ee.clock import Clock
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.vault import Vault
from tests.support.operating import COMMANDS, arguments, identity
from tests.vault.making import adding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eph_e2ee.vault.rootkey import RootKey

SECONDS: Final = 120
"""A command takes two; a machine under load may need many times that."""

BOT: Final = """
import pathlib, sys
from eph_e2ee.clock import Clock
from eph_e2ee.vault.vault import Vault
vault = Vault.open(pathlib.Path(sys.argv[1]), clock=Clock())
print("open", flush=True)
sys.stdin.read()
vault.close_sync()
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "eph_e2ee", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nobody at a terminal."""
    return subprocess.run(
        command(*words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def at_terminal(*words: str, typed: str) -> tuple[int, str, str]:
    """Run a command at a terminal; return its code, its standard output, and what was seen."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(
        command(*words), stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        seen = b""
        while select.select([ours], [], [], SECONDS)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:
                # The other side was closed: the process has ended.
                break
            if typed and seen.endswith(b": "):
                # Not sooner: what is typed before the echo is off is thrown away.
                os.write(ours, typed.encode())
                typed = ""
        else:
            process.kill()
        out = process.stdout.read().decode()
        code = process.wait(SECONDS)
    os.close(ours)
    return code, out, seen.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A vault with a message."""
    folder = tmp_path / "bot.vault"
    with_vault(folder)
    identity(folder)
    return folder


def with_vault(folder: Path, root_key: RootKey | None = None) -> None:
    vault = Vault.open(folder, clock=Clock(), root_key=root_key)
    vault.transact_sync(adding())
    vault.close_sync()


@contextmanager
def running_bot(folder: Path) -> Iterator[None]:
    """A process that has the vault open."""
    with subprocess.Popen(
        [sys.executable, "-c", BOT, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as bot:
        assert bot.stdout is not None
        assert bot.stdin is not None
        assert bot.stdout.readline() == "open\n"
        yield
        bot.stdin.close()
        assert bot.wait(SECONDS) == 0


def test_each_refuses_a_vault_that_a_running_bot_has(folder: Path) -> None:
    """One clear line, exit code 3, and the bot goes on."""
    with running_bot(folder):
        for each in COMMANDS:
            ended = run(*arguments(each, folder))
            assert (ended.returncode, ended.stdout) == (3, ""), each
            assert ended.stderr.count("\n") == 1
            assert "another process has the vault open; end it first" in ended.stderr


def test_a_vault_from_the_import_to_its_end(tmp_path: Path) -> None:
    """Every command as a process, one after the other, on one vault."""
    folder = tmp_path / "new.vault"
    source, word = identity(folder), tmp_path / "passphrase"
    word.write_text("a passphrase")
    known = ["--passphrase-file", str(word), "--json"]
    steps = (
        ["import-json", str(folder), str(source), "--json"],
        ["rootkey", str(folder), "--to", "passphrase", "--new-passphrase-file", *known[1:]],
        ["info", str(folder), *known],
        ["verify", str(folder), *known],
        ["purge", str(folder), *known],
        ["export-json", str(folder), str(tmp_path / "back.json"), *known],
        ["destroy", str(folder), "--yes", "--json"],
    )
    shown = []
    for step in steps:
        ended = run("vault", *step)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        shown.append(json.loads(ended.stdout))
    imported, changed, info, verified, purged, exported, destroyed = shown
    assert imported == {"imported_values": 6, "made_vault": True}
    assert changed == {"root_key": "passphrase"}
    assert info["rows"]["values"] == verified["looked_at"]["values"] == 7
    assert verified["clean"]
    assert purged["scrubbed"]
    assert exported == {"exported_values": 6}
    assert destroyed == {"destroyed": True, "left": []}
    assert not folder.exists()


def test_a_passphrase_is_asked_for_at_a_terminal_and_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    with_vault(folder, PassphraseRootKey(folder, "sentinel", cost=Cost(64, 1, 1)))
    code, out, seen = at_terminal("vault", "info", str(folder), typed="sentinel\n")
    assert code == 0, seen
    assert "rows.messages.incoming.unread: 1\n" in out
    assert "passphrase: " in seen
    assert "sentinel" not in seen
    code, out, _ = at_terminal("vault", "info", str(folder), typed="wrong\n")
    assert (code, out) == (4, "")


@pytest.mark.parametrize(
    ("more", "bar"), [([], True), (["--quiet"], False), (["--json"], False)], ids=["", "q", "j"]
)
def test_a_bar_is_shown_at_a_terminal_alone(folder: Path, more: list[str], bar: bool) -> None:  # noqa: FBT001  a parameter
    code, _, seen = at_terminal("vault", "verify", str(folder), *more, typed="")
    assert code == 0
    assert ("verifying: " in seen) is bar
    assert run("vault", "verify", str(folder), *more).stderr == ""


def test_the_command_line_is_wrong(folder: Path) -> None:
    assert run("vault", "shred", str(folder)).returncode == 2
    assert run("vault", "rootkey", str(folder)).returncode == 2
