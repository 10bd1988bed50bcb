"""A client of XEP-0466 without any encryption, built on the package's plugin for that."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from slixmpp import JID
from slixmpp.plugins.base import register_plugin

from eph_e2ee import XEP_0466
from tests.support.client import PLUGINS, Happenings, connect, disconnect, new_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from tests.support.server import Account, Server

__all__ = ["Plain", "plain"]


class Plain:
    """A client with the plugin, and no OMEMO at all."""

    def __init__(self, account: Account, *, plugins: tuple[str, ...] = (), **config: Any) -> None:
        self.jid = account.jid
        self.client = new_client(account, plugins=(*PLUGINS, *plugins))
        register_plugin(XEP_0466)
        self.client.register_plugin("xep_0466", config)
        found: Any = self.client.plugin.get("xep_0466", None)
        self.plugin: XEP_0466 = found
        self.stanzas = Happenings(self.client, "message")
        self.messages = Happenings(self.client, "ephemeral_plain_message")
        self.changes = Happenings(self.client, "ephemeral_plain_timer_changed")

    def say(self, jid: str, text: str, timer: timedelta | None = None, kind: Any = "chat") -> None:
        """Send a text with a timer, or with the conversation's."""
        message = self.client.make_message(mto=JID(jid), mbody=text, mtype=kind)
        if timer is None:
            self.plugin.include_timer(message)
        else:
            self.plugin.set_timer(message, timer)
        message.send()


@asynccontextmanager
async def plain(account: Account, server: Server, **options: Any) -> AsyncIterator[Plain]:
    """Such a client, online."""
    made = Plain(account, **options)
    try:
        await connect(made.client, server.address)
        yield made
    finally:
        await disconnect(made.client)
