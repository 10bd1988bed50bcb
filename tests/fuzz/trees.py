"""Trees of XML: made, mutated without regard to their meaning, and written down as material.

Material is what a case holds. What would make it long stands in it as an element of our own, and
becomes what it means only when it is used: `expanded`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from tests.fuzz import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.source import Source

__all__ = ["FUZZ", "bloated", "element", "expanded", "mutated", "read", "written"]

FUZZ: Final = "{eph-e2ee:fuzz}"
"""The namespace of what is no part of any stanza, but says how one is made."""

DEEPEST: Final = 30_000
"""Levels that fit into the largest stanza that a server takes, 256 KiB."""

WIDEST: Final = 60_000
"""Children that do."""

FORBIDDEN: Final = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")

NAMESPACES: Final = (
    *("jabber:client", "urn:xmpp:omemo:2", "eu.siacs.conversations.axolotl", "urn:xmpp:sce:1"),
    *("urn:xmpp:ephemeral:0", "urn:xmpp:carbons:2", "urn:xmpp:forward:0", "urn:xmpp:mam:2"),
    *("urn:xmpp:sid:0", "urn:xmpp:receipts", "urn:xmpp:chat-markers:0", "jabber:x:data", ""),
    *("http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/pubsub#event"),
    *("http://jabber.org/protocol/muc#user", "urn:xmpp:delay", "urn:example", "jabber:server"),
)

VALUES: Final = (words.address, words.number, words.name, words.stamp, words.text)


def element(tag: str, *children: Element, text: str = "", **attributes: str) -> Element:
    """An element; an attribute's name may end in an underscore, where Python wants it to itself."""
    made = Element(tag, {key.rstrip("_"): value for key, value in attributes.items()})
    made.text = text or None
    made.extend(children)
    return made


def mutated(source: Source, root: Element) -> Element:
    """The same tree with a few changes at places that the source picks; seldom with none."""
    for _ in range(source.below(6)):
        nodes = list(root.iter())
        source.one(CHANGES)(source, root, source.one(nodes[:65536]))
    return root


def bloated(source: Source) -> Element:
    """Something very deep or very wide."""
    most = source.chance(50)
    if source.chance(2):
        levels = DEEPEST if most else source.one((50, 70, 200, 400, 1000))
        return element(f"{FUZZ}deep", levels=str(levels))
    children = WIDEST if most else source.one((100, 1000, 5000))
    return element(f"{FUZZ}wide", children=str(children))


def written(root: Element) -> bytes:
    """Material, as it stands in a case; without what XML has no way to write."""
    material = tostring(root, "unicode")
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", material).encode()


def read(material: bytes) -> Element:
    """The tree of some material, with nothing expanded."""
    return fromstring(material)  # noqa: S314 -- written by a target


def expanded(root: Element) -> Element:
    """The tree with what is very deep or very wide in the place of its name."""
    for parent in list(root.iter()):
        for index, child in enumerate(parent):
            if child.tag == f"{FUZZ}deep":
                parent[index] = _deep(_size(child, "levels", DEEPEST))
            elif child.tag == f"{FUZZ}wide":
                parent[index] = _wide(_size(child, "children", WIDEST))
            elif child.tag == f"{FUZZ}many":
                parent[:] = _many(child.get("of", "x"), _size(child, "children", WIDEST))
                break
    return root


def _size(child: Element, name: str, most: int) -> int:
    text = child.get(name, "")
    return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 9 else 1


def _deep(levels: int) -> Element:
    top = innermost = Element("{urn:example}a")
    for _ in range(levels):
        innermost = SubElement(innermost, "{urn:example}a")
    return top


def _wide(children: int) -> Element:
    wide = Element("{urn:example}a")
    wide.extend(_many("{urn:example}b", children))
    return wide


def _many(tag: str, children: int) -> list[Element]:
    return [Element(tag) for _ in range(children)]


def _attribute(source: Source, _root: Element, node: Element) -> None:
    names = [*node.attrib, "id", "from", "to", "type", "jid", "node", "{urn:example}x"]
    node.set(source.one(names[:256]), source.one(VALUES)(source))


def _less(source: Source, _root: Element, node: Element) -> None:
    if node.attrib:
        del node.attrib[source.one(list(node.attrib)[:256])]


def _text(source: Source, _root: Element, node: Element) -> None:
    node.text = source.one(VALUES)(source)


def _dropped(source: Source, _root: Element, node: Element) -> None:
    if len(node):
        node.remove(node[source.below(min(len(node), 256))])


def _repeated(source: Source, _root: Element, node: Element) -> None:
    if len(node):
        node.extend([node[source.below(min(len(node), 256))]] * (1 + source.below(3)))


def _moved(source: Source, root: Element, node: Element) -> None:
    nodes = list(root.iter())
    other = source.one(nodes[:65536])
    if other is not root and node not in other.iter():
        node.append(other)


def _renamed(source: Source, root: Element, node: Element) -> None:
    _, _, local = node.tag.rpartition("}")
    if node is root and not source.chance(20):
        return
    namespace = source.one(NAMESPACES)
    node.tag = f"{{{namespace}}}{local}" if namespace else local


def _bloated(source: Source, _root: Element, node: Element) -> None:
    if source.chance(100):
        node.append(bloated(source))


def _strange(source: Source, _root: Element, node: Element) -> None:
    namespace = source.one(NAMESPACES)
    tag = f"{{{namespace}}}" if namespace else ""
    local = source.one(("x", "body", "item", "encrypted", "message", "error", "delay", "set"))
    node.append(element(tag + local, text=words.text(source)))


CHANGES: Final[tuple[Callable[[Source, Element, Element], None], ...]] = (
    *(_attribute, _attribute, _less, _text, _dropped, _repeated),
    *(_moved, _renamed, _bloated, _strange),
)
