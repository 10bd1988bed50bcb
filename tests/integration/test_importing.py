"""A bot moves from unpatched slixmpp-omemo with a JSON file to a vault, on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

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
