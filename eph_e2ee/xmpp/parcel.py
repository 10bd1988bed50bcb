"""The `<encrypted/>` element: read without trusting it, and what opening it gave."""

import base64
import re
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import Element, SubElement

import oldmemo
import oldmemo.etree
import omemo
import twomemo
import twomemo.etree
from doubleratchet import DuplicateMessageException
from omemo.session_manager import (
    MessageNotForUs,
    NoSession,
    SenderDistrusted,
    SenderNotFound,
    XMPPInteractionFailed,
)
from omemo.types import DeviceInformation
from twomemo.twomemo import ContentImpl, EncryptedKeyMaterialImpl, KeyExchangeImpl

from eph_e2ee.errors import EphemeralError, Reason, RemoteProtocolError
from eph_e2ee.xmpp.gate import Absent
from eph_e2ee.xmpp.gathered import is_of_storage
from eph_e2ee.xmpp.refusals import unopened

__all__ = [
    "MODERN",
    "OLD",
    "Opened",
    "encrypted_child",
    "fingerprint",
    "is_addressed",
    "is_empty",
    "opened",
    "own_legacy_share",
    "own_share",
    "parsed",
    "parsed_legacy",
    "sending_device",
    "written",
]

MODERN: str = twomemo.twomemo.NAMESPACE
"""urn:xmpp:omemo:2"""

OLD: str = oldmemo.oldmemo.NAMESPACE
"""eu.siacs.conversations.axolotl"""

KEY_EXCHANGE = b"\x08"
"""First byte of a serialized key exchange; an authenticated message begins with 0x0a."""

LONGEST_KEY = 4096
"""Base64 characters of one key: about 400 are in use; more is no key."""

OTHERS: Final = 8
"""Elements beside the keys of a legacy message: there are two, and the schema tells what is wrong
with others."""

LARGEST_DEVICE: Final = 2**32 - 1

_NO_WHITE_SPACE: Final = dict.fromkeys(map(ord, " \t\r\n"))

