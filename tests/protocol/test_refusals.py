"""The error of a stanza, as RFC 6120 section 8.3 has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError, Refusal
from eph_e2ee.protocol import refusals, xml
from eph_e2ee.protocol.xml import Element

STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
GONE = Refusal("gone", "cancel", "x")


@pytest.mark.parametrize("condition", sorted(refusals.CONDITIONS))
@pytest.mark.parametrize("kind", [None, *sorted(refusals.KINDS)])
@pytest.mark.parametrize("text", [None, "", "no <tea> left"])
def test_written_and_read(condition: str, kind: str | None, text: str | None) -> None:
    element = refusals.write(Refusal(condition, kind, text))
    assert refusals.is_error(element)
    again = refusals.read([xml.parse(xml.serialize(element))])
    assert again == Refusal(condition, kind or refusals.CONDITIONS[condition], text)


def test_it_is_an_error_of_stanzas() -> None:
    assert xml.serialize(refusals.write(Refusal("forbidden", text="no"))).decode() == (
        f"<error xmlns='jabber:client' type='auth'><forbidden xmlns='{STANZAS}'/>"
        f"<text xmlns='{STANZAS}'>no</text></error>"
    )


@pytest.mark.parametrize(
    ("condition", "kind"), [("teapot", None), ("", None), ("gone", "never"), ("gone", "cancel ")]
)
def test_a_word_that_rfc_6120_does_not_have(condition: str, kind: str | None) -> None:
    with pytest.raises(LocalProtocolError):
        refusals.write(Refusal(condition, kind))


def test_every_condition_has_a_kind() -> None:
    assert set(refusals.CONDITIONS.values()) <= refusals.KINDS
    assert len(refusals.CONDITIONS) == 22


@pytest.mark.parametrize(
    ("kind", "inside", "expected"),
    [
        ("", "", Refusal("undefined-condition", "cancel")),
        ("burn", "", Refusal("undefined-condition", "cancel")),
        ("wait", "", Refusal("undefined-condition", "wait")),
        (
            "",
            f"<text xmlns='{STANZAS}'>x</text><gone xmlns='{STANZAS}'>y</gone>",
            GONE,
        ),
        ("", f"<gone xmlns='urn:example'/><gone xmlns='{STANZAS}'/>", Refusal("gone", "cancel")),
        ("", f"<teapot xmlns='{STANZAS}'/>", Refusal("undefined-condition", "cancel")),
    ],
)
# QXmpp's has no namespace of its own, and so the envelope's.
@pytest.mark.parametrize("namespace", ["jabber:client", "urn:xmpp:sce:1"])
def test_what_others_write(namespace: str, kind: str, inside: str, expected: Refusal) -> None:
    element = xml.parse(f"<error xmlns='{namespace}' type='{kind}'>{inside}</error>".encode())
    assert refusals.is_error(element)
    assert refusals.read([element]) == expected


def test_what_is_no_error() -> None:
    assert refusals.read([Element("{urn:example}error")]) is None
    assert refusals.read([]) is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_only_known_words_come_out(condition: str, kind: str) -> None:
    """What an error says is shown; a peer's words are not, but for the text."""
    element = refusals.write(Refusal("gone"))
    element.set("type", kind)
    element[0].tag = f"{{{STANZAS}}}{condition}"
    found = refusals.read([element])
    assert found is not None
    assert found.condition in refusals.CONDITIONS
    assert found.kind in refusals.KINDS
