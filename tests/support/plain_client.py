"""A client that knows XEP-0466 and nothing of ours, built on the package's public parts alone.

It behaves as Badinage and monocles do: it takes over any timer that it reads, zero and an opt-out
turn it off, absence says nothing, and its own timer stands on every message.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from xml.etree.ElementTree import Element

from omemo.storage import Just, Maybe, Nothing, Storage
from slixmpp import JID
from slixmpp.plugins.base import register_plugin

from eph_e2ee import XEP_0384, XEP_0420, XEP_0466, RemoteProtocolError
from tests.support.client import SECONDS, Happenings, connect, disconnect, new_client
from tests.support.clock import ManualSource

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from omemo.types import JSONType
    from slixmpp import ClientXMPP
    from slixmpp.stanza import Message

    from tests.support.prosody import Account

__all__ = ["Letter", "PlainClient"]

EPHEMERAL: Final = "{urn:xmpp:ephemeral:0}ephemeral"
OPT_OUT: Final = "{urn:xmpp:ephemeral:0}i-want-out"


@dataclass(slots=True)
class Letter:
    """A message that this client has sent or got.

    Attributes:
        conversation: the bare JID of the peer.
        message_id: the stanza's id.
        text: the body.
        timer: its own, in seconds; None for a permanent one.
        deadline: when it ends, in seconds since the epoch; None while it is unread or permanent.
    """

    conversation: str
    message_id: str
    text: str
    timer: int | None
    deadline: float | None = None


class PlainClient:
    """One such client; its keys and messages outlive its sessions, and die with the process.

    Attributes:
        letters: all messages, those that have ended too.
        timers: each conversation's, in seconds, by the peer's bare JID; none where timers are off.
        refused: why stanzas did not open.
    """

    client: ClientXMPP
    plugins: ClassVar[tuple[str, ...]] = ("xep_0380", "xep_0420", "xep_0466")

    def __init__(self, account: Account, address: tuple[str, int], *, now: float) -> None:
        self.account = account
        self.address = address
        self.source = ManualSource(wall_time=now)
        self.letters: list[Letter] = []
        self.timers: dict[str, int] = {}
        self.refused: list[RemoteProtocolError] = []
        self._kept = _InMemory()
        self._stanzas: Happenings | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opened = 0

    @property
    def jid(self) -> str:
        """The bare JID."""
        return self.account.jid

    async def arrive(self, *, presence: bool = True) -> None:
        """Connect, wait until OMEMO has started, and read whatever comes.

        Without presence the server keeps what has waited, until `become_available`.
        """
        self.client = new_client(self.account)
        for plugin in (XEP_0420, XEP_0466):
            register_plugin(plugin)
        for name in self.plugins:
            self.client.register_plugin(name)
        # The registry is global and by name: the last one registered is what a client gets.
        register_plugin(_Plugin)
        self.client.register_plugin("xep_0384", {"kept": self._kept})
        envelopes: Any = self.client.plugin.get("xep_0420", None)
        envelopes.now = self.source.wall
        started = Happenings(self.client, "omemo_initialized")
        stanzas = self._stanzas = Happenings(self.client, "message_encryption")
        self._opened = 0
        await connect(self.client, self.address, presence=presence)
        await started.next()
        self._reading = asyncio.create_task(self._read(stanzas))

    def become_available(self) -> None:
        """Have what waits for this account delivered."""
        self.client.send_presence()

    async def leave(self) -> None:
        """Disconnect, if it is connected."""
        if self._reading is None:
            return
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._reading = None
        await self._plugin.end()
        await disconnect(self.client)

    async def ping(self) -> None:
        """Return once the server has dealt with everything that was sent before."""
        domain = JID(self.client.boundjid.domain)
        await self.client.plugin["xep_0199"].ping(domain, timeout=SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether everything that has come is read."""
        return self._stanzas is None or self._opened == len(self._stanzas.all)

    async def send(self, jid: str, text: str | None, *beside: Element) -> str:
        """Send a text with the conversation's timer, or elements alone; the message's id."""
        timer = self.timers.get(jid)
        if text is not None and timer is not None:
            beside = (*beside, Element(EPHEMERAL, {"timer": str(timer)}))
        return await self._send(jid, text, timer, beside)

    async def send_without_timer(self, jid: str, text: str) -> str:
        """Send a text as a client does that knows no timers; the message's id."""
        return await self._send(jid, text, None, ())

    async def set_timer(self, jid: str, timer: int | None) -> None:
        """Change a conversation's timer without text (XEP-0466 sections 3.4 and 3.5)."""
        if timer is None:
            self.timers.pop(jid, None)
            await self.send(jid, None, Element(EPHEMERAL, {"timer": "0"}), Element(OPT_OUT))
        else:
            self.timers[jid] = timer
            await self.send(jid, None, Element(EPHEMERAL, {"timer": str(timer)}))

    def mark_read(self, jid: str, message_ids: Collection[str]) -> None:
        """Have the timers of messages from somebody run."""
        for letter in self.letters:
            if letter.conversation == jid and letter.message_id in message_ids:
                self._start(letter)

    def living(self, jid: str) -> list[Letter]:
        """The messages with somebody that are shown now."""
        now = self.source.wall()
        return [
            letter
            for letter in self.letters
            if letter.conversation == jid and (letter.deadline is None or letter.deadline > now)
        ]

    async def _send(
        self, jid: str, text: str | None, timer: int | None, beside: Sequence[Element]
    ) -> str:
        stanza = self.client.make_message(mto=JID(jid), mbody=text, mtype="chat")
        for element in beside:
            stanza.append(element)
        sealed, errors = await self._plugin.encrypt_message(stanza, JID(jid))
        assert sealed is not None
        assert errors == frozenset()
        sealed.send()
        message_id = str(stanza["id"])
        if text is not None:
            self.letters.append(Letter(jid, message_id, text, timer))
            self._start(self.letters[-1])
        return message_id

    async def _read(self, stanzas: Happenings) -> None:
        while True:
            await self._take(await stanzas.next(seconds=3600))
            self._opened += 1

    async def _take(self, stanza: Message) -> None:
        try:
            opened, _ = await self._plugin.decrypt_message(stanza)
        except RemoteProtocolError as error:
            self.refused.append(error)
            return
        peer, content = stanza["from"].bare, list(opened.xml)
        tags = {element.tag for element in content}
        timers = [int(each.get("timer", "0")) for each in content if each.tag == EPHEMERAL]
        if timers and timers[0] > 0:
            self.timers[peer] = timers[0]
        elif timers or OPT_OUT in tags:
            self.timers.pop(peer, None)
        if "{jabber:client}body" in tags:
            own = timers[0] if timers and timers[0] > 0 else None
            self.letters.append(Letter(peer, stanza["id"], opened["body"], own))

    def _start(self, letter: Letter) -> None:
        if letter.timer is not None and letter.deadline is None:
            letter.deadline = math.ceil(self.source.wall()) + letter.timer

    @property
    def _plugin(self) -> _Plugin:
        plugin: Any = self.client.plugin.get("xep_0384", None)
        return cast("_Plugin", plugin)


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


class _Plugin(XEP_0384):
    """An application's plugin, as the documentation of slixmpp-omemo has one written."""

    default_config: ClassVar[dict[str, Any]] = {**XEP_0384.default_config, "kept": None}

    @property
    def storage(self) -> Storage:
        kept: Storage = self.config["kept"]
        return kept

    @property
    def _btbv_enabled(self) -> bool:
        return True

    async def _devices_blindly_trusted(
        self, blindly_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        """Nobody asks."""

    async def _prompt_manual_trust(
        self,
        manually_trusted: frozenset[Any],  # noqa: ARG002 -- slixmpp-omemo's signature
        identifier: str | None,  # noqa: ARG002 -- the same
    ) -> None:
        raise AssertionError("blind trust needs no prompt")

    async def end(self) -> None:
        """Disable it, and wait for what it has begun."""
        plugins: Any = self.xmpp.plugin
        plugins.disable("xep_0384")
        await self.ended()
