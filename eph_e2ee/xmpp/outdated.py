"""Calls as other versions of slixmpp-omemo had them: an error that says what to change.

Until 2.1 `encrypt_message` returned a dictionary of stanzas by namespace, and `is_encrypted` a
namespace or None. Before 1.0 nearly everything was called otherwise, and the plugin was no class to
derive from: its module was named when slixmpp was to load it.
"""

from collections.abc import Iterable
from typing import Any, Final, NoReturn

from slixmpp import JID
from slixmpp.stanza import Message

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.xmpp.parcel import MODERN, OLD

__all__ = [
    "Encrypted",
    "OutdatedCall",
    "OutdatedImport",
    "attribute",
    "recipients_of",
    "require_members",
    "require_message",
]

ONE_STANZA: Final = (
    "encrypt_message returns one stanza, or None where there is nothing to send, since "
    "slixmpp-omemo 2.2: send it as it is, instead of each value of a dictionary by namespace"
)

RECIPIENTS: Final = "encrypt_message takes a JID or a set of JIDs: slixmpp.JID(text) makes one"

STANZA: Final = (
    "encrypt_message and decrypt_message take a message stanza and return one: the text is in "
    'its ["body"]'
)

SUBCLASS: Final = (
    "derive a class from XEP_0384, register it with slixmpp.plugins.register_plugin, and define "
    "in it: {}"
)

MEMBERS: Final[dict[str, str]] = {
    "storage": "storage (a property: the omemo.storage.Storage of this account)",
    "_btbv_enabled": "_btbv_enabled (a property: whether new devices are trusted blindly)",
    "_prompt_manual_trust": (
        "_prompt_manual_trust(manually_trusted, identifier) (a coroutine that calls set_trust)"
    ),
}
"""The abstract members of slixmpp-omemo 2.2, each with what it is."""


GONE: Final = frozenset(
    {
        "EncryptionPrepareException",
        "MissingOwnKey",
        "NoAvailableSession",
        "OMEMO_BASE_NS",
        "PluginCouldNotLoad",
        "UndecidedException",
        "UntrustedException",
    }
)
"""What applications imported from slixmpp-omemo before 1.0."""

NAME_GONE: Final = (
    "slixmpp-omemo has no {} since 1.0, nor has this library. What encrypt_message and "
    "decrypt_message raise is in omemo.session_manager; to use them, {}"
)

MODULE: Final = "slixmpp loads no plugin xep_0384 from the module eph_e2ee: {}"


class OutdatedImport(LocalProtocolError, ImportError):
    """A name that slixmpp-omemo has no more; the text says what to write instead."""


class OutdatedModule(LocalProtocolError, TypeError):
    """The module is given to slixmpp where a class has to be; slixmpp swallows an ImportError."""


class OutdatedCall(LocalProtocolError, TypeError, AttributeError):
    """A call that slixmpp-omemo 2.2 does not have; the text says what to write instead.

    It is also what Python itself would have raised.
    """


class Encrypted(Message):
    """What `encrypt_message` returns: a message stanza, and no dictionary of them.

    Attributes:
        parted: whether it leaves as two stanzas, one for each kind of OMEMO; see `parting`.
    """

    parted = False

    def __copy__(self) -> "Encrypted":
        # slixmpp's copy is of the class that is copied, and says less.
        copied: Encrypted = super().__copy__()  # type: ignore[assignment]
        copied.parted = self.parted
        return copied

    @property
    def items(self) -> NoReturn:
        """There is none: a stanza has no items, and `hasattr` says so."""
        raise OutdatedCall(ONE_STANZA)

    def __getitem__(self, full_attrib: str) -> Any:
        if full_attrib in (MODERN, OLD):
            raise OutdatedCall(ONE_STANZA)
        return super().__getitem__(full_attrib)

    def __iter__(self) -> NoReturn:
        raise OutdatedCall(ONE_STANZA)

    @property
    def values(self) -> "_Values":
        """What slixmpp gives as the values of a stanza."""
        return _Values(self._get_stanza_values())

    @values.setter
    def values(self, values: dict[str, Any]) -> None:
        self._set_stanza_values(values)


class _Values(dict[str, Any]):
    """slixmpp's values of a stanza, a property of it; a dictionary's are a method."""

    def __call__(self) -> NoReturn:
        raise OutdatedCall(ONE_STANZA)


def attribute(name: str) -> NoReturn:
    """What the package says of a name that it has not (PEP 562).

    Raises:
        OutdatedImport: slixmpp-omemo had it before 1.0.
        OutdatedModule: slixmpp looks for the plugin in the module.
        AttributeError: nobody knows it.
    """
    if name in GONE:
        raise OutdatedImport(NAME_GONE.format(name, _subclass(MEMBERS)))
    if name == "xep_0384":
        raise OutdatedModule(MODULE.format(_subclass(MEMBERS)))
    raise AttributeError(f"module 'eph_e2ee' has no attribute {name!r}")


def _subclass(members: Iterable[str]) -> str:
    return SUBCLASS.format("; ".join(MEMBERS.get(each, each) for each in members))


def require_members(abstract: Iterable[str]) -> None:
    """See that nothing abstract is left in a plugin's class.

    Raises:
        OutdatedCall: with what is missing.
    """
    missing = sorted(abstract)
    if missing:
        raise OutdatedCall(_subclass(missing))


def require_message(stanza: object) -> None:
    """See that a stanza is one.

    Raises:
        OutdatedCall: it is not.
    """
    if not isinstance(stanza, Message):
        raise OutdatedCall(STANZA)


def recipients_of(given: object) -> set[JID]:
    """The recipients that were given.

    Raises:
        ValueError: there is none.
        OutdatedCall: something else than JIDs.
    """
    if isinstance(given, JID):
        return {given}
    if not given:
        raise ValueError("at least one recipient is needed")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise OutdatedCall(RECIPIENTS)
    recipients = list(given)
    if not all(isinstance(each, JID) for each in recipients):
        raise OutdatedCall(RECIPIENTS)
    return set(recipients)
