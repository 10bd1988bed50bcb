"""The one line that changes: an application written against slixmpp-omemo 2.2 alone."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring

import omemo
import pytest
import slixmpp_omemo
from omemo.storage import StorageException
from slixmpp import JID
from slixmpp.stanza import Message

import eph_e2ee
from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.parcel import MODERN, OLD
from tests.support.client import SECONDS
from tests.xmpp.clients import OurPlugin, TheirPlugin, World, plugged

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient

ROSA, PETER = JID("rosa@example.org"), JID("peter@example.org")


class Careful(OurPlugin):
    """An application that asks a person, in its prompt."""

    level = "TRUSTED"

    @property
    def _btbv_enabled(self) -> bool:
        return False

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        self.told.append((manually_trusted, identifier))
        sessions = await self.get_session_manager()
        for device in manually_trusted:
            await sessions.set_trust(device.bare_jid, device.identity_key, self.level)


def elements(stanza: Message) -> dict[str, str | None]:
    return {child.tag: child.text for child in stanza.xml}


@pytest.mark.parametrize("kind", ["public", "abstract"])
def test_the_interface_is_the_same(kind: str) -> None:
    theirs, ours = slixmpp_omemo.XEP_0384, eph_e2ee.XEP_0384
    names = {
        "public": {name for name in vars(theirs) if not name.startswith("_")},
        "abstract": theirs.__abstractmethods__ | {"_devices_blindly_trusted"},
    }[kind]
    assert len(names) >= 4
    for name in names:
        one, other = inspect.getattr_static(theirs, name), inspect.getattr_static(ours, name)
        assert type(one) is type(other) or isinstance(one, set | dict)
        if inspect.isfunction(one):
            assert inspect.iscoroutinefunction(one) == inspect.iscoroutinefunction(other)
            assert parameters(one) == parameters(other)


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


def test_nothing_abstract_is_added() -> None:
    assert eph_e2ee.XEP_0384.__abstractmethods__ == slixmpp_omemo.XEP_0384.__abstractmethods__
    assert issubclass(eph_e2ee.XEP_0384, slixmpp_omemo.XEP_0384)
    assert eph_e2ee.XEP_0384.name == "xep_0384"
    assert slixmpp_omemo.XEP_0384.dependencies <= eph_e2ee.XEP_0384.dependencies


async def test_a_message_between_two_of_ours(world: World) -> None:
    """All of the stanza goes along, and nothing of it stands outside."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    stanza = rosa.make_message(mto=PETER, mbody="sentinel plaintext", mtype="chat")
    stanza.xml.append(fromstring("<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='60'/>"))  # noqa: S314 -- the test's own text
    before = str(stanza)
    sealed, errors = await ours.encrypt_message(stanza, PETER, identifier="a tab")
    assert errors == frozenset()
    assert str(stanza) == before
    assert ours.is_encrypted(sealed) == {MODERN}
    assert "sentinel" not in str(sealed)
    assert "ephemeral" not in str(sealed)
    assert sealed["id"] == stanza["id"]
    assert set(elements(sealed)) == {
        f"{{{MODERN}}}encrypted",
        "{urn:xmpp:eme:0}encryption",
        "{urn:xmpp:hints}store",
    }
    carried = world.carry(sealed, rosa, peter)
    opened, device = await theirs.decrypt_message(carried)
    assert elements(opened) == {
        "{jabber:client}body": "sentinel plaintext",
        "{urn:xmpp:ephemeral:0}ephemeral": None,
    }
    assert opened["from"] == rosa.boundjid
    assert (device.bare_jid, device.device_id) == (ROSA, ours.own_device)
    assert theirs.is_encrypted(carried) == {MODERN}
    assert [identifier for _, identifier in ours.told] == ["a tab"]


