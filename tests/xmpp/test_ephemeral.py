"""XEP-0466 on a client: advertised, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slixmpp import JID

import eph_e2ee
from tests.xmpp.test_startup import features, settled

if TYPE_CHECKING:
    from tests.xmpp.clients import World

NAMESPACE = "urn:xmpp:ephemeral:0"


async def test_the_feature_is_advertised_under_every_resource(world: World) -> None:
    """XEP-0466 section 2, F40: otherwise nobody knows that timers are honoured."""
    client = world.client("rosa")
    client.plug(eph_e2ee.XEP_0466)
    assert NAMESPACE not in await features(client)
    for resource in ("first", "second"):
        client.boundjid = JID(f"rosa@example.org/{resource}")
        client.event("session_bind", client.boundjid)
        await settled()
        assert NAMESPACE in await features(client)


async def test_the_feature_is_withdrawn_everywhere(world: World) -> None:
    """Timers are no longer honoured."""
    client = world.client("rosa")
    client.plug(eph_e2ee.XEP_0466)
    jids = [JID(f"rosa@example.org/{resource}") for resource in ("first", "second")]
    for jid in jids:
        client.boundjid = jid
        client.event("session_bind", jid)
        await settled()
    manager: Any = client.plugin
    manager.disable("xep_0466")
    for jid in jids:
        client.boundjid = jid
        assert NAMESPACE not in await features(client)


async def test_an_outer_element_means_nothing_to_it(world: World) -> None:
    """F31: no stanza interface, no event, no handler."""
    client = world.client("rosa")
    events: list[Any] = []
    client.plug(eph_e2ee.XEP_0466)
    client.add_event_handler("ephemeral_timer_changed", events.append)
    client.receive(
        "<message xmlns='jabber:client' from='peter@example.org/x'>"
        f"<body>text</body><ephemeral xmlns='{NAMESPACE}' timer='5'/></message>"
    )
    assert events == []
    assert client.sent == []
