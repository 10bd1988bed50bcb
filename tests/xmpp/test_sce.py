"""XEP-0420 on a client: envelopes built and opened, and dropped where nobody encrypted them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, tostring

import pytest
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

import eph_e2ee
from eph_e2ee.errors import LocalProtocolError, Reason, RemoteProtocolError
from eph_e2ee.events import Rejection
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.protocol.envelope import NAMESPACE, Finding
from tests.xmpp.test_startup import features, settled

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient, World

ROSA, PETER, ANNA = (BareJid(f"{name}@example.org") for name in ("rosa", "peter", "anna"))
NOW = 1_750_000_000.0
SENTINEL = "sentinel-plaintext"


def envelopes(world: World, name: str, **config: Any) -> eph_e2ee.XEP_0420:
    plugin: eph_e2ee.XEP_0420 = world.client(name).plug(eph_e2ee.XEP_0420, **config)
    plugin.now = lambda: NOW
    return plugin


def body(text: str = SENTINEL) -> Element:
    made = Element("{jabber:client}body")
    made.text = text
    return made


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


@pytest.fixture
def sealed(world: World) -> bytes:
    return envelopes(world, "rosa").build([body()], to=PETER)


async def test_what_is_built_opens(world: World, sealed: bytes) -> None:
    opened = envelopes(world, "peter").open(sealed, sender=ROSA, to=PETER, sent_at=None)
    assert [tostring(element) for element in opened.content] == [tostring(body())]
    assert opened.findings == ()
    assert opened.affixes.time == at(0)


async def test_no_two_envelopes_are_padded_alike(world: World) -> None:
    plugin = envelopes(world, "rosa")
    built = {plugin.build([body()], to=PETER) for _ in range(20)}
    assert len(built) == 20
    assert len({len(each) for each in built}) > 1


async def test_our_own_address_is_inside_even_after_it_changed(world: World) -> None:
    client = world.client("rosa")
    plugin: eph_e2ee.XEP_0420 = client.plug(eph_e2ee.XEP_0420)
    client.boundjid = type(client.boundjid)("anna@example.org/phone")
    assert b"anna@example.org" in plugin.build([body()], to=PETER)


@pytest.mark.parametrize(
    ("sender", "to", "reason"),
    [
        (ANNA, PETER, Reason.WRONG_SENDER),
        (ROSA, ANNA, Reason.WRONG_RECIPIENT),
        (PETER, ROSA, Reason.WRONG_SENDER),
    ],
)
async def test_forged_addresses(
    sender: BareJid, to: BareJid, reason: Reason, world: World, sealed: bytes
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        envelopes(world, "peter").open(sealed, sender=sender, to=to, sent_at=None)
    assert caught.value.reason is reason


async def test_a_time_far_off_is_reported(world: World, sealed: bytes) -> None:
    """F13: within an hour of what the servers say; much later, it is from the archive."""
    plugin = envelopes(world, "peter")

    def found(seconds: float) -> tuple[Finding, ...]:
        return plugin.open(sealed, sender=ROSA, to=PETER, sent_at=at(seconds)).findings

    assert found(3599) == found(-3599) == ()
    assert found(3601) == found(-3601) != ()


async def test_a_time_far_off_may_be_refused(world: World, sealed: bytes) -> None:
    plugin = envelopes(world, "peter", strict_time=True, margin=timedelta(minutes=1))
    plugin.open(sealed, sender=ROSA, to=PETER, sent_at=at(59))
    with pytest.raises(RemoteProtocolError) as caught:
        plugin.open(sealed, sender=ROSA, to=PETER, sent_at=at(61))
    assert caught.value.reason is Reason.WRONG_TIME


async def test_what_servers_process_does_not_go_inside(world: World) -> None:
    with pytest.raises(LocalProtocolError):
        envelopes(world, "rosa").build([Element("{urn:xmpp:hints}store")], to=PETER)


async def test_rubbish_is_the_senders_fault(world: World) -> None:
    """F10: and is not quoted."""
    with pytest.raises(RemoteProtocolError) as caught:
        envelopes(world, "peter").open(SENTINEL.encode(), sender=ROSA, to=PETER, sent_at=None)
    assert SENTINEL not in repr(caught.value)
    assert caught.value.__cause__ is None


# -- outside of encryption -------------------------------------------------------------------------

ENVELOPE = f"<envelope xmlns='{NAMESPACE}'><content><body>{SENTINEL}</body></content></envelope>"
BODY = f"<body>{SENTINEL}</body>"


def stanza(kind: str, inside: str, sender: str = "from='peter@example.org/x'") -> str:
    return (
        f"<{kind} xmlns='jabber:client' {sender} to='rosa@example.org' id='7' type='get'>"
        f"{inside}</{kind}>"
    )


class Watched:
    """A client with the plugin, and everything that comes through its filters."""

    def __init__(self, world: World) -> None:
        self.client: TestClient = world.client("rosa")
        self.client.plug(eph_e2ee.XEP_0420)
        self.rejected: list[Rejection] = []
        self.seen: list[Any] = []
        self.texts: list[Any] = []
        self.client.add_event_handler("ephemeral_rejected", self.rejected.append)
        self.client.add_event_handler("message", self.texts.append)
        self.client.add_filter("in", self._count)

    def _count(self, stanza: Any) -> Any:
        self.seen.append(stanza)
        return stanza


@pytest.mark.parametrize("kind", ["message", "iq"])
async def test_an_unencrypted_envelope_is_emptied(
    kind: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """XEP-0420 section 5. The stanza itself goes on: XEP-0198 counts it."""
    caplog.set_level("DEBUG")
    watched = Watched(world)
    watched.client.receive(stanza(kind, ENVELOPE + BODY))
    assert watched.rejected == [Rejection(Reason.UNENCRYPTED_ENVELOPE, PETER, MessageId("7"))]
    assert len(watched.seen) == 1
    assert list(watched.seen[0].xml) == []
    assert watched.seen[0]["id"] == "7"
    assert watched.texts == []
    assert SENTINEL not in caplog.text


async def test_other_stanzas_pass_untouched(world: World) -> None:
    watched = Watched(world)
    watched.client.receive(stanza("message", BODY))
    watched.client.receive("<presence xmlns='jabber:client' from='peter@example.org/x'/>")
    assert len(watched.seen) == 2
    assert [text["body"] for text in watched.texts] == [SENTINEL]
    assert watched.rejected == []


async def test_an_envelope_deeper_inside_is_somebody_elses(world: World) -> None:
    """A forwarded or archived stanza is judged where it is taken out."""
    watched = Watched(world)
    watched.client.receive(stanza("message", f"<x xmlns='y'>{ENVELOPE}</x>"))
    assert len(watched.seen[0].xml) == 1
    assert watched.rejected == []


@pytest.mark.parametrize("sender", ["", "from='@'"])
async def test_an_envelope_from_nobody_is_emptied_all_the_same(sender: str, world: World) -> None:
    """F42: a filter that raises would end the stream."""
    watched = Watched(world)
    watched.client.receive(stanza("message", ENVELOPE, sender))
    assert list(watched.seen[0].xml) == []
    assert [rejection.sender for rejection in watched.rejected] == [""]


async def test_nothing_is_watched_after_the_end(world: World) -> None:
    watched = Watched(world)
    manager: Any = watched.client.plugin
    manager.disable("xep_0420")
    seen: list[Any] = []
    path = MatchXPath(f"{{jabber:client}}message/{{{NAMESPACE}}}envelope")
    watched.client.register_handler(Callback("seen", path, seen.append))
    watched.client.receive(stanza("message", ENVELOPE))
    assert len(seen) == 1
    assert watched.rejected == []


async def test_the_feature_is_advertised_and_withdrawn(world: World) -> None:
    client = world.client("rosa")
    client.plug(eph_e2ee.XEP_0420)
    assert NAMESPACE not in await features(client)
    client.event("session_bind", client.boundjid)
    await settled()
    assert NAMESPACE in await features(client)
    manager: Any = client.plugin
    manager.disable("xep_0420")
    assert NAMESPACE not in await features(client)
