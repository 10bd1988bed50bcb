"""A server in this process that keeps an archive for each account (XEP-0313), and copies."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from slixmpp.plugins.xep_0082 import format_datetime
from slixmpp.plugins.xep_0082 import parse as parse_datetime

from eph_e2ee.xmpp.parcel import is_empty
from tests.support.clock import START
from tests.xmpp.clients import World, _fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from eph_e2ee.errors import Reason
    from tests.flows.conftest import Party, Town
    from tests.xmpp.clients import TestClient

__all__ = [
    "CARBONS",
    "FORWARDED",
    "Kept",
    "Shelves",
    "absent",
    "missed",
    "names",
    "position",
    "rejections",
]

CARBONS: Final = "{urn:xmpp:carbons:2}"
DATA: Final = "{jabber:x:data}"
DELAY: Final = "{urn:xmpp:delay}delay"
FORWARDED: Final = "{urn:xmpp:forward:0}forwarded"
MAM: Final = "{urn:xmpp:mam:2}"
RSM: Final = "{http://jabber.org/protocol/rsm}"
STANZA_ID: Final = "{urn:xmpp:sid:0}stanza-id"


class Kept(NamedTuple):
    """A message of an archive."""

    name: str
    stamp: float
    xml: Element


class Shelves(World):
    """A server with archives. Messages reach their account's clients that are online.

    Attributes:
        shelves: what each account's archive holds, the oldest first.
        now: the server's time.
        size: results on a page.
        asked_after: what each query was to begin after; None for one that begins at a time.
        on_page: called after each page, with how many there were.
        refuses: whether the archives do.
        carbons: whether copies are given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shelves: dict[str, list[Kept]] = {}
        self.now = START
        self.size = 2
        self.asked_after: list[str | None] = []
        self.on_page: Callable[[int], None] = lambda _: None
        self.refuses = False
        self.carbons = True
        self._pages = 0
        self._copied: set[TestClient] = set()
        self._names = 0

    def keep(self, account: str, xml: Element) -> str:
        """Put a message into an archive; its id there."""
        self._names += 1
        name = f"a{self._names}"
        self.shelves.setdefault(account, []).append(Kept(name, self.now, copy(xml)))
        return name

    def deliver(self) -> int:
        """Archive and hand over every message that was sent; how many there were."""
        sent = [(client, stanza) for client in self.clients for stanza in client.sent]
        for client in self.clients:
            client.sent.clear()
        for sender, stanza in sent:
            self._route(self.carry(stanza, sender, sender).xml, sender, stanza["to"].bare)
        return len(sent)

    def _route(self, xml: Element, sender: TestClient, to: str) -> None:
        own = sender.boundjid.bare
        names: dict[str, str] = {}
        if not is_empty(xml):  # so that what a test counts is what it has sent
            names = {account: self.keep(account, xml) for account in dict.fromkeys((own, to))}
        for client in self.clients:
            account = client.boundjid.bare
            if client.stopped or not client.bound or account not in (own, to):
                continue
            named = copy(xml)
            if account in names:
                SubElement(named, STANZA_ID, {"id": names[account], "by": account})
            if account == to:
                client.receive(named)
            elif client is not sender and self.carbons and client in self._copied:
                carbon = Element("{jabber:client}message", {"from": own, "to": own})
                SubElement(SubElement(carbon, f"{CARBONS}sent"), FORWARDED).append(named)
                client.receive(copy(carbon))

    def asked(self, client: TestClient, iq: Element) -> None:
        """Answer a query of an archive; the rest as any server."""
        query = iq.find(f"{MAM}query")
        if iq.find(f"{CARBONS}enable") is not None:
            self._copied.add(client)
        if query is None:
            super().asked(client, iq)
        elif not client.stopped:
            self._query(client, iq, query)

    def _query(self, client: TestClient, iq: Element, query: Element) -> None:
        account = client.boundjid.bare
        answer = Element("{jabber:client}iq", {"id": iq.get("id", ""), "type": "result"})
        after = query.findtext(f"{RSM}set/{RSM}after")
        self.asked_after.append(after)
        shelf = self.shelves.get(account, [])
        names = [each.name for each in shelf]
        if self.refuses or (after is not None and after not in names):
            _fail(answer, "service-unavailable" if self.refuses else "item-not-found")
        else:
            found = shelf[names.index(after) + 1 :] if after else _since(shelf, query)
            page = found[: self.size]
            for each in page:
                client.receive(_result(account, query.get("queryid", ""), each))
            complete = str(len(page) == len(found)).lower()
            fin = SubElement(answer, f"{MAM}fin", {"complete": complete})
            slip = SubElement(fin, f"{RSM}set")
            SubElement(slip, f"{RSM}count").text = str(len(found))
            if page:
                SubElement(slip, f"{RSM}last").text = page[-1].name
        self._pages += 1
        client.receive(copy(answer))
        self.on_page(self._pages)


def copy(xml: Element) -> Element:
    """An element of its own."""
    return fromstring(tostring(xml))  # noqa: S314 -- made in this process


async def missed(rosa: Party, peter: Party, town: Town, *texts: str, **options: Any) -> None:
    """Have messages sent while somebody is away."""
    for text in texts:
        await rosa.chat.send(peter.jid, text, **options)
    await town.deliver()


def position(party: Party) -> dict[str, Any]:
    text = party.vault.transact_sync(lambda tx: tx.value(f"archive:{party.jid}"))
    assert text is not None
    found: dict[str, Any] = json.loads(text)
    return found


def names(world: Shelves, party: Party) -> list[str]:
    return [kept.name for kept in world.shelves[party.jid]]


def rejections(party: Party) -> list[Reason]:
    return [rejection.reason for rejection in party.events["rejected"]]


async def absent(town: Town, rosa: Party) -> Party:
    """Somebody who has caught up, has heard from rosa, and is offline now."""
    made = await town.party("peter")
    await rosa.chat.send(made.jid, "good morning")
    await town.deliver()
    await made.chat._expiry.note()
    made.offline()
    for heard in made.events.values():
        heard.clear()
    assert isinstance(town.world, Shelves)
    town.world.asked_after.clear()
    town.world._pages = 0
    return made


def _since(shelf: list[Kept], query: Element) -> list[Kept]:
    for field in query.iter(f"{DATA}field"):
        if field.get("var") == "start":
            start = parse_datetime(field.findtext(f"{DATA}value", "")).timestamp()
            return [each for each in shelf if each.stamp >= start]
    return shelf


def _result(account: str, query: str, kept: Kept) -> Element:
    message = Element("{jabber:client}message", {"from": account, "to": account})
    result = SubElement(message, f"{MAM}result", {"id": kept.name, "queryid": query})
    forwarded = SubElement(result, FORWARDED)
    stamp = format_datetime(datetime.fromtimestamp(kept.stamp, UTC))
    SubElement(forwarded, DELAY, {"stamp": stamp})
    forwarded.append(kept.xml)
    return copy(message)
