"""What the flows need of slixmpp and OMEMO, in the project's own words and errors."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast
from xml.etree.ElementTree import Element

import omemo
from omemo.session_manager import NoEligibleDevices as NobodyEligible
from omemo.storage import Storage
from slixmpp import JID, ClientXMPP

from eph_e2ee.errors import LocalProtocolError, NotConnected, Reason, RemoteProtocolError
from eph_e2ee.model import BareJid, DeviceId, MessageId, Untrusted
from eph_e2ee.protocol.envelope import Envelope
from eph_e2ee.xmpp.acks import Acks
from eph_e2ee.xmpp.archive import Archive
from eph_e2ee.xmpp.arrivals import Accept, Arrivals
from eph_e2ee.xmpp.deciding import Decide
from eph_e2ee.xmpp.devices import Devices
from eph_e2ee.xmpp.displayed import Displayed
from eph_e2ee.xmpp.ephemeral import XEP_0466
from eph_e2ee.xmpp.failures import not_sent
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.honouring import Honouring
from eph_e2ee.xmpp.iqs import Iqs
from eph_e2ee.xmpp.lifecycle import Lifecycle
from eph_e2ee.xmpp.members import Audience, Members
from eph_e2ee.xmpp.omemo import XEP_0384
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened, fingerprint, sending_device, written
from eph_e2ee.xmpp.registry import registered
from eph_e2ee.xmpp.sce import XEP_0420
from eph_e2ee.xmpp.sealing import Sealed
from eph_e2ee.xmpp.servertime import ServerTime
from eph_e2ee.xmpp.stanzas import Arrival, address, outer_message
from eph_e2ee.xmpp.trust import UNASKED
from eph_e2ee.xmpp.vault_omemo import VaultOmemo

if TYPE_CHECKING:
    from slixmpp.plugins.base import PluginManager

__all__ = ["Account", "Audience", "Client"]

Client = ClientXMPP

Value = TypeVar("Value")

NEIGHBOURS: Final = ("xep_0297", "xep_0280", "xep_0466")
"""Plugins that are enabled where the application has not: carbons, forwarding, timers."""


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
        devices: what is known of the devices of accounts.
        server: asks the server for its time.
        arrivals: where messages come from.
        archive: our own archive on the server.
        displayed: how far each conversation was read, on the server.
        acks: what the server has taken.
        iqs: encrypted questions and answers.
        lifecycle: when a session begins, and when a room is entered.
        members: who belongs to the rooms that the application has joined.
        honouring: whose devices honour timers.
        on_unreachable: called with each account whose keys could not be asked for.
    """

    def __init__(
        self, client: Client, envelopes: XEP_0420, omemo: XEP_0384, added: Sequence[str]
    ) -> None:
        self._client = client
        self._envelopes = envelopes
        self._added = added
        self._detached = False
        self.omemo = omemo
        self.honouring = Honouring(client, omemo)
        self.devices = Devices(omemo, self.honouring)
        self.server = ServerTime(client, lambda: self.has_session)
        self.members = Members(client)
        self.arrivals = Arrivals(client, lambda: self.bare, self.members)
        self.archive = Archive(client, self.arrivals, lambda: self.bare)
        self.displayed = Displayed(client, lambda: self.bare)
        self.acks = Acks(client)
        self.iqs = Iqs(client, envelopes, omemo)
        self.lifecycle = Lifecycle(client)
        self.on_unreachable: Callable[[BareJid], None] = lambda _: None
        self._telling: set[asyncio.Task[None]] = set()

    @classmethod
    def attached(
        cls,
        client: Client,
        storage: Storage,
        *,
        blind_trust: bool,
        now: Callable[[], float],
        decide: Decide | None = None,
        untrusted: Untrusted = Untrusted.DELIVER,
    ) -> Self:
        """Enable the three plugins on a client that has no XEP-0384 yet.

        Args:
            client: of slixmpp.
            storage: where OMEMO keeps its keys.
            blind_trust: whether devices are trusted blindly before anybody decides.
            now: the time by which envelopes are checked, in seconds since the epoch.
            decide: has people decide on devices; None decides nothing.
            untrusted: what becomes of messages from devices that are not trusted.

        Raises:
            LocalProtocolError: it has one; two would answer each message twice.
        """
        if "xep_0384" in client.plugin:
            raise LocalProtocolError(
                "the client has a chat already, or an XEP-0384 plugin of its own"
            )
        added = [name for name in NEIGHBOURS if name not in client.plugin]
        trust = {"blind_trust": blind_trust, "decide": decide, "untrusted": untrusted}
        with registered(XEP_0420, XEP_0466, VaultOmemo):
            for name in (*added, "xep_0420"):
                client.register_plugin(name)
            cast("XEP_0466", client.plugin.get("xep_0466", None)).encrypting = True
            client.register_plugin("xep_0384", {"storage": storage, **trust})
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
        self.members.detach()
        timers: Any = self._client.plugin.get("xep_0466", None)
        if timers is not None:
            timers.encrypting = False
        for name in ("xep_0384", "xep_0420", *reversed(self._added)):
            if name in self._client.plugin:
                # slixmpp leaves this method without types.
                cast("PluginManager", self._client.plugin).disable(name)  # type: ignore[no-untyped-call]
        await self.omemo.ended()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task on the client's own event loop, which need not run yet."""
        return cast("asyncio.Task[None]", self._client.loop.create_task(coroutine))

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call something on the client's own event loop, some seconds from now."""
        return self._client.loop.call_later(seconds, call)

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
            RemoteProtocolError: it does not open; `UNREACHABLE`: it may, another time.
        """
        sender = arrival.sender
        self.omemo.sessions.spare()
        try:
            return await self.omemo.unseal(arrival.xml, sender)
        except RemoteProtocolError as error:
            missed = self.omemo.sessions.missed(sender, sending_device(arrival.xml))
            if error.reason is not Reason.UNKNOWN_SENDER or not missed:
                raise
        self.on_unreachable(sender)
        raise RemoteProtocolError(Reason.UNREACHABLE)

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

    def conversation(self, jid: str) -> BareJid:
        """The conversation that a JID stands for.

        Raises:
            LocalProtocolError: it is empty, or an occupant's of a room: private messages there have
                no OMEMO.
            ValueError: it is no JID.
        """
        peer = address(jid)
        if JID(jid).resource and self.members.is_room(peer):
            raise LocalProtocolError(
                "there are no private messages through a room: send to the member's own JID"
            )
        return peer

    async def audience(self, conversation: BareJid) -> Audience:
        """Whom a message is for, with OMEMO running and the device lists of all at hand.

        Raises:
            NotSent: the server or the room did not answer.
            RoomUnsuitable: nothing can be encrypted for that room.
        """
        if self.members.is_room(conversation):
            audience = await self.members.audience(conversation)
        else:
            audience = Audience(conversation, frozenset({conversation}))
        await self.devices.prepare(audience.jids)
        return audience

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
            raise not_sent(failure) from None

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

    async def seal(
        self, audience: Audience, envelope: bytes, body: str | None, *, asking: bool = True
    ) -> Sealed:
        """Encrypt an envelope for every device that reads envelopes, a body for the others.

        Without a body the others get nothing. Only inside of an operation. Without `asking` nobody
        is asked to decide on devices, and nothing waits. In a room a member whose server has not
        answered a moment ago is left out, and keeps nobody waiting for every message.
        """
        if audience.room:
            self.omemo.sessions.spare()
        plaintexts = {MODERN: envelope} if body is None else {MODERN: envelope, OLD: body.encode()}
        identifier = None if asking else UNASKED
        return await self.omemo.seal(self.members.still(audience), plaintexts, identifier)

    async def seal_if_read(
        self, audience: Audience, envelope: bytes, *, asking: bool = True
    ) -> Sealed:
        """Do the same for what only concerns devices that read envelopes; there may be none."""
        try:
            return await self.seal(audience, envelope, None, asking=asking)
        except NobodyEligible:
            legacy = await self.omemo.legacy_devices(audience.jids)
            if not legacy:
                raise
            return Sealed(without_envelope=legacy)

    def send(
        self, audience: Audience, message_id: MessageId, sealed: Sealed, clear: Element | None
    ) -> None:
        """Hand a committed message to the stream, in one stanza, or in two of one id.

        The envelope goes first: whoever reads that knows the second stanza by its id. `clear`
        stands where there is something in legacy OMEMO. Where there is nothing else, a body says
        so: applications on slixmpp-omemo do not hear of a stanza without one.
        """
        whole_legacy = all(message.namespace == OLD for message in sealed.messages)
        for messages in sealed.stanzas:
            stanza = outer_message(
                self._client,
                audience.conversation,
                message_id,
                [written(message) for message in messages],
                group=audience.room,
            )
            if clear is not None and any(message.namespace == OLD for message in messages):
                stanza.append(clear)
            if whole_legacy:
                stanza["body"] = self.omemo.fallback_message
            stanza.send()
