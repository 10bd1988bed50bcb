"""A server in this process: accounts with several resources, carbons, archives, uneven streams.

What XMPP promises is kept: a stream delivers in order, and what it loses is its end. Everything
else is up to the test: when a stream moves, what is delivered twice (as after a resumption), when
a stream dies unnoticed so that everything behind a point is lost, which resources a message to an
account reaches directly and which by carbon.
"""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from slixmpp import JID
from slixmpp.plugins.xep_0082 import format_datetime
from slixmpp.plugins.xep_0082 import parse as parse_datetime
from twomemo.twomemo_pb2 import OMEMOAuthenticatedMessage, OMEMOKeyExchange, OMEMOMessage

from eph_e2ee.xmpp.displayed import NODE
from eph_e2ee.xmpp.parcel import MODERN
from tests.xmpp.clients import EVENT, TestClient, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from slixmpp.stanza import Message

__all__ = ["Exchange", "Stream"]

CARBONS: Final = "{urn:xmpp:carbons:2}"
CLIENT: Final = "{jabber:client}"
DATA: Final = "{jabber:x:data}"
DELAY: Final = "{urn:xmpp:delay}delay"
FORWARDED: Final = "{urn:xmpp:forward:0}forwarded"
MAM: Final = "{urn:xmpp:mam:2}"
RSM: Final = "{http://jabber.org/protocol/rsm}"
STANZA_ID: Final = "{urn:xmpp:sid:0}stanza-id"

PAGE: Final = 25
"""Results that the archive gives at once, however many are asked for: small, to have many pages."""

AGAIN: Final = 8
"""Stanzas at the end of a stream that a resumption may deliver once more."""


@dataclass
class Stream:
    """What is on its way to one client.

    Attributes:
        client: where it ends.
        waiting: what was not delivered yet, the oldest first.
        late: nothing moves on it for now.
        dead: nothing will ever move on it again, and nobody has noticed.
        copies: whether its client has asked for carbons.
    """

    client: TestClient
    waiting: deque[Element] = field(default_factory=deque)
    late: bool = False
    dead: bool = False
    copies: bool = False
    delivered: deque[Element] = field(default_factory=lambda: deque(maxlen=AGAIN))

    def put(self, stanza: Element) -> None:
        """Let a stanza follow the others, as this client's own copy."""
        if not self.dead:
            self.waiting.append(fromstring(tostring(stanza)))  # noqa: S314 -- the test's own text

    def move(self, count: int | None = None) -> None:
        """Deliver the first stanzas, or all of them."""
        if self.late:
            return
        for _ in range(len(self.waiting) if count is None else min(count, len(self.waiting))):
            stanza = self.waiting.popleft()
            self.delivered.append(stanza)
            self.client.receive(fromstring(tostring(stanza)))  # noqa: S314 -- the test's own text

    def repeat(self, count: int) -> None:
        """Deliver the last ones again, in their order."""
        for stanza in list(self.delivered)[-count:]:
            self.client.receive(fromstring(tostring(stanza)))  # noqa: S314 -- the test's own text

    def die(self) -> None:
        """Lose what is on the way, and whatever follows."""
        self.dead = True
        self.waiting.clear()


