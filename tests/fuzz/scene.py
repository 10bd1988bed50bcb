"""A client with a vault and true OMEMO sessions, whose server and peers do what a case says.

A case is a tree of steps, in order:

    <message/>, <presence/>, <iq/>, ...   arrives as it stands
    <answer to='archive' type='result'>   what the server says to the next questions of a kind; a
                                          message in it comes before, as a result of the question
    <do what='send'/>                     the application does something (`deeds.DEEDS`)

`<sealed by='rosa' as='modern'>text</sealed>`, anywhere in a step, becomes what the true device of
somebody encrypts; `<published by='rosa' of='node'/>` what somebody has published. With `spoiled`,
some of the XML is changed afterwards.

There are three scenes: the usual one; "wary", where devices are trusted by hand and messages of
others are withheld; and "adopted", where an application reads with the OMEMO plugin alone.
"""

from __future__ import annotations

import asyncio
import gc
from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from xml.etree.ElementTree import tostring

from slixmpp import JID

import eph_e2ee
from tests.fuzz import words
from tests.fuzz.answering import QUESTION, SECRET, answered
from tests.fuzz.deeds import DEEDS, done
from tests.fuzz.sealing import GOOD, Peer, fill
from tests.fuzz.server import Hostile
from tests.fuzz.trees import FUZZ, expanded
from tests.fuzz.waiting import Loop, Quiet
from tests.fuzz.watching import Found, Watch
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from eph_e2ee import Message, Rejection
    from tests.fuzz.deeds import Deed

__all__ = ["PLUGINS", "Scene", "Wary"]

PLUGINS: Final = ("xep_0030", "xep_0045", "xep_0198", "xep_0199")
"""What the application has enabled: rooms, and a stream that is managed."""

KEPT: Final = 4
"""Stanzas that the application has sent last, which may come back."""


