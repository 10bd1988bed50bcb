"""A bot on slixmpp-omemo 2.2 with its one line changed: it sees what it saw before.

One story is told by two bots, each with the line changed or not, and what both have noted must be
equal to what two unchanged ones note. Rosa's looks at slixmpp's events, Peter's at every stanza.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import ADOPTED, UNPATCHED, Somebody
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from types import ModuleType

    from tests.integration.conftest import NewParty
    from tests.support.prosody import Account, Prosody

pytestmark = pytest.mark.integration

MODERN = "urn:xmpp:omemo:2"
KEY = "{eu.siacs.conversations.axolotl}key"
Noted = dict[str, Any]


@pytest.fixture
async def somebody(
    prosody: Prosody, account: Callable[[str], Account], tmp_path: Path
) -> AsyncIterator[Callable[[str], Somebody]]:
    """Make accounts for bots, which have left by the test's end."""
    made: list[Somebody] = []

    def new(name: str) -> Somebody:
        made.append(Somebody(account(name), tmp_path, prosody.address))
        return made[-1]

    yield new
    for each in made:
        await each.leave()


class Story:
    """Two bots, and what happens between them.

    Attributes:
        noted: what the bots have noted, with names in place of JIDs and devices.
    """

    def __init__(self, rosa: Somebody, peter: Somebody, room: str) -> None:
        self.rosa = rosa
        self.peter = peter
        self.room = room
        self.noted: Noted = {}

    async def tell(self, rosas: ModuleType, peters: ModuleType) -> Noted:
        """All of it."""
        rosa, peter = await self.meet(rosas, peters)
        await self.talk()
        await self.talk_in_a_room()
        await self.go_wrong()
        self.note(rosa, peter)
        await self.restart(peters)
        return self.noted

    async def meet(self, rosas: ModuleType, peters: ModuleType) -> tuple[Any, Any]:
        rosa = await self.rosa.arrive(rosas)
        peter = await self.peter.arrive(peters, each_stanza=True, blind=False)
        self.devices = {
            (await (await bot.keys.get_session_manager()).get_own_device_information())[
                0
            ].device_id: name
            for bot, name in ((rosa, "Rosa's"), (peter, "Peter's"))
        }
        return rosa, peter

    async def talk(self) -> None:
        """Both ways, first contact and afterwards, and the commands."""
        rosa, peter = self.rosa.bot, self.peter.bot
        await rosa.say(self.peter.jid, "good morning")
        await self.heard("first contact", self.peter)
        await peter.say(self.rosa.jid, "good day", by_client=True)
        await self.heard("an answer", self.rosa)
        for command in ("!echo text & <more>", "!devices", "!fingerprints"):
            await rosa.say(self.peter.jid, command)
            await self.heard(command, self.rosa)
        await peter.say(self.rosa.jid, "!echo other way")
        await self.heard("a command the other way", self.peter)

    async def talk_in_a_room(self) -> None:
        rosa, peter = self.rosa.bot, self.peter.bot
        await self.rosa.enter(self.room, found=True)
        await self.peter.enter(self.room, before=(rosa,))
        await rosa.say_to_room(self.room, "hello, room")
        await self.heard("in a room", self.peter)
        await peter.say_to_room(self.room, "hello, Rosa")
        await self.heard("an answer in a room", self.rosa)
        await rosa.say_to_room(self.room, "!echo to all")
        await self.heard("a command in a room", self.rosa)
        for name, each in (("rosa", rosa), ("peter", peter)):
            async with asyncio.timeout(SECONDS):
                self.noted[f"reflections of {name}"] = [
                    await each.reflected.get() for _ in range(2)
                ]

    async def go_wrong(self) -> None:
        """What an application catches."""
        rosa, peter = self.rosa.bot, self.peter.bot
        direct = [each for each in peter.stanzas if each["from"].bare == self.rosa.jid]
        for again in (direct[-1], peter.stanzas[-1]):  # the second is a reflection
            await peter.read(again)
        plain = peter.make_message(mto=self.rosa.jid, mbody="in clear", mtype="chat")
        assert await peter.read(plain) is None
        await rosa.send_encrypted(rosa.make_message(mto=self.peter.jid), rosa.boundjid)
        await rosa.say(f"nobody@{rosa.boundjid.domain}", "is anybody there?")
        await rosa.judge(self.peter.jid, "DISTRUSTED")
        await rosa.say(self.peter.jid, "not for you")
        noted = len(rosa.errors)
        await peter.say(self.rosa.jid, "do you hear?")
        async with asyncio.timeout(SECONDS):
            while len(rosa.errors) == noted:  # whom she distrusts, she does not read
                await self.rosa.ping()
        await rosa.judge(self.peter.jid, "TRUSTED")

    def note(self, rosa: Any, peter: Any) -> None:
        for name, bot in (("rosa", rosa), ("peter", peter)):
            self.noted[f"errors of {name}"] = list(bot.errors)
            self.noted[f"events of {name}"] = list(bot.events)
            self.noted[f"{name} was asked"] = [
                (what, self.named(jid), why) for what, jid, why in bot.keys.asked
            ]
            assert bot.heard.empty()
            assert bot.reflected.empty()

    async def restart(self, peters: ModuleType) -> None:
        """Peter's process ends, and another goes on."""
        await self.peter.leave()
        peter = await self.peter.arrive(peters, each_stanza=True, blind=False)
        await peter.say(self.rosa.jid, "back again")
        await self.heard("after a restart", self.rosa)
        await self.rosa.bot.say(self.peter.jid, "welcome back")
        await self.heard("an answer after a restart", self.peter)
        self.noted["after the restart"] = list(peter.errors), list(peter.keys.asked)

    async def heard(self, what: str, who: Somebody) -> None:
        message = await who.hear()
        text = message.text.replace(" ", "")
        is_fingerprint = len(text) == 64 and text.isalnum()
        self.noted[what] = (
            message.kind,
            self.named(message.sender),
            self.devices[message.device],
            "a fingerprint" if is_fingerprint else message.text,
        )

    def named(self, jid: str) -> str:
        return {self.rosa.jid: "Rosa", self.peter.jid: "Peter"}[jid]


