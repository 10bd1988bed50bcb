"""Real ratchets between accounts of this process: no key twice, no step lost, no storm."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import omemo
import pytest
from doubleratchet import DuplicateMessageException
from omemo.session_manager import BundleUploadFailed

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.encrypting import encrypt
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.sessions import Legacy
from eph_e2ee.xmpp.unanswered import HEARTBEAT
from tests.xmpp.people import Person, Server, header, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from omemo.types import DeviceInformation

    NewPerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


async def opened_again(recipient: Person, message: omemo.Message) -> bool:
    """Whether a message opens, though it has been opened before."""
    try:
        await recipient.decrypt(message)
    except omemo.OMEMOException as failure:
        assert isinstance(failure.__cause__, DuplicateMessageException)  # noqa: PT017 -- the cause is what counts
        return False
    return True


async def test_concurrent_encrypts_use_a_key_each(pair: tuple[Person, Person]) -> None:
    """F43: ten at once, which slixmpp-omemo gave one and the same message key."""
    rosa, peter = pair
    texts = [f"message {number}".encode() for number in range(10)]
    messages = await asyncio.gather(*(rosa.encrypt(peter, text) for text in texts))
    assert len({header(message) for message in messages}) == 10
    assert [await peter.decrypt(message) for message in messages] == texts


async def test_concurrent_encrypts_of_a_first_contact(person: NewPerson) -> None:
    """F43: while the bundle is downloaded, nobody else builds a second session."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    messages = await asyncio.gather(*(rosa.encrypt(peter, b"text") for _ in range(10)))
    assert len({header(message) for message in messages}) == 10
    assert len({header(message)[0] for message in messages}) == 1
    assert [await peter.decrypt(message) for message in messages] == [b"text"] * 10


async def test_concurrent_decrypts_do_not_turn_the_ratchet_back(
    pair: tuple[Person, Person],
) -> None:
    """F43: after ten at once, nine opened a second time in slixmpp-omemo."""
    rosa, peter = pair
    messages = [await rosa.encrypt(peter, b"text") for _ in range(10)]
    assert await asyncio.gather(*(peter.decrypt(message) for message in messages)) == [b"text"] * 10
    assert not any([await opened_again(peter, message) for message in messages])


