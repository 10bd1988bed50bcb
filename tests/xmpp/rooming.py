"""A world with a room in it, which answers what it is asked; for one who is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.members import Members
from tests.xmpp.clients import World

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient

__all__ = ["OCCUPANT", "PETER", "ROOM", "ROSA", "USER", "Inside", "Rooming", "join"]

ROOM: Final = "room@rooms.example.org"
ROSA: Final = "rosa@example.org"
PETER: Final = "peter@example.org"
OCCUPANT: Final = "urn:xmpp:occupant-id:0"
USER: Final = "http://jabber.org/protocol/muc#user"
ADMIN: Final = "{http://jabber.org/protocol/muc#admin}"
INFO: Final = "{http://jabber.org/protocol/disco#info}"
ERRORS: Final = "{urn:ietf:params:xml:ns:xmpp-stanzas}"


class Rooming(World):
    """A world with one room.

    Attributes:
        lists: its affiliations; one that is missing is refused.
        features: what it tells of itself.
        silent: whether it answers nothing.
        broken: whether it answers with errors.
        mute: accounts whose server answers nothing.
        asked_for: what it was asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[str, list[str]] = {"owner": [ROSA], "admin": [], "member": [PETER]}
        self.features = ["muc_nonanonymous"]
        self.silent = False
        self.broken = False
        self.mute: set[str] = set()
        self.asked_for: list[str] = []
        self.meanwhile: list[Element] = []

    def asked(self, client: TestClient, iq: Element) -> None:
        """Answer for the room."""
        if iq.get("to") in self.mute:
            self.requests += [(iq.get("to", ""), verb.tag.partition("}")[2]) for verb in iq.iter()]
            return
        if iq.get("to") != ROOM:
            super().asked(client, iq)
            return
        answer = Element(iq.tag, {"id": iq.get("id", ""), "type": "result", "from": ROOM})
        answer.set("to", client.boundjid.full)
        item = iq.find(f"{ADMIN}query/{ADMIN}item")
        if self.broken:
            _fail(answer, "wait", "resource-constraint")
        elif item is None:
            self.asked_for.append("features")
            query = SubElement(answer, f"{INFO}query")
            for feature in self.features:
                SubElement(query, f"{INFO}feature", {"var": feature})
        else:
            self._list(answer, item.get("affiliation", ""))
        while self.meanwhile:
            client.receive(self.meanwhile.pop())
        if not self.silent:
            client.receive(answer)

    def _list(self, answer: Element, affiliation: str) -> None:
        self.asked_for.append(affiliation)
        if affiliation not in self.lists:
            _fail(answer, "auth", "forbidden")
            return
        query = SubElement(answer, f"{ADMIN}query")
        for jid in self.lists[affiliation]:
            SubElement(query, f"{ADMIN}item", {"jid": jid, "affiliation": affiliation})


def _fail(answer: Element, kind: str, condition: str) -> None:
    answer.set("type", "error")
    error = SubElement(answer, "{jabber:client}error", {"type": kind})
    SubElement(error, f"{ERRORS}{condition}")


def join(client: TestClient, *codes: int) -> None:
    """Have somebody enter the room as its owner; it says codes of itself."""
    rooms: Any = client.plugin["xep_0045"]
    rooms.rooms[None][JID(ROOM)] = {}
    statuses = "".join(f"<status code='{code}'/>" for code in (110, *codes))
    client.receive(
        f"<presence xmlns='jabber:client' from='{ROOM}/{client.boundjid.user}'><x xmlns='{USER}'>"
        f"<item jid='{client.boundjid.full}' affiliation='owner' role='moderator'/>{statuses}</x>"
        "</presence>"
    )


class Inside:
    """Somebody in the room, and what she sees of it."""

    def __init__(self, world: Rooming) -> None:
        self.world = world
        self.client = world.client("rosa")
        self.client.register_plugin("xep_0045")
        self.rooms: Any = self.client.plugin["xep_0045"]
        self.members = Members(self.client)

    def presence(
        self,
        nick: str,
        jid: str | None,
        affiliation: str = "member",
        *codes: int,
        kind: str = "",
        occupant: str = "",
    ) -> None:
        """Somebody's presence."""
        named = f" jid='{jid}'" if jid else ""
        statuses = "".join(f"<status code='{code}'/>" for code in codes)
        identified = f"<occupant-id xmlns='{OCCUPANT}' id='{occupant}'/>"
        self.client.receive(
            f"<presence xmlns='jabber:client' from='{ROOM}/{nick}' type='{kind}'>"
            f"<x xmlns='{USER}'><item{named} affiliation='{affiliation}' role='none'/>{statuses}"
            f"</x>{identified if occupant else ''}</presence>".replace(" type=''", "")
        )

    def enter(self, *codes: int) -> None:
        """Join."""
        join(self.client, *codes)

    def told(self, content: str, room: str = ROOM) -> None:
        """Something that the room says in a message."""
        self.client.receive(
            f"<message xmlns='jabber:client' from='{room}'>"
            f"<x xmlns='{USER}'>{content}</x></message>"
        )

    async def jids(self) -> set[str]:
        return set((await self.members.audience(BareJid(ROOM))).jids)
