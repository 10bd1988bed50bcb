"""python-omemo's storage: committed together with the message, or not at all."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omemo.storage import NothingException

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.vault import ratchets as module
from eph_e2ee.vault.ratchets import Ratchets
from tests.vault.making import opened

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


@pytest.fixture
def ratchets(vault: Vault) -> Ratchets:
    return Ratchets(vault)


def committed(vault: Vault, key: str) -> str | None:
    return vault.transact_sync(lambda tx: tx.value(f"omemo:{key}"))


async def test_what_is_stored_is_seen_at_once_and_committed_on_demand(
    vault: Vault, ratchets: Ratchets
) -> None:
    await ratchets.store("key", {"a": [1, None]})
    assert (await ratchets.load("key")).from_just() == {"a": [1, None]}
    assert committed(vault, "key") is None
    await ratchets.commit()
    assert committed(vault, "key") == '{"a":[1,null]}'
    await ratchets.delete("key")
    assert (await ratchets.load("key")).is_nothing
    await ratchets.commit()
    assert committed(vault, "key") is None


async def test_values_survive_a_restart(vault: Vault, folder: Path, clock: ManualClock) -> None:
    first = Ratchets(vault)
    await first.store_bytes("key", b"\x00\xff")
    await first.store("list", [1, 2])
    await first.commit()
    await vault.close()
    again = opened(folder, clock)
    second = Ratchets(again)
    assert (await second.load_bytes("key")).from_just() == b"\x00\xff"
    assert (await second.load_list("list", int)).from_just() == [1, 2]
    await again.close()


async def test_every_loader_of_python_omemo_works(ratchets: Ratchets) -> None:
    await ratchets.store("int", 3)
    await ratchets.store("dict", {"a": "b"})
    await ratchets.store("none", None)
    assert (await ratchets.load_primitive("int", int)).maybe(None) == 3
    assert (await ratchets.load_dict("dict", str)).from_just() == {"a": "b"}
    assert (await ratchets.load_optional("none", int)).from_just() is None
    assert (await ratchets.load_primitive("missing", int)).maybe(5) == 5
    with pytest.raises(NothingException):
        (await ratchets.load("missing")).from_just()
    with pytest.raises(TypeError):
        await ratchets.load_primitive("int", str)
    with pytest.raises(TypeError):
        await ratchets.load_bytes("int")


async def test_nobody_changes_anothers_value(ratchets: Ratchets) -> None:
    stored = [[1]]
    await ratchets.store("key", stored)  # type: ignore[arg-type]  # lists are invariant
    stored[0].append(2)
    loaded = await ratchets.load_list("key", list)  # type: ignore[type-var]  # a list of lists
    first, second = loaded.from_just(), loaded.from_just()
    first[0].append(3)
    mapped = loaded.fmap(lambda value: value)
    mapped.from_just()[0].append(4)
    assert second == loaded.from_just() == mapped.from_just() == [[1]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(JSON)
def test_any_json_comes_back(value: object) -> None:
    maybe = module._just(lambda: json.loads(json.dumps(value)))
    assert maybe.from_just() == maybe.from_just() == maybe.maybe(None) == value
    assert maybe.is_just
    assert not maybe.is_nothing


async def test_a_value_that_has_not_changed_is_not_written_again(
    vault: Vault, ratchets: Ratchets
) -> None:
    await ratchets.store("key", {"a": 1})
    await ratchets.commit()
    await ratchets.store("key", {"a": 1})
    assert not ratchets.pending
    await ratchets.store("key", {"a": 2})
    await ratchets.store("key", {"a": 1})
    assert not ratchets.pending
    await ratchets.delete("never there")
    await ratchets.load("absent")
    await ratchets.delete("absent")
    assert set(ratchets.take().values) == {"never there"}
    assert not vault.unsettled


async def test_one_in_flight_counts_as_stored(vault: Vault, ratchets: Ratchets) -> None:
    await ratchets.store("key", 1)
    changes = ratchets.take()
    await ratchets.store("key", 1)
    assert not ratchets.pending
    await ratchets.store("key", 2)
    assert (await ratchets.load("key")).from_just() == 2
    ratchets.discard()
    assert (await ratchets.load("key")).from_just() == 1
    await vault.transact(changes.write)
    assert committed(vault, "key") == "1"


async def test_a_failed_step_falls_back_to_what_is_committed(ratchets: Ratchets) -> None:
    await ratchets.store("key", "old")
    await ratchets.commit()
    await ratchets.store("key", "new")
    await ratchets.delete("other")
    ratchets.discard()
    assert (await ratchets.load("key")).from_just() == "old"


async def test_one_of_several_steps_fails_alone(vault: Vault, ratchets: Ratchets) -> None:
    """F38, F43: what was stored before it stays, of what it stored nothing does."""
    await ratchets.store("kept", "committed")
    await ratchets.commit()
    await ratchets.store("first", 1)
    before = ratchets.savepoint()
    await ratchets.store("first", 2)
    await ratchets.store("second", 2)
    await ratchets.delete("kept")
    ratchets.restore(before)
    assert (await ratchets.load("first")).from_just() == 1
    assert (await ratchets.load("second")).is_nothing
    assert (await ratchets.load("kept")).from_just() == "committed"
    await ratchets.store("third", 3)
    await ratchets.commit()
    assert [committed(vault, key) for key in ("first", "second", "third")] == ["1", None, "3"]
    assert committed(vault, "kept") == '"committed"'


async def test_a_savepoint_is_of_one_moment(ratchets: Ratchets) -> None:
    first = ratchets.savepoint()
    await ratchets.store("key", 1)
    second = ratchets.savepoint()
    await ratchets.store("key", 2)
    ratchets.restore(second)
    await ratchets.store("other", 3)
    assert (await ratchets.load("key")).from_just() == 1
    ratchets.restore(first)
    assert not ratchets.pending
    assert (await ratchets.load("key")).is_nothing


async def fail(vault: Vault, changes: module.Changes) -> None:
    def work(transaction: Transaction) -> None:
        changes.write(transaction)
        raise KeyError

    with pytest.raises(KeyError):
        await vault.transact(work)


async def test_f43_after_a_failed_commit_everything_is_read_again(
    vault: Vault, ratchets: Ratchets
) -> None:
    await ratchets.store("key", "old")
    await ratchets.commit()
    await ratchets.store("key", "new")
    await fail(vault, ratchets.take())
    ratchets.forget_cached()
    assert (await ratchets.load("key")).from_just() == "old"
    await ratchets.store("key", "newer")
    await ratchets.commit()
    assert committed(vault, "key") == '"newer"'


async def test_f43_a_step_on_top_of_a_lost_one_is_refused(vault: Vault, ratchets: Ratchets) -> None:
    await ratchets.store("chain", 1)
    await fail(vault, ratchets.take())
    await ratchets.store("other half", 1)
    with pytest.raises(VaultUnavailable, match="lost"):
        await ratchets.commit()
    assert committed(vault, "other half") is None
    await ratchets.store("other half", 2)
    await ratchets.commit()
    assert committed(vault, "other half") == "2"


async def test_f43_a_step_whose_commit_fails_is_lost(
    vault: Vault, ratchets: Ratchets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise VaultUnavailable("the disk is full")

    await ratchets.store("chain", 1)
    changes = ratchets.take()
    with monkeypatch.context() as patch:
        patch.setattr(vault._keeper, "_keep_house", full)
        with pytest.raises(VaultUnavailable, match="full"):
            await vault.transact(changes.write)
    await ratchets.store("other half", 1)
    with pytest.raises(VaultUnavailable, match="lost"):
        await ratchets.commit()


async def test_f12_what_has_been_committed_keeps_no_spent_key_in_memory(
    vault: Vault, ratchets: Ratchets
) -> None:
    await ratchets.store("chain", "spent sentinel")
    changes = ratchets.take()
    assert changes.values
    await vault.transact(changes.write)
    assert not changes.values
    assert (await ratchets.load("chain")).from_just() == "spent sentinel"


async def test_steps_may_queue_up(vault: Vault, ratchets: Ratchets) -> None:
    futures = []
    for number in range(20):
        await ratchets.store("key", number)
        futures.append(vault.transact(ratchets.take().write))
    await asyncio.gather(*futures)
    assert committed(vault, "key") == "19"
    assert ratchets._last is not None
    assert ratchets._last._previous is None


async def test_memory_is_bounded_and_nothing_in_flight_is_forgotten(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAXIMUM_LIVE", 100)
    ratchets = Ratchets(vault)
    await ratchets.store("first", "x" * 60)
    changes = ratchets.take()
    await ratchets.store("second", "y" * 60)
    later = ratchets.take()
    assert "first" not in ratchets._live
    assert (await ratchets.load("first")).from_just() == "x" * 60
    await vault.transact(changes.write)
    await vault.transact(later.write)
    assert (await ratchets.load("first")).from_just() == "x" * 60
    assert (await ratchets.load("second")).from_just() == "y" * 60
    assert ratchets._live_size <= 100


async def test_a_value_stored_while_it_was_read_wins(vault: Vault) -> None:
    ratchets = Ratchets(vault)
    loading = asyncio.ensure_future(ratchets.load("key"))
    await asyncio.sleep(0)
    await ratchets.store("key", "stored meanwhile")
    assert (await loading).from_just() == "stored meanwhile"


async def test_f10_nothing_of_a_key_or_value_is_in_a_repr(ratchets: Ratchets) -> None:
    await ratchets.store("sentinel", "sentinel")
    loaded = await ratchets.load("sentinel")
    assert "sentinel" not in f"{ratchets!r} {ratchets.take()!r} {loaded!r}"


async def test_an_immutable_value_is_parsed_once_for_as_long_as_it_lives(
    ratchets: Ratchets, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def loads(text: str) -> object:
        parsed.append(text)
        return json.JSONDecoder().decode(text)

    await ratchets.store("text", "a")
    await ratchets.store("list", [1])
    await ratchets.commit()
    monkeypatch.setattr(json, "loads", loads)
    for _ in range(3):
        assert (await ratchets.load("text")).from_just() == "a"
        assert (await ratchets.load("list")).from_just() == [1]
    assert parsed == ['"a"', "[1]", "[1]", "[1]"]
    await ratchets.store("text", "b")
    assert (await ratchets.load("text")).from_just() == "b"
    ratchets.discard()
    assert (await ratchets.load("text")).from_just() == "a"
    await ratchets.store("text", "b")
    await ratchets.commit()
    assert (await ratchets.load("text")).from_just() == "b"
    await ratchets.delete("text")
    assert (await ratchets.load("text")).is_nothing


async def test_no_parsed_value_outlives_its_text(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAXIMUM_LIVE", 100)
    ratchets = Ratchets(vault)
    for key in ("first", "second", "third"):
        await ratchets.store(key, "x" * 40)
        await ratchets.commit()
        await ratchets.load(key)
        assert set(ratchets._parsed) <= set(ratchets._live)
        assert key in ratchets._parsed
    assert set(ratchets._parsed) == {"second", "third"}
    await ratchets.store("third", "y")
    ratchets.take()
    assert set(ratchets._parsed) == {"second"}
    ratchets.forget_cached()
    assert ratchets._parsed == {}


async def test_a_burst_keeps_only_what_is_not_written_yet(vault: Vault, ratchets: Ratchets) -> None:
    for number in range(3):
        await ratchets.store("key", number)
        await vault.transact(ratchets.take().write)
    await ratchets.store("key", 3)
    first = ratchets.take()
    await ratchets.store("key", 4)
    second = ratchets.take()
    assert list(ratchets._leaving) == [first, second]


async def test_texts_are_what_is_visible_now(ratchets: Ratchets) -> None:
    await ratchets.store("key", [1])
    await ratchets.store("gone", 1)
    await ratchets.commit()
    await ratchets.store("key", [2])
    await ratchets.delete("gone")
    now = {"key": "[2]", "gone": None}
    assert ratchets.texts(now) == now
    assert ratchets.holds(now)
    ratchets.discard()
    assert ratchets.texts(now) == {"key": "[1]", "gone": "1"}
    assert not ratchets.holds(now)
    assert ratchets.holds({"key": "[1]"})
    assert ratchets.holds({})


async def test_texts_that_have_to_be_read_are_not_at_hand(ratchets: Ratchets) -> None:
    await ratchets.store("key", 1)
    await ratchets.commit()
    ratchets.forget_cached()
    assert ratchets.texts(["key"]) is None
    assert not ratchets.holds({"key": "1"})
    assert not ratchets.holds({"never there": None})
    assert (await ratchets.load("never there")).is_nothing
    assert ratchets.holds({"never there": None})
    assert (await ratchets.load("key")).from_just() == 1
    assert ratchets.holds({"key": "1"})


async def test_a_text_is_stored_like_its_value(vault: Vault, ratchets: Ratchets) -> None:
    await ratchets.store("key", {"a": "\x00\xff"})
    (text,) = ratchets.take().values.values()
    assert text is not None
    ratchets.put_text("key", text)
    assert not ratchets.pending
    ratchets.put_text("key", '{"a":"b"}')
    assert (await ratchets.load("key")).from_just() == {"a": "b"}
    ratchets.put_text("other", "1")
    assert set(ratchets.take().values) == {"key", "other"}
    assert not vault.unsettled


async def test_what_is_held_stays_in_memory(
    ratchets: Ratchets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in use, though nobody reads it."""
    monkeypatch.setattr(module, "MAXIMUM_LIVE", 30)
    for key in ("one", "two"):
        await ratchets.store(key, "x" * 8)
    await ratchets.commit()
    ratchets.forget_cached()
    for key in ("one", "two"):
        await ratchets.load(key)
    assert ratchets.holds({"one": '"xxxxxxxx"'})
    await ratchets.load("three")
    assert ratchets.holds({"one": '"xxxxxxxx"'})
    assert not ratchets.holds({"two": '"xxxxxxxx"'})
