"""Timers of conversations in clear: what others say of them, and what holds.

Nothing here knows the vault, nor the timers of encrypted conversations, and nothing is kept beyond
the process. The rule is the same as for those (`protocol.agreement`), with a device for each
resource: whoever repeats an old timer does not undo a change (F22).

Carbons of one's own other devices count. Archives do not: who queries one reads
`message["ephemeral"]["timer"]` of what it holds, and old values set nothing (F26). In a room its
members alone change the timer (F28); a private message through a room has its own timer, and says
nothing of others.
"""

import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher.base import MatcherBase

from eph_e2ee.events import PlainMessage, PlainTimerChange
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement, ephemeral
from eph_e2ee.protocol.agreement import Agreement, Speech
from eph_e2ee.protocol.ephemeral import Announcement, Kind
from eph_e2ee.xmpp.elements import BODY, is_encrypted
from eph_e2ee.xmpp.rooms import Rooms
from eph_e2ee.xmpp.stanzas import Arrival, bare, carbon, live

__all__ = ["MAXIMUM_CONVERSATIONS", "PlainTimers"]

STANZAS: Final = "eph_e2ee: timers in clear"
CARBONS: Final = ("carbon_received", "carbon_sent")

MAXIMUM_CONVERSATIONS = 256
"""Conversations whose timers are remembered; the one silent for longest is forgotten. Strangers can
push others out: then a timer has to be announced again."""


class PlainTimers:
    """The timer of each conversation in clear, kept up to date by what arrives.

    Args:
        client: raises `ephemeral_plain_message` and `ephemeral_plain_timer_changed`.
        now: the time in seconds since the epoch.
    """

    def __init__(self, client: ClientXMPP, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now
        self._rooms = Rooms(client)
        self._known: OrderedDict[BareJid, Agreement] = OrderedDict()

    def listen(self) -> None:
        """Begin to take in what arrives."""
        self._client.register_handler(Callback(STANZAS, _Clear(None), self._from_stream))
        for event in CARBONS:
            self._client.add_event_handler(event, self._from_carbon)

    def stop(self) -> None:
        """Take the handlers away again."""
        self._client.remove_handler(STANZAS)
        for event in CARBONS:
            self._client.del_event_handler(event, self._from_carbon)

    def agreement(self, conversation: BareJid) -> Agreement:
        """What holds in a conversation."""
        return self._known.get(conversation, Agreement())

    def choose(self, conversation: BareJid, timer: Seconds | None) -> None:
        """Make a choice of our own."""
        own = self._client.boundjid
        before = self.agreement(conversation)
        after = agreement.set_timer(
            before,
            timer,
            author=BareJid(own.bare),
            device=_device(own.resource),
            stamp=self._now(),
        )
        self._remember(conversation, before, after)
        self._tell(conversation, before.timer, timer, own=True)

    def is_private(self, jid: JID, kind: str) -> bool:
        """Tell whether a message to or from a JID is a private one through a room."""
        return kind != "groupchat" and self.is_room(jid)

    def is_room(self, jid: JID) -> bool:
        """Tell whether a JID is a room's, or an occupant's, that the application has joined."""
        plugin: Any = self._client.plugin.get("xep_0045", None)
        return plugin is not None and jid.bare in plugin.get_joined_rooms()

    # -- what arrives --------------------------------------------------------------------------

    def _from_stream(self, stanza: Any) -> None:
        if not _has_sender(stanza):
            return  # slixmpp would make an error of it
        if stanza["type"] == "groupchat":
            arrival = self._rooms.live(stanza)
        else:
            arrival = live(stanza, self._own)
        if arrival is not None:
            self._take(arrival)

    def _from_carbon(self, stanza: Any) -> None:
        arrival = carbon(stanza, self._own)
        if arrival is not None and not is_encrypted(arrival.xml):
            self._take(arrival)

    def _take(self, arrival: Arrival) -> None:
        """Take in what it says of the conversation, then tell of the message."""
        own = self._is_own(arrival)
        peer = arrival.room or (arrival.recipient if own else arrival.sender)
        before = Agreement()
        said, body = ephemeral.read(list(arrival.xml)), arrival.xml.findtext(BODY)
        if not self.is_private(JID(peer), arrival.xml.get("type", "")):
            before = self.agreement(peer)
            if body is not None or said.kind is not Kind.ABSENT:
                self._hear(peer, arrival, said)
        timer = before.timer if said.kind is Kind.MALFORMED else said.timer
        if body is None or timer is None:
            return
        message = PlainMessage(
            conversation=peer,
            sender=arrival.xml.get("from") or arrival.sender,
            message_id=arrival.message_id,
            body=body,
            timer=timer,
            own=own,
            malformed=said.kind is Kind.MALFORMED,
        )
        self._client.event("ephemeral_plain_message", message)

    def _hear(self, peer: BareJid, arrival: Arrival, said: Announcement) -> None:
        before, now = self.agreement(peer), self._now()
        speech = self._speech(arrival, said, now)
        after, change = agreement.receive(before, speech, now=now)
        self._remember(peer, before, after)
        if change is not None:
            self._tell(peer, change.old, change.new, own=speech.own)

    def _speech(self, arrival: Arrival, said: Announcement, now: float) -> Speech:
        """Who says it: an account's resource, or an occupant of a room that hides the account."""
        sender = arrival.xml.get("from", "")
        hidden = arrival.room == arrival.sender
        own = self._is_own(arrival)
        return Speech(
            author=self._own if own else BareJid(sender) if hidden else arrival.sender,
            device=_device(sender.partition("/")[2]),
            stamp=now if arrival.sent_at is None else arrival.sent_at.timestamp(),
            announcement=said,
            own=own,
            member=arrival.member,
        )

    def _is_own(self, arrival: Arrival) -> bool:
        if arrival.room is None or arrival.room != arrival.sender:
            return arrival.sender == self._own
        rooms: Any = self._client.plugin.get("xep_0045", None)
        with suppress(KeyError):  # joined, but not in yet
            return bool(arrival.xml.get("from") == rooms.get_our_jid_in_room(JID(arrival.room)))
        return False

    @property
    def _own(self) -> BareJid:
        return BareJid(self._client.boundjid.bare)

    def _remember(self, peer: BareJid, before: Agreement, after: Agreement) -> None:
        """Whoever never speaks of timers takes no place."""
        if after != before or peer in self._known:
            self._known[peer] = after
            self._known.move_to_end(peer)
        if len(self._known) > MAXIMUM_CONVERSATIONS:
            self._known.popitem(last=False)

    def _tell(self, peer: BareJid, old: Seconds | None, new: Seconds | None, *, own: bool) -> None:
        if old != new:
            change = PlainTimerChange(peer, old, new, own)
            self._client.event("ephemeral_plain_timer_changed", change)


class _Clear(MatcherBase):
    """Matches messages without encryption that have a body, or speak of timers."""

    def match(self, xml: Any) -> bool:
        if not isinstance(xml, Message) or is_encrypted(xml.xml):
            return False
        return any(child.tag == BODY or ephemeral.is_ephemeral(child) for child in xml.xml)


def _device(resource: str) -> DeviceId:
    """A number for a resource, in the range of OMEMO's."""
    return DeviceId(zlib.crc32(resource.encode()) % (2**31 - 1) + 1)


def _has_sender(stanza: Any) -> bool:
    try:
        bare(stanza.xml.get("from", ""))
    except ValueError:
        return False
    return True
