"""Nothing of a message anywhere but where it belongs; nothing in clear when something fails."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import NoEligibleDevices, NotSent, TrustUndecided
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import envelope
from tests.support.chats import Party, bodies, body, element, fence, meet, residue
from tests.support.client import SECONDS, Happenings
from tests.support.interference import Interference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

SENTINEL = "sentinel-7f3a9c"
HOUR = timedelta(hours=1)
MESSAGE_BODY = re.compile(rb"<message\b(?:(?!</message>).)*<body", re.DOTALL)


class Witness(logging.Handler):
    """Keeps everything that any logger writes, as text, with arguments and tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        parts = [record.getMessage(), repr(record.msg), repr(record.args), str(record.exc_text)]
        if record.exc_info and record.exc_info[0]:
            parts += traceback.format_exception(*record.exc_info)
        self.texts.append("\n".join(parts))


@pytest.fixture
def witness() -> Iterator[Witness]:
    """Every logger at DEBUG, those that exist and those to come."""
    root, heard = logging.getLogger(), Witness()
    names = [name for name in root.manager.loggerDict if not name.startswith("asyncio")]
    levels = {name: logging.getLogger(name).level for name in names}
    root_level = root.level
    root.setLevel(logging.DEBUG)
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.addHandler(heard)
    yield heard
    root.removeHandler(heard)
    root.setLevel(root_level)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def text(number: int) -> str:
    """A text that stands nowhere else."""
    return f"{SENTINEL}-{number}"


async def refused(sending: Any) -> str:
    """What an error says, with its whole chain."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- whichever it is, it tells nothing
        await sending
    return "".join(traceback.format_exception(caught.value))


def printed(value: object) -> str:
    """How a value shows, and what it holds: an entry, say, and within it the content."""
    held = vars(value).values() if hasattr(value, "__dict__") else ()
    return "\n".join([repr(value), str(value), f"{value}", *map(repr, held)])


async def every_path(rosa: Party, peter: Party, prosody: Prosody) -> list[Any]:
    """Send the sentinel along every path; the values that came of it."""
    made: list[Any] = []
    mood = element(f"<mood xmlns='urn:example:mood'>{text(0)}</mood>")
    made.append(await rosa.chat.send(peter.jid, text(1), timer=HOUR, elements=[mood]))
    made.append(await peter.read())
    made.append(await made[-1].reply(text(2)))
    made.append(await rosa.read())
    made += await peter.history(rosa)
    made += await peter.chat.search(rosa.jid, SENTINEL)
    # A duplicate, an outer timer and body, a ciphertext that does not open.
    prosody.interfere(Interference(recipient=peter.jid, copies=1))
    made.append(await rosa.chat.send(peter.jid, text(3)))
    made.append(await peter.read())
    prosody.interfere(
        Interference(
            recipient=peter.jid, add=["<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='1'/>"]
        )
    )
    made.append(await rosa.chat.send(peter.jid, text(4)))
    made.append(await peter.read())
    prosody.interfere(
        Interference(recipient=peter.jid, substitute=[("<payload>", "<payload>AAAA")])
    )
    made.append(await rosa.chat.send(peter.jid, text(5)))
    made.append(await peter.rejected.next())
    prosody.interfere()
    # Envelopes that are none, and that name another; malformed timers.
    for plaintext in (
        text(6).encode(),
        f"<{text(7)}".encode(),
        forged(text(8), sender="paul@example.org", to=peter.jid),
        forged(text(9), sender=rosa.jid, to="paul@example.org"),
    ):
        await rosa.send_plaintext(peter, plaintext)
        made.append(await peter.rejected.next())
    timer = element(f"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='{text(10)}'/>")
    await rosa.send_content(peter, body(text(11)), timer)
    made.append(await peter.read())
    return made


def forged(words: str, *, sender: str, to: str) -> bytes:
    """An envelope with any addresses."""
    return envelope.build(
        [body(words)],
        sender=BareJid(sender),
        to=BareJid(to),
        time=datetime.now(UTC),
        random=bytes,
    )


async def test_a_text_is_nowhere_but_where_it_belongs(
    pair: tuple[Party, Party],
    prosody: Prosody,
    witness: Witness,
    account: Callable[[str], Account],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F4, F10, F12: no log at any level, no repr, no exception; after expiry no file."""
    rosa, peter = pair
    made = await every_path(rosa, peter, prosody)
    made.append(await refused(rosa.chat.send(account("nobody").jid, text(20))))
    made.append(await refused(rosa.chat.send(peter.jid, text(21), elements=[element("<bare/>")])))
    made.append(await refused(rosa.chat.send(peter.jid, text(22) + "\x00")))

    failed = asyncio.Event()

    async def fault(*_: Any) -> Any:
        failed.set()
        raise RuntimeError(f"while reading {text(23)}")

    with monkeypatch.context() as broken:
        broken.setattr(peter.chat._incoming._letters, "open", fault)
        await rosa.chat.send(peter.jid, text(24))
        await asyncio.wait_for(failed.wait(), SECONDS)
        await peter.settle()
    made += await fence(rosa, peter)
    await rosa.chat.set_timer(peter.jid, None)
    made += [await peter.changes.next(), await peter.changes.next()]
    await rosa.passes(3601)
    peter.clock.advance(3601)
    made += [await rosa.expired.next(), await peter.expired.next()]
    for party in (rosa, peter):
        await party.chat.erase((rosa if party is peter else peter).jid)
        await party.leave()
        assert residue(party.folder, SENTINEL) == []
    assert len(made) > 20
    assert [each for each in map(printed, made) if SENTINEL in each] == []
    assert len(witness.texts) > 100
    assert [each for each in witness.texts if SENTINEL in each] == []


