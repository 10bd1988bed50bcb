"""An echo bot, end-to-end encrypted, whose conversations disappear after a day.

    EPH_JID=bot@example.org EPH_PASSWORD=... python examples/echo_bot.py

What is not in the environment is asked for. Interrupt it to end it.
"""

import asyncio
import contextlib
import os
from datetime import timedelta
from getpass import getpass

import slixmpp

import eph_e2ee


async def echo(message: eph_e2ee.Message) -> None:
    if message.direction is eph_e2ee.Direction.INCOMING and message.body is not None:
        await message.mark_read()
        await message.reply(message.body)


async def main(jid: str, password: str, vault: str) -> None:
    client = slixmpp.ClientXMPP(jid, password)
    client.register_plugin("xep_0198")  # else what a broken connection lost counts as sent
    async with eph_e2ee.attach(client, vault=vault, timer=timedelta(days=1)):
        client.add_event_handler("ephemeral_message", echo)
        client.add_event_handler("session_start", lambda _: client.send_presence())
        client.connect()
        await client.disconnected


if __name__ == "__main__":
    account = os.environ.get("EPH_JID") or input("JID: ")
    secret = os.environ.get("EPH_PASSWORD") or getpass()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(account, secret, os.environ.get("EPH_VAULT", f"{account}.vault")))
