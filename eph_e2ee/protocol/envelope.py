"""The envelope of XEP-0420 (0.5.0) with the profile of OMEMO (XEP-0384 section 4.4).

    <envelope xmlns='urn:xmpp:sce:1'><content>...</content> affixes </envelope>

`build` writes all four affixes, and for an IQ its header (`iqheader.py`). `read` takes an envelope
apart, `verify` holds it against what is known from the stanza and from OMEMO; only what passed both
may be believed.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from eph_e2ee.errors import LocalProtocolError, Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import iqheader, xml
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.protocol.xml import Element

__all__ = [
    "MAX_BUILT",
    "MAX_JID",
    "MAX_PADDING",
    "MINIMUM_SIZE",
    "NAMESPACE",
    "SERVER_PROCESSED",
    "Affixes",
    "Envelope",
    "Expected",
    "Finding",
    "build",
    "is_server_processed",
    "read",
    "verify",
]

NAMESPACE = "urn:xmpp:sce:1"

MINIMUM_SIZE = 1024
"""Bytes that every envelope reaches before the random part. The affixes take about 250 and what is
said of the timer about as many, so short texts, receipts and changes of the timer look alike."""

MAX_PADDING = 200
"""Characters at random on top of the minimum: "between 0 and 200" (XEP-0420 section 4)."""

MAX_BUILT = 80 * 1024
"""Bytes of the largest envelope that we write. Prosody and ejabberd end the stream of a client that
sends a stanza of more than 256 KiB. In base64, and beside its text once more for legacy OMEMO, this
takes 214 KiB at most, and leaves room for the keys of a hundred devices. Others' may be larger."""

MAX_JID = 3071
"""Bytes of the longest JID: three parts of 1023 and two separators (RFC 7622 section 3.1)."""

SERVER_PROCESSED: Mapping[str, str] = MappingProxyType(
    {
        "{urn:xmpp:hints}*": "XEP-0334: hints are addressed to the server",
        "{urn:xmpp:sid:0}stanza-id": "XEP-0359: the server must be able to filter forged ones",
        "{http://jabber.org/protocol/address}*": "XEP-0033: the server routes by them",
        "{urn:xmpp:eme:0}*": "XEP-0380: tells what the stanza is encrypted with",
    }
)
"""What MUST NOT stand inside `<content>`, and why (XEP-0420 section 8)."""

_ENVELOPE = f"{{{NAMESPACE}}}envelope"
_CONTENT = f"{{{NAMESPACE}}}content"
# 64 characters that need no escaping in XML, four times: one for each value of a random byte.
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" * 4
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,32})?"
    r"(Z|[+-][0-9]{2}:[0-5][0-9])"
)


class Finding(enum.Enum):
    """Something that was accepted and is worth reporting."""

    MISSING_RPAD = "no rpad affix, although OMEMO's profile demands one"
    MISSING_FROM = "no from affix, although OMEMO's profile recommends one"
    MALFORMED_TIME = "a time affix that is no DateTime of XEP-0082"
    WRONG_TIME = "the envelope's time is too far from the time of sending"
    SERVER_PROCESSED = "elements for the server inside the content; they were discarded"
    SEVERAL_EPHEMERALS = "several ephemeral elements; the shortest timer counts"
    MALFORMED_TIMER = "a timer that is no xs:unsignedInt"
    CONTRADICTING_OPT_OUT = "a timer together with an opt-out; the timer counts"
    OUTER_EPHEMERAL = "an ephemeral element outside of the encryption: tampering; it was ignored"
    MALFORMED_SETTING = "a setting of our namespace that cannot be read; it was ignored"
    CLEAR_TIMER = "a timer that stood in clear, since legacy OMEMO has no envelope"


