"""Settings by conversation: remembered, written when they change, read again after a failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.conversations import Conversations
from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement
from eph_e2ee.protocol.agreement import Agreement, Speech
from eph_e2ee.protocol.ephemeral import Announcement, Kind

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
MINUTE, HOUR = Seconds(60), Seconds(3600)


def changed(setting: Agreement, timer: Seconds | None, stamp: float = 1.0) -> Agreement:
    return agreement.set_timer(setting, timer, author=ROSA, device=DeviceId(1), stamp=stamp)


def echoed(setting: Agreement, stamp: float) -> Agreement:
    repeated = Announcement(Kind.TIMER, setting.timer)
    speech = Speech(PETER, DeviceId(2), stamp, repeated)
    after, change = agreement.receive(setting, speech, now=stamp)
    assert change is None
    return after


async def kept(vault: Vault, text: str | None, jid: BareJid = PETER) -> None:
    await vault.transact(lambda tx: Conversations.write(tx, jid, text))


@pytest.mark.parametrize("default", [None, MINUTE])
async def test_a_conversation_begins_with_the_accounts_default(
    default: Seconds | None, vault: Vault
) -> None:
    setting = await Conversations(vault, default).setting(PETER)
    assert setting == Agreement(default=default)


async def test_a_change_is_seen_at_once_and_read_by_the_next_process(vault: Vault) -> None:
    """F20."""
    conversations = Conversations(vault, None)
    before = await conversations.setting(PETER)
    after = changed(before, HOUR)
    text = conversations.change(PETER, before, after)
    assert await conversations.setting(PETER) == after
    await kept(vault, text)
    assert await Conversations(vault, MINUTE).setting(PETER) == after


async def test_one_conversation_is_not_another(vault: Vault) -> None:
    conversations = Conversations(vault, MINUTE)
    before = await conversations.setting(PETER)
    await kept(vault, conversations.change(PETER, before, changed(before, HOUR)))
    assert (await conversations.setting(ROSA)).timer == MINUTE


async def test_what_has_not_changed_is_not_written(vault: Vault) -> None:
    conversations = Conversations(vault, MINUTE)
    before = await conversations.setting(PETER)
    assert conversations.change(PETER, before, before) is None
    await kept(vault, None)
    assert await vault.transact(lambda tx: tx.value(f"agreement:{PETER}")) is None


async def test_stamps_alone_are_not_written(vault: Vault) -> None:
    """A peer repeats its timer on each message: that is no write for each."""
    conversations = Conversations(vault, MINUTE)
    before = await conversations.setting(PETER)
    first = echoed(before, 1.0)
    assert conversations.change(PETER, before, first) is not None
    second = echoed(first, 2.0)
    assert second != first
    assert conversations.change(PETER, first, second) is None
    assert await conversations.setting(PETER) == second


async def test_after_a_failed_commit_the_vault_is_asked(vault: Vault) -> None:
    """F29: otherwise the next message would carry a timer that was never sent."""
    conversations = Conversations(vault, MINUTE)
    before = await conversations.setting(PETER)
    conversations.change(PETER, before, changed(before, HOUR))
    conversations.forget(PETER)
    assert await conversations.setting(PETER) == before
    conversations.forget(ROSA)


async def asked(conversations: Conversations) -> asyncio.Task[Agreement]:
    """Somebody who asks without the lock, and whose read has just been queued."""
    reading = asyncio.create_task(conversations.setting(PETER))
    await asyncio.sleep(0)
    return reading


async def test_what_is_changed_during_a_read_stays(vault: Vault) -> None:
    """F29: an application asks for a timer while a message with another one is taken in."""
    conversations = Conversations(vault, None)
    after = changed(Agreement(), HOUR)
    other = asyncio.create_task(conversations.setting(PETER))
    reading = await asked(conversations)
    conversations.change(PETER, Agreement(), after)
    for each in (other, reading):
        assert await each == after
    assert await conversations.setting(PETER) == after


async def test_what_was_read_before_it_was_forgotten_is_not_kept(vault: Vault) -> None:
    """It stood before a commit, and what that has changed is in memory no more."""
    conversations = Conversations(vault, None)
    reading = await asked(conversations)
    after = changed(Agreement(), HOUR)
    text = conversations.change(PETER, Agreement(), after)
    written = vault.transact(lambda tx: Conversations.write(tx, PETER, text))
    conversations.forget(PETER)
    again = await asked(conversations)
    for each in (reading, again):
        assert await each == after
    await written
    assert await conversations.setting(PETER) == after


async def test_a_read_that_is_canceled_leaves_nothing_behind(vault: Vault) -> None:
    conversations = Conversations(vault, None)
    for _ in range(2):
        reading = await asked(conversations)
        reading.cancel()
        await asyncio.wait({reading})
        assert conversations._remembered._reading == {}
        assert await conversations.setting(PETER) == Agreement()
        conversations.forget(PETER)


async def test_a_damaged_setting_is_an_error(vault: Vault) -> None:
    """STYLE 5: not an empty one."""
    await kept(vault, "{}")
    with pytest.raises(VaultDamaged):
        await Conversations(vault, MINUTE).setting(PETER)


async def test_memory_is_limited_to_what_was_used_last(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eph_e2ee.remembered.MAXIMUM", 3)
    conversations = Conversations(vault, None)
    for number in range(10):
        await conversations.setting(BareJid(f"peer{number}@example.org"))
    known = list(conversations._remembered._values)
    assert known == [f"peer{number}@example.org" for number in (7, 8, 9)]


async def test_a_setting_of_a_peer_who_set_it_survives_json(vault: Vault) -> None:
    conversations = Conversations(vault, None)
    before = await conversations.setting(PETER)
    after = replace(echoed(changed(before, HOUR), 5.0), out=True)
    await kept(vault, conversations.change(PETER, before, after))
    conversations.forget(PETER)
    assert await conversations.setting(PETER) == after
