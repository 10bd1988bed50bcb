"""The functions that take a peer's bytes apart without input or output."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element

from eph_e2ee.errors import LocalProtocolError, RemoteProtocolError, VaultDamaged, VaultTooNew
from eph_e2ee.model import BareJid, DeviceId, Seconds
from eph_e2ee.protocol import agreement, envelope, ephemeral, marks, setting, stamps, xml
from eph_e2ee.protocol.agreement import Agreement, Speech
from eph_e2ee.protocol.envelope import Expected
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.xmpp import parcel, servertime, stanzas
from tests.fuzz import payloads, words
from tests.fuzz.stanzas import encrypted, message
from tests.fuzz.trees import element, expanded, mutated, read, written
from tests.fuzz.values import VALUES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.source import Source

__all__ = ["PURE"]

NOW: Final = datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)
DEVICE: Final = int(words.DEVICE)
IQ: Final = ("get", "known", f"{words.PEER}/rosa", f"{words.OWN}/peter")


def _xml(source: Source) -> bytes:
    return payloads.scrambled(source, payloads.payload(source, words.OWN))


def _read_xml(material: bytes) -> None:
    """Whatever is read can be written, and is the same when it is read again."""
    try:
        root = xml.parse(material)
    except RemoteProtocolError:
        return
    try:
        data = xml.serialize(root)
    except LocalProtocolError:
        return
    assert xml.serialize(xml.parse(data)) == data


def _payload(source: Source) -> bytes:
    header = None
    if source.chance(2):
        header = payloads.iq_header(source, *IQ)
    return payloads.payload(source, words.OWN, header)


def _read_envelope(material: bytes) -> None:
    for group in (False, True):
        expected = Expected(
            sender=BareJid(words.PEER),
            recipients=frozenset({BareJid(words.OWN)}),
            group=group,
            sent_at=NOW,
            margin=timedelta(hours=1),
            strict_time=group,
            normalise=stanzas.bare,
            header=IqHeader(*IQ) if group else None,
        )
        try:
            opened = envelope.read(material)
            envelope.verify(opened, expected)
        except RemoteProtocolError:
            continue
        assert not any(envelope.is_server_processed(each) for each in opened.content)


def _content(source: Source) -> bytes:
    root = element("{urn:xmpp:sce:1}content", *payloads.content(source))
    return written(mutated(source, root))


def _read_content(material: bytes) -> None:
    """Timer, setting and marks, as one message after the other takes them in."""
    content = list(expanded(read(material)))
    said, found = ephemeral.read(content), marks.read(content)
    assert said.timer is None or 1 <= said.timer <= ephemeral.MAX_TIMER
    assert len(found.received) <= marks.MAX_MARKS
    assert sum(len(each.message_ids) for each in found.read) <= marks.MAX_MARKS
    stated, _ = setting.read(content)
    if stated is not None:
        # The same setting, if it is one that can be written: the year may be too late for that.
        assert setting.read([setting.write(stated)])[0] == stated
    state = Agreement(default=Seconds(60))
    for own in (False, True):
        author = BareJid(words.OWN if own else words.PEER)
        speech = Speech(author, DeviceId(DEVICE), NOW.timestamp(), said, stated, own=own)
        state, _ = agreement.receive(state, speech, now=NOW.timestamp())
        assert Agreement.from_json(state.to_json()) == state
        _, announced = agreement.announce(
            state, author=author, device=DeviceId(1), stamp=NOW.timestamp()
        )
        if announced is not None:
            setting.write(announced)


def _register(source: Source) -> bytes:
    state = Agreement(default=Seconds(60)).to_json().encode()
    return payloads.scrambled(source, state) + source.take(8)


def _read_register(material: bytes) -> None:
    try:
        state = Agreement.from_json(material.decode("utf-8", "replace"))
    except (VaultDamaged, VaultTooNew):
        return
    assert Agreement.from_json(state.to_json()) == state


def _stamp(source: Source) -> bytes:
    return payloads.scrambled(source, words.stamp(source).encode())


def _read_stamp(material: bytes) -> None:
    text = material.decode("utf-8", "replace")
    moment = stamps.read(text)
    assert moment is None or stamps.write(moment) == text
    stanzas.moment(Element("delay", {"stamp": text}))
    servertime._seconds(text)


def _address(source: Source) -> bytes:
    return payloads.scrambled(source, words.address(source).encode("utf-8", "replace"))


def _read_address(material: bytes) -> None:
    try:
        jid = stanzas.bare(material.decode("utf-8", "replace"))
    except ValueError:
        return
    assert "/" not in jid
    assert stanzas.bare(jid) == jid


def _encrypted(source: Source) -> bytes:
    stanza = message(source)
    stanza.append(encrypted(source))
    return written(mutated(source, stanza))


def _read_encrypted(material: bytes) -> None:
    stanza = expanded(read(material))
    parcel.fingerprint(stanza, words.OWN, DEVICE)
    parcel.is_empty(stanza)
    try:
        child = parcel.encrypted_child(stanza, parcel.MODERN)
        if child is not None:
            parcel.parsed(parcel.own_share(child, words.OWN, DEVICE), words.PEER)
    except RemoteProtocolError:
        pass


PURE: Final[dict[str, tuple[Callable[[Source], bytes], Callable[[bytes], None]]]] = {
    "xml": (_xml, _read_xml),
    "envelope": (_payload, _read_envelope),
    "content": (_content, _read_content),
    "register": (_register, _read_register),
    "stamps": (_stamp, _read_stamp),
    "addresses": (_address, _read_address),
    "encrypted": (_encrypted, _read_encrypted),
    **VALUES,
}
"""By name: what makes an input of bytes, and what reads it."""