class Exchange(World):
    """`World`, with a life of its own between sending and delivery.

    Args:
        random: decides what XMPP leaves open.
        now: the server's clock.

    Attributes:
        streams: what is on its way, by client.
        archives: of each account that has one, what it has sent and got: (id, stamp, message).
        kept: of each account without an archive, what has come while it was offline.
        carbons: whether the server knows carbons.
        arrived: called with each message that was sent, as it reaches the server.
        reused: keys of OMEMO that stood in two messages.
    """

    def __init__(self, random: Random, now: Callable[[], float]) -> None:
        super().__init__()
        self._random = random
        self._now = now
        self.streams: dict[TestClient, Stream] = {}
        self.archives: dict[str, list[tuple[str, float, Element]]] = {}
        self.kept: dict[str, list[Element]] = {}
        self.carbons = True
        self.arrived: Callable[[Element], None] = lambda _: None
        self.reused: list[str] = []
        self._keys: set[tuple[str, str, bytes, int]] = set()

    def connect(self, account: str, resource: str) -> TestClient:
        """A client with a stream; what was kept for its account is on the way."""
        client = TestClient(self, f"{account}/{resource}")
        self.clients.append(client)
        stream = self.streams[client] = Stream(client)
        for stanza in self.kept.pop(account, []):
            stream.put(stanza)
        return client

    def disconnect(self, client: TestClient) -> None:
        """End a stream; what the client has sent has arrived, what is on the way to it has not."""
        client.stopped, client.bound = True, False
        for name in list(client.scheduled_events):
            client.cancel_schedule(name)
        stream = self.streams.pop(client)
        account = client.boundjid.bare
        if account not in self.archives:
            self.kept.setdefault(account, []).extend(stream.waiting)
        self.clients.remove(client)

    def collect(self, client: TestClient) -> int:
        """Take what a client has sent, and send it on its ways; how much that was."""
        sent = list(client.sent)
        client.sent.clear()
        for stanza in sent:
            self._route(client, stanza)
        return len(sent)

    # -- messages ------------------------------------------------------------------------------

    def _route(self, client: TestClient, stanza: Message) -> None:
        xml = fromstring(tostring(stanza.xml))  # noqa: S314 -- the test's own text
        xml.set("from", client.boundjid.full)
        self.arrived(xml)
        self._inspect(xml)
        sender, recipient = client.boundjid.bare, JID(xml.get("to")).bare
        ids = {account: self._archive(account, xml) for account in {sender, recipient}}
        incoming = self._marked(xml, recipient, ids[recipient])
        streams = self._of(recipient)
        if not streams and recipient not in self.archives:
            SubElement(incoming, DELAY, {"stamp": self._stamp()})
            self.kept.setdefault(recipient, []).append(incoming)
        # "deliver to all or to the most available": and to the others by carbon (XEP-0280).
        direct = self._random.sample(
            streams, self._random.randint(min(1, len(streams)), len(streams))
        )
        for stream in streams:
            if any(stream is each for each in direct):
                stream.put(incoming)
            elif stream.copies:
                stream.put(self._carbon("received", recipient, incoming))
        if recipient == sender and self._random.random() < 0.5:
            return
        outgoing = self._marked(xml, sender, ids[sender] if self._random.random() < 0.5 else None)
        for stream in self._of(sender):
            if stream.client is not client and stream.copies:
                stream.put(self._carbon("sent", sender, outgoing))

    def _inspect(self, xml: Element) -> None:
        """Note a message key that was used before: of one chain, and with the same number."""
        for header in xml.iter(f"{{{MODERN}}}header"):
            for key in header.iter(f"{{{MODERN}}}key"):
                name = (header.get("sid", ""), key.get("rid", ""), *_number(key))
                if name in self._keys:
                    self.reused.append(f"{name[3]} of {name[0]} for {name[1]}")
                self._keys.add(name)

    def _of(self, account: str) -> list[Stream]:
        return [each for each in self.streams.values() if each.client.boundjid.bare == account]

    def _archive(self, account: str, xml: Element) -> str | None:
        archive = self.archives.get(account)
        if archive is None:
            return None
        archive.append((f"{account[0]}-{len(archive)}", self._now(), xml))
        return archive[-1][0]

    def _marked(self, xml: Element, account: str, archive_id: str | None) -> Element:
        copy = fromstring(tostring(xml))  # noqa: S314 -- the test's own text
        if archive_id is not None:
            SubElement(copy, STANZA_ID, {"by": account, "id": archive_id})
        return copy

    def _carbon(self, kind: str, account: str, xml: Element) -> Element:
        outer = Element(f"{CLIENT}message", {"from": account, "to": account, "type": "chat"})
        forwarded = SubElement(SubElement(outer, f"{CARBONS}{kind}"), FORWARDED)
        forwarded.append(xml)
        return outer

    def _notify(self, account: str, node: str, item: Element) -> None:
        """Events for own devices stand in line with their messages; all others are at once."""
        if node != NODE:
            super()._notify(account, node, item)
            return
        for stream in self._of(account):
            message = Element(f"{CLIENT}message", {"from": account, "to": account})
            items = SubElement(SubElement(message, f"{EVENT}event"), f"{EVENT}items")
            items.set("node", node)
            SubElement(items, f"{EVENT}item", {"id": item.get("id", "")}).append(item[0])
            stream.put(message)

    # -- requests ------------------------------------------------------------------------------

    def asked(self, client: TestClient, iq: Element) -> None:
        """Answer a request of a client's, for its archive, for carbons, or as `World` does."""
        query, enabling = iq.find(f"{MAM}query"), iq.find(f"{CARBONS}enable")
        if query is None and enabling is None:
            super().asked(client, iq)
            return
        if client.stopped:
            return
        account = client.boundjid.bare
        answer = Element(iq.tag, {"id": iq.get("id", ""), "type": "result", "from": account})
        answer.set("to", client.boundjid.full)
        if query is not None:
            self._page(client, query, answer)
        elif self.carbons:
            self.streams[client].copies = True
        else:
            self._refuse(answer, "feature-not-implemented")
        client.receive(answer)

    def _page(self, client: TestClient, query: Element, answer: Element) -> None:
        archive = self.archives[client.boundjid.bare]
        after, start = query.findtext(f"{RSM}set/{RSM}after"), _start(query)
        known = [name for name, _, _ in archive]
        if after is not None and after not in known:
            self._refuse(answer, "item-not-found")
            return
        first = 0 if after is None else known.index(after) + 1
        found = [each for each in archive[first:] if each[1] >= start]
        wanted = int(query.findtext(f"{RSM}set/{RSM}max") or PAGE)
        page = found[: min(wanted, PAGE)]
        for name, stamp, xml in page:
            client.receive(self._result(client, query.get("queryid", ""), name, stamp, xml))
        fin = SubElement(answer, f"{MAM}fin", {"complete": "true"} if page == found else {})
        summary = SubElement(fin, f"{RSM}set")
        if page:
            SubElement(summary, f"{RSM}last").text = page[-1][0]
        SubElement(summary, f"{RSM}count").text = str(len(found))

    def _result(
        self, client: TestClient, query: str, name: str, stamp: float, xml: Element
    ) -> Element:
        own = client.boundjid
        outer = Element(f"{CLIENT}message", {"from": own.bare, "to": own.full})
        result = SubElement(outer, f"{MAM}result", {"queryid": query, "id": name})
        forwarded = SubElement(result, FORWARDED)
        SubElement(forwarded, DELAY, {"stamp": self._stamp(stamp)})
        forwarded.append(xml)
        return fromstring(tostring(outer))  # noqa: S314 -- the test's own text

    def _stamp(self, at: float | None = None) -> str:
        moment = datetime.fromtimestamp(self._now() if at is None else at, UTC)
        return format_datetime(moment)

    @staticmethod
    def _refuse(answer: Element, condition: str) -> None:
        answer.set("type", "error")
        error = SubElement(answer, f"{CLIENT}error", {"type": "cancel"})
        SubElement(error, f"{{urn:ietf:params:xml:ns:xmpp-stanzas}}{condition}")


def _number(key: Element) -> tuple[bytes, int]:
    """Which message key it is: the public key of its chain, and its number there."""
    data = base64.b64decode(key.text or "")
    exchange = key.get("kex") == "true"
    outer = (
        OMEMOKeyExchange.FromString(data).message
        if exchange
        else OMEMOAuthenticatedMessage.FromString(data)
    )
    message = OMEMOMessage.FromString(outer.message)
    return message.dh_pub, message.n


def _start(query: Element) -> float:
    for entry in query.iterfind(f"{DATA}x/{DATA}field"):
        if entry.get("var") == "start":
            return parse_datetime(entry.findtext(f"{DATA}value", "")).timestamp()
    return 0.0
