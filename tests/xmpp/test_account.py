"""What the flows see of slixmpp and OMEMO: stanzas in, errors of our own out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import omemo
import pytest
from omemo.session_manager import NoEligibleDevices as NobodyEligible
from omemo.session_manager import StillUndecided, TrustDecisionFailed
from slixmpp.plugins.base import PLUGIN_REGISTRY, register_plugin

from eph_e2ee.errors import (
    NoEligibleDevices,
    NotConnected,
    NotSent,
    Reason,
    RemoteProtocolError,
    TrustUndecided,
)
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.registry import registered
from eph_e2ee.xmpp.vault_omemo import VaultOmemo
from tests.xmpp.clients import OurPlugin
from tests.xmpp.test_servertime import traces

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault
    from eph_e2ee.xmpp.sealing import Sealed
    from eph_e2ee.xmpp.stanzas import Arrival
    from tests.xmpp.clients import TestClient, World

ROSA, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
HEAD = "xmlns='jabber:client' from='peter@example.org/x' to='rosa@example.org/y' id='7'"


@pytest.fixture
def client(world: World) -> TestClient:
    return world.client("rosa")


@pytest.fixture
def account(client: TestClient, vault: Vault) -> Account:
    return Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 1.0)


class Silent:
    """Somebody who is told of messages, and tells nobody."""

    async def bounced(self, sender: BareJid, message_id: MessageId) -> None:
        """Do nothing."""

    async def displayed(self, conversation: BareJid, archive_id: str) -> None:
        """Do nothing."""


@pytest.fixture
def heard(account: Account) -> list[Arrival]:
    arrivals: list[Arrival] = []
    account.listen(arrivals.append, Silent())
    return arrivals


def encrypted(*namespaces: str) -> str:
    return "".join(f"<encrypted xmlns='{namespace}'/>" for namespace in namespaces)


def archived(inside: str, sender: str = ROSA) -> str:
    return (
        f"<message xmlns='jabber:client' from='{sender}' to='rosa@example.org/y'>"
        "<result xmlns='urn:xmpp:mam:2' id='9'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<message {HEAD}>{inside}</message></forwarded></result></message>"
    )


@pytest.mark.parametrize("namespaces", [(MODERN,), (OLD,), (MODERN, OLD)])
@pytest.mark.parametrize("body", ["", "<body>a fallback</body>"])
async def test_an_encrypted_message_is_heard_once(
    namespaces: tuple[str, ...], body: str, client: TestClient, heard: list[Arrival]
) -> None:
    """Whether or not it has the outer body that slixmpp's own event needs."""
    client.receive(f"<message {HEAD}>{encrypted(*namespaces)}{body}</message>")
    assert [(arrival.sender, arrival.message_id) for arrival in heard] == [(PETER, "7")]


@pytest.mark.parametrize(
    "stanza",
    [
        f"<message {HEAD}><body>in clear</body></message>",
        f"<message {HEAD} type='error'>{encrypted(MODERN)}</message>",
        f"<message {HEAD} type='groupchat'>{encrypted(MODERN)}</message>",
        archived("<body>in clear</body>"),
        archived(encrypted(MODERN), sender=PETER),
    ],
)
async def test_other_messages_are_not_heard(
    stanza: str, client: TestClient, heard: list[Arrival]
) -> None:
    client.receive(stanza)
    assert heard == []


async def test_our_archive_is_heard(client: TestClient, heard: list[Arrival]) -> None:
    client.receive(archived(encrypted(MODERN)))
    assert [(arrival.sender, arrival.archive_id) for arrival in heard] == [(PETER, "9")]


async def test_after_the_end_nothing_is_heard(
    client: TestClient, account: Account, heard: list[Arrival]
) -> None:
    account.stop_listening()
    client.receive(f"<message {HEAD}>{encrypted(MODERN)}</message>")
    client.receive(archived(encrypted(MODERN)))
    assert heard == []


