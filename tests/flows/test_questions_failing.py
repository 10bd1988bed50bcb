"""Questions while something fails here: an error, of which nobody outside learns more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eph_e2ee import Reason
from eph_e2ee.errors import VaultUnavailable
from tests.flows.asking import (
    Switchboard,
    answered,
    disbelieved,
    echo,
    idle,
    said,
    unauthenticated,
)
from tests.flows.test_incoming import rejections

if TYPE_CHECKING:
    from tests.flows.conftest import Party, Town


@pytest.fixture
def world() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def rosa(town: Town) -> Party:
    return await town.party("rosa")


@pytest.fixture
async def peter(town: Town) -> Party:
    return await town.party("peter")


async def test_a_vault_that_refuses(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks gets an error in clear, without a word on why."""
    asked = answered(peter, echo)

    async def refuses(*_: object) -> None:
        raise VaultUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(peter.chat._account, "begin_reading", refuses)
        assert await unauthenticated(rosa, peter) == "feature-not-implemented"
    assert rejections(peter) == [Reason.NOT_HEARD]
    assert asked == []
    with monkeypatch.context() as broken:
        broken.setattr(peter.chat._account, "begin", refuses)
        assert await unauthenticated(rosa, peter) == "feature-not-implemented"
    assert len(asked) == 1
    assert await said(rosa, peter, "mended") == "mended"


async def test_a_fault_while_opening_or_answering(
    rosa: Party, peter: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F10, F42: neither slixmpp nor the peer nor the log hears what it was."""

    async def fault(*_: object) -> None:
        raise RuntimeError("while reading a secret")

    answered(peter, echo)
    with monkeypatch.context() as broken:
        broken.setattr(peter.chat._account.iqs, "open", fault)
        assert await unauthenticated(rosa, peter) == "feature-not-implemented"
    with monkeypatch.context() as broken:
        broken.setattr(peter.chat._account.omemo, "seal", fault)
        assert await unauthenticated(rosa, peter) == "feature-not-implemented"
    with monkeypatch.context() as broken:
        broken.setattr(rosa.chat._account.iqs, "open", fault)
        assert await disbelieved(rosa, peter) is Reason.UNDECRYPTABLE
    assert rejections(peter) == [Reason.UNDECRYPTABLE]
    assert caplog.text.count("an IQ could not be opened: RuntimeError") == 2
    assert caplog.text.count("a question was not answered: RuntimeError") == 1
    assert "secret" not in caplog.text


async def test_only_so_many_questions_wait(
    rosa: Party, peter: Party, world: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account cannot take the place of all."""
    monkeypatch.setattr("eph_e2ee.replying.MAXIMUM_WAITING_EACH", 1)
    release = asyncio.Event()

    async def slow(_: object) -> None:
        await release.wait()

    answered(peter, slow)
    asking = asyncio.ensure_future(said(rosa, peter, "first"))
    await world.next()
    assert await unauthenticated(rosa, peter) == "resource-constraint"
    release.set()
    assert await asking is None
    assert await said(rosa, peter, "third") is None


async def test_a_session_that_ends_meanwhile(rosa: Party, peter: Party, world: Switchboard) -> None:
    """Nothing waits for the next one: by then nobody waits for the answer."""
    ended = asyncio.Event()

    async def cut(_: object) -> None:
        peter.offline()
        ended.set()

    answered(peter, cut)
    asking = asyncio.ensure_future(said(rosa, peter, ""))
    await ended.wait()
    await idle(peter)
    assert [iq.get("type") for iq in world.carried] == ["get"]
    asking.cancel()
