"""The `<encrypted/>` element: whatever stands in it parses, or is the sender's fault."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import omemo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omemo.session_manager import (
    MessageNotForUs,
    SenderDistrusted,
    SenderNotFound,
    XMPPInteractionFailed,
)
from omemo.storage import StorageException

from eph_e2ee.errors import EphemeralError, Reason, RemoteProtocolError, VaultUnavailable
from eph_e2ee.xmpp.gate import Absent
from eph_e2ee.xmpp.parcel import (
    LONGEST_KEY,
    MODERN,
    OLD,
    Opened,
    encrypted_child,
    fingerprint,
    is_empty,
    opened,
    own_legacy_share,
    own_share,
    parsed,
    sending_device,
    written,
)
from tests.xmpp.people import Person, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    NewPerson = Callable[[str], Awaitable[Person]]

JID = "peter@example.org"
DEVICE = 4711
NS = f"{{{MODERN}}}"
AUTHENTICATED = base64.b64encode(b"\x0a\x10 an authenticated message").decode()
EXCHANGE = base64.b64encode(b"\x08\x01 a key exchange").decode()
SENTINEL = "sentinel-plaintext"


def encrypted(
    *keys: tuple[str, str, str], payload: str | None = "AAAA", sid: str = "12"
) -> Element:
    """An element with keys, each as JID, device and text."""
    made = Element(f"{NS}encrypted")
    head = SubElement(made, f"{NS}header", {"sid": sid})
    for jid, device, text in keys:
        group = SubElement(head, f"{NS}keys", {"jid": jid})
        SubElement(group, f"{NS}key", {"rid": device}).text = text
    if payload is not None:
        SubElement(made, f"{NS}payload").text = payload
    return made


def key_of(share: Element) -> Element:
    (key,) = share.iter(f"{NS}key")
    return key


def message(*children: Element) -> Element:
    made = Element("{jabber:client}message")
    made.extend(children)
    return made


def rejection(element: Element) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        parsed(own_share(element, JID, DEVICE), "rosa@example.org")
    return caught.value


def holds_nothing_of_it(error: BaseException) -> bool:
    """Whether neither an exception nor anything behind it says what was sent."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return not any(SENTINEL in f"{each!r} {each.args} {each}" for each in chain)


def test_only_our_own_key_is_kept() -> None:
    """Others' keys are as many, as long and as wrong as a sender likes."""
    others = [("rosa@example.org", "4711", "no base64!"), (JID, "4712", "A" * 100_000)]
    share = own_share(encrypted(*others, (JID, "4711", AUTHENTICATED)), JID, DEVICE)
    assert key_of(share).text == AUTHENTICATED
    assert key_of(share).get("rid") == "4711"
    assert [group.get("jid") for group in share.iter(f"{NS}keys")] == [JID]
    assert share.findtext(f"{NS}payload") == "AAAA"


def test_the_stanza_is_left_as_it_is() -> None:
    element = encrypted((JID, "4711", f" {EXCHANGE}\n"))
    before = tostring(element)
    own_share(element, JID, DEVICE)
    assert tostring(element) == before


@pytest.mark.parametrize(("text", "kex"), [(EXCHANGE, "true"), (AUTHENTICATED, "false")])
@pytest.mark.parametrize("claimed", [None, "true", "false", "1"])
def test_a_key_exchange_is_told_by_its_first_byte(text: str, kex: str, claimed: str | None) -> None:
    """QXmpp repeats the exchange without marking it."""
    element = encrypted((JID, "4711", text))
    if claimed is not None:
        key_of(element).set("kex", claimed)
    assert key_of(own_share(element, JID, DEVICE)).get("kex") == kex


def test_white_space_around_a_key_is_nothing() -> None:
    share = own_share(encrypted((JID, "4711", f"\n  {EXCHANGE}\t")), JID, DEVICE)
    assert key_of(share).text == EXCHANGE


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (Element(f"{NS}encrypted"), Reason.MALFORMED_OMEMO),
        (encrypted(), Reason.NOT_FOR_THIS_DEVICE),
        (encrypted(("rosa@example.org", "4711", EXCHANGE)), Reason.NOT_FOR_THIS_DEVICE),
        (encrypted((JID, "4712", EXCHANGE)), Reason.NOT_FOR_THIS_DEVICE),
        (encrypted((JID, "4711", "sentinel-plaintext")), Reason.MALFORMED_OMEMO),
        (encrypted((JID, "4711", "sentinel-plaintext\u00e4")), Reason.MALFORMED_OMEMO),
        (encrypted((JID, "4711", "A" * (LONGEST_KEY + 4))), Reason.MALFORMED_OMEMO),
        (encrypted((JID, "4711", EXCHANGE), sid="sentinel-plaintext"), Reason.MALFORMED_OMEMO),
        (encrypted((JID, "4711", EXCHANGE)), Reason.MALFORMED_OMEMO),
        (
            encrypted((JID, "4711", AUTHENTICATED), payload="sentinel-plaintext"),
            Reason.MALFORMED_OMEMO,
        ),
    ],
)
def test_what_cannot_be_read_is_refused(element: Element, reason: Reason) -> None:
    error = rejection(element)
    assert error.reason is reason
    assert holds_nothing_of_it(error)


