"""Envelopes: built, taken apart, and held against the stanza."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from os import urandom
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError, Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import envelope, ephemeral, xml
from eph_e2ee.protocol.envelope import Expected, Finding
from eph_e2ee.protocol.xml import Element

ROMEO = BareJid("romeo@montague.example")
JULIET = BareJid("juliet@capulet.example")
ROOM = BareJid("orchard@rooms.example")
NOW = datetime(2026, 7, 1, 12, 0, 0, 123456, UTC)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=900
)


def normalise(jid: str) -> BareJid:
    bare = jid.partition("/")[0].lower()
    if "@" not in bare or " " in bare:
        raise ValueError("not a JID")
    return BareJid(bare)


EXPECTED = Expected(
    sender=ROMEO,
    recipients=frozenset({JULIET}),
    group=False,
    sent_at=NOW,
    margin=timedelta(minutes=5),
    strict_time=False,
    normalise=normalise,
)
IN_ROOM = replace(EXPECTED, recipients=frozenset({ROOM}), group=True)


def body(text: str) -> Element:
    element = Element("{jabber:client}body")
    element.text = text
    return element


def built(
    *content: Element,
    time: datetime = NOW,
    to: BareJid = JULIET,
    random: Callable[[int], bytes] = urandom,
) -> bytes:
    return envelope.build(content, sender=ROMEO, to=to, time=time, random=random)


def written(affixes: str, content: str = "") -> bytes:
    opening = f"<envelope xmlns='urn:xmpp:sce:1'><content>{content}</content>"
    return f"{opening}{affixes}</envelope>".encode()


def verified(affixes: str, expected: Expected = EXPECTED) -> tuple[Finding, ...]:
    return envelope.verify(envelope.read(written(affixes)), expected)


def refusal(affixes: str, expected: Expected = EXPECTED) -> Reason:
    with pytest.raises(RemoteProtocolError) as caught:
        verified(affixes, expected)
    assert caught.value.__cause__ is None
    return caught.value.reason


GOOD = f"<rpad/><time stamp='2026-07-01T12:00:00Z'/><to jid='{JULIET}'/><from jid='{ROMEO}'/>"


@given(TEXTS, st.integers(1, ephemeral.MAX_TIMER))
def test_built_read_and_verified(text: str, timer: int) -> None:
    data = built(body(text), ephemeral.write(ephemeral.checked_timer(timer)))
    opened = envelope.read(data)
    assert [element.tag for element in opened.content] == [
        "{jabber:client}body",
        "{urn:xmpp:ephemeral:0}ephemeral",
    ]
    assert (opened.content[0].text or "") == text
    assert ephemeral.read(opened.content).timer == timer
    assert (opened.affixes.sender, opened.affixes.to) == (ROMEO, JULIET)
    assert opened.affixes.time == NOW.replace(microsecond=123000)
    assert envelope.verify(opened, EXPECTED) == opened.findings == ()
    assert xml.serialize(xml.parse(data)) == data


@given(st.binary(max_size=300))
def test_any_bytes_read_or_raise_the_one_remote_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.read(data)


AFFIXES = st.sampled_from(
    [
        "<rpad/>",
        "<rpad>x</rpad>",
        "<to/>",
        "<to jid=''/>",
        "<to jid=' '/>",
        "<from/>",
        "<time/>",
        f"<to jid='{JULIET}'/>",
        f"<from jid='{ROMEO}'/>",
        "<time stamp='0001-01-01T00:00:00Z'/>",
        "<time stamp='0001-01-01T00:00:00+14:00'/>",
        "<time stamp='9999-12-31T23:59:59-14:00'/>",
        "<time stamp='x'/>",
        "<content/>",
        "<other xmlns='u'/>",
        "text",
    ]
)


@given(st.lists(AFFIXES, max_size=6), st.booleans(), st.booleans())
def test_any_affixes_verify_or_raise_the_one_remote_error(
    affixes: list[str],
    group: bool,  # noqa: FBT001 -- a case, no switch
    strict: bool,  # noqa: FBT001 -- a case, no switch
) -> None:
    expected = replace(EXPECTED, group=group, strict_time=strict)
    try:
        envelope.verify(envelope.read(written("".join(affixes))), expected)
    except RemoteProtocolError:
        return
    assert affixes.count("<content/>") == 0
    assert affixes.count(f"<to jid='{JULIET}'/>") == 1 or not group


def test_the_envelope_has_its_default_namespace_and_the_body_its_own() -> None:
    data = built(body("x"))
    assert data.startswith(
        b"<envelope xmlns='urn:xmpp:sce:1'><content><body xmlns='jabber:client'>x</body></content>"
        b"<time stamp='2026-07-01T12:00:00.123Z'/><to jid='juliet@capulet.example'/>"
        b"<from jid='romeo@montague.example'/><rpad>"
    )


@pytest.mark.parametrize("length", [0, 1, 100, 600, 5000])
def test_padded_to_the_minimum_and_a_random_length_on(length: int) -> None:
    for byte in (b"\x00", b"\x7f", b"\xff"):
        data = built(body("x" * length), random=byte.__mul__)
        opened = envelope.read(data)
        assert opened.affixes.rpad is not None
        unpadded = len(data) - opened.affixes.rpad
        extra = int.from_bytes(byte * 8) % 201
        assert len(data) == max(envelope.MINIMUM_SIZE, unpadded) + extra


def test_short_messages_cannot_be_told_apart_by_length() -> None:
    off = list(ephemeral.write_off())
    contents: list[list[Element]] = [[body("")], [body("x" * 150)], off, []]
    sizes = {len(built(*content, random=bytes)) for content in contents}
    assert sizes == {envelope.MINIMUM_SIZE}


def test_every_length_and_every_character_of_padding_occurs_evenly() -> None:
    lengths: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    chance = Random(4000)  # noqa: S311  true chance is uneven enough in one run of some thousand
    for _ in range(4000):
        root = xml.parse(built(body("x" * 900), random=chance.randbytes))
        padding = root[-1].text or ""
        lengths[len(padding)] += 1
        characters.update(padding)
    assert set(lengths) == set(range(201))
    assert max(lengths.values()) < 60
    assert len(characters) == 64
    assert max(characters.values()) < 1.1 * min(characters.values())


def test_the_content_is_not_changed_and_text_between_is_left_out() -> None:
    element = body("x")
    element.tail = "between"
    assert b"between" not in built(element)
    assert element.tail == "between"


def deep() -> Element:
    root = element = Element("{u}a")
    for _ in range(xml.MAX_DEPTH):
        child = Element("{u}a")
        element.append(child)
        element = child
    return root


@pytest.mark.parametrize(
    "element",
    [
        Element("{urn:xmpp:hints}store"),
        Element("{urn:xmpp:hints}unheard-of"),
        Element("{urn:xmpp:sid:0}stanza-id"),
        Element("{http://jabber.org/protocol/address}addresses"),
        Element("{http://jabber.org/protocol/address}address"),
        Element("{urn:xmpp:eme:0}encryption"),
        Element("body"),
        Element("{}body"),
        Element("body", {"xmlns": "jabber:client"}),
        Element("{u}1"),
        Element("{u}a\u2028"),
        Element("{u}a", {"-": "x"}),
        Element("{http://www.w3.org/2000/xmlns/}a"),
        Element(f"{{{'u' * (xml.MAX_NAMESPACE + 1)}}}a"),
        body("\x00"),
        body("\ud800"),
        body("x" * xml.MAX_BYTES),
        deep(),
    ],
)
def test_what_may_not_stand_in_content_is_our_own_error(element: Element) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        built(element)
    assert caught.value.__cause__ is None


def test_what_servers_would_end_the_stream_for_is_not_built() -> None:
    """Prosody and ejabberd do so above 256 KiB, keys and a text for legacy OMEMO included."""
    largest = envelope.MAX_BUILT - envelope.MAX_PADDING
    fixed = len(written(GOOD)) + len("<body xmlns='jabber:client'></body>") + 100
    assert len(built(body("x" * (largest - fixed)))) <= envelope.MAX_BUILT
    with pytest.raises(LocalProtocolError, match="split the content") as caught:
        built(body("x" * largest))
    assert "xxx" not in str(caught.value)
    assert 2 * envelope.MAX_BUILT * 4 / 3 < 256 * 1024 - 40_000


def test_others_may_write_larger_ones() -> None:
    text = "x" * 2 * envelope.MAX_BUILT
    data = written(GOOD, f"<body xmlns='jabber:client'>{text}</body>")
    assert envelope.read(data).content[0].text == text


def test_an_origin_id_may_stand_inside() -> None:
    opened = envelope.read(built(Element("{urn:xmpp:sid:0}origin-id", {"id": "1"})))
    assert [element.tag for element in opened.content] == ["{urn:xmpp:sid:0}origin-id"]


def test_a_naive_time_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        built(time=NOW.replace(tzinfo=None))


def test_another_zone_is_written_as_utc() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    assert b"'2026-07-01T12:00:00.123Z'" in built(time=NOW.astimezone(zone))


def test_elements_for_the_server_are_discarded_and_reported() -> None:
    content = "<store xmlns='urn:xmpp:hints'/><body xmlns='jabber:client'>x</body>"
    opened = envelope.read(written(GOOD, content))
    assert [element.tag for element in opened.content] == ["{jabber:client}body"]
    assert opened.findings == (Finding.SERVER_PROCESSED,)


def test_deeper_ones_belong_to_what_they_stand_in() -> None:
    content = "<forwarded xmlns='urn:xmpp:forward:0'><store xmlns='urn:xmpp:hints'/></forwarded>"
    opened = envelope.read(written(GOOD, content))
    assert len(opened.content[0]) == 1
    assert opened.findings == ()


def test_longer_padding_than_we_make_is_taken() -> None:
    assert verified(GOOD.replace("<rpad/>", f"<rpad>{'x' * 100_000}</rpad>")) == ()


def test_missing_rpad_and_from_are_accepted_and_reported() -> None:
    assert verified(f"<to jid='{JULIET}'/>") == (Finding.MISSING_RPAD, Finding.MISSING_FROM)


@pytest.mark.parametrize(
    ("affixes", "reason"),
    [
        ("<from jid='mallory@montague.example'/>", Reason.WRONG_SENDER),
        (f"<from jid='{JULIET}'/>", Reason.WRONG_SENDER),
        ("<to jid='mallory@montague.example'/>", Reason.WRONG_RECIPIENT),
        (f"<to jid='{ROMEO}'/>", Reason.WRONG_RECIPIENT),
        ("<from jid='nobody'/>", Reason.BAD_AFFIX),
        ("<to jid='nobody'/>", Reason.BAD_AFFIX),
        ("<from jid=''/>", Reason.BAD_AFFIX),
        ("<from/>", Reason.BAD_AFFIX),
        ("<to/>", Reason.BAD_AFFIX),
        ("<time/>", Reason.BAD_AFFIX),
        (f"<to jid='a@{'x' * envelope.MAX_JID}'/>", Reason.BAD_AFFIX),
        (f"<from jid='{ROMEO}'/><from jid='{ROMEO}'/>", Reason.BAD_AFFIX),
        (f"<to jid='{JULIET}'/><to jid='{ROOM}'/>", Reason.BAD_AFFIX),
        (f"<from xmlns:x='u' x:jid='{ROMEO}'/>", Reason.BAD_AFFIX),
    ],
)
def test_a_wrong_or_unreadable_jid_rejects(affixes: str, reason: Reason) -> None:
    assert refusal(affixes) is reason


def test_the_jid_is_normalised_and_its_resource_ignored() -> None:
    assert verified(f"<rpad/><from jid='{ROMEO.upper()}/phone'/><to jid='{JULIET}/x'/>") == ()


@pytest.mark.parametrize(
    ("affixes", "reason"),
    [
        (f"<from jid='{ROMEO}'/>", Reason.MISSING_AFFIX),
        (f"<from jid='{ROMEO}'/><to jid='{JULIET}'/>", Reason.WRONG_RECIPIENT),
        (f"<from jid='{ROMEO}'/><to jid='{ROOM}/romeo'/>", Reason.WRONG_RECIPIENT),
    ],
)
def test_in_a_room_only_the_room_is_the_recipient(affixes: str, reason: Reason) -> None:
    assert refusal(affixes, IN_ROOM) is reason
    assert verified(f"<rpad/><from jid='{ROMEO}'/><to jid='{ROOM}'/>", IN_ROOM) == ()


def test_a_message_for_a_room_is_none_for_us() -> None:
    assert refusal(f"<to jid='{ROOM}'/>") is Reason.WRONG_RECIPIENT


@pytest.mark.parametrize(
    ("stamp", "off"),
    [
        ("2026-07-01T12:05:00.123456Z", False),
        ("2026-07-01T12:05:00.123457Z", True),
        ("2026-07-01T11:55:00.123456Z", False),
        ("2026-07-01T11:55:00.123455Z", True),
        ("2026-07-01T14:00:00+02:00", False),
        ("2026-07-01T12:00:00+02:00", True),
        ("0001-01-01T00:00:00Z", True),
        ("9999-12-31T23:59:59Z", True),
    ],
)
def test_the_margin_holds_both_ways(stamp: str, off: bool) -> None:  # noqa: FBT001 -- a case, no switch
    affixes = GOOD.replace("2026-07-01T12:00:00Z", stamp)
    assert verified(affixes) == ((Finding.WRONG_TIME,) if off else ())
    if off:
        assert refusal(affixes, replace(EXPECTED, strict_time=True)) is Reason.WRONG_TIME


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("2004-01-25T06:05:00+01:00", datetime(2004, 1, 25, 5, 5, tzinfo=UTC)),
        ("1969-07-20T21:56:15-05:00", datetime(1969, 7, 21, 2, 56, 15, tzinfo=UTC)),
        ("2026-07-01T00:00:00.5Z", datetime(2026, 7, 1, 0, 0, 0, 500000, UTC)),
        ("2026-07-01T00:00:00.123456789Z", datetime(2026, 7, 1, 0, 0, 0, 123456, UTC)),
        (" 2106-02-07T06:28:16Z\n", datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC)),
    ],
)
def test_times_of_every_form(stamp: str, time: datetime) -> None:
    assert envelope.read(written(f"<time stamp='{stamp}'/>")).affixes.time == time


@pytest.mark.parametrize(
    "stamp",
    [
        "",
        "now",
        "1782907200",
        "2026-07-01",
        "2026-07-01T12:00:00",
        "2026-07-01 12:00:00Z",
        "20260701T12:00:00",
        "2026-07-01T12:00Z",
        "2026-07-01T12:00:00z",
        "2026-13-01T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-07-01T25:00:00Z",
        "2026-07-01T12:00:00+24:00",
        "2026-07-01T12:00:00+01:99",
        "2026-07-01T12:00:00+0100",
        "2026-07-01T12:00:00.Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "٢٠٢٦-07-01T12:00:00Z",
        "2026-W27-3T12:00:00Z",
        "2026-07-01T12:00:00." + "0" * 99 + "Z",
    ],
)
def test_a_malformed_time_is_reported_or_rejects(stamp: str) -> None:
    affixes = GOOD.replace("2026-07-01T12:00:00Z", stamp)
    opened = envelope.read(written(affixes))
    assert opened.affixes.time is None
    assert opened.findings == (Finding.MALFORMED_TIME,)
    assert refusal(affixes, replace(EXPECTED, strict_time=True)) is Reason.BAD_AFFIX


def test_nothing_of_the_content_prints() -> None:
    opened = envelope.read(built(Element("{urn:SENTINEL}a")))
    assert "SENTINEL" not in repr(opened)
