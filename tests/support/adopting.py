"""A bot as one is written on slixmpp-omemo 2.2, from its documentation and its example alone.

It keeps OMEMO's data in a JSON file, answers in direct chats and in rooms, and knows some commands.
Nothing here knows of this library: `tests/support/adopted.py` changes the one line that imports
the plugin, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import omemo
from omemo.storage import Just, Maybe, Nothing, Storage
from slixmpp import JID, ClientXMPP
from slixmpp.plugins import register_plugin
from slixmpp.xmlstream.handler import CoroutineCallback
from slixmpp.xmlstream.matcher import MatchXPath
from slixmpp_omemo import XEP_0384, TrustLevel

if TYPE_CHECKING:
    from pathlib import Path

    from omemo.types import DeviceInformation, JSONType
    from slixmpp.stanza import Message

__all__ = ["Bot", "Heard", "Keys"]

COMMAND = "!"

CAUGHT = (
    omemo.MessageNotForUs,
    omemo.SenderNotFound,
    omemo.SenderDistrusted,
    omemo.NoEligibleDevices,
    omemo.DecryptionFailed,
    omemo.OMEMOException,
    ValueError,
)
"""What the documentation says that the plugin raises."""


class JSONFile(Storage):
    """One JSON file, written anew at each change."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._values: dict[str, JSONType] = {}
        if path.exists():
            self._values = json.loads(path.read_text(encoding="utf8"))

    async def _load(self, key: str) -> Maybe[JSONType]:
        return Just(self._values[key]) if key in self._values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        self._values[key] = value
        self._write()

    async def _delete(self, key: str) -> None:
        self._values.pop(key, None)
        self._write()

    def _write(self) -> None:
        self._path.write_text(json.dumps(self._values), encoding="utf8")