@pytest.fixture
def tell(somebody: Callable[[str], Somebody], prosody: Prosody) -> Any:
    """Tell the story with new accounts."""

    async def told(rosas: ModuleType, peters: ModuleType) -> Noted:
        rosa, peter = somebody("rosa"), somebody("peter")
        story = Story(rosa, peter, f"{rosa.account.name}@{prosody.rooms}")
        try:
            return await story.tell(rosas, peters)
        finally:
            await rosa.leave()
            await peter.leave()

    return told


@functools.cache
def reference() -> Noted:
    """What two unchanged bots note; the first test that needs it fills it in."""
    return {}


@pytest.fixture
async def expected(tell: Any) -> Noted:
    if not reference():
        reference().update(await tell(UNPATCHED, UNPATCHED))
    return reference()


@pytest.mark.parametrize(
    ("rosas", "peters"),
    [(ADOPTED, UNPATCHED), (UNPATCHED, ADOPTED), (ADOPTED, ADOPTED)],
    ids=["hers", "his", "both"],
)
async def test_one_line_changes_and_nothing_else(
    rosas: ModuleType, peters: ModuleType, tell: Any, expected: Noted
) -> None:
    assert expected["first contact"] == ("chat", "Rosa", "Rosa's", "good morning")
    assert await tell(rosas, peters) == expected


@pytest.mark.parametrize("each_stanza", [False, True])
async def test_an_account_with_a_changed_and_an_unchanged_bot(
    each_stanza: bool,  # noqa: FBT001 -- a parameter of the test
    somebody: Callable[[str], Somebody],
    prosody: Prosody,
    tmp_path: Path,
) -> None:
    """Each hears once, in what it can read: what is for both leaves as two stanzas under one id."""
    rosa, new = somebody("rosa"), somebody("peter")
    (tmp_path / "old").mkdir()
    old = Somebody(new.account, tmp_path / "old", prosody.address)
    room = f"{rosa.account.name}@{prosody.rooms}"
    try:
        hers = await rosa.arrive(ADOPTED)
        bots = await new.arrive(ADOPTED, each_stanza=each_stanza), await old.arrive(UNPATCHED)
        await rosa.enter(room, found=True)
        await new.enter(room, before=(hers,))
        await old.enter(room, before=(hers, new.bot), nick="old")
        await hers.say(new.jid, "to both")
        await hers.say_to_room(room, "to all")
        for bot in bots:
            async with asyncio.timeout(SECONDS):
                heard = [await bot.heard.get() for _ in range(2)]
            assert {(each.kind, each.text) for each in heard} == {
                ("chat", "to both"),
                ("groupchat", "to all"),
            }
        async with asyncio.timeout(SECONDS):
            assert await hers.reflected.get() == "to all"
        for each in (rosa, new, old):
            await each.ping()
            assert each.bot.heard.empty()
            assert each.bot.reflected.empty()
        assert bots[0].errors == hers.errors == []
        assert hers.events.count(("groupchat_message", "groupchat")) == 1
        if not each_stanza:
            assert bots[0].events.count(("groupchat_message", "groupchat")) == 1
            assert bots[0].events.count(("message", "chat")) == 1
    finally:
        await old.leave()


async def test_one_file_for_an_unchanged_bot_a_changed_one_and_back(
    somebody: Callable[[str], Somebody],
) -> None:
    """Peers see no new device, and no session begins anew."""
    rosa, peter = somebody("rosa"), somebody("peter")
    hers = await rosa.arrive(UNPATCHED)
    seen = []
    for number, module in enumerate((UNPATCHED, ADOPTED, UNPATCHED)):
        bot = await peter.arrive(module)
        await hers.say(peter.jid, f"question {number}")
        assert (await peter.hear()).text == f"question {number}"
        await bot.say(rosa.jid, f"answer {number}")
        assert (await rosa.hear()).text == f"answer {number}"
        sessions = await hers.keys.get_session_manager()
        (device,) = await sessions.get_device_information(peter.jid)
        seen.append((device.device_id, device.identity_key, device.trust_level_name))
        keys = list(hers.stanzas[-1].xml.iterfind(f".//{KEY}"))
        assert keys
        assert not any("prekey" in each.attrib for each in keys)
        await peter.leave()
    assert len(set(seen)) == 1
    assert hers.errors == []


async def test_a_changed_bot_and_somebody_with_a_vault(
    somebody: Callable[[str], Somebody], party: NewParty
) -> None:
    """Its application is told of envelopes, which have no body, and sends them."""
    rosa, bot = party("rosa"), somebody("bot")
    await rosa.arrive()
    made = await bot.arrive(ADOPTED)
    await rosa.chat.send(bot.jid, "to the bot")
    assert (await bot.hear()).text == "to the bot"
    assert made.keys.is_encrypted(made.stanzas[-1]) == {MODERN}
    await rosa.chat.send(bot.jid, "!echo an answer")
    heard = await rosa.hear()
    assert (heard.body, heard.sender) == ("an answer", bot.jid)
    assert (made.events, made.errors) == ([("message", "chat")] * 2, [])
