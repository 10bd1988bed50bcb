"""What devices have shown: kept beside the keys, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import omemo
import pytest

from eph_e2ee.xmpp import proofs
from eph_e2ee.xmpp.proofs import SENDS_TIMERS, Proofs, speaks_of_timers
from tests.support.chats import element
from tests.xmpp.clients import Kept, OurPlugin
from tests.xmpp.test_ephemeral import NAMESPACE, timer

if TYPE_CHECKING:
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
    storage, shown = Kept(), Proofs("/key")
    await shown.add(device(PETER, 7), storage)
    storage.values.clear()
    await shown.add(device(PETER, 7), storage)
    assert storage.values == {}


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
    await plugin.remember_reader(device(PETER, 7), content)
    assert plugin.has_sent_timer(PETER, 7) is shown
    assert plugin.facts(device(PETER, 7)).sent_timer is shown
    assert (SENDS_TIMERS in plugin.kept.values) is shown
    again = world.client("rosa").plug(OurPlugin)
    again.kept = plugin.kept
    await again.get_session_manager()
    assert again.has_sent_timer(PETER, 7) is shown
