"""`eph-e2ee vault`: what each command shows and changes, in this process."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import keyring
import pytest
from sqlalchemy import update

from eph_e2ee.commands import places
from eph_e2ee.vault.database import messages
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock, ManualSource
from tests.support.keyring import Keyring
from tests.support.operating import arguments, identity, run, with_vault
from tests.vault.making import PETER, ROSA, TEXT, texts

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


def test_info_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "vault", "info", str(folder), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["rows"]["messages"] == {"incoming": {"running": 1, "unread": 2}}
    assert (found["rows"]["tombstones"], found["rows"]["conversations"]) == (1, 2)
    assert found["time"]["next_deadline"] == {
        "seconds": 1_750_000_060,
        "time": "2025-06-15T15:07:40+00:00",
    }
    assert found["time"]["leap_in_doubt"] is False
    assert found["keys"]["root_key"] == "file"
    assert found["keys"]["bytes"] >= 4096
    assert found["database"]["engine"].startswith("SQLite 3")


def test_info_tells_of_a_leap_that_is_in_doubt(
    folder: Path, source: ManualSource, capsys: pytest.CaptureFixture[str]
) -> None:
    source.wall_time += 7 * 86_400
    code, out, _ = run(capsys, "vault", "info", str(folder))
    assert code == 0
    assert "time.leap_in_doubt: yes\n" in out


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", ["info", "verify", "purge"])
def test_f10_no_command_shows_what_a_vault_keeps(
    folder: Path, command: str, json_too: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a text nor a name: only the folder's own may be told, and is not."""
    _, out, err = run(capsys, "vault", command, str(folder), *json_too)
    for secret in (TEXT, ROSA, PETER, "sentinel"):
        assert secret not in out + err
    if json_too:
        json.loads(out)


def test_verify_finds_nothing_in_a_sound_vault(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "vault", "verify", str(folder))
    assert (code, err) == (0, "")
    assert "clean: yes\n" in out
    assert "looked_at.messages: 4\n" in out


def test_verify_names_the_number_of_what_does_not_open(
    folder: Path, source: ManualSource, capsys: pytest.CaptureFixture[str]
) -> None:
    damage = update(messages).where(messages.c.number == 1).values(content=b"\0" * 80)
    vault = Vault.open(folder, clock=ManualClock(source))
    vault.transact_sync(lambda transaction: transaction.read(damage).close())
    vault.close_sync()
    code, out, err = run(capsys, "vault", "verify", str(folder), "--json")
    assert code == 1
    assert json.loads(out)["messages_that_do_not_open"] == {"count": 1, "first": [1]}
    assert err.count("\n") == 1


def test_purge_destroys_what_is_due(
    folder: Path, source: ManualSource, capsys: pytest.CaptureFixture[str]
) -> None:
    source.wall_time += 61
    source.boot_time += 61
    code, out, err = run(capsys, "vault", "purge", str(folder), "--json")
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert (done["due"], done["compacted"], done["scrubbed"]) == ("destroyed", True, True)
    # Opening had forgotten it already; only its row was left.
    assert done["rows"] == 1


