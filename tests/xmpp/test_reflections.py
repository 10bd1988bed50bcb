"""What is remembered of what was sent to rooms: little, and not for long."""

from __future__ import annotations

import asyncio
from xml.etree.ElementTree import Element, SubElement

import pytest

from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.reflections import MAXIMUM, SECONDS, Reflections


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock is moved by hand, and that calls what is due."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def time(self) -> float:
        return super().time() + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += seconds
        self.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def loop() -> object:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def reflections(loop: Loop) -> Reflections:
    return Reflections(lambda: loop)


def stanza(text: str, *namespaces: str) -> Element:
    xml = Element("{jabber:client}message", {"id": "the same"})
    for namespace in namespaces or (OLD,):
        encrypted = SubElement(xml, f"{{{namespace}}}encrypted")
        SubElement(encrypted, f"{{{namespace}}}payload").text = f"{text} {namespace}"
    return xml


def test_one_comes_back_once(reflections: Reflections) -> None:
    reflections.remember(stanza("one"), {OLD: b"body"})
    assert reflections.knows(stanza("one"))
    assert reflections.take(stanza("one")) == (OLD, b"body")
    assert reflections.take(stanza("one")) is None
    assert len(reflections) == 0


def test_it_is_known_by_its_ciphertext(reflections: Reflections) -> None:
    """Anybody in the room can copy an id; an application may change its own after encrypting."""
    reflections.remember(stanza("one"), {OLD: b"body"})
    assert reflections.take(stanza("another")) is None
    assert reflections.take(Element("{jabber:client}message", {"id": "the same"})) is None
    renamed = stanza("one")
    renamed.set("id", "given by the room")
    assert reflections.take(renamed) == (OLD, b"body")


@pytest.mark.parametrize("kinds", [(MODERN, OLD), (MODERN,), (OLD,)])
def test_each_half_and_the_whole_are_the_same_message(
    kinds: tuple[str, ...], reflections: Reflections
) -> None:
    plaintexts = {MODERN: b"envelope", OLD: b"body"}
    reflections.remember(stanza("one", MODERN, OLD), plaintexts)
    assert reflections.take(stanza("one", *kinds)) == (kinds[0], plaintexts[kinds[0]])
    for other in (MODERN, OLD):
        assert not reflections.knows(stanza("one", other))
    assert len(reflections) == 0


def test_the_oldest_is_forgotten_for_the_newest(reflections: Reflections) -> None:
    for number in range(MAXIMUM + 10):
        reflections.remember(stanza(f"{number}"), {OLD: b"body"})
    assert len(reflections) == MAXIMUM
    assert not reflections.knows(stanza("9"))
    assert reflections.knows(stanza("10"))


def test_what_does_not_come_back_is_forgotten(reflections: Reflections, loop: Loop) -> None:
    """Each in its own time, and nobody has to ask."""
    reflections.remember(stanza("one"), {OLD: b"body"})
    loop.advance(SECONDS / 2)
    reflections.remember(stanza("two"), {OLD: b"body"})
    loop.advance(SECONDS / 2)
    assert len(reflections) == 1
    assert reflections.knows(stanza("two"))
    loop.advance(SECONDS / 2)
    assert len(reflections) == 0


def waiting(reflections: Reflections) -> bool:
    return reflections._timer is not None


def test_nothing_waits_when_nothing_is_remembered(reflections: Reflections) -> None:
    reflections.remember(stanza("one"), {OLD: b"body"})
    assert waiting(reflections)
    reflections.take(stanza("one"))
    assert not waiting(reflections)
    reflections.remember(stanza("two"), {OLD: b"body"})
    reflections.forget()
    assert not waiting(reflections)
    assert not reflections.knows(stanza("two"))


def test_it_prints_nothing(reflections: Reflections) -> None:
    """F10."""
    reflections.remember(stanza("one"), {OLD: b"sentinel plaintext"})
    assert "sentinel" not in repr(vars(reflections))