def test_a_key_of_the_greatest_length_is_looked_at() -> None:
    text = base64.b64encode(b"\x0a" + bytes(LONGEST_KEY * 3 // 4 - 1)).decode()
    assert len(text) == LONGEST_KEY
    assert key_of(own_share(encrypted((JID, "4711", text)), JID, DEVICE)).get("kex") == "false"


def legacy(*children: str) -> Element:
    header = "".join(children)
    return fromstring(f"<encrypted xmlns='{OLD}'>{header}</encrypted>")  # noqa: S314 -- the test's


def test_of_a_legacy_element_only_our_own_key_is_kept() -> None:
    """Its schema would look at each; what is wrong with the rest is still for that to find."""
    keys = "<key rid='1'>AA==</key>" * 5000 + "<key rid='7' prekey='true'>AQ==</key>"
    element = legacy(f"<header sid='5'>{keys}<iv>AA==</iv></header>", "<payload>AA==</payload>")
    share = own_legacy_share(element, 7)
    assert tostring(share) == tostring(
        legacy(
            "<header sid='5'><key rid='7' prekey='true'>AQ==</key><iv>AA==</iv></header>",
            "<payload>AA==</payload>",
        )
    )
    assert len(element[0]) == 5002
    doubled = legacy("<header sid='5'><key rid='7'/><iv/><iv/></header>", "<payload/>", "<x/>")
    share = own_legacy_share(doubled, 7)
    assert [[child.tag for child in share], len(share[0])] == [[x.tag for x in doubled], 3]


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (legacy(), Reason.MALFORMED_OMEMO),
        (legacy("<header sid='5'><iv>AA==</iv></header>"), Reason.NOT_FOR_THIS_DEVICE),
        (legacy("<header sid='5'><key rid='8'>AA==</key></header>"), Reason.NOT_FOR_THIS_DEVICE),
        (legacy("<header><key rid='7'/></header>", "<payload/>" * 9), Reason.MALFORMED_OMEMO),
        (legacy(f"<header><key rid='7'/>{'<iv/>' * 9}</header>"), Reason.MALFORMED_OMEMO),
    ],
)
def test_a_legacy_element_without_a_key_for_us(element: Element, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        own_legacy_share(element, 7)
    assert caught.value.reason is reason


def test_several_encrypted_elements_are_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        encrypted_child(message(encrypted(), encrypted()), MODERN)
    assert caught.value.reason is Reason.MALFORMED_OMEMO


def test_the_two_namespaces_may_stand_side_by_side() -> None:
    old = Element(f"{{{OLD}}}encrypted")
    stanza = message(encrypted(), old)
    assert encrypted_child(stanza, OLD) is old
    assert encrypted_child(stanza, MODERN) is not None
    assert encrypted_child(message(), MODERN) is None


def test_a_fingerprint_is_our_key_and_nothing_else() -> None:
    """F36: it does not change with what a server may change."""
    element = encrypted((JID, "4711", EXCHANGE), (JID, "4712", AUTHENTICATED))
    again = encrypted((JID, "4711", f" {EXCHANGE} "), payload=None, sid="99")
    assert fingerprint(message(element), JID, DEVICE) == EXCHANGE
    assert fingerprint(message(again), JID, DEVICE) == EXCHANGE


@pytest.mark.parametrize(
    "stanza",
    [
        message(),
        message(encrypted()),
        message(encrypted(), encrypted()),
        message(encrypted((JID, "4711", "\u00e4"))),
        message(Element(f"{{{OLD}}}encrypted")),
    ],
)
def test_without_a_key_there_is_no_fingerprint(stanza: Element) -> None:
    assert fingerprint(stanza, JID, DEVICE) is None


NAMES = st.sampled_from([f"{NS}{name}" for name in ("header", "keys", "key", "payload", "x")])
TEXTS = st.sampled_from(["", "4711", JID, EXCHANGE, AUTHENTICATED, "\u00e4", "===="]) | st.text(
    st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["jid", "rid", "sid", "kex", "y"]), TEXTS, max_size=3)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> Element:
    """Anything in the namespace, often with the names that mean something there."""
    made = Element(draw(NAMES), draw(ATTRIBUTES))
    made.text = draw(TEXTS)
    if depth:
        made.extend(draw(st.lists(elements(depth=depth - 1), max_size=3)))
    return made


@settings(max_examples=150)
@given(st.lists(elements(), max_size=3))
def test_any_element_parses_or_is_refused(children: list[Element]) -> None:
    element = Element(f"{NS}encrypted")
    element.extend(children)
    with contextlib.suppress(RemoteProtocolError):
        parsed(own_share(element, JID, DEVICE), "rosa@example.org")
    fingerprint(message(element), JID, DEVICE)


