"""People with true OMEMO sessions, who encrypt whatever a case wants them to."""

from __future__ import annotations

import base64
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element, fromstring, tostring

from eph_e2ee.errors import RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.parcel import MODERN, OLD, written
from tests.fuzz import words
from tests.fuzz.source import Source
from tests.fuzz.trees import FUZZ, mutated
from tests.xmpp.clients import OurPlugin, TestClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slixmpp.stanza import Message

    from tests.xmpp.clients import World

__all__ = ["GOOD", "Peer", "fill", "seal"]

PUBSUB: Final = "{http://jabber.org/protocol/pubsub}"

GOOD: Final = "clara@example.org"
"""Somebody whose messages nobody touches: they must arrive whatever else does."""


class Peer:
    """A device of somebody's who writes to the account that a scene is about."""

    def __init__(self, world: World, jid: str) -> None:
        self._world = world
        self.client = TestClient(world, jid)
        world.clients.append(self.client)
        self.plugin: Any = self.client.plug(OurPlugin)
        self._saved: dict[str, Any] = {}

    async def begin(self) -> None:
        """Publish keys, and know whom to encrypt for."""
        await self.client.bind()
        await self.plugin.sessions.refresh_device_lists(words.OWN)
        self.save()

    async def encrypted(self, namespace: str, data: bytes) -> Element:
        """The `<encrypted/>` of some plaintext, from the true ratchet."""
        own = frozenset({BareJid(words.OWN)})
        sealed = await self.plugin.gate.run(lambda: self.plugin.seal(own, {namespace: data}))
        (message,) = [each for each in sealed.messages if each.namespace == namespace]
        return fromstring(tostring(written(message)))  # noqa: S314 -- ours

    def published(self, node: str) -> Element:
        """What stands in a node of this account's, as an answer holds it."""
        own = self.client.boundjid.bare
        items = Element(f"{PUBSUB}items", {"node": node})
        for (account, name), held in self._world.items.items():
            if account == own and name.startswith(node):
                for key, value in held.items():
                    item = Element(f"{PUBSUB}item", {"id": key})
                    item.append(deepcopy(value))
                    items.append(item)
        answer = Element(f"{PUBSUB}pubsub")
        answer.append(items)
        return answer

    def save(self) -> None:
        """Make a backup of the sessions."""
        self._saved = deepcopy(self._values)

    def restore(self) -> None:
        """Go on from the backup, as if nothing had happened since."""
        self._values.clear()
        self._values.update(deepcopy(self._saved))

    @property
    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = self.plugin.kept.values
        return values

    async def greeting(self, text: str) -> Element:
        """A stanza as it should be, with a text."""
        body = Element("{jabber:client}body")
        body.text = text
        envelope = self.plugin._envelopes.build([body], to=BareJid(words.OWN))
        stanza = Element("{jabber:client}message", {"to": words.OWN, "id": text})
        stanza.set("from", self.client.boundjid.full)
        stanza.append(await self.encrypted(MODERN, envelope))
        return stanza

    async def hear(self, sent: Sequence[Message], sender: TestClient) -> None:
        """Open what is for this account, so that its ratchets turn."""
        self.client.sent.clear()
        self.plugin.told.clear()
        for stanza in sent:
            if stanza["to"].bare == self.client.boundjid.bare:
                with suppress(RemoteProtocolError):
                    await self.plugin.decrypt_message(
                        self._world.carry(stanza, sender, self.client)
                    )


def seal(source: Source, data: bytes, *, by: str, namespace: str = MODERN) -> Element:
    """What stands in a case for something encrypted."""
    made = Element(f"{FUZZ}sealed", {"by": by, "as": "legacy" if namespace == OLD else "modern"})
    try:
        text = data.decode()
        fromstring(f"<a>{_escaped(text)}</a>")  # noqa: S314 -- whether XML can hold it
    except (ValueError, SyntaxError):
        made.set("base64", base64.b64encode(data).decode())
    else:
        made.text = text
    if source.chance(6):
        made.set("spoiled", source.take(24).hex())
    return made


async def fill(step: Element, peers: dict[str, Peer], device: int, now: str) -> None:
    """Encrypt what is to be sealed in a step, and put in what nobody knows before it runs.

    That is our device's number, the time, and what people have published, perhaps with other keys.
    """
    for parent in list(step.iter()):
        if parent.get("rid") == words.DEVICE:
            parent.set("rid", str(device))
        for index, child in enumerate(parent):
            if child.tag == f"{FUZZ}sealed":
                parent[index] = await _sealed(child, peers, now)
            elif child.tag == f"{FUZZ}published":
                made = _peer(child, peers).published(child.get("of", ""))
                parent[index] = _spoiled(child, _with_key(child, made))


def _with_key(child: Element, made: Element) -> Element:
    """The same with one of its keys replaced, if the case says so."""
    at, texts = child.get("at", ""), [each for each in made.iter() if each.text]
    if texts and at.isascii() and at.isdecimal():
        texts[int(at) % len(texts)].text = child.get("key", "")
    return made


def _peer(child: Element, peers: dict[str, Peer]) -> Peer:
    return peers.get(child.get("by", ""), peers["rosa"])


async def _sealed(child: Element, peers: dict[str, Peer], now: str) -> Element:
    data = (child.text or "").encode()
    coded = child.get("base64")
    if coded is not None:
        with suppress(ValueError):
            data = base64.b64decode(coded)
    data = data.replace(words.NOW.encode(), now.encode())
    namespace = OLD if child.get("as") == "legacy" else MODERN
    return _spoiled(child, await _peer(child, peers).encrypted(namespace, data))


def _spoiled(child: Element, made: Element) -> Element:
    """The same with the changes that a case has for it."""
    spoiled = child.get("spoiled")
    if spoiled is None:
        return made
    with suppress(ValueError):
        return mutated(Source(bytes.fromhex(spoiled)), made)
    return made


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
