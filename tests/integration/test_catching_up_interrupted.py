"""Reading of the archive that is interrupted or has lost its place: all is heard, and once."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.devices import Device, NewDevice, caught_up, page_of
from tests.integration.test_reconnecting import MANAGED
from tests.support.chats import FENCE, bodies, fence, meet, together
from tests.support.client import PLUGINS, SECONDS, Happenings, connect
from tests.support.clock import ManualSource

if TYPE_CHECKING:
    from tests.support.prosody import Prosody
    from tests.support.server import Server
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUERY = re.compile(rb"<query xmlns=.urn:xmpp:mam:2.*?</query>", re.DOTALL)
AFTER = re.compile(rb"<after>([^<]*)</after>")
LAST = re.compile(rb"<last>([^<]*)</last>")
REST = 20
"""Messages of the last page."""


def asked_after(wire: Wire, start: int = 0) -> list[bytes]:
    """The places behind which clients have asked the archive to go on; empty for none."""
    found = QUERY.findall(wire.from_clients.record[start:])
    return [b"".join(AFTER.findall(query)) for query in found]


CHILD = """
import asyncio, os, signal, sys
import eph_e2ee
from tests.support.client import PLUGINS, Happenings, connect, new_client
from tests.support.prosody import Account

async def main(jid, password, folder, port, pages):
    client = new_client(Account(jid, password))
    eph_e2ee.attach(client, vault=folder)
    left = int(pages)

    def read(report):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    client.add_event_handler("ephemeral_catch_up", read)
    heard = Happenings(client, "ephemeral_message")
    await connect(client, ("127.0.0.1", int(port)))
    await heard.next(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def killed_after(somebody: Device, pages: int) -> None:
    """Have a process of its own catch up, and be killed by itself after so many pages."""
    arguments = (
        somebody.jid,
        somebody.account.password,
        str(somebody.folder),
        str(somebody.address[1]),
        str(pages),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *arguments, cwd=ROOT
    )
    async with asyncio.timeout(SECONDS):
        assert await process.wait() == -9


async def test_what_was_read_before_a_cut_and_a_crash_is_not_read_again(
    device: NewDevice, wire: Wire, server: Server
) -> None:
    """F36, F43: cut after a page, killed after another one; told at the end, all of it, once."""
    rosa, peter = device("rosa", address=wire.address), device("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await rosa.leave()
    texts = [f"number {number}" for number in range(3 * page_of(server) + REST)]
    await together(*(peter.chat.send(rosa.jid, text) for text in texts))
    await peter.ping()

    rosa.attach()
    rosa.client.add_event_handler("ephemeral_catch_up", lambda _: wire.pause())
    with Happenings(rosa.client, "disconnected") as lost:
        await connect(rosa.client, rosa.address)
        first = await rosa.progress.next()
        await wire.break_down()
        await lost.next()
    await rosa.leave()
    wire.resume()
    await wire.restore()
    assert 0 < first.stored < len(texts)
    assert rosa.messages.all == []
    assert not any(report.complete for report in rosa.progress.all)

    place = len(wire.from_clients.record)
    # The page after that may have come as well, and been stored.
    pages = LAST.findall(wire.to_clients.record)
    await killed_after(rosa, 1)
    assert (after_the_cut := asked_after(wire, place)[0]) in pages

    place = len(wire.from_clients.record)
    rosa.source = ManualSource(wall_time=time.time())
    await rosa.arrive()
    report = await caught_up(rosa)
    assert report.complete
    assert 0 < report.stored < len(texts) - first.stored
    assert asked_after(wire, place)[0] not in (b"", after_the_cut)
    assert [(await rosa.hear()).body for _ in texts] == texts
    assert await fence(peter, rosa) == []
    assert bodies(await rosa.history(peter))[2:] == [*texts, FENCE]
    assert rosa.rejected.all == []


@pytest.mark.parametrize("plugins", [PLUGINS, MANAGED], ids=["begun anew", "resumed"])
async def test_a_line_that_breaks_meanwhile_and_comes_back_costs_nothing(
    device: NewDevice, wire: Wire, server: Server, plugins: tuple[str, ...]
) -> None:
    """F36, F43: the same client goes on, in a session that is a new one or the old one."""
    rosa, peter = device("rosa", address=wire.address, plugins=plugins), device("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await rosa.leave()
    texts = [f"number {number}" for number in range(page_of(server) + REST)]
    await together(*(peter.chat.send(rosa.jid, text) for text in texts))
    await peter.ping()
    rosa.attach()
    rosa.client.add_event_handler("ephemeral_catch_up", lambda _: wire.pause(), disposable=True)
    with Happenings(rosa.client, "disconnected") as lost:
        await connect(rosa.client, rosa.address)
        assert 0 < (await rosa.progress.next()).stored < len(texts)
        await wire.break_down()
        await lost.next()
    assert rosa.messages.all == []
    wire.resume()
    await wire.restore()
    await connect(rosa.client, rosa.address)
    assert (b"<resumed " in wire.to_clients.record) is (plugins == MANAGED)
    assert [(await rosa.hear()).body for _ in texts] == texts
    assert await fence(peter, rosa) == []
    assert [report.done for report in rosa.progress.all].count(True) == 1
    assert rosa.progress.all[-1].complete
    assert rosa.rejected.all == []


@pytest.mark.prosody("ejabberd's ids are times: every place is one to go on from")
async def test_an_archive_that_has_forgotten_the_place_is_read_from_before_it(
    device: NewDevice, wire: Wire, prosody: Prosody
) -> None:
    """Servers purge; what is known from the time before is no news (F36)."""
    rosa, peter = device("rosa", address=wire.address), device("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    await peter.ping()
    await rosa.leave()
    await peter.leave()
    await asyncio.to_thread(prosody.stop)
    prosody.forget_archive(rosa.account)
    await asyncio.to_thread(prosody.start)
    await peter.arrive()
    for text in ("first", "second"):
        await peter.chat.send(rosa.jid, text)
    await peter.ping()
    place = len(wire.from_clients.record)
    await rosa.arrive()
    report = await caught_up(rosa)
    lost, again = asked_after(wire, place)
    assert (lost != b"", again) == (True, b"")
    assert b"item-not-found" in wire.to_clients.record
    assert (report.fetched, report.stored, report.complete) == (2, 2, True)
    assert [(await rosa.hear()).body for _ in range(2)] == ["first", "second"]
    assert await fence(peter, rosa) == []
    assert rosa.rejected.all == []
