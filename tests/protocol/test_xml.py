"""Strict XML: what is refused, what is kept, and that nothing ever escapes as another error."""

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError, Reason, RemoteProtocolError
from eph_e2ee.protocol import xml
from eph_e2ee.protocol.xml import Element

CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
TEXTS = st.text(CHARACTERS | st.sampled_from("\t\n\r<>&'\"]"), max_size=12)
LOCALS = st.from_regex(r"[A-Za-z_\u00e9\u0391][A-Za-z0-9_.\-]{0,6}", fullmatch=True).filter(
    lambda name: name != "xmlns"
)
NAMESPACES = st.sampled_from(["", "jabber:client", "urn:xmpp:sce:1", "u:<&'\">", "é"])
XML_NAMESPACE = "http://www.w3.org/XML/1998/namespace"


def clark(namespace: str, local: str) -> str:
    return f"{{{namespace}}}{local}" if namespace else local


NAMES = st.builds(clark, NAMESPACES, LOCALS)
ATTRIBUTES = st.dictionaries(NAMES | st.just(f"{{{XML_NAMESPACE}}}lang"), TEXTS, max_size=3)


def make(name: str, attributes: dict[str, str], text: str, children: list[Element]) -> Element:
    element = Element(name, attributes)
    element.text = text or None
    element.extend(children)
    return element


def with_tail(element: Element, tail: str) -> Element:
    element.tail = tail or None
    return element


LEAVES = st.builds(make, NAMES, ATTRIBUTES, TEXTS, st.just([]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        make, NAMES, ATTRIBUTES, TEXTS, st.lists(st.builds(with_tail, inner, TEXTS), max_size=3)
    ),
    max_leaves=12,
)
# Bytes that look enough like XML to come far.
FRAGMENTS = st.lists(
    st.sampled_from(
        [
            b"<a>",
            b"</a>",
            b"<a",
            b" x='1'",
            b" xmlns='u'",
            b" xmlns:p='u'",
            b"<p:a/>",
            b"/>",
            b">",
            b"<!--",
            b"-->",
            b"<?x ?>",
            b"<?xml version='1.0'?>",
            b"<!DOCTYPE a [",
            b"]>",
            b"<!ENTITY e 'x'>",
            b"&e;",
            b"&amp;",
            b"&#0;",
            b"<![CDATA[",
            b"]]>",
            b"\xef\xbb\xbf",
            b"\x00",
            b"\xff",
            b"text",
            b"\r",
            b"xml:lang='en'",
            b"<xml:a/>",
            b"'",
            b"}",
        ]
    ),
    max_size=12,
).map(b"".join)


def meaning(element: Element) -> object:
    """Everything that a tree says, without the tail of its root."""
    children = [(meaning(child), child.tail or "") for child in element]
    return element.tag, sorted(element.items()), element.text or "", children


def refusal(data: bytes) -> Reason:
    with pytest.raises(RemoteProtocolError) as caught:
        xml.parse(data)
    assert caught.value.__cause__ is None
    return caught.value.reason


@given(st.binary(max_size=200) | FRAGMENTS | st.text(max_size=60).map(lambda t: t.encode("utf-16")))
def test_any_bytes_parse_or_raise_the_one_remote_error(data: bytes) -> None:
    try:
        element = xml.parse(data)
    except RemoteProtocolError:
        return
    assert meaning(xml.parse(xml.serialize(element))) == meaning(element)