def test_f2_purge_tells_when_a_reader_stops_the_scrub(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F2: not a clean end, and what was reached is told."""
    with closing(sqlite3.connect(folder / "vault.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        code, out, err = run(capsys, "vault", "purge", str(folder), "--json")
    assert code == 6
    assert json.loads(out)["due"] == "destroyed"
    assert json.loads(out)["scrubbed"] is False
    assert "end it and purge again" in err


def test_the_root_key_goes_from_place_to_place(
    folder: Path, tmp_path: Path, source: ManualSource, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a passphrase, to another one, and back; each time the old place opens nothing."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("first passphrase\n")
    other.write_text("second passphrase")
    to = ["vault", "rootkey", str(folder), "--to"]
    assert run(capsys, *to, "passphrase", "--new-passphrase-file", str(one))[0] == 0
    assert not (folder / "root.key").exists()
    known = ["--passphrase-file", str(one)]
    assert run(capsys, *to, "passphrase", *known, "--new-passphrase-file", str(other))[0] == 0
    assert run(capsys, "vault", "info", str(folder), *known)[0] == 4
    known = ["--passphrase-file", str(other)]
    assert run(capsys, "vault", "info", str(folder), *known)[0] == 0
    assert run(capsys, *to, "file", *known)[0] == 0
    assert not (folder / "root.passphrase").exists()
    vault = Vault.open(folder, clock=ManualClock(source))
    assert texts(vault, PETER) == [TEXT]
    vault.close_sync()


def test_a_copy_from_before_a_new_passphrase_opens_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F11: whoever knows the old passphrase and copied the root key's file has nothing."""
    (tmp_path / "one").write_text("first")
    (tmp_path / "other").write_text("second")
    to = ["vault", "rootkey", str(folder), "--to", "passphrase", "--new-passphrase-file"]
    run(capsys, *to, str(tmp_path / "one"))
    copy = (folder / "root.passphrase").read_bytes()
    known = ["--passphrase-file", str(tmp_path / "one")]
    assert run(capsys, *to, str(tmp_path / "other"), *known)[0] == 0
    (folder / "root.passphrase").write_bytes(copy)
    assert run(capsys, "vault", "info", str(folder), *known)[0] == 4


def test_a_change_that_was_cut_short_is_finished(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both places stand; the one that opens is found, and the other one goes."""
    copy = (folder / "root.key").read_bytes()
    (tmp_path / "one").write_text("first")
    to = ["vault", "rootkey", str(folder), "--to", "passphrase", "--new-passphrase-file"]
    run(capsys, *to, str(tmp_path / "one"))
    (folder / "root.key").write_bytes(copy)
    (folder / "root.key").chmod(0o600)
    assert run(capsys, "vault", "info", str(folder))[0] == 2
    known = ["--passphrase-file", str(tmp_path / "one")]
    assert run(capsys, "vault", "info", str(folder), *known)[0] == 0
    assert run(capsys, *to, str(tmp_path / "one"), *known)[0] == 0
    assert not (folder / "root.key").exists()


def test_a_root_key_in_the_keyring(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must be named from then on, also to be destroyed."""
    ring = Keyring()
    monkeypatch.setattr(keyring, "get_keyring", lambda: ring)
    to = ["vault", "rootkey", str(folder), "--to", "keyring"]
    assert run(capsys, *to)[0] == 2
    assert run(capsys, *to, "--new-keyring", "bot")[0] == 0
    assert not (folder / "root.key").exists()
    for command, code in (("info", 4), ("destroy", 2)):
        found, out, err = run(capsys, *arguments(command, folder))
        assert (found, out) == (code, "")
        assert "keyring" in err
    known = ["--keyring", "bot"]
    code, out, _ = run(capsys, "vault", "info", str(folder), *known)
    assert code == 0
    assert "keys.root_key: keyring\n" in out
    assert ring.items
    assert run(capsys, *arguments("destroy", folder), *known)[0] == 0
    assert not ring.items
    assert not folder.exists()


def test_a_root_key_that_stays_where_it_is_is_a_wrong_call(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "vault", "rootkey", str(folder), "--to", "file")
    assert (code, out) == (2, "")
    assert "already" in err


def test_importing_makes_a_vault_and_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    path = identity(new)
    command = ["vault", "import-json", str(new), str(path)]
    code, out, err = run(capsys, *command, "--json")
    assert code == 0
    assert json.loads(out) == {"imported_values": 6, "made_vault": True}
    assert "must not be used any more" in err
    assert path.exists()
    assert run(capsys, "vault", "verify", str(new))[0] == 0


def test_importing_can_make_a_vault_behind_a_passphrase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    path, word = identity(new), tmp_path / "word"
    word.write_text("a passphrase")
    known = ["--passphrase-file", str(word)]
    code, _, err = run(capsys, "vault", "import-json", str(new), str(path), *known, "--quiet")
    assert code == 0
    assert "must not be used any more" in err
    assert sorted(each.name for each in new.glob("root.*")) == ["root.passphrase"]
    assert run(capsys, "vault", "verify", str(new), *known)[0] == 0


def test_an_import_that_was_interrupted_is_finished_by_repeating_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was queued is written all the same: a new folder would be a second owner."""
    new, transact = tmp_path / "new", Vault.transact_sync

    def interrupted(self: Vault, work: Any) -> Any:
        transact(self, work)
        raise KeyboardInterrupt

    command = ["vault", "import-json", str(new), str(identity(new)), "--erase-source"]
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "transact_sync", interrupted)
        code, _, err = run(capsys, *command)
    assert code == 130
    assert "can be repeated" in err
    code, _, err = run(capsys, *command)
    assert code == 0
    assert "must not be used any more" in err
    assert not list(tmp_path.glob("*.json"))


def test_importing_erases_the_file_when_told_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = identity(folder)
    code, _, err = run(capsys, *arguments("import-json", folder), "--erase-source")
    assert code == 0
    assert not path.exists()
    assert "may keep old blocks" in err


def test_exporting_gives_the_same_back_and_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, back = tmp_path / "new", tmp_path / "back.json"
    path = identity(new)
    assert run(capsys, "vault", "import-json", str(new), str(path))[0] == 0
    command = ["vault", "export-json", str(new), str(back)]
    code, out, err = run(capsys, *command, "--json", "--quiet")
    assert (code, json.loads(out)) == (0, {"exported_values": 6})
    assert "the only copy" in err
    assert json.loads(back.read_text()) == json.loads(path.read_text())
    assert back.stat().st_mode & 0o777 == 0o600
    for target in (back, tmp_path / "another.json"):
        code, _, err = run(capsys, "vault", "export-json", str(new), str(target))
        assert code == 2
        assert "nothing was exported" in err
    assert run(capsys, "vault", "verify", str(new))[0] == 0
    assert run(capsys, "vault", "import-json", str(new), str(back))[0] == 0


def test_exporting_over_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    path = identity(new)
    assert run(capsys, "vault", "import-json", str(new), str(path))[0] == 0
    code, out, err = run(capsys, "vault", "export-json", str(new), str(path))
    assert (code, out) == (2, "")
    assert "exists already" in err


def test_f44_a_damaged_file_makes_no_vault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = identity(tmp_path / "new")
    path.write_text(path.read_text()[:-7])
    code, out, err = run(capsys, "vault", "import-json", str(tmp_path / "new"), str(path))
    assert (code, out) == (5, "")
    assert "Nothing was imported" in err
    assert not (tmp_path / "new").exists()


def test_importing_into_a_folder_with_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = identity(tmp_path / "new")
    assert run(capsys, "vault", "import-json", str(tmp_path), str(path))[0] == 4
    assert [each.name for each in tmp_path.iterdir()] == ["bot.json"]


@pytest.mark.parametrize("name", ["sentinel.vault", "another"])
def test_destroy_asks_for_the_folders_name_on_a_terminal(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(name + "\n"))
    code, out, _ = run(capsys, "vault", "destroy", str(folder), "--json")
    if name == folder.name:
        assert (code, json.loads(out)) == (0, {"destroyed": True, "left": []})
        assert not folder.exists()
    else:
        assert (code, out) == (2, "")
        assert run(capsys, "vault", "verify", str(folder))[0] == 0


def test_destroy_needs_yes_where_nobody_can_be_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "vault", "destroy", str(folder))
    assert code == 2
    assert "--yes" in err
    assert run(capsys, "vault", "verify", str(folder))[0] == 0
