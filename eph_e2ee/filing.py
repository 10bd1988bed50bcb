"""What the archive takes of letters, inside of a work of the vault."""

from collections.abc import Iterator
from dataclasses import replace

from eph_e2ee.clear import SHORTEST_CLEAR_TIMER
from eph_e2ee.letters import Letter, line_of
from eph_e2ee.model import Entry
from eph_e2ee.protocol import lifetime
from eph_e2ee.vault.archive import NewMessage, Transaction
from eph_e2ee.vault.marking import Waiting, mark_read

__all__ = ["added"]


def added(vault: Transaction, letters: list[Letter], waiting: Waiting) -> list[Entry | None]:
    """Keep the messages, and the lines that tell of changes, with two statements for all."""
    new: list[NewMessage] = []
    places: list[int | None] = []
    covered: list[tuple[int, float]] = []
    for letter in letters:
        if letter.change is not None:
            new.append(line_of(letter.change, letter.arrival.message_id, letter.sent_at))
        places.append(None if letter.message is None else len(new))
        if letter.message is not None:
            message = letter.message
            for at, before in _reads(vault, letter, message, waiting):
                read = lifetime.step(message.lifetime, lifetime.Event.READ, at)
                message = replace(message, lifetime=read)
                if before:
                    covered.append((len(new), at))
            new.append(message)
        else:
            vault.remember(letter.replay_ids)
    entries = vault.add_many(new)
    for place, at in covered:
        mark_read(vault, entries[place].number, at, before=True)
    if covered:  # some of those before may have come with it
        entries = [vault.entry(each.number) or each for each in entries]
    return [None if place is None else entries[place] for place in places]


def _reads(
    vault: Transaction, letter: Letter, message: NewMessage, waiting: Waiting
) -> Iterator[tuple[float, bool]]:
    """Yield when a message was read whose reads have waited, and whether all before it were.

    What is not trusted, or came through a room, may have any name: no others were read with it.
    """
    covers = letter.believed and letter.arrival.room is None
    names = [name for name in message.replay_ids if isinstance(name, str)]
    for heard in waiting.take(names):
        # Where nobody has said when, a server has told it: no message that comes late is burned.
        at = vault.now() + SHORTEST_CLEAR_TIMER if heard.at is None else heard.at
        yield at, heard.before and covers