@given(TREES)
def test_what_is_written_reads_the_same(element: Element) -> None:
    written = xml.serialize(element)
    assert meaning(xml.parse(written)) == meaning(element)
    assert xml.serialize(xml.parse(written)) == written


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.NOT_XML),
        (b"text", Reason.NOT_XML),
        (b"<a>", Reason.NOT_XML),
        (b"<a/><b/>", Reason.NOT_XML),
        (b"<a/>text", Reason.NOT_XML),
        (b"<p:a/>", Reason.NOT_XML),
        (b"<a p:x='1'/>", Reason.NOT_XML),
        (b"<a xmlns:p=''/>", Reason.NOT_XML),
        (b"<a x='1' x='2'/>", Reason.NOT_XML),
        (b"<a xmlns:p='u' xmlns:q='u' p:x='1' q:x='2'/>", Reason.NOT_XML),
        (b"<a xmlns='http://www.w3.org/2000/xmlns/'/>", Reason.NOT_XML),
        (b"<a xmlns='u}v'/>", Reason.NOT_XML),
        (b"<a>\xed\xa0\x80</a>", Reason.NOT_XML),
        (b"<a>&#xD800;</a>", Reason.NOT_XML),
        (b"<a>&#0;</a>", Reason.NOT_XML),
        (b"<a>\x01</a>", Reason.NOT_XML),
        (b"<a>\xff</a>", Reason.NOT_XML),
        (b"<a>\0</a>", Reason.NOT_XML),
        (b"<a>]]></a>", Reason.NOT_XML),
        (b"<a>&lol;</a>", Reason.NOT_XML),
        (b"<?xml version='1.0' encoding='iso-8859-1'?><a/>", Reason.NOT_XML),
        ("<a>secret</a>".encode("utf-16"), Reason.NOT_XML),
        ("<a>secret</a>".encode("utf-16-le"), Reason.NOT_XML),
        ("<a>secret</a>".encode("utf-16-be"), Reason.NOT_XML),
        (b"<!DOCTYPE a><a/>", Reason.FORBIDDEN_XML),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", Reason.FORBIDDEN_XML),
        (b"<!DOCTYPE a [<!ENTITY lol 'lol'>]><a>&lol;</a>", Reason.FORBIDDEN_XML),
        (b"<!DOCTYPE a [<!ENTITY % p SYSTEM 'u'> %p;]><a/>", Reason.FORBIDDEN_XML),
        (b"<a><?php x?></a>", Reason.FORBIDDEN_XML),
        (b"<a/><?php x?>", Reason.FORBIDDEN_XML),
        (b"<a><!-- x --></a>", Reason.FORBIDDEN_XML),
        (b"<!-- x --><a/>", Reason.FORBIDDEN_XML),
        (b"<a/><!-- x -->", Reason.FORBIDDEN_XML),
    ],
)
def test_refused(data: bytes, reason: Reason) -> None:
    assert refusal(data) is reason


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (
            b"<a>" + b"x" * (xml.MAX_BYTES - 7) + b"</a>",
            b"<a>" + b"x" * (xml.MAX_BYTES - 6) + b"</a>",
        ),
        (
            b"<a>" * xml.MAX_DEPTH + b"</a>" * xml.MAX_DEPTH,
            b"<a>" * (xml.MAX_DEPTH + 1) + b"</a>" * (xml.MAX_DEPTH + 1),
        ),
        (
            b"<a>" + b"<b/>" * (xml.MAX_ELEMENTS - 1) + b"</a>",
            b"<a>" + b"<b/>" * xml.MAX_ELEMENTS + b"</a>",
        ),
        (
            b"<a" + b"".join(b" x%d=''" % i for i in range(xml.MAX_ATTRIBUTES)) + b"/>",
            b"<a" + b"".join(b" x%d=''" % i for i in range(xml.MAX_ATTRIBUTES + 1)) + b"/>",
        ),
        (
            b"<a" + b"".join(b" xmlns:x%d='u'" % i for i in range(xml.MAX_ATTRIBUTES)) + b"/>",
            b"<a" + b"".join(b" xmlns:x%d='u'" % i for i in range(xml.MAX_ATTRIBUTES + 1)) + b"/>",
        ),
        (
            b"<a xmlns='%b'/>" % (b"u" * xml.MAX_NAMESPACE),
            b"<a xmlns='%b'/>" % (b"u" * (xml.MAX_NAMESPACE + 1)),
        ),
    ],
    ids=["bytes", "depth", "elements", "attributes", "declarations", "namespace"],
)
def test_limits_are_exact(within: bytes, beyond: bytes) -> None:
    assert meaning(xml.parse(xml.serialize(xml.parse(within)))) == meaning(xml.parse(within))
    assert refusal(beyond) is Reason.TOO_LARGE


