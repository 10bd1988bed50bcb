"""When a session begins, when we become available, and when a room is entered."""

from collections.abc import Callable
from typing import Any

from slixmpp import ClientXMPP
from slixmpp.stanza import Presence

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.rooms import membership

__all__ = ["Lifecycle"]

OnSession = Callable[[bool], None]
OnAvailable = Callable[[], None]
OnJoined = Callable[[BareJid], None]


class Lifecycle:
    """Tells of what begins.

    Attributes:
        on_session: called on the event loop when a session begins; whether it is a new one, and
            not one that was resumed.
        on_available: called when the first presence of a session is on its way: until then no
            server delivers messages.
        on_joined: called with each room that is entered, once until it is left.
    """

    def __init__(self, client: ClientXMPP) -> None:
        self._client = client
        self._rooms: set[BareJid] = set()
        self.on_session: OnSession = lambda _: None
        self.on_available: OnAvailable = lambda: None
        self.on_joined: OnJoined = lambda _: None
        self._available = False
        client.add_event_handler("session_bind", self._bound)
        client.add_event_handler("session_resumed", self._resumed)
        client.add_event_handler("groupchat_presence", self._in_room)
        client.add_filter("out", self._leaving)

    def detach(self) -> None:
        """Take the event handlers away again."""
        self._client.del_event_handler("session_bind", self._bound)
        self._client.del_event_handler("session_resumed", self._resumed)
        self._client.del_event_handler("groupchat_presence", self._in_room)
        self._client.del_filter("out", self._leaving)

    def _bound(self, _: object) -> None:
        self._rooms.clear()
        self._available = False
        self.on_session(True)

    def _resumed(self, _: object) -> None:
        self.on_session(False)

    def _leaving(self, stanza: Any) -> Any:
        if isinstance(stanza, Presence) and not (stanza.xml.get("type") or stanza.xml.get("to")):
            first, self._available = not self._available, True
            if first:
                # It is written before whatever is sent from now on.
                self._client.loop.call_soon(self._became_available)
        return stanza

    def _became_available(self) -> None:
        self.on_available()

    def _in_room(self, presence: Any) -> None:
        found = membership(presence)
        if found is None:
            return
        room, inside = found
        if not inside:
            self._rooms.discard(room)
        elif room not in self._rooms and self._is_ours(room):
            self._rooms.add(room)
            self.on_joined(room)

    def _is_ours(self, room: BareJid) -> bool:
        """Whether the application has joined it: anybody's presence can look like a room's."""
        plugin: Any = self._client.plugin.get("xep_0045", None)
        return plugin is not None and room in plugin.get_joined_rooms()