async def test_without_a_session_nothing_is_encrypted(account: Account) -> None:
    with pytest.raises(NotConnected):
        account.check_session()


async def test_our_own_names(account: Account) -> None:
    assert account.bare == ROSA
    assert account.device == 0
    assert len({account.new_id() for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (NobodyEligible(frozenset({PETER}), "sentinel"), NoEligibleDevices),
        (StillUndecided("sentinel"), TrustUndecided),
        (TrustDecisionFailed("sentinel"), TrustUndecided),
        (omemo.OMEMOException("sentinel"), NotSent),
    ],
)
async def test_failures_are_told_in_our_own_words(
    failure: Exception, error: type[NotSent], account: Account
) -> None:
    """F39, F10: an error, not plaintext; and none of python-omemo's text."""

    async def operation() -> None:
        raise failure

    with pytest.raises(NotSent) as caught:
        await account.begin(operation, lambda _: lambda _: None)
    assert type(caught.value) is error
    assert caught.value.__cause__ is None
    assert "sentinel" not in str(caught.value)


async def test_who_cannot_be_reached_is_named(account: Account) -> None:
    async def operation() -> None:
        raise NobodyEligible(frozenset({PETER}), "text")

    with pytest.raises(NoEligibleDevices) as caught:
        await account.begin(operation, lambda _: lambda _: None)
    assert caught.value.recipients == {PETER}


async def test_a_reading_that_fails_is_the_senders(account: Account) -> None:
    """F42: the server did not give the sender's keys; nothing of OMEMO's leaks out."""

    async def operation() -> None:
        raise omemo.OMEMOException("sentinel")

    with pytest.raises(RemoteProtocolError) as caught:
        await account.begin_reading([operation], lambda _: lambda _: None)
    assert caught.value.reason is Reason.UNKNOWN_SENDER
    assert caught.value.__context__ is None


async def test_a_server_that_refuses_our_keys(account: Account, world: World) -> None:
    world.failing = {"urn:xmpp:omemo:2:bundles"}
    with pytest.raises(NotSent) as caught:
        await account.audience(PETER)
    assert caught.value.__cause__ is None


async def test_a_message_goes_out_sealed(
    client: TestClient, account: Account, world: World
) -> None:
    """F32, F33: the envelope inside, next to nothing outside; and a peer can open it."""
    peter = world.client("peter")
    theirs = peter.plug(OurPlugin)
    await peter.bind()
    audience = await account.audience(PETER)
    envelope = account.build([_body("sentinel plaintext")], to=PETER)

    def no_rows(_: Sealed) -> Any:
        return lambda _: None

    pending = await account.begin(lambda: account.seal(audience, envelope, None), no_rows)
    await pending.finish()
    account.send(audience, MessageId("7"), pending.value, None)
    (stanza,) = client.sent
    assert "sentinel" not in str(stanza)
    # Not the four letters: in so much base64 they stand by chance now and then.
    assert [each.tag for each in stanza.xml.iter() if "body" in each.tag] == []
    opened, device = await theirs.decrypt_message(world.carry(stanza, client, peter))
    assert opened["body"] == "sentinel plaintext"
    assert device.device_id == account.device


