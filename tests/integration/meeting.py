"""People with clients of every make, behind one face: they write, hear, and keep or forget.

Whoever is here talks as his client really would. What has been heard is told with where it stood:
in which encryption, and the timer inside of it or beside it, for everybody to see.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from slixmpp import JID

from eph_e2ee.xmpp.parcel import OLD
from tests.support.chats import element
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from slixmpp import ClientXMPP
    from slixmpp.stanza import Message

    from tests.support.server import Account, Server

__all__ = ["Heard", "Peer", "Place", "heard_of", "opened_from", "timer_element", "timer_of"]

EPHEMERAL: Final = "{urn:xmpp:ephemeral:0}ephemeral"


@dataclass(frozen=True, slots=True)
class Place:
    """Where Rosa and somebody talk.

    Attributes:
        ours: the bare JID that she writes to: his, or the room's.
        theirs: the one that he writes to: hers, or the room's.
        members: whom he encrypts for.
    """

    ours: str
    theirs: str
    members: frozenset[str]

    @property
    def kind(self) -> Literal["chat", "groupchat"]:
        """The type of messages there."""
        return "groupchat" if self.ours == self.theirs else "chat"


@dataclass(frozen=True, slots=True)
class Heard:
    """What has come to somebody.

    Attributes:
        text: of the message.
        namespace: of the OMEMO that it was opened from.
        inside: the timer in the envelope, in seconds.
        clear: the timer that stands on the stanza, in seconds.
    """

    text: str
    namespace: str
    inside: int | None = None
    clear: int | None = None


class Peer(ABC):
    """Somebody whom Rosa talks to, and his client.

    Args:
        account: his.
        server: where it is.
        folder: for what he keeps.
    """

    MAKE: ClassVar[str]
    """What the table calls his client."""

    def __init__(self, account: Account, server: Server, folder: Path) -> None:
        self.account = account
        self.jid = account.jid
        self.server = server
        self.folder = folder

    @property
    @abstractmethod
    def client(self) -> ClientXMPP:
        """His, once he has arrived."""

    @abstractmethod
    async def arrive(self) -> None:
        """Come online, with keys where his client has any."""

    @abstractmethod
    async def leave(self) -> None:
        """Go offline, if he is online."""

    async def enter(self, room: str) -> None:
        """Join a room that he is a member of."""
        rooms: Any = self.client.plugin.get("xep_0045", None)
        await rooms.join_muc_wait(JID(room), self.account.name, timeout=SECONDS)

    @abstractmethod
    async def hear(self, place: Place) -> Heard:
        """The next message that he can read."""

    @abstractmethod
    async def say(self, place: Place, text: str, timer: timedelta) -> None:
        """Write a message, with a timer where his client can put one."""

    async def keeps(self, heard: Heard, place: Place, seconds: int) -> bool:  # noqa: ARG002 -- for clients that know timers
        """Tell whether he still has a message, read, so long afterwards.

        Nothing goes away by itself from a client that does not know timers.
        """
        return True


def timer_element(timer: timedelta) -> Element:
    """The element that says a timer."""
    return element(f"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='{timer.total_seconds():.0f}'/>")


def timer_of(stanza: Message) -> int | None:
    """The timer that stands right in a stanza, in seconds."""
    found = stanza.xml.find(EPHEMERAL)
    return None if found is None else int(found.get("timer", ""))


def opened_from(stanza: Message, device: int) -> str:
    """The namespace of the `<encrypted/>` that has a key for a device."""
    (namespace,) = {
        child.tag[1:].partition("}")[0]
        for child in stanza.xml
        if any(each.get("rid") == str(device) for each in child.iter())
    }
    return namespace


def heard_of(stanza: Message, opened: Message, device: int) -> Heard:
    """What a plugin has opened for a device, and what stood outside."""
    namespace = opened_from(stanza, device)
    if namespace == OLD:  # there is no inside but the text
        return Heard(opened["body"], namespace, clear=timer_of(stanza))
    return Heard(opened["body"], namespace, timer_of(opened), timer_of(stanza))