class Scene:
    """Peter, to whom everything happens; rosa, his second device and clara, who write to him.

    Attributes:
        client: Peter's.
        chat: what is attached to it.
        clock: Peter's.
        rejections: how often something was rejected.
        messages: how many messages the application has seen.
        echoes: what the application has sent last.
    """

    deeds: ClassVar[dict[str, Deed]] = DEEDS
    policies: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path, watch: Watch) -> None:
        self.rejections = self.messages = 0
        self.echoes: list[Element] = []
        self._probes = 0
        self._texts: set[str | None] = set()
        self._loop = Loop()
        self._loop.set_exception_handler(watch.unhandled)
        asyncio.set_event_loop(self._loop)
        self.server = Hostile()
        self.clock = ManualClock()
        self._run(self._begin(folder))

    def play(self, case: Element) -> None:
        """Have everything happen that a case says, and wait until nothing goes on any more.

        Raises:
            Found: it does not end, or somebody was answered with an error.
        """
        self._run(self._play(case))

    def probe(self) -> None:
        """Look whether a message of somebody else's still arrives.

        Raises:
            Found: it does not.
        """
        self._run(self._probe())

    def close(self) -> None:
        """End everything."""
        self._run(self._end())
        asyncio.set_event_loop(None)
        self._loop.close()
        gc.collect()

    def _run(self, coroutine: Any) -> None:
        self._loop.run_until_complete(coroutine)

    async def _begin(self, folder: Path) -> None:
        self.client = self.server.client("peter")
        for plugin in PLUGINS:
            self.client.register_plugin(plugin)
        self._attach(folder)
        self.server.victim = self.client
        await self.client.bind()
        self.peers = {
            "rosa": Peer(self.server, f"{words.PEER}/rosa"),
            "second": Peer(self.server, f"{words.OWN}/second"),
            "clara": Peer(self.server, f"{GOOD}/clara"),
        }
        for peer in self.peers.values():
            await peer.begin()
        self.client.session_bind_event.set()  # from now on only those who were asked can answer
        self.join()
        self._quiet = Quiet(self._loop, self._chat, self.wait)
        await self._quiet.begin()
        await self._introduced()
        await self._probe()

    def _attach(self, folder: Path) -> None:
        options: dict[str, Any] = {"receipts": True, **self.policies}
        self.chat = eph_e2ee.attach(self.client, vault=folder, clock=self.clock, **options)
        self.chat.on_iq(QUESTION, answered)
        for event, handler in (
            ("ephemeral_message", self._on_message),
            ("ephemeral_rejected", self._on_rejected),
        ):
            self.client.add_event_handler(event, handler)

    async def _introduced(self) -> None:
        """Whoever is to be heard in any case is known."""

    @property
    def _chat(self) -> eph_e2ee.Chat | None:
        return self.chat

    @property
    def held(self) -> list[object]:
        """What lives as long as the scene."""
        return [self.chat]

    @property
    def omemo(self) -> Any:
        """The OMEMO plugin."""
        return self.chat._account.omemo

    @property
    def device(self) -> int:
        """Our own device's number."""
        return int(self.omemo.own_device)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._loop.ahead += seconds
        self.clock.advance(seconds)

    def join(self) -> None:
        """Be in the room."""
        rooms: Any = self.client.plugin["xep_0045"]
        rooms.rooms[None][JID(words.ROOM)] = {}
        for nick, jid, more in (
            ("rosa", words.PEER, ""),
            ("peter", f"{words.OWN}/peter", "<status code='110'/><status code='100'/>"),
        ):
            self.client.receive(
                f"<presence xmlns='jabber:client' from='{words.ROOM}/{nick}' to='{words.OWN}'>"
                "<x xmlns='http://jabber.org/protocol/muc#user'>"
                f"<item jid='{jid}' affiliation='member' role='participant'/>{more}</x></presence>"
            )

    async def _end(self) -> None:
        await self._closed()
        await self.server.end()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _closed(self) -> None:
        await self.chat.close()

    async def _on_message(self, message: Message) -> None:
        """Look at everything, and read every second one."""
        self.messages += 1
        self._texts.add(message.body)
        for name in dir(message):
            if not name.startswith("_"):
                repr(getattr(message, name))
        if self.messages % 2:
            await message.mark_read()

    def _on_rejected(self, rejection: Rejection) -> None:
        self.rejections += 1
        if rejection.reason is eph_e2ee.Reason.NOT_STORED:
            raise AssertionError("the vault refused it")

    async def _play(self, case: Element) -> None:
        self.server.begin()
        for step in list(case):
            now = datetime.fromtimestamp(self.clock.now(), UTC).isoformat()
            await fill(step, self.peers, self.device, now)
            expanded(step)
            if step.tag == f"{FUZZ}answer":
                self.server.prepare(step)
            elif step.tag != f"{FUZZ}do":
                held = list(step.iter())  # as slixmpp's parser does, which Python copies otherwise
                self.client.receive(step)
                del held
            elif (deed := self.deeds.get(step.get("what", ""))) is not None:
                asyncio.ensure_future(done(deed(self, step)))  # noqa: RUF006 -- all are awaited
        await self._settled()

    async def _settled(self) -> None:
        await self._quiet.reached()
        sent, self.client.sent = self.client.sent, []
        self.client.presences.clear()
        self._check(sent)
        self.echoes = [*self.echoes, *(deepcopy(stanza.xml) for stanza in sent)][-KEPT:]
        for peer in self.peers.values():
            await peer.hear(sent, self.client)

    def _check(self, sent: list[Any]) -> None:
        if any(stanza["type"] == "error" for stanza in sent):
            raise Found("somebody was answered with an error")
        written = [tostring(stanza.xml) for stanza in sent]
        written += [tostring(iq) for iq in self.server.heard]
        self.server.heard.clear()
        if any(SECRET.encode() in each for each in written):
            raise Found("something left in clear")

    async def _probe(self) -> None:
        self._probes += 1
        text = f"probe {self._probes}"
        self.server.begin()
        self.client.receive(await self.peers["clara"].greeting(text))
        await self._settled()
        if text not in self._texts:
            raise Found("nothing arrives any more")
        self._texts.clear()


class Wary(Scene):
    """Peter trusts nobody by himself, and does not look at messages of those that he does not."""

    policies: ClassVar[dict[str, Any]] = {"trust": "manual", "untrusted": "withhold"}

    async def _introduced(self) -> None:
        for device in await self.chat.devices(GOOD):
            await self.chat.trust(GOOD, device.device, "trusted")