class Remembering(Silent):
    """Somebody who is told of messages, and takes his time."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.go_on = asyncio.Event()

    async def bounced(self, sender: BareJid, message_id: MessageId) -> None:
        await self.go_on.wait()
        self.told.append((sender, message_id))

    async def displayed(self, conversation: BareJid, archive_id: str) -> None:
        await self.go_on.wait()
        self.told.append((conversation, archive_id))


BOUNCED = f"<message {HEAD} type='error'><error type='cancel'/></message>"
READ_ELSEWHERE = (
    "<message xmlns='jabber:client'><event xmlns='http://jabber.org/protocol/pubsub#event'>"
    "<items node='urn:xmpp:mds:displayed:0'><item id='peter@example.org'>"
    "<displayed xmlns='urn:xmpp:mds:displayed:0'>"
    "<stanza-id xmlns='urn:xmpp:sid:0' id='a9' by='rosa@example.org'/></displayed></item></items>"
    "</event></message>"
)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_others_say_of_messages_is_told(client: TestClient, account: Account) -> None:
    listener = Remembering()
    listener.go_on.set()
    account.listen(lambda _: None, listener)
    client.receive(BOUNCED)
    client.receive(READ_ELSEWHERE)
    await settled()
    assert listener.told == [(PETER, "7"), (PETER, "a9")]
    assert account._telling == set()


async def test_nothing_is_told_after_the_end(client: TestClient, account: Account) -> None:
    """STYLE 13: also of what was being told; and the end can come twice."""
    listener = Remembering()
    account.listen(lambda _: None, listener)
    client.receive(BOUNCED)
    await settled()
    assert len(account._telling) == 1
    account.stop_listening()
    account.stop_listening()
    listener.go_on.set()
    client.receive(BOUNCED)
    client.receive(READ_ELSEWHERE)
    await settled()
    assert listener.told == []
    assert account._telling == set()


@pytest.mark.parametrize("own", [(), ("xep_0280",), ("xep_0297",), ("xep_0198", "xep_0184")])
async def test_detaching_leaves_a_client_as_it_was(
    own: tuple[str, ...], client: TestClient, vault: Vault
) -> None:
    """STYLE 13: handlers, filters, events; what the application has enabled stays. Twice."""
    for name in own:
        client.register_plugin(name)
    before, filters = traces(client), out_filters(client)
    account = Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 1.0)
    assert "xep_0280" in client.plugin
    account.listen(lambda _: None, Silent())
    await client.bind()
    account.stop_listening()
    await account.detach()
    await account.detach()
    handlers, events, scheduled, plugins = traces(client)
    assert [name for name in handlers if name.startswith("eph_e2ee")] == []
    assert set(before[3]) <= set(plugins)
    assert {"xep_0384", "xep_0466", "xep_0420"}.isdisjoint(plugins)
    assert [name in plugins for name in ("xep_0280", "xep_0297")] == [
        name in before[3] for name in ("xep_0280", "xep_0297")
    ]
    for event in ("stanza_acked", "sm_failed", "session_end", "session_resumed", "message_error"):
        assert events.get(event, 0) == before[1].get(event, 0)
    assert out_filters(client) == filters
    assert scheduled == before[2]


async def test_the_applications_own_classes_stay_registered(world: World, vault: Vault) -> None:
    """Another client of the process that enables them by name gets them, and not the vault's."""
    register_plugin(OurPlugin)
    own = dict(PLUGIN_REGISTRY)
    first, second = world.client("rosa"), world.client("peter")
    Account.attached(first, Ratchets(vault), blind_trust=True, now=lambda: 1.0)
    assert PLUGIN_REGISTRY["xep_0384"] is OurPlugin
    assert {name: PLUGIN_REGISTRY[name] for name in own} == own
    second.register_plugin("xep_0384")
    assert type(second.plugin.get("xep_0384", None)) is OurPlugin
    assert type(first.plugin.get("xep_0384", None)) is VaultOmemo


def test_a_name_that_nobody_has_registered_stays_free() -> None:
    """Also where a plugin cannot be made."""

    class Unregistered(OurPlugin):
        name = "xep_of_this_test"

    with registered(Unregistered):
        assert PLUGIN_REGISTRY["xep_of_this_test"] is Unregistered
    assert "xep_of_this_test" not in PLUGIN_REGISTRY
    with pytest.raises(ZeroDivisionError), registered(Unregistered):
        _ = 1 / 0
    assert "xep_of_this_test" not in PLUGIN_REGISTRY


def out_filters(client: TestClient) -> list[Any]:
    stream: Any = client
    return list(stream._XMLStream__filters["out_sync"])


def _body(text: str) -> Element:
    made = Element("{jabber:client}body")
    made.text = text
    return made