async def test_messages_open_in_any_order(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    messages = [await rosa.encrypt(peter, str(number).encode()) for number in range(10)]
    await asyncio.gather(*(peter.decrypt(message) for message in reversed(messages)))
    assert not any([await opened_again(peter, message) for message in messages])


async def test_a_repeated_key_exchange_is_answered_once(person: NewPerson, server: Server) -> None:
    """F45: a sender repeats it on each message until our first answer reaches it."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    messages = [await rosa.encrypt(peter, b"text") for _ in range(8)]
    assert all(exchange is not None for message in messages for _, exchange in message.keys)
    assert await asyncio.gather(*(peter.decrypt(message) for message in messages)) == [b"text"] * 8
    assert [recipient for _, recipient in server.sent] == [rosa.jid]


async def test_the_answer_confirms_the_session(person: NewPerson, server: Server) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    ((answer, _),) = server.sent
    assert await rosa.decrypt(answer) is None
    ((_, exchange),) = (await rosa.encrypt(peter, b"text")).keys
    assert exchange is None


@pytest.mark.parametrize("burst", [1, 20])
async def test_one_way_traffic_is_answered_seldom(
    burst: int, pair: tuple[Person, Person], server: Server
) -> None:
    """F45: python-omemo answers every message of a chain above 53; here the answers get lost."""
    rosa, peter = pair
    for _ in range(300 // burst):
        messages = [await rosa.encrypt(peter, b"text") for _ in range(burst)]
        await asyncio.gather(*(peter.decrypt(message) for message in messages))
    assert 300 // HEARTBEAT <= len(server.sent) <= 300 // HEARTBEAT + 1
    assert {recipient for _, recipient in server.sent} == {rosa.jid}


async def test_the_answer_turns_the_senders_ratchet(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    before = header(await rosa.encrypt(peter, b"text"))[0]
    for _ in range(HEARTBEAT):
        await peter.decrypt(await rosa.encrypt(peter, b"text"))
    ((answer, _),) = server.sent
    assert await rosa.decrypt(answer) is None
    message = await rosa.encrypt(peter, b"text")
    assert header(message)[0] != before
    assert await peter.decrypt(message) == b"text"


async def test_a_message_of_our_own_is_an_answer(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, peter = pair
    for _ in range(2):
        for _ in range(HEARTBEAT - 1):
            await peter.decrypt(await rosa.encrypt(peter, b"text"))
        await peter.encrypt(rosa, b"answer")
    assert server.sent == []


async def test_the_answer_needs_no_download(
    pair: tuple[Person, Person], person: NewPerson, server: Server
) -> None:
    """F45: it comes after the message has been opened, when nothing can begin again."""
    rosa, peter = pair
    for _ in range(HEARTBEAT - 1):
        await peter.decrypt(await rosa.encrypt(peter, b"text"))
    other = await person("peter")
    await peter.sessions.update_device_list(
        OLD, peter.jid, dict.fromkeys((peter.device, other.device))
    )
    server.downloads.clear()
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert [recipient for _, recipient in server.sent] == [rosa.jid]
    assert server.downloads == []


async def test_an_update_of_a_device_list_breaks_nothing(
    pair: tuple[Person, Person], server: Server
) -> None:
    """A device without a bundle is left out; the known one is reached as before."""
    rosa, peter = pair
    devices = dict.fromkeys((peter.device, 4711))
    updates = (rosa.sessions.update_device_list(name, peter.jid, devices) for name in (MODERN, OLD))
    _, message = await asyncio.gather(asyncio.gather(*updates), rosa.encrypt(peter, b"meanwhile"))
    assert await peter.decrypt(message) == b"meanwhile"
    assert await peter.decrypt(await rosa.encrypt(peter, b"afterwards")) == b"afterwards"
    assert (MODERN, peter.jid, 4711) in server.downloads


async def test_our_own_device_returns_to_our_list(
    pair: tuple[Person, Person], server: Server
) -> None:
    rosa, _ = pair
    await rosa.sessions.update_device_list(MODERN, rosa.jid, {4711: None})
    assert set(server.lists[MODERN, rosa.jid]) == {4711, rosa.device}


async def test_each_device_is_addressed_where_it_is_routed(person: NewPerson) -> None:
    rosa, modern, old = await person("rosa"), await person("peter"), await person("peter")
    await rosa.knows(modern)

    def route(device: DeviceInformation) -> frozenset[str]:
        return frozenset({OLD if device.device_id == old.device else MODERN})

    rosa.route = route
    plaintexts = {MODERN: b"an envelope", OLD: b"a body"}
    messages, _ = await rosa.sessions.encrypt(frozenset({modern.jid}), plaintexts)
    by_namespace = {message.namespace: message for message in messages}
    addressed = {
        namespace: {key.device_id for key, _ in message.keys}
        for namespace, message in by_namespace.items()
    }
    assert addressed == {MODERN: {modern.device}, OLD: {old.device}}
    assert await modern.decrypt(by_namespace[MODERN]) == b"an envelope"
    assert await old.decrypt(by_namespace[OLD]) == b"a body"


async def test_a_plaintext_for_legacy_alone_is_routed_nowhere_else(
    pair: tuple[Person, Person],
) -> None:
    """A group chat's: devices that read envelopes read legacy OMEMO as well."""
    rosa, peter = pair
    messages, _ = await rosa.sessions.encrypt(frozenset({peter.jid}), {OLD: b"a body"}, [OLD])
    (message,) = messages
    assert await peter.decrypt(message) == b"a body"


async def test_a_device_that_reads_nothing_given_is_left_out(pair: tuple[Person, Person]) -> None:
    """F39: it gets nothing in another form."""
    rosa, peter = pair
    rosa.route = lambda _: frozenset({OLD})
    envelope, peters = {MODERN: b"an envelope"}, frozenset({BareJid(peter.jid)})
    with pytest.raises(omemo.session_manager.NoEligibleDevices):
        await rosa.gate.run(lambda: encrypt(rosa.sessions, peters, envelope))


@pytest.mark.parametrize(
    ("plaintexts", "order", "namespace"),
    [
        ((MODERN,), None, MODERN),
        ((MODERN,), [MODERN], MODERN),
        ((OLD,), [MODERN, OLD], OLD),
        ((MODERN, OLD), [MODERN, OLD], MODERN),
        ((MODERN, OLD), [OLD, MODERN], OLD),
        ((MODERN, OLD), [OLD], OLD),
        ((MODERN, OLD), None, OLD),
    ],
)
async def test_an_application_may_ask_for_an_order(
    plaintexts: tuple[str, ...],
    order: list[str] | None,
    namespace: str,
    pair: tuple[Person, Person],
) -> None:
    """As python-omemo has it, for a device that is in both lists and read no envelope yet."""
    rosa, peter = pair
    rosa.route = lambda _: frozenset({OLD})
    texts = {each: each.encode() for each in plaintexts}
    messages, errors = await rosa.sessions.encrypt(frozenset({peter.jid}), texts, order)
    (message,) = messages
    assert (message.namespace, errors) == (namespace, frozenset())
    assert await peter.decrypt(message) == namespace.encode()


async def test_an_order_that_nobody_keeps(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    peters = frozenset({peter.jid})
    with pytest.raises(omemo.UnknownNamespace):
        await rosa.sessions.encrypt(peters, {OLD: b"a body"}, [OLD, "urn:xmpp:omemo:0"])
    rosa.route = lambda _: frozenset()  # nobody wants it to be addressed
    with pytest.raises(omemo.session_manager.NoEligibleDevices):
        await rosa.sessions.encrypt(peters, {MODERN: b"an envelope"}, [MODERN])


async def test_a_failed_commit_spends_no_key(pair: tuple[Person, Person]) -> None:
    """F43: nothing has left; the next message goes out under a key that nobody has seen."""
    rosa, peter = pair
    sent = [await rosa.encrypt(peter, b"before")]

    def refused(_: omemo.Message) -> Callable[[Any], None]:
        def work(_: Any) -> None:
            raise VaultUnavailable("the disk is full")

        return work

    for _ in range(3):
        pending = await rosa.gate.begin(lambda: rosa.encrypt(peter, b"never sent"), refused)
        with pytest.raises(VaultUnavailable):
            await pending.finish()
        sent.append(await rosa.encrypt(peter, b"after"))
    assert len({header(message) for message in sent}) == len(sent)
    assert [await peter.decrypt(message) for message in sent] == [b"before"] + [b"after"] * 3


async def test_an_answer_waits_for_its_commit(pair: tuple[Person, Person], server: Server) -> None:
    """F43: what python-omemo sends by itself uses keys as well."""
    rosa, peter = pair
    for _ in range(HEARTBEAT - 1):
        await peter.decrypt(await rosa.encrypt(peter, b"text"))
    message = await rosa.encrypt(peter, b"text")

    def refused(_: object) -> Callable[[Any], None]:
        def work(_: Any) -> None:
            assert server.sent == []
            raise VaultUnavailable("the disk is full")

        return work

    pending = await peter.gate.begin(lambda: peter.decrypt(message), refused)
    with pytest.raises(VaultUnavailable):
        await pending.finish()
    assert server.sent == []
    assert await peter.decrypt(message) == b"text"


async def test_a_restart_uses_no_key_again(person: NewPerson) -> None:
    """F43, F12: what was committed is where the next process goes on."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    before = [await rosa.encrypt(peter, b"before") for _ in range(3)]
    await rosa.stop()
    await rosa.start()
    after = [await rosa.encrypt(peter, b"after") for _ in range(3)]
    assert len({header(message) for message in before + after}) == 6
    assert [await peter.decrypt(message) for message in after] == [b"after"] * 3


async def test_what_has_not_changed_is_not_written_again(
    pair: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven of the twelve values that python-omemo stores for a message are what they were."""
    rosa, peter = pair
    await rosa.encrypt(peter, b"text")
    stored, written = list[str](), list[str]()
    store, take = rosa.ratchets._store, rosa.ratchets.take

    async def storing(key: str, value: Any) -> None:
        stored.append(key)
        await store(key, value)

    def taking() -> Any:
        changes = take()
        written.extend(changes.values)
        return changes

    monkeypatch.setattr(rosa.ratchets, "_store", storing)
    monkeypatch.setattr(rosa.ratchets, "take", taking)
    await rosa.encrypt(peter, b"text")
    assert stored == []
    assert written == [f"/{MODERN}/{peter.jid}/{peter.device}/double_ratchet"]


async def test_a_new_bundle_is_published_after_the_commit(
    person: NewPerson, server: Server
) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    old = server.bundles[MODERN, peter.jid, peter.device]
    message = await rosa.encrypt(peter, b"text")
    pending = await peter.gate.begin(lambda: peter.decrypt(message))
    await pending.finish()
    assert server.bundles[MODERN, peter.jid, peter.device] == old
    server.refuses = True
    with pytest.raises(BundleUploadFailed):
        await pending.publish()
    server.refuses = False
    await pending.publish()
    assert server.bundles[MODERN, peter.jid, peter.device] != old


async def test_the_rotation_of_keys_waits_its_turn(pair: tuple[Person, Person]) -> None:
    """F43: it is a task of python-omemo's own, which knows of no lock."""
    rosa, _ = pair
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        inside.set()
        await go_on.wait()

    task = asyncio.create_task(rosa.gate.run(operation))
    await inside.wait()
    rotations = [
        asyncio.create_task(backend.rotate_signed_pre_key())
        for backend in rosa.sessions.backends.values()
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not rosa.ratchets.pending
    go_on.set()
    await asyncio.gather(task, *rotations)
    assert not rosa.ratchets.pending


async def test_a_legacy_list_has_no_signed_labels(person: NewPerson, server: Server) -> None:
    rosa = await person("rosa")
    await rosa.sessions.set_own_label("a label")
    assert server.lists[OLD, rosa.jid][rosa.device] is not None
    assert set(server.lists[OLD, rosa.jid]) == {rosa.device}
    assert await Legacy.sign_own_label(rosa.sessions.backends[OLD], "a label") == b""  # type: ignore[arg-type]
