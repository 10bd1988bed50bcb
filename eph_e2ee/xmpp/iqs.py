"""IQs whose payload stands in an envelope (XEP-0420 section 6.2), as they go and come.

    <iq type='get' id='...' to='peter@example.org/phone'>
      <encrypted xmlns='urn:xmpp:omemo:2'>...</encrypted>
    </iq>

The payload is the one child of `<content>`. An answer that is an error has it there as well; its
stanza has type "error" and, since RFC 6120 section 8.3.1 demands one, an `<error/>` outside that is
always the same and says nothing. There is no XEP-0380 element: an IQ has one child.

Nothing that arrives raises into slixmpp, which would answer it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from xml.etree.ElementTree import Element

from omemo.types import DeviceInformation
from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Iq
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher.base import MatcherBase

from eph_e2ee.errors import (
    LocalProtocolError,
    NoAnswer,
    NoEligibleDevices,
    NotSent,
    Reason,
    Refusal,
    RemoteProtocolError,
)
from eph_e2ee.model import BareJid, DeviceId
from eph_e2ee.protocol import refusals
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.xmpp.omemo import XEP_0384
from eph_e2ee.xmpp.parcel import MODERN, OLD, Opened, encrypted_child, written
from eph_e2ee.xmpp.sce import XEP_0420
from eph_e2ee.xmpp.trust import TRUSTED, UNASKED

__all__ = ["ASKING", "MAXIMUM_OPEN", "IqArrival", "Iqs", "SealedIq"]

MAXIMUM_OPEN: Final = 256
"""Questions of ours that may wait for answers at once: more than any bot asks on purpose."""

MAXIMUM_ID: Final = 1024
"""Characters of a question's id, which its answer repeats inside and out."""

QUESTIONS: Final = "eph_e2ee: encrypted questions"
ANSWERS: Final = "eph_e2ee: answers to encrypted questions"
ENCRYPTED: Final = f"{{{MODERN}}}encrypted"

ASKING: Final = ("get", "set")
"""The types of questions; people may have to be asked before one leaves."""

NOTHING_SAID: Final = Refusal("undefined-condition", "cancel")
"""The error outside of an answer whose true error is encrypted."""


@dataclass(frozen=True, slots=True)
class IqArrival:
    """An IQ as it came.

    Attributes:
        header: what it says of itself in clear.
        sender: the bare JID that the server gave as its sender.
        stanza: the IQ.
    """

    header: IqHeader
    sender: BareJid
    stanza: Iq = field(repr=False)

    @property
    def is_encrypted(self) -> bool:
        """Whether there is something to decrypt."""
        return self.stanza.xml.find(ENCRYPTED) is not None

    @property
    def refusal(self) -> Refusal | None:
        """The error that stands outside of an envelope; None where there is none."""
        return refusals.read(self.stanza.xml)


@dataclass(frozen=True, slots=True)
class SealedIq:
    """What encrypting an IQ gave.

    Attributes:
        encrypted: the `<encrypted/>` element.
        devices: the recipient's devices that it was encrypted for.
    """

    encrypted: Element
    devices: frozenset[DeviceId]


Asked = Callable[[IqArrival], None]
Answer = asyncio.Future[IqArrival]