_UNSIGNED: Final = re.compile(r"[ \t\r\n]*\+?0*([0-9]{1,10})[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Opened:
    """A decrypted stanza.

    Attributes:
        namespace: the OMEMO namespace that it was encrypted in.
        plaintext: bytes of the envelope (omemo:2) or of the body (legacy); None for an empty
            message, which only turns a ratchet.
        device: the sending device, authenticated by its session.
    """

    namespace: str
    plaintext: bytes | None = field(repr=False)
    device: DeviceInformation


def encrypted_child(stanza: Element, namespace: str) -> Element | None:
    """The one `<encrypted/>` of a namespace; None where there is none.

    Raises:
        RemoteProtocolError: there are several.
    """
    found = stanza.findall(f"{{{namespace}}}encrypted")
    if len(found) > 1:
        raise RemoteProtocolError(Reason.MALFORMED_OMEMO)
    return found[0] if found else None


def own_share(encrypted: Element, bare_jid: str, device_id: int) -> Element:
    """A copy of an omemo:2 `<encrypted/>` with the one key that is for this device.

    Reading the other devices' keys is work that a sender could make as long as it likes. A key
    exchange that is not marked as one (QXmpp's later messages) is told by its first byte.

    Raises:
        RemoteProtocolError: `NOT_FOR_THIS_DEVICE`, or `MALFORMED_OMEMO`.
    """
    header = encrypted.find(f"{{{MODERN}}}header")
    if header is None:
        raise RemoteProtocolError(Reason.MALFORMED_OMEMO)
    keys = [
        key
        for group in header.findall(f"{{{MODERN}}}keys")
        if group.get("jid") == bare_jid
        for key in group.findall(f"{{{MODERN}}}key")
        if key.get("rid") == str(device_id)
    ]
    if not keys:
        raise RemoteProtocolError(Reason.NOT_FOR_THIS_DEVICE)
    share = Element(f"{{{MODERN}}}encrypted")
    kept = SubElement(share, f"{{{MODERN}}}header", {"sid": header.get("sid", "")})
    group = SubElement(kept, f"{{{MODERN}}}keys", {"jid": bare_jid})
    group.append(_marked(keys[0]))
    payload = encrypted.find(f"{{{MODERN}}}payload")
    if payload is not None:
        share.append(payload)
    return share


def fingerprint(stanza: Element, bare_jid: str, device_id: int) -> str | None:
    """The ratchet message for this device in omemo:2, which never comes twice but in a replay."""
    try:
        encrypted = encrypted_child(stanza, MODERN)
        share = None if encrypted is None else own_share(encrypted, bare_jid, device_id)
    except RemoteProtocolError:
        return None
    return None if share is None else share.findtext(f".//{{{MODERN}}}key")


def is_addressed(stanza: Element, namespace: str, bare_jid: str, device_id: int) -> bool:
    """Whether an `<encrypted/>` of a stanza has a key for a device; it may be malformed still.

    The keys of legacy OMEMO do not say whose device they are for.
    """
    path = f"{{{namespace}}}encrypted/{{{namespace}}}header"
    if namespace == MODERN:
        groups = stanza.findall(f"{path}/{{{MODERN}}}keys")
        keys = [key for group in groups if group.get("jid") == bare_jid for key in group]
    else:
        keys = stanza.findall(f"{path}/{{{OLD}}}key")
    return any(key.get("rid") == str(device_id) for key in keys)


def is_empty(stanza: Element) -> bool:
    """Whether a stanza only turns the ratchet of one device: no other has missed anything."""
    return not any(
        stanza.findall(f"{{{namespace}}}encrypted/{{{namespace}}}payload")
        for namespace in (MODERN, OLD)
    )


def sending_device(stanza: Element) -> int | None:
    """The device that a stanza names as its sender, which proves nothing; None where it is none."""
    for namespace in (MODERN, OLD):
        header = stanza.find(f"{{{namespace}}}encrypted/{{{namespace}}}header")
        if header is not None:
            found = _UNSIGNED.fullmatch(header.get("sid", ""))
            return None if found is None else int(found[1])
    return None


def _marked(key: Element) -> Element:
    text = (key.text or "").strip()
    marked = Element(key.tag, {"rid": key.get("rid", "")})
    marked.text = text
    marked.set("kex", "true" if _decoded(text).startswith(KEY_EXCHANGE) else "false")
    return marked


def _decoded(key: str) -> bytes:
    if len(key) <= LONGEST_KEY:
        try:
            return base64.b64decode(key, validate=True)
        except ValueError:  # what is not ASCII is no binascii.Error
            pass
    raise RemoteProtocolError(Reason.MALFORMED_OMEMO)


def parsed(share: Element, sender: str) -> omemo.Message:
    """The message in an omemo:2 element that `own_share` has made.

    python-omemo would check it against an XML schema first, for longer than decrypting takes. What
    of it is still the sender's is the device's number, the key and the payload: these are checked.

    Raises:
        RemoteProtocolError: `MALFORMED_OMEMO`.
    """
    try:
        return _message(share, sender)
    except Exception:  # noqa: BLE001, S110 -- base64 and protobuf raise what they like
        pass
    raise RemoteProtocolError(Reason.MALFORMED_OMEMO)


def _message(share: Element, sender: str) -> omemo.Message:
    """Do as `twomemo.etree.parse_message` does; whatever it raises, the element is malformed."""
    header = share[0]
    group = header[0]
    key = group[0]
    data, exchange = _canonical(key), None
    if key.get("kex") == "true":
        exchange, data = KeyExchangeImpl.parse(data)
    material = EncryptedKeyMaterialImpl.parse(data, group.get("jid", ""), int(key.get("rid", "")))
    payload = share.find(f"{{{MODERN}}}payload")
    if payload is not None and payload.attrib:
        raise ValueError("not the schema's payload")
    content = ContentImpl.make_empty() if payload is None else ContentImpl(_canonical(payload))
    keys = frozenset({(material, exchange)})
    return omemo.Message(MODERN, sender, _device(header), content, keys)


def _canonical(element: Element) -> bytes:
    """What an element holds in base64: one form for the same bytes, but for white space."""
    if element.text is None or len(element):
        raise ValueError("not text alone")
    text = element.text.translate(_NO_WHITE_SPACE)
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("another form of the same bytes")
    return data


def _device(header: Element) -> int:
    """The sender's device, an xs:unsignedInt."""
    found = _UNSIGNED.fullmatch(header.get("sid", ""))
    if found is None or (number := int(found[1])) > LARGEST_DEVICE:
        raise ValueError("no device")
    return number


def own_legacy_share(encrypted: Element, device_id: int) -> Element:
    """Do for a legacy element as `own_share`: its schema takes a tenth of a millisecond for a key.

    Raises:
        RemoteProtocolError: `NOT_FOR_THIS_DEVICE`, or `MALFORMED_OMEMO`.
    """
    header = encrypted.find(f"{{{OLD}}}header")
    if header is None:
        raise RemoteProtocolError(Reason.MALFORMED_OMEMO)
    keys = [key for key in header.findall(f"{{{OLD}}}key") if key.get("rid") == str(device_id)]
    if not keys:
        raise RemoteProtocolError(Reason.NOT_FOR_THIS_DEVICE)
    beside = [child for child in encrypted if child is not header]
    within = [child for child in header if child.tag != f"{{{OLD}}}key"]
    if len(beside) + len(within) > OTHERS:
        raise RemoteProtocolError(Reason.MALFORMED_OMEMO)
    share = Element(encrypted.tag, encrypted.attrib)
    kept = SubElement(share, header.tag, header.attrib)
    kept.append(keys[0])
    kept.extend(within)
    share.extend(beside)
    return share


async def parsed_legacy(
    encrypted: Element, sender: str, own: str, sessions: omemo.SessionManager
) -> omemo.Message:
    """The message in a legacy element, for which the sender's identity key is looked up.

    Raises:
        RemoteProtocolError: `MALFORMED_OMEMO`, or `UNKNOWN_SENDER`.
        Exception: whatever the storage raises.
    """
    try:
        return await oldmemo.etree.parse_message(encrypted, sender, own, sessions)
    except (Absent, EphemeralError):
        raise
    except (SenderNotFound, XMPPInteractionFailed):
        reason = Reason.UNKNOWN_SENDER
    except Exception as failure:  # schema, base64 and protobuf raise what they like
        if is_of_storage(failure):
            raise
        reason = Reason.MALFORMED_OMEMO
    raise RemoteProtocolError(reason)


def written(message: omemo.Message) -> Element:
    """The `<encrypted/>` element of a message of ours."""
    if message.namespace == MODERN:
        return twomemo.etree.serialize_message(message)
    return oldmemo.etree.serialize_message(message)


async def opened(sessions: omemo.SessionManager, message: omemo.Message) -> Opened:
    """Decrypt a message; its ratchet turns in storage, not yet on disk.

    Raises:
        RemoteProtocolError: it does not open. Neither its text nor its context holds anything of
            the message: it is raised outside of the handler that caught the cause.
        Exception: whatever the storage raises.
    """
    try:
        plaintext, device, _ = await sessions.decrypt(message)
        return Opened(message.namespace, plaintext, device)
    except (Absent, EphemeralError):
        raise
    except Exception as failure:  # a peer's bytes reach libraries that raise anything
        if is_of_storage(failure):
            raise
        error = unopened(_reason(failure), type(failure))
    raise error


def _reason(failure: Exception) -> Reason:
    if isinstance(failure.__cause__, DuplicateMessageException):
        return Reason.DUPLICATE
    if isinstance(failure, NoSession):
        return Reason.NO_SESSION
    if isinstance(failure, MessageNotForUs):
        return Reason.NOT_FOR_THIS_DEVICE
    if isinstance(failure, SenderDistrusted):
        return Reason.DISTRUSTED
    if isinstance(failure, SenderNotFound | XMPPInteractionFailed):
        return Reason.UNKNOWN_SENDER
    return Reason.UNDECRYPTABLE
