"""The harness itself: what the other integration tests trust must be true."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from slixmpp import JID

from tests.conftest import SERVERS
from tests.support.client import (
    PLUGINS,
    SECONDS,
    ConnectionFailed,
    Happenings,
    connect,
    disconnect,
    online,
    subscribe_mutually,
)
from tests.support.interference import Interference
from tests.support.server import Account, Server, ServerError
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from slixmpp import ClientXMPP, Message

    from tests.conftest import NewClient

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EPHEMERAL = "urn:xmpp:ephemeral:0"
OUTER_TIMER = f"<ephemeral xmlns='{EPHEMERAL}' timer='1'/>"


@pytest.fixture
async def pair(
    server: Server, account: Callable[[str], Account], client: NewClient
) -> tuple[ClientXMPP, ClientXMPP]:
    """Two clients of two strangers, both online."""
    rosa, peter = client(account("rosa")), client(account("peter"))
    await connect(rosa, server.address)
    await connect(peter, server.address)
    return rosa, peter


def say(sender: ClientXMPP, recipient: ClientXMPP, text: str) -> Message:
    """Send a chat message and return it."""
    message = sender.make_message(mto=recipient.boundjid.bare, mbody=text, mtype="chat")
    message["id"] = sender.new_id()
    message.send()
    return message


def timer_of(message: Message) -> str | None:
    """Return the timer that stands in clear on a message."""
    element = message.xml.find(f"{{{EPHEMERAL}}}ephemeral")
    return None if element is None else element.get("timer")


async def ping(client: ClientXMPP) -> None:
    """Return once the server has dealt with everything that the client sent before."""
    await client.plugin["xep_0199"].ping(JID(client.boundjid.domain), timeout=SECONDS)


async def test_two_clients_exchange_a_message(pair: tuple[ClientXMPP, ClientXMPP]) -> None:
    rosa, peter = pair
    with Happenings(peter, "message") as at_peter, Happenings(rosa, "message") as at_rosa:
        say(rosa, peter, "hello")
        assert (await at_peter.next())["body"] == "hello"
        say(peter, rosa, "good day")
        answer = await at_rosa.next()
    assert answer["body"] == "good day"
    assert answer["from"] == peter.boundjid
    assert len(at_rosa.all) == 1


async def test_two_strangers_subscribe_mutually(pair: tuple[ClientXMPP, ClientXMPP]) -> None:
    rosa, peter = pair
    await subscribe_mutually(rosa, peter)
    for one, other in ((rosa, peter), (peter, rosa)):
        await one.get_roster()
        assert one.client_roster[other.boundjid.bare]["subscription"] == "both"


async def test_befriended_accounts_see_each_other_at_once(
    server: Server, account: Callable[[str], Account], client: NewClient
) -> None:
    one, other = account("rosa"), account("peter")
    server.befriend(one, other)
    rosa, peter = client(one), client(other)
    await connect(rosa, server.address)
    with Happenings(
        rosa, "presence_available", wanted=lambda presence: presence["from"].bare == other.jid
    ) as seen:
        await connect(peter, server.address)
        assert (await seen.next())["from"] == peter.boundjid
    assert peter.client_roster[one.jid]["subscription"] == "both"


async def test_an_offline_message_is_kept_and_delivered(
    server: Server, account: Callable[[str], Account], client: NewClient
) -> None:
    rosa, peter = client(account("rosa")), client(account("peter"))
    await connect(rosa, server.address)
    say(rosa, peter, "for later")
    await ping(rosa)
    with Happenings(peter, "message") as arrived:
        await connect(peter, server.address)
        message = await arrived.next()
    assert message["body"] == "for later"
    assert message.xml.find("{urn:xmpp:delay}delay") is not None


async def test_the_archive_returns_the_message(
    server: Server, account: Callable[[str], Account], client: NewClient
) -> None:
    rosa = client(account("rosa"))
    peter = client(account("peter"), plugins=(*PLUGINS, "xep_0313"))
    await connect(rosa, server.address)
    await connect(peter, server.address)
    with Happenings(peter, "message") as arrived:
        say(rosa, peter, "archived")
        await arrived.next()
    found = [entry async for entry in peter.plugin["xep_0313"].iterate(rsm={"max": 10})]
    assert [texts(entry) for entry in found] == [["archived"]]


def texts(stanza: Any) -> list[str | None]:
    """Return all bodies in a stanza, at any depth."""
    return [body.text for body in stanza.xml.iter("{jabber:client}body")]


async def test_a_cut_session_is_resumed_and_loses_nothing(
    server: Server, wire: Wire, account: Callable[[str], Account], client: NewClient
) -> None:
    rosa = client(account("rosa"))
    peter = client(account("peter"), plugins=(*PLUGINS, "xep_0198"))
    await connect(rosa, server.address)
    with Happenings(peter, "sm_enabled") as managed:
        await connect(peter, wire.address)
        await managed.next()
    bound = peter.boundjid.full
    with Happenings(peter, "disconnected") as lost:
        await wire.break_down()
        await lost.next()
    say(rosa, peter, "while you were away")
    await ping(rosa)
    await wire.restore()
    with Happenings(peter, "session_resumed") as resumed, Happenings(peter, "message") as arrived:
        await connect(peter, wire.address)
        assert (await arrived.next())["body"] == "while you were away"
    assert len(resumed.all) == 1
    assert peter.boundjid.full == bound


async def test_the_wire_records_both_directions(
    wire: Wire, account: Callable[[str], Account], client: NewClient
) -> None:
    rosa = client(account("rosa"))
    await connect(rosa, wire.address)
    say(rosa, rosa, "a note to myself")
    end = await wire.from_clients.until(b"a note to myself")
    await wire.to_clients.until(b"a note to myself")
    assert b"a note to myself" not in wire.from_clients.record[end:]
    assert b"</stream:features>" in wire.to_clients.record
    assert b"</stream:features>" not in wire.from_clients.record


async def test_the_wire_replaces_across_chunks() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.put_nowait(await reader.read())
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_server(echo, "127.0.0.1", 0) as listener,
        Wire(listener.sockets[0].getsockname()[1]) as wire,
    ):
        wire.from_clients.replace(b"secret", b"public")
        _, writer = await asyncio.open_connection(*wire.address)
        end = 0
        for part in (b"a sec", b"ret, a se", b"t, a secre", b"t, a sec"):
            writer.write(part)
            end = await wire.from_clients.until(part, start=end)
        writer.write_eof()
        expected = b"a public, a set, a public, a sec"
        assert await asyncio.wait_for(received.get(), SECONDS) == expected
        writer.close()
        await writer.wait_closed()


async def test_a_paused_wire_holds_and_an_injected_stanza_arrives(
    server: Server, wire: Wire, account: Callable[[str], Account], client: NewClient
) -> None:
    rosa, peter = client(account("rosa")), client(account("peter"))
    await connect(rosa, server.address)
    await connect(peter, wire.address)
    with Happenings(peter, "message") as arrived:
        wire.pause()
        say(rosa, peter, "slowly")
        await wire.to_clients.until(b"slowly")
        # Ten round trips on a live connection: ample time for bytes that were not held.
        for _ in range(10):
            await ping(rosa)
        assert arrived.all == []
        wire.resume()
        assert (await arrived.next())["body"] == "slowly"
        wire.inject_to_clients(
            b"<message from='mallory@example.org' type='chat'><body>forged</body></message>"
        )
        assert (await arrived.next())["from"] == "mallory@example.org"
        wire.inject_to_server(
            f"<message to='{peter.boundjid.bare}' type='chat'><body>me?</body></message>".encode()
        )
        assert (await arrived.next())["from"] == peter.boundjid


async def test_the_server_puts_an_outer_timer_on_one_message(
    server: Server, pair: tuple[ClientXMPP, ClientXMPP]
) -> None:
    rosa, peter = pair
    rule = Interference(
        sender=rosa.boundjid.bare, recipient=peter.boundjid.bare, times=1, add=[OUTER_TIMER]
    )
    server.interfere(rule)
    with Happenings(peter, "message") as at_peter, Happenings(rosa, "message") as at_rosa:
        say(peter, rosa, "not chosen")
        say(rosa, peter, "chosen")
        say(rosa, peter, "no longer")
        assert timer_of(await at_rosa.next()) is None
        assert timer_of(await at_peter.next()) == "1"
        assert timer_of(await at_peter.next()) is None


async def test_the_server_strips_and_replaces(
    server: Server, pair: tuple[ClientXMPP, ClientXMPP]
) -> None:
    rosa, peter = pair
    server.interfere(
        Interference(
            having=f"{{{EPHEMERAL}}}ephemeral",
            remove=[f"{{{EPHEMERAL}}}ephemeral"],
            substitute=[("ten % of it", "100% of .*")],
        )
    )
    with Happenings(peter, "message") as arrived:
        marked = rosa.make_message(mto=peter.boundjid.bare, mbody="ten % of it", mtype="chat")
        marked.xml.append(ET.Element(f"{{{EPHEMERAL}}}ephemeral", timer="1"))
        marked.send()
        say(rosa, peter, "ten % of it")
        changed, untouched = await arrived.next(), await arrived.next()
    assert (timer_of(changed), changed["body"]) == (None, "100% of .*")
    assert untouched["body"] == "ten % of it"


async def test_the_server_duplicates_with_the_same_id(
    server: Server, pair: tuple[ClientXMPP, ClientXMPP]
) -> None:
    rosa, peter = pair
    server.interfere(Interference(recipient=peter.boundjid.bare, copies=2, times=1))
    with Happenings(peter, "message") as arrived:
        sent = say(rosa, peter, "thrice")
        say(rosa, peter, "once")
        got = [await arrived.next() for _ in range(4)]
    assert [message["body"] for message in got] == ["thrice", "thrice", "thrice", "once"]
    assert {message["id"] for message in got[:3]} == {sent["id"]}


@pytest.mark.core
async def test_the_server_forges_drops_and_delivers(
    server: Server, pair: tuple[ClientXMPP, ClientXMPP]
) -> None:
    rosa, peter = pair
    server.interfere(
        Interference(having="{}body", drop=True, times=1),
        Interference(claimed_sender="mallory@example.net/x"),
    )
    with Happenings(peter, "message") as arrived:
        say(rosa, peter, "lost")
        say(rosa, peter, "forged")
        message = await arrived.next()
        assert (message["body"], message["from"]) == ("forged", "mallory@example.net/x")
        server.deliver(
            f"<message xmlns='jabber:client' to='{peter.boundjid.bare}' type='chat' "
            "from='nobody@example.net'><body>from nowhere</body></message>"
        )
        message = await arrived.next()
    assert (message["body"], message["from"]) == ("from nowhere", "nobody@example.net")


@pytest.mark.core
async def test_the_server_holds_and_releases_backwards(
    server: Server, pair: tuple[ClientXMPP, ClientXMPP]
) -> None:
    rosa, peter = pair
    server.interfere(Interference(recipient=peter.boundjid.bare, hold=True, times=2))
    with Happenings(peter, "message") as arrived:
        for text in ("first", "second", "third"):
            say(rosa, peter, text)
        assert (await arrived.next())["body"] == "third"
        assert server.release(backwards=True) == 2
        assert [(await arrived.next())["body"] for _ in range(2)] == ["second", "first"]


async def test_a_restart_keeps_accounts_and_archives(
    server: Server, account: Callable[[str], Account], client: NewClient
) -> None:
    one, other = account("rosa"), account("peter")
    async with online(client(one), server.address) as rosa:
        say(rosa, client(other), "survives")
        await ping(rosa)
    before = server.process_id
    await asyncio.to_thread(server.restart, abrupt=True)
    assert server.process_id != before
    peter = client(other)
    with Happenings(peter, "message") as arrived:
        await connect(peter, server.address)
        assert (await arrived.next())["body"] == "survives"


async def test_a_wrong_password_and_a_dead_port_are_errors(
    server: Server, wire: Wire, account: Callable[[str], Account], client: NewClient
) -> None:
    one = account("rosa")
    with pytest.raises(ConnectionFailed):
        await connect(client(Account(one.jid, "guessed")), server.address)
    await wire.break_down()
    rosa = client(one)
    with pytest.raises(ConnectionFailed):
        await connect(rosa, wire.address)
    await disconnect(rosa)


def test_a_server_that_cannot_start_shows_its_log(make: str) -> None:
    complaint = {"prosody": "unexpected symbol near 'not'", "ejabberd": "option: not a name"}
    broken = SERVERS[make](settings={"not a name": "1"})
    try:
        with pytest.raises(ServerError, match=complaint[make]):
            broken.start()
        assert not broken.running
    finally:
        broken.close()
    assert not broken.folder.exists()


@pytest.mark.core
def test_the_server_ends_when_its_starter_is_killed(make: str) -> None:
    program = (
        "from tests.conftest import SERVERS\n"
        f"server = SERVERS[{make!r}]().start()\n"
        "print(server.process_id, server.folder, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        process_id, folder = starter.stdout.readline().decode().split()
        descriptor = os.pidfd_open(int(process_id))
        try:
            starter.kill()
            starter.wait()
            ended, _, _ = select.select([descriptor], [], [], SECONDS)
            if not ended:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
            shutil.rmtree(folder)
    assert ended


def test_a_refused_command_is_an_error(server: Server) -> None:
    with pytest.raises(ServerError, match="not well-formed"):
        server.deliver("<message")
    server.interfere()


def test_an_account_does_not_show_its_password(server: Server) -> None:
    assert "wonderland" not in repr(server.register("alice-in-no-other-test", "wonderland"))
