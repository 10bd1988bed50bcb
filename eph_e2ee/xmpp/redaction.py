"""Nothing of a message, a key, or a peer's XML reaches a log.

python-omemo and slixmpp-omemo write plaintext, ratchet state and key material to their loggers
at DEBUG, and quote what peers publish at higher levels (F10). Their errors keep time and place,
without text and traceback; what is less than an error tells nothing then, and is dropped.
"""

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

__all__ = ["contained", "withhold"]

log = logging.getLogger("eph_e2ee")

LEAKING = ("omemo.core", "omemo.core.identity_key_pair", "slixmpp_omemo.xep_0384")
"""Every logger of python-omemo 2.1 and slixmpp-omemo 2.2; a test reads their sources for others."""

Parameters = ParamSpec("Parameters")


class _Withheld(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return False
        record.msg = "text withheld: it may quote a peer, a message or a key"
        record.args = None
        record.exc_info = None
        record.exc_text = None
        record.stack_info = None
        return True


_filter = _Withheld()


def withhold() -> None:
    """Silence the neighbours' loggers, once and for the life of the process.

    It stays after a plugin's end: tasks of python-omemo may outlive the plugin by a moment.
    """
    for name in LEAKING:
        logging.getLogger(name).addFilter(_filter)


def contained(
    handler: Callable[Parameters, Coroutine[Any, Any, None]],
) -> Callable[Parameters, Coroutine[Any, Any, None]]:
    """Keep whatever a handler raises away from slixmpp's dispatcher.

    slixmpp answers an exception in a handler with an error stanza to the peer: an oracle. The log
    gets the type and the handler's name, never the exception's text. Cancellation passes.
    """

    @functools.wraps(handler)
    async def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            await handler(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- the one place where remote input ends
            name = getattr(handler, "__qualname__", type(handler).__name__)
            # No traceback: it would quote the exception's text.
            log.error("%s raised %s; its text is withheld", name, type(error).__name__)  # noqa: TRY400 -- as said

    return guarded
