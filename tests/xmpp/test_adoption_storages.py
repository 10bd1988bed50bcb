"""An application's storage that fails: it is told so, and nobody else is to blame."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from slixmpp import JID

from tests.xmpp.clients import Kept, OurPlugin, TestClient, TheirPlugin, World, plugged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from omemo.storage import Maybe
    from omemo.types import JSONType
    from slixmpp.stanza import Message


class Failing(Kept):
    """A storage with exceptions of its own.

    Attributes:
        loads: how many values can be read until one cannot; None for all.
        full: whether nothing can be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loads: int | None = None
        self.full = False

    async def _load(self, key: str) -> Maybe[JSONType]:
        if self.loads is not None:
            self.loads -= 1
            if self.loads < 0:
                self.loads = None
                raise sqlite3.OperationalError("database is locked")
        return await super()._load(key)

    async def _store(self, key: str, value: JSONType) -> None:
        if self.full:
            raise OSError("no space left")
        await super()._store(key, value)


class Adopted(OurPlugin):
    """An application's plugin on such a storage."""

    kept: Failing

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept = Failing()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.end()


async def said(world: World, sender: TestClient, recipient: TestClient, text: str) -> Message:
    """What a recipient gets of a message."""
    jid = JID(recipient.boundjid.bare)
    stanza = sender.make_message(mto=jid, mbody=text, mtype="chat")
    plugin: Any = sender.plugin.get("xep_0384", None)
    encrypted, _ = await plugin.encrypt_message(stanza, {jid})
    return world.carry(encrypted, sender, recipient)


@pytest.mark.parametrize("sender", [OurPlugin, TheirPlugin])
async def test_a_storage_that_cannot_be_read_is_no_peers_fault(
    world: World, sender: type[Any]
) -> None:
    """Whenever it fails: its own exception comes out, and the message can be opened later."""
    anna, _ = await plugged(world, "anna", sender)
    bert, plugin = await plugged(world, "bert", Adopted)
    message = await said(world, anna, bert, "good morning")
    failed = 0
    while True:
        plugin.kept.loads = failed
        try:
            decrypted, _ = await plugin.decrypt_message(message)
        except sqlite3.OperationalError as error:
            assert str(error) == "database is locked"  # noqa: PT017 -- not the last time around
            failed += 3
        else:
            break
    assert decrypted["body"] == "good morning"
    assert failed > 0


async def test_a_storage_that_cannot_be_read_ends_an_encryption(world: World) -> None:
    """With its own exception; the next message is encrypted."""
    anna, plugin = await plugged(world, "anna", Adopted)
    bert, reading = await plugged(world, "bert", OurPlugin)
    await said(world, anna, bert, "one")
    plugin.kept.loads = 0
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        await said(world, anna, bert, "two")
    decrypted, _ = await reading.decrypt_message(await said(world, anna, bert, "three"))
    assert decrypted["body"] == "three"


async def test_a_full_disk_keeps_nobody_from_reading(world: World) -> None:
    """A message has been opened meanwhile, and its ratchet is still to be written."""
    anna, _ = await plugged(world, "anna", OurPlugin)
    bert, plugin = await plugged(world, "bert", Adopted)
    message = await said(world, anna, bert, "good morning")
    plugin.kept.full = True
    decrypted, _ = await plugin.decrypt_message(message)
    assert decrypted["body"] == "good morning"
    sessions = await plugin.get_session_manager()
    (device,) = await sessions.get_device_information(anna.boundjid.bare)
    own, _ = await sessions.get_own_device_information()
    assert device != own
    with pytest.raises(OSError, match="no space left"):
        await said(world, bert, anna, "nothing leaves")
