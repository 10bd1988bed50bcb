"""XEP-0466's elements on the messages of slixmpp, where nothing is encrypted.

`message["ephemeral"]["timer"]` and `message["i_want_out"]`, read and written. On an encrypted
stanza they are the server's word, and mean nothing (F31); nor are they written there (F32, F33).
"""

from typing import Any, ClassVar, Final
from xml.etree.ElementTree import Element

from slixmpp.stanza import Message
from slixmpp.xmlstream import ElementBase, register_stanza_plugin

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.protocol import ephemeral
from eph_e2ee.protocol.ephemeral import Announcement, Kind

__all__ = ["Ephemeral", "OptOut", "announced", "check_writable", "is_encrypted", "register"]

OTHER_ENCRYPTION: Final = frozenset(
    {
        "{urn:xmpp:eme:0}encryption",  # XEP-0380, beside any kind
        "{urn:xmpp:sce:1}envelope",  # XEP-0420: in clear it proves nothing
        "{urn:xmpp:openpgp:0}openpgp",  # XEP-0373
        "{jabber:x:encrypted}x",  # XEP-0027
        "{urn:ietf:params:xml:ns:xmpp-e2e}e2e",  # RFC 3923
    }
)
"""What marks a stanza as encrypted beside an `<encrypted/>`, whatever its namespace."""

OTR: Final = "?OTR"
"""XEP-0364: the body itself is the ciphertext, and begins so."""

BODY: Final = "{jabber:client}body"


class Ephemeral(ElementBase):
    """`message["ephemeral"]["timer"]`: what a message in clear says of its own life.

    The seconds; 0 for off, by a zero or an opt-out; None where nothing is said, or nothing that can
    be read. Writing takes 1 to 2**32 - 1, and 0 where there is no body; the plugin's methods write
    the hints as well. Reading leaves the message as it is.
    """

    name = "ephemeral"
    namespace = ephemeral.NAMESPACE
    plugin_attrib = "ephemeral"
    interfaces: ClassVar[set[str]] = {"timer"}

    def setup(self, xml: Element | None = None) -> bool:
        """Take the element, or make one that no message holds yet."""
        self.xml = Element(self.tag_name()) if xml is None else xml
        self._said = _message(self).xml
        return True

    def get_timer(self) -> int | None:
        """Of several elements the shortest timer above zero counts."""
        said = announced(self._said)
        return 0 if said.kind is Kind.OFF else said.timer

    def set_timer(self, timer: int) -> None:
        """Make it the message's only timer.

        Raises:
            LocalProtocolError: it is out of range, or the message is not to have one in clear.
        """
        message = _message(self)
        check_writable(message)
        # Some clients burn a message with a zero at once (F30).
        if timer != 0 or message.xml.find(BODY) is not None:
            timer = ephemeral.checked_timer(timer)
        self.xml.set("timer", str(timer))
        remove(message, self.xml.tag)
        message.xml.append(self.xml)

    def del_timer(self) -> None:
        """Make the message one without a timer."""
        remove(_message(self), self.xml.tag)


class OptOut(ElementBase):
    """`message["i_want_out"]`: whether a message in clear asks for timers to end.

    Reading knows each form that occurs; writing uses the namespace. A timer beside it wins.
    """

    name = "i-want-out"
    namespace = ephemeral.NAMESPACE
    plugin_attrib = "i_want_out"
    interfaces: ClassVar[set[str]] = {"i_want_out"}
    is_extension = True

    def setup(self, xml: Element | None = None) -> bool:  # noqa: ARG002 -- slixmpp's signature
        """Hold no element: the message does."""
        self.xml = Element("")
        self._said = _message(self).xml
        return True

    def get_i_want_out(self) -> bool:
        """Whether it does."""
        return announced(self._said).opt_out

    def set_i_want_out(self, wanted: bool) -> None:  # noqa: FBT001 -- slixmpp's signature
        """Write the element, or take it away.

        Raises:
            LocalProtocolError: the message is not to have one in clear.
        """
        message = _message(self)
        check_writable(message)
        self.del_i_want_out()
        if wanted:
            message.xml.append(ephemeral.write_opt_out())

    def del_i_want_out(self) -> None:
        """Take the element away."""
        remove(_message(self), self.tag_name())


def register() -> None:
    """Have slixmpp's messages know the elements, for good.

    slixmpp keeps that by class, for all clients of a process: taking it away at the end of one
    client's plugin would take it from the others.
    """
    for element in (Ephemeral, OptOut):
        if Message.plugin_attrib_map.get(element.plugin_attrib) is not element:
            register_stanza_plugin(Message, element)


def announced(xml: Element) -> Announcement:
    """What a stanza in clear says of timers: nothing if anything of it is encrypted (F31)."""
    return Announcement(Kind.ABSENT) if is_encrypted(xml) else ephemeral.read(list(xml))


def is_encrypted(xml: Element) -> bool:
    """Tell whether a stanza carries content that somebody has encrypted, in whatever way."""
    return any(
        child.tag.rpartition("}")[2] == "encrypted"
        or child.tag in OTHER_ENCRYPTION
        or (child.tag == BODY and (child.text or "").startswith(OTR))
        for child in xml
    )


def check_writable(message: Message) -> None:
    """Keep timers in clear away from what is encrypted.

    Raises:
        LocalProtocolError: the message is, or its client sends timers in envelopes alone.
    """
    if is_encrypted(message.xml):
        raise LocalProtocolError("an encrypted message has its timer inside of the encryption")
    plugin: Any = getattr(message.stream, "plugin", {}).get("xep_0466", None)
    if hasattr(plugin, "check_clear"):  # the elements are the process's, the plugin a client's
        plugin.check_clear()


def remove(message: Message, tag: str) -> None:
    """Take every child of that name away from a message."""
    for child in message.xml.findall(tag):
        message.xml.remove(child)


def _message(element: ElementBase) -> Message:
    """The message that an element stands on."""
    found = element.parent() if element.parent is not None else None
    if not isinstance(found, Message):
        raise LocalProtocolError("the element belongs on a message")
    return found
