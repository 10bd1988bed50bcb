"""XEP-0466, Ephemeral Messages, as a plugin of slixmpp."""

from datetime import timedelta
from typing import Any, ClassVar, Final, cast
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP
from slixmpp.plugins.base import BasePlugin
from slixmpp.stanza import Message

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid, Seconds
from eph_e2ee.protocol import ephemeral
from eph_e2ee.xmpp import elements
from eph_e2ee.xmpp.features import Features
from eph_e2ee.xmpp.plain import PlainTimers
from eph_e2ee.xmpp.stanzas import address

__all__ = ["XEP_0466"]

HINTS: Final = "{urn:xmpp:hints}"
STORE: Final = f"{HINTS}store"
NO_PERMANENT_STORE: Final = f"{HINTS}no-permanent-store"
AGAINST_STORING: Final = (NO_PERMANENT_STORE, f"{HINTS}no-store")


class XEP_0466(BasePlugin):  # noqa: N801 -- slixmpp's way to name plugins
    """Timers of messages in clear; and the word that this client honours timers at all.

    That word is the feature in disco (XEP-0466 section 2: MUST advertise). In clear the timer is
    on the message for everybody to see, and every server on the way can change it or take it away.
    Nothing is stored here, so nothing is deleted: the application forgets what the events below
    have told it of, once the timer has run.

    With `attach` timers travel in envelopes alone. What others send in clear is still told of, by
    events of other names; writing in clear is refused. The methods are for what leaves in clear: of
    a message that `XEP_0384.encrypt_message` gets, write `message["ephemeral"]["timer"]`.

    Configuration:
        no_permanent_store: ask archives not to keep messages that have a timer and a body
            (XEP-0334). Then devices that are not online may never get them (XEP-0466 section 3).

    Stanzas: `message["ephemeral"]["timer"]`, see `elements.Ephemeral`, and `message["i_want_out"]`.

    Events:
        ephemeral_plain_message: `events.PlainMessage`: a message with a timer.
        ephemeral_plain_timer_changed: `events.PlainTimerChange`: a conversation's timer.
    """

    name = "xep_0466"
    description = "XEP-0466: Ephemeral Messages"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0115"}
    default_config: ClassVar[dict[str, Any]] = {"no_permanent_store": False}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encrypting = False
        """Whether this client's timers travel in envelopes, and never in clear."""
        self._features = Features(self.xmpp, ephemeral.NAMESPACE)
        self._timers = PlainTimers(cast("ClientXMPP", self.xmpp))

    def plugin_init(self) -> None:
        """Listen for timers in clear."""
        elements.register()
        self._timers.listen()

    def plugin_end(self) -> None:
        """Listen no more, and advertise no more: timers are no longer honoured."""
        self._timers.stop()
        self._features.withdraw()

    def session_bind(self, jid: JID) -> None:
        """Advertise the feature for the resource that was bound."""
        self._features.advertise(jid)

    def timer(self, jid: JID | str) -> timedelta | None:
        """The timer of a conversation in clear, as far as anybody has told in this process.

        Of some hundred conversations those are remembered that were heard from last.

        Raises:
            LocalProtocolError: the address is missing.
        """
        timer = self._timers.agreement(address(jid)).timer
        return None if timer is None else timedelta(seconds=timer)

    def set_timer(self, message: Message, timer: timedelta) -> None:
        """Give a message a timer, which the conversation then has (XEP-0466 section 3.3).

        Call it once the message is complete: one without a body is a change of the timer, and gets
        a store hint.

        Raises:
            LocalProtocolError: whole seconds, 1 s to 2**32 - 1 s; or the message has no address, or
                is encrypted, or timers are not to travel in clear here.
            TypeError: the timer is no timedelta.
        """
        seconds, conversation = ephemeral.seconds(timer), self._conversation(message)
        self._write(message, ephemeral.write(seconds))
        if conversation is not None:
            self._timers.choose(conversation, seconds)

    def include_timer(self, message: Message) -> None:
        """Give a message the conversation's timer, if it has one (XEP-0466 section 3.3: SHOULD).

        After timers were turned off here it repeats the opt-out until the others have noticed.

        Raises:
            LocalProtocolError: the message has no address or body, or is encrypted, or timers are
                not to travel in clear here.
        """
        conversation = self._conversation(message)
        if message.xml.find(elements.BODY) is None:
            raise LocalProtocolError("without a body it would be a change: use `change`")
        elements.check_writable(message)
        if conversation is None:
            return
        agreed = self._timers.agreement(conversation)
        if agreed.timer is not None:
            self._write(message, ephemeral.write(agreed.timer))
        elif agreed.opting_out:
            self._write(message, ephemeral.write_opt_out())

    def change(self, jid: JID | str, timer: timedelta | None) -> Message:
        """Change a conversation's timer without text, and return what was sent (section 3.4).

        None turns timers off, with an opt-out beside the zero that most clients understand. A store
        hint goes with it in any case (XEP-0466 section 3.4: MUST).

        Raises:
            LocalProtocolError: the timer is out of range, the address is missing; or this client
                encrypts, and nothing of a conversation is to leave in clear (F32, F33).
            TypeError: the timer is no timedelta.
        """
        if "xep_0384" in self.xmpp.plugin:
            raise LocalProtocolError("this client encrypts: encrypt the change as well")
        seconds = None if timer is None else ephemeral.seconds(timer)
        to = JID(address(jid))
        message: Message = self.xmpp.make_message(
            mto=to, mtype="groupchat" if self._timers.is_room(to) else "chat"
        )
        self._write(message, *_change(seconds))
        self._timers.choose(BareJid(to.bare), seconds)
        message.send()
        return message

    def check_clear(self) -> None:
        """Refuse to write a timer in clear where conversations are encrypted (F32, F33).

        Raises:
            LocalProtocolError: `attach` has been called.
        """
        if self.encrypting:
            raise LocalProtocolError("this client's timers are encrypted: use the `Chat`")

    def _conversation(self, message: Message) -> BareJid | None:
        """Where it goes; None for a private message through a room, which sets no timer."""
        to = message["to"]
        if not to.bare:
            raise LocalProtocolError("a message needs an address before its timer")
        return None if self._timers.is_private(to, message["type"]) else BareJid(to.bare)

    def _write(self, message: Message, *children: Element) -> None:
        """Write what it says of timers, in place of what it said, and the hint."""
        elements.check_writable(message)
        for child in list(message.xml):
            if ephemeral.is_ephemeral(child):
                message.xml.remove(child)
        message.xml.extend(children)
        if message.xml.find(elements.BODY) is None:
            _store(message)
        elif self.config["no_permanent_store"] and children[0].get("timer"):
            _store_not(message)


def _change(seconds: Seconds | None) -> tuple[Element, ...]:
    return ephemeral.write_off() if seconds is None else (ephemeral.write(seconds),)


def _store(message: Message) -> None:
    """A change has to reach those that are offline, whatever else was wished for it (F34)."""
    for hint in (STORE, *AGAINST_STORING):
        elements.remove(message, hint)
    SubElement(message.xml, STORE)


def _store_not(message: Message) -> None:
    """Never beside a wish to store it, which the application has written itself (F34)."""
    if all(message.xml.find(hint) is None for hint in (STORE, NO_PERMANENT_STORE)):
        SubElement(message.xml, NO_PERMANENT_STORE)
