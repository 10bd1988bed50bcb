"""python-omemo's backends as they are used here: what they begin sessions with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from x3dh.pre_key_pair import PreKeyPair

from eph_e2ee.xmpp.parcel import MODERN, OLD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.xmpp.people import Person, Server

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.mark.parametrize("namespace", [MODERN, OLD])
async def test_a_session_is_begun_without_our_own_pre_keys(
    namespace: str, person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python-omemo derives the public keys of all of them for each, twice."""
    rosa, peter = await person("rosa"), await person("peter")
    backend = rosa.sessions.backends[namespace]
    _, plain = await backend.encrypt_empty()
    bundle = server.bundles[namespace, peter.jid, peter.device]
    before = await rosa.ratchets.load(f"/{namespace}/x3dh")
    derived = list[Any]()
    public: Any = vars(PreKeyPair)["pub"]

    def deriving(pair: PreKeyPair) -> Any:
        derived.append(pair)
        return public.fget(pair)

    monkeypatch.setattr(PreKeyPair, "pub", property(deriving))
    session, key = await backend.build_session_active(peter.jid, peter.device, bundle, plain)
    assert derived == []
    other = peter.sessions.backends[namespace]
    built, _ = await other.build_session_passive(rosa.jid, rosa.device, session.key_exchange, key)
    assert built.initiation is not session.initiation
    assert (await rosa.ratchets.load(f"/{namespace}/x3dh")).from_just() == before.from_just()
    assert not rosa.ratchets.pending


async def test_a_used_bundle_is_not_used_again(person: NewPerson, server: Server) -> None:
    """Each session takes a pre key of it, which is gone."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    assert rosa.gate.downloads.get(("bundle", MODERN, peter.jid, peter.device)) is not None
    await rosa.encrypt(peter, b"text")
    assert rosa.gate.downloads.get(("bundle", MODERN, peter.jid, peter.device)) is None
    assert server.downloads.count((MODERN, peter.jid, peter.device)) == 1
