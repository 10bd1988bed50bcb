"""An archive of the server, a page at a time (XEP-0313)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP
from slixmpp.exceptions import IqError, XMPPError
from slixmpp.plugins.xep_0082 import format_datetime

from eph_e2ee.errors import RemoteError
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.arrivals import MAXIMUM_RESULTS, Arrivals
from eph_e2ee.xmpp.stanzas import Arrival

__all__ = ["Archive", "ArchiveUnavailable", "Page", "PositionLost"]

ANSWER: Final = 60.0
"""Seconds that the server has for a page."""

DATA: Final = "{jabber:x:data}"
MAM: Final = "{urn:xmpp:mam:2}"
RSM: Final = "{http://jabber.org/protocol/rsm}"

LOST: Final = "item-not-found"
"""The archive does not know the id that a page is to begin after (XEP-0313 section 4.3.1)."""

_NUMBER: Final = re.compile(r"[0-9]{1,12}")


class ArchiveUnavailable(RemoteError):
    """The server has no archive for us, or did not answer."""


class PositionLost(ArchiveUnavailable):
    """The archive has forgotten the message that reading was to go on after."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one query gave.

    Attributes:
        arrivals: the encrypted messages, the oldest first.
        fetched: how many results there were, whatever they held.
        last: the id of the last one; None for an empty page.
        total: how many there are from the beginning of the query; None when that is not told.
        complete: whether nothing follows.
    """

    arrivals: tuple[Arrival, ...] = field(repr=False)
    fetched: int
    last: str | None
    total: int | None
    complete: bool


class Archive:
    """Reads archives: our own account's, and rooms'.

    slixmpp's plugin is not used: it would have every client answer ad-hoc commands (XEP-0050), it
    takes results from whoever sends them, and gives no position to go on from.
    """

    def __init__(self, client: ClientXMPP, arrivals: Arrivals, own: Callable[[], BareJid]) -> None:
        self._client = client
        self._arrivals = arrivals
        self._own = own

    async def page(
        self, archive: BareJid, *, after: str | None, start: datetime | None, size: int
    ) -> Page:
        """Return the next results. Canceling is safe.

        Args:
            archive: our own bare JID, or a room's.
            after: those behind the result with this id; None for the first ones.
            start: none that is older; None for any age.
            size: how many at most.

        Raises:
            PositionLost: the archive does not know `after`.
            ArchiveUnavailable: the server refused, or did not answer.
        """
        query: Any = self._client.make_iq_set()
        name = str(query["id"])
        query.append(_query(name, after=after, start=start, size=size))
        if archive != self._own():
            query["to"] = JID(archive)
        results = self._arrivals.collect(name, archive)
        try:
            answer = await query.send(timeout=ANSWER)
        except XMPPError as error:
            failure = _failure(error)
        else:
            return _page(answer, results, after)
        finally:
            self._arrivals.collected(name)
            # Also when it is cancelled, of which slixmpp takes no notice.
            self._client.remove_handler(f"IqCallback_{name}")
            self._client.cancel_schedule(f"IqTimeout_{name}")
        raise failure


def _query(name: str, *, after: str | None, start: datetime | None, size: int) -> Element:
    query = Element(f"{MAM}query", {"queryid": name})
    if start is not None:
        form = SubElement(query, f"{DATA}x", {"type": "submit"})
        stamp = format_datetime(start)
        for field_name, value in (("FORM_TYPE", "urn:xmpp:mam:2"), ("start", stamp)):
            entry = SubElement(form, f"{DATA}field", {"var": field_name})
            SubElement(entry, f"{DATA}value").text = value
    page = SubElement(query, f"{RSM}set")
    SubElement(page, f"{RSM}max").text = str(size)
    if after is not None:
        SubElement(page, f"{RSM}after").text = after
    return query


def _failure(error: XMPPError) -> ArchiveUnavailable:
    if isinstance(error, IqError) and error.condition == LOST:
        return PositionLost("the archive has forgotten where reading stood")
    return ArchiveUnavailable("the server gave nothing of its archive: try again later")


def _page(answer: Any, results: list[tuple[str | None, Arrival | None]], after: str | None) -> Page:
    fin = answer.xml.find(f"{MAM}fin")
    if fin is None:
        raise ArchiveUnavailable("the server has no archive of messages (XEP-0313)")
    count = fin.findtext(f"{RSM}set/{RSM}count", "")
    full = len(results) >= MAXIMUM_RESULTS  # there may have been more, which were not collected
    named = None if full else fin.findtext(f"{RSM}set/{RSM}last")
    last = named or (results[-1][0] if results else None)
    complete = not full and (fin.get("complete") == "true" or not results)
    if not complete and (not last or last == after):
        raise ArchiveUnavailable("the archive names no place to go on from")
    return Page(
        arrivals=tuple(arrival for _, arrival in results if arrival is not None),
        fetched=len(results),
        last=last,
        total=int(count) if _NUMBER.fullmatch(count) else None,
        complete=complete,
    )
