"""Whatever becomes of operations, what stands in the storage is what python-omemo would store."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import twomemo
from hypothesis import given, settings
from hypothesis import strategies as st
from omemo.storage import Just, Maybe, Nothing, Storage

from eph_e2ee.vault import ratchets as ratchets_module
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp import crossing, standing
from eph_e2ee.xmpp.backends import Modern
from eph_e2ee.xmpp.crossing import ASIDE
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.parcel import MODERN
from eph_e2ee.xmpp.standing import Standing, Texts
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from omemo.types import JSONType

PETER, ANNA = "peter@example.org", "anna@example.org"
PLACES: Final = (PETER, PETER + ASIDE, ANNA)
DEVICE: Final = 1


class Plain(Storage):
    """A dictionary without a cache, as python-omemo's own would not follow it back.

    Attributes:
        values: everything that is stored.
        stored: every key that was stored, in order.
    """

    def __init__(self) -> None:
        super().__init__(disable_cache=True)
        self.values: dict[str, JSONType] = {}
        self.stored: list[str] = []

    async def _load(self, key: str) -> Maybe[JSONType]:
        return Just(self.values[key]) if key in self.values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        self.stored.append(key)
        self.values[key] = value

    async def _delete(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class Both:
    """Our backend on a vault, and python-omemo's own beside it, which do the same.

    Attributes:
        held: by place, the session that an operation has in hand, on both sides.
    """

    vault: Vault
    held: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    async def start(self) -> None:
        self.ratchets, self.plain = Ratchets(self.vault), Plain()
        self.gate = Gate(self.ratchets)
        self.ours, self.theirs = Modern(self.ratchets), twomemo.Twomemo(self.plain)
        self.ours.gate = self.gate
        self.keys: set[str] = set()
        self.savepoint: tuple[Any, dict[str, JSONType]] = (self.ratchets.savepoint(), {})
        await self.commit("")

    # -- what an operation can do; each takes a place --------------------------------------------

    async def build(self, place: str) -> None:
        """Begin another session."""
        bundle = await bundle_of(place)
        _, plain = await self.ours.encrypt_plaintext(b"text")
        session, _ = await self.ours.build_session_active(place, DEVICE, bundle, plain)
        self.held[place] = session, copy.deepcopy(session)

    async def load(self, place: str) -> None:
        """Load what stands there: the same on both sides."""
        self.held.pop(place, None)
        ours = await self.ours.load_session(place, DEVICE)
        theirs = await self.theirs.load_session(place, DEVICE)
        assert (ours is None) is (theirs is None)
        if theirs is not None:
            assert described(ours) == described(theirs)
            self.held[place] = ours, theirs

    async def turn(self, place: str) -> None:
        """Encrypt: with the same key, from the same ratchet."""
        if place in self.held:
            ours, theirs = self.held[place]
            _, plain = await self.theirs.encrypt_plaintext(b"text")
            one = await self.ours.encrypt_key_material(ours, plain)
            other = await self.theirs.encrypt_key_material(theirs, plain)
            assert one.serialize() == other.serialize()

    async def confirm(self, place: str) -> None:
        """What decrypting does, beyond turning the ratchet."""
        if place in self.held:
            await self.turn(place)
            for session in self.held[place]:
                session.confirm()

    async def store(self, place: str) -> None:
        """Store what is in hand."""
        if place in self.held:
            ours, theirs = self.held[place]
            await self.ours.store_session(ours)
            await self.theirs.store_session(theirs)

    async def lay_aside(self, place: str) -> None:
        """Store what is in hand under another name; as in `crossing`, it is not used further."""
        if place in self.held:
            ours, theirs = self.held.pop(place)
            other = PLACES[(PLACES.index(place) + 1) % len(PLACES)]
            await self.ours.store_session(crossing._named(ours, other))
            await self.theirs.store_session(crossing._named(theirs, other))

    async def purge(self, place: str) -> None:
        """Forget the sessions with an account."""
        account = place.removesuffix(ASIDE)
        await self.ours.purge_bare_jid(account)
        await crossing.purge(self.theirs, account)

    async def commit(self, _: str) -> None:
        """What is stored so far stays."""
        await self.ratchets.commit()
        self.committed = copy.deepcopy(self.plain.values)
        self.savepoint = self.ratchets.savepoint(), self.committed

    async def discard(self, _: str) -> None:
        """The operation has failed; what it has in hand is not gone."""
        self.ratchets.discard()
        self.plain.values = copy.deepcopy(self.committed)
        self.savepoint = self.ratchets.savepoint(), self.committed

    async def save(self, _: str) -> None:
        self.savepoint = self.ratchets.savepoint(), copy.deepcopy(self.plain.values)

    async def restore(self, _: str) -> None:
        """One of several steps has failed."""
        pending, values = self.savepoint
        self.ratchets.restore(dict(pending))
        self.plain.values = copy.deepcopy(values)

    async def lose(self, _: str) -> None:
        """The commit has failed."""
        self.ratchets.take()
        self.ratchets.forget_cached()
        await self.discard("")

    async def fail(self, place: str) -> None:
        """A whole operation that encrypts, stores, and is discarded."""
        for step in (self.load, self.turn, self.store, self.discard, self.load):
            await step(place)

    # -- afterwards ------------------------------------------------------------------------------

    async def check(self) -> None:
        """Every value is the same on both sides."""
        self.keys |= self.plain.values.keys()
        for key in self.keys:
            ours, theirs = (await self.ratchets.load(key)).maybe(None), self.plain.values.get(key)
            assert _ordered(ours) == _ordered(theirs), key


ACTIONS: Final = (
    *(Both.build, Both.load, Both.turn, Both.confirm, Both.store, Both.lay_aside, Both.purge),
    *(Both.commit, Both.discard, Both.save, Both.restore, Both.lose, Both.fail),
)

FREQUENT: Final = (Both.load, Both.turn, Both.store)


async def bundle_of(jid: str) -> Any:
    """What somebody with that name publishes."""
    backend = twomemo.Twomemo(Plain())
    await backend.generate_pre_keys(1)
    return await backend.get_bundle(jid, DEVICE)


def described(session: Any) -> tuple[Any, ...]:
    """All that a session is."""
    exchange = session.key_exchange
    return (
        *(session.bare_jid, session.device_id, session.initiation, session.confirmed),
        *(exchange.header, exchange.signed_pre_key_id, exchange.pre_key_id),
        *(session.associated_data, session.double_ratchet.json),
    )


def _ordered(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


@pytest.fixture
async def both(vault: Vault) -> Both:
    made = Both(vault)
    await made.start()
    return made


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(ACTIONS * 2 + FREQUENT * 4), st.sampled_from(PLACES)),
        min_size=20,
        max_size=40,
    ),
    st.sampled_from([ratchets_module.MAXIMUM_LIVE, 3000]),
    st.sampled_from([standing.MAXIMUM, 1]),
)
def test_any_order_leaves_what_python_omemo_would_leave(
    steps: list[tuple[Any, str]], live: int, kept: int
) -> None:
    """F43: no ratchet with parts of another session, none twice, none ahead of the storage."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            vault = Vault.open(Path(folder) / "vault", clock=ManualClock())
            both = Both(vault)
            await both.start()
            for place in PLACES:
                await both.build(place)
                await both.store(place)
            await both.commit("")
            for action, place in steps:
                await action(both, place)
                await both.check()
            await vault.close()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ratchets_module, "MAXIMUM_LIVE", live)
        patched.setattr(standing, "MAXIMUM", kept)
        asyncio.run(run())


