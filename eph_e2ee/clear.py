"""Legacy OMEMO: a text, and beside it in clear what anybody on the way may have written."""

from dataclasses import dataclass
from typing import Final

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import Seconds

__all__ = ["SHORTEST_CLEAR_TIMER", "ClearTimers", "text_of"]

SHORTEST_CLEAR_TIMER: Final = Seconds(5)
"""The floor of a timer that stood in clear beside legacy OMEMO: no server burns messages unread."""


@dataclass(frozen=True, slots=True)
class ClearTimers:
    """What is made of timers that stand in clear beside legacy OMEMO.

    Attributes:
        floor: none counts as shorter than that.
        believed: whether they may change a conversation's setting.
    """

    floor: Seconds = SHORTEST_CLEAR_TIMER
    believed: bool = False


def text_of(plaintext: bytes) -> str:
    """The text of a legacy message.

    Raises:
        RemoteProtocolError: it is not UTF-8.
    """
    text = plaintext.decode(errors="replace")
    if "\ufffd" in text and "\ufffd".encode() not in plaintext:
        raise RemoteProtocolError(Reason.MALFORMED_BODY)
    return text