async def test_several_recipients(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    others = [await plugged(world, name, OurPlugin) for name in ("peter", "anna")]
    stanza = rosa.make_message(mto=PETER, mbody="text", mtype="chat")
    sealed, _ = await ours.encrypt_message(stanza, {PETER, JID("anna@example.org/phone")})
    for client, theirs in others:
        carried = world.carry(sealed, rosa, client)
        carried["to"] = PETER  # a component or a room of the application's own
        opened, _ = await theirs.decrypt_message(carried)
        assert opened["body"] == "text"


async def test_to_an_application_that_has_not_changed(world: World) -> None:
    """It cannot read envelopes: it gets the body, in legacy OMEMO, and nothing in clear."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", TheirPlugin)
    stanza = rosa.make_message(mto=PETER, mbody="sentinel plaintext", mtype="chat")
    sealed, errors = await ours.encrypt_message(stanza, PETER)
    assert errors == frozenset()
    assert ours.is_encrypted(sealed) == {OLD}
    assert "sentinel" not in str(sealed)
    assert sealed["body"] == slixmpp_omemo.XEP_0384.default_config["fallback_message"]
    opened, device = await theirs.decrypt_message(world.carry(sealed, rosa, peter))
    assert opened["body"] == "sentinel plaintext"
    assert device.device_id == ours.own_device


async def test_from_an_application_that_has_not_changed(world: World) -> None:
    peter, theirs = await plugged(world, "peter", TheirPlugin)
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    for text in ("first contact", "afterwards"):
        stanza = peter.make_message(mto=ROSA, mbody=text, mtype="chat")
        sealed, _ = await theirs.encrypt_message(stanza, ROSA)
        opened, device = await ours.decrypt_message(world.carry(sealed, peter, rosa))
        assert opened["body"] == text
        assert device.bare_jid == PETER
        assert ours.is_encrypted(opened) == set()


async def test_an_answer_to_an_application_that_has_not_changed(world: World) -> None:
    peter, theirs = await plugged(world, "peter", TheirPlugin)
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    sealed, _ = await theirs.encrypt_message(rosa_message(peter, ROSA), ROSA)
    await ours.decrypt_message(world.carry(sealed, peter, rosa))
    answer, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    opened, _ = await theirs.decrypt_message(world.carry(answer, rosa, peter))
    assert opened["body"] == "text"


def rosa_message(client: TestClient, to: JID) -> Message:
    return client.make_message(mto=to, mbody="text", mtype="chat")


async def test_old_and_new_applications_of_one_account(world: World) -> None:
    """One stanza serves both, each in what it can read."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    new, modern = await plugged(world, "peter", OurPlugin)
    old, legacy = await plugged(world, "peter", TheirPlugin)
    sealed, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    assert ours.is_encrypted(sealed) == {MODERN, OLD}
    assert sealed["body"] == ""
    assert sealed.parted  # it leaves as two
    assert (await modern.decrypt_message(world.carry(sealed, rosa, new)))[0]["body"] == "text"
    carried = world.carry(sealed, rosa, old)
    (unread,) = carried.xml.findall(f"{{{MODERN}}}encrypted")
    carried.xml.remove(unread)  # where there is one, 2.2 reads no other
    assert (await legacy.decrypt_message(carried))[0]["body"] == "text"


async def test_encrypting_itself_tells_who_cannot_read_envelopes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F40: no device is looked up a second time for it."""
    _, ours = await plugged(world, "rosa", OurPlugin)
    await plugged(world, "peter", OurPlugin)
    _, legacy = await plugged(world, "peter", TheirPlugin)
    own, _ = await (await legacy.get_session_manager()).get_own_device_information()
    await ours.refresh_device_lists({PETER})
    peter = frozenset({BareJid(PETER.bare)})
    assert await ours.gate.run(lambda: ours.legacy_devices(peter)) == {(PETER.bare, own.device_id)}
    monkeypatch.setattr(ours, "legacy_devices", None)
    for plaintexts in ({MODERN: b"<a/>", OLD: b"text"}, {MODERN: b"<a/>"}):
        sealed = await ours.gate.run(lambda given=plaintexts: ours.seal(peter, given))
        assert sealed.without_envelope == {(PETER.bare, own.device_id)}


async def test_there_may_be_nothing_to_encrypt(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    await plugged(world, "peter", OurPlugin)
    assert await ours.encrypt_message(rosa.make_message(mto=PETER), PETER) == (None, frozenset())


async def test_wrong_calls_are_as_they_were(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    with pytest.raises(ValueError, match="recipient"):
        await ours.encrypt_message(rosa_message(rosa, PETER), set())
    with pytest.raises(ValueError, match="stream"):
        await ours.encrypt_message(Message(), PETER)  # type: ignore[no-untyped-call]


async def test_without_devices_nothing_is_encrypted(world: World) -> None:
    """F39: the error is python-omemo's, and there is no stanza to send."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    with pytest.raises(omemo.session_manager.NoEligibleDevices):
        await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    assert rosa.sent == []


async def test_trust_is_decided_in_the_prompt(world: World) -> None:
    """It calls the session manager, from inside of an operation of it."""
    rosa, ours = await plugged(world, "rosa", Careful)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    sealed, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER, "a tab")
    assert (await theirs.decrypt_message(world.carry(sealed, rosa, peter)))[0]["body"] == "text"
    assert [identifier for _, identifier in ours.told] == ["a tab"]


class Asking(Careful):
    """An application whose person answers in another task, in their own time."""

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        self.asked.set()
        await self.answered.wait()
        await asyncio.create_task(super()._prompt_manual_trust(manually_trusted, identifier))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked, self.answered = asyncio.Event(), asyncio.Event()


