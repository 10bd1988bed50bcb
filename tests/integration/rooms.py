"""Rooms of the throwaway server: made, entered, and those who are in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import fromstring, tostring

from slixmpp import JID
from slixmpp.stanza import Message

from eph_e2ee.xmpp.parcel import MODERN
from tests.support.client import PLUGINS, SECONDS, Happenings

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from tests.support.chats import Party

__all__ = [
    "ROOM_PLUGINS",
    "Wiretap",
    "configure",
    "encrypted_of",
    "enter",
    "leave_room",
    "plugin_of",
    "set_affiliation",
]

ROOM_PLUGINS: Final = (*PLUGINS, "xep_0045")


def plugin_of(somebody: Party) -> Any:
    """Slixmpp's plugin for rooms."""
    return somebody.client.plugin["xep_0045"]


async def enter(somebody: Party, room: str, *, found: bool = False, **options: str | bool) -> None:
    """Join, and with `found` make the room: one of members, who all see real JIDs.

    Args:
        somebody: who has the plugin.
        room: its JID.
        found: whether it is new.
        options: of its configuration, without their prefix.
    """
    with Happenings(somebody.client, "ephemeral_catch_up", wanted=lambda told: told.done) as done:
        rooms, nick = plugin_of(somebody), somebody.account.name
        await rooms.join_muc_wait(JID(room), nick, timeout=SECONDS)
        if found:
            await configure(somebody, room, **options)
        while (await done.next()).archive != room:
            pass


async def configure(somebody: Party, room: str, **options: str | bool) -> None:
    """Change a room's configuration."""
    rooms = plugin_of(somebody)
    form = await rooms.get_room_config(JID(room))
    form["type"] = "submit"
    wanted = {"whois": "anyone", "membersonly": True, **options}
    values = {f"muc#roomconfig_{name}": value for name, value in wanted.items()}
    form["values"] = {**form.get_values(), **values}
    await rooms.set_room_config(JID(room), form)


async def set_affiliation(somebody: Party, room: str, affiliation: str, *others: Party) -> None:
    """Make others members, or none any more."""
    for other in others:
        await plugin_of(somebody).set_affiliation(JID(room), affiliation, jid=JID(other.jid))


def leave_room(somebody: Party, room: str) -> None:
    """Go out of it, and stay a member."""
    plugin_of(somebody).leave_muc(JID(room), somebody.account.name)


class Wiretap:
    """The stanzas with `<encrypted/>` that somebody sends to a room, from now on."""

    def __init__(self, somebody: Party) -> None:
        self.stanzas: list[Element] = []
        self._client = somebody.client
        somebody.client.add_filter("out", self._leaving)

    def _leaving(self, stanza: Any) -> Any:
        if isinstance(stanza, Message) and encrypted_of(stanza.xml):
            self.stanzas.append(fromstring(tostring(stanza.xml)))  # noqa: S314 -- our own
        return stanza

    @property
    def addressed(self) -> list[set[str]]:
        """The accounts that each was encrypted for, in omemo:2."""
        return [
            {group.get("jid", "") for group in stanza.iter(f"{{{MODERN}}}keys")}
            for stanza in self.stanzas
        ]


def encrypted_of(stanza: Element) -> list[str]:
    """The namespaces of the `<encrypted/>` elements of a stanza."""
    return [child.tag[1:].partition("}")[0] for child in stanza if child.tag.endswith("}encrypted")]
