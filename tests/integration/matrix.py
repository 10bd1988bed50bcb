"""Who can talk to whom: the table of the README, measured by talking.

`python -m tests.integration.matrix` prints it as it is on each server.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slixmpp import JID

from eph_e2ee import Message, NoEligibleDevices, PlainMessage
from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.integration.devices import until
from tests.integration.makes import PEERS, Ours
from tests.integration.meeting import Place
from tests.integration.rooms import ROOM_PLUGINS, enter, plugin_of
from tests.support.chats import Party
from tests.support.client import Happenings
from tests.support.ejabberd import Ejabberd
from tests.support.prosody import Prosody
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from eph_e2ee import Skipped, Unsupported
    from tests.integration.meeting import Heard, Peer
    from tests.support.server import Account, Server

__all__ = ["COLUMNS", "measured", "written"]

COLUMNS: Final = (
    "they have",
    "where",
    "you send",
    "its timer",
    "it disappears",
    "you read",
    "its timer",
    "you are told",
)

DIRECT, ROOM = "1:1", "room"

NOTHING: Final = "nothing"

TIMER: Final = timedelta(hours=1)
"""Rosa's, in every conversation."""

THEIR_TIMER: Final = timedelta(hours=2)
"""What everybody else prefers."""

WAYS: Final = {MODERN: "envelope", OLD: "legacy OMEMO", "": "clear text"}


@dataclass(frozen=True, slots=True)
class Row:
    """What happens between Rosa and somebody at a place; each is a cell as it stands in the table.

    Attributes:
        make: his client.
        where: the place.
        sent: in what her message reached him.
        timer: where its timer stood.
        disappears: whether it is gone from his client once its timer has run.
        read: in what his message reached her.
        their_timer: what his timer counts with her.
        told: what she hears of what he cannot do.
    """

    make: str
    where: str
    sent: str
    timer: str
    disappears: str
    read: str
    their_timer: str
    told: str


class Rosa:
    """The one whom the table is about, and what she is told."""

    def __init__(self, party: Party) -> None:
        self.party = party
        party.attach()
        self.heard = Happenings(party.client, "ephemeral_message", "ephemeral_plain_message")
        self.skipped = Happenings(party.client, "ephemeral_skipped")
        self.texts: list[str] = []
        self.errors: list[tuple[str, str]] = []

    async def send(self, place: Place) -> tuple[str, bool]:
        """Write something; the text, and whether it went to everybody."""
        text = f"Rosa to {place.ours}"
        self.texts.append(text)
        try:
            sent = await self.party.chat.send(place.ours, text)
        except NoEligibleDevices as error:
            self.errors.append((place.ours, type(error).__name__))
            return text, False
        return text, not sent.left_out

    def told(self, place: Place, peer: Peer) -> str:
        """The names of all warnings of a conversation, each of which names him."""
        warnings: list[Unsupported] = [
            each for each in self.party.unsupported.all if each.conversation == place.ours
        ]
        names = set()
        for each in warnings:
            assert {jid for jid, _ in each.addresses} <= {peer.jid}
            names |= {name for name in ("devices", "ignoring") if getattr(each, name)}
        skipped: list[Skipped] = [
            each for each in self.skipped.all if each.conversation == place.ours
        ]
        assert {left.jid for each in skipped for left in each.left_out} <= {peer.jid}
        told = [f"`ephemeral_unsupported`: `{name}`" for name in sorted(names)]
        told += ["`ephemeral_skipped`"] * bool(skipped)
        told += [f"`{error}`" for where, error in self.errors if where == place.ours]
        return ", ".join(told) or NOTHING

    async def knows(self, peer: Peer) -> None:
        """Wait until slixmpp has looked up what his client says of itself."""
        if peer.client.plugin.get("xep_0115", None) is None:
            return
        honouring = self.party.chat._account.honouring

        async def looked_up() -> bool:
            return await honouring._has_feature(peer.client.boundjid.full) is not None

        await until(self.party, looked_up)