async def test_what_vanished_is_in_no_file(pair: tuple[Party, Party]) -> None:
    """F1, F3, F4: many messages, in every file of both vaults, while open and once closed."""
    rosa, peter = pair
    await rosa.chat.set_timer(peter.jid, HOUR)
    for number in range(40):
        await rosa.chat.send(peter.jid, text(number) * 20)
        await peter.read()
    assert residue(peter.folder, SENTINEL, rosa.jid) == []
    await rosa.passes(3601)
    peter.clock.advance(3601)
    for party in (rosa, peter):
        for _ in range(40):
            await party.expired.next()
        assert residue(party.folder, SENTINEL, rosa.jid, peter.jid) == []
    assert bodies(await peter.history(rosa)) == [None] * 40


async def test_nobody_to_encrypt_to_is_no_reason_for_plaintext(
    party: NewParty, wire: Wire, account: Callable[[str], Account]
) -> None:
    """F32, F39, F41: an account without devices, and one that does not exist."""
    rosa = party("rosa", address=wire.address)
    await rosa.arrive()
    for nobody in (account("nobody").jid, "not-even-registered@example.org"):
        for _ in range(2):
            with pytest.raises(NoEligibleDevices):
                await rosa.chat.send(nobody, SENTINEL, timer=HOUR)
            with pytest.raises(NoEligibleDevices):
                await rosa.chat.set_timer(nobody, HOUR)
        assert await rosa.chat.timer(nobody) is None
        assert await rosa.chat.history(nobody) == []
    await rosa.ping()
    assert rosa.changes.all == []
    assert b"<message" not in wire.from_clients.record
    assert SENTINEL.encode() not in wire.record


async def test_undecided_trust_is_no_reason_for_plaintext(party: NewParty, wire: Wire) -> None:
    """F39: with trust by hand nothing leaves before somebody has decided."""
    rosa, peter = party("rosa", address=wire.address, trust="manual"), party("peter")
    await rosa.arrive()
    await peter.arrive()
    with pytest.raises(TrustUndecided):
        await rosa.chat.send(peter.jid, SENTINEL, timer=HOUR)
    await rosa.ping()
    assert b"<message" not in wire.from_clients.record
    assert await rosa.history(peter) == []
    assert await rosa.chat.timer(peter.jid) is None
    assert peter.messages.all == []
    # What an undecided peer writes is read all the same.
    await peter.chat.send(rosa.jid, "who are you?")
    assert (await rosa.hear()).body == "who are you?"


