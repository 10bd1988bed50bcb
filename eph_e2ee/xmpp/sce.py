"""XEP-0420, Stanza Content Encryption, as a plugin of slixmpp with OMEMO's profile."""

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

from slixmpp import JID
from slixmpp.plugins.base import BasePlugin
from slixmpp.stanza import Iq, Message
from slixmpp.xmlstream import StanzaBase

from eph_e2ee.errors import Reason
from eph_e2ee.events import Rejection
from eph_e2ee.model import BareJid, MessageId
from eph_e2ee.protocol import envelope
from eph_e2ee.protocol.envelope import Envelope, Expected
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.xmpp.features import Features
from eph_e2ee.xmpp.stanzas import bare, remove_children

__all__ = ["XEP_0420"]


class XEP_0420(BasePlugin):  # noqa: N801 -- slixmpp's way to name plugins
    """Builds envelopes, opens them, and drops those that nobody encrypted.

    Configuration:
        margin: how far an envelope's time may lie from the time of sending.
        strict_time: reject an envelope outside of the margin instead of reporting it.

    Events: `ephemeral_rejected` with a `events.Rejection` for an unencrypted envelope.
    """

    name = "xep_0420"
    description = "XEP-0420: Stanza Content Encryption"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0115"}
    default_config: ClassVar[dict[str, Any]] = {
        "margin": timedelta(hours=1),
        "strict_time": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now: Callable[[], float] = time.time
        self._features = Features(self.xmpp, envelope.NAMESPACE)

    def plugin_init(self) -> None:
        """Watch every stanza for an envelope outside of encryption."""
        self.xmpp.add_filter("in", self._drop_unencrypted)

    def plugin_end(self) -> None:
        """Stop watching, and advertise no more."""
        self.xmpp.del_filter("in", self._drop_unencrypted)
        self._features.withdraw()

    def session_bind(self, jid: JID) -> None:
        """Advertise the feature for the resource that was bound."""
        self._features.advertise(jid)

    def build(
        self, content: Sequence[Element], *, to: BareJid, header: IqHeader | None = None
    ) -> bytes:
        """An envelope from this account, as UTF-8: `from`, `to`, the time and fresh padding.

        For an IQ its header goes with them.

        Raises:
            LocalProtocolError: an element does not belong inside, or all are too large.
        """
        return envelope.build(
            content,
            sender=BareJid(self.xmpp.boundjid.bare),
            to=to,
            time=datetime.fromtimestamp(self.now(), UTC),
            random=secrets.token_bytes,
            header=header,
        )

    def open(
        self,
        plaintext: bytes,
        *,
        sender: BareJid,
        to: BareJid,
        sent_at: datetime | None,
        group: bool = False,
        header: IqHeader | None = None,
    ) -> Envelope:
        """The envelope in a decrypted payload, verified against what OMEMO and the stanza say.

        `sender` is the bare JID that OMEMO authenticated, `to` the one that the envelope has to
        name, `sent_at` the time of sending that the stanza tells, None for just now, `group`
        whether it came through a room, `header` that of the IQ that it came in. Nobody waits for an
        IQ as long as the margin is: one whose time is wrong is never accepted.

        Raises:
            RemoteProtocolError: it breaks a rule.
        """
        opened = envelope.read(plaintext)
        found = envelope.verify(
            opened,
            Expected(
                sender=sender,
                recipients=frozenset({to}),
                group=group,
                sent_at=sent_at or datetime.fromtimestamp(self.now(), UTC),
                margin=self.config["margin"],
                strict_time=self.config["strict_time"] or header is not None,
                normalise=bare,
                header=header,
            ),
        )
        return Envelope(opened.content, opened.affixes, opened.findings + found)

    def _drop_unencrypted(self, stanza: StanzaBase) -> StanzaBase:
        """XEP-0420 section 5: an unencrypted envelope MUST be dropped.

        The stanza is emptied, not swallowed: XEP-0198 counts it in a filter of its own.
        """
        if not isinstance(stanza, Message | Iq):
            return stanza
        if stanza.xml.find(f"{{{envelope.NAMESPACE}}}envelope") is None:
            return stanza
        remove_children(stanza.xml)
        self.xmpp.event(
            "ephemeral_rejected",
            Rejection(
                Reason.UNENCRYPTED_ENVELOPE,
                _sender(stanza.xml),
                MessageId(stanza.xml.get("id", "")),
            ),
        )
        # slixmpp has made something of the children already.
        return type(stanza)(stream=stanza.stream, xml=stanza.xml)


def _sender(stanza: Element) -> BareJid:
    """Who is named as its sender; empty where nobody is: a filter that raises ends the stream."""
    try:
        return bare(stanza.get("from", ""))
    except ValueError:
        return BareJid("")
