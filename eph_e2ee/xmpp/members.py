"""Who gets what is said in a room (XEP-0045): its members, here or not, and everybody in it.

All of it is the room's word; nothing else could tell. A room that hides the JIDs of its occupants
from some of them is of no use to OMEMO, which knows accounts (XEP-0384 section 7).
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from xml.etree.ElementTree import Element

from slixmpp import JID, ClientXMPP
from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.stanza import Message, Presence

from eph_e2ee.errors import NotSent, RoomUnsuitable
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.rooms import ITEM, MEMBERS, OCCUPANT, codes_of, membership
from eph_e2ee.xmpp.stanzas import bare

__all__ = ["Audience", "Members"]

OPEN: Final = {"100", "172"}
"""Statuses of a room whose occupants see each other's JIDs (XEP-0045 sections 7.2.3, 10.2.1)."""

HIDDEN: Final = {"173", "174"}
"""Statuses of a room that has become one where they do not."""

CHANGED: Final = {"104", *OPEN, *HIDDEN}
"""Statuses after which a room may be another one."""

ADMIN: Final = "http://jabber.org/protocol/muc#admin"

NON_ANONYMOUS: Final = "muc_nonanonymous"

FRESH: Final = 60.0
"""Seconds for which the lists of a room are good enough: not every server tells of a member who is
not there, that he is one now."""

ANSWER: Final = 30.0
"""Seconds that a room has for its answer."""

MAXIMUM_MEMBERS: Final = 2000
"""Accounts that one message is encrypted for; the largest rooms in use have some hundreds."""

MAXIMUM_OCCUPANTS: Final = 10_000
"""Occupant-ids of one room that are remembered; a room makes a new one for each account."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a message is for.

    Attributes:
        conversation: the bare JID of the peer or the room.
        jids: the accounts to encrypt for.
        room: whether it goes to a room.
        complete: whether these are all that belong to it, as far as the room tells.
        member: whether we belong to it ourselves, and may change its timer.
    """

    conversation: BareJid
    jids: frozenset[BareJid]
    room: bool = False
    complete: bool = True
    member: bool = True


@dataclass(slots=True)
class _Room:
    """What a room that we are in has told of itself since we entered it.

    Attributes:
        entered: whether we are in it, and not on the way.
        member: whether we belong to it ourselves.
        open: whether its occupants see each other's JIDs; None while that is not known.
        members: who belongs to it, with their affiliations.
        occupants: who is in it, by nickname.
        ids: whose occupant-ids these are.
        complete: whether it has given us all of its lists.
        asked_at: when it was asked, in seconds of the event loop; None to ask again.
        version: grows with whatever it tells of itself.
        changed: who has got another affiliation while it was asked.
    """

    entered: bool = False
    member: bool = False
    open: bool | None = None
    members: dict[BareJid, str] = field(default_factory=dict)
    occupants: dict[str, BareJid] = field(default_factory=dict)
    ids: dict[str, BareJid] = field(default_factory=dict)
    complete: bool = True
    asked_at: float | None = None
    version: int = 0
    changed: dict[BareJid, str] = field(default_factory=dict)
    asking: asyncio.Task[bool] | None = None

    @property
    def jids(self) -> frozenset[BareJid]:
        """Who belongs to it, and who is in it."""
        return frozenset(self.members) | frozenset(self.occupants.values())

    def told(self, codes: set[str]) -> None:
        """Take in what it says of itself; what it does not say is asked for."""
        if codes & CHANGED:
            self.open = False if codes & HIDDEN else True if codes & OPEN else None
            self.asked_at = None
            self.version += 1

    def note(self, jid: BareJid, affiliation: str) -> None:
        """Note whether somebody belongs to it, also for the lists that are on their way."""
        if self.asking is not None and not self.asking.done():
            self.changed[jid] = affiliation
        if affiliation not in MEMBERS:
            self.members.pop(jid, None)
        elif len(self.members) <= MAXIMUM_MEMBERS:
            self.members[jid] = affiliation

    def listed(self, affiliation: str, jids: Iterable[BareJid]) -> None:
        """Take a list in place of what was known of it."""
        for jid in [jid for jid, known in self.members.items() if known == affiliation]:
            del self.members[jid]
        self.members.update(dict.fromkeys(jids, affiliation))


