"""What the throwaway server may do to messages: rules for its module `mod_interference`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Interference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """One rule of what the server does to messages just before they reach their recipient.

    The first four fields choose messages (None: any); the others say what happens to them.
    Elements are named in Clark's notation, `{namespace}name`, and are children of the message;
    `{}body` is a body. The recipient's archive holds the changed message, the sender's archive
    the true one.
    """

    sender: str | None = None
    """A bare JID."""
    recipient: str | None = None
    """A bare JID."""
    having: str | None = None
    """Only messages with this child."""
    times: int | None = None
    """Only so many messages, then the rule rests."""
    remove: Sequence[str] = ()
    """Children to strip."""
    add: Sequence[str] = ()
    """XML of children to put on the message."""
    substitute: Sequence[tuple[str, str]] = ()
    """Pairs of old and new text in the serialised message."""
    claimed_sender: str | None = None
    """Another `from`."""
    copies: int = 0
    """How many times it is delivered again, with the same id."""
    drop: bool = False
    """It never arrives."""
    hold: bool = False
    """It waits until `Server.release`."""

    def as_json(self) -> dict[str, Any]:
        """Return the rule as the server's module reads it: only what is set."""
        return {key: value for key, value in asdict(self).items() if value not in (None, (), False)}