class Iqs:
    """Sends and receives encrypted IQs, and knows which answers are awaited."""

    def __init__(self, client: ClientXMPP, envelopes: XEP_0420, omemo: XEP_0384) -> None:
        self._client = client
        self._envelopes = envelopes
        self._omemo = omemo
        self._asked: Asked = lambda _: None
        self._open: dict[tuple[str, str], Answer] = {}

    def listen(self, asked: Asked) -> None:
        """Begin: `asked` gets every encrypted question."""
        self._asked = asked
        client = self._client
        client.register_handler(Callback(QUESTIONS, _Match(_is_question), self._question))
        client.register_handler(Callback(ANSWERS, _Match(self._awaited), self._answer))

    def stop(self) -> None:
        """Take the handlers away again; nobody answers any more what is still open."""
        self._client.remove_handler(QUESTIONS)
        self._client.remove_handler(ANSWERS)
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(NoAnswer("the chat was closed before an answer came"))

    # -- headers -------------------------------------------------------------------------------

    def question(self, jid: str, kind: str) -> IqHeader:
        """The header of a new question of ours.

        Raises:
            LocalProtocolError: it is no full JID, or our own.
        """
        address = _address(jid)
        if address is None or not address.resource:
            raise LocalProtocolError("ask a full JID: servers answer what is sent to a bare one")
        if address == self._client.boundjid:
            raise LocalProtocolError("ask somebody else: this is our own address")
        own = self._client.boundjid.full
        return IqHeader(kind, self._client.new_id(), own, address.full)

    def reply(self, arrival: IqArrival, kind: str) -> IqHeader:
        """The header of the answer to a question."""
        asked = arrival.header
        return IqHeader(kind, asked.iq_id, self._client.boundjid.full, asked.sender)

    # -- out -----------------------------------------------------------------------------------

    async def seal(
        self, header: IqHeader, content: Sequence[Element], device: DeviceId | None
    ) -> SealedIq:
        """Encrypt for one device of the recipient, or for all that read envelopes.

        Our own other devices get nothing: no IQ ever reaches them. An answer waits for nobody who
        would have to decide on a device. Only inside of an operation.

        Raises:
            LocalProtocolError: an element does not belong inside, or is too large.
            NoEligibleDevices: there is nobody to encrypt to.
            OMEMOException: as python-omemo's `encrypt` does.
        """
        recipient = BareJid(JID(header.recipient).bare)
        envelope = self._envelopes.build(content, to=recipient, header=header)
        asking = None if header.kind in ASKING else UNASKED
        with self._omemo.addressing(partial(_is_addressed, recipient, device)):
            sealed = await self._omemo.seal(frozenset({recipient}), {MODERN: envelope}, asking)
        for message in sealed.messages:
            if message.keys:
                devices = frozenset(DeviceId(key.device_id) for key, _ in message.keys)
                return SealedIq(written(message), devices)
        raise NoEligibleDevices(frozenset({recipient}))

    def send(self, header: IqHeader, sealed: SealedIq) -> None:
        """Hand a committed IQ to the stream."""
        iq = self._client.make_iq(id=header.iq_id, ito=JID(header.recipient))
        iq["type"] = header.kind
        iq.append(sealed.encrypted)
        if header.kind == "error":
            iq.append(refusals.write(NOTHING_SAID))
        # Not `Iq.send`, which would register a handler of its own for the answer.
        self._client.send(iq)

    def decline(self, arrival: IqArrival) -> None:
        """Answer as slixmpp answers what it knows nothing of, whatever is wrong with it (F42)."""
        _decline(arrival.stanza)

    def put_off(self, arrival: IqArrival) -> None:
        """Answer that we have too much to do; nothing was decrypted."""
        stanza: Any = arrival.stanza
        busy = stanza.reply()
        busy["type"] = "error"
        busy.append(refusals.write(Refusal("resource-constraint")))
        self._client.send(busy)

    @contextmanager
    def awaiting(self, header: IqHeader) -> Iterator[Answer]:
        """The first answer to a question, for the time of a block.

        Raises:
            NotSent: too many questions are open.
        """
        if len(self._open) >= MAXIMUM_OPEN:
            raise NotSent("too many questions are open: await some of their answers first")
        awaited = header.recipient, header.iq_id
        answer = self._open[awaited] = asyncio.get_running_loop().create_future()
        try:
            yield answer
        finally:
            del self._open[awaited]
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen, also where nobody waits for it any more

    # -- in ------------------------------------------------------------------------------------

    async def unseal(self, arrival: IqArrival) -> Opened:
        """Decrypt; only inside of an operation.

        Raises:
            RemoteProtocolError: it does not open.
        """
        if encrypted_child(arrival.stanza.xml, OLD) is not None:
            raise RemoteProtocolError(Reason.MALFORMED_OMEMO)  # legacy OMEMO has no envelope
        return await self._omemo.unseal(arrival.stanza.xml, arrival.sender)

    async def open(self, arrival: IqArrival, unsealed: Opened) -> tuple[Element, ...]:
        """The content of the verified envelope; only inside of an operation.

        A device that runs this library always writes the header of its IQs into the envelope.

        Raises:
            RemoteProtocolError: it breaks a rule, or its device is not trusted.
        """
        if unsealed.plaintext is None:
            raise RemoteProtocolError(Reason.NOT_AN_ENVELOPE)  # an empty message
        envelope = self._envelopes.open(
            unsealed.plaintext,
            sender=arrival.sender,
            to=BareJid(self._client.boundjid.bare),
            sent_at=None,
            header=arrival.header,
        )
        if envelope.affixes.header is None and self._omemo.facts(unsealed.device).marked:
            raise RemoteProtocolError(Reason.MISSING_AFFIX)
        await self._omemo.remember_reader(unsealed.device)
        if await self._omemo.sessions.standing(unsealed.device) not in TRUSTED:
            raise RemoteProtocolError(Reason.UNDECIDED)
        return envelope.content

    def _question(self, stanza: Any) -> None:
        arrival = self._arrival(stanza)
        if arrival is not None:
            self._asked(arrival)
        elif _address(stanza.xml.get("from", "")) is not None:
            _decline(stanza)  # without an id, or of no device: nobody that could be answered

    def _answer(self, stanza: Any) -> None:
        answer, arrival = self._awaited(stanza), self._arrival(stanza)
        if answer is not None and arrival is not None:
            answer.set_result(arrival)

    def _awaited(self, stanza: Iq) -> Answer | None:
        """Who waits for it: the first answer to a question, from the very JID that was asked."""
        sender = _address(stanza.xml.get("from", ""))
        if sender is None or stanza.xml.get("type") not in ("result", "error"):
            return None
        answer = self._open.get((sender.full, stanza.xml.get("id", "")))
        return None if answer is None or answer.done() else answer

    def _arrival(self, stanza: Iq) -> IqArrival | None:
        sender, iq_id = _address(stanza.xml.get("from", "")), stanza.xml.get("id", "")
        if sender is None or not sender.resource or not 0 < len(iq_id) <= MAXIMUM_ID:
            return None
        own, kind = self._client.boundjid.full, stanza.xml.get("type", "")
        return IqArrival(IqHeader(kind, iq_id, sender.full, own), BareJid(sender.bare), stanza)


class _Match(MatcherBase):
    """Matches an IQ by what a function says of it."""

    def match(self, xml: Any) -> bool:
        return isinstance(xml, Iq) and self._criteria(xml) not in (None, False)


def _is_question(stanza: Iq) -> bool:
    return stanza.xml.get("type") in ASKING and stanza.xml.find(ENCRYPTED) is not None


def _decline(stanza: Any) -> None:
    stanza.unhandled()


def _is_addressed(recipient: BareJid, device: DeviceId | None, found: DeviceInformation) -> bool:
    return found.bare_jid == recipient and device in (None, found.device_id)


def _address(jid: str) -> JID | None:
    """A JID; None for what is none, of which slixmpp would make an error, and for nothing."""
    try:
        return JID(jid) if jid else None
    except ValueError:  # slixmpp's InvalidJID is one
        return None