def test_a_limit_stops_the_parser_and_does_not_wait_for_the_end() -> None:
    # The end would be an error of another kind, and the tree would take a hundred times as much.
    deep = b"<a>" * (xml.MAX_BYTES // 4) + b"<"
    tracemalloc.start()
    try:
        assert refusal(deep) is Reason.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 4 * xml.MAX_BYTES
    finally:
        tracemalloc.stop()


def test_a_prefix_does_not_blow_a_small_document_up() -> None:
    namespace = b"u" * xml.MAX_NAMESPACE
    data = b"<a xmlns:p='%b'>%b</a>" % (namespace, b"<p:b/>" * (xml.MAX_ELEMENTS - 1))
    assert len(xml.serialize(xml.parse(data))) < 2 * xml.MAX_BYTES


ITEMS = xml.MAX_ELEMENTS - 1
SHORT = b"<a xmlns:b='%b' xmlns:c='d'>%b</a>"
"""A document whose namespaces have one letter each, where they are written out for every item."""


@pytest.mark.parametrize(
    "data",
    [
        SHORT % (b"u" * xml.MAX_NAMESPACE, b"<b:i/>" * ITEMS),
        SHORT % (b"u", b"<b:i c:x=''/>" * (xml.MAX_ATTRIBUTES // 2)),
        b"<a>%b</a>" % (b">" * (xml.MAX_BYTES - 7)),
    ],
    ids=["bytes", "attributes", "text"],
)
def test_what_was_accepted_is_read_back(data: bytes) -> None:
    """Also where what is written of it is over a limit."""
    accepted = xml.parse(data)
    written = xml.serialize(accepted)
    assert refusal(written) is Reason.TOO_LARGE
    assert meaning(xml.read_back(written)) == meaning(accepted)


@pytest.mark.parametrize("data", [b"", b"<a>\0</a>", b"<!DOCTYPE a><a/>", b"<a>\xff</a>"])
def test_what_nobody_has_written_is_not_read_back(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        xml.read_back(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<a>" + b"&amp;" * 200_000 + b"</a>",
        b"<a>" + b"<![CDATA[x]]>" * 75_000 + b"</a>",
        b"<a x='" + b"&#10;" * 200_000 + b"'/>",
        b"<" + b"a" * 1_000_000 + b"/>",
        b"<a>" + b"\r\n" * 500_000 + b"</a>",
    ],
    ids=["references", "sections", "value", "name", "lines"],
)
def test_a_megabyte_of_anything_takes_no_long_time(data: bytes) -> None:
    start = time.process_time()
    element = xml.parse(data)
    assert xml.serialize(xml.parse(xml.serialize(element))) == xml.serialize(element)
    assert time.process_time() - start < 5


def test_the_plain_forms_are_read() -> None:
    data = b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-8'?><a>x<![CDATA[<y>]]>&#122;</a>"
    assert xml.parse(data).text == "x<y>z"


def test_foreign_namespaces_are_explicit_and_prefixes_are_gone() -> None:
    data = (
        b"<s:envelope xmlns:s='urn:xmpp:sce:1' xmlns:c='jabber:client'><s:content><c:body>x"
        b"</c:body></s:content></s:envelope>"
    )
    assert xml.serialize(xml.parse(data)) == (
        b"<envelope xmlns='urn:xmpp:sce:1'><content><body xmlns='jabber:client'>x</body>"
        b"</content></envelope>"
    )


def test_an_element_without_namespace_stays_without() -> None:
    data = b"<a xmlns='u'><b xmlns=''><c/></b></a>"
    assert xml.serialize(xml.parse(data)) == data


def test_attributes_keep_their_namespaces() -> None:
    data = b"<a xmlns='u' xmlns:p='v' p:x='1' x='2' xml:lang='en'/>"
    assert xml.parse(data).attrib == {"{v}x": "1", "x": "2", f"{{{XML_NAMESPACE}}}lang": "en"}
    written = xml.serialize(xml.parse(data))
    assert written == b"<a xmlns='u' xmlns:n0='v' n0:x='1' x='2' xml:lang='en'/>"


def test_the_namespace_of_xml_keeps_its_prefix() -> None:
    data = b"<a xmlns='u'><xml:b><c/></xml:b></a>"
    assert xml.serialize(xml.parse(data)) == data


def test_the_tail_of_the_root_is_not_written() -> None:
    element = Element("a")
    element.tail = "left behind"
    assert xml.serialize(element) == b"<a/>"


def test_a_deep_tree_of_our_own_needs_no_stack() -> None:
    root = element = Element("a")
    for _ in range(xml.MAX_ELEMENTS - 1):
        child = Element("a")
        element.append(child)
        element = child
    assert xml.serialize(root).count(b"<a") == xml.MAX_ELEMENTS


def loop() -> Element:
    element = Element("a")
    element.append(element)
    return element


def with_text(text: str) -> Element:
    element = Element("a")
    element.text = text
    return element


@pytest.mark.parametrize(
    "element",
    [
        with_text("\x00"),
        with_text("\x0b"),
        with_text("\ud800"),
        with_text("\ufffe"),
        Element("a", {"x": "\x1f"}),
        Element("a", {"xmlns": "u"}),
        Element("a", {"x='1' y": "2"}),
        Element("a", {"xmlns:p": "u"}),
        Element("a/><b"),
        Element("a b"),
        Element(""),
        Element("{u"),
        Element("u}a"),
        loop(),
    ],
)
def test_what_cannot_be_written_is_our_own_error(element: Element) -> None:
    with pytest.raises(LocalProtocolError):
        xml.serialize(element)


@given(TEXTS)
def test_a_quoted_value_reads_the_same(text: str) -> None:
    assert xml.parse(f"<a x={xml.quoted(text)}/>".encode()).get("x") == text
