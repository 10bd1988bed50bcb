"""Taking over what slixmpp-omemo kept in a JSON file: the same device, and its sessions go on."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from oldmemo.oldmemo import Oldmemo
from omemo.storage import Just, Maybe, Nothing, Storage

from eph_e2ee.errors import EphemeralError, LocalProtocolError, VaultDamaged, VaultForeign
from eph_e2ee.vault.exporting import MOVED, WRITTEN
from eph_e2ee.vault.importing import erase_source, import_identity, read_source
from eph_e2ee.vault.owner import OWNER
from eph_e2ee.vault.ratchets import PREFIX
from eph_e2ee.xmpp.parcel import OLD
from tests.vault.making import opened
from tests.xmpp.people import Person, Server, network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omemo.types import JSONType

    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock

ROSA, PETER = "rosa@example.org", "peter@example.org"


class JSONFile(Storage):
    """One file that is written anew at each change, as bots on slixmpp-omemo do."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._values: dict[str, JSONType] = {}

    async def _load(self, key: str) -> Maybe[JSONType]:
        return Just(self._values[key]) if key in self._values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        self._values[key] = value
        self._path.write_text(json.dumps(self._values), encoding="utf8")

    async def _delete(self, key: str) -> None:
        self._values.pop(key, None)
        self._path.write_text(json.dumps(self._values), encoding="utf8")


async def bot(server: Server, jid: str, path: Path) -> Any:
    """The session manager of an unpatched bot."""
    storage = JSONFile(path)
    sessions: Any = network(server, jid)
    made = await sessions.create([Oldmemo(storage)], storage, jid, None, "UNDECIDED")
    await made.after_history_sync()
    return made


async def encrypted(sessions: Any, jid: str, text: bytes) -> Any:
    messages, errors = await sessions.encrypt(frozenset({jid}), {OLD: text}, [OLD])
    assert not errors
    (message,) = messages
    return message


