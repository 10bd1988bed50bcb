"""`eph-e2ee vault` on a vault whose database is on a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.cli import main
from eph_e2ee.commands import places
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock, ManualSource
from tests.vault.making import ROSA, TEXT, add_read, adding

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgresql import Site


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ManualSource:
    """The machine's clocks, also for the commands."""
    source = ManualSource()
    monkeypatch.setattr(places, "Clock", lambda: ManualClock(source))
    return source


@pytest.fixture
def remote(
    tmp_path: Path, source: ManualSource, site: Site, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A vault with a message that runs and one that does not; its address in the environment."""
    folder = tmp_path / "vault"
    vault = Vault.open(folder, clock=ManualClock(source), database=site.address)
    vault.transact_sync(adding())
    vault.transact_sync(lambda transaction: add_read(transaction, message_id="running"))
    vault.close_sync()
    monkeypatch.setenv(places.ADDRESS, site.address)
    return folder


def test_from_looking_to_the_end(
    remote: Path, source: ManualSource, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    source.wall_time += 61
    source.boot_time += 61
    shown = []
    for command in (["info"], ["purge"], ["verify"], ["destroy", "--yes"]):
        code = main(["vault", *command, str(remote), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        assert not any(secret in out + err for secret in (TEXT, ROSA, site.address))
        shown.append(json.loads(out))
    info, purged, verified, destroyed = shown
    assert info["database"]["engine"].startswith("PostgreSQL ")
    assert info["database"]["bytes"] > 0
    assert info["rows"]["messages"] == {"incoming": {"running": 1, "unread": 1}}
    assert (purged["rows"], purged["compacted"]) == (1, True)
    assert (purged["scrubbed"], purged["scrubs"]) == (False, False)
    assert verified["clean"]
    assert verified["looked_at"]["messages"] == 2
    assert destroyed == {"destroyed": True, "left": []}
    assert site.schemas() == []
    assert not remote.exists()


def test_f2_what_no_server_can_promise_is_told(
    remote: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vault", "purge", str(remote)]) == 0
    assert "stays" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "verify", "purge", "destroy"])
def test_without_its_address_it_is_a_wrong_call(
    remote: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(places.ADDRESS)
    assert main(["vault", command, str(remote), *(["--yes"] if command == "destroy" else [])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "address" in err


@pytest.mark.parametrize("command", ["info", "verify", "purge", "destroy"])
def test_a_copy_of_the_folder_elsewhere_is_refused_while_it_is_open(
    remote: Path, site: Site, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock of the folder does not reach that far; that of the database does."""
    copy = remote.with_name("copy")
    copy.mkdir(0o700)
    for path in remote.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
        (copy / path.name).chmod(0o600)
    vault = Vault.open(remote, clock=ManualClock(), database=site.address)
    code = main(["vault", command, str(copy), *(["--yes"] if command == "destroy" else [])])
    vault.close_sync()
    assert code == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_cannot_be_reached(remote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "postgresql://rosa:sentinel@127.0.0.1:1/name"
    assert main(["vault", "info", str(remote), "--database", address]) == 6
    assert "sentinel" not in capsys.readouterr().err
