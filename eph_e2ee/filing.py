"""What the archive takes of letters, inside of a work of the vault."""

from dataclasses import replace

from eph_e2ee.letters import Letter, line_of
from eph_e2ee.model import Entry
from eph_e2ee.protocol import lifetime
from eph_e2ee.vault.archive import NewMessage, Transaction
from eph_e2ee.vault.marking import Waiting

__all__ = ["added"]


def added(vault: Transaction, letters: list[Letter], waiting: Waiting) -> list[Entry | None]:
    """Keep the messages, and the lines that tell of changes, with two statements for all."""
    new: list[NewMessage] = []
    places: list[int | None] = []
    for letter in letters:
        if letter.change is not None:
            new.append(line_of(letter.change, letter.arrival.message_id, letter.sent_at))
        places.append(None if letter.message is None else len(new))
        if letter.message is not None:
            new.append(_read_before(letter.message, waiting))
        else:
            vault.remember(letter.replay_ids)
    entries = vault.add_many(new)
    return [None if place is None else entries[place] for place in places]


def _read_before(message: NewMessage, waiting: Waiting) -> NewMessage:
    """Start the timer of a message whose read has waited for it."""
    at = waiting.take([name for name in message.replay_ids if isinstance(name, str)])
    if at is None:
        return message
    return replace(message, lifetime=lifetime.step(message.lifetime, lifetime.Event.READ, at))
