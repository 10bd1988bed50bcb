"""OMEMO's life on a client: started at bind, tried again after a failure, ended without a trace."""

import asyncio
import logging
from abc import ABCMeta
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

import omemo
import slixmpp_omemo
from slixmpp import JID
from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.plugins.base import register_plugin
from slixmpp.plugins.xep_0380.eme import XEP_0380
from slixmpp.stanza import Message
from slixmpp_omemo import TrustLevel
from slixmpp_omemo.xep_0384 import (
    OLDMEMO_DEVICE_LIST_NODE,
    TWOMEMO_DEVICE_LIST_NODE,
    _make_session_manager,
)

from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.protocol.capability import LABEL_MARKER
from eph_e2ee.xmpp import published
from eph_e2ee.xmpp.features import Features
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.lists import Lists
from eph_e2ee.xmpp.migrating import take_over
from eph_e2ee.xmpp.nodes import Nodes, several_devices
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.redaction import contained, withhold
from eph_e2ee.xmpp.routing import Routing
from eph_e2ee.xmpp.sce import XEP_0420
from eph_e2ee.xmpp.screening import screened
from eph_e2ee.xmpp.sessions import Legacy, Modern, Sessions

__all__ = ["Startup"]

log = logging.getLogger("eph_e2ee")

DEVICE_LIST_NODES = (TWOMEMO_DEVICE_LIST_NODE, OLDMEMO_DEVICE_LIST_NODE)

NODES = {MODERN: TWOMEMO_DEVICE_LIST_NODE, OLD: OLDMEMO_DEVICE_LIST_NODE}

GONE = tuple(
    f"{name}_device_list_{what}"
    for name in ("twomemo", "oldmemo")
    for what in ("delete", "purge", "retract")
)
"""slixmpp's events for a list whose node or item is removed, by the names of slixmpp-omemo."""

FRESH = 60
"""Seconds for which a device list that nobody sends us updates of is good enough."""

RETRY = "eph_e2ee: start OMEMO again"
FIRST_RETRY, LONGEST_RETRY = 5, 300
"""Seconds until the first attempt after a failed start, doubled up to the longest."""