@settings(max_examples=300)
@given(
    st.binary(max_size=64),
    st.sampled_from([b"\x08", b"\x0a"]),
    st.sampled_from(["12", "0", "-1", "99999999999", "", "1.5", "\u0661"]),
    st.none() | st.binary(max_size=32),
)
def test_any_bytes_in_a_right_frame_parse_or_are_refused(
    data: bytes,
    first: bytes,
    sid: str,
    payload: bytes | None,
) -> None:
    key = first + data
    element = encrypted(
        (JID, "4711", base64.b64encode(key).decode()),
        sid=sid,
        payload=None if payload is None else base64.b64encode(payload).decode(),
    )
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(parsed(own_share(element, JID, DEVICE), "a@b"), omemo.Message)


async def test_what_we_write_can_be_read(person: NewPerson) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    element = written(await rosa.encrypt(peter, b"an envelope"))
    again = fromstring(tostring(element))  # noqa: S314 -- the test's own text
    share = own_share(again, peter.jid, peter.device)
    gained = await peter.gate.run(lambda: opened(peter.sessions, parsed(share, rosa.jid)))
    assert (gained.namespace, gained.plaintext) == (MODERN, b"an envelope")
    assert gained.device.device_id == rosa.device


async def test_an_unmarked_exchange_opens(person: NewPerson) -> None:
    """PROTOCOL 7: QXmpp's second message, before our first answer."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    element = written(await rosa.encrypt(peter, b"an envelope"))
    del key_of(element).attrib["kex"]
    share = own_share(element, peter.jid, peter.device)
    gained = await peter.gate.run(lambda: opened(peter.sessions, parsed(share, rosa.jid)))
    assert gained.plaintext == b"an envelope"


async def test_a_duplicate_is_told_from_what_never_opened(person: NewPerson) -> None:
    """F36."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    sent = await rosa.encrypt(peter, b"text")
    await peter.gate.run(lambda: opened(peter.sessions, sent))
    with pytest.raises(RemoteProtocolError) as caught:
        await peter.gate.run(lambda: opened(peter.sessions, sent))
    assert caught.value.reason is Reason.DUPLICATE
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


class Failing:
    """A session manager that cannot decrypt."""

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure

    async def decrypt(self, _: omemo.Message) -> None:
        raise self.failure


async def open_with(failure: BaseException) -> Opened:
    sessions: omemo.SessionManager = Failing(failure)  # type: ignore[assignment]
    return await opened(sessions, omemo.Message(MODERN, "", 0, None, frozenset()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (MessageNotForUs(SENTINEL), Reason.NOT_FOR_THIS_DEVICE),
        (SenderDistrusted(SENTINEL), Reason.DISTRUSTED),
        (SenderNotFound(SENTINEL), Reason.UNKNOWN_SENDER),
        (XMPPInteractionFailed(SENTINEL), Reason.UNKNOWN_SENDER),
        (omemo.OMEMOException(SENTINEL), Reason.UNDECRYPTABLE),
        (ValueError(SENTINEL), Reason.UNDECRYPTABLE),
    ],
)
async def test_a_failure_becomes_a_reason_without_words(failure: Exception, reason: Reason) -> None:
    """F10, F42: python-omemo's texts quote keys and messages."""
    with pytest.raises(RemoteProtocolError) as caught:
        await open_with(failure)
    assert caught.value.reason is reason
    assert holds_nothing_of_it(caught.value)


async def nothing() -> None:
    """Download nothing."""


@pytest.mark.parametrize(
    "failure",
    [Absent({("bundle",): nothing}), VaultUnavailable("full"), StorageException("full")],
)
async def test_what_is_not_the_senders_fault_passes(failure: Exception) -> None:
    with pytest.raises((Absent, EphemeralError, StorageException)) as caught:
        await open_with(failure)
    assert caught.value is failure


def test_a_decrypted_stanza_does_not_print_its_text() -> None:
    """F10."""
    assert SENTINEL not in repr(Opened(MODERN, SENTINEL.encode(), None))  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", [MODERN, OLD])
def test_a_stanza_without_a_payload_is_for_one_device_alone(namespace: str) -> None:
    """An empty message turns the ratchet of one device; no other misses anything in it."""
    element = Element(f"{{{namespace}}}encrypted")
    assert is_empty(message(element))
    SubElement(element, "{urn:example}payload")
    assert is_empty(message(element))
    full = message(element, encrypted((JID, "4711", EXCHANGE)))
    assert not is_empty(full)
    SubElement(element, f"{{{namespace}}}payload")
    assert not is_empty(message(element))


@pytest.mark.parametrize("namespace", [MODERN, OLD])
@pytest.mark.parametrize(
    ("sid", "device"), [("7", 7), (" +07 ", 7), ("", None), ("seven", None), ("-7", None)]
)
def test_the_device_that_a_stanza_names(namespace: str, sid: str, device: int | None) -> None:
    stanza = Element("{jabber:client}message")
    encrypted = SubElement(stanza, f"{{{namespace}}}encrypted")
    assert sending_device(stanza) is None
    SubElement(encrypted, f"{{{namespace}}}header", {"sid": sid})
    assert sending_device(stanza) == device
