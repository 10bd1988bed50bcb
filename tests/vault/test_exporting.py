"""The way back to slixmpp-omemo: the identity moves, and is never in two places at once."""

from __future__ import annotations

import itertools
import json
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest
from oldmemo.oldmemo import Oldmemo
from slixmpp import ClientXMPP
from twomemo.twomemo import Twomemo

import eph_e2ee
from eph_e2ee.errors import LocalProtocolError, VaultUnavailable
from eph_e2ee.vault import exporting, inspection
from eph_e2ee.vault.exporting import export_identity, names, require_identity
from eph_e2ee.vault.importing import import_identity, read_source
from eph_e2ee.vault.ratchets import PREFIX
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.support.adopting import JSONFile
from tests.support.client import new_context
from tests.vault.making import opened
from tests.vault.test_importing import encrypted
from tests.xmpp.people import Person, Server, network

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import ManualClock

ROSA, PETER, KARL = "rosa@example.org", "peter@example.org", "karl@example.org"
ASIDE = f"/{OLD}/{PETER}/aside/7/double_ratchet"


async def bot(server: Server, jid: str, path: Path, *more: Any) -> Any:
    """The session manager of an unpatched bot, on a file that may be there already."""
    storage = JSONFile(path)
    kind: Any = network(server, jid)
    backends = [Oldmemo(storage), *(backend(storage) for backend in more)]
    return await kind.create(backends, storage, jid, None, "UNDECIDED")


@pytest.fixture
async def peter(tmp_path: Path) -> Any:
    """Somebody else, on unpatched python-omemo, with the server that both use."""
    server = Server()
    made = await bot(server, PETER, tmp_path / "peter.json")
    await made.after_history_sync()
    made.server = server
    yield made
    await made.shutdown()


@pytest.fixture
async def home(peter: Any, tmp_path: Path) -> Path:
    """Rosa's vault, with a session in which both have spoken."""
    home = tmp_path / "vault"
    rosa = Person(peter.server, ROSA, home, lambda _: frozenset({OLD}))
    await rosa.start()
    await rosa.sessions.refresh_device_lists(PETER)
    await peter.refresh_device_lists(ROSA)
    assert (await peter.decrypt(await encrypted(rosa.sessions, PETER, b"before")))[0] == b"before"
    assert await rosa.decrypt(await encrypted(peter, ROSA, b"an answer")) == b"an answer"
    await rosa.stop()
    peter.server.sent.clear()
    return home


def value(vault: Vault, key: str) -> str | None:
    return vault.transact_sync(lambda transaction: transaction.value(PREFIX + key))


async def test_an_unpatched_bot_goes_on_with_it(
    home: Path, peter: Any, tmp_path: Path, clock: ManualClock
) -> None:
    """The same device, the same sessions, both ways, and what was on its way."""
    on_its_way = await encrypted(peter, ROSA, b"on its way")
    (before,) = await peter.get_device_information(ROSA)
    path = tmp_path / "rosa.json"
    vault = opened(home, clock)
    count = export_identity(vault, path)
    vault.close_sync()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(json.loads(path.read_text())) == count
    rosa = await bot(peter.server, ROSA, path)
    own, _ = await rosa.get_own_device_information()
    assert (own.device_id, own.identity_key) == (before.device_id, before.identity_key)
    assert (await rosa.decrypt(on_its_way))[0] == b"on its way"
    after = await encrypted(rosa, PETER, b"after")
    ((_, exchange),) = after.keys
    assert exchange is None
    assert (await peter.decrypt(after))[0] == b"after"
    assert (await rosa.decrypt(await encrypted(peter, ROSA, b"and so on")))[0] == b"and so on"
    (again,) = await peter.get_device_information(ROSA)
    assert again == before
    await rosa.shutdown()


def test_the_vault_has_nothing_of_it_any_more(
    home: Path, tmp_path: Path, clock: ManualClock
) -> None:
    vault = opened(home, clock)
    export_identity(vault, tmp_path / "rosa.json")
    assert inspection.describe(vault).values == 1  # that it is gone
    for key in json.loads((tmp_path / "rosa.json").read_text()):
        assert value(vault, key) is None
    with pytest.raises(LocalProtocolError, match="no OMEMO identity"):
        export_identity(vault, tmp_path / "again.json")
    vault.close_sync()
    assert sorted(each.name for each in tmp_path.glob("*.json")) == ["peter.json", "rosa.json"]


