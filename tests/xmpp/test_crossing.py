"""Sessions laid aside: what replaces one, and that no session is ever there twice."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import omemo
import pytest
from twomemo.twomemo import KeyExchangeImpl
from x3dh import Header

from eph_e2ee.xmpp.crossing import ASIDE
from eph_e2ee.xmpp.parcel import MODERN
from tests.xmpp.people import Person, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


async def exchange_of_nothing(rosa: Person, peter: Person) -> omemo.Message:
    """A key exchange in Peter's name, for a pre key that nobody has."""
    backend = peter.sessions.backends[MODERN]

    async def begun() -> omemo.Message:
        bundle = await peter.sessions.bundle(MODERN, rosa.jid, rosa.device)
        content, plain = await backend.encrypt_empty()
        session, key = await backend.build_session_active(rosa.jid, rosa.device, bundle, plain)
        real: Any = session.key_exchange
        parts = Header(real.header.identity_key, real.header.ephemeral_key, b"", b"")
        made = KeyExchangeImpl(parts, real.signed_pre_key_id, 99_999)
        return omemo.Message(MODERN, peter.jid, peter.device, content, frozenset({(key, made)}))

    return await peter.gate.run(begun)


async def aside(person: Person, other: Person) -> Any:
    """The session with a device that is laid aside."""
    backend = person.sessions.backends[MODERN]
    return await person.gate.run(lambda: backend.load_session(other.jid + ASIDE, other.device))


async def test_a_key_exchange_that_fails_copies_no_session(pair: tuple[Person, Person]) -> None:
    """F43: also where the operation goes on, as for what is withheld; the copy would be used."""
    rosa, peter = pair
    message = await exchange_of_nothing(rosa, peter)

    async def read() -> None:
        with suppress(omemo.KeyExchangeFailed):
            await rosa.sessions.decrypt(message)

    await rosa.gate.run(read)
    assert await aside(rosa, peter) is None


async def test_what_a_key_exchange_replaces_is_laid_aside(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    under_way = await peter.encrypt(rosa, b"under way")
    await peter.sessions.purge_bare_jid(rosa.jid)
    await peter.knows(rosa)
    assert await rosa.decrypt(await peter.encrypt(rosa, b"anew")) == b"anew"
    assert await aside(rosa, peter) is not None
    assert await rosa.decrypt(under_way) == b"under way"
