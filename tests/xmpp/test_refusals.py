"""What slixmpp-omemo 2.2 raises, ours is as well, in the same case; and it holds nothing else."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import omemo
import pytest
from slixmpp import JID
from xmlschema import XMLSchemaValidationError

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.xmpp import refusals
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.refusals import NotEncrypted, refused, unopened
from tests.xmpp.clients import OurPlugin, TheirPlugin, World, plugged

if TYPE_CHECKING:
    from collections.abc import Callable

    from slixmpp.stanza import Message

SECRET = "sentinel plaintext"

DOCUMENTED = (
    omemo.DecryptionFailed,
    omemo.KeyExchangeFailed,
    omemo.MessageNotForUs,
    omemo.NoSession,
    omemo.OMEMOException,
    omemo.PublicDataInconsistency,
    omemo.SenderDistrusted,
    omemo.SenderNotFound,
    XMLSchemaValidationError,
    ValueError,
)
"""What slixmpp-omemo's `decrypt_message`, and python-omemo's `decrypt`, say that they raise."""


def child(stanza: Message, path: str) -> Element:
    found = stanza.xml.find("/".join(f"{{{OLD}}}{name}" for name in path.split("/")))
    assert found is not None
    return found


def turned(element: Element) -> None:
    """Change a bit of what stands there in base64."""
    data = bytearray(base64.b64decode(element.text or ""))
    data[-1] ^= 1
    element.text = base64.b64encode(data).decode()


DAMAGES: dict[str, Callable[[Message], Any]] = {
    "not encrypted": lambda stanza: stanza.xml.remove(child(stanza, "encrypted")),
    "twice": lambda stanza: stanza.xml.append(copy.deepcopy(child(stanza, "encrypted"))),
    "no header": lambda stanza: child(stanza, "encrypted").remove(
        child(stanza, "encrypted/header")
    ),
    "a foreign child": lambda stanza: child(stanza, "encrypted").append(Element("foreign")),
    "another's": lambda stanza: child(stanza, "encrypted/header/key").set("rid", "7"),
    "an unknown device": lambda stanza: child(stanza, "encrypted/header").set("sid", "7"),
    "no base64": lambda stanza: setattr(child(stanza, "encrypted/header/key"), "text", "?"),
    "a key that does not fit": lambda stanza: turned(child(stanza, "encrypted/header/key")),
    "no payload that opens": lambda stanza: turned(child(stanza, "encrypted/payload")),
    "a foreign sender": lambda stanza: stanza.xml.set("from", "anna@example.org/x"),
}


async def raised(plugin: Any, stanza: Message) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is what is asked
        await plugin.decrypt_message(stanza)
    return caught.value


async def begun(world: World, sender: Any, plugin: Any, kind: type[Any], name: str) -> Any:
    """Somebody with a session that both sides have confirmed: what follows is no key exchange."""
    client, made = await plugged(world, name, kind)
    to, back = JID(client.boundjid.bare), JID(sender.boundjid.bare)
    first, _ = await plugin.encrypt_message(sender.make_message(mto=to, mbody="hello"), to)
    await made.decrypt_message(world.carry(first, sender, client))
    answer, _ = await made.encrypt_message(client.make_message(mto=back, mbody="hello"), back)
    await plugin.decrypt_message(world.carry(answer, client, sender))
    return client, made


async def test_ours_is_what_theirs_was(world: World) -> None:
    """The same damages, to the stanzas that two applications get of a third."""
    sender, plugin = await plugged(world, "rosa", TheirPlugin)
    theirs = await begun(world, sender, plugin, TheirPlugin, "peter")
    ours = await begun(world, sender, plugin, OurPlugin, "karl")
    for name, damage in DAMAGES.items():
        errors = []
        for client, made in (theirs, ours):
            to = JID(client.boundjid.bare)
            stanza = sender.make_message(mto=to, mbody=SECRET)
            sealed, _ = await plugin.encrypt_message(stanza, to)
            carried = world.carry(sealed, sender, client)
            damage(carried)
            errors.append(await raised(made, carried))
        expected, error = errors
        caught = [kind for kind in DOCUMENTED if isinstance(expected, kind)]
        assert caught, name
        assert [kind for kind in caught if not isinstance(error, kind)] == [], name
        assert type(error).__name__ in {kind.__name__ for kind in type(expected).__mro__}, name
        assert isinstance(error, RemoteProtocolError)
        assert error.__cause__ is error.__context__ is None
        assert SECRET not in f"{error!r} {error} {vars(error)}"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_class(reason: Reason) -> None:
    error = refused(reason)
    assert error.reason is reason
    assert str(error) == reason.value
    name = type(error).__name__
    assert f"{name}(" in repr(error)
    assert getattr(omemo, name, None) in type(error).__mro__ or isinstance(error, ValueError)
    assert isinstance(error, omemo.OMEMOException | ValueError)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 -- our own
        assert (type(again), str(again), again.reason) == (type(error), str(error), reason)


@pytest.mark.parametrize(
    ("failure", "reason", "kind"),
    [
        (omemo.KeyExchangeFailed, Reason.UNDECRYPTABLE, omemo.KeyExchangeFailed),
        (omemo.NoSession, Reason.NO_SESSION, omemo.NoSession),
        (
            omemo.PublicDataInconsistency,
            Reason.UNDECRYPTABLE,
            omemo.PublicDataInconsistency,
        ),
        (omemo.DecryptionFailed, Reason.UNDECRYPTABLE, omemo.DecryptionFailed),
        (omemo.DecryptionFailed, Reason.DUPLICATE, omemo.DecryptionFailed),
        (KeyError, Reason.UNDECRYPTABLE, omemo.DecryptionFailed),
        (omemo.BundleDownloadFailed, Reason.UNKNOWN_SENDER, omemo.SenderNotFound),
    ],
)
def test_what_python_omemo_tells_apart_stays_apart(
    failure: type[Exception], reason: Reason, kind: type[Exception]
) -> None:
    error = unopened(reason, failure)
    assert isinstance(error, kind)
    assert error.reason is reason


def test_all_classes_are_theirs_and_ours() -> None:
    classes = [
        each
        for each in vars(refusals).values()
        if isinstance(each, type) and each.__module__ == refusals.__name__
    ]
    assert len(classes) == 10
    for kind in classes:
        assert issubclass(kind, RemoteProtocolError)
        assert issubclass(kind, omemo.OMEMOException | ValueError)


def test_what_is_not_encrypted_says_how_to_ask() -> None:
    """Until 2.1 `is_encrypted` returned None for it."""
    assert "is_encrypted" in str(NotEncrypted())
    assert NotEncrypted().reason is Reason.MALFORMED_OMEMO


def test_the_malformed_one_does_not_quote() -> None:
    """F10: xmlschema's own would show the element."""
    error: Any = refused(Reason.MALFORMED_OMEMO)
    assert error.obj is error.elem is error.source is None
    assert (str(error), error.msg) == (Reason.MALFORMED_OMEMO.value,) * 2
    assert error.path is None
    assert MODERN not in repr(error)
