"""What this library relies on inside of python-omemo 2.1; a later version turns it red."""

from __future__ import annotations

import inspect
import re

import omemo
import pytest
from slixmpp_omemo.base_session_manager import BaseSessionManager

from eph_e2ee.xmpp import sessions as module
from eph_e2ee.xmpp.sessions import Legacy, Modern, Sessions

UNGUARDED = {
    "create",  # `Startup` runs it through the gate
    "shutdown",  # stores nothing
    "update_device_list",  # notes what comes first, and runs the rest through the gate
}


def coroutines(owner: type) -> set[str]:
    return {
        name
        for name, member in inspect.getmembers(owner, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("owner", [omemo.SessionManager, BaseSessionManager])
def test_every_public_operation_is_guarded(owner: type) -> None:
    """F43: a new one in a later version has to be thought about."""
    guard = module._alone(Sessions.encrypt).__code__
    guarded = {name for name in coroutines(owner) if getattr(Sessions, name).__code__ is guard}
    assert coroutines(owner) == guarded | UNGUARDED
    assert not guarded & UNGUARDED


def test_guarded_operations_keep_their_signatures() -> None:
    for name in coroutines(omemo.SessionManager):
        ours, theirs = (
            list(inspect.signature(getattr(owner, name)).parameters)
            for owner in (Sessions, omemo.SessionManager)
        )
        assert ours == theirs


def test_the_hook_for_routing_exists() -> None:
    """python-omemo offers no public one; this name pins its version."""
    hook = omemo.SessionManager._SessionManager__get_device_information  # type: ignore[attr-defined]
    assert inspect.iscoroutinefunction(hook)
    assert list(inspect.signature(hook).parameters) == ["self", "bare_jid"]
    assert "__get_device_information" in inspect.getsource(omemo.SessionManager.encrypt)


def test_the_task_of_python_omemo_changes_nothing_but_the_signed_pre_key() -> None:
    task = omemo.SessionManager._SessionManager__manage_signed_pre_key_rotation  # type: ignore[attr-defined]
    called = set(re.findall(r"await \(?backend\.(\w+)\(", inspect.getsource(task)))
    assert called == {"signed_pre_key_age", "rotate_signed_pre_key", "get_bundle"}
    for backend in (Modern, Legacy):
        assert {getattr(backend, name).__module__ for name in called} == {"eph_e2ee.xmpp.backends"}


def test_the_network_is_never_called_under_the_lock() -> None:
    """Every abstract method that reaches the network is one that waits for the commit."""
    abstract = {
        name
        for name in omemo.SessionManager.__abstractmethods__
        if isinstance(vars(omemo.SessionManager)[name], staticmethod)
    }
    assert abstract <= set(vars(Sessions))


def test_our_own_device_id_is_where_we_look_for_it() -> None:
    assert "self.__own_device_id" in inspect.getsource(omemo.SessionManager.create)