@dataclass(frozen=True, slots=True)
class Affixes:
    """What stands in an envelope beside its content, as it was written there.

    Attributes:
        rpad: the length of the padding in characters, or None without one.
        time: when it was encrypted, in UTC; None when missing or malformed.
        to: the recipient's JID, not normalised.
        sender: the JID of the `from` affix, not normalised.
        header: that of the IQ that it was made for; None where it does not say.
    """

    rpad: int | None
    time: datetime | None
    to: str | None
    sender: str | None
    header: IqHeader | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope taken apart; believe it only after `verify`.

    Attributes:
        content: the children of `<content>` without those that only a server may process.
        affixes: what stands beside the content.
        findings: what `read` accepted and reports.
    """

    content: tuple[Element, ...] = field(repr=False)
    affixes: Affixes
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What an envelope must agree with.

    Attributes:
        sender: the account that OMEMO authenticated.
        recipients: the accounts that `to` may name: ours; for a carbon of our own message the
            peer; in a group chat the room alone.
        group: whether it came through a group chat, where `to` is mandatory.
        sent_at: the time of sending, from the stanza (XEP-0203, XEP-0313) or else now; aware.
        margin: how far the time affix may be from it, either way.
        strict_time: whether a wrong or malformed time rejects the message or is reported.
        normalise: brings a JID to its bare normal form; ValueError for what is no JID.
        header: that of the IQ that it came in; None for a message.
    """

    sender: BareJid
    recipients: frozenset[BareJid]
    group: bool
    sent_at: datetime
    margin: timedelta
    strict_time: bool
    normalise: Callable[[str], BareJid] = field(repr=False)
    header: IqHeader | None = None


def build(
    content: Sequence[Element],
    *,
    sender: BareJid,
    to: BareJid,
    time: datetime,
    random: Callable[[int], bytes],
    header: IqHeader | None = None,
) -> bytes:
    """Write an envelope with all four affixes, padded to `MINIMUM_SIZE` and a random length on.

    `to` is the peer's bare JID or the room's; `time` must be aware; `random(n)` gives n random
    bytes; `header` is that of the IQ that it is for. The elements are not changed; text after them
    is left out.

    Raises:
        LocalProtocolError: an element has no namespace, is processed by servers or cannot be
            written, the time is naive, or the whole is larger than `MAX_BUILT` or over a limit of
            `xml`.
    """
    if time.tzinfo is None:
        raise LocalProtocolError("give the time with its zone, for example datetime.now(UTC)")
    inner = b"".join(_written(element) for element in content)
    stamp = time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    affixes = (
        f"<time stamp={xml.quoted(stamp)}/><to jid={xml.quoted(to)}/>"
        f"<from jid={xml.quoted(sender)}/>"
    ).encode()
    if header is not None:
        affixes += xml.serialize(iqheader.write(header))
    head = b"<envelope xmlns='%b'><content>%b</content>%b<rpad>" % (
        NAMESPACE.encode(),
        inner,
        affixes,
    )
    tail = b"</rpad></envelope>"
    data = head + _padding(len(head) + len(tail), random) + tail
    _check_readable(data)
    return data


def read(data: bytes) -> Envelope:
    """Take a decrypted envelope apart; unknown affixes are ignored.

    "Any forbidden elements MUST be dropped before the message is processed any further"
    (XEP-0420 section 9): they are no part of `content`.

    Raises:
        RemoteProtocolError: it is no strict XML, no envelope, or has an unreadable affix.
    """
    root = xml.parse(data)
    if root.tag != _ENVELOPE:
        raise RemoteProtocolError(Reason.NOT_AN_ENVELOPE)
    contents = [child for child in root if child.tag == _CONTENT]
    if len(contents) != 1:
        raise RemoteProtocolError(Reason.CONTENT_COUNT)
    content = tuple(child for child in contents[0] if not is_server_processed(child))
    stamp = _affix(root, "time", "stamp")
    padding = [len(child.text or "") for child in root if child.tag == f"{{{NAMESPACE}}}rpad"]
    affixes = Affixes(
        rpad=sum(padding) if padding else None,
        time=None if stamp is None else _read_time(stamp),
        to=_jid(root, "to"),
        sender=_jid(root, "from"),
        header=iqheader.read(root),
    )
    findings = []
    if len(content) < len(contents[0]):
        findings.append(Finding.SERVER_PROCESSED)
    if stamp is not None and affixes.time is None:
        findings.append(Finding.MALFORMED_TIME)
    return Envelope(content, affixes, tuple(findings))


