"""Two ways to talk, behind one face: eph_e2ee, and slixmpp-omemo 2.2 as its users have it."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from omemo.storage import Just, Maybe, Nothing, Storage
from slixmpp import JID
from slixmpp.plugins.base import register_plugin
from slixmpp.xmlstream.handler import CoroutineCallback
from slixmpp.xmlstream.matcher import MatchXPath
from slixmpp_omemo import XEP_0384

import eph_e2ee
from tests.support.client import Happenings, connect, disconnect, new_client

if TYPE_CHECKING:
    from pathlib import Path

    from omemo.types import DeviceInformation, JSONType
    from slixmpp import ClientXMPP

    from tests.support.prosody import Account

__all__ = ["SIDES", "FileStorage", "MemoryStorage", "Ours", "Talker", "Theirs"]

SECONDS: Final = 120.0
"""The limit of one wait: the slowest side sends twenty messages a second."""

TIMER: Final = timedelta(days=7)
"""Every message of ours has one: starting it when the message has left is part of the work."""

ENCRYPTED: Final = (
    "{urn:xmpp:omemo:2}encrypted",
    "{eu.siacs.conversations.axolotl}encrypted",
)


class Talker:
    """One account that sends to a peer and hears from it.

    Attributes:
        empties: OMEMO messages without a payload that it has sent.
        rewrites: how often it has written its storage's whole file.
    """

    rewrites = 0

    def __init__(self, account: Account, address: tuple[str, int]) -> None:
        self.client: ClientXMPP = new_client(account)
        self.empties = 0
        self._address = address
        self._started = Happenings(self.client, "omemo_initialized")
        self.client.add_filter("out", self._counted)

    async def arrive(self) -> None:
        """Connect, and wait until OMEMO has started."""
        await connect(self.client, self._address)
        await self._started.next(SECONDS)

    async def leave(self) -> None:
        """Disconnect."""
        await disconnect(self.client)

    async def ping(self) -> None:
        """Return once the server has dealt with everything that was sent before."""
        await self.client.plugin["xep_0199"].ping(JID(self.client.boundjid.domain), timeout=SECONDS)

    @abstractmethod
    async def send(self, peer: str, text: str) -> None:
        """Encrypt a text and hand it to the stream."""

    @abstractmethod
    async def hear(self) -> str:
        """The next text that was decrypted."""

    def _counted(self, stanza: Any) -> Any:
        for name in ENCRYPTED:
            encrypted = stanza.xml.find(name)
            if encrypted is not None and not any(
                child.tag.endswith("}payload") for child in encrypted
            ):
                self.empties += 1
        return stanza


class Ours(Talker):
    """This library: omemo:2, a vault on the disk, a timer of a week."""

    def __init__(self, account: Account, address: tuple[str, int], folder: Path) -> None:
        super().__init__(account, address)
        vault = folder / f"{account.name}.vault"
        self._chat = eph_e2ee.attach(self.client, vault=vault, timer=TIMER)
        self._messages = Happenings(self.client, "ephemeral_message")

    async def leave(self) -> None:
        """Close the vault, which settles what is gathered, and disconnect."""
        await self._chat.close()
        await super().leave()

    async def send(self, peer: str, text: str) -> None:
        """Send it; it is durable before it leaves."""
        await self._chat.send(peer, text)

    async def hear(self) -> str:
        """The next message; it is durable already."""
        return str((await self._messages.next(SECONDS)).body)


class Theirs(Talker):
    """slixmpp-omemo as it comes, which knows legacy OMEMO only."""

    def __init__(self, account: Account, address: tuple[str, int], storage: Storage) -> None:
        super().__init__(account, address)
        register_plugin(_Plugin)
        self._storage = storage
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self.client.register_plugin("xep_0384", {"storage": storage})
        matcher = MatchXPath("{jabber:client}message")
        self.client.register_handler(CoroutineCallback("messages", matcher, self._arrived))

    @property
    def rewrites(self) -> int:  # type: ignore[override]
        """How often the storage has written its file."""
        return self._storage.rewrites if isinstance(self._storage, FileStorage) else 0

    async def send(self, peer: str, text: str) -> None:
        """Encrypt as the plugin does, and send what it gives."""
        stanza = self.client.make_message(mto=JID(peer), mtype="chat")
        stanza["body"] = text
        encrypted, errors = await self._plugin.encrypt_message(stanza, JID(peer))
        if encrypted is None or errors:
            raise RuntimeError(f"slixmpp-omemo did not encrypt: {len(errors)} errors")
        encrypted.send()

    async def hear(self) -> str:
        """The next text."""
        async with asyncio.timeout(SECONDS):
            return await self._heard.get()

    @property
    def _plugin(self) -> XEP_0384:
        return cast("XEP_0384", self.client.plugin.get("xep_0384", None))

    async def _arrived(self, stanza: Any) -> None:
        if self._plugin.is_encrypted(stanza):
            decrypted, _ = await self._plugin.decrypt_message(stanza)
            if decrypted["body"]:
                self._heard.put_nowait(decrypted["body"])


class MemoryStorage(Storage):
    """Nothing on a disk; caching as python-omemo does by default."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, JSONType] = {}

    async def _load(self, key: str) -> Maybe[JSONType]:
        return Just(self._values[key]) if key in self._values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        self._values[key] = value
        self._changed()

    async def _delete(self, key: str) -> None:
        if self._values.pop(key, None) is not None:
            self._changed()

    def _changed(self) -> None:
        """Nothing more to do here."""


class FileStorage(MemoryStorage):
    """All values in one JSON file, written whole at each change and never synced.

    That is what the example of slixmpp-omemo does, `json.dump` onto the open file included, and
    with it the bots that were made from it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rewrites = 0
        self._path = path

    def _changed(self) -> None:
        self.rewrites += 1
        with self._path.open("w", encoding="utf-8") as whole:
            json.dump(self._values, whole)


class _Plugin(XEP_0384):
    """The least that slixmpp-omemo asks of an application."""

    default_config: ClassVar[dict[str, Any]] = {**XEP_0384.default_config, "storage": None}

    @property
    def storage(self) -> Storage:
        storage: Storage = self.config["storage"]
        return storage

    @property
    def _btbv_enabled(self) -> bool:
        return True

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        """Nothing is left to decide under blind trust."""


def _with_file(account: Account, address: tuple[str, int], folder: Path) -> Talker:
    return Theirs(account, address, FileStorage(folder / f"{account.name}.json"))


def _with_memory(account: Account, address: tuple[str, int], _: Path) -> Talker:
    return Theirs(account, address, MemoryStorage())


SIDES: Final = {"vault": Ours, "file": _with_file, "memory": _with_memory}
