"""Everything that can go wrong, ours apart from theirs.

    EphemeralError
    ├── LocalError                  the application, this machine or this vault
    │   ├── LocalProtocolError      a call that the protocol does not allow
    │   ├── NotSent                 nothing left this machine; nothing fell back to plaintext
    │   │   ├── NotConnected
    │   │   ├── NoEligibleDevices
    │   │   ├── OptedOut
    │   │   ├── RoomUnsuitable
    │   │   └── TrustUndecided
    │   └── VaultError
    │       ├── VaultClosed
    │       ├── VaultInUse
    │       ├── VaultDamaged
    │       ├── VaultForeign
    │       ├── VaultTooNew
    │       ├── WrongRootKey
    │       ├── VaultUnavailable    disk full, permission, I/O: try again once it is mended
    │       └── Forgotten           the key is gone, as it was asked to be
    └── RemoteError                 a peer or a server
        ├── RemoteProtocolError     what it sent breaks a rule; `reason` says which
        ├── IqRefused               it answered a question with an error; `refusal` says which
        └── NoAnswer                it did not answer a question in time

Texts say what to do. Attributes carry ids, sizes and reasons, never the content of a message
and never a key; nor does any `__cause__`.
"""

import enum
from dataclasses import dataclass, field

__all__ = [
    "Cause",
    "EphemeralError",
    "Forgotten",
    "IqRefused",
    "LocalError",
    "LocalProtocolError",
    "NoAnswer",
    "NoEligibleDevices",
    "NotConnected",
    "NotSent",
    "OptedOut",
    "Reason",
    "Refusal",
    "RemoteError",
    "RemoteProtocolError",
    "RoomUnsuitable",
    "TrustUndecided",
    "VaultClosed",
    "VaultDamaged",
    "VaultError",
    "VaultForeign",
    "VaultInUse",
    "VaultTooNew",
    "VaultUnavailable",
    "WrongRootKey",
]


class EphemeralError(Exception):
    """The root of every exception that this library raises on its own account."""


class LocalError(EphemeralError):
    """Something on this side: a wrong call, this machine, or this vault."""


class LocalProtocolError(LocalError):
    """The application asked for something that the protocol does not allow."""


class NotSent(LocalError):
    """A message did not leave this machine. Nothing was sent in clear instead."""


class NotConnected(NotSent):
    """There is no session with the server; send again after `session_start`."""


class NoEligibleDevices(NotSent):
    """Some recipient has no device that the message could be encrypted to; the text says why.

    Attributes:
        recipients: the bare JIDs without a usable device.
        causes: why their devices were left out; empty where nothing is known of any.
    """

    def __init__(
        self, recipients: frozenset[str], causes: frozenset["Cause"] = frozenset()
    ) -> None:
        told = sorted(cause.value for cause in causes)
        if causes <= {Cause.NO_DEVICE}:
            told = ["the recipient publishes no OMEMO device; a room has to be joined first"]
        super().__init__(f"no device to encrypt to: {'; '.join(told)}")
        self.recipients = recipients
        self.causes = causes

    def __reduce__(
        self,
    ) -> tuple[type["NoEligibleDevices"], tuple[frozenset[str], frozenset["Cause"]]]:
        return type(self), (self.recipients, self.causes)


class OptedOut(NotSent):
    """The peer has opted out of OMEMO; `Chat.confirm_opt_out` lets messages pass again.

    They are encrypted as before: this library sends no plain text.
    """


class RoomUnsuitable(NotSent):
    """A room that OMEMO cannot be used in: it hides the JIDs of its occupants, or has too many."""


class TrustUndecided(NotSent):
    """Nobody has decided yet whether to trust some of the recipient's devices."""


class VaultError(LocalError):
    """The vault cannot do what it was asked to."""


class VaultClosed(VaultError):
    """The vault has been closed."""


class VaultInUse(VaultError):
    """Another process, or another part of this one, has the vault open."""


class VaultDamaged(VaultError):
    """A file of the vault is not as it was written. Nothing was overwritten."""


class VaultForeign(VaultError):
    """The path holds something that is not a vault. Nothing was overwritten."""


class VaultTooNew(VaultError):
    """A newer version of this library wrote the vault. Nothing was overwritten."""


class WrongRootKey(VaultError):
    """The root key does not open the key file. Nothing was overwritten."""


class VaultUnavailable(VaultError):
    """The disk or the database refused: full, read-only, unreachable. Nothing was half done."""


