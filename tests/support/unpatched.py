"""A client on unpatched slixmpp-omemo 2.2, as bots are written on it; keys die with the process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Literal

import slixmpp_omemo
from omemo.storage import Just, Maybe, Nothing, Storage
from slixmpp import JID
from slixmpp.plugins.base import register_plugin

from tests.support.client import PLUGINS, SECONDS, Happenings, connect, disconnect, new_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from xml.etree.ElementTree import Element

    from omemo.types import JSONType
    from slixmpp import ClientXMPP
    from slixmpp.stanza import Message

    from tests.support.prosody import Account

__all__ = ["Unpatched", "unpatched"]

OLD: Final = "eu.siacs.conversations.axolotl"


class _InMemory(Storage):
    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, JSONType] = {}

    async def _load(self, key: str) -> Maybe[JSONType]:
        return Just(self._values[key]) if key in self._values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        self._values[key] = value

    async def _delete(self, key: str) -> None:
        self._values.pop(key, None)


class _Plugin(slixmpp_omemo.XEP_0384):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept = _InMemory()

    @property
    def storage(self) -> Storage:
        return self._kept

    @property
    def _btbv_enabled(self) -> bool:
        return True

    async def _prompt_manual_trust(
        self,
        manually_trusted: frozenset[Any],  # noqa: ARG002 -- slixmpp-omemo's signature
        identifier: str | None,  # noqa: ARG002 -- the same
    ) -> None:
        raise AssertionError("blind trust needs no prompt")


class Unpatched:
    """Such a client, online."""

    def __init__(self, client: ClientXMPP, plugin: _Plugin) -> None:
        self.client = client
        self.plugin = plugin
        self.stanzas = Happenings(client, "message_encryption")

    async def hear(self) -> tuple[Message, str]:
        """The next stanza that it can open, and the text."""
        while True:
            stanza: Message = await self.stanzas.next()
            if self.plugin.is_encrypted(stanza) == {OLD}:
                decrypted, _ = await self.plugin.decrypt_message(stanza)
                return stanza, str(decrypted["body"])

    async def enter(self, room: str) -> None:
        """Join a room."""
        rooms: Any = self.client.plugin["xep_0045"]
        await rooms.join_muc_wait(JID(room), self.client.boundjid.user, timeout=SECONDS)

    async def send(
        self,
        jid: str,
        text: str,
        *beside: Element,
        kind: Literal["chat", "groupchat"] = "chat",
        to: Collection[str] = (),
    ) -> None:
        """Send a text in legacy OMEMO, with elements in clear beside it; in a room, to some."""
        stanza = self.client.make_message(mto=JID(jid), mbody=text, mtype=kind)
        recipients = {JID(each) for each in to or (jid,)}
        encrypted, errors = await self.plugin.encrypt_message(stanza, recipients)
        assert encrypted is not None
        assert errors == frozenset()
        for element in beside:
            encrypted.append(element)
        encrypted.send()


@contextlib.asynccontextmanager
async def unpatched(
    account: Account, address: tuple[str, int], *, plugins: Sequence[str] = PLUGINS
) -> AsyncIterator[Unpatched]:
    """Connect one, and disconnect it at the end."""
    client = new_client(account, plugins=plugins)
    client.register_plugin("xep_0380")
    # The registry is global and by name: the last one registered is what a client gets.
    register_plugin(_Plugin)
    client.register_plugin("xep_0384")
    plugin: Any = client.plugin.get("xep_0384", None)
    started = Happenings(client, "omemo_initialized")
    await connect(client, address)
    await started.next()
    try:
        yield Unpatched(client, plugin)
    finally:
        await disconnect(client)