async def stored(both: Both, place: str = PETER) -> Any:
    """A session that was stored, committed and is kept."""
    await both.build(place)
    await both.store(place)
    await both.commit("")
    return both.held[place][0]


async def test_what_was_stored_is_not_parsed_again(both: Both) -> None:
    session = await stored(both)
    assert await both.ours.load_session(PETER, DEVICE) is session
    assert await both.ours.load_session(PETER, DEVICE) is not session, "it was taken out"


async def test_only_what_changes_is_written(both: Both) -> None:
    await stored(both)
    await both.load(PETER)
    await both.turn(PETER)
    await both.store(PETER)
    assert set(both.ratchets.take().values) == {f"/{MODERN}/{PETER}/{DEVICE}/double_ratchet"}


async def test_a_discarded_turn_is_not_kept(both: Both) -> None:
    """F43: what is loaded next is what the storage has, and not what the operation had made."""
    session = await stored(both)
    before = described(session)
    await both.turn(PETER)
    await both.store(PETER)
    both.ratchets.discard()
    loaded = await both.ours.load_session(PETER, DEVICE)
    assert loaded is not session
    assert described(loaded) == before


async def test_a_session_that_turns_after_it_was_stored_is_not_kept(both: Both) -> None:
    """F43: python-omemo does so for an empty message, which may fail before it is stored again."""
    session = await stored(both)
    before = described(session)
    await both.turn(PETER)
    loaded = await both.ours.load_session(PETER, DEVICE)
    assert loaded is not session
    assert described(loaded) == before


