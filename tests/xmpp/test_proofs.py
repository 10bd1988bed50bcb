"""What devices have shown: kept beside the keys, and bounded."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import omemo
import pytest

from eph_e2ee.errors import VaultUnavailable
from eph_e2ee.xmpp import proofs
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.proofs import SENDS_TIMERS, Proofs, speaks_of_timers
from tests.support.chats import element
from tests.xmpp.clients import Kept, OurPlugin
from tests.xmpp.test_ephemeral import NAMESPACE, timer
from tests.xmpp.test_unanswered import Counted

if TYPE_CHECKING:
    from eph_e2ee.vault.ratchets import Ratchets
    from tests.xmpp.clients import World

PETER = "peter@example.org"


def device(jid: str, number: int) -> omemo.DeviceInformation:
    return omemo.DeviceInformation(
        namespaces=frozenset(),
        active=frozenset(),
        bare_jid=jid,
        device_id=number,
        identity_key=bytes(32),
        trust_level_name="TRUSTED",
        label=None,
    )


def refused(_: object) -> asyncio.Future[None]:
    """A commit that the disk refuses."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(VaultUnavailable("the disk is full"))
    return failed


async def test_what_was_shown_is_known_after_a_restart() -> None:
    storage, shown = Kept(), Proofs("/key")
    await shown.load(storage)
    assert not shown.has(PETER, 7)
    await shown.add(device(PETER, 7), storage)
    again = Proofs("/key")
    await again.load(storage)
    for each in (shown, again):
        assert each.has(PETER, 7)
        assert not each.has(PETER, 8)
        assert not each.has("other@example.org", 7)


async def test_it_is_written_once() -> None:
    """Each message shows it again."""
    storage, shown = Counted(), Proofs("/key")
    for _ in range(3):
        await shown.add(device(PETER, 7), storage)
    assert storage.writes == 1


async def test_what_was_not_committed_is_written_with_the_next_message(
    ratchets: Ratchets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the device would be taken for a legacy one after a restart, and get text in clear."""
    gate, shown = Gate(ratchets), Proofs("/key")

    async def fails() -> None:
        await shown.add(device(PETER, 7), ratchets)
        raise VaultUnavailable("it does not come to a commit")

    with pytest.raises(VaultUnavailable):
        await gate.run(fails)
    with monkeypatch.context() as patch:
        patch.setattr(ratchets, "commit_with", refused)
        with pytest.raises(VaultUnavailable):
            await gate.run(lambda: shown.add(device(PETER, 8), ratchets))
    for number in (7, 8):
        await gate.run(partial(shown.add, device(PETER, number), ratchets))
    again = Proofs("/key")
    await again.load(ratchets)
    assert again.has(PETER, 7)
    assert again.has(PETER, 8)


async def test_nobody_pushes_out_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the account with most devices loses its oldest."""
    monkeypatch.setattr(proofs, "MAXIMUM_PROOFS", 5)
    storage, shown = Kept(), Proofs("/key")
    for name in ("anna", "berta"):
        await shown.add(device(f"{name}@example.org", 1), storage)
    for number in range(10):
        await shown.add(device(PETER, number), storage)
    assert storage.values["/key"] == [
        "anna@example.org 1",
        "berta@example.org 1",
        *(f"{PETER} {number}" for number in (7, 8, 9)),
    ]
    assert not shown.has(PETER, 6)


@pytest.mark.parametrize(
    ("inside", "shown"),
    [
        (timer("5"), True),
        (timer("0"), True),
        (f"<i-want-out xmlns='{NAMESPACE}'/>", True),
        (timer("x"), False),
        ("<body>text</body>", False),
    ],
)
async def test_who_writes_a_timer_knows_timers(inside: str, *, shown: bool, world: World) -> None:
    plugin = world.client("rosa").plug(OurPlugin)
    content = list(element(f"<content xmlns='urn:xmpp:sce:1'>{inside}</content>"))
    assert speaks_of_timers(content) is shown
    await plugin.gate.run(lambda: plugin.remember_reader(device(PETER, 7), content))
    assert plugin.has_sent_timer(PETER, 7) is shown
    assert plugin.facts(device(PETER, 7)).sent_timer is shown
    assert (SENDS_TIMERS in plugin.kept.values) is shown
    again = world.client("rosa").plug(OurPlugin)
    again.kept = plugin.kept
    await again.get_session_manager()
    assert again.has_sent_timer(PETER, 7) is shown
