"""A disk that refuses: nothing half done, nothing sent, nothing lost that the archive still has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import Reason, VaultError
from tests.integration.test_replays import ARCHIVED, catch_up
from tests.support.chats import Party, bodies, fence, meet

if TYPE_CHECKING:
    from tests.integration.conftest import NewParty

pytestmark = pytest.mark.integration


def refuse(somebody: Party, *, writes: bool) -> None:
    """Have the database of somebody's vault refuse every write, as a full disk does, or take it."""
    vault = somebody.chat._vault
    pragma = f"PRAGMA query_only={'ON' if writes else 'OFF'}"

    def tell() -> None:
        # Not through SQLAlchemy, which would begin a transaction for it.
        driver: Any = vault._keeper._database.connection.connection.driver_connection
        driver.execute(pragma).close()

    vault._run_alone(tell)


async def test_what_could_not_be_stored_is_told_and_comes_from_the_archive(
    party: NewParty,
) -> None:
    """F38, F43: a burst that the disk refuses takes nothing along, and no key is used twice."""
    rosa, peter = party("rosa"), party("peter", plugins=ARCHIVED)
    await rosa.arrive()
    await peter.arrive()
    await meet(rosa, peter)
    refuse(peter, writes=True)
    texts = ["one", "two", "three"]
    for text in texts:
        await rosa.chat.send(peter.jid, text)
    assert [(await peter.rejected.next()).reason for _ in texts] == [Reason.NOT_STORED] * 3
    refuse(peter, writes=False)
    assert await fence(rosa, peter) == []
    assert await catch_up(peter) >= len(texts)
    assert bodies([await peter.hear() for _ in texts]) == texts
    assert [text for text in bodies(await peter.history(rosa)) if text in texts] == texts


async def test_what_could_not_be_stored_is_not_sent(pair: tuple[Party, Party]) -> None:
    """F39, F43: commit, then send; the key of the failed attempt is free for the next one."""
    rosa, peter = pair
    await meet(rosa, peter)
    refuse(rosa, writes=True)
    with pytest.raises(VaultError):
        await rosa.chat.send(peter.jid, "refused")
    refuse(rosa, writes=False)
    await rosa.chat.send(peter.jid, "taken")
    assert (await peter.hear()).body == "taken"
    assert await fence(rosa, peter) == []
    assert await rosa.chat.unsent() == []
    assert "refused" not in bodies(await rosa.history(peter))