async def test_a_fault_while_encrypting_is_no_reason_for_plaintext(
    party: NewParty, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F32, F39: whatever the libraries below raise, and whatever the vault's disk says."""
    rosa, peter = party("rosa", address=wire.address), party("peter")
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    sessions = rosa.chat._account.omemo

    async def fault(*_: object) -> Any:
        raise RuntimeError("a fault of the libraries")

    with monkeypatch.context() as broken:
        broken.setattr(sessions, "seal", fault)
        with pytest.raises(RuntimeError):
            await rosa.chat.send(peter.jid, SENTINEL)
    place = len(wire.from_clients.record)

    def full(*_: object) -> Any:
        raise NotSent("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr("eph_e2ee.outgoing.Outgoing._message", full)
        with pytest.raises(NotSent):
            await rosa.chat.send(peter.jid, SENTINEL, timer=HOUR)
    await rosa.ping()
    assert b"<message" not in wire.from_clients.record[place:]
    assert await rosa.chat.timer(peter.jid) is None
    await rosa.chat.send(peter.jid, "mended")
    heard = await peter.hear()
    assert (heard.body, heard.timer) == ("mended", None)
    assert MESSAGE_BODY.search(wire.from_clients.record) is None
    assert SENTINEL.encode() not in wire.record


async def test_a_fault_of_the_application_is_not_the_peers_business(
    pair: tuple[Party, Party], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: no error stanza answers the sender, and the flow goes on."""
    rosa, peter = pair
    await peter.leave()
    peter.address = wire.address
    peter.attach()

    def fault(_: Any) -> None:
        raise RuntimeError("the application's own fault")

    async def later_fault(_: Any) -> None:
        raise RuntimeError("the application's own fault, in a coroutine")

    problems: list[Any] = []
    monkeypatch.setattr(peter.client, "exception", problems.append)
    for name in ("ephemeral_message", "ephemeral_timer_changed", "ephemeral_rejected"):
        peter.client.add_event_handler(name, fault)
        peter.client.add_event_handler(name, later_fault)
    errors = Happenings(rosa.client, "message_error")
    await peter.arrive()
    await rosa.chat.send(peter.jid, "one", timer=HOUR)
    await rosa.send_plaintext(peter, b"none")
    await rosa.chat.send(peter.jid, "two")
    assert [(await peter.hear()).body for _ in range(2)] == ["one", "two"]
    await peter.changes.next()
    await peter.rejected.next()
    assert await fence(rosa, peter) == []
    await peter.ping()
    await rosa.ping()
    assert errors.all == []
    assert b"type='error'" not in wire.from_clients.record
    assert b'type="error"' not in wire.from_clients.record
    errors.close()


async def test_broken_elements_are_rejected_without_an_answer(
    party: NewParty, wire: Wire, prosody: Prosody
) -> None:
    """F42: OMEMO elements that are no such thing end as rejections, without an answer."""
    rosa = party("rosa", address=wire.address)
    await rosa.arrive()
    keys = (
        "<encrypted xmlns='urn:xmpp:omemo:2'><header sid='1'>"
        f"<keys jid='{rosa.jid}'><key rid='{rosa.chat._account.device}'>%s</key></keys>"
        "</header></encrypted>"
    )
    broken = (
        "<encrypted xmlns='urn:xmpp:omemo:2'/>",
        "<encrypted xmlns='urn:xmpp:omemo:2'><header sid='x'/><payload>AA==</payload></encrypted>",
        "<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
        "<encrypted xmlns='urn:xmpp:omemo:2'/><encrypted xmlns='urn:xmpp:omemo:2'/>",
        keys % "!!!",
        keys % "CAES",
        keys % "",
    )
    place = len(wire.from_clients.record)
    for number, encrypted in enumerate(broken):
        prosody.deliver(
            f"<message xmlns='jabber:client' from='mallory@example.org/x' to='{rosa.jid}'"
            f" id='broken-{number}' type='chat'>{encrypted}</message>"
        )
        rejection = await rosa.rejected.next()
        assert (rejection.sender, rejection.message_id) == (
            "mallory@example.org",
            f"broken-{number}",
        )
    await rosa.ping()
    assert b"<message" not in wire.from_clients.record[place:]
