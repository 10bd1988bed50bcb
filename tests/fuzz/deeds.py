"""What an application does meanwhile, so that the server is asked and can answer."""

from __future__ import annotations

import math
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element

import omemo
from slixmpp import JID

from eph_e2ee.errors import EphemeralError, RemoteProtocolError
from eph_e2ee.model import BareJid
from tests.fuzz import words
from tests.fuzz.answering import QUESTION, SECRET
from tests.fuzz.source import Source
from tests.fuzz.trees import mutated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.fuzz.scene import Scene

    Deed = Callable[[Scene, Element], Coroutine[None, None, None]]

__all__ = ["DEEDS", "done"]

LONGEST: Final = 10_000_000
"""Seconds that may pass in one step."""

START: Final = datetime(2025, 6, 15, tzinfo=UTC)


async def done(deed: Awaitable[object]) -> None:
    """Errors of ours are what an application expects; whatever else is raised, escapes.

    What is wrong with something that has arrived is nobody's error who does something else.
    """
    try:
        await deed
    except RemoteProtocolError:
        raise
    except (EphemeralError, omemo.OMEMOException):
        pass


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
    await scene.chat.send(step.get("jid", words.PEER), SECRET)


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
        scene.wait(min(int(seconds), LONGEST))


async def _caps(scene: Scene, step: Element) -> None:
    jid = step.get("jid", words.PEER)
    if "@" in jid:
        await scene.chat.capabilities(jid)


async def _devices(scene: Scene, step: Element) -> None:
    for device in await scene.chat.devices(step.get("jid", words.PEER)):
        assert device.fingerprint


async def _trust(scene: Scene, step: Element) -> None:
    jid = step.get("jid", words.PEER)
    for device in await scene.chat.devices(jid):
        await done(scene.chat.trust(jid, device.device, step.get("level", "trusted")))


async def _ask(scene: Scene, step: Element) -> None:
    name = step.get("id", "")
    client: Any = scene.client

    def new_id() -> str:
        del client.new_id  # the question's alone
        return name

    client.new_id = new_id
    with suppress(RemoteProtocolError):
        answer = await scene.chat.iq(step.get("jid", ""), Element(QUESTION))
        assert answer is None or answer.tag


async def _repair(scene: Scene, step: Element) -> None:
    await scene.chat.repair(step.get("jid", words.PEER))


async def _opt_out(scene: Scene, step: Element) -> None:
    await scene.chat.opt_out(step.get("jid", words.PEER), "a reason")


async def _confirm(scene: Scene, step: Element) -> None:
    await scene.chat.confirm_opt_out(step.get("jid", words.PEER))


async def _timer(scene: Scene, step: Element) -> None:
    timers: Any = scene.client.plugin.get("xep_0466", None)
    timers.timer(step.get("jid", words.PEER))


async def _join(scene: Scene, _: Element) -> None:
    scene.join()


async def _leave(scene: Scene, _: Element) -> None:
    rooms: Any = scene.client.plugin["xep_0045"]
    rooms.rooms[None].pop(JID(words.ROOM), None)


async def _echo(scene: Scene, step: Element) -> None:
    """What was sent last comes back, as from a room."""
    source = Source(bytes.fromhex(step.get("spoiled", "")))
    told = [each for each in scene.echoes if each.get("type") == "groupchat"]
    if scene.echoes:
        stanza = deepcopy(source.one(told or scene.echoes))
        stanza.set("from", f"{words.ROOM}/peter")
        stanza.set("to", f"{words.OWN}/peter")
        stanza.set("type", "groupchat")
        scene.client.receive(mutated(source, stanza))


async def _lose(scene: Scene, step: Element) -> None:
    """Our sessions with somebody are gone: the next ones need his bundles."""
    plugin = scene.omemo

    async def lost() -> None:
        for backend in plugin.sessions.backends.values():
            await backend.purge_bare_jid(step.get("jid", words.PEER))

    await plugin.gate.run(lost)


async def _save(scene: Scene, step: Element) -> None:
    scene.peers[step.get("by", "rosa")].save()


async def _restore(scene: Scene, step: Element) -> None:
    """Somebody goes on from a backup, with keys that were used already."""
    scene.peers[step.get("by", "rosa")].restore()


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
    "devices": _devices,
    "trust": _trust,
    "ask": _ask,
    "repair": _repair,
    "opt_out": _opt_out,
    "confirm": _confirm,
    "timer": _timer,
    "join": _join,
    "leave": _leave,
    "echo": _echo,
    "lose": _lose,
    "save": _save,
    "restore": _restore,
}
"""By the name that a case uses."""
