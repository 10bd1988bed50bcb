"""What applications make of the plugin's class: their own dependencies, or an object by hand."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest
from slixmpp import JID

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.xmpp.parcel import MODERN
from tests.support.client import Happenings
from tests.xmpp.clients import Kept, OurPlugin, World, plugged
from tests.xmpp.test_startup import NOTIFY, features, settled

if TYPE_CHECKING:
    from omemo.storage import Storage

ROSA, PETER = JID("rosa@example.org"), JID("peter@example.org")


class Depending(OurPlugin):
    """A class that names what slixmpp-omemo needed, and no more."""

    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0060", "xep_0163", "xep_0280", "xep_0334"}


async def test_what_we_need_beyond_slixmpp_omemo_is_loaded(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rosa, ours = await plugged(world, "rosa", Depending)
    await plugged(world, "peter", OurPlugin)
    stanza = rosa.make_message(mto=PETER, mbody="text", mtype="chat")
    sealed, _ = await ours.encrypt_message(stanza, PETER)
    assert ours.is_encrypted(sealed) == {MODERN}
    await settled()
    assert await features(rosa) >= {*NOTIFY, "urn:xmpp:sce:1", "http://jabber.org/protocol/caps"}
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_plugin_made_by_hand_is_a_whole_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody initialises it; its application tells it of the session, by its account alone."""
    rosa, ours = await plugged(world, "rosa", OurPlugin)
    peter = world.client("peter")
    made: Any = OurPlugin(peter, {})
    plugins: Any = peter.plugin
    plugins._plugins["xep_0384"] = made
    peter.bound = True
    peter.session_bind_event.set()
    made.session_bind(PETER.bare)
    await made.get_session_manager()
    await settled()
    assert await features(peter) >= {*NOTIFY, "urn:xmpp:sce:1"}
    told: list[Any] = []
    peter.add_event_handler("message", told.append)
    stanza = rosa.make_message(mto=PETER, mbody="text", mtype="chat")
    sealed, _ = await ours.encrypt_message(stanza, PETER)
    assert ours.is_encrypted(sealed) == {MODERN}
    peter.receive(world.carry(sealed, rosa, peter).xml)
    await settled()
    (heard,) = told
    opened, _ = await made.decrypt_message(heard)
    assert opened["body"] == "text"
    answer, _ = await made.encrypt_message(opened.reply("text"), ROSA)
    assert (await ours.decrypt_message(world.carry(answer, peter, rosa)))[0]["body"] == "text"
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
    made.plugin_end()


class Late(OurPlugin):
    """A class that makes its storage where slixmpp-omemo's example does."""

    opened: Storage | None = None

    @property
    def storage(self) -> Storage:
        assert self.opened is not None
        return self.opened

    def plugin_init(self) -> None:
        self.opened = Kept()
        super().plugin_init()


async def test_a_session_may_have_begun_before(world: World) -> None:
    """The plugin is told so before it is initialised."""
    client = world.client("rosa")
    client.bound = True
    client.session_bind_event.set()
    started = Happenings(client, "omemo_initialized")
    client.plug(Late)
    await started.next()
    await settled()
    assert await features(client) >= NOTIFY


async def test_who_ends_at_once_has_never_begun(world: World) -> None:
    client = world.client("rosa")
    client.session_bind_event.set()
    made, manager = client.plug(Late), cast("Any", client.plugin)
    manager.disable("xep_0384")
    await settled()
    await made.ended()
    assert world.requests == []


async def test_a_plugin_is_initialised_once(world: World) -> None:
    """Whoever makes it by hand may do that too."""
    client = world.client("peter")
    made: Any = OurPlugin(client, {})
    await made.get_session_manager()
    made.plugin_init()
    assert client.event_handled("twomemo_device_list_publish") == 1
    made.plugin_end()
    await made.ended()
    assert client.event_handled("twomemo_device_list_publish") == 0


class Method(OurPlugin):
    def _start(self) -> None:  # type: ignore[override]
        """The application's own."""


class Value(OurPlugin):
    _lists = ()  # type: ignore[assignment]


class Attribute(OurPlugin):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: Any = True


class Replaced(OurPlugin):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refresh: Any = None


class Mixed(Attribute, Method):
    pass


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Method, "_start"),
        (Value, "_lists"),
        (Attribute, "_running"),
        (Replaced, "_refresh"),
        (Mixed, "_running, _start"),
    ],
)
async def test_a_name_of_ours_is_told(kind: type[OurPlugin], names: str, world: World) -> None:
    """Else `omemo_initialized` would not come, or a handler be called with what is not for it."""
    client = world.client("rosa")
    with pytest.raises(TypeError, match=f"Choose others for: {names}$") as caught:
        kind(client, {})
    assert isinstance(caught.value, LocalProtocolError)
    assert kind.__name__ in str(caught.value)


class Free(OurPlugin):
    """What slixmpp-omemo leaves to applications, and names of nobody's."""

    name = "xep_0384"
    default_config: ClassVar[dict[str, Any]] = {"fallback_message": "text", "path": None}
    dependencies: ClassVar[set[str]] = {*OurPlugin.dependencies, "xep_0199"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = {**self.config, "path": "/"}
        self.queue: list[Any] = []
        self.__running = True

    def plugin_init(self) -> None:
        super().plugin_init()

    async def refresh_device_lists(self, jids: set[JID], force_download: bool = False) -> None:  # noqa: FBT001, FBT002 -- slixmpp-omemo's signature
        await super().refresh_device_lists(jids, force_download)


async def test_what_slixmpp_omemo_has_is_there_to_be_overridden(world: World) -> None:
    client = world.client("rosa")
    assert client.plug(Free).path == "/"