class Members:
    """Follows the rooms that the application has joined with slixmpp's plugin."""

    def __init__(self, client: ClientXMPP) -> None:
        self._client = client
        self._rooms: dict[BareJid, _Room] = {}
        self._handlers: dict[str, Callable[..., None]] = {
            "session_bind": self._bound,
            "groupchat_presence": self._seen,
            "groupchat_config_status": self._configured,
            "groupchat_affiliation_change": self._affiliated,
        }
        for event, handler in self._handlers.items():
            client.add_event_handler(event, handler)

    def detach(self) -> None:
        """Take the event handlers away again, and end what is being asked."""
        for event, handler in self._handlers.items():
            self._client.del_event_handler(event, handler)
        self._bound(None)

    def is_room(self, jid: BareJid) -> bool:
        """Tell whether that is a room that we have joined, or are about to."""
        return jid in self._joined()

    def real_jid(self, room: BareJid, occupant: str | None) -> BareJid | None:
        """Whose occupant-id that is (XEP-0421); None unless he has been seen in this session."""
        state = self._rooms.get(room)
        return None if state is None or occupant is None else state.ids.get(occupant)

    def belongs(self, room: BareJid, jid: BareJid) -> bool:
        """Tell whether somebody belongs to a room, as far as it has told."""
        state = self._rooms.get(room)
        return state is not None and jid in state.members

    async def known(self, room: BareJid) -> None:
        """Have a room's lists at hand, if it gives them to us. Canceling it is safe."""
        state = self._rooms.get(room)
        if state is not None:
            with suppress(NotSent):  # it does not answer: then nobody belongs to it
                await self._known(room, state)

    def still(self, audience: Audience) -> frozenset[BareJid]:
        """Of whom a message is for, those that it may be encrypted for at this moment.

        Between asking for an audience and encrypting, people may have been asked to decide.

        Raises:
            NotSent: we have left the room.
            RoomUnsuitable: it hides JIDs since.
        """
        if not audience.room:
            return audience.jids
        return audience.jids & self._usable(audience.conversation).jids

    async def audience(self, room: BareJid) -> Audience:
        """Whom a message to a room is for, but ourselves. Canceling it is safe.

        Raises:
            RoomUnsuitable: it hides JIDs, or has more members than can be encrypted for.
            NotSent: it does not answer, or we have left it.
        """
        state = self._rooms.get(room)
        if state is not None and state.entered:
            await self._known(room, state)
        state = self._usable(room)
        if len(state.jids) > MAXIMUM_MEMBERS:
            raise RoomUnsuitable("the room has more members than a message can be encrypted for")
        return Audience(
            conversation=room,
            jids=state.jids - {BareJid(self._client.boundjid.bare)},
            room=True,
            complete=state.complete,
            member=state.member,
        )

    def _usable(self, room: BareJid) -> _Room:
        state = self._rooms.get(room)
        if state is None or not state.entered:
            raise NotSent("we are not in that room yet: send again once it has been entered")
        if not state.open:
            raise RoomUnsuitable(
                "the room hides its occupants' JIDs, which OMEMO needs: have it made non-anonymous"
            )
        return state

    def _joined(self) -> list[str]:
        plugin: Any = self._client.plugin.get("xep_0045", None)
        return [] if plugin is None else plugin.get_joined_rooms()

    # -- asking ----------------------------------------------------------------------------------

    async def _known(self, room: BareJid, state: _Room) -> None:
        """Have a room asked what is not known of it, or not any more; by one task for all."""
        now = self._client.loop.time()
        if state.open is not None and state.asked_at is not None and now - state.asked_at < FRESH:
            return
        if state.asking is None or state.asking.done():
            state.asking = asyncio.ensure_future(self._ask(room, state))
        asking = state.asking
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            if not asking.cancelled():
                raise
        if asking.cancelled() or not asking.result():
            raise NotSent("the room does not answer: send again later")

    async def _ask(self, room: BareJid, state: _Room) -> bool:
        """Whether it has answered; what it tells meanwhile counts for more."""
        asked_at, version = self._client.loop.time(), state.version
        try:
            if not state.open:
                is_open = await self._is_open(room)
                if version != state.version:
                    return True  # the next message asks again
                state.open = is_open
            if state.open:
                await self._list(room, state)
        except (IqTimeout, IqError):
            return False
        if version == state.version:
            state.asked_at = asked_at
        return True

    async def _is_open(self, room: BareJid) -> bool:
        disco: Any = self._client.plugin["xep_0030"]
        found = await disco.get_info(jid=JID(room), timeout=ANSWER)
        return NON_ANONYMOUS in found["disco_info"]["features"]

    async def _list(self, room: BareJid, state: _Room) -> None:
        """Ask for the lists; who enters one or leaves it meanwhile is not forgotten."""
        state.changed.clear()
        lists = await asyncio.gather(*(self._members(room, each) for each in MEMBERS))
        state.complete = None not in lists
        for affiliation, listed in zip(MEMBERS, lists, strict=True):
            if listed is not None:
                state.listed(affiliation, listed)
        for jid, affiliation in list(state.changed.items()):
            state.note(jid, affiliation)

    async def _members(self, room: BareJid, affiliation: str) -> set[BareJid] | None:
        """A list of a room's; None where it does not give it to us.

        slixmpp's own method raises what one malformed JID raises, for all of them.
        """
        question: Any = self._client.make_iq_get(ADMIN, ito=JID(room))
        question["mucadmin_query"]["item"]["affiliation"] = affiliation
        try:
            answer = await question.send(timeout=ANSWER)
        except IqError:
            return None
        items = answer.xml.iterfind(f"{{{ADMIN}}}query/{{{ADMIN}}}item")
        return _accounts(item.get("jid", "") for item in islice(items, MAXIMUM_MEMBERS + 1))

    # -- hearing ---------------------------------------------------------------------------------

    def _bound(self, _: object) -> None:
        for state in self._rooms.values():
            if state.asking is not None:
                state.asking.cancel()
        self._rooms.clear()

    def _seen(self, presence: Presence) -> None:
        """Somebody is in a room, or is not any more; we ourselves are shown last."""
        found = membership(presence)
        room = BareJid(presence["from"].bare)
        if found is not None and not found[1]:
            self._rooms.pop(room, None)
        elif room in self._joined() and presence["type"] != "error":
            state = self._rooms.setdefault(room, _Room())
            if found is not None:
                item = presence.xml.find(ITEM)
                state.entered = True
                state.member = item is not None and item.get("affiliation") in MEMBERS
                state.told(codes_of(presence.xml))
            _note_occupant(state, presence)

    def _configured(self, message: Message) -> None:
        state = self._rooms.get(BareJid(str(message["from"])))
        if state is not None:
            state.told(codes_of(message.xml))

    def _affiliated(self, message: Message) -> None:
        """Somebody who is not there has become a member, or is none any more."""
        state = self._rooms.get(BareJid(str(message["from"])))
        if state is not None:
            for item in message.xml.iterfind(ITEM):
                _note_item(state, item)


def _note_occupant(state: _Room, presence: Presence) -> None:
    nick, item = presence["from"].resource, presence.xml.find(ITEM)
    jid = None if item is None else _note_item(state, item)
    if presence["type"] == "unavailable":
        state.occupants.pop(nick, None)
    elif jid is not None and len(state.occupants) <= MAXIMUM_MEMBERS:
        state.occupants[nick] = jid
        occupant = presence.xml.find(OCCUPANT)
        if occupant is not None and len(state.ids) < MAXIMUM_OCCUPANTS:
            state.ids[occupant.get("id", "")] = jid


def _note_item(state: _Room, item: Element) -> BareJid | None:
    """Whom an item names; his membership is noted."""
    named = _accounts([item.get("jid", "")])
    for jid in named:
        state.note(jid, item.get("affiliation", ""))
    return next(iter(named), None)


def _accounts(jids: Iterable[str]) -> set[BareJid]:
    """The accounts that JIDs are of; what is none is not taken for one."""
    accounts: set[BareJid] = set()
    for jid in jids:
        with suppress(ValueError):
            accounts.add(bare(jid))
    return accounts - {BareJid("")}