async def test_a_person_may_take_their_time(world: World) -> None:
    """Meanwhile messages arrive; and the answer comes from outside of the operation."""
    rosa, ours = await plugged(world, "rosa", Asking)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    sending = asyncio.create_task(ours.encrypt_message(rosa_message(rosa, PETER), PETER, "a tab"))
    async with asyncio.timeout(SECONDS):
        await ours.asked.wait()
        sealed, _ = await theirs.encrypt_message(rosa_message(peter, ROSA), ROSA)
        opened, _ = await ours.decrypt_message(world.carry(sealed, peter, rosa))
        assert opened["body"] == "text"
        ours.answered.set()
        sealed, _ = await sending
    assert (await theirs.decrypt_message(world.carry(sealed, rosa, peter)))[0]["body"] == "text"
    assert [identifier for _, identifier in ours.told] == ["a tab"]


class Undecided(OurPlugin):
    """An application whose person does not know."""

    @property
    def _btbv_enabled(self) -> bool:
        return False

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[Any], identifier: str | None
    ) -> None:
        self.told.append((manually_trusted, identifier))


async def test_who_does_not_decide_is_asked_once(world: World) -> None:
    """F39: and nothing is sent."""
    rosa, ours = await plugged(world, "rosa", Undecided)
    await plugged(world, "peter", OurPlugin)
    with pytest.raises(omemo.session_manager.StillUndecided):
        await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    assert len(ours.told) == 1
    assert rosa.sent == []


async def test_a_distrusted_device_gets_nothing(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", Careful)
    ours.level = "DISTRUSTED"
    await plugged(world, "peter", OurPlugin)
    with pytest.raises(omemo.session_manager.NoEligibleDevices):
        await ours.encrypt_message(rosa_message(rosa, PETER), PETER)


async def test_a_message_opens_once(world: World) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    sealed, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    await theirs.decrypt_message(world.carry(sealed, rosa, peter))
    with pytest.raises(RemoteProtocolError) as caught:
        await theirs.decrypt_message(world.carry(sealed, rosa, peter))
    assert caught.value.reason is Reason.DUPLICATE


@pytest.mark.parametrize("refused", ["the storage", "the bundle"])
async def test_a_message_that_is_open_is_not_lost(
    refused: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first message, and a full disk or a server that does not take our new bundle."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    sealed, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER)

    async def refuse(*_: Any) -> None:
        raise StorageException("sentinel")

    async def not_taken(*_: Any) -> None:
        raise omemo.BundleUploadFailed("sentinel")

    with monkeypatch.context() as patch:
        if refused == "the storage":
            patch.setattr(theirs.kept, "_store", refuse)
        else:
            patch.setattr(theirs.sessions.network, "_upload_bundle", not_taken)
        opened, _ = await theirs.decrypt_message(world.carry(sealed, rosa, peter))
    assert opened["body"] == rosa_message(rosa, PETER)["body"]
    answer, _ = await theirs.encrypt_message(rosa_message(peter, ROSA), ROSA)
    await ours.decrypt_message(world.carry(answer, peter, rosa))
    again = world.client("peter").plug(OurPlugin)
    again.kept = theirs.kept
    await again.get_session_manager()
    assert await again.sessions.backends[MODERN].load_session(ROSA.bare, ours.own_device)


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("to", "anna@example.org", Reason.WRONG_RECIPIENT),
        ("from", "anna@example.org/x", Reason.UNKNOWN_SENDER),
    ],
)
async def test_a_stanza_that_was_turned_around(
    attribute: str, value: str, reason: Reason, world: World
) -> None:
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    sealed, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    carried = world.carry(sealed, rosa, peter)
    carried.xml.set(attribute, value)
    with pytest.raises(RemoteProtocolError) as caught:
        await theirs.decrypt_message(carried)
    assert caught.value.reason is reason


async def test_what_stood_outside_is_gone(world: World) -> None:
    """F31: the server's elements are not the peer's."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter, theirs = await plugged(world, "peter", OurPlugin)
    sealed, _ = await ours.encrypt_message(rosa_message(rosa, PETER), PETER)
    carried = world.carry(sealed, rosa, peter)
    carried.xml.append(Element("{urn:xmpp:ephemeral:0}ephemeral", {"timer": "1"}))
    carried.xml.append(Element("{jabber:client}body"))
    before = len(carried.xml)
    opened, _ = await theirs.decrypt_message(carried)
    assert elements(opened) == {"{jabber:client}body": "text"}
    assert len(carried.xml) == before


async def test_the_last_class_that_was_registered_is_the_plugin(world: World) -> None:
    """The registry is global and by name; ours asks for its envelopes itself."""
    _, theirs = await plugged(world, "peter", TheirPlugin)
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    assert type(theirs) is TheirPlugin
    assert type(ours) is OurPlugin
    assert isinstance(rosa.plugin.get("xep_0420", None), eph_e2ee.XEP_0420)
