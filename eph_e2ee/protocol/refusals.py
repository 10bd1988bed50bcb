"""The `<error/>` of a stanza (RFC 6120 section 8.3), which stands inside the envelope here.

It is a child of `<content>`, in jabber:client, and has a condition and perhaps a `<text/>`, both in
urn:ietf:params:xml:ns:xmpp-stanzas.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from xml.etree.ElementTree import SubElement

from eph_e2ee.errors import LocalProtocolError, Refusal
from eph_e2ee.protocol import envelope
from eph_e2ee.protocol.xml import Element

__all__ = ["CONDITIONS", "KINDS", "is_error", "read", "write"]

KINDS = frozenset({"auth", "cancel", "continue", "modify", "wait"})
"""What an error asks its reader to do (RFC 6120 section 8.3.2)."""

CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "bad-request": "modify",
        "conflict": "cancel",
        "feature-not-implemented": "cancel",
        "forbidden": "auth",
        "gone": "cancel",
        "internal-server-error": "cancel",
        "item-not-found": "cancel",
        "jid-malformed": "modify",
        "not-acceptable": "modify",
        "not-allowed": "cancel",
        "not-authorized": "auth",
        "policy-violation": "modify",
        "recipient-unavailable": "wait",
        "redirect": "modify",
        "registration-required": "auth",
        "remote-server-not-found": "cancel",
        "remote-server-timeout": "wait",
        "resource-constraint": "wait",
        "service-unavailable": "cancel",
        "subscription-required": "auth",
        "undefined-condition": "cancel",
        "unexpected-request": "wait",
    }
)
"""Every condition of RFC 6120 section 8.3.3, with the kind that goes with it."""

_STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
_ERROR = "{jabber:client}error"
# QXmpp writes it without a namespace of its own: it then inherits the envelope's.
_ERRORS = frozenset({_ERROR, f"{{{envelope.NAMESPACE}}}error"})


def write(refusal: Refusal) -> Element:
    """Make the element.

    Raises:
        LocalProtocolError: RFC 6120 knows no such condition, or no such kind.
    """
    kind = refusal.kind or CONDITIONS.get(refusal.condition)
    if refusal.condition not in CONDITIONS or kind not in KINDS:
        raise LocalProtocolError("a refusal needs a condition and a kind of RFC 6120 section 8.3")
    error = Element(_ERROR, {"type": kind})
    SubElement(error, _STANZAS + refusal.condition)
    if refusal.text is not None:
        SubElement(error, f"{_STANZAS}text").text = refusal.text
    return error


def is_error(element: Element) -> bool:
    """Tell whether an element is the error of a stanza."""
    return element.tag in _ERRORS


def read(elements: Iterable[Element]) -> Refusal | None:
    """Read the error among some elements; None where there is none. It never raises.

    Only the words of RFC 6120 come out of it; "undefined-condition" stands for any others.
    """
    error = next(filter(is_error, elements), None)
    if error is None:
        return None
    named = (child.tag.removeprefix(_STANZAS) for child in error if child.tag.startswith(_STANZAS))
    condition = next((name for name in named if name in CONDITIONS), "undefined-condition")
    kind = error.get("type", "")
    return Refusal(
        condition,
        kind if kind in KINDS else CONDITIONS[condition],
        error.findtext(f"{_STANZAS}text"),
    )
