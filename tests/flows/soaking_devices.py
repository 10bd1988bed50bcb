"""The devices of the soak: ours, on a vault of their own, and one that knows XEP-0466 alone."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element

from slixmpp import JID
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

import eph_e2ee
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.parcel import MODERN
from tests.support.clock import START, ManualClock, ManualSource
from tests.xmpp.clients import Kept, OurPlugin

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee import CatchUp, Chat, Expired, Message, Rejection
    from eph_e2ee.protocol.setting import Tag
    from tests.flows.soaking_server import Exchange
    from tests.xmpp.clients import TestClient

__all__ = ["Broken", "Ours", "Plain"]

EPHEMERAL: Final = "{urn:xmpp:ephemeral:0}ephemeral"
OPT_OUT: Final = "{urn:xmpp:ephemeral:0}i-want-out"
ORIGIN_ID: Final = "{urn:xmpp:sid:0}origin-id"
BODY: Final = "{jabber:client}body"


class Broken(AssertionError):
    """An invariant does not hold."""


class Ours:
    """A device with this library: processes come and go, the vault and the machine stay.

    Args:
        server: in this process.
        account: the bare JID.
        resource: of this device.
        folder: of the vault.
        skew: seconds by which its clock is ahead.

    Attributes:
        receipts: whether its processes ask for receipts, and give them.
        told: the texts of messages that it was told of, in any of its processes.
        expired: the numbers of messages of whose end it was told, in this one.
        texts: what it has seen the text of, by number.
        tags: the setting of each conversation.
        erased: the texts of messages that were erased here, and here alone.
        gone: the numbers of tombstones.
        broken: what has been seen to go wrong in event handlers, where slixmpp catches everything.
        untold: ids of messages whose reading died with a process before it was told or noted.
    """

    client: TestClient
    chat: Chat
    clock: ManualClock

    def __init__(
        self, server: Exchange, account: str, resource: str, folder: Path, skew: float
    ) -> None:
        self.server, self.account, self.name = server, account, resource
        self.skew = skew
        self.source = ManualSource(wall_time=START + skew)
        self._folder = folder
        self.receipts = False
        self.online = False
        self.caught_up = True
        self._catching_up = False
        self.told: set[str] = set()
        self.expired: set[int] = set()
        self.texts: dict[int, str] = {}
        self.tags: dict[str, Tag] = {}
        self.erased: set[str] = set()
        self.gone: set[int] = set()
        self.untold: set[str] = set()
        self.broken: list[str] = []

    def now(self) -> float:
        return self.source.wall()

    def pass_time(self, seconds: float) -> None:
        if self.online:
            self.clock.advance(seconds)
        else:
            ManualClock(self.source).advance(seconds)

    async def arrive(self, *, catch_up: bool = True) -> None:
        """Begin a process and a session; it does not wait for the archive."""
        self.clock = ManualClock(self.source)
        self.client = self.server.connect(self.account, self.name)
        self.chat = eph_e2ee.attach(
            self.client,
            vault=self._folder,
            clock=self.clock,
            catch_up=catch_up,
            receipts=self.receipts,
        )
        for event, handler in (
            ("message", self._message),
            ("expired", self._expired),
            ("rejected", self._rejected),
            ("catch_up", self._has_caught_up),
        ):
            self.client.add_event_handler(f"ephemeral_{event}", handler)
        self.online, self.caught_up, self._catching_up = True, catch_up, catch_up
        self.expired.clear()
        await self.client.bind()

    async def leave(self, *, crash: bool = False) -> None:
        """End the process; after a crash nothing is written down that was only gathered."""
        self.online = False
        if crash:
            await self._die()
        await self.chat.close()
        self.server.collect(self.client)
        self.server.disconnect(self.client)

    async def _die(self) -> None:
        """End all tasks where they are, and forget what they had in memory."""
        chat = self.chat
        self.client.bound = False
        chat._expiry._gathering = ()
        for task in chat._tasks:
            task.cancel()
        await asyncio.gather(*chat._tasks, return_exceptions=True)
        await chat._vault.transact(lambda _: None)
        self.untold |= {str(message_id) for _, message_id, _ in chat._reading._reads}
        chat._reading._reads.clear()

    def is_busy(self) -> bool:
        """Whether something is on its way through this device that needs nobody else."""
        if not self.online:
            return False
        chat = self.chat
        return bool(
            self._catching_up
            or chat._incoming._tasks
            or chat._reading._woken.is_set()
            or chat._expiry._woken.is_set()
            or chat._account.omemo.gate._lock.locked()
            or chat._account._telling
        )

    async def rest(self) -> None:
        """Let what is queued for the vault be done."""
        if self.online:
            await self.chat._vault.transact(lambda _: None)

    async def tag(self, peer: str) -> Tag | None:
        """The setting of a conversation."""
        return (await self.chat._conversations.setting(BareJid(peer))).tag

    async def opts_out(self, peer: str) -> bool:
        """Whether it repeats to a peer that timers are off."""
        return (await self.chat._conversations.setting(BareJid(peer))).opting_out

    async def history(self, peer: str) -> list[Message]:
        """Messages and tombstones, without the lines that tell of changes."""
        entries = await self.chat.history(peer, limit=100_000)
        return [entry for entry in entries if entry.change is None]

    # -- events --------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        text = message.body
        if text is None:
            self.broken.append("it was told of a message without its text")
            return
        if message.deadline is not None and message.deadline <= self.clock.latest():
            self.broken.append(f"{text} was told of after its deadline (F21)")
        if text in self.told:
            self.broken.append(f"{text} was told of twice (F36)")
        self.told.add(text)

    def _expired(self, expired: Expired) -> None:
        if expired.number in self.expired:
            self.broken.append(f"number {expired.number} has expired twice")
        self.expired.add(expired.number)

    def _has_caught_up(self, report: CatchUp) -> None:
        if report.done:
            self._catching_up = False
            if not report.complete:
                self.broken.append("it could not read the archive to its end")

    def _rejected(self, rejection: Rejection) -> None:
        self.broken.append(f"{rejection.reason} of {rejection.sender} {rejection.message_id}")


class PlainPlugin(OurPlugin):
    """Its application's storage outlives the process."""

    @property
    def storage(self) -> Kept:
        kept: Kept = self.config["kept"]
        return kept