async def test_a_ratchet_under_two_names_is_kept_under_one(both: Both) -> None:
    session = await stored(both)
    await both.ours.store_session(crossing._named(session, PETER + ASIDE))
    before = described(await both.theirs.load_session(PETER, DEVICE))
    await both.turn(PETER)
    loaded = await both.ours.load_session(PETER, DEVICE)
    assert described(loaded) == before
    aside = await both.ours.load_session(PETER + ASIDE, DEVICE)
    assert described(aside)[1:] == before[1:]


async def test_another_session_is_stored_wholly(both: Both) -> None:
    first = await stored(both)
    second = await stored(both)
    assert described(first)[4:] != described(second)[4:]
    await both.ours.store_session(first)
    loaded = await twomemo.Twomemo(both.ratchets).load_session(PETER, DEVICE)
    assert described(loaded) == described(first)


async def test_the_number_of_sessions_is_bounded(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "MAXIMUM", 2)
    sessions = [await stored(both, f"{number}@example.org") for number in range(3)]
    assert repr(both.ours._standing) == "<Standing: 2 sessions>"
    loaded = [await both.ours.load_session(each.bare_jid, DEVICE) for each in sessions]
    kept = [one is other for one, other in zip(loaded, sessions, strict=True)]
    assert kept == [False, True, True]


async def test_purged_sessions_do_not_stay_in_memory(both: Both) -> None:
    for place in PLACES:
        await stored(both, place)
    await both.ours.purge_bare_jid(PETER)
    assert repr(both.ours._standing) == "<Standing: 1 sessions>"
    await both.ours.purge()
    assert repr(both.ours._standing) == "<Standing: 0 sessions>"


async def test_no_key_is_printed(both: Both) -> None:
    session = await stored(both)
    kept = both.ours._standing._kept[PETER, DEVICE]
    record = both.ours._standing._records[session]
    for value in (kept, record, both.ours._standing):
        assert session.double_ratchet.json["diffie_hellman_ratchet"]["own_ratchet_priv"] not in (
            printed := repr(value)
        )
        assert len(printed) < 50


async def test_other_storages_are_left_to_python_omemo(both: Both) -> None:
    """Without texts at hand everything is parsed and stored as ever."""
    assert not isinstance(both.plain, Texts)
    backend = Modern(both.plain)
    backend.gate = Gate(both.plain)
    session = await stored(both)
    await backend.store_session(session)
    both.plain.stored.clear()
    await backend.store_session(session)
    assert len(both.plain.stored) == 12
    assert not Standing(both.plain, MODERN).store(session)
    assert await backend.load_session(PETER, DEVICE) is not session
