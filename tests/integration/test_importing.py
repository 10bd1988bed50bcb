"""A bot moves from unpatched slixmpp-omemo with a JSON file to a vault, and back, on a server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.adopted import UNPATCHED, Somebody
from tests.support.chats import Party
from tests.support.unpatched import unpatched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration


async def test_f44_a_bot_keeps_its_device_and_its_sessions(
    party: NewParty, account: Callable[[str], Account], prosody: Prosody, tmp_path: Path
) -> None:
    """F44: its contacts see no new device, and the conversation goes on both ways."""
    rosa, own = party("rosa"), account("bot")
    await rosa.arrive()
    async with unpatched(own, prosody.address) as bot:
        await bot.send(rosa.jid, "from the old bot")
        assert (await rosa.read()).body == "from the old bot"
        await rosa.chat.send(own.jid, "an answer")
        assert (await bot.hear())[1] == "an answer"
        sessions = await bot.plugin.get_session_manager()
        device, _ = await sessions.get_own_device_information()
        # What its storage would have written to the file after each change.
        values = json.dumps(bot.plugin._kept._values)
    source, folder = tmp_path / "bot.json", tmp_path / "bot.vault"
    source.write_text(values)
    command = ["-m", "eph_e2ee", "vault", "import-json", str(folder), str(source)]
    subprocess.run([sys.executable, *command], check=True, timeout=60, capture_output=True)  # noqa: ASYNC221  nothing else is to happen meanwhile

    moved = Party(own, folder, prosody.address)
    try:
        await moved.arrive()
        now, _ = await moved.chat._account.omemo.sessions.get_own_device_information()
        assert (now.device_id, now.identity_key) == (device.device_id, device.identity_key)
        await moved.chat.send(rosa.jid, "from the new bot")
        assert (await rosa.read()).body == "from the new bot"
        await rosa.chat.send(own.jid, "welcome back")
        assert (await moved.read()).body == "welcome back"
    finally:
        await moved.leave()


async def test_the_way_back(
    account: Callable[[str], Account], prosody: Prosody, tmp_path: Path
) -> None:
    """From a vault to an unpatched bot with a JSON file: no new device, and the sessions go on."""
    bot = Somebody(account("bot"), tmp_path, prosody.address)
    rosa = Somebody(account("rosa"), tmp_path, prosody.address)
    folder = tmp_path / "bot.vault"
    attached = Party(bot.account, folder, prosody.address)
    try:
        await attached.arrive()
        hers = await rosa.arrive(UNPATCHED, each_stanza=True)
        await hers.say(attached.jid, "to the vault")
        assert (await attached.read()).body == "to the vault"
        await attached.chat.send(rosa.jid, "from the vault")
        before = await rosa.hear()
        await hers.say(attached.jid, "confirmed")
        await attached.read()
        await attached.leave()
        command = ["-m", "eph_e2ee", "vault", "export-json", str(folder), str(bot.keys)]
        subprocess.run([sys.executable, *command], check=True, timeout=60, capture_output=True)  # noqa: ASYNC221  nothing else is to happen meanwhile

        moved = await bot.arrive(UNPATCHED, each_stanza=True)
        await hers.say(bot.jid, "to the file")
        assert (await bot.hear()).text == "to the file"
        await moved.say(rosa.jid, "from the file")
        after = await rosa.hear()
        assert (after.text, after.device) == ("from the file", before.device)
        sessions = await hers.keys.get_session_manager()
        assert len(await sessions.get_device_information(bot.jid)) == 1
        assert hers.errors == moved.errors == []
    finally:
        await attached.leave()
        await bot.leave()
        await rosa.leave()