async def test_attaching_is_refused_until_it_is_back(
    home: Path, peter: Any, tmp_path: Path, clock: ManualClock
) -> None:
    """A new identity would be made otherwise, and nobody would know why (F44)."""
    path = tmp_path / "rosa.json"
    vault = opened(home, clock)
    export_identity(vault, path)
    vault.close_sync()
    client = ClientXMPP(ROSA, "secret", ssl_context=new_context())
    with pytest.raises(LocalProtocolError, match="exported"):
        eph_e2ee.attach(client, vault=home, clock=clock)
    assert "xep_0384" not in client.plugin
    vault = opened(home, clock)
    import_identity(vault, read_source(path))
    require_identity(vault)
    vault.close_sync()
    rosa = Person(peter.server, ROSA, home, lambda _: frozenset({OLD}))
    await rosa.start()
    assert await rosa.decrypt(await encrypted(peter, ROSA, b"again")) == b"again"
    await rosa.stop()


async def test_there_and_back_and_there(home: Path, tmp_path: Path, clock: ManualClock) -> None:
    """No value is lost on the way, not even of accounts without a session."""
    vault = opened(home, clock)
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    export_identity(vault, first)
    import_identity(vault, read_source(first))
    export_identity(vault, second)
    vault.close_sync()
    assert json.loads(first.read_text()) == json.loads(second.read_text())


async def test_every_key_of_theirs_is_known(tmp_path: Path) -> None:
    """The vault cannot list its keys; python-omemo's are told by what it has written itself."""
    server, path = Server(), tmp_path / "rosa.json"
    peter, karl = (
        await bot(server, PETER, tmp_path / "peter.json"),
        await bot(server, KARL, tmp_path / "karl.json"),
    )
    rosa = await bot(server, ROSA, path, Twomemo)
    for jid in (PETER, KARL):
        await rosa.refresh_device_lists(jid)
    await peter.refresh_device_lists(ROSA)
    # In the mode in which python-omemo begins, it queues what it would answer.
    await rosa.decrypt(await encrypted(peter, ROSA, b"text"))
    await encrypted(rosa, PETER, b"text")
    (device,) = await rosa.get_device_information(KARL)
    await rosa.set_trust(KARL, device.identity_key, "DISTRUSTED")
    values = json.loads(path.read_text())
    assert any(key.startswith("/queue/") for key in values)
    assert any(key.startswith(f"/trust/{KARL}/") for key in values)
    known = set(names(values.get, [ROSA, PETER, KARL]))
    assert set(values) <= known
    assert f"/slixmpp/subscribed/{KARL}/{MODERN}" in known
    for each in (rosa, peter, karl):
        await each.shutdown()


def test_sessions_laid_aside_stay_out(home: Path, tmp_path: Path, clock: ManualClock) -> None:
    """Nobody else would look at them; they are destroyed with the rest."""
    vault = opened(home, clock)
    accounts = json.loads(value(vault, f"/{OLD}/bare_jids") or "")
    vault.transact_sync(
        lambda transaction: transaction.put_values(
            {
                f"{PREFIX}/{OLD}/bare_jids": json.dumps([*accounts, f"{PETER}/aside"]),
                f"{PREFIX}/{OLD}/{PETER}/aside/device_ids": "[7]",
                f"{PREFIX}{ASIDE}": '"a ratchet"',
            }
        )
    )
    export_identity(vault, tmp_path / "rosa.json")
    written = json.loads((tmp_path / "rosa.json").read_text())
    assert written[f"/{OLD}/bare_jids"] == accounts
    # With slashes: chance may make the word in the base64 of an identity key.
    assert not [key for key in written if "/aside/" in key]
    assert value(vault, ASIDE) is None
    vault.close_sync()


