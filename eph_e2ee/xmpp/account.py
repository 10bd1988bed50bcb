"""What the flows need of slixmpp and OMEMO, in the project's own words and errors."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Final, Self, TypeVar, cast
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
from slixmpp.stanza import Message
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath
from slixmpp.xmlstream.matcher.base import MatcherBase

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
from eph_e2ee.protocol.capability import Capability, assess
from eph_e2ee.protocol.envelope import Envelope
from eph_e2ee.xmpp.ephemeral import XEP_0466
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.omemo import XEP_0384, Sealed
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened, fingerprint, written
from eph_e2ee.xmpp.sce import XEP_0420
from eph_e2ee.xmpp.servertime import ServerTime
from eph_e2ee.xmpp.stanzas import RESULT, Arrival, archived, live, outer_message

__all__ = ["Account", "Client"]

Client = ClientXMPP

Value = TypeVar("Value")

STANZAS: Final = "eph_e2ee: encrypted messages"
ARCHIVE: Final = "eph_e2ee: results of the archive"


class Account:
    """One client of slixmpp with the three plugins, seen from the flows.

    Attributes:
        omemo: the running XEP-0384 plugin.
        server: asks the server for its time.
    """

    def __init__(self, client: Client, envelopes: XEP_0420, omemo: XEP_0384) -> None:
        self._client = client
        self._envelopes = envelopes
        self.omemo = omemo
        self.server = ServerTime(client, lambda: self.has_session)

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
        for plugin in (XEP_0420, XEP_0466, _VaultOmemo):
            register_plugin(plugin)
        client.register_plugin("xep_0420")
        client.register_plugin("xep_0466")
        client.register_plugin("xep_0384", {"storage": storage, "blind_trust": blind_trust})
        envelopes = cast("XEP_0420", client.plugin.get("xep_0420", None))
        envelopes.now = now
        return cls(client, envelopes, cast("XEP_0384", client.plugin.get("xep_0384", None)))

    async def detach(self) -> None:
        """Disable the plugins again, and wait until python-omemo's tasks have ended."""
        self.server.detach()
        for name in ("xep_0384", "xep_0466", "xep_0420"):
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

    def listen(self, accept: Callable[[Arrival], None]) -> None:
        """Give every encrypted message to `accept`, from the stream and from the archive."""

        def from_stream(stanza: Any) -> None:
            arrival = live(stanza, self.bare)
            if arrival is not None:
                accept(arrival)

        def from_archive(stanza: Any) -> None:
            arrival = archived(stanza, self.bare)
            if arrival is not None and _is_encrypted(arrival.xml):
                accept(arrival)

        self._client.register_handler(Callback(STANZAS, _Encrypted(None), from_stream))
        result = MatchXPath(f"{{jabber:client}}message/{RESULT}")
        self._client.register_handler(Callback(ARCHIVE, result, from_archive))

    def stop_listening(self) -> None:
        """Take the handlers away again."""
        self._client.remove_handler(STANZAS)
        self._client.remove_handler(ARCHIVE)

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
            plaintext, sender=arrival.sender, to=to, sent_at=arrival.sent_at
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
        operation: Callable[[], Awaitable[Value]],
        work: Callable[[Value], Callable[[Any], Any]],
    ) -> Pending[Value, Any]:
        """Do the same for something that arrived.

        Raises:
            RemoteProtocolError: it does not open, or its sender's device cannot be found.
            VaultError: the vault refused; nothing was stored.
        """
        try:
            return await self.omemo.gate.begin(operation, work)
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


class _Encrypted(MatcherBase):
    """Matches a message with an `<encrypted/>` of either namespace, once."""

    def match(self, xml: Any) -> bool:
        return isinstance(xml, Message) and _is_encrypted(xml.xml)


def _is_encrypted(xml: Element) -> bool:
    return any(xml.find(f"{{{namespace}}}encrypted") is not None for namespace in (MODERN, OLD))


def _not_sent(failure: omemo.OMEMOException) -> NotSent:
    if isinstance(failure, NobodyEligible):
        return NoEligibleDevices(failure.bare_jids)
    if isinstance(failure, StillUndecided | TrustDecisionFailed):
        return TrustUndecided("decide on the trust of the recipient's new devices, and send again")
    return NotSent(f"OMEMO could not encrypt ({type(failure).__name__}); send again later")
