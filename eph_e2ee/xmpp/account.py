"""What the flows need of slixmpp and OMEMO, in the project's own words and errors."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar, cast
from xml.etree.ElementTree import Element

import omemo
from omemo.session_manager import (
    NoEligibleDevices as NobodyEligible,
)
from omemo.session_manager import StillUndecided, TrustDecisionFailed
from omemo.storage import Storage
from omemo.types import DeviceInformation
from slixmpp import JID, ClientXMPP
from slixmpp.plugins.base import PluginManager, register_plugin

from eph_e2ee.errors import (
    LocalProtocolError,
    NoEligibleDevices,
    NotConnected,
    NotSent,
    Reason,
    RemoteProtocolError,
    TrustUndecided,
)
from eph_e2ee.model import BareJid, DeviceId, MessageId
from eph_e2ee.protocol.capability import Answer, Capability, assess
from eph_e2ee.protocol.envelope import Envelope
from eph_e2ee.xmpp.acks import Acks
from eph_e2ee.xmpp.archive import Archive
from eph_e2ee.xmpp.arrivals import Accept, Arrivals
from eph_e2ee.xmpp.displayed import Displayed
from eph_e2ee.xmpp.ephemeral import XEP_0466
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.iqs import Iqs
from eph_e2ee.xmpp.lifecycle import Lifecycle
from eph_e2ee.xmpp.omemo import XEP_0384
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened, fingerprint, written
from eph_e2ee.xmpp.sce import XEP_0420
from eph_e2ee.xmpp.sealing import Sealed
from eph_e2ee.xmpp.servertime import ServerTime
from eph_e2ee.xmpp.stanzas import Arrival, outer_message

__all__ = ["Account", "Client"]

Client = ClientXMPP

Value = TypeVar("Value")

NEIGHBOURS: Final = ("xep_0297", "xep_0280")
"""Plugins of slixmpp that are enabled where the application has not: carbons, and forwarding."""


class Told(Protocol):
    """Who hears what is said of messages, and keeps to itself whatever goes wrong."""

    async def bounced(self, sender: BareJid, message_id: MessageId) -> None:
        """A message of ours has come back as an error."""

    async def displayed(self, conversation: BareJid, archive_id: str) -> None:
        """A conversation was read elsewhere up to a message."""


class Account:
    """One client of slixmpp with the three plugins, seen from the flows.

    Attributes:
        omemo: the running XEP-0384 plugin.
        server: asks the server for its time.
        arrivals: where messages come from.
        archive: our own archive on the server.
        displayed: how far each conversation was read, on the server.
        acks: what the server has taken.
        iqs: encrypted questions and answers.
        lifecycle: when a session begins, and when a room is entered.
    """

    def __init__(
        self, client: Client, envelopes: XEP_0420, omemo: XEP_0384, added: Sequence[str]
    ) -> None:
        self._client = client
        self._envelopes = envelopes
        self._added = added
        self._detached = False
        self.omemo = omemo
        self.server = ServerTime(client, lambda: self.has_session)
        self.arrivals = Arrivals(client, lambda: self.bare)
        self.archive = Archive(client, self.arrivals, lambda: self.bare)
        self.displayed = Displayed(client, lambda: self.bare)
        self.acks = Acks(client)
        self.iqs = Iqs(client, envelopes, omemo)
        self.lifecycle = Lifecycle(client)
        self._telling: set[asyncio.Task[None]] = set()

    @classmethod
    def attached(
        cls, client: Client, storage: Storage, *, blind_trust: bool, now: Callable[[], float]
    ) -> Self:
        """Enable the three plugins on a client that has no XEP-0384 yet.

        Raises:
            LocalProtocolError: it has one; two would answer each message twice.
        """
        if "xep_0384" in client.plugin:
            raise LocalProtocolError("the client has an XEP-0384 plugin already: attach instead")
        added = [name for name in NEIGHBOURS if name not in client.plugin]
        for name in added:
            client.register_plugin(name)
        for plugin in (XEP_0420, XEP_0466, _VaultOmemo):
            register_plugin(plugin)
        client.register_plugin("xep_0420")
        client.register_plugin("xep_0466")
        client.register_plugin("xep_0384", {"storage": storage, "blind_trust": blind_trust})
        envelopes = cast("XEP_0420", client.plugin.get("xep_0420", None))
        envelopes.now = now
        encryption = cast("XEP_0384", client.plugin.get("xep_0384", None))
        return cls(client, envelopes, encryption, added)

    async def detach(self) -> None:
        """Disable the plugins again, and wait until python-omemo's tasks have ended.

        It can be called again.
        """
        if self._detached:
            return
        self._detached = True
        self.server.detach()
        self.acks.detach()
        self.lifecycle.detach()
        for name in ("xep_0384", "xep_0466", "xep_0420", *reversed(self._added)):
            if name in self._client.plugin:
                # slixmpp leaves this method without types.
                cast("PluginManager", self._client.plugin).disable(name)  # type: ignore[no-untyped-call]
        await self.omemo.ended()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task on the client's own event loop, which need not run yet."""
        return cast("asyncio.Task[None]", self._client.loop.create_task(coroutine))

    @property
    def bare(self) -> BareJid:
        """Our own bare JID."""
        return BareJid(self._client.boundjid.bare)

    @property
    def servers(self) -> tuple[BareJid, BareJid]:
        """Who speaks for our own server: its host, and our account."""
        return BareJid(self._client.boundjid.domain), self.bare

    @property
    def device(self) -> DeviceId:
        """Our own OMEMO device id; 0 before OMEMO has started."""
        return self.omemo.own_device

    def new_id(self) -> MessageId:
        """An id for a message of ours."""
        return MessageId(self._client.new_id())

    def emit(self, name: str, value: object) -> None:
        """Raise an event in slixmpp's manner; what its handlers raise stays with slixmpp."""
        self._client.event(name, value)

    # -- in ------------------------------------------------------------------------------------

    def listen(self, accept: Accept, told: Told) -> None:
        """Give what arrives to `accept`, and what others say of messages to `told`."""

        def bounced(sender: BareJid, message_id: MessageId) -> None:
            self._told_of(told.bounced(sender, message_id))

        def displayed(conversation: BareJid, archive_id: str) -> None:
            self._told_of(told.displayed(conversation, archive_id))

        self.arrivals.listen(accept, bounced)
        self.displayed.listen(displayed)

    def stop_listening(self) -> None:
        """Take the handlers away again, and end what they have begun."""
        self.arrivals.stop()
        self.displayed.stop()
        for task in self._telling:
            task.cancel()

    def _told_of(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.start(coroutine)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def fingerprint(self, arrival: Arrival) -> str | None:
        """What no second message shares: the ratchet's own text for this device; None if none."""
        return fingerprint(arrival.xml, self.bare, self.device)

    async def unseal(self, arrival: Arrival) -> Opened:
        """Decrypt; only inside of an operation.

        Raises:
            RemoteProtocolError: it does not open.
        """
        return await self.omemo.unseal(arrival.xml, arrival.sender)

    def open(self, plaintext: bytes, *, arrival: Arrival, to: BareJid) -> Envelope:
        """The verified envelope in a decrypted payload.

        Raises:
            RemoteProtocolError: it breaks a rule.
        """
        return self._envelopes.open(
            plaintext,
            sender=arrival.sender,
            to=to,
            sent_at=arrival.sent_at,
            group=arrival.room is not None,
        )

    # -- out -----------------------------------------------------------------------------------

    @property
    def has_session(self) -> bool:
        """Whether a stanza can be handed over."""
        # slixmpp does not set `bound` again when stream management resumes a session.
        bound = self._client.bound or "stream_management" in self._client.features
        return self._client.is_connected() and bool(bound)

    def check_session(self) -> None:
        """Refuse to encrypt what could not be handed over.

        Raises:
            NotConnected: there is no session with the server.
        """
        if not self.has_session:
            raise NotConnected("no session with the server: send after `session_start`")

    async def prepare(self, recipient: BareJid, *, again: bool = False) -> None:
        """Have OMEMO running and the recipient's device lists at hand.

        With `again` the server is asked for them, and for our own, whatever it has sent us.

        Raises:
            NotSent: the server did not answer.
        """
        try:
            await self.omemo.get_session_manager()
            await self.omemo.refresh_device_lists({JID(recipient)}, force_download=again)
            if again:
                await self.omemo.sessions.refresh_device_lists(self.bare)
        except omemo.OMEMOException as failure:
            raise _not_sent(failure) from None

    async def begin(
        self,
        operation: Callable[[], Awaitable[Value]],
        work: Callable[[Value], Callable[[Any], Any]],
    ) -> Pending[Value, Any]:
        """Run an operation alone and queue its commit with `work`: see `gate.Gate.begin`.

        Raises:
            NotSent: OMEMO could not do it; nothing was stored.
        """
        try:
            return await self.omemo.gate.begin(operation, work)
        except omemo.OMEMOException as failure:
            raise _not_sent(failure) from None

    async def begin_reading(
        self,
        operations: Sequence[Callable[[], Awaitable[Value]]],
        work: Callable[[list[Value | RemoteProtocolError]], Callable[[Any], Any]],
    ) -> Pending[list[Value | RemoteProtocolError], Any]:
        """Do the same for what arrived, as far as no download is needed: `gate.Gate.begin_many`.

        Raises:
            RemoteProtocolError: the sender's device of the first one cannot be found.
            VaultError: the vault refused; nothing was stored.
        """
        try:
            return await self.omemo.gate.begin_many(operations, work)
        except omemo.OMEMOException:
            reason = Reason.UNKNOWN_SENDER
        raise RemoteProtocolError(reason)

    def build(self, content: list[Element], *, to: BareJid) -> bytes:
        """An envelope around the content.

        Raises:
            LocalProtocolError: an element does not belong inside, or all are too large.
        """
        return self._envelopes.build(content, to=to)

    async def seal(self, recipient: BareJid, envelope: bytes, body: str | None) -> Sealed:
        """Encrypt an envelope for every device that reads envelopes, a body for the others.

        Without a body the others get nothing. Only inside of an operation.
        """
        plaintexts = {MODERN: envelope} if body is None else {MODERN: envelope, OLD: body.encode()}
        return await self.omemo.seal(frozenset({recipient}), plaintexts)

    async def seal_if_read(self, recipient: BareJid, envelope: bytes) -> Sealed:
        """Do the same for what only concerns devices that read envelopes; there may be none."""
        recipients = frozenset({recipient})
        try:
            return await self.seal(recipient, envelope, None)
        except NobodyEligible:
            legacy = await self.omemo.legacy_devices(recipients)
            if not legacy:
                raise
            return Sealed((), frozenset(), legacy)

    def send(
        self, recipient: BareJid, message_id: MessageId, sealed: Sealed, clear: Element | None
    ) -> None:
        """Hand a committed message to the stream, each namespace in a stanza of its own.

        An unpatched slixmpp-omemo looks no further than an omemo:2 element that is not for it. The
        envelope goes first: whoever reads that knows the second stanza by its id. `clear` stands
        beside legacy OMEMO alone.
        """
        for message in sorted(sealed.messages, key=lambda message: message.namespace != MODERN):
            stanza = outer_message(self._client, recipient, message_id, written(message))
            if message.namespace == OLD and clear is not None:
                stanza.append(clear)
            stanza.send()

    async def has_readers(self, jid: BareJid) -> bool:
        """Whether an account has devices that read envelopes; of our own, others than this one.

        Raises:
            NotSent: OMEMO does not run, or the server did not answer.
        """
        return any(
            capability.reads_sce is Answer.YES and device != self.device
            for device, capability in (await self.capabilities(jid)).items()
        )

    async def capabilities(self, jid: BareJid) -> dict[DeviceId, Capability]:
        """What each device of an account can read and do, as far as it is known.

        Raises:
            NotSent: the server did not answer.
        """
        await self.prepare(jid)
        try:
            devices: frozenset[
                DeviceInformation
            ] = await self.omemo.sessions.get_device_information(jid)
        except omemo.OMEMOException as failure:
            raise _not_sent(failure) from None
        return {DeviceId(device.device_id): assess(self.omemo.facts(device)) for device in devices}


class _VaultOmemo(XEP_0384):
    """The plugin as `attach` configures it: its storage is the vault's."""

    default_config: ClassVar[dict[str, Any]] = {
        **XEP_0384.default_config,
        "storage": None,
        "blind_trust": True,
    }

    @property
    def storage(self) -> Storage:
        """The ratchets of the vault."""
        return cast("Storage", self.config["storage"])

    @property
    def _btbv_enabled(self) -> bool:
        return bool(self.config["blind_trust"])

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        """Decide nothing: the send ends with `TrustUndecided`, and the application decides."""


def _not_sent(failure: omemo.OMEMOException) -> NotSent:
    if isinstance(failure, NobodyEligible):
        return NoEligibleDevices(failure.bare_jids)
    if isinstance(failure, StillUndecided | TrustDecisionFailed):
        return TrustUndecided("decide on the trust of the recipient's new devices, and send again")
    return NotSent(f"OMEMO could not encrypt ({type(failure).__name__}); send again later")
