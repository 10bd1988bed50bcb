"""What users import: documented, typed, and silent about what it holds."""

from __future__ import annotations

import copy
import enum
import importlib
import inspect
import pickle
import pkgutil
import traceback
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import pytest

import eph_e2ee
from eph_e2ee import errors, model
from eph_e2ee.errors import (
    Cause,
    EphemeralError,
    IqRefused,
    LocalError,
    NoEligibleDevices,
    Reason,
    Refusal,
    RemoteError,
    RemoteProtocolError,
    VaultError,
)
from eph_e2ee.model import BareJid, Content, Delivery, DeviceId, Direction, Entry, MessageId, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

SENTINEL = "sentinel plaintext"
PUBLIC = [getattr(eph_e2ee, name) for name in eph_e2ee.__all__]
CLASSES = [each for each in PUBLIC if inspect.isclass(each)]


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(eph_e2ee.__path__, "eph_e2ee."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def exceptions() -> Iterator[EphemeralError]:
    """One of each class of the tree."""
    for name in errors.__all__:
        kind = getattr(errors, name)
        if kind in {Cause, Reason, Refusal}:
            continue
        if kind is RemoteProtocolError:
            yield kind(Reason.TOO_LARGE)
        elif kind is NoEligibleDevices:
            yield kind(frozenset({"peter@example.org"}))
            yield kind(frozenset({"peter@example.org"}), frozenset({Cause.LEGACY}))
        elif kind is IqRefused:
            yield kind(Refusal("forbidden", "auth", SENTINEL), authenticated=False)
        else:
            yield kind("do this")


def named(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.__name__)
def test_what_a_module_offers_exists(module: Any) -> None:
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(module, name)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_documented(kind: type) -> None:
    assert (kind.__doc__ or "").strip()
    for name, member in vars(kind).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name}"


def test_every_function_is_documented() -> None:
    functions = [each for each in PUBLIC if inspect.isfunction(each)]
    assert eph_e2ee.attach in functions
    assert all(inspect.getdoc(each) for each in functions)


@pytest.mark.parametrize(
    "method", ["send", "reply", "mark_read", "set_timer", "history", "erase", "iq", "on_iq"]
)
def test_what_a_user_writes_says_what_it_raises(method: str) -> None:
    owners = [owner for owner in (eph_e2ee.Chat, eph_e2ee.Message) if hasattr(owner, method)]
    assert owners
    for owner in owners:
        told = inspect.getdoc(getattr(owner, method)) or ""
        assert "Raises:" in told or "see `Chat." in told


@pytest.mark.parametrize("error", list(exceptions()), ids=named)
def test_an_error_is_ours_or_theirs(error: EphemeralError) -> None:
    kinds = {LocalError, RemoteError}
    assert sum(isinstance(error, kind) for kind in kinds) == (type(error) is not EphemeralError)
    assert type(error).__doc__


def pickled(error: EphemeralError) -> EphemeralError:
    again: EphemeralError = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
    return again


@pytest.mark.parametrize("error", list(exceptions()), ids=named)
@pytest.mark.parametrize("way", [pickled, copy.copy])
def test_an_error_can_be_carried_elsewhere(way: Any, error: EphemeralError) -> None:
    """Between processes, and by whatever reports crashes."""
    again = way(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", list(exceptions()), ids=named)
def test_an_error_has_a_text(error: EphemeralError) -> None:
    assert str(error).strip()
    printed = "".join(traceback.format_exception(error))
    assert SENTINEL not in printed + repr(error) + repr(vars(error))
    assert type(error).__name__ in printed
    assert "peter@example.org" not in printed


def test_the_names_of_the_tree_are_public_where_users_meet_them() -> None:
    """Whatever a `Raises:` of `Chat` and `Message` names can be caught from the package."""
    for owner in (eph_e2ee.Chat, eph_e2ee.Message, eph_e2ee.attach):
        source = inspect.getsource(owner)
        for name in errors.__all__:
            if f"        {name}:" in source or f"        {name}," in source:
                assert name in eph_e2ee.__all__, name
    assert issubclass(VaultError, LocalError)


def samples() -> Iterator[Any]:
    """Values that hold a message or are near one."""
    content = Content(
        SENTINEL, (f"<{SENTINEL}/>",), BareJid("a@b"), DeviceId(1), MessageId("7"), 1.0
    )
    yield content
    entry = Entry(
        1, BareJid("a@b"), Direction.INCOMING, Phase.UNREAD, Delivery.RECEIVED, None, None, content
    )
    yield entry
    chat: Any = None
    yield eph_e2ee.Message(chat, entry)
    yield Refusal("forbidden", "auth", SENTINEL)
    element = Element("{urn:example}query", {"value": SENTINEL})
    element.text = SENTINEL
    jid = BareJid("a@b")
    yield eph_e2ee.Question("a@b/c", jid, DeviceId(1), "get", element)


@pytest.mark.parametrize("value", list(samples()), ids=named)
def test_nothing_that_holds_a_message_prints_it(value: Any) -> None:
    """F10, STYLE 6."""
    assert SENTINEL not in repr(value)
    assert SENTINEL not in f"{value}"
    assert SENTINEL not in repr([value])


def test_values_that_cross_borders_do_not_change() -> None:
    for name in model.__all__:
        kind = getattr(model, name)
        if inspect.isclass(kind) and not issubclass(kind, enum.Enum):
            assert is_dataclass(kind)
            assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
            assert hasattr(kind, "__slots__")
            assert all(field.type for field in fields(kind))


def test_the_version_is_one() -> None:
    parts = eph_e2ee.__version__.split(".")
    assert len(parts) == 3
    assert all(part.isdigit() for part in parts)