def test_a_file_that_exists_is_not_touched(home: Path, tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "rosa.json"
    path.write_text("something of somebody's")
    vault = opened(home, clock)
    with pytest.raises(LocalProtocolError, match="exists already"):
        export_identity(vault, path)
    require_identity(vault)
    vault.close_sync()
    assert path.read_text() == "something of somebody's"


def test_a_vault_without_an_identity(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="no OMEMO identity"):
        export_identity(vault, tmp_path / "rosa.json")
    assert not (tmp_path / "rosa.json").exists()


@pytest.mark.parametrize("refusing", ["rename", "pwrite"])
def test_a_disk_that_refuses_leaves_all_as_it_was(
    refusing: str,
    home: Path,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    vault = opened(home, clock)
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_through", refuse) if refusing == "pwrite" else None
        patch.setattr(type(tmp_path), "rename", refuse)
        with pytest.raises(VaultUnavailable, match="No space"):
            export_identity(vault, tmp_path / "rosa.json")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["peter.json", "vault"]
    require_identity(vault)
    export_identity(vault, tmp_path / "rosa.json")
    vault.close_sync()


class Killed(BaseException):
    """The end of the process."""


def killed(vault: Vault, path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Export, and die: "begun", with the draft "noted", or with the file "named"."""
    name = exporting._name

    def die(*given: Any) -> None:
        if stage == "named":
            name(*given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_through" if stage == "begun" else "_name", die)
        with pytest.raises(Killed):
            export_identity(vault, path)


async def use(peter: Any, path: Path) -> None:
    """Have a bot go on with it."""
    rosa = await bot(peter.server, ROSA, path)
    await encrypted(rosa, PETER, b"text")
    await rosa.shutdown()


@pytest.mark.parametrize("stage", ["begun", "noted", "named"])
async def test_cut_short_it_is_finished_by_repeating_it(  # noqa: PLR0917 -- fixtures
    stage: str,
    home: Path,
    peter: Any,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meanwhile the vault is locked; also when somebody has used the file already."""
    path = tmp_path / "rosa.json"
    vault = opened(home, clock)
    killed(vault, path, monkeypatch, stage)
    assert path.exists() == (stage == "named")
    with pytest.raises(LocalProtocolError, match=f"cut short: repeat it, to {path}"):
        require_identity(vault)
    if stage == "named":
        await use(peter, path)
    kept = path.read_bytes() if path.exists() else None
    if stage != "begun":
        with pytest.raises(LocalProtocolError, match=f"repeat it, to {path}"):
            export_identity(vault, tmp_path / "another.json")
    export_identity(vault, path)
    assert kept in {None, path.read_bytes()}
    assert value(vault, "/own_device_id") is None
    assert json.loads(path.read_text())["/own_device_id"] > 0
    vault.close_sync()
    assert not (tmp_path / ".rosa.json.new").exists()


async def test_a_file_that_was_moved_is_not_written_anew(
    home: Path, peter: Any, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There would be two that go on with the same sessions."""
    path, moved = tmp_path / "rosa.json", tmp_path / "bot.json"
    vault = opened(home, clock)
    killed(vault, path, monkeypatch, "named")
    path.rename(moved)
    await use(peter, moved)
    kept = moved.read_bytes()
    with pytest.raises(LocalProtocolError, match=f"moved to: repeat it, to {path}"):
        export_identity(vault, tmp_path / "another.json")
    export_identity(vault, path)
    assert value(vault, "/own_device_id") is None
    vault.close_sync()
    assert not path.exists()
    assert moved.read_bytes() == kept


def refused(vault: Vault, path: Path, *, first: int, times: int) -> str:
    """What an export says when the vault does not take some of its writes."""
    calls, transact = iter(range(1, 99)), Vault.transact_sync

    def refuse(self: Vault, work: Any) -> Any:
        if first <= next(calls) < first + times:
            raise VaultUnavailable("the disk is full")
        return transact(self, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "transact_sync", refuse)
        with pytest.raises(VaultUnavailable, match="the disk is full") as caught:
            export_identity(vault, path)
    return str(caught.value)


def test_a_vault_that_refuses_tells_who_has_the_identity(
    home: Path, tmp_path: Path, clock: ManualClock
) -> None:
    """Either all is as before, or the text says what to do, and that is safe."""
    for first, times in itertools.product((2, 3, 4), (1, 9)):
        place = tmp_path / f"{first} {times}"
        path, moved = place / "rosa.json", place / "bot.json"
        vault = opened(shutil.copytree(home, place / "vault"), clock)
        told = refused(vault, path, first=first, times=times)
        if named := first == 4:
            assert f"the identity is in {path}, whole" in told
            path.rename(moved)
        elif first == 3 and times > 1:
            assert f"the vault is locked: repeat the export, to {path}" in told
        else:
            assert "repeat" not in told
            require_identity(vault)
            assert not list(place.glob("*rosa*"))
        export_identity(vault, path)
        assert value(vault, "/own_device_id") is None
        assert (path.exists(), moved.exists()) == (not named, named)
        vault.close_sync()


def test_what_has_taken_the_name_meanwhile_stays(
    home: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rosa.json"
    vault = opened(home, clock)
    killed(vault, path, monkeypatch, "noted")
    path.write_text("something of somebody's")
    path.chmod(0o600)
    with pytest.raises(VaultUnavailable, match=f"something else has that name.*to {path}"):
        export_identity(vault, path)
    assert path.read_text() == "something of somebody's"
    path.unlink()
    export_identity(vault, path)
    vault.close_sync()
    assert json.loads(path.read_text())["/own_device_id"] > 0


def test_cut_short_it_may_go_elsewhere(
    home: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = opened(home, clock)
    killed(vault, tmp_path / "rosa.json", monkeypatch, "begun")
    export_identity(vault, tmp_path / "another.json")
    vault.close_sync()
    assert (tmp_path / "another.json").exists()
    assert not list(tmp_path.glob("*rosa*"))


def test_another_file_in_its_place_is_not_taken_for_it(
    home: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ratchets are forgotten only where the identity is in the file."""
    path = tmp_path / "rosa.json"
    vault = opened(home, clock)
    killed(vault, path, monkeypatch, "begun")
    for other in ("{}", "[]", "no JSON", "[" * 100_000):
        path.write_text(other)
        path.chmod(0o600)
        with pytest.raises(LocalProtocolError, match="exists already"):
            export_identity(vault, path)
    assert value(vault, "/own_device_id") is not None
    vault.close_sync()
