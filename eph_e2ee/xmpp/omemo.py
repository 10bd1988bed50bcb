"""XEP-0384, OMEMO Encryption: slixmpp-omemo's plugin, now with omemo:2 and without its losses."""

from abc import ABCMeta
from copy import copy

from omemo.session_manager import EncryptionError
from omemo.types import DeviceInformation
from slixmpp import JID
from slixmpp.stanza import Message

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.protocol.envelope import is_server_processed
from eph_e2ee.xmpp.answering import Answering
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened, written
from eph_e2ee.xmpp.sealing import Sealed
from eph_e2ee.xmpp.stanzas import live, remove_children

__all__ = ["XEP_0384"]


class XEP_0384(Answering, metaclass=ABCMeta):  # noqa: N801 -- takes the other's place
    """OMEMO with envelopes, for the one line that changes in an application on slixmpp-omemo 2.2.

    The abstract members, the signatures and the events are those of slixmpp-omemo 2.2. Beyond them:
    messages of omemo:2 are read and written (XEP-0420), operations run one at a time, what a
    storage gathers is committed before anything leaves, and a failed start is tried again.
    """

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
        addressed in legacy OMEMO. A group chat is encrypted in legacy OMEMO alone.

        Returns:
            The stanza to send, or None where there is nothing to encrypt; and the devices that
            were left out, as slixmpp-omemo gives them.

        Raises:
            ValueError: no recipient, or a stanza without a stream that gives ids.
            OMEMOException: as python-omemo's `encrypt`; nothing is sent in clear instead.
        """
        if stanza["type"] == "groupchat":
            return await super().encrypt_message(stanza, recipient_jids, identifier)
        recipients = {recipient_jids} if isinstance(recipient_jids, JID) else set(recipient_jids)
        if not recipients:
            raise ValueError("at least one recipient is needed")
        if stanza.stream is None or not getattr(stanza.stream, "use_message_ids", False):
            raise ValueError("the stanza needs a stream with message ids")
        await self.get_session_manager()
        await self.refresh_device_lists(recipients)
        plaintexts = self._plaintexts(stanza)
        if not plaintexts:
            return None, frozenset()
        bare = frozenset(BareJid(jid.bare) for jid in recipients)
        sealed = await self.gate.run(lambda: self.seal(bare, plaintexts, identifier, strict=True))
        return self._sealed_stanza(stanza, sealed), sealed.errors

    async def decrypt_message(self, stanza: Message) -> tuple[Message, DeviceInformation]:
        """Decrypt a stanza; the original is not changed.

        Returns:
            For omemo:2 a stanza whose children are those of the envelope, which replace everything
            that stood outside of it; for legacy OMEMO the stanza with its body replaced. And the
            sending device.

        Raises:
            RemoteProtocolError: it does not open, or its envelope breaks a rule.
            ValueError: a group chat without XEP-0045.
        """
        sender, to, group = self._ends(stanza)
        await self.get_session_manager()
        try:
            unsealed = await self.gate.run(lambda: self.unseal(stanza.xml, sender))
        except RemoteProtocolError as error:
            if not group or error.reason is not Reason.NOT_FOR_THIS_DEVICE:
                raise
            unsealed = await self._reflected(stanza)
        decrypted = copy(stanza)
        if unsealed.namespace == OLD:
            self._replace_body(decrypted, unsealed)
            return decrypted, unsealed.device
        remove_children(decrypted.xml)
        decrypted = type(stanza)(stream=stanza.stream, xml=decrypted.xml)
        if unsealed.plaintext is None:
            return decrypted, unsealed.device
        arrival = None if group else live(stanza, BareJid(self.xmpp.boundjid.bare))
        envelope = self._envelopes.open(
            unsealed.plaintext,
            sender=sender,
            to=to,
            group=group,
            sent_at=None if arrival is None else arrival.sent_at,
        )
        content = envelope.content
        await self.gate.run(lambda: self.remember_reader(unsealed.device, content))
        for element in envelope.content:
            decrypted.xml.append(element)
        return decrypted, unsealed.device

    async def _reflected(self, stanza: Message) -> Opened:
        """What a room sends back of ours: nobody encrypts for the sending device.

        Raises:
            RemoteProtocolError: it is not one that slixmpp-omemo has remembered.
        """
        # slixmpp-omemo's class has this one's name, and so its private attributes.
        remembered = self.__muc_reflection_cache.pop(stanza["id"], {})
        if OLD not in remembered:
            raise RemoteProtocolError(Reason.NOT_FOR_THIS_DEVICE)
        own, _ = await self.sessions.get_own_device_information()
        return Opened(OLD, remembered[OLD], own)

    def _plaintexts(self, stanza: Message) -> dict[str, bytes]:
        content = [child for child in stanza.xml if not is_server_processed(child)]
        if not content:
            return {}
        to = BareJid(stanza["to"].bare)
        plaintexts = {MODERN: self._envelopes.build(content, to=to)}
        body = stanza.xml.findtext("{jabber:client}body")
        if body is not None:
            plaintexts[OLD] = body.encode()
        return plaintexts

    def _sealed_stanza(self, stanza: Message, sealed: Sealed) -> Message:
        encrypted = copy(stanza)
        encrypted.clear()
        for message in sealed.messages:
            encrypted.append(written(message))
            encrypted["eme"]["namespace"] = message.namespace
            encrypted["eme"]["name"] = "OMEMO"
        if all(message.namespace == OLD for message in sealed.messages):
            encrypted["body"] = self.fallback_message
        encrypted.enable("store")
        return encrypted

    def _ends(self, stanza: Message) -> tuple[BareJid, BareJid, bool]:
        """Who sent it, who its envelope has to name, and whether it came through a room."""
        if stanza["type"] != "groupchat":
            return BareJid(stanza["from"].bare), BareJid(stanza["to"].bare), False
        rooms = self.xmpp.plugin.get("xep_0045", None)
        if rooms is None:
            raise ValueError("a group chat's message cannot be read without XEP-0045")
        room = BareJid(stanza["from"].bare)
        real = rooms.get_jid_property(JID(room), stanza["from"].resource, "jid")
        if real is None:
            raise RemoteProtocolError(Reason.UNKNOWN_SENDER)
        return BareJid(JID(real).bare), room, True

    def _replace_body(self, stanza: Message, unsealed: Opened) -> None:
        del stanza["body"]
        for namespace in (MODERN, OLD):
            for element in stanza.xml.findall(f"{{{namespace}}}encrypted"):
                stanza.xml.remove(element)
        if unsealed.plaintext is None:
            return
        try:
            stanza["body"] = unsealed.plaintext.decode()
        except UnicodeDecodeError:
            malformed = True
        else:
            malformed = False
        if malformed:
            raise RemoteProtocolError(Reason.MALFORMED_BODY)