class Startup(Routing, metaclass=ABCMeta):
    """The part of the plugin that owns tasks, handlers and features."""

    dependencies: ClassVar[set[str]] = slixmpp_omemo.XEP_0384.dependencies | {
        "xep_0115",
        "xep_0380",
        "xep_0420",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # slixmpp looks for the plugins that this one needs right after making it.
        register_plugin(XEP_0420)
        self._features = Features(
            self.xmpp,
            *(f"{node}+notify" for node in (TWOMEMO_DEVICE_LIST_NODE, OLDMEMO_DEVICE_LIST_NODE)),
        )
        self._gate: Gate | None = None
        self._sessions: Sessions | None = None
        self._running = asyncio.Event()
        self._starting: asyncio.Task[Sessions] | None = None
        self._shutdown: asyncio.Task[None] | None = None
        self._asked: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._retry_after = FIRST_RETRY
        self._lists = Lists()
        self._hearing = asyncio.Lock()
        self._own_device = 0
        self._archives = 0
        self._ended = False

    # -- the plugin's life ---------------------------------------------------------------------

    def plugin_init(self) -> None:
        """Register what slixmpp-omemo registers, and keep the neighbours' logs clean."""
        withhold()
        XEP_0380.mechanisms.setdefault(MODERN, "OMEMO")
        self.xmpp.add_filter("in", screened)
        super().plugin_init()
        for event in GONE:
            self.xmpp.add_event_handler(event, self._on_device_list_gone)

    def plugin_end(self) -> None:
        """Leave slixmpp as it was before, and end every task."""
        self._ended = True
        super().plugin_end()
        self.xmpp.del_filter("in", screened)
        self.xmpp.del_event_handler("changed_subscription", self._on_subscription_changed)
        for event in GONE:
            self.xmpp.del_event_handler(event, self._on_device_list_gone)
        self.xmpp.cancel_schedule(RETRY)
        for node in DEVICE_LIST_NODES:
            self.xmpp.plugin["xep_0030"].del_feature(feature=f"{node}+notify")
            self.xmpp.plugin["xep_0060"].node_event_map.pop(node, None)
        self._features.withdraw()
        for task in (self._starting, *(task for _, task in self._asked.values())):
            if task is not None:
                task.cancel()
        if self._sessions is not None:
            self._shutdown = asyncio.ensure_future(self._sessions.shutdown())
            self._sessions = None

    def session_bind(self, jid: JID) -> None:
        """Ask for device lists under the resource that was bound, and start OMEMO."""
        self._asked.clear()
        self.gate.downloads.clear()  # what could not be had may have been our own stream's fault
        self._features.advertise(jid)
        self._start_soon()

    async def ended(self) -> None:
        """Wait, after the plugin's end, until nothing of it runs any more."""
        tasks = [task for task in (self._starting, self._shutdown) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get_session_manager(self) -> Sessions:
        """The session manager, started when it is not yet; a failed start is tried again.

        Canceling it is safe: the start goes on.

        Raises:
            OMEMOException: the server could not be asked, or did not take our keys; or the plugin
                has ended.
            VaultError: the vault could not be read or written.
        """
        if self._sessions is not None:
            return self._sessions
        if self._ended:
            raise omemo.OMEMOException("OMEMO has ended with its plugin")
        return await asyncio.shield(self._attempt())

    async def running(self) -> None:
        """Return once OMEMO runs, however many attempts that takes. Canceling it is safe."""
        self._start_soon()
        await self._running.wait()

    def _start_soon(self) -> None:
        if self._sessions is None and not self._ended:
            self._attempt()

    def _attempt(self) -> asyncio.Task[Sessions]:
        # One that has just failed may not have had its callback yet.
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._start())
            self._starting.add_done_callback(self._started)
        return self._starting

    def _started(self, task: asyncio.Task[Sessions]) -> None:
        if self._starting is task:
            self._starting = None
        if task.cancelled() or self._ended:
            return
        if task.exception() is None:
            self._retry_after = FIRST_RETRY
            self._running.set()
            self.xmpp.event("omemo_initialized")
            return
        if RETRY not in self.xmpp.scheduled_events:
            self.xmpp.schedule(RETRY, self._retry_after, self._start_soon)
        self._retry_after = min(2 * self._retry_after, LONGEST_RETRY)

    async def _start(self) -> Sessions:
        gate, legacy = self.gate, self.legacy_storage
        storage = gate.storage
        if legacy is not None:
            await take_over(legacy, gate, self.xmpp.plugin["xep_0060"])
        backends: list[Modern | Legacy] = [Modern(storage), Legacy(storage)]
        for backend in backends:
            backend.gate = gate
        made = self._session_manager_class(gate, backends)
        pending = await gate.begin(
            lambda: made.create(
                list(backends),
                storage,
                self.xmpp.boundjid.bare,
                initial_own_label=LABEL_MARKER,
                undecided_trust_level_name=TrustLevel.UNDECIDED.value,
            )
        )
        sessions = pending.value
        try:
            await pending.finish()
            await pending.publish()
            await sessions.ensure_data_consistency()
            await sessions.after_history_sync()
            await self._introduce(sessions)
        except BaseException:
            await sessions.shutdown()  # python-omemo's task, which rotates keys, runs already
            raise
        self._sessions = sessions
        return sessions

    def _session_manager_class(self, gate: Gate, backends: list[Modern | Legacy]) -> type[Sessions]:
        client: Any = published.CheckedClient(self.xmpp)
        network = several_devices(_make_session_manager(client, self), Nodes(self.xmpp))
        made = type(
            "SessionManager",
            (Sessions, network),
            {
                "gate": gate,
                "backends": {backend.namespace: backend for backend in backends},
                "router": self,
                "upkeep": self,
                "own_bare_jid": self.xmpp.boundjid.bare,
                "network": network,
            },
        )
        return cast("type[Sessions]", made)

    async def _introduce(self, sessions: Sessions) -> None:
        """Learn our own device id, who reads envelopes, and tell others that we do (a label)."""
        own, _ = await sessions.get_own_device_information()
        self._own_device = own.device_id
        for proofs in (self._readers, self._timekeepers):
            await proofs.load(self.gate.storage)
        if own.label is None:
            await sessions.set_own_label(LABEL_MARKER)

    @asynccontextmanager
    async def history_sync(self) -> AsyncIterator[None]:
        """Have OMEMO know that an archive is being read: it answers nobody before the end.

        Several may be read at once.
        """
        self._archives += 1
        self.sessions.before_history_sync()
        try:
            yield
        finally:
            self._archives -= 1
            if not self._archives and self._sessions is not None:
                await self._synchronised(self._sessions)

    async def _synchronised(self, sessions: Sessions) -> None:
        async def end() -> None:
            if not self._archives:  # else another has begun meanwhile: it ends both
                await sessions.after_history_sync()

        try:
            await self.gate.run(end)
        except omemo.OMEMOException as failure:  # an answer that could not be sent
            log.warning("OMEMO could not answer yet: %s", type(failure).__name__)

    # -- device lists --------------------------------------------------------------------------

    async def refresh_device_lists(self, jids: set[JID], force_download: bool = False) -> None:  # noqa: FBT001, FBT002 -- slixmpp-omemo's signature
        """Have the device lists of accounts at hand, as slixmpp-omemo does; a burst asks once.

        Raises:
            OMEMOException: the server could not be asked.
        """
        await self.get_session_manager()
        now = self.xmpp.loop.time()
        for bare in {jid.bare for jid in jids}:
            asked = self._asked.get(bare)
            if asked is None or force_download or (asked[1].done() and now - asked[0] > FRESH):
                refresh = self._refresh(JID(bare), force=force_download)
                asked = self._asked[bare] = now, asyncio.ensure_future(refresh)
            try:
                await asyncio.shield(asked[1])
            except BaseException:
                if asked[1].done():  # else it goes on; whoever waited for it has given up
                    self._asked.pop(bare, None)
                raise

    def may_refresh(self, jid: BareJid, patience: float, *, again: bool) -> bool:
        """Tell whether asking for an account's device lists may bring something soon.

        Not if they are at hand, unless they are wanted `again`; nor if somebody has waited for them
        for so many seconds already.
        """
        asked = self._asked.get(jid)
        if asked is None:
            return True
        age = self.xmpp.loop.time() - asked[0]
        return again or age > FRESH if asked[1].done() else age < patience

    async def _subscribe(self, namespace: str, jid: JID) -> None:
        """Ask for updates of a list; a refusal is remembered by `FRESH` alone."""
        await self._change_subscription(namespace, jid, wanted=True)

    async def _unsubscribe(self, namespace: str, jid: JID) -> None:
        await self._change_subscription(namespace, jid, wanted=False)

    async def _change_subscription(self, namespace: str, jid: JID, *, wanted: bool) -> None:
        pubsub = self.xmpp.plugin["xep_0060"]
        change = pubsub.subscribe if wanted else pubsub.unsubscribe
        try:
            await change(JID(jid.bare), NODES[namespace])
        except (IqError, IqTimeout):
            if wanted:
                return
        # slixmpp-omemo stores it outside of any operation, where the next one that has to start
        # again would discard it.
        key = f"/slixmpp/subscribed/{jid.bare}/{namespace}"
        await self.gate.run(lambda: self.gate.storage.store(key, wanted))

    async def _refresh(self, jid: JID, *, force: bool) -> None:
        """Refresh as slixmpp-omemo does, and a friend's lists if they are in doubt: see `Lists`."""
        roster, storage = self.xmpp.client_roster, self.gate.storage
        if not force and roster.has_jid(jid) and roster[jid]["subscription"] == "both":
            force = await self._lists.are_doubtful(jid.bare, storage)
        await super().refresh_device_lists({jid}, force)
        if force:
            await self._lists.settle(jid.bare, storage)

    # -- what others publish -------------------------------------------------------------------

    @contained
    async def _on_device_list_update(self, msg: Message) -> None:
        if await self._is_heard(msg["from"]):
            await super()._on_device_list_update(msg)

    @contained
    async def _on_device_list_gone(self, msg: Message) -> None:
        """Ask for a list that was removed: who removes one often publishes another (QXmpp)."""
        if await self._is_heard(msg["from"]):
            sessions = await self.get_session_manager()
            await sessions.refresh_device_lists(msg["from"].bare)

    async def _is_heard(self, sender: JID) -> bool:
        """Tell whether lists that come by themselves are taken in: not those of strangers.

        Anybody can send them; they are kept for ever, and keys are fetched for them. A stranger's
        lists are asked for when they are needed. One after the other, so that none overtakes.
        """
        jid, roster, storage = JID(sender.bare), self.xmpp.client_roster, self.gate.storage
        async with self._hearing:
            if jid == self.xmpp.boundjid.bare:
                return True
            if roster.has_jid(jid) and roster[jid]["subscription"] in ("to", "both"):
                return True
            if not (await storage.load_list(f"/devices/{jid}/list", int)).is_nothing:
                return True
            keys = (f"/slixmpp/subscribed/{jid}/{namespace}" for namespace in NODES)
            known = [await storage.load_primitive(key, bool) for key in keys]
            return not all(each.is_nothing for each in known)

    @contained
    async def _on_subscription_changed(self, presence: Any) -> None:
        await super()._on_subscription_changed(presence)

    @property
    def gate(self) -> Gate:
        """The lock of this account's sessions."""
        if self._gate is None:
            self._gate = Gate(self.storage)
        return self._gate

    @property
    def sessions(self) -> Sessions:
        """The running session manager; await `get_session_manager` first, outside of the gate.

        Raises:
            OMEMOException: OMEMO has not started.
        """
        if self._sessions is None:
            raise omemo.OMEMOException("OMEMO has not started: await get_session_manager() first")
        return self._sessions

    @property
    def own_device(self) -> DeviceId:
        """Our own device id; 0 before OMEMO has started."""
        return DeviceId(self._own_device)