class Keys(XEP_0384):
    """The plugin, with what the application decides."""

    default_config = {  # noqa: RUF012 -- as slixmpp writes it
        "fallback_message": "This message is OMEMO encrypted.",
        "json_file_path": None,
        "blind": True,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[tuple[str, str, str | None]] = []

    def plugin_init(self) -> None:
        self._storage = JSONFile(self.json_file_path)
        super().plugin_init()

    @property
    def storage(self) -> Storage:
        return self._storage

    @property
    def _btbv_enabled(self) -> bool:
        return bool(self.blind)

    async def _devices_blindly_trusted(
        self, blindly_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        self.asked += [("trusted blindly", each.bare_jid, identifier) for each in blindly_trusted]

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        sessions = await self.get_session_manager()
        for device in manually_trusted:
            self.asked.append(("asked", device.bare_jid, identifier))
            await sessions.set_trust(device.bare_jid, device.identity_key, TrustLevel.TRUSTED.value)


@dataclass(frozen=True)
class Heard:
    """What was read: in which kind of chat, of whom, from which device, and the text."""

    kind: str
    sender: str
    device: int
    text: str


class Bot(ClientXMPP):
    """The bot.

    Args:
        jid: its account.
        password: the account's.
        keys: the JSON file.
        each_stanza: look at every message stanza, as the example does, not at slixmpp's events.
        blind: trust blindly before verification, or ask.
        options: for slixmpp.
    """

    def __init__(
        self,
        jid: str,
        password: str,
        keys: Path,
        *,
        each_stanza: bool = False,
        blind: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(jid, password, **options)
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.reflected: asyncio.Queue[str] = asyncio.Queue()
        self.stanzas: list[Message] = []
        self.events: list[tuple[str, str]] = []
        self.errors: list[tuple[str, frozenset[str]]] = []
        self.ready = asyncio.Event()
        for name in ("xep_0045", "xep_0199", "xep_0380"):
            self.register_plugin(name)
        register_plugin(Keys)
        self.register_plugin("xep_0384", {"json_file_path": keys, "blind": blind})
        self.keys: Any = self.plugin.get("xep_0384", None)
        self.rooms: Any = self.plugin.get("xep_0045", None)
        self.add_event_handler("omemo_initialized", lambda _: self.ready.set())
        if each_stanza:
            matcher = MatchXPath(f"{{{self.default_ns}}}message")
            self.register_handler(CoroutineCallback("Messages", matcher, self.on_stanza))
        else:
            self.add_event_handler("message", self.on_message)
            self.add_event_handler("groupchat_message", self.on_room_message)

    # -- reading -------------------------------------------------------------------------------

    async def on_message(self, stanza: Message) -> None:
        """Somebody has written to us; rooms have an event of their own."""
        self.events.append(("message", str(stanza["type"])))
        if stanza["type"] in ("chat", "normal"):
            await self.on_stanza(stanza)

    async def on_room_message(self, stanza: Message) -> None:
        """Somebody has written to a room."""
        self.events.append(("groupchat_message", str(stanza["type"])))
        await self.on_stanza(stanza)

    async def on_stanza(self, stanza: Any) -> None:
        """Read one."""
        if stanza["type"] not in ("chat", "normal", "groupchat"):
            return
        if not self.keys.is_encrypted(stanza):
            return
        self.stanzas.append(stanza)
        message = await self.read(stanza)
        if message is None or not message.text:
            return  # a stanza that only keeps the sessions going
        if message.sender == self.boundjid.bare:
            self.reflected.put_nowait(message.text)
        elif message.text.startswith(COMMAND):
            await self.obey(stanza, message)
        else:
            self.heard.put_nowait(message)

    async def read(self, stanza: Message) -> Heard | None:
        """Decrypt a stanza, or note why it cannot be."""
        try:
            decrypted, device = await self.keys.decrypt_message(stanza)
        except Exception as error:  # noqa: BLE001 -- as bots do
            self.note("decrypt", error)
            return None
        assert not self.keys.is_encrypted(decrypted)
        assert decrypted["from"] == stanza["from"]
        kind, text = str(decrypted["type"]), str(decrypted["body"])
        return Heard(kind, device.bare_jid, device.device_id, text)

    # -- writing -------------------------------------------------------------------------------

    async def say(self, jid: str, text: str, *, by_client: bool = False) -> None:
        """Write to an account."""
        stanza = self.make_message(mto=JID(jid), mbody=text, mtype="chat")
        await self.send_encrypted(stanza, JID(jid), by_client=by_client)

    async def say_to_room(self, room: str, text: str) -> None:
        """Write to everybody who is in a room, ourselves included."""
        stanza = self.make_message(mto=JID(room), mbody=text, mtype="groupchat")
        occupants = {
            JID(self.rooms.get_jid_property(JID(room), nick, "jid"))
            for nick in self.rooms.get_roster(JID(room))
        }
        await self.send_encrypted(stanza, occupants)

    async def send_encrypted(
        self, stanza: Message, recipients: JID | set[JID], *, by_client: bool = False
    ) -> None:
        """Encrypt a stanza and send it, or note why it cannot be."""
        try:
            encrypted, errors = await self.keys.encrypt_message(
                stanza, recipients, identifier=str(stanza["type"])
            )
        except Exception as error:  # noqa: BLE001 -- as bots do
            self.note("encrypt", error)
            return
        if errors:
            self.errors.append(("left out", frozenset(each.bare_jid for each in errors)))
        if encrypted is None:
            self.errors.append(("nothing to send", frozenset()))
        elif by_client:
            self.send(encrypted)
        else:
            encrypted.send()

    # -- commands ------------------------------------------------------------------------------

    async def obey(self, stanza: Any, message: Heard) -> None:
        """Do what somebody asks for, and answer encrypted."""
        word, _, rest = message.text.removeprefix(COMMAND).partition(" ")
        answer = {"echo": self.echo, "devices": self.devices, "fingerprints": self.fingerprints}
        text = await answer[word](message.sender, rest)
        if stanza["type"] == "groupchat":
            await self.say_to_room(stanza["from"].bare, text)
            return
        reply = stanza.reply(text)
        await self.send_encrypted(reply, {JID(message.sender)})

    async def echo(self, _: str, rest: str) -> str:
        """Say the same."""
        return rest

    async def devices(self, sender: str, _: str) -> str:
        """Say how many devices somebody has."""
        await self.keys.refresh_device_lists({JID(sender)}, force_download=True)
        sessions = await self.keys.get_session_manager()
        return str(len(await sessions.get_device_information(sender)))

    async def fingerprints(self, _jid: str, _rest: str) -> str:
        """Say our own."""
        sessions = await self.keys.get_session_manager()
        own, _ = await sessions.get_own_device_information()
        return " ".join(sessions.format_identity_key(own.identity_key))

    # -- trust ---------------------------------------------------------------------------------

    async def judge(self, jid: str, level: str) -> None:
        """Decide on all devices of an account."""
        sessions = await self.keys.get_session_manager()
        for device in await sessions.get_device_information(jid):
            await sessions.set_trust(jid, device.identity_key, TrustLevel(level).value)

    def note(self, what: str, error: Exception) -> None:
        """Note an error by what it is, as an application's `except` tells it."""
        kinds = frozenset(kind.__name__ for kind in CAUGHT if isinstance(error, kind))
        self.errors.append((what, kinds))