def verify(envelope: Envelope, expected: Expected) -> tuple[Finding, ...]:
    """Hold an envelope against the stanza it came in; return what is accepted but reported.

    The findings of `read` are not repeated.

    Raises:
        RemoteProtocolError: `from` or `to` names another account, `to` is missing in a group
            chat, it was made for another IQ or, with `strict_time`, the time is malformed or
            beyond the margin.
    """
    affixes = envelope.affixes
    findings = []
    if affixes.rpad is None:
        # "MUST contain an <rpad/>" (XEP-0384 section 4.4.1), but nothing is gained by refusing.
        findings.append(Finding.MISSING_RPAD)
    if affixes.sender is None:
        findings.append(Finding.MISSING_FROM)
    else:
        _verify_sender(affixes.sender, expected)
    _verify_recipient(affixes.to, expected)
    if affixes.header is not None and affixes.header != expected.header:
        raise RemoteProtocolError(Reason.WRONG_STANZA)
    if expected.strict_time and Finding.MALFORMED_TIME in envelope.findings:
        raise RemoteProtocolError(Reason.BAD_AFFIX)
    if affixes.time is not None and abs(affixes.time - expected.sent_at) > expected.margin:
        if expected.strict_time:
            raise RemoteProtocolError(Reason.WRONG_TIME)
        findings.append(Finding.WRONG_TIME)
    return tuple(findings)


def is_server_processed(element: Element) -> bool:
    """Tell whether an element is for servers and must stay outside of the encryption."""
    every_name = element.tag.rpartition("}")[0] + "}*"
    return element.tag in SERVER_PROCESSED or every_name in SERVER_PROCESSED


def _verify_sender(jid: str, expected: Expected) -> None:
    # "MUST check if the value matches the from attribute of the enclosing stanza"
    # (XEP-0420 section 4); OMEMO's answer is better than the stanza's.
    if _normal(jid, expected) != expected.sender:
        raise RemoteProtocolError(Reason.WRONG_SENDER)


def _verify_recipient(jid: str | None, expected: Expected) -> None:
    if jid is None:
        # "MUST contain a <to/> affix element whenever a message is sent via a group chat"
        # (XEP-0384 section 4.4.1): without it a server could turn one into the other.
        if expected.group:
            raise RemoteProtocolError(Reason.MISSING_AFFIX)
        return
    occupant = expected.group and "/" in jid
    if occupant or _normal(jid, expected) not in expected.recipients:
        raise RemoteProtocolError(Reason.WRONG_RECIPIENT)


def _normal(jid: str, expected: Expected) -> BareJid:
    try:
        return expected.normalise(jid)
    except ValueError:
        raise RemoteProtocolError(Reason.BAD_AFFIX) from None


def _affix(root: Element, name: str, attribute: str) -> str | None:
    """Return the attribute of the one affix of that name, or None when there is no such affix."""
    found = [child for child in root if child.tag == f"{{{NAMESPACE}}}{name}"]
    if not found:
        return None
    value = found[0].get(attribute)
    if len(found) > 1 or value is None:
        raise RemoteProtocolError(Reason.BAD_AFFIX)
    return value


def _jid(root: Element, name: str) -> str | None:
    jid = _affix(root, name, "jid")
    if jid is not None and not 0 < len(jid.encode()) <= MAX_JID:
        raise RemoteProtocolError(Reason.BAD_AFFIX)
    return jid


def _read_time(stamp: str) -> datetime | None:
    """Read a DateTime of XEP-0082 into UTC; None for anything else."""
    text = stamp.strip(" \t\r\n")
    if not _DATE_TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _written(element: Element) -> bytes:
    namespace, _ = xml.split_name(element.tag)
    if not namespace:
        raise LocalProtocolError("give every element a namespace; a body's is jabber:client")
    if is_server_processed(element):
        raise LocalProtocolError("put elements for the server onto the stanza, not into content")
    return xml.serialize(element)


def _padding(size: int, random: Callable[[int], bytes]) -> bytes:
    if size + MAX_PADDING > MAX_BUILT:
        raise LocalProtocolError(
            f"split the content: above {MAX_BUILT // 1024} KiB servers end the stream"
        )
    # The remainder of 64 random bits is even over 201 lengths to one part in 2**56.
    extra = int.from_bytes(random(8)) % (MAX_PADDING + 1)
    return random(max(0, MINIMUM_SIZE - size) + extra).translate(_ALPHABET)


def _check_readable(data: bytes) -> None:
    """Read our own envelope back: what we would refuse from others we do not send."""
    try:
        xml.parse(data)
    except RemoteProtocolError as error:
        if error.reason is Reason.TOO_LARGE:
            raise LocalProtocolError("split the content: it is over a limit of xml.py") from None
        raise LocalProtocolError("the content has a name that XML does not allow") from None
