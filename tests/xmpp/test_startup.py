"""OMEMO's life on a client: started, tried again, ended without a trace."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import omemo
import pytest
from omemo.session_manager import BundleUploadFailed
from slixmpp import JID
from slixmpp.plugins.xep_0380.eme import XEP_0380

import eph_e2ee
from eph_e2ee.protocol.capability import LABEL_MARKER
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.xmpp import startup
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.proofs import READS_ENVELOPES
from eph_e2ee.xmpp.startup import FIRST_RETRY, LONGEST_RETRY, RETRY
from tests.support.client import SECONDS
from tests.xmpp.clients import Kept, OurPlugin, World
from tests.xmpp.test_account import Silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from eph_e2ee.vault.vault import Vault
    from tests.xmpp.clients import TestClient

BUNDLES = "urn:xmpp:omemo:2:bundles"
DEVICES = "urn:xmpp:omemo:2:devices"
NOTIFY = {f"{DEVICES}+notify", "eu.siacs.conversations.axolotl.devicelist+notify"}
PETER = JID("peter@example.org")


class Schedule:
    """slixmpp's schedule, which a test runs when it likes."""

    def __init__(self, client: TestClient) -> None:
        self.waiting: dict[str, tuple[int, Callable[[], None]]] = {}
        watched: Any = client
        watched.schedule = self.add
        watched.cancel_schedule = lambda name: self.waiting.pop(name, None)
        watched.scheduled_events = self.waiting

    def add(self, name: str, seconds: int, callback: Callable[..., None], **_: Any) -> None:
        assert name not in self.waiting
        self.waiting[name] = seconds, callback

    def run(self) -> int:
        """Do what is next; after how many seconds it was to be."""
        seconds, callback = self.waiting.pop(RETRY)
        callback()
        return seconds


async def settled() -> None:
    """Let everything go on that waits for nothing."""
    for _ in range(200):
        await asyncio.sleep(0)


async def features(client: TestClient) -> set[str]:
    disco: Any = client.plugin["xep_0030"]
    info = await disco.get_info(jid=client.boundjid, local=True)
    return set(info["features"])


