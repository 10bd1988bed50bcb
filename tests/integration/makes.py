"""Six makes of clients, each as its users have it: the rows of the README's table."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Final

from slixmpp import JID

from eph_e2ee.protocol.envelope import Finding
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.integration.meeting import Heard, Peer, heard_of, opened_from, timer_element, timer_of
from tests.integration.rooms import ROOM_PLUGINS, enter
from tests.support.adopted import ADOPTED, Somebody
from tests.support.chats import NOW, Party
from tests.support.client import SECONDS, connect, disconnect
from tests.support.plain_client import PlainClient
from tests.support.unencrypted import Plain
from tests.support.unpatched import Unpatched, unpatched

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from slixmpp import ClientXMPP
    from slixmpp.stanza import Message

    from tests.integration.meeting import Place
    from tests.support.server import Account, Server

__all__ = ["PEERS", "Ours"]

ANOTHER_MAKE: Final = "of another make"
"""A device's label, in place of the one that says what a client of ours reads."""


class Ours(Peer):
    """One who is attached, as Rosa is."""

    MAKE = "eph_e2ee"
    party: Party

    @property
    def client(self) -> ClientXMPP:
        return self.party.client

    async def arrive(self) -> None:
        folder = self.folder / f"{self.account.name}.vault"
        self.party = Party(self.account, folder, self.server.address, plugins=ROOM_PLUGINS)
        await self.party.arrive()

    async def leave(self) -> None:
        if hasattr(self, "party"):
            await self.party.leave()

    async def enter(self, room: str) -> None:
        await enter(self.party, room)

    async def hear(self, place: Place) -> Heard:
        message = await self.party.read()
        assert message.conversation == place.theirs
        timer = None if message.timer is None else int(message.timer.total_seconds())
        text, namespace = message.body or "", message.encrypted_with or ""
        if Finding.CLEAR_TIMER in message.findings:
            return Heard(text, namespace, clear=timer)
        return Heard(text, namespace, inside=timer)

    async def say(self, place: Place, text: str, timer: timedelta) -> None:
        await self.party.chat.set_timer(place.theirs, timer)
        await self.party.chat.send(place.theirs, text)

    async def keeps(self, heard: Heard, place: Place, seconds: int) -> bool:
        await self.party.passes(seconds)
        return heard.text in {each.body for each in await self.party.chat.history(place.theirs)}


class Adopted(Peer):
    """A bot written on slixmpp-omemo that imports our plugin; what it does is as before."""

    MAKE = "a bot of slixmpp-omemo, one line changed"

    def __init__(self, account: Account, server: Server, folder: Path) -> None:
        super().__init__(account, server, folder)
        self._somebody = Somebody(account, folder, server.address)
        self._opened: asyncio.Queue[Heard] = asyncio.Queue()

    @property
    def client(self) -> ClientXMPP:
        bot: ClientXMPP = self._somebody.bot
        return bot

    async def arrive(self) -> None:
        bot = await self._somebody.arrive(ADOPTED)
        decrypt = bot.keys.decrypt_message

        async def listened(stanza: Message) -> Any:
            opened, device = await decrypt(stanza)
            if opened["body"]:
                self._opened.put_nowait(heard_of(stanza, opened, bot.keys.own_device))
            return opened, device

        bot.keys.decrypt_message = listened

    async def leave(self) -> None:
        await self._somebody.leave()

    async def hear(self, place: Place) -> Heard:
        told = await self._somebody.hear()
        heard = await self._opened.get()
        assert (told.kind, told.text) == (place.kind, heard.text)
        return heard

    async def say(self, place: Place, text: str, timer: timedelta) -> None:
        bot = self._somebody.bot
        stanza = bot.make_message(mto=JID(place.theirs), mbody=text, mtype=place.kind)
        stanza.append(timer_element(timer))
        await bot.send_encrypted(stanza, {JID(each) for each in place.members})
        assert bot.errors == []


class _InEnvelopes(PlainClient):
    """XEP-0466 and OMEMO 2, and in rooms as well."""

    plugins: ClassVar[tuple[str, ...]] = (*PlainClient.plugins, "xep_0045")

    async def arrive(self, *, presence: bool = True) -> None:
        """Arrive, with keys for OMEMO 2 alone and a label that we do not know."""
        await super().arrive(presence=presence)
        await self._plugin.sessions.purge_backend(OLD)
        await self._plugin.sessions.set_own_label(ANOTHER_MAKE)

    async def opened(self, number: int) -> Message:
        """The stanza of the message with this number."""
        async with asyncio.timeout(SECONDS):
            while len(self.letters) <= number:
                await self.ping()
        wanted = self.letters[number].message_id
        assert self._stanzas is not None
        (stanza,) = [each for each in self._stanzas.all if each["id"] == wanted]
        found: Message = stanza
        return found

    @property
    def device(self) -> int:
        return self._plugin.own_device

    async def say(self, place: Place, text: str, *beside: Element) -> None:
        """Write a text and elements to a room or an account."""
        stanza = self.client.make_message(mto=JID(place.theirs), mbody=text, mtype=place.kind)
        for each in beside:
            stanza.append(each)
        recipients = {JID(each) for each in place.members}
        sealed, errors = await self._plugin.encrypt_message(stanza, recipients)
        assert sealed is not None
        assert errors == frozenset()
        sealed.send()


