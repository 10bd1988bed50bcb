"""What the flows see of slixmpp and OMEMO: stanzas in, errors of our own out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import omemo
import pytest
from omemo.session_manager import NoEligibleDevices as NobodyEligible
from omemo.session_manager import StillUndecided, TrustDecisionFailed

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
from tests.xmpp.clients import OurPlugin

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault
    from eph_e2ee.xmpp.omemo import Sealed
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


@pytest.fixture
def heard(account: Account) -> list[Arrival]:
    arrivals: list[Arrival] = []
    account.listen(arrivals.append)
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
        await account.begin_reading(operation, lambda _: lambda _: None)
    assert caught.value.reason is Reason.UNKNOWN_SENDER
    assert caught.value.__context__ is None


async def test_a_server_that_refuses_our_keys(account: Account, world: World) -> None:
    world.failing = {"urn:xmpp:omemo:2:bundles"}
    with pytest.raises(NotSent) as caught:
        await account.prepare(PETER)
    assert caught.value.__cause__ is None


async def test_a_message_goes_out_sealed(
    client: TestClient, account: Account, world: World
) -> None:
    """F32, F33: the envelope inside, next to nothing outside; and a peer can open it."""
    peter = world.client("peter")
    theirs = peter.plug(OurPlugin)
    await peter.bind()
    await account.prepare(PETER)
    envelope = account.build([_body("sentinel plaintext")], to=PETER)

    def no_rows(_: Sealed) -> Any:
        return lambda _: None

    pending = await account.begin(lambda: account.seal(PETER, envelope, None), no_rows)
    await pending.finish()
    account.send(PETER, MessageId("7"), pending.value, None)
    (stanza,) = client.sent
    assert "sentinel" not in str(stanza)
    assert "body" not in str(stanza)
    opened, device = await theirs.decrypt_message(world.carry(stanza, client, peter))
    assert opened["body"] == "sentinel plaintext"
    assert device.device_id == account.device


async def test_what_a_device_can_read(account: Account, world: World) -> None:
    """F40."""
    peter = world.client("peter")
    plugin = peter.plug(OurPlugin)
    await peter.bind()
    capabilities = await account.capabilities(PETER)
    assert set(capabilities) == {plugin.own_device}
    assert capabilities[plugin.own_device].reads_sce.name == "YES"
    assert await account.capabilities(BareJid("anna@example.org")) == {}


def _body(text: str) -> Element:
    made = Element("{jabber:client}body")
    made.text = text
    return made
