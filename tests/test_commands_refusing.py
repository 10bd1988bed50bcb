"""What `eph-e2ee vault` refuses, with which exit code, and what its errors never show."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee.cli import main
from eph_e2ee.commands import places
from eph_e2ee.vault import inspection
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock, ManualSource
from tests.support.operating import COMMANDS, arguments, identity, run, with_vault
from tests.vault.making import TEXT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> ManualSource:
    """The machine's clocks, also for the commands."""
    source = ManualSource()
    monkeypatch.setattr(places, "Clock", lambda: ManualClock(source))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return source


@pytest.fixture
def folder(tmp_path: Path, source: ManualSource) -> Path:
    """A vault with four messages: unread, running, erased, and one to somebody else."""
    folder = tmp_path / "sentinel.vault"
    with_vault(folder, source)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_each_refuses_a_vault_that_is_in_use(
    folder: Path, command: str, source: ManualSource, capsys: pytest.CaptureFixture[str]
) -> None:
    identity(folder)
    vault = Vault.open(folder, clock=ManualClock(source))
    code, out, err = run(capsys, *arguments(command, folder))
    vault.close_sync()
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert "has the vault open" in err


@pytest.mark.parametrize("command", [each for each in COMMANDS if each != "import-json"])
def test_each_refuses_a_folder_without_a_vault_and_makes_nothing(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, other = tmp_path / "missing", tmp_path / "other"
    other.mkdir(0o700)
    (other / "a letter").touch()
    for folder in (missing, other):
        code, out, err = run(capsys, *arguments(command, folder))
        assert (code, out) == (4, "")
        assert "no vault here" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["other", "a letter"]


@pytest.mark.parametrize(
    ("name", "code"), [("keys.0", 5), ("vault.db", 5), ("root.key", 4)], ids=["keys", "db", "root"]
)
def test_a_lost_file_is_an_error_and_no_new_vault(
    folder: Path, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """F44."""
    for path in folder.glob(name.replace("0", "*")):
        path.unlink()
    found, out, err = run(capsys, "vault", "info", str(folder))
    assert (found, out) == (code, "")
    assert "restore" in err


def test_a_passphrase_is_needed_and_told_so(
    tmp_path: Path, source: ManualSource, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "vault"
    with_vault(folder, source, PassphraseRootKey(folder, "secret", cost=Cost(64, 1, 1)))
    code, _, err = run(capsys, "vault", "info", str(folder))
    assert code == 2
    assert "--passphrase-file" in err


def test_a_passphrase_from_standard_input(
    tmp_path: Path,
    source: ManualSource,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "vault"
    with_vault(folder, source, PassphraseRootKey(folder, "sécret", cost=Cost(64, 1, 1)))
    monkeypatch.setattr("sys.stdin", io.StringIO("sécret\n"))
    code, out, _ = run(capsys, "vault", "info", str(folder), "--passphrase-file", "-")
    assert code == 0
    assert "keys.root_key: passphrase\n" in out


def test_an_address_is_never_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is on the command line or in the environment, which a vault in files ignores."""
    address = "postgresql://rosa:sentinel@127.0.0.1:1/name"
    monkeypatch.setenv(places.ADDRESS, address)
    assert run(capsys, "vault", "info", str(folder))[0] == 0
    code, out, err = run(capsys, "vault", "info", str(folder), "--database", address)
    assert code == 2
    assert "sentinel@" not in out + err


def test_a_disk_that_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.chmod(0o755)
    code, _, err = run(capsys, "vault", "info", str(folder))
    assert code == 6
    assert "0700" in err


def test_f10_a_fault_shows_its_type_and_place_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(TEXT)

    monkeypatch.setattr(inspection, "describe", broken)
    code, out, err = run(capsys, "vault", "info", str(folder))
    assert (code, out) == (7, "")
    assert "RuntimeError in broken, test_commands_refusing.py" in err
    assert TEXT not in err


def test_an_interruption_has_its_code(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "describe", interrupted)
    assert run(capsys, "vault", "info", str(folder))[0] == 130
    assert run(capsys, "vault", "verify", str(folder))[0] == 0


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_tells_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["vault", command, "--help"] if command else ["vault", "--help"])
    assert ended.value.code == os.EX_OK
    out = capsys.readouterr().out
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert f"\n  {code:<4} " in out