class InEnvelopes(Peer):
    """One whose client has XEP-0466 in envelopes, and has never heard of our tags."""

    MAKE = "another client, XEP-0466 in envelopes"

    def __init__(self, account: Account, server: Server, folder: Path) -> None:
        super().__init__(account, server, folder)
        self._plain = _InEnvelopes(account, server.address, now=NOW)
        self._heard = 0

    @property
    def client(self) -> ClientXMPP:
        return self._plain.client

    async def arrive(self) -> None:
        await self._plain.arrive()

    async def leave(self) -> None:
        await self._plain.leave()

    async def hear(self, place: Place) -> Heard:
        stanza = await self._plain.opened(self._heard)
        letter = self._plain.letters[self._heard]
        self._heard += 1
        assert letter.conversation == place.theirs
        self._plain.mark_read(place.theirs, {letter.message_id})
        namespace = opened_from(stanza, self._plain.device)
        return Heard(letter.text, namespace, letter.timer, timer_of(stanza))

    async def say(self, place: Place, text: str, timer: timedelta) -> None:
        await self._plain.say(place, text, timer_element(timer))

    async def keeps(self, heard: Heard, place: Place, seconds: int) -> bool:
        self._plain.source.wall_time += seconds
        return heard.text in {letter.text for letter in self._plain.living(place.theirs)}


class Unchanged(Peer):
    """One on slixmpp-omemo 2.2 as it is: keys for OMEMO 2, which it cannot read."""

    MAKE = "slixmpp-omemo 2.2, unchanged"
    _unpatched: Unpatched

    def __init__(self, account: Account, server: Server, folder: Path) -> None:
        super().__init__(account, server, folder)
        self._stack = AsyncExitStack()

    @property
    def client(self) -> ClientXMPP:
        return self._unpatched.client

    async def arrive(self) -> None:
        online = unpatched(self.account, self.server.address, plugins=ROOM_PLUGINS)
        self._unpatched = await self._stack.enter_async_context(online)

    async def leave(self) -> None:
        await self._stack.aclose()

    async def hear(self, place: Place) -> Heard:
        stanza, text = await self._unpatched.hear()
        assert stanza["type"] == place.kind
        return Heard(text, OLD, clear=timer_of(stanza))

    async def say(self, place: Place, text: str, timer: timedelta) -> None:
        await self._unpatched.send(
            place.theirs, text, timer_element(timer), kind=place.kind, to=place.members
        )


class Legacy(Unchanged):
    """One with keys for legacy OMEMO alone, as users of Conversations or Gajim."""

    MAKE = "a client with legacy OMEMO alone"

    async def arrive(self) -> None:
        await super().arrive()
        sessions: Any = await self._unpatched.plugin.get_session_manager()
        await sessions.purge_backend(MODERN)
        update = sessions.update_device_list

        async def updated(namespace: str, jid: str, listed: Any) -> None:
            # slixmpp-omemo goes on asking for lists of what was purged, and fails over them.
            if namespace == OLD:
                await update(namespace, jid, listed)

        sessions.update_device_list = updated

    async def hear(self, place: Place) -> Heard:
        while True:
            stanza: Message = await self._unpatched.stanzas.next()
            if OLD in self._unpatched.plugin.is_encrypted(stanza):
                break
        known = copy(stanza)
        for other in known.xml.findall(f"{{{MODERN}}}encrypted"):  # beside it, and unknown
            known.xml.remove(other)
        opened, _ = await self._unpatched.plugin.decrypt_message(known)
        assert stanza["type"] == place.kind
        return Heard(str(opened["body"]), OLD, clear=timer_of(stanza))


class Unencrypted(Peer):
    """One whose client knows timers, and no encryption."""

    MAKE = "XEP-0466 without encryption"
    _plain: Plain

    @property
    def client(self) -> ClientXMPP:
        return self._plain.client

    async def arrive(self) -> None:
        self._plain = Plain(self.account, plugins=("xep_0045",))
        await connect(self._plain.client, self.server.address)

    async def leave(self) -> None:
        if hasattr(self, "_plain"):
            await disconnect(self._plain.client)

    async def hear(self, place: Place) -> Heard:
        stanza = await self._plain.stanzas.next()
        assert stanza["type"] == place.kind
        return Heard(stanza["body"], "", clear=timer_of(stanza))

    async def say(self, place: Place, text: str, timer: timedelta) -> None:
        self._plain.say(place.theirs, text, timer, place.kind)


PEERS: Final[tuple[type[Peer], ...]] = (
    Ours,
    Adopted,
    InEnvelopes,
    Unchanged,
    Legacy,
    Unencrypted,
)
"""The rows of the table, in its order."""
