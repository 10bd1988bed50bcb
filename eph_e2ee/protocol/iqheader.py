"""What ties an envelope to the IQ that it was made for.

    <iq xmlns='eph-e2ee:iq:0' type='get' id='7c3a'
        from='rosa@example.org/desk' to='peter@example.org/phone'/>

XEP-0420 leaves the header of an IQ outside of the envelope. With nothing else, a server that
carries encrypted IQs could change a question into an order (get into set), hand it to another
device of the same account, answer one question with the answer to another one, or pass a message
off as an IQ. So the header is repeated inside, in an affix of our own, as XEP-0420 section 4 has it
("in order to prevent certain attacks, different affix elements MAY be added"). Other makes do not
write it, and do not look at it.
"""

from dataclasses import dataclass

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.protocol.xml import Element

__all__ = ["NAMESPACE", "IqHeader", "read", "write"]

NAMESPACE = "eph-e2ee:iq:0"

_IQ = f"{{{NAMESPACE}}}iq"
_ATTRIBUTES = ("type", "id", "from", "to")


@dataclass(frozen=True, slots=True)
class IqHeader:
    """What an IQ says of itself, outside of its envelope.

    Attributes:
        kind: its type: "get", "set", "result" or "error".
        iq_id: its id; an answer has its question's.
        sender: the full JID that it comes from, in its normal form.
        recipient: the full JID that it goes to, in its normal form.
    """

    kind: str
    iq_id: str
    sender: str
    recipient: str


def write(header: IqHeader) -> Element:
    """Make the affix."""
    values = (header.kind, header.iq_id, header.sender, header.recipient)
    return Element(_IQ, dict(zip(_ATTRIBUTES, values, strict=True)))


def read(envelope: Element) -> IqHeader | None:
    """Read the affix of an envelope; None where there is none.

    Raises:
        RemoteProtocolError: there are several, or an attribute is missing.
    """
    found = [child for child in envelope if child.tag == _IQ]
    if not found:
        return None
    values = [found[0].get(name) for name in _ATTRIBUTES]
    kind, iq_id, sender, recipient = values
    if len(found) > 1 or kind is None or iq_id is None or sender is None or recipient is None:
        raise RemoteProtocolError(Reason.BAD_AFFIX)
    return IqHeader(kind, iq_id, sender, recipient)