class Meetings:
    """Everybody on one server, and what comes of their talking."""

    def __init__(self, rosa: Rosa, anna: Ours, peers: list[Peer], server: Server) -> None:
        self._rosa = rosa
        self._anna = anna
        self._peers = peers
        self._server = server

    @property
    def texts(self) -> list[str]:
        """All that Rosa has written, or tried to."""
        return self._rosa.texts

    async def rows(self) -> list[Row]:
        """All of the table: two for each of them."""
        return [row for peer in self._peers for row in await self._with(peer)]

    async def _with(self, peer: Peer) -> list[Row]:
        """At both places hers is the first word; he has said nothing that she could know him by."""
        rosa = self._rosa.party
        await self._rosa.knows(peer)
        direct = Place(peer.jid, rosa.jid, frozenset({rosa.jid}))
        places = (direct, await self._room(peer))
        heard = [await self._send(peer, place) for place in places]
        read = [await self._listen(peer, place) for place in places]
        rows = []
        for place, said, cells in zip(places, heard, read, strict=True):
            rows.append(
                Row(
                    make=peer.MAKE,
                    where=ROOM if place.kind == "groupchat" else DIRECT,
                    sent=NOTHING if said is None else WAYS[said.namespace],
                    timer="" if said is None else _place_of(said),
                    disappears="" if said is None else await _disappears(peer, said, place),
                    read=cells[0],
                    their_timer=cells[1],
                    told=self._rosa.told(place, peer),
                )
            )
        return rows

    async def _room(self, peer: Peer) -> Place:
        """A new room of its members: Rosa's, with Anna and him in it."""
        rosa, anna = self._rosa.party, self._anna
        jid = f"{peer.account.name}@{self._server.rooms}"
        await enter(rosa, jid, found=True)
        for each in (anna, peer):
            await plugin_of(rosa).set_affiliation(JID(jid), "member", jid=JID(each.jid))
            await each.enter(jid)
        return Place(jid, jid, frozenset({rosa.jid, anna.jid}))

    async def _send(self, peer: Peer, place: Place) -> Heard | None:
        """Her message: what he has heard of it, if it is for him."""
        text, everybody = await self._rosa.send(place)
        heard = await peer.hear(place) if everybody else None
        assert heard is None or heard.text == text
        if place.kind == "groupchat":
            assert (await self._anna.hear(place)).text == text
        return heard

    async def _listen(self, peer: Peer, place: Place) -> tuple[str, str]:
        """His message: in what it came, and what its timer counts."""
        text = f"he to {place.theirs}"
        await peer.say(place, text, THEIR_TIMER)
        message = await self._rosa.heard.next()
        assert message.body == text
        timer = await self._rosa.party.chat.timer(place.ours)
        if isinstance(message, PlainMessage):
            assert message.timer == THEIR_TIMER.total_seconds()
            assert timer == TIMER
            return f"{WAYS['']}, told apart", "told, not believed"
        assert isinstance(message, Message)
        assert message.timer == THEIR_TIMER
        if place.kind == "groupchat":
            assert (await self._anna.hear(place)).text == text
        assert (Finding.CLEAR_TIMER in message.findings) == (timer == TIMER)
        counts = "the conversation's" if timer == THEIR_TIMER else "its message's alone"
        return WAYS[message.encrypted_with or ""], counts


async def measured(server: Server, account: Callable[[str], Account], folder: Path) -> list[Row]:
    """Have everybody talk on a server; what Rosa wrote must not have left her in clear.

    Args:
        server: it runs.
        account: makes one there.
        folder: for what everybody keeps.
    """
    async with Wire(server.port) as wire, _everybody(server, account, folder, wire) as meetings:
        rows = await meetings.rows()
        gone = wire.from_clients.record
        assert MODERN.encode() in gone
        assert not [text for text in meetings.texts if text.encode() in gone]
    return rows


@asynccontextmanager
async def _everybody(
    server: Server, account: Callable[[str], Account], folder: Path, wire: Wire
) -> AsyncIterator[Meetings]:
    """Rosa's friends, who are there before she is, so that she sees what they have settled on."""
    own, annas = account("rosa"), account("anna")
    anna = Ours(annas, server, folder)
    peers = [make(account(make.__name__.lower()), server, folder) for make in PEERS]
    server.befriend(own, *(each.account for each in peers))
    party = Party(own, folder / "rosa.vault", wire.address, plugins=ROOM_PLUGINS, timer=TIMER)
    async with AsyncExitStack() as stack:
        for each in (anna, *peers):
            stack.push_async_callback(each.leave)
            await each.arrive()
        stack.push_async_callback(party.leave)
        rosa = Rosa(party)
        await party.arrive()
        yield Meetings(rosa, anna, peers, server)


async def _disappears(peer: Peer, heard: Heard, place: Place) -> str:
    """Whether a message has gone from where it was read, once its timer has run."""
    return "no" if await peer.keeps(heard, place, int(TIMER.total_seconds()) + 1) else "yes"


def _place_of(heard: Heard) -> str:
    """Where a message's timer stood."""
    found = {"inside": heard.inside, "in clear": heard.clear}
    said = [name for name, timer in found.items() if timer is not None]
    assert {found[name] for name in said} <= {TIMER.total_seconds()}
    return " and ".join(said) or "none"


def written(rows: list[Row]) -> list[str]:
    """The lines of the table in Markdown; what is the same at both places stands once."""
    lines: list[Row] = []
    for row in rows:
        if lines and replace(lines[-1], where=row.where) == row:
            lines[-1] = replace(row, where=f"{lines[-1].where}, {row.where}")
        else:
            lines.append(row)
    cells = [COLUMNS, ("---",) * len(COLUMNS), *(astuple(line) for line in lines)]
    return [f"| {' | '.join(each)} |" for each in cells]


def main() -> None:
    """Print the table of each server."""
    makes: tuple[type[Server], ...] = (Prosody, Ejabberd)
    for make in makes:
        with make() as server, tempfile.TemporaryDirectory() as folder:
            rows = asyncio.run(measured(server, server.register, Path(folder)))
        sys.stdout.write("\n".join([make.NAME, "", *written(rows), "", ""]))


if __name__ == "__main__":
    main()
