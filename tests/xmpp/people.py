"""Accounts with real OMEMO and real vaults, and a server that is two dictionaries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omemo.session_manager import BundleNotFound, BundleUploadFailed
from slixmpp_omemo.base_session_manager import BaseSessionManager
from twomemo.twomemo import EncryptedKeyMaterialImpl

from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.parcel import MODERN
from eph_e2ee.xmpp.sessions import Legacy, Modern, Sessions
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import omemo
    from omemo.types import DeviceInformation, DeviceList

    from eph_e2ee.xmpp.unanswered import Device

__all__ = ["Person", "Server", "header", "network", "talk"]


@dataclass
class Server:
    """What accounts have published, and what they have sent by themselves.

    Attributes:
        bundles: by namespace, bare JID and device.
        lists: by namespace and bare JID.
        sent: empty messages of python-omemo, each with its recipient.
        downloads: names of everything that was downloaded.
        refuses: whether uploads fail.
        opened: closed while downloads have to wait.
    """

    bundles: dict[tuple[str, str, int], omemo.Bundle] = field(default_factory=dict)
    lists: dict[tuple[str, str], DeviceList] = field(default_factory=dict)
    sent: list[tuple[omemo.Message, str]] = field(default_factory=list)
    downloads: list[tuple[object, ...]] = field(default_factory=list)
    refuses: bool = False
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.opened.set()

    async def bundle(self, namespace: str, jid: str, device: int) -> omemo.Bundle:
        self.downloads.append((namespace, jid, device))
        await self.opened.wait()
        if (namespace, jid, device) not in self.bundles:
            raise BundleNotFound("there is none")
        return self.bundles[namespace, jid, device]

    async def devices(self, namespace: str, jid: str) -> DeviceList:
        self.downloads.append((namespace, jid))
        await self.opened.wait()
        return dict(self.lists.get((namespace, jid), {}))

    async def publish(self, bundle: omemo.Bundle) -> None:
        await asyncio.sleep(0)
        if self.refuses:
            raise BundleUploadFailed("refused")
        self.bundles[bundle.namespace, bundle.bare_jid, bundle.device_id] = bundle


def network(server: Server, own: str) -> type[BaseSessionManager]:
    """The part of a session manager that slixmpp-omemo would do with XMPP."""

    class Network(BaseSessionManager):
        @staticmethod
        async def _upload_bundle(bundle: omemo.Bundle) -> None:
            await server.publish(bundle)

        @staticmethod
        async def _download_bundle(namespace: str, bare_jid: str, device_id: int) -> omemo.Bundle:
            return await server.bundle(namespace, bare_jid, device_id)

        @staticmethod
        async def _delete_bundle(namespace: str, device_id: int) -> None:
            server.bundles.pop((namespace, own, device_id), None)

        @staticmethod
        async def _upload_device_list(namespace: str, device_list: DeviceList) -> None:
            server.lists[namespace, own] = device_list

        @staticmethod
        async def _download_device_list(namespace: str, bare_jid: str) -> DeviceList:
            return await server.devices(namespace, bare_jid)

        @staticmethod
        async def _send_message(message: omemo.Message, bare_jid: str) -> None:
            server.sent.append((message, bare_jid))

        @property
        def _btbv_enabled(self) -> bool:
            return True

        async def _prompt_manual_trust(
            self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
        ) -> None:
            """Nobody decides."""

    return Network


@dataclass
class Person:
    """One device of an account, with its own vault.

    Attributes:
        asked: accounts whose devices need an answer with a payload.
        missed: devices that wrote in sessions that are not here.
    """

    server: Server
    jid: str
    folder: Path
    route: Callable[[DeviceInformation], frozenset[str]] = lambda _: frozenset({MODERN})
    sessions: Sessions = field(init=False)
    asked: list[str] = field(default_factory=list)
    missed: list[Device] = field(default_factory=list)

    async def start(self) -> None:
        """Open the vault and start OMEMO."""
        self.vault = Vault.open(self.folder, clock=ManualClock())
        self.ratchets = Ratchets(self.vault)
        await self.start_on(Gate(self.ratchets))

    async def start_on(self, gate: Gate) -> None:
        """Start OMEMO on a gate's storage."""
        self.gate, storage = gate, gate.storage
        backends: list[Any] = [Modern(storage), Legacy(storage)]
        for backend in backends:
            backend.gate = self.gate
        base = network(self.server, self.jid)
        made: Any = type(
            "SessionManager",
            (Sessions, base),
            {
                "gate": self.gate,
                "backends": {backend.namespace: backend for backend in backends},
                "router": self,
                "upkeep": self,
                "own_bare_jid": self.jid,
                "network": base,
            },
        )
        self.sessions = await self.gate.run(
            lambda: made.create(backends, storage, self.jid, None, "UNDECIDED")
        )
        await self.sessions.after_history_sync()
        own, _ = await self.sessions.get_own_device_information()
        self.device = own.device_id

    def namespaces(self, device: DeviceInformation) -> frozenset[str]:
        """Where a device is addressed: whatever the test has put into `route`."""
        return self.route(device)

    def answer(self, bare_jid: str) -> None:
        """Note that an answer is needed, and send none."""
        self.asked.append(bare_jid)

    def missing(self, device: Device) -> None:
        """Note that a session is missing, and begin none."""
        self.missed.append(device)

    async def knows(self, *others: Person) -> None:
        """Ask for the others' device lists."""
        for other in others:
            await self.sessions.refresh_device_lists(other.jid)

    async def encrypt(self, recipient: Person, plaintext: bytes) -> omemo.Message:
        """Encrypt in omemo:2; the one message that it gives."""
        messages, errors = await self.sessions.encrypt(
            frozenset({recipient.jid}), {MODERN: plaintext}, [MODERN]
        )
        assert not errors
        (message,) = messages
        sealed: omemo.Message = message
        return sealed

    async def decrypt(self, message: omemo.Message) -> bytes | None:
        """What a message holds."""
        plaintext: bytes | None
        plaintext, _, _ = await self.sessions.decrypt(message)
        return plaintext

    async def stop(self) -> None:
        """End OMEMO's tasks and close the vault."""
        await self.sessions.shutdown()
        await self.vault.close()


def header(message: omemo.Message) -> tuple[bytes, int, int]:
    """The ratchet key and the two numbers that name the message key of an omemo:2 message."""
    ((key, _),) = message.keys
    assert isinstance(key, EncryptedKeyMaterialImpl)
    ratchet = key.encrypted_message.header
    return ratchet.ratchet_pub, ratchet.previous_sending_chain_length, ratchet.sending_chain_length


async def talk(one: Person, other: Person) -> None:
    """A message each way, so that the session between them is confirmed."""
    await one.knows(other)
    await other.knows(one)
    assert await other.decrypt(await one.encrypt(other, b"good morning")) == b"good morning"
    assert await one.decrypt(await other.encrypt(one, b"good day")) == b"good day"
    for message, recipient in one.server.sent:
        await (one if recipient == one.jid else other).decrypt(message)
    one.server.sent.clear()
