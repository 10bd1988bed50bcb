"""Messages of ours on a managed stream that the server has not acknowledged as a whole (XEP-0198).

A message may go in two stanzas under one id, omemo:2 and legacy OMEMO apart, and may be sent once
more under it: it has left with the last of them.
"""

from dataclasses import dataclass, replace

from eph_e2ee.model import BareJid, MessageId

__all__ = ["Unacknowledged", "Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message, and what it waits for.

    Attributes:
        number: of the archive's copy.
        at: when it was handed over, in seconds since the epoch.
        stanzas: how many of it are still to be acknowledged.
        settled: whether it is known already how far it came.
    """

    number: int
    conversation: BareJid
    at: float
    stanzas: int
    settled: bool = False


class Unacknowledged:
    """Counts their stanzas, by their ids, for the length of one stream."""

    def __init__(self) -> None:
        self._waiting: dict[MessageId, Waiting] = {}

    def put(self, message_id: MessageId, waiting: Waiting) -> None:
        """Wait for a message's stanzas, behind those of an attempt before that are on their way."""
        before = self._waiting.get(message_id)
        if before is not None:
            waiting = replace(waiting, stanzas=waiting.stanzas + before.stanzas)
        self._waiting[message_id] = waiting

    def acknowledged(self, message_id: MessageId) -> Waiting | None:
        """Count a stanza that the server has; returns the message if that was the last of it."""
        waiting = self._waiting.pop(message_id, None)
        if waiting is not None and waiting.stanzas > 1:
            self._waiting[message_id] = replace(waiting, stanzas=waiting.stanzas - 1)
            return None
        return None if waiting is None or waiting.settled else waiting

    def settle(self, message_id: MessageId) -> Waiting | None:
        """Have no acknowledgement tell of a message any more; returns it if one could have.

        Its stanzas count on: it may be sent once more before they are acknowledged.
        """
        waiting = self._waiting.get(message_id)
        if waiting is None or waiting.settled:
            return None
        self._waiting[message_id] = replace(waiting, settled=True)
        return waiting

    def clear(self) -> None:
        """The stream has ended for good: nothing of it is acknowledged any more."""
        self._waiting.clear()
