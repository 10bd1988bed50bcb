"""Strict XML in and out, for what stands inside the encryption.

Reading takes UTF-8 with namespaces and nothing else: no document type, no processing instruction,
no comment (RFC 6120 section 11.1). Each limit is enforced while expat runs, so nothing that is
over a limit is ever built. Writing makes one form only: every element names its namespace as the
default one where its parent has another, so no prefix that a peer chose comes back.

Neither direction recurses: depth in the tree is never depth on the stack.
"""

import re
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from eph_e2ee.errors import LocalProtocolError, Reason, RemoteProtocolError

__all__ = [
    "MAX_ATTRIBUTES",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "MAX_NAMESPACE",
    "Element",
    "parse",
    "quoted",
    "read_back",
    "serialize",
    "split_name",
]

MAX_BYTES = 1024 * 1024
"""Four times what Prosody takes from a client in one stanza; larger things are uploaded."""

MAX_DEPTH = 64
"""A forwarded message with marked-up text needs about 15 levels; the rest is room to grow."""

MAX_ELEMENTS = 4096
"""Far above any real message. A tree takes some hundred bytes an element, so about a megabyte."""

MAX_ATTRIBUTES = 4096
"""In the whole document, namespace declarations included: one for each element is plenty."""

MAX_NAMESPACE = 256
"""Characters of one namespace. A prefix repeats a namespace at the price of one letter, so this
bounds what a small document can swell to: with the two limits above, about 2 MiB."""

_XML_NAMESPACE = "http://www.w3.org/XML/1998/namespace"
_NAME = re.compile(r"[^\s<>&'\"=/{}:!?]+")
_NO_CHARACTER = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_VALUE = _TEXT | str.maketrans({"'": "&apos;", "\t": "&#9;", "\n": "&#10;"})


def parse(data: bytes) -> Element:
    """Read one document of strict XML; names come in Clark's notation, `{namespace}name`.

    Raises:
        RemoteProtocolError: it is not such a document, or over a limit; nothing else is raised.
    """
    if len(data) > MAX_BYTES:
        raise RemoteProtocolError(Reason.TOO_LARGE)
    return _read(data, limited=True)


def read_back(data: bytes) -> Element:
    """Read what `serialize` wrote of a tree that `parse` gave.

    That may be over the limits by which the tree was accepted: it writes each namespace out, which
    a prefix had for a letter.

    Raises:
        RemoteProtocolError: `serialize` has not written it.
    """
    return _read(data, limited=False)


def _read(data: bytes, *, limited: bool) -> Element:
    # Expat takes UTF-16 for itself whatever encoding it is given, and that always has NUL bytes.
    if b"\0" in data or not _is_utf8(data):
        raise RemoteProtocolError(Reason.NOT_XML)
    return _Reader(limited=limited).read(data)


def serialize(element: Element) -> bytes:
    """Write an element, without its tail, as UTF-8 with every foreign namespace explicit.

    `parse` gives the same tree back. Nothing is written that could be read as something else.

    Raises:
        LocalProtocolError: XML has no way to write it (a name, a character, too many elements).
    """
    pieces: list[str] = []
    # What is still to be written, the next one last: text as it stands, or an element together
    # with the default namespace at its place.
    waiting: list[str | tuple[Element, str]] = [(element, "")]
    remaining = MAX_ELEMENTS
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        if (remaining := remaining - 1) < 0:
            raise LocalProtocolError("split the content: it has too many elements for one message")
        _open(*item, pieces, waiting)
    return "".join(pieces).encode()


def quoted(value: str) -> str:
    """Write an attribute's value between its quotes.

    Raises:
        LocalProtocolError: a character that XML does not allow.
    """
    return f"'{_checked(value).translate(_VALUE)}'"


def split_name(name: object) -> tuple[str, str]:
    """Split a name in Clark's notation into its namespace, perhaps empty, and its local part.

    Raises:
        LocalProtocolError: it is no name.
    """
    if isinstance(name, str):
        namespace, _, local = name.rpartition("}")
        if _NAME.fullmatch(local) and namespace[:1] in {"", "{"}:
            return namespace[1:], local
    raise LocalProtocolError("an element or attribute needs a name as ElementTree writes it")


