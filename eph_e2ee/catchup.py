"""Catching up: which archives are read when, before anything else is looked at.

Our own account's at the beginning of each session, a room's when it is entered. What arrives
meanwhile waits: a ratchet is turned in the order of sending.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from eph_e2ee.backlog import Backlog, archive_of
from eph_e2ee.clock import Clock
from eph_e2ee.errors import VaultDamaged
from eph_e2ee.incoming import Incoming
from eph_e2ee.model import BareJid
from eph_e2ee.notices import Notices
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account

__all__ = ["CatchingUp"]

Listener = Callable[[], None]


class CatchingUp:
    """Owns the backlogs, and writes down how far the archives were seen.

    Attributes:
        on_gathered: called when there is something to be noted: `expiry.Gathering`.
    """

    def __init__(
        self, account: Account, vault: Vault, incoming: Incoming, notices: Notices, clock: Clock
    ) -> None:
        self._account = account
        self._vault = vault
        self._incoming = incoming
        self._notices = notices
        self._clock = clock
        self._backlogs: dict[BareJid, Backlog] = {}
        self.on_gathered: Listener = lambda: None

    def begin(self, *, carbons: bool, archive: bool) -> None:
        """A session has begun.

        Args:
            carbons: whether to ask for copies of what our other devices send and get.
            archive: whether to read the archive at all.
        """
        own = self._account.bare
        for room in self._backlogs.keys() - {own}:
            self._backlogs[room].stop()  # until it is entered once more

        async def enabled() -> bool:
            return carbons and await self._account.arrivals.enable_carbons()

        backlog = self._backlog(own)
        backlog.after = self._displayed
        backlog.begin(enabled, read=archive)

    def refresh(self) -> None:
        """We are available: the server delivers what comes from now on, and not what came before.

        Some servers take an archive that was asked for as a sign that nothing need be delivered
        which came while nobody was available.
        """
        self.own.refresh()

    def joined(self, room: BareJid) -> None:
        """A room was entered."""

        async def account_first() -> bool:
            task = self._backlog(self._account.bare).task
            if task is not None:
                await asyncio.wait({task})
            return True

        self._backlog(room).begin(account_first, read=True)

    async def stop(self) -> None:
        """Stop reading; the next session goes on where it stood."""
        # And no more: what has arrived since is still to be noted.
        await asyncio.gather(*(backlog.close() for backlog in self._backlogs.values()))

    def tells(self, vault: Transaction, conversation: BareJid) -> bool:
        """Whether a reading tells of what is kept of a conversation now, at its end.

        Inside of a work of the vault. One that was cut short goes on, and tells as well.
        """
        with suppress(VaultDamaged):  # then none does
            archive = archive_of(vault, conversation, self._account.bare)
            # Not to be kept: this is the vault's thread.
            return (self._backlogs.get(archive) or self._new(archive)).tells(vault)
        return False

    @property
    def own(self) -> Backlog:
        """That of our own account."""
        return self._backlog(self._account.bare)

    @property
    def has_unnoted(self) -> bool:
        """Whether more of an archive has been seen than is written down."""
        return any(backlog.has_unnoted for backlog in self._backlogs.values())

    async def note(self) -> None:
        """Write down how far the archives were seen; one write for all that has arrived.

        Raises:
            VaultError: it stays to be noted, for the next time.
        """
        for backlog in self._backlogs.values():
            if backlog.has_unnoted:
                await backlog.note()

    def _backlog(self, archive: BareJid) -> Backlog:
        backlog = self._backlogs.get(archive)
        if backlog is None:
            backlog = self._backlogs[archive] = self._new(archive)
            backlog.on_seen = self._gathered
        return backlog

    def _new(self, archive: BareJid) -> Backlog:
        return Backlog(archive, self._account, self._vault, self._incoming, self._clock)

    def _gathered(self) -> None:
        self.on_gathered()

    async def _displayed(self) -> None:
        """What was read while we were away, by devices that told nobody but the server."""
        for conversation, archive_id in await self._account.displayed.fetch():
            await self._notices.displayed(conversation, archive_id)
