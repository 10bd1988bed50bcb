"""Every vector: `header: value` lines, an empty line, and the bytes up to the last line end.

of         envelope, or ephemeral: the content of an envelope
about      what it shows
expect     envelope: accepted, or the name of the reason; ephemeral: what is announced
content    the names of the elements that remain
findings   what is reported
group      the room that it came through
canonical  whether the bytes are what we write
escaped    whether the bytes are written as in a bytes literal of Python
"""

import codecs
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import envelope, ephemeral, xml
from eph_e2ee.protocol.envelope import Envelope, Expected
from eph_e2ee.protocol.ephemeral import Announcement, Kind
from eph_e2ee.protocol.xml import Element

FOLDER = Path(__file__).parent.parent / "vectors"
KNOWN = {"of", "about", "expect", "content", "findings", "group", "canonical", "escaped"}


class Vector(NamedTuple):
    headers: dict[str, str]
    data: bytes

    def get(self, name: str) -> str:
        return self.headers.get(name, "")


def load(name: str) -> Vector:
    head, _, data = (FOLDER / name).read_bytes().removesuffix(b"\n").partition(b"\n\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\n"))
    if headers.get("escaped") == "yes":
        data = codecs.decode(data, "unicode_escape").encode("latin-1")
    return Vector(headers, data)


NAMES = sorted(path.name for path in FOLDER.glob("*.txt"))
GOOD = [name for name in NAMES if load(name).get("canonical")]
ENVELOPES = [name for name in NAMES if load(name).get("of") == "envelope"]
EPHEMERALS = [name for name in NAMES if load(name).get("of") == "ephemeral"]


def normalise(jid: str) -> BareJid:
    if "@" not in jid or " " in jid:
        raise ValueError("not a JID")
    return BareJid(jid.partition("/")[0])


def expected(vector: Vector) -> Expected:
    return Expected(
        sender=BareJid("romeo@montague.example"),
        recipients=frozenset({BareJid(vector.get("group") or "juliet@capulet.example")}),
        group=bool(vector.get("group")),
        sent_at=datetime(2026, 7, 1, 12, tzinfo=UTC),
        margin=timedelta(minutes=5),
        strict_time=False,
        normalise=normalise,
    )


def opened(vector: Vector) -> tuple[Envelope, list[str]]:
    found = envelope.read(vector.data)
    findings = found.findings + envelope.verify(found, expected(vector))
    return found, [finding.name for finding in findings]


def said(announcement: Announcement) -> str:
    if announcement.kind is Kind.TIMER:
        return f"timer {announcement.timer}"
    return "opt-out" if announcement.opt_out else announcement.kind.value


def meaning(element: Element) -> object:
    children = [(meaning(child), child.tail or "") for child in element]
    return element.tag, sorted(element.items()), element.text or "", children


def test_the_vectors_are_there_and_well_written() -> None:
    assert len(ENVELOPES) >= 50
    assert len(EPHEMERALS) >= 25
    assert len(ENVELOPES) + len(EPHEMERALS) == len(NAMES)
    for name in NAMES:
        assert set(load(name).headers) <= KNOWN
    reasons = {load(name).get("expect") for name in ENVELOPES} - {"accepted"}
    assert reasons <= {reason.name for reason in Reason}


@pytest.mark.parametrize("name", ENVELOPES)
def test_envelope(name: str) -> None:
    vector = load(name)
    if vector.get("expect") != "accepted":
        with pytest.raises(RemoteProtocolError) as caught:
            opened(vector)
        assert caught.value.reason.name == vector.get("expect")
        return
    found, findings = opened(vector)
    assert [element.tag for element in found.content] == vector.get("content").split()
    assert findings == vector.get("findings").split()


SPLICES = st.binary(max_size=4) | st.sampled_from(
    [b"<", b">", b"'", b"<a>", b"</a>", b"&", b"&#9;"]
)


@given(st.sampled_from(NAMES), st.integers(0, 800), st.integers(0, 60), SPLICES)
def test_a_vector_that_was_tampered_with_reads_or_raises_the_one_remote_error(
    name: str, start: int, length: int, splice: bytes
) -> None:
    vector = load(name)
    data = vector.data[:start] + splice + vector.data[start + length :]
    try:
        found, _ = opened(Vector(vector.headers, data))
    except RemoteProtocolError:
        return
    ephemeral.read(found.content)
    for element in found.content:
        assert meaning(xml.parse(xml.serialize(element))) == meaning(element)


@pytest.mark.parametrize("name", EPHEMERALS)
def test_ephemeral(name: str) -> None:
    vector = load(name)
    announcement = ephemeral.read(tuple(xml.parse(vector.data)))
    assert said(announcement) == vector.get("expect")
    assert [finding.name for finding in announcement.findings] == vector.get("findings").split()
    if announcement.timer is not None:
        written = xml.parse(xml.serialize(ephemeral.write(announcement.timer)))
        assert ephemeral.read((written,)).timer == announcement.timer


@pytest.mark.parametrize("name", GOOD)
def test_written_again(name: str) -> None:
    """What is read and written again means the same, and is the same where it is canonical."""
    vector = load(name)
    once = xml.parse(vector.data)
    written = xml.serialize(once)
    assert meaning(xml.parse(written)) == meaning(once)
    assert (written == vector.data) == (vector.get("canonical") == "yes")


@pytest.mark.parametrize("name", [name for name in ENVELOPES if name in GOOD])
def test_built_again(name: str) -> None:
    """What we accept we can send: the content in an envelope of ours means the same."""
    vector = load(name)
    found, _ = opened(vector)
    data = envelope.build(
        found.content,
        sender=BareJid("romeo@montague.example"),
        to=BareJid(vector.get("group") or "juliet@capulet.example"),
        time=datetime(2026, 7, 1, 12, tzinfo=UTC),
        random=bytes,
    )
    again, findings = opened(Vector(vector.headers, data))
    assert findings == []
    assert [meaning(part) for part in again.content] == [meaning(part) for part in found.content]