class _Reader:
    """Builds one tree, counting as it goes."""

    def __init__(self, *, limited: bool) -> None:
        self._limited = limited
        self._tree = TreeBuilder()
        self._depth = 0
        self._elements = 0
        self._attributes = 0

    def read(self, data: bytes) -> Element:
        # In namespace mode expat itself refuses undeclared prefixes, attributes that are the same
        # once expanded, and namespaces that hold the separator.
        parser = expat.ParserCreate("UTF-8", "}")
        parser.buffer_text = True
        parser.XmlDeclHandler = _declaration
        parser.StartDoctypeDeclHandler = _forbidden
        parser.EntityDeclHandler = _forbidden
        parser.ProcessingInstructionHandler = _forbidden
        parser.CommentHandler = _forbidden
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._tree.data
        try:
            parser.Parse(data, True)
        except expat.ExpatError:
            raise RemoteProtocolError(Reason.NOT_XML) from None
        return self._tree.close()

    def _namespace(self, _prefix: str | None, uri: str | None) -> None:
        self._attributes += 1
        self._check(len(uri or "") <= MAX_NAMESPACE)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        self._attributes += len(attributes)
        self._check(self._depth <= MAX_DEPTH and self._elements <= MAX_ELEMENTS)
        self._tree.start(_clark(name), {_clark(key): text for key, text in attributes.items()})

    def _check(self, within: bool) -> None:  # noqa: FBT001 -- a fact, no switch
        if self._limited and not (within and self._attributes <= MAX_ATTRIBUTES):
            raise RemoteProtocolError(Reason.TOO_LARGE)

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._tree.end(_clark(name))


def _is_utf8(data: bytes) -> bool:
    # Answers instead of raising: the exception would carry the message in its `object`.
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _forbidden(*_: object) -> None:
    raise RemoteProtocolError(Reason.FORBIDDEN_XML)


def _declaration(_version: str, encoding: str | None, _standalone: int) -> None:
    if encoding is not None and encoding.upper() != "UTF-8":
        raise RemoteProtocolError(Reason.NOT_XML)


def _clark(name: str) -> str:
    return "{" + name if "}" in name else name


def _open(
    element: Element, default: str, pieces: list[str], waiting: list[str | tuple[Element, str]]
) -> None:
    """Write a start tag, and put what follows it on the waiting list, the last first."""
    namespace, name = split_name(element.tag)
    if namespace == _XML_NAMESPACE:
        # This one is bound to its prefix and may not become a default namespace.
        name, namespace = f"xml:{name}", default
    declaration = "" if namespace == default else f" xmlns={quoted(namespace)}"
    pieces.append(f"<{name}{declaration}{_attributes(element)}")
    if not len(element) and not element.text:
        pieces.append("/>")
        return
    pieces.append(f">{_escaped(element.text)}")
    waiting.append(f"</{name}>")
    for child in reversed(element):
        waiting.append(_escaped(child.tail))
        waiting.append((child, namespace))


def _attributes(element: Element) -> str:
    pieces = []
    prefixes: dict[str, str] = {"": "", _XML_NAMESPACE: "xml:"}
    for key, value in element.items():
        namespace, name = split_name(key)
        if (namespace, name) == ("", "xmlns"):
            raise LocalProtocolError("put an element's namespace into its tag, not an attribute")
        if namespace not in prefixes:
            prefix = f"n{len(prefixes) - 2}"
            prefixes[namespace] = f"{prefix}:"
            pieces.append(f" xmlns:{prefix}={quoted(namespace)}")
        pieces.append(f" {prefixes[namespace]}{name}={quoted(value)}")
    return "".join(pieces)


def _escaped(text: str | None) -> str:
    return _checked(text).translate(_TEXT) if text else ""


def _checked(text: object) -> str:
    if not isinstance(text, str) or _NO_CHARACTER.search(text):
        raise LocalProtocolError("remove the control characters: XML has no way to write them")
    return text
