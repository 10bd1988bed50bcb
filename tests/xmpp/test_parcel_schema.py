"""What is read of an omemo:2 element without python-omemo's XML schema is what that lets pass."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

import pytest
import twomemo.etree
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twomemo.twomemo import ContentImpl, EncryptedKeyMaterialImpl, KeyExchangeImpl

from eph_e2ee.errors import RemoteProtocolError
from eph_e2ee.xmpp.parcel import MODERN, own_share, parsed, written
from tests.xmpp.test_parcel import encrypted, key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import omemo

    from tests.xmpp.people import Person

    NewPerson = Callable[[str], Awaitable[Person]]

JID = "peter@example.org"
DEVICE = 4711
SENDER = "rosa@example.org"
NS = f"{{{MODERN}}}"

# A ratchet message as protobuf: three fields of fixed form, as python-omemo writes them.
AUTHENTICATED = bytes.fromhex("0a100102030405060708090a0b0c0d0e0f101208") + bytes(
    [8, 1, 16, 2, 26, 2, 7, 7]
)

Meaning = tuple[int, bytes, list[tuple[str, int, bytes, object]]]


def meaning(message: omemo.Message) -> Meaning:
    """All that a message says, to be compared."""
    assert isinstance(message.content, ContentImpl)
    keys: list[tuple[str, int, bytes, object]] = []
    for key, exchange in message.keys:
        assert isinstance(key, EncryptedKeyMaterialImpl)
        assert exchange is None or isinstance(exchange, KeyExchangeImpl)
        data = key.serialize()
        keys.append(
            (
                key.bare_jid,
                key.device_id,
                data,
                None if exchange is None else exchange.serialize(data),
            )
        )
    return message.device_id, message.content.ciphertext, keys


def by_schema(share: Element) -> Meaning | None:
    try:
        return meaning(twomemo.etree.parse_message(share, SENDER))
    except Exception:  # noqa: BLE001 -- whatever it raises, it refuses
        return None


def by_us(share: Element) -> Meaning | None:
    try:
        return meaning(parsed(share, SENDER))
    except RemoteProtocolError:
        return None


BASE64 = st.binary(max_size=24).map(lambda data: base64.b64encode(data).decode())
NEARLY = st.text("Ag8+/= \n\u00a0\u00e4", max_size=10)
NUMBERS = st.integers(-1, 2**33).map(str) | st.text("0123+ \t.", max_size=6)


def share_of(key: str, sid: str, payload: str | None) -> Element | None:
    try:
        return own_share(encrypted((JID, str(DEVICE), key), payload=payload, sid=sid), JID, DEVICE)
    except RemoteProtocolError:
        return None


KEYS = st.just(base64.b64encode(AUTHENTICATED).decode()) | BASE64 | NEARLY


@settings(max_examples=200)
@given(KEYS, NUMBERS, st.none() | BASE64 | NEARLY)
@example(base64.b64encode(AUTHENTICATED).decode(), " +0012\n", "AA AA\n")
@example(base64.b64encode(AUTHENTICATED).decode(), "4294967295", "AB==")
@example(base64.b64encode(AUTHENTICATED).decode(), "4294967296", "AAAA")
@example(base64.b64encode(AUTHENTICATED).decode(), "12", "")
@example(base64.b64encode(AUTHENTICATED).decode(), "12", " ")
def test_the_same_is_read_and_the_same_refused(key: str, sid: str, payload: str | None) -> None:
    share = share_of(key, sid, payload)
    if share is not None:
        assert by_us(share) == by_schema(share)


def test_a_right_one_is_read() -> None:
    """The comparison has something to compare."""
    share = share_of(base64.b64encode(AUTHENTICATED).decode(), " +0012\n", "AA AA\n")
    assert share is not None
    found = by_us(share)
    assert found is not None
    assert (found[0], found[1]) == (12, bytes(3))


@pytest.mark.parametrize("sid", ["\u0661", "1_2"])
def test_a_device_is_written_in_ascii_digits(sid: str) -> None:
    """The schema's library lets pass what `int` reads; XML Schema does not."""
    share = share_of(base64.b64encode(AUTHENTICATED).decode(), sid, "AAAA")
    assert share is not None
    assert by_us(share) is None


@pytest.mark.parametrize("what", ["child", "attribute", "key's child"])
def test_what_the_schema_has_no_place_for_is_refused(what: str) -> None:
    element = encrypted((JID, str(DEVICE), base64.b64encode(AUTHENTICATED).decode()))
    payload = element.find(f"{NS}payload")
    assert payload is not None
    if what == "child":
        SubElement(payload, f"{NS}payload")
    elif what == "attribute":
        payload.set("more", "1")
    else:
        SubElement(key_of(element), f"{NS}key")
    share = own_share(element, JID, DEVICE)
    if what == "key's child":
        assert by_us(share) == by_schema(share) is not None  # only its text was taken
    else:
        assert by_us(share) is by_schema(share) is None


async def test_a_key_exchange_is_read_as_well(person: NewPerson) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    element = written(await rosa.encrypt(peter, b"an envelope"))
    share = own_share(element, peter.jid, peter.device)
    assert key_of(share).get("kex") == "true"
    assert by_us(share) == by_schema(share) is not None
