"""What an application does meanwhile, so that the server is asked and can answer."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import omemo
from slixmpp import JID

from eph_e2ee.errors import EphemeralError
from eph_e2ee.model import BareJid
from tests.fuzz import words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from xml.etree.ElementTree import Element

    from tests.fuzz.scene import Scene

    Deed = Callable[[Scene, Element], Coroutine[None, None, None]]

__all__ = ["DEEDS", "done"]

LONGEST: Final = 10_000_000
"""Seconds that may pass in one step."""

START: Final = datetime(2025, 6, 15, tzinfo=UTC)


async def done(deed: Awaitable[object]) -> None:
    """Errors of ours are what an application expects; whatever else is raised, escapes."""
    with suppress(EphemeralError, omemo.OMEMOException):
        await deed


async def _session(scene: Scene, _: Element) -> None:
    """A new session with the server begins."""
    scene.client.event("session_bind", scene.client.boundjid)


async def _time(scene: Scene, _: Element) -> None:
    seconds = await scene.chat._account.server.server_time()
    assert seconds is None or math.isfinite(seconds)


async def _lists(scene: Scene, step: Element) -> None:
    jids = {JID(step.get("jid", words.PEER))}
    await scene.chat._account.omemo.refresh_device_lists(jids, force_download=True)


async def _send(scene: Scene, step: Element) -> None:
    await scene.chat.send(step.get("jid", words.PEER), "text")


async def _page(scene: Scene, step: Element) -> None:
    archive = BareJid(step.get("jid", words.ROOM))
    page = await scene.chat._account.archive.page(archive, after="a0", start=START, size=100)
    assert page.complete or page.last


async def _publish(scene: Scene, step: Element) -> None:
    await scene.chat._account.displayed.publish(BareJid(words.PEER), step.get("id", "a1"))


async def _fetch(scene: Scene, _: Element) -> None:
    for conversation, archive_id in await scene.chat._account.displayed.fetch():
        assert conversation
        assert archive_id


async def _wait(scene: Scene, step: Element) -> None:
    seconds = step.get("seconds", "")
    if seconds.isascii() and seconds.isdecimal() and len(seconds) < 9:
        scene.clock.advance(min(int(seconds), LONGEST))


async def _caps(scene: Scene, step: Element) -> None:
    jid = step.get("jid", words.PEER)
    if "@" in jid:
        await scene.chat.capabilities(jid)


DEEDS: Final[dict[str, Deed]] = {
    "session": _session,
    "time": _time,
    "lists": _lists,
    "send": _send,
    "page": _page,
    "publish": _publish,
    "fetch": _fetch,
    "wait": _wait,
    "capabilities": _caps,
}
"""By the name that a case uses."""
