"""What an application wants to say, and the content that an envelope then has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import Element

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid, MessageId, Seconds
from eph_e2ee.protocol import ephemeral, marks, optout, setting

__all__ = ["AGREED", "Agreed", "Draft", "check_said", "content_of"]

BODY: Final = "{jabber:client}body"


class Agreed:
    """The type of `AGREED`."""

    def __repr__(self) -> str:
        return "AGREED"


AGREED: Final = Agreed()
"""The timer of a message that has none of its own: the conversation's."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the application wants to say.

    Attributes:
        recipient: the bare JID of the peer or the room.
        body: the text; None changes the timer without text (XEP-0466 section 3.4).
        elements: other children of the content.
        timer: `AGREED`, or a timer that becomes the conversation's; None with a body makes this
            message permanent, and without one turns the conversation's timer off.
        message_id: the id of an earlier attempt, which this one repeats; else a new one is made.
        number: the archive's row of that attempt.
    """

    recipient: BareJid
    body: str | None = field(repr=False)
    elements: tuple[Element, ...] = field(default=(), repr=False)
    timer: Seconds | Agreed | None = AGREED
    message_id: MessageId | None = None
    number: int | None = None

    @property
    def is_said(self) -> bool:
        """Whether it is a message, and not a change of the timer alone."""
        return self.body is not None or bool(self.elements)


def check_said(body: object, elements: object) -> None:
    """See that an application says something, and says it in the right types.

    Raises:
        LocalProtocolError: it says nothing.
        TypeError: the body is no str, or the elements are no sequence of Elements.
    """
    if not isinstance(body, str | None):
        raise TypeError("give the body as a str")
    if not (isinstance(elements, Sequence) and all(isinstance(each, Element) for each in elements)):
        raise TypeError("give the elements as a list of ElementTree's Elements")
    if body is None and not elements:
        raise LocalProtocolError("a message needs a body or an element; see set_timer()")


def content_of(draft: Draft, timer: Seconds | None, *, opting_out: bool) -> list[Element]:
    """The children of `<content>`: the text, the timer, what else the application gave.

    Raises:
        LocalProtocolError: the application gave a text or a timer as an element: a second one.
    """
    if any(item.tag == BODY or ephemeral.is_ephemeral(item) for item in draft.elements):
        raise LocalProtocolError("give a text as the body and a timer as the timer, no element")
    if any(marks.is_mark(item) or setting.is_setting(item) for item in draft.elements):
        raise LocalProtocolError("receipts, markers and settings are sent by themselves")
    if any(optout.is_opt_out(item) for item in draft.elements):
        raise LocalProtocolError("opt out with `Chat.opt_out`")
    content: list[Element] = []
    if draft.body is not None:
        body = Element(BODY)
        body.text = draft.body
        content.append(body)
    if timer is not None:
        content.append(ephemeral.write(timer))
    elif draft.body is None and not draft.elements:
        content.extend(ephemeral.write_off())
    elif opting_out:
        content.append(ephemeral.write_opt_out())
    content.extend(draft.elements)
    return content