def alive() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_failed_start_is_told_to_everybody_who_waits(world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    world.failing = {BUNDLES}
    outcomes = await asyncio.gather(
        *(plugin.get_session_manager() for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [BundleUploadFailed] * 3


async def test_a_failed_start_is_tried_again_at_the_next_use(world: World) -> None:
    """slixmpp-omemo keeps the failure for ever."""
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    world.failing = {BUNDLES}
    with pytest.raises(omemo.OMEMOException):
        await plugin.get_session_manager()
    world.failing = set()
    sessions = await plugin.get_session_manager()
    assert sessions is await plugin.get_session_manager() is plugin.sessions
    own, _ = await sessions.get_own_device_information()
    assert set(world.items["rosa@example.org", BUNDLES]) == {str(own.device_id)}


async def test_a_failed_start_is_tried_again_by_itself(world: World) -> None:
    """After 5 s, then ever later, up to 5 min; and from the beginning after a success."""
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    schedule = Schedule(client)
    world.failing = {BUNDLES}
    client.event("session_bind", client.boundjid)
    delays = []
    for _ in range(9):
        await settled()
        delays.append(schedule.run())
    assert delays == [5, 10, 20, 40, 80, 160, LONGEST_RETRY, LONGEST_RETRY, LONGEST_RETRY]
    waiting = asyncio.create_task(plugin.running())
    await settled()
    assert not waiting.done()
    world.failing = set()
    schedule.run()
    async with asyncio.timeout(SECONDS):
        await waiting
    assert RETRY not in schedule.waiting
    assert plugin._retry_after == FIRST_RETRY


async def test_a_failed_start_leaves_no_task(world: World) -> None:
    """python-omemo begins to rotate keys before what it made is published."""
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    Schedule(client)
    before = alive()
    world.failing = {BUNDLES}
    for _ in range(3):
        with pytest.raises(omemo.OMEMOException):
            await plugin.get_session_manager()
    await settled()
    assert alive() <= before


async def test_a_start_that_is_cancelled_leaves_no_task(world: World) -> None:
    client = world.client("rosa")
    before = alive()
    plugin = client.plug(OurPlugin)
    client.event("session_bind", client.boundjid)
    while not world.items:  # noqa: ASYNC110 -- there is nothing to wait for but a state
        await asyncio.sleep(0)
    manager: Any = client.plugin
    manager.disable("xep_0384")
    await plugin.ended()
    await settled()
    assert alive() <= before


async def test_cancelling_one_who_waits_cancels_nothing_else(world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    one, other = (asyncio.create_task(plugin.get_session_manager()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    async with asyncio.timeout(SECONDS):
        assert await other is plugin.sessions
    assert one.cancelled()


async def test_before_the_start_there_is_nothing_to_use(world: World) -> None:
    plugin = world.client("rosa").plug(OurPlugin)
    with pytest.raises(omemo.OMEMOException, match="get_session_manager"):
        _ = plugin.sessions
    assert plugin.own_device == 0


async def test_after_the_end_nothing_starts_again(world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    manager: Any = client.plugin
    manager.disable("xep_0384")
    await plugin.ended()
    before = alive()
    with pytest.raises(omemo.OMEMOException):
        await plugin.get_session_manager()
    assert alive() <= before


async def traces(client: TestClient) -> dict[str, Any]:
    """Everything that a plugin can leave behind."""
    kept: Any = client
    events = kept._XMLStream__event_handlers
    pubsub: Any = client.plugin["xep_0060"]
    return {
        "events": {name: list(handlers) for name, handlers in events.items() if handlers},
        "handlers": [handler.name for handler in kept._XMLStream__handlers],
        "filters": {name: list(each) for name, each in kept._XMLStream__filters.items()},
        "schedule": set(client.scheduled_events),
        "nodes": dict(pubsub.node_event_map),
        "features": await features(client),
        "tasks": alive(),
        "plugins": set(client.plugin),
    }


@pytest.mark.parametrize("failing", [set(), {BUNDLES}], ids=["started", "not started"])
async def test_the_end_leaves_everything_as_it_was(
    failing: set[str],
    world: World,
    vault: Vault,
) -> None:
    """STYLE 13: handlers, filters, features, nodes, tasks and schedule."""
    client = world.client("rosa")
    for name in (eph_e2ee.XEP_0384.dependencies | {"xep_0045"}) - {"xep_0420"}:
        client.register_plugin(name)
    client.event("session_bind", client.boundjid)
    await settled()
    before = await traces(client)
    account = Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 0.0)
    account.listen(lambda _: None, Silent())
    world.failing = failing
    client.event("session_bind", client.boundjid)
    async with asyncio.timeout(SECONDS):
        while not (RETRY in client.scheduled_events or account.omemo._running.is_set()):  # noqa: ASYNC110 -- no event tells of it
            await asyncio.sleep(0)
    assert account.omemo._running.is_set() is not bool(failing)
    during = await traces(client)
    assert all(during[name] != before[name] for name in ("events", "handlers", "features"))
    account.stop_listening()
    await account.detach()
    await settled()
    after = await traces(client)
    assert after.pop("tasks") <= before.pop("tasks")
    assert after == before


async def test_a_client_with_omemo_is_not_attached_to(world: World, vault: Vault) -> None:
    client = world.client("rosa")
    client.plug(OurPlugin)
    with pytest.raises(eph_e2ee.LocalProtocolError):
        Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 0.0)
    assert type(client.plugin.get("xep_0384", None)) is OurPlugin


async def test_lists_are_asked_for_under_every_resource(world: World) -> None:
    """F46: what is advertised before the server has given a resource is lost."""
    client = world.client("rosa")
    client.plug(OurPlugin)
    for resource in ("first", "second"):
        client.boundjid = JID(f"rosa@example.org/{resource}")
        client.event("session_bind", client.boundjid)
        await settled()
        assert await features(client) >= NOTIFY


async def test_the_label_says_that_we_read_envelopes(world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    own, _ = await plugin.sessions.get_own_device_information()
    assert own.label == LABEL_MARKER
    (published,) = world.items["rosa@example.org", DEVICES].values()
    assert published[0].get("label") == LABEL_MARKER
    assert plugin.own_device == own.device_id


async def test_a_label_of_the_users_is_kept(world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    await plugin.sessions.set_own_label("on the balcony")
    await plugin._introduce(plugin.sessions)
    own, _ = await plugin.sessions.get_own_device_information()
    assert own.label == "on the balcony"


async def test_the_namespace_has_a_name(world: World) -> None:
    """XEP-0380's table in slixmpp does not know omemo:2."""
    world.client("rosa").plug(OurPlugin)
    assert XEP_0380.mechanisms[MODERN] == "OMEMO"


async def test_a_burst_asks_for_a_device_list_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()

    def asked() -> int:
        return sum(account == PETER.bare for account, _ in world.requests)

    await asyncio.gather(*(plugin.refresh_device_lists({PETER}) for _ in range(10)))
    assert asked() == 4  # to subscribe and to download, in each namespace
    await plugin.refresh_device_lists({PETER})
    assert asked() == 4
    await plugin.refresh_device_lists({PETER}, force_download=True)
    assert asked() == 6
    monkeypatch.setattr(startup, "FRESH", -1)
    await plugin.refresh_device_lists({PETER})
    assert asked() == 6  # it is subscribed to: news would have come
    assert plugin.kept.values[f"/slixmpp/subscribed/{PETER.bare}/{MODERN}"] is True


async def test_a_refused_subscription_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    world.failing = {DEVICES}
    await plugin.refresh_device_lists({PETER})
    assert f"/slixmpp/subscribed/{PETER.bare}/{MODERN}" not in plugin.kept.values
    world.failing = set()
    monkeypatch.setattr(startup, "FRESH", -1)
    await plugin.refresh_device_lists({PETER})
    assert plugin.kept.values[f"/slixmpp/subscribed/{PETER.bare}/{MODERN}"] is True


UPDATE = (
    "<message xmlns='jabber:client' from='peter@example.org' to='rosa@example.org'>"
    "<event xmlns='http://jabber.org/protocol/pubsub#event'>"
    f"<items node='{DEVICES}'><item id='current'>{{}}</item></items></event></message>"
)


@pytest.mark.parametrize(
    ("item", "devices"),
    [
        ("<devices xmlns='urn:xmpp:omemo:2'><device id='7'/></devices>", [7]),
        ("<devices xmlns='urn:xmpp:omemo:2'/>", []),
        ("<devices xmlns='urn:xmpp:omemo:2'><device id='sentinel'/></devices>", None),
        ("<sentinel xmlns='urn:xmpp:omemo:2'/>", None),
        ("", None),
    ],
)
async def test_others_lists_are_taken_in_or_left(
    item: str, devices: list[int] | None, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """F42, F10: what others publish raises nothing, answers nothing and is quoted nowhere."""
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    client.client_roster.add(PETER.bare, ato=True)
    failures: list[Exception] = []
    client.exception = failures.append  # type: ignore[method-assign]
    client.receive(UPDATE.format(item))
    await settled()
    assert plugin.kept.values.get("/devices/peter@example.org/list") == (devices or None)
    assert failures == []
    assert client.sent == []
    assert "sentinel" not in caplog.text


async def test_a_reader_of_envelopes_is_remembered(world: World) -> None:
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    for namespace in (MODERN, OLD):
        await plugin.sessions.update_device_list(namespace, PETER.bare, {7: None})
    device = omemo.DeviceInformation(
        namespaces=frozenset({MODERN, OLD}),
        active=frozenset({(MODERN, True), (OLD, True)}),
        bare_jid=PETER.bare,
        device_id=7,
        identity_key=bytes(32),
        trust_level_name="TRUSTED",
        label=None,
    )
    assert plugin.namespaces(device) == {OLD}
    assert plugin.namespaces(device._replace(label=LABEL_MARKER)) == {MODERN}
    assert plugin.namespaces(device._replace(active=frozenset({(MODERN, True)}))) == {MODERN}
    for _ in range(2):
        await plugin.gate.run(lambda: plugin.remember_reader(device))
    assert plugin.namespaces(device) == {MODERN}
    assert plugin.kept.values[READS_ENVELOPES] == [f"{PETER.bare} 7"]
    again = world.client("rosa").plug(OurPlugin)
    again.kept = plugin.kept
    await again.get_session_manager()
    assert again.namespaces(device) == {MODERN}


async def test_a_start_waits_for_no_application(world: World) -> None:
    """A storage that gathers nothing needs no commit."""
    client = world.client("rosa")
    plugin = client.plug(OurPlugin)
    await client.bind()
    assert isinstance(plugin.kept, Kept)
    assert "/own_device_id" in plugin.kept.values
