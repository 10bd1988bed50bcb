"""Two devices that begin a session with each other at the same moment.

The key exchanges cross: each replaces the session that the other side has just begun, so that both
end up with the one that the other has given up, and nothing opens any more, for good: python-omemo
keeps one session a device. Here the session that a key exchange replaces is laid aside, and changes
places with the other one when a message comes in it. Whatever is sent meanwhile opens, and once one
side has answered the other, both are in one session.
"""

from contextlib import suppress
from typing import Any, Final

import omemo
from doubleratchet import DuplicateMessageException
from omemo.backend import Backend, DecryptionFailed
from omemo.session import Initiation, Session

__all__ = [
    "ASIDE",
    "changed_places",
    "is_lost",
    "laid_aside",
    "names",
    "purge",
    "settled",
]

ASIDE: Final = "/aside"
"""Set behind a bare JID, it names the session laid aside: no bare JID has a slash."""


def names(bare_jid: str) -> tuple[str, str]:
    """What the sessions with an account are stored under: the ones that stand, and those aside."""
    return bare_jid, bare_jid + ASIDE


async def settled(backend: Backend, message: omemo.Message) -> bool:
    """Tell whether the session that a message's key exchange builds stands already."""
    exchanges = [exchange for _, exchange in message.keys if exchange is not None]
    for name in names(message.bare_jid) if exchanges else ():
        session = await backend.load_session(name, message.device_id)
        if session is not None and session.initiation is Initiation.PASSIVE:
            standing = session.key_exchange
            if any(standing.builds_same_session(exchange) for exchange in exchanges):
                return True
    return False


async def laid_aside(backend: Backend, session: Session | None) -> None:
    """Lay a session aside that another one has replaced: what is under way in it still opens.

    Also one that was answered: a key exchange may come late, out of an archive, and then the other
    side has long been in the session that stood. Never before another one stands: a second copy of
    one that goes on would use its keys again.

    Args:
        backend: of the session.
        session: as it was loaded before; None where there was none.
    """
    if session is not None:
        await backend.store_session(_named(session, session.bare_jid + ASIDE))


async def changed_places(backend: Backend, message: omemo.Message) -> bool:
    """Let the session laid aside and the other one change places; False where there is none."""
    aside = await backend.load_session(message.bare_jid + ASIDE, message.device_id)
    session = await backend.load_session(message.bare_jid, message.device_id)
    if aside is None or session is None:
        return False
    await backend.store_session(_named(aside, message.bare_jid))
    await backend.store_session(_named(session, message.bare_jid + ASIDE))
    return True


def is_lost(failure: DecryptionFailed) -> bool:
    """Tell whether a message did not open in this session; a duplicate opened before."""
    return not isinstance(failure.__cause__, DuplicateMessageException)


async def purge(backend: Any, bare_jid: str) -> None:
    """Forget the sessions with an account, also those laid aside.

    Args:
        backend: `super()` of the backend that is asked to.
        bare_jid: the account.
    """
    for name in names(bare_jid):
        with suppress(KeyError):  # python-omemo's answer where there are none
            await backend.purge_bare_jid(name)


def _named(session: Session, bare_jid: str) -> Session:
    """The same session under another name; both backends' sessions are made alike."""
    kept: Any = session
    renamed: Session = type(kept)(
        bare_jid,
        kept.device_id,
        kept.initiation,
        kept.key_exchange,
        kept.associated_data,
        kept.double_ratchet,
        kept.confirmed,
    )
    return renamed