class Forgotten(VaultError):
    """The record's key has been destroyed. No one can read it again."""


class Cause(enum.Enum):
    """Why a device, or a whole account, was left out of a message."""

    NO_DEVICE = "it publishes no device"
    NO_KEYS = "its keys could not be had, or are no keys"
    UNDECIDED = "nobody has decided whether to trust it"
    DISTRUSTED = "it is distrusted"
    LEGACY = "it reads no envelopes, and legacy OMEMO is refused or has nothing to carry"
    NOBODY_ELSE = "nobody else is in the room"
    UNKNOWN_MEMBERS = "the room does not tell us who belongs to it; those who are in it get it"


class Reason(enum.Enum):
    """Why something that a peer or a server sent was not taken as it stands."""

    NOT_XML = "not well-formed XML"
    FORBIDDEN_XML = "a DTD, processing instruction or comment"
    TOO_LARGE = "larger, deeper or with more elements than the limits allow"
    NOT_AN_ENVELOPE = "not an XEP-0420 envelope"
    CONTENT_COUNT = "not exactly one content element"
    BAD_AFFIX = "an affix that cannot be read"
    WRONG_SENDER = "the envelope names another sender than OMEMO authenticated"
    WRONG_RECIPIENT = "the envelope was made for another recipient"
    MISSING_AFFIX = "an affix that the profile demands is missing"
    WRONG_TIME = "the envelope's time is too far from the time of sending"
    WRONG_STANZA = "the envelope was made for another stanza"
    UNENCRYPTED_ENVELOPE = "an envelope outside of encryption"
    UNDECRYPTABLE = "no key opens it"
    NO_SESSION = "it was encrypted in a session that is not here"
    DUPLICATE = "it has been opened before"
    NOT_FOR_THIS_DEVICE = "not encrypted to this device"
    UNKNOWN_SENDER = "the sending device is not in the sender's device list"
    UNREACHABLE = "the sender's keys could not be asked for; it waits for them, and is tried again"
    DISTRUSTED = "the sending device is distrusted"
    PRIVATE_IN_ROOM = "a private message through a room, which no account has sent"
    UNDECIDED = "nobody has decided whether to trust the sending device"
    MALFORMED_OMEMO = "not an OMEMO element"
    MALFORMED_BODY = "text that is not UTF-8"
    NO_PAYLOAD = "not the one payload that an IQ has"
    CLEAR_ANSWER = "an answer in clear to an encrypted question"
    NOT_ASKED = "the answer comes from a device that was not asked"
    NOT_HEARD = "a question that the vault refused here; whoever asks has got an error"
    NOT_OPENED = "an error of ours kept it from being opened; the log names its class"
    NOT_STORED = "the vault refused it here; nothing is lost: the server's archive still has it"


class RemoteError(EphemeralError):
    """A peer or a server did something that it must not, or did not do what it must."""


class RemoteProtocolError(RemoteError):
    """What a peer or a server sent breaks a rule.

    Attributes:
        reason: the rule that was broken. The text holds nothing of what was sent.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason

    def __reduce__(self) -> tuple[type["RemoteProtocolError"], tuple[Reason]]:
        return type(self), (self.reason,)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that a question is answered with (RFC 6120 section 8.3).

    Attributes:
        condition: what is wrong, one of RFC 6120's words: "forbidden", "item-not-found", ...
        kind: what the asker may do about it: "auth", "cancel", "continue", "modify" or "wait". When
            answering, None gives the one that goes with the condition.
        text: what its author wants to say about it. It never prints.
    """

    condition: str
    kind: str | None = None
    text: str | None = field(default=None, repr=False)


class IqRefused(RemoteError):
    """A question was answered with an error.

    Attributes:
        refusal: the error, as the answer has it.
        authenticated: whether a device that was asked says so, inside of an envelope. False: it
            stood outside, where every server on the way can put it. A client that knows nothing of
            encrypted IQs, a peer that is gone, a device that the question did not open on: all of
            them look like this.
    """

    def __init__(self, refusal: Refusal, *, authenticated: bool = True) -> None:
        super().__init__(f"the question was answered with an error: {refusal.condition}")
        self.refusal = refusal
        self.authenticated = authenticated

    def __reduce__(self) -> tuple[type["IqRefused"], tuple[Refusal], dict[str, bool]]:
        return type(self), (self.refusal,), {"authenticated": self.authenticated}


class NoAnswer(RemoteError):
    """A question was not answered in time. It may have been heard and acted upon."""