class Plain:
    """A device that knows XEP-0466 and no more: it takes over whatever timer it reads.

    Absence says nothing to it, zero and the opt-out turn the timer off. It has one device, and its
    server keeps for it what comes while it is away.

    Attributes:
        values: the timer of each conversation; None for off.
        got: the timer of each message that it has got, by text.
    """

    client: TestClient

    def __init__(self, server: Exchange, account: str, skew: float) -> None:
        self.server, self.account, self.name = server, account, "plain"
        self.skew = skew
        self.source = ManualSource(wall_time=START + skew)
        self._kept = Kept()
        self._seen: set[tuple[str, str]] = set()
        self._queue: deque[Any] = deque()
        self._task: asyncio.Task[None] | None = None
        self.online = False
        self.values: dict[str, int | None] = {}
        self.got: dict[str, int | None] = {}
        self.broken: list[str] = []

    def now(self) -> float:
        return self.source.wall()

    def pass_time(self, seconds: float) -> None:
        ManualClock(self.source).advance(seconds)

    async def arrive(self, *, catch_up: bool = True) -> None:  # noqa: ARG002 -- it has no archive
        self.client = self.server.connect(self.account, self.name)
        self._plugin = self.client.plug(PlainPlugin, kept=self._kept)
        plugins: Any = self.client.plugin
        plugins["xep_0420"].now = self.now
        encrypted = MatchXPath(f"{{jabber:client}}message/{{{MODERN}}}encrypted")
        self.client.register_handler(Callback("plain", encrypted, self._accept))
        self.online = True
        await self.client.bind()

    async def leave(self, *, crash: bool = False) -> None:  # noqa: ARG002 -- it gathers nothing
        self.online = False
        while self._task is not None and not self._task.done():
            await self._task
        plugins: Any = self.client.plugin
        plugins.disable("xep_0384")
        await self._plugin.ended()
        self.server.collect(self.client)
        self.server.disconnect(self.client)

    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def rest(self) -> None:
        await asyncio.sleep(0)

    async def send(self, peer: str, text: str) -> tuple[int | None, str]:
        """Send a text under the timer that it believes in; which one that was, and the id."""
        timer = self.values.get(peer)
        body = Element(BODY)
        body.text = text
        elements = [] if timer is None else [_ephemeral(timer)]
        return timer, await self._send(peer, body, *elements)

    async def set_timer(self, peer: str, timer: int | None) -> None:
        self.values[peer] = timer
        off = [] if timer is not None else [Element(OPT_OUT)]
        await self._send(peer, _ephemeral(timer or 0), *off)

    async def _send(self, peer: str, *content: Element) -> str:
        stanza = self.client.make_message(mto=JID(peer), mtype="chat")
        for element in content:
            stanza.append(element)
        encrypted, errors = await self._plugin.encrypt_message(stanza, JID(peer))
        if encrypted is None or errors:
            raise Broken(f"the plain client could not encrypt: {errors}")
        encrypted.send()
        return str(encrypted["id"])

    def _accept(self, stanza: Any) -> None:
        self._queue.append(stanza)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        while self._queue:
            stanza = self._queue.popleft()
            origin = stanza.xml.find(ORIGIN_ID)
            name = (stanza["from"].bare, stanza["id"] if origin is None else origin.get("id"))
            if name in self._seen:
                continue
            self._seen.add(name)
            try:
                opened, _ = await self._plugin.decrypt_message(stanza)
            except eph_e2ee.RemoteProtocolError as error:
                self.broken.append(f"{error.reason} of {name}")
            else:
                self._read(stanza["from"].bare, opened.xml)

    def _read(self, peer: str, content: Element) -> None:
        found = content.find(EPHEMERAL)
        timer = 0 if found is None else int(found.get("timer", ""))
        if timer:
            self.values[peer] = timer
        elif found is not None or content.find(OPT_OUT) is not None:
            self.values[peer] = None
        text = content.findtext(BODY)
        if text is not None:
            self.got[text] = timer or None


def _ephemeral(timer: int) -> Element:
    return Element(EPHEMERAL, {"timer": str(timer)})
