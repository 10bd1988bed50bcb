"""The echo bot of the examples, run as it stands, in a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import eph_e2ee
from eph_e2ee.clock import Clock
from eph_e2ee.model import BareJid, Direction, Phase
from eph_e2ee.vault.vault import Vault
from tests.conftest import NewClient
from tests.support.client import Happenings, connect
from tests.support.prosody import Account, Prosody
from tests.support.wire import Wire

NOISE = "ignore:Accessing plugins through the XMPP object:DeprecationWarning"
"""slixmpp-omemo 2.2 on slixmpp 1.17."""

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings(NOISE)]

CHECKOUT = Path(__file__).parent.parent
BOT = CHECKOUT / "examples" / "echo_bot.py"

LAUNCHER = """
import runpy
import signal
import sys

import slixmpp

from tests.support.client import allow_plaintext

program, host, port = sys.argv[1:]


class LocalClient(slixmpp.ClientXMPP):
    def connect(self):
        allow_plaintext(self)
        return super().connect(host, int(port))


slixmpp.ClientXMPP = LocalClient
# Whoever started the tests may have had this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_path(program, run_name="__main__")
"""
"""Runs a program unchanged, but for where its client connects: the throwaway server has neither
DNS nor a certificate."""


async def launched(
    account: Account, address: tuple[str, int], vault: Path
) -> asyncio.subprocess.Process:
    environment = {
        "EPH_JID": account.jid,
        "EPH_PASSWORD": account.password,
        "EPH_VAULT": str(vault),
        "PYTHONPATH": str(CHECKOUT),
    }
    return await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-W",
            "error",
            "-W",
            NOISE,
            "-c",
            LAUNCHER,
            str(BOT),
            address[0],
            str(address[1]),
        ),
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_the_bot_echoes_in_secret_and_forgets(
    prosody: Prosody,
    wire: Wire,
    account: Callable[[str], Account],
    client: NewClient,
    tmp_path: Path,
) -> None:
    bot, rosa = account("bot"), account("rosa")
    at_rosa = client(rosa)
    chat = eph_e2ee.attach(at_rosa, vault=tmp_path / "rosa")
    process = await launched(bot, wire.address, tmp_path / "bot")
    try:
        with Happenings(at_rosa, "ephemeral_message") as heard:
            await connect(at_rosa, prosody.address)
            # The last of its keys; those of omemo:2 have been published before.
            await wire.from_clients.until(
                b'publish node="eu.siacs.conversations.axolotl.devicelist'
            )
            await chat.send(bot.jid, "an echo, please", timer=timedelta(hours=1))
            echo = await heard.next()
            # What the server acknowledges of the first echo comes to the bot before this does.
            await chat.send(bot.jid, "once more, please")
            await heard.next()
    finally:
        process.send_signal(signal.SIGINT)
        printed, _ = await asyncio.wait_for(process.communicate(), 60)
        await chat.close()
    assert (echo.body, echo.timer) == ("an echo, please", timedelta(hours=1))
    assert echo.encrypted_with == "urn:xmpp:omemo:2"
    assert b"an echo, please" not in wire.record + printed
    assert process.returncode == 0, printed.decode()
    left = in_the_vault(tmp_path / "bot", rosa)
    both_read = {
        (Direction.INCOMING, Phase.RUNNING, 3600),
        (Direction.OUTGOING, Phase.RUNNING, 3600),
        (Direction.INCOMING, Phase.READ, None),
    }
    assert both_read <= left
    # The last echo's acknowledgement may still have been on its way.
    assert left - both_read <= {(Direction.OUTGOING, Phase.UNSENT, 3600)}


def in_the_vault(folder: Path, peer: Account) -> set[tuple[Direction, Phase, int | None]]:
    """What the bot has left: messages, read and counting down; and the line of the change."""
    opened = Vault.open(folder, clock=Clock())
    try:
        entries = opened.transact_sync(lambda vault: vault.entries(BareJid(peer.jid), None, 10))
    finally:
        opened.close_sync()
    return {(entry.direction, entry.phase, entry.timer) for entry in entries}


def test_the_bot_is_short() -> None:
    assert len(BOT.read_text(encoding="utf-8").splitlines()) <= 40
