"""Applications for other versions of slixmpp-omemo are told what to change."""

from __future__ import annotations

from typing import Any

import pytest
from slixmpp import JID
from slixmpp.plugins.base import PLUGIN_REGISTRY
from slixmpp.stanza import Message

import eph_e2ee
from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.xmpp.outdated import GONE, Encrypted
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.xmpp.clients import OurPlugin, World

PETER = JID("peter@example.org")


def stanza() -> Encrypted:
    made = Encrypted(sto=PETER, sid="7", stype="chat")  # type: ignore[no-untyped-call]
    made["body"] = "text"
    return made


USES: dict[str, Any] = {
    "items": lambda messages: messages.items(),
    "values": lambda messages: messages.values(),
    "a namespace": lambda messages: messages[OLD],
    "another namespace": lambda messages: messages[MODERN],
    "a loop": list,
}


@pytest.mark.parametrize("use", USES)
def test_what_was_a_dictionary_is_one_stanza(use: str) -> None:
    """Until 2.1 `encrypt_message` returned stanzas by namespace."""
    with pytest.raises(LocalProtocolError, match=r"one stanza.*since slixmpp-omemo 2\.2"):
        USES[use](stanza())


def test_it_is_what_python_would_have_raised() -> None:
    with pytest.raises(AttributeError, match="one stanza"):
        stanza().items()
    with pytest.raises(TypeError, match="one stanza"):
        stanza()[OLD]


def test_who_asks_whether_it_is_a_dictionary_is_told_no() -> None:
    """As applications for both do."""
    assert not hasattr(stanza(), "items")


def test_otherwise_it_is_a_message_stanza() -> None:
    made = stanza()
    made.values = {"body": "another text"}
    assert (made["body"], made["id"], made["to"]) == ("another text", "7", PETER)
    assert made.values["body"] == "another text"
    assert isinstance(made, Message)
    assert made


async def test_a_class_without_its_members_is_told_them(world: World) -> None:
    """Before 1.0 the plugin was used as it is."""
    client = world.client("rosa")

    class Unfinished(eph_e2ee.XEP_0384):
        @property
        def _btbv_enabled(self) -> bool:
            return True

    with pytest.raises(TypeError, match="storage") as caught:
        client.plug(Unfinished)
    assert isinstance(caught.value, LocalProtocolError)
    assert "_prompt_manual_trust" in str(caught.value)
    assert "_btbv_enabled" not in str(caught.value)
    with pytest.raises(LocalProtocolError, match="_btbv_enabled"):
        world.client("peter").plug(eph_e2ee.XEP_0384)


@pytest.mark.parametrize("name", sorted(GONE))
def test_names_from_before_1_0_are_told_what_is_there_instead(name: str) -> None:
    with pytest.raises(
        ImportError, match=r"no .* since 1\.0.*derive a class from XEP_0384"
    ) as caught:
        exec(f"from eph_e2ee import {name}", {})  # noqa: S102 -- the test's own text
    assert isinstance(caught.value, LocalProtocolError)
    assert name in str(caught.value)


def test_other_names_are_as_unknown_as_ever() -> None:
    assert not hasattr(eph_e2ee, "XEP_0385")
    with pytest.raises(ImportError, match="cannot import name") as caught:
        exec("from eph_e2ee import XEP_0385", {})  # noqa: S102 -- the test's own text
    assert type(caught.value) is ImportError


async def test_a_module_is_no_plugin(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before 1.0 slixmpp was given it."""
    monkeypatch.delitem(PLUGIN_REGISTRY, "xep_0384", raising=False)
    with pytest.raises(LocalProtocolError, match="derive a class from XEP_0384"):
        world.client("rosa").register_plugin("xep_0384", {"data_dir": "/"}, module=eph_e2ee)
    assert caplog.records == []


WRONG: dict[str, tuple[Any, ...]] = {
    "a JID's text": ("peter@example.org",),
    "texts": ({"peter@example.org"},),
    "a number": (7,),
}


@pytest.mark.parametrize("given", WRONG)
async def test_recipients_are_jids(given: str, world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    message = client.make_message(mto=PETER, mbody="text")
    with pytest.raises(LocalProtocolError, match="JID") as caught:
        await plugin.encrypt_message(message, *WRONG[given])
    assert "peter" not in str(caught.value)


async def test_a_list_of_jids_is_as_good_as_a_set(world: World) -> None:
    client, other = world.client("rosa"), world.client("peter")
    plugin = client.plug(OurPlugin)
    other.plug(OurPlugin)
    for each in (client, other):
        await each.bind()
    message = client.make_message(mto=PETER, mbody="text")
    sealed, _ = await plugin.encrypt_message(message, [PETER])
    assert plugin.is_encrypted(sealed) == {MODERN}


async def test_stanzas_are_encrypted_and_not_texts(world: World) -> None:
    """Before 1.0 it was the other way round."""
    plugin = world.client("rosa").plug(OurPlugin)
    with pytest.raises(LocalProtocolError, match="stanza"):
        await plugin.encrypt_message("sentinel plaintext", PETER)
    with pytest.raises(LocalProtocolError, match="stanza"):
        await plugin.decrypt_message("<encrypted/>")