async def test_the_same_device_goes_on_with_its_sessions(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Real sessions, both ways, and a message that was on its way while the bot moved."""
    server, path, folder = Server(), tmp_path / "bot.json", tmp_path / "vault"
    peter = await bot(server, PETER, tmp_path / "peter.json")
    old = await bot(server, ROSA, path)
    await peter.refresh_device_lists(ROSA)
    await old.refresh_device_lists(PETER)
    first = await encrypted(old, PETER, b"before")
    assert (await peter.decrypt(first))[0] == b"before"
    assert (await old.decrypt(await encrypted(peter, ROSA, b"an answer")))[0] == b"an answer"
    device, _ = await old.get_own_device_information()
    on_its_way = await encrypted(peter, ROSA, b"on its way")
    await old.shutdown()
    server.sent.clear()

    vault = opened(folder, clock)
    import_identity(vault, read_source(path))
    vault.close_sync()
    rosa = Person(server, ROSA, folder, lambda _: frozenset({OLD}))
    await rosa.start()
    own, _ = await rosa.sessions.get_own_device_information()
    assert (own.device_id, own.identity_key) == (device.device_id, device.identity_key)
    assert await rosa.decrypt(on_its_way) == b"on its way"
    after = await encrypted(rosa.sessions, PETER, b"after")
    # The session went on: no new one was made.
    ((key, exchange),) = after.keys
    assert exchange is None
    assert key.device_id == (await peter.get_own_device_information())[0].device_id
    assert (await peter.decrypt(after))[0] == b"after"
    again = await encrypted(peter, ROSA, b"and so on")
    assert await rosa.decrypt(again) == b"and so on"
    await rosa.stop()
    await peter.shutdown()


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """The file of a bot that has just been made."""
    path = tmp_path / "bot.json"
    made = await bot(Server(), ROSA, path)
    await made.shutdown()
    return path


def value(vault: Vault, key: str) -> str | None:
    return vault.transact_sync(lambda transaction: transaction.value(PREFIX + key))


def test_all_values_arrive_as_they_were(source: Path, vault: Vault) -> None:
    texts = read_source(source)
    import_identity(vault, texts)
    for key, written in json.loads(source.read_text()).items():
        text = value(vault, key)
        assert text is not None
        assert json.loads(text) == written


def test_a_vault_with_an_identity_is_refused(source: Path, vault: Vault) -> None:
    """Two identities in one vault would be half of each."""
    vault.transact_sync(lambda transaction: transaction.put_value(PREFIX + "/own_device_id", "7"))
    with pytest.raises(LocalProtocolError, match="already"):
        import_identity(vault, read_source(source))
    for key in ("/ikp/key", "/ikp/is_seed"):
        assert value(vault, key) is None


def test_it_is_done_once_and_may_be_repeated(source: Path, vault: Vault) -> None:
    """Until somebody has gone on with it: nothing is rolled back, and nobody told to make two."""
    texts = read_source(source)
    import_identity(vault, texts)
    import_identity(vault, texts)
    counter = f"/{OLD}/pre_key_id_counter"
    for used in ({**texts, counter: "7"}, {**texts, "/another": "1"}):
        with pytest.raises(LocalProtocolError, match="used since") as caught:
            import_identity(vault, used)
        assert "new folder" not in str(caught.value)
    assert value(vault, counter) == texts[counter]
    assert value(vault, "/another") is None


def test_an_export_of_it_that_was_cut_short_is_finished_first(source: Path, vault: Vault) -> None:
    texts = read_source(source)
    import_identity(vault, texts)
    vault.transact_sync(lambda transaction: transaction.put_value(MOVED, WRITTEN + str(source)))
    with pytest.raises(LocalProtocolError, match="cut short: repeat that"):
        import_identity(vault, texts)
    assert vault.transact_sync(lambda transaction: transaction.value(MOVED)) is not None


def test_a_file_of_another_account_is_refused(source: Path, vault: Vault) -> None:
    """The vault's own could not use it; its own file it takes."""
    vault.transact_sync(lambda transaction: transaction.put_value(OWNER, PETER))
    with pytest.raises(LocalProtocolError, match="another account"):
        import_identity(vault, read_source(source))
    assert value(vault, "/own_device_id") is None
    vault.transact_sync(lambda transaction: transaction.put_value(OWNER, ROSA))
    import_identity(vault, read_source(source))
    assert value(vault, "/own_device_id") is not None


def without(*parts: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: {
        key: value for key, value in values.items() if not any(part in key for part in parts)
    }


def having(**values: Any) -> Callable[[dict[str, Any]], Any]:
    names = {"device": "/own_device_id", "key": "/ikp/key", "is_seed": "/ikp/is_seed"}
    return lambda old: old | {names[name]: value for name, value in values.items()}


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda _: {},
    "no device": without("/own_device_id"),
    "a device that is a truth": having(device=True),
    "a device out of range": having(device=2**31),
    "no key": without("/ikp/key"),
    "a short key": having(key="AAAA"),
    "a key that is no text": having(key=7),
    "a key with a foreign letter": having(key="ä" * 44),
    "no kind of key": without("/ikp/is_seed"),
    "no namespaces": without("/namespaces"),
    "no published keys": without("/x3dh"),
    "half a letter": lambda values: values | {"/more": "\ud800"},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_f44_a_damaged_file_is_an_error_and_no_identity(source: Path, damage: str) -> None:
    source.write_text(json.dumps(DAMAGES[damage](json.loads(source.read_text()))))
    with pytest.raises(VaultDamaged, match="restore"):
        read_source(source)


def test_f44_a_file_that_is_cut_short_anywhere_is_an_error(source: Path, full: bool) -> None:  # noqa: FBT001  a fixture
    """F44: its storage reads such a file as an empty one, and makes a new identity."""
    whole = source.read_bytes()
    for size in range(0, len(whole), 1 if full else max(1, len(whole) // 200)):
        source.write_bytes(whole[:size])
        with pytest.raises(VaultDamaged):
            read_source(source)


@pytest.mark.parametrize(
    "text", ["[]", "7", '"text"', '{"own_bare_jid": "x", "own_device_id": 7}'], ids=range(4)
)
def test_what_is_no_such_storage_is_foreign(source: Path, text: str) -> None:
    source.write_text(text)
    with pytest.raises(VaultForeign):
        read_source(source)


@pytest.mark.parametrize(
    "content", [b'{"/a": }', b' {"/a":' * 100_000, b"", b"\0" * 4096], ids=range(4)
)
def test_what_is_no_whole_json_is_damaged(source: Path, content: bytes) -> None:
    source.write_bytes(content)
    with pytest.raises(VaultDamaged):
        read_source(source)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"/own_device_id": 7}),
        b"SQLite format 3\0" + bytes(4096),
        b"\xff\xfe\xfd",
        b"[" * 100_000,
    ],
    ids=["a pickle", "SQLite", "no text", "brackets"],
)
def test_what_is_no_json_object_is_told_what_is_taken(source: Path, content: bytes) -> None:
    """Its application may keep its storage in another way; nothing is wrong with the file."""
    source.write_bytes(content)
    with pytest.raises(VaultForeign, match="JSON") as caught:
        read_source(source)
    assert "backup" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_number_that_json_does_not_know_is_damage(source: Path) -> None:
    """Python would read and write it; no other program could."""
    source.write_text(source.read_text().removesuffix("}") + ', "/more": NaN}')
    with pytest.raises(VaultDamaged):
        read_source(source)


def test_no_error_quotes_the_file(source: Path) -> None:
    """F10: neither its text nor what it was raised from."""
    source.write_text('{"/ikp/key": "sentinel-key", broken')
    with pytest.raises(EphemeralError) as caught:
        read_source(source)
    assert "sentinel" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_missing_file_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="no such file"):
        read_source(tmp_path / "nothing.json")


def test_erasing_overwrites_before_it_removes(source: Path, tmp_path: Path) -> None:
    """Seen through another name of the same file."""
    other = tmp_path / "another name"
    other.hardlink_to(source)
    before = other.read_bytes()
    erase_source(source)
    assert not source.exists()
    after = other.read_bytes()
    assert len(after) == len(before)
    assert b"/ikp/key" not in after
