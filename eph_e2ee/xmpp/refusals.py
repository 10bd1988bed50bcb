"""What `decrypt_message` raises: our error, and slixmpp-omemo 2.2's for the same case, in one.

An application that was written for slixmpp-omemo catches python-omemo's classes, or ValueError; one
that was written for this library catches `RemoteProtocolError` and looks at its `reason`. Neither
finds anything of the message in the error. Some compare the names of classes, or send them to
peers: so each class is named as theirs.
"""

from typing import Final

import xmlschema
from omemo import backend, session_manager

from eph_e2ee.errors import Reason, RemoteProtocolError

__all__ = ["NotEncrypted", "refused", "unopened"]

NOT_ENCRYPTED: Final = (
    "no OMEMO element, or several of one kind: ask `is_encrypted` first, which returns an empty "
    "set, not None, since slixmpp-omemo 2.2"
)


class MessageNotForUs(RemoteProtocolError, session_manager.MessageNotForUs):
    """It has no key for this device."""


class SenderNotFound(RemoteProtocolError, session_manager.SenderNotFound):
    """The sending device, or in a room the sender, is not known."""


class SenderDistrusted(RemoteProtocolError, session_manager.SenderDistrusted):
    """The sending device is distrusted."""


class DecryptionFailed(RemoteProtocolError, backend.DecryptionFailed):
    """No key opens it, or it has been opened before."""


class KeyExchangeFailed(RemoteProtocolError, backend.KeyExchangeFailed):
    """Its key exchange builds no session."""


class NoSession(RemoteProtocolError, session_manager.NoSession):
    """There is no session with its sender, and it begins none."""


class PublicDataInconsistency(RemoteProtocolError, session_manager.PublicDataInconsistency):
    """Its key exchange names another identity key than the sender's device has published."""


class Invalid(RemoteProtocolError, ValueError):
    """What was opened breaks a rule: its envelope, or the text of its body."""


# Their bases disagree on attributes that nobody reads of this one: hence the ignored `misc`.
class XMLSchemaValidationError(RemoteProtocolError, xmlschema.XMLSchemaValidationError):  # type: ignore[misc]
    """Its OMEMO element is none; slixmpp-omemo says so with xmlschema's error, a ValueError."""

    def __init__(self, reason: Reason) -> None:
        # xmlschema's own __init__ would quote the element.
        ValueError.__init__(self, reason.value)
        # It says so that there is none, which xmlschema's types do not foresee.
        self.validator = None  # type: ignore[assignment]
        self.obj = self.elem = self.source = self.namespaces = None
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.args[0]!r})"


class NotEncrypted(RemoteProtocolError, ValueError):
    """There is no OMEMO element on the stanza, or more than one of a kind."""

    def __init__(self, reason: Reason = Reason.MALFORMED_OMEMO) -> None:
        super().__init__(reason)
        self.args = (NOT_ENCRYPTED,)


# Two cannot have one name in a module; pickle looks them up by the qualified one, which stays.
Invalid.__name__ = NotEncrypted.__name__ = ValueError.__name__

KINDS: Final[tuple[tuple[type[Exception], type[RemoteProtocolError]], ...]] = (
    (backend.KeyExchangeFailed, KeyExchangeFailed),
    (session_manager.PublicDataInconsistency, PublicDataInconsistency),
)
"""What python-omemo tells apart where our reason is that no key opens it."""

CLASSES: Final[dict[Reason, type[RemoteProtocolError]]] = {
    Reason.NOT_FOR_THIS_DEVICE: MessageNotForUs,
    Reason.UNKNOWN_SENDER: SenderNotFound,
    Reason.DISTRUSTED: SenderDistrusted,
    Reason.UNDECRYPTABLE: DecryptionFailed,
    Reason.DUPLICATE: DecryptionFailed,
    Reason.NO_SESSION: NoSession,
    Reason.MALFORMED_OMEMO: XMLSchemaValidationError,
}
"""What each reason is to an application on slixmpp-omemo; all others are of what was opened."""


def unopened(reason: Reason, failure: type[Exception]) -> RemoteProtocolError:
    """The error for a message that python-omemo did not open.

    Args:
        reason: why, in our words.
        failure: the class of python-omemo's own error.
    """
    if reason is Reason.UNDECRYPTABLE:
        for theirs, ours in KINDS:
            if issubclass(failure, theirs):
                return ours(reason)
    return refused(reason)


def refused(reason: Reason) -> RemoteProtocolError:
    """The error of a reason."""
    return CLASSES.get(reason, Invalid)(reason)
