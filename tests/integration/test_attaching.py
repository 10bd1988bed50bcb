"""Attaching and closing: a client that was lent is given back as it was (STYLE 13)."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID, ClientXMPP

import eph_e2ee
from eph_e2ee import Erasure, LocalProtocolError, VaultError
from eph_e2ee.errors import VaultInUse
from tests.support.chats import Party, bodies, fence, meet
from tests.support.client import PLUGINS, SECONDS, Happenings, connect
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import NewClient
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration

NEEDED = (*PLUGINS, "xep_0004", "xep_0060", "xep_0115", "xep_0163", "xep_0280", "xep_0334")
"""What slixmpp-omemo depends on; slixmpp leaves dependencies enabled."""


def traces(client: ClientXMPP, *, nodes: bool = True) -> dict[str, Any]:
    """Everything that a plugin may leave behind on a client."""
    handlers = client._XMLStream__handlers  # type: ignore[attr-defined]
    filters = client._XMLStream__filters  # type: ignore[attr-defined]
    events = client._XMLStream__event_handlers  # type: ignore[attr-defined]
    return {
        "handlers": sorted(handler.name for handler in handlers),
        "filters": {mode: list(kept) for mode, kept in filters.items()},
        "events": {name: len(kept) for name, kept in events.items() if kept},
        "schedule": sorted(client.scheduled_events),
        "plugins": sorted(client.plugin),
        "nodes": sorted(client.plugin["xep_0060"].node_event_map) if nodes else None,
    }


async def features(client: ClientXMPP) -> set[str]:
    """The disco features under the bound JID and under none."""
    disco = client.plugin["xep_0030"]
    bound = await disco.get_info(jid=client.boundjid, local=True)
    return set(bound["disco_info"]["features"] if "disco_info" in bound else bound["features"])


async def test_a_client_is_given_back_as_it_was(
    prosody: Prosody, account: Callable[[str], Account], client: NewClient, tmp_path: Path
) -> None:
    """F42: handlers, filters, events, schedules, plugins, nodes, features and tasks."""
    own = account("rosa")
    needed = (*NEEDED, "xep_0380", "xep_0203", "xep_0045")
    lent = client(own, plugins=needed)
    await connect(lent, prosody.address)
    before, advertised = traces(lent), await features(lent)
    tasks = asyncio.all_tasks()
    await lent.disconnect()

    for number in range(2):
        chat = eph_e2ee.attach(lent, vault=tmp_path / str(number), clock=ManualClock())
        with Happenings(lent, "omemo_initialized") as started:
            await connect(lent, prosody.address)
            await started.next()
        during = await features(lent)
        assert {"urn:xmpp:ephemeral:0", "urn:xmpp:sce:1"} <= during
        assert {"urn:xmpp:omemo:2:devices+notify"} <= during
        assert await chat.close() is Erasure.DESTROYED
        assert await chat.close() is Erasure.DESTROYED
        # Questions that the end interrupted are answered first: slixmpp waits for them still.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                while traces(lent) != before:
                    await lent.plugin["xep_0199"].ping(JID(lent.boundjid.domain), timeout=SECONDS)
        assert traces(lent) == before
        assert await features(lent) == advertised
        left = {task for task in asyncio.all_tasks() - tasks if "eph_e2ee" in repr(task)}
        assert left == set()
        await lent.disconnect()


async def test_the_other_side_is_told_of_the_features(pair: tuple[Party, Party]) -> None:
    """XEP-0466 section 2: a client that honours timers says so, and says so no more once closed."""
    rosa, peter = pair
    disco = rosa.client.plugin["xep_0030"]

    async def advertised() -> set[str]:
        info = await disco.get_info(jid=peter.client.boundjid, cached=False)
        return set(info["disco_info"]["features"])

    assert {"urn:xmpp:ephemeral:0", "urn:xmpp:sce:1"} <= await advertised()
    await peter.chat.close()
    assert not {each for each in await advertised() if "ephemeral" in each or "omemo" in each}


async def test_nothing_is_heard_after_the_end(pair: tuple[Party, Party]) -> None:
    """What comes once the chat is closed waits in the server's archive; it is no error."""
    rosa, peter = pair
    await meet(rosa, peter)
    errors = Happenings(rosa.client, "message_error")
    await peter.chat.close()
    await rosa.chat.send(peter.jid, "too late")
    await rosa.ping()
    await peter.ping()
    assert peter.messages.all[1:] == []
    with pytest.raises((VaultError, LocalProtocolError)):
        await peter.chat.history(rosa.jid)
    assert errors.all == []
    errors.close()


async def test_a_client_with_omemo_is_refused(
    account: Callable[[str], Account], client: NewClient, tmp_path: Path
) -> None:
    """A second plugin would answer each message twice; the vault is closed again."""
    lent = client(account("rosa"))
    chat = eph_e2ee.attach(lent, vault=tmp_path / "one")
    with pytest.raises(LocalProtocolError, match="has a chat"):
        eph_e2ee.attach(lent, vault=tmp_path / "two")
    with pytest.raises(VaultInUse):
        eph_e2ee.attach(client(account("peter")), vault=tmp_path / "one")
    await chat.close()
    again = eph_e2ee.attach(lent, vault=tmp_path / "two")
    await again.close()


async def test_the_vault_of_another_account_is_refused(
    account: Callable[[str], Account], client: NewClient, tmp_path: Path
) -> None:
    """It would show the other's history; nothing is registered, and the vault is closed again."""
    rosa, mallory = client(account("rosa")), client(account("mallory"))
    await eph_e2ee.attach(rosa, vault=tmp_path / "one").close()
    before = traces(mallory, nodes=False)
    with pytest.raises(LocalProtocolError, match="another account") as caught:
        eph_e2ee.attach(mallory, vault=tmp_path / "one")
    assert rosa.boundjid.bare not in str(caught.value)
    assert traces(mallory, nodes=False) == before
    await eph_e2ee.attach(mallory, vault=tmp_path / "two").close()
    await eph_e2ee.attach(rosa, vault=tmp_path / "one").close()


async def test_an_anonymous_client_has_no_vault_of_its_own(tmp_path: Path) -> None:
    """It gets another address each time, and knows none before it connects."""
    for host in ("one.example.org", "other.example.org"):
        lent = ClientXMPP(host, "")
        await eph_e2ee.attach(lent, vault=tmp_path / "vault").close()


async def test_a_refused_timer_leaves_nothing(
    account: Callable[[str], Account], client: NewClient, tmp_path: Path
) -> None:
    lent = client(account("rosa"))
    with pytest.raises(LocalProtocolError):
        eph_e2ee.attach(lent, vault=tmp_path / "one", timer=timedelta(0))
    assert not (tmp_path / "one").exists()
    assert "xep_0384" not in lent.plugin


async def test_two_chats_in_one_process(pair: tuple[Party, Party]) -> None:
    """The registry of slixmpp's plugins is global; the clients are not mixed up."""
    rosa, peter = pair
    await meet(rosa, peter)
    await rosa.leave()
    await peter.chat.send(rosa.jid, "I am still here")
    await rosa.arrive()
    assert (await rosa.hear()).body == "I am still here"
    assert await fence(peter, rosa) == []
    assert bodies(await peter.history(rosa))[:2] == ["good morning", "good day"]
