"""F40: who is warned of clients that read envelopes and let timers go by, and who is not."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

import pytest

from eph_e2ee.model import BareJid
from eph_e2ee.protocol.capability import Answer
from eph_e2ee.xmpp.parcel import MODERN
from tests.integration.devices import until
from tests.support.chats import NOW, Party
from tests.support.client import subscribe_mutually
from tests.support.plain_client import PlainClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from eph_e2ee.model import DeviceId
    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration

WEEK = timedelta(days=7)


ANOTHER_MAKE: Final = "of another make"
"""A device's label, in place of the one that says that a client of ours honours timers."""


class Heedless(PlainClient):
    """A client that reads envelopes, and has never heard of timers."""

    plugins: ClassVar[tuple[str, ...]] = ("xep_0380", "xep_0420")

    async def arrive(self, *, presence: bool = True) -> None:
        """Arrive, as a client of another make."""
        await super().arrive(presence=presence)
        await self._plugin.sessions.set_own_label(ANOTHER_MAKE)


@pytest.fixture
async def rosa(party: NewParty) -> Party:
    made = party("rosa", timer=WEEK)
    await made.arrive()
    return made


@pytest.fixture
async def clients(
    rosa: Party, account: Callable[[str], Account], prosody: Prosody
) -> AsyncIterator[Callable[..., PlainClient]]:
    """Make clients of one account, Peter's."""
    made: list[PlainClient] = []
    peter = account("peter")
    assert rosa.client.is_connected()

    def new(kind: type[PlainClient]) -> PlainClient:
        made.append(kind(peter, prosody.address, now=NOW))
        return made[-1]

    yield new
    for each in made:
        await each.leave()


def device(client: PlainClient) -> DeviceId:
    return client._plugin.own_device


async def greet(rosa: Party, client: PlainClient) -> None:
    """Have Rosa know that the client reads envelopes: it sends one, once it has all her lists."""
    while True:
        await client.send_without_timer(rosa.jid, "good morning")
        if (await rosa.hear()).encrypted_with == MODERN:
            return


async def relabelled(rosa: Party, client: PlainClient) -> None:
    """Wait until Rosa has the client's list with the label that it chose after it had started."""

    async def known() -> bool:
        devices = await rosa.chat.devices(client.jid)
        return (device(client), ANOTHER_MAKE) in ((each.device, each.label) for each in devices)

    await until(rosa, known)


async def told(rosa: Party, client: PlainClient, *resources: bool) -> None:
    """Wait until slixmpp has looked up whether the resources online have the feature."""
    honouring = rosa.chat._account.honouring

    async def known() -> bool:
        places = honouring._places(BareJid(client.jid), {}).values()
        answers = [await honouring._has_feature(place) for place in places]
        return sorted(answers, key=str) == sorted(resources)

    await until(rosa, known)


async def honours(rosa: Party, client: PlainClient) -> Answer:
    return (await rosa.chat.capabilities(client.jid))[device(client)].honours_timers


async def test_who_honours_timers_needs_no_warning(
    rosa: Party, clients: Callable[..., PlainClient]
) -> None:
    """XEP-0466 section 2: it advertises the feature."""
    peter = clients(PlainClient)
    await peter.arrive()
    await subscribe_mutually(rosa.client, peter.client)
    await greet(rosa, peter)
    await told(rosa, peter, True)
    assert await honours(rosa, peter) is Answer.YES
    await rosa.chat.send(peter.jid, "gone in a week")
    assert rosa.unsupported.all == []


async def test_who_lets_timers_go_by_is_named_once(
    rosa: Party, clients: Callable[..., PlainClient]
) -> None:
    """XEP-0466 section 3: SHOULD warn. What it shows later counts, also after a restart."""
    peter = clients(Heedless)
    await peter.arrive()
    await subscribe_mutually(rosa.client, peter.client)
    await greet(rosa, peter)
    await told(rosa, peter, False)
    assert await honours(rosa, peter) is Answer.NO
    await rosa.chat.send(peter.jid, "for ever", timer=None)
    assert rosa.unsupported.all == []
    for _ in range(2):
        await rosa.chat.send(peter.jid, "gone in a week?")
    (warning,) = rosa.unsupported.all
    assert (warning.conversation, warning.ignoring) == (peter.jid, {device(peter)})
    assert warning.devices == frozenset()
    await peter.set_timer(rosa.jid, 604800)
    await peter.send(rosa.jid, "after an update")
    await rosa.hear()
    assert await honours(rosa, peter) is Answer.YES
    await rosa.chat.send(peter.jid, "gone in a week")
    assert len(rosa.unsupported.all) == 1
    await rosa.restart()
    assert rosa.chat._account.omemo.has_sent_timer(peter.jid, device(peter))
    assert await honours(rosa, peter) is Answer.YES


async def test_of_a_mixed_account_only_what_is_sure_is_said(
    rosa: Party, clients: Callable[..., PlainClient]
) -> None:
    """Devices and resources cannot be told to belong together."""
    one, other = clients(PlainClient), clients(Heedless)
    await one.arrive()
    await subscribe_mutually(rosa.client, one.client)
    await greet(rosa, one)
    await one.set_timer(rosa.jid, 604800)
    await one.send(rosa.jid, "gone in a week")
    await rosa.hear()
    await other.arrive()
    await greet(rosa, other)
    await relabelled(rosa, other)
    await told(rosa, one, False, True)
    assert (await honours(rosa, one), await honours(rosa, other)) == (Answer.YES, Answer.UNKNOWN)
    await one.leave()
    await told(rosa, other, False)
    await rosa.chat.send(one.jid, "gone in a week?")
    (warning,) = rosa.unsupported.all
    assert warning.ignoring == {device(other)}
