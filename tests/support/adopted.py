"""The bot of `adopting`, before and after its one line is changed; and two of them at a server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import slixmpp
from slixmpp import JID

from tests.support import adopting
from tests.support.client import (
    SECONDS,
    Happenings,
    allow_plaintext,
    connect,
    disconnect,
    new_context,
)

if TYPE_CHECKING:
    from tests.support.prosody import Account

__all__ = ["ADOPTED", "UNPATCHED", "Somebody"]

THEIRS: Final = "from slixmpp_omemo import XEP_0384, TrustLevel"
OURS: Final = "from eph_e2ee import XEP_0384, TrustLevel"


def _adopted() -> ModuleType:
    """The same module with the one line changed."""
    source = Path(adopting.__file__).read_text(encoding="utf-8")
    assert source.count(THEIRS) == 1
    changed = source.replace(THEIRS, OURS)
    before, after = source.splitlines(), changed.splitlines()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert "slixmpp_omemo" not in changed
    module = ModuleType("tests.support.adopting_changed")
    sys.modules[module.__name__] = module  # its dataclass looks itself up there
    exec(compile(changed, adopting.__file__, "exec"), vars(module))  # noqa: S102 -- our own source
    return module


UNPATCHED: Final[ModuleType] = adopting
ADOPTED: Final[ModuleType] = _adopted()


class Somebody:
    """An account with such a bot, in one process after the other, on one JSON file.

    Attributes:
        bot: the one that runs.
    """

    bot: Any

    def __init__(self, account: Account, folder: Path, address: tuple[str, int]) -> None:
        self.account = account
        self.keys = folder / f"{account.name}.json"
        self._address = address

    @property
    def jid(self) -> str:
        return self.account.jid

    async def arrive(self, module: ModuleType, **options: Any) -> Any:
        """Run the bot as one of the two modules has it."""
        self.bot = module.Bot(
            self.account.jid,
            self.account.password,
            self.keys,
            ssl_context=new_context(),
            **options,
        )
        allow_plaintext(self.bot)
        await connect(self.bot, self._address)
        async with asyncio.timeout(SECONDS):
            await self.bot.ready.wait()
        return self.bot

    async def leave(self) -> None:
        """End it, as the end of its process would."""
        bot = self.__dict__.pop("bot", None)
        if bot is not None:
            bot.plugin.disable("xep_0384")
            await disconnect(bot)

    async def enter(
        self, room: str, *, found: bool = False, before: tuple[Any, ...] = (), nick: str = ""
    ) -> None:
        """Join a room, and with `found` make it one where everybody sees real JIDs.

        Args:
            room: its JID.
            found: whether it is new.
            nick: under which name, by default the account's.
            before: bots that are there already; return once they have seen it.
        """
        seen = [Happenings(other, f"muc::{room}::got_online") for other in before]
        rooms = self.bot.rooms
        await rooms.join_muc_wait(JID(room), nick or self.account.name, timeout=SECONDS)
        if found:
            form = await rooms.get_room_config(JID(room))
            form["type"] = "submit"
            form["values"] = {**form.get_values(), "muc#roomconfig_whois": "anyone"}
            await rooms.set_room_config(JID(room), form)
        for each in seen:
            await each.next()
            each.close()

    async def hear(self) -> Any:
        """What it hears next."""
        async with asyncio.timeout(SECONDS):
            return await self.bot.heard.get()

    async def ping(self) -> None:
        """Return once the server has dealt with everything that was sent before."""
        own: slixmpp.ClientXMPP = self.bot
        await own.plugin["xep_0199"].ping(JID(own.boundjid.domain), timeout=SECONDS)
