"""XEP-0384, OMEMO Encryption: slixmpp-omemo's plugin, now with omemo:2 and without its losses."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any, ClassVar, Self
from xml.etree.ElementTree import Element

from omemo.session_manager import EncryptionError
from omemo.types import DeviceInformation
from slixmpp import JID
from slixmpp.stanza import Message
from slixmpp_omemo import TrustLevel

from eph_e2ee.errors import Cause, LocalProtocolError, Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.protocol.envelope import is_server_processed
from eph_e2ee.xmpp.answering import Answering
from eph_e2ee.xmpp.bodiless import Bodiless
from eph_e2ee.xmpp.encrypting import NoEligibleDevices
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.naming import Named, initial_values
from eph_e2ee.xmpp.outdated import Encrypted, recipients_of, require_members, require_message
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened, encrypted_child, written
from eph_e2ee.xmpp.parting import BODY, Parting
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.reflections import Reflections
from eph_e2ee.xmpp.refusals import NotEncrypted, refused
from eph_e2ee.xmpp.sealing import Sealed
from eph_e2ee.xmpp.sessions import Sessions
from eph_e2ee.xmpp.stanzas import live, remove_children

__all__ = ["XEP_0384", "TrustLevel"]


class XEP_0384(Answering, metaclass=Named):  # noqa: N801 -- takes the other's place
    """OMEMO with envelopes, for the one line that changes in an application on slixmpp-omemo 2.2.

    The abstract members, the signatures and the events are those of slixmpp-omemo 2.2. Beyond them:
    messages of omemo:2 are read and written (XEP-0420), operations run one at a time, what a
    storage gathers is committed before anything leaves, and a failed start is tried again.

    slixmpp raises `message` and `groupchat_message` for stanzas with a body. Encrypted messages to
    this device that have none, as those of omemo:2, are given the fallback body as they arrive.
    Copies (XEP-0280) and archives (XEP-0313) are the application's own to look into, as before.

    Raises:
        OutdatedCall: the class, or a call, is made as for another version of slixmpp-omemo; it is a
            LocalProtocolError and a TypeError.
        TakenName: the class has attributes of its own whose names are this one's; it is both, too.
    """

    adopted: ClassVar[bool] = True
    """Whether an application reads the stanzas itself, and not a `Chat`."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Say what an application's class has to define before Python only names it."""
        require_members(cls.__abstractmethods__)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reflections = Reflections(lambda: self.xmpp.loop)
        self._bodiless = Bodiless(
            self.xmpp, lambda: self.own_device, self._reflections, lambda: self._fallback
        )
        self._parting = Parting(self.xmpp, lambda: self._fallback)
        self._initialised = False
        self.initial_values = initial_values(self)

    def plugin_init(self) -> None:
        """Register what slixmpp-omemo registers, and look at what comes and goes; once."""
        if self._initialised:
            return
        self._initialised = True
        self._load_needed()
        super().plugin_init()
        if self.adopted:
            self._bodiless.start()
            self._parting.start()

    def plugin_end(self) -> None:
        """Leave slixmpp as it was before, and end every task."""
        super().plugin_end()
        if self.adopted:
            self._bodiless.stop()
            self._parting.stop()
        self._reflections.forget()

    def session_bind(self, jid: JID) -> None:
        """Ask for device lists under the resource that was bound, and start OMEMO."""
        if self._initialised:
            self._bound(jid)
        else:
            # slixmpp tells of a session that has begun before it initialises a plugin; and there
            # many an application makes its storage.
            self.xmpp.loop.call_soon(self._bound, jid)

    def _bound(self, jid: JID) -> None:
        if not self._ended:
            self._load_needed()
            super().session_bind(jid)

    async def _start(self) -> Sessions:
        # Who makes the plugin by hand, and puts it among slixmpp's, initialises nothing. Peers
        # believe our label all the same, and send envelopes.
        XEP_0384.plugin_init(self)
        return await super()._start()

    def _load_needed(self) -> None:
        """Load the plugins that this one needs, whichever a class of the application's names."""
        for name in sorted(XEP_0384.dependencies):
            if name not in self.xmpp.plugin:
                self.xmpp.register_plugin(name)

    # -- slixmpp-omemo's interface -------------------------------------------------------------

    async def encrypt_message(
        self,
        stanza: Message,
        recipient_jids: JID | set[JID],
        identifier: str | None = None,
    ) -> tuple[Message | None, frozenset[EncryptionError]]:
        """Encrypt a stanza for every device of its recipients, each in what it can read.

        Devices that read envelopes get all of the stanza's children but those that servers
        process; legacy devices get the body. A fallback body stands only where everybody is
        addressed in legacy OMEMO. A stanza without a body is only for devices that read envelopes.

        The stanza returned leaves as two where it has elements of both kinds and one of the
        devices may be slixmpp-omemo's, which would not find its own: send it with `send()` of its
        own or of the client, and not as text.

        Returns:
            The stanza to send, or None where there is nothing to encrypt; and the devices that
            were left out, as slixmpp-omemo gives them.

        Raises:
            ValueError: no recipient, or a stanza without a stream that gives ids.
            OutdatedCall: something else than a stanza, or than JIDs.
            LocalProtocolError: what the stanza holds fits into no envelope, and it has no body, or
                a recipient has no device in legacy OMEMO's list.
            OMEMOException: as python-omemo's `encrypt`; nothing is sent in clear instead.
        """
        require_message(stanza)
        recipients = recipients_of(recipient_jids)
        if stanza.stream is None or not getattr(stanza.stream, "use_message_ids", False):
            raise ValueError("the stanza needs a stream with message ids")
        await self.get_session_manager()
        await self.refresh_device_lists(recipients)
        plaintexts, unfit = self._plaintexts(stanza)
        accounts = frozenset(BareJid(jid.bare) for jid in recipients)
        if OLD not in plaintexts:
            accounts = await self._reading(accounts)
        if not plaintexts or not accounts:
            return None, frozenset()
        try:
            sealed = await self.gate.run(
                lambda: self.seal(accounts, plaintexts, identifier, strict=True)
            )
        except NoEligibleDevices as failure:
            if OLD not in plaintexts:
                return None, frozenset()
            if unfit is not None and Cause.LEGACY in failure.causes:
                raise unfit from None
            raise
        encrypted = self._stanza(stanza, sealed)
        if stanza["type"] == "groupchat":
            self._reflections.remember(encrypted.xml, plaintexts)
        return encrypted, sealed.errors | _unreached(sealed, unfit)

    async def decrypt_message(self, stanza: Message) -> tuple[Message, DeviceInformation]:
        """Decrypt a stanza; the original is not changed.

        Returns:
            For omemo:2 a stanza whose children are those of the envelope, which replace everything
            that stood outside of it; for legacy OMEMO the stanza with its body replaced. And the
            sending device.

        Raises:
            RemoteProtocolError: it does not open, or its envelope breaks a rule. It is an instance
                of what slixmpp-omemo would have raised as well: see `refusals`.
            ValueError: a group chat without XEP-0045.
            OutdatedCall: something else than a stanza.
        """
        require_message(stanza)
        try:
            return await self._decrypted(stanza)
        except RemoteProtocolError as error:
            kind, reason = type(error), error.reason
        # A new one, and raised out here: no cause or context holds anything of the message.
        raise refused(reason) if kind is RemoteProtocolError else kind(reason)

    async def _decrypted(self, stanza: Message) -> tuple[Message, DeviceInformation]:
        if not any(_has_one(stanza, namespace) for namespace in (MODERN, OLD)):
            raise NotEncrypted
        sender, to, group = self._ends(stanza)
        await self.get_session_manager()
        arrival = None if group else live(stanza, BareJid(self.xmpp.boundjid.bare))
        sent_at = None if arrival is None else arrival.sent_at

        def read(plaintext: bytes) -> tuple[Element, ...]:
            opened = self._envelopes.open(
                plaintext, sender=sender, to=to, group=group, sent_at=sent_at
            )
            return opened.content

        opened = await self._reflected(stanza, sender) if group else None
        if opened is None:
            pending = await self.gate.begin(lambda: self._unsealed(stanza.xml, sender, read))
            await _stored(pending)
            await _published(pending)
            opened = pending.value
        decrypted = type(stanza)(stream=stanza.stream, xml=deepcopy(stanza.xml))
        if opened.namespace == OLD:
            self._replace_body(decrypted, opened)
            return decrypted, opened.device
        remove_children(decrypted.xml)
        if opened.plaintext is not None:
            decrypted.xml.extend(read(opened.plaintext))
        return decrypted, opened.device

    async def _unsealed(
        self, stanza: Element, sender: BareJid, read: Callable[[bytes], tuple[Element, ...]]
    ) -> Opened:
        """Decrypt, and note what that shows of the device, in one operation.

        An envelope that breaks a rule has spent its key as well.
        """
        opened = await self.unseal(stanza, sender)
        if opened.namespace == MODERN and opened.plaintext is not None:
            with suppress(RemoteProtocolError):
                await self.remember_reader(opened.device, read(opened.plaintext))
        return opened

    async def _reflected(self, stanza: Message, sender: BareJid) -> Opened | None:
        """What a room sends back of ours: nobody encrypts for the sending device."""
        if sender != self.xmpp.boundjid.bare:
            return None
        remembered = self._reflections.take(stanza.xml)
        if remembered is None:
            return None
        own, _ = await self.sessions.get_own_device_information()
        return Opened(*remembered, own)

    # -- what is encrypted ---------------------------------------------------------------------

    def _plaintexts(self, stanza: Message) -> tuple[dict[str, bytes], LocalProtocolError | None]:
        """What to encrypt in each namespace; and why not in omemo:2, where only the body can be."""
        body = stanza.get("body", None)
        content = [
            child
            for child in stanza.xml
            if not is_server_processed(child) and (child.tag != BODY or child.text)
        ]
        if not content:
            return {}, None
        old: dict[str, bytes] = {}
        if body is not None:
            with suppress(UnicodeEncodeError):  # half a character is no text anywhere
                old[OLD] = body.encode()
        try:
            envelope = self._envelopes.build(content, to=BareJid(stanza["to"].bare))
        except LocalProtocolError as error:
            if not old:
                raise
            return old, error
        return {MODERN: envelope, **old}, None

    async def _reading(self, accounts: frozenset[BareJid]) -> frozenset[BareJid]:
        """The accounts that have a device that reads envelopes."""
        return frozenset(
            [
                account
                for account in accounts
                for device in await self.sessions.get_device_information(account)
                if MODERN in self.namespaces(device)
            ]
        )

    def _stanza(self, stanza: Message, sealed: Sealed) -> Encrypted:
        # slixmpp leaves the constructor without types.
        encrypted = Encrypted(stream=stanza.stream, xml=deepcopy(stanza.xml))  # type: ignore[no-untyped-call]
        encrypted.clear()
        encrypted.parted = sealed.apart
        for message in sealed.messages:
            encrypted.append(written(message))
            encrypted["eme"]["namespace"] = message.namespace
            encrypted["eme"]["name"] = "OMEMO"
        if all(message.namespace == OLD for message in sealed.messages):
            encrypted["body"] = self.fallback_message
        encrypted.enable("store")
        return encrypted

    @property
    def _fallback(self) -> str:
        """The body that makes slixmpp, and applications, look at a stanza: never an empty one."""
        configured = getattr(self, "fallback_message", None)
        return str(configured or XEP_0384.default_config["fallback_message"])

    # -- what is decrypted ---------------------------------------------------------------------

    def _ends(self, stanza: Message) -> tuple[BareJid, BareJid, bool]:
        """Who sent it, who its envelope has to name, and whether it came through a room."""
        if stanza["type"] != "groupchat":
            to = stanza["to"].bare or self.xmpp.boundjid.bare
            return BareJid(stanza["from"].bare), BareJid(to), False
        rooms = self.xmpp.plugin.get("xep_0045", None)
        if rooms is None:
            raise ValueError("a group chat's message cannot be read without XEP-0045")
        room = BareJid(stanza["from"].bare)
        real = rooms.get_jid_property(JID(room), stanza["from"].resource, "jid")
        if real is None:
            raise RemoteProtocolError(Reason.UNKNOWN_SENDER)
        return BareJid(JID(real).bare), room, True

    def _replace_body(self, stanza: Message, opened: Opened) -> None:
        del stanza["body"]
        for namespace in (MODERN, OLD):
            for element in stanza.xml.findall(f"{{{namespace}}}encrypted"):
                stanza.xml.remove(element)
        if opened.plaintext is None:
            return
        try:
            stanza["body"] = opened.plaintext.decode()
        except UnicodeDecodeError:
            malformed = True
        else:
            malformed = False
        if malformed:
            raise RemoteProtocolError(Reason.MALFORMED_BODY)


@contained
async def _stored(pending: Pending[Opened, Any]) -> None:
    """Write what a message has changed; it is open whatever comes of it, and opens only once.

    What the storage refuses is written with the next message, which does not leave before.
    """
    await pending.finish()


@contained
async def _published(pending: Pending[Opened, Any]) -> None:
    """Upload our new bundle after a key exchange; the message is open whatever comes of it."""
    await pending.publish()


def _unreached(sealed: Sealed, unfit: LocalProtocolError | None) -> frozenset[EncryptionError]:
    """The devices that would have needed an envelope, where there is none."""
    if unfit is None:
        return frozenset()
    return frozenset(
        # python-omemo's type knows of keys alone that could not be had.
        EncryptionError(MODERN, each.jid, each.device, unfit)  # type: ignore[arg-type]
        for each in sealed.left_out
        if each.device is not None and each.cause is Cause.LEGACY
    )


def _has_one(stanza: Message, namespace: str) -> bool:
    try:
        return encrypted_child(stanza.xml, namespace) is not None
    except RemoteProtocolError:
        several = True
    if several:
        raise NotEncrypted
    return False
