"""`Chat`: what an application writes against; `attaching.attach` makes it.

    chat = eph_e2ee.attach(client, vault="bot.vault", timer=timedelta(days=7))
    client.add_event_handler("ephemeral_message", on_message)

Events, in slixmpp's manner, each with one value:

    ephemeral_message        `Message`: somebody, or another device of ours, has written
    ephemeral_expired        `events.Expired`: a message has disappeared
    ephemeral_timer_changed  `model.TimerChange`: a conversation's timer is another one
    ephemeral_delivery       `events.Delivered`: how far a message of ours came
    ephemeral_catch_up       `events.CatchUp`: how far the archive has been read
    ephemeral_unsupported    `events.Unsupported`: devices that cannot be held to a timer
    ephemeral_skipped        `events.Skipped`: devices and members that get nothing
    ephemeral_new_device     `events.NewDevice`: somebody of whom a device is trusted has a new one
    ephemeral_rejected       `events.Rejection`: something arrived that was not taken
    ephemeral_chat_state     `events.ChatState`: somebody is typing, or not any more
    ephemeral_opt_out        `events.OptOut`: a peer asks for plain text; sending to it is blocked
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self
from xml.etree.ElementTree import Element

from eph_e2ee.catchup import CatchingUp
from eph_e2ee.clear import ClearTimers
from eph_e2ee.clock import Clock
from eph_e2ee.conversations import Conversations
from eph_e2ee.drafts import AGREED, Agreed, Draft, check_said
from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.events import Expired
from eph_e2ee.expiry import Expiry
from eph_e2ee.incoming import Incoming, Received
from eph_e2ee.letters import Letters
from eph_e2ee.message import Message, delta
from eph_e2ee.model import (
    Content,
    DeviceId,
    Entry,
    Erasure,
    Legacy,
    Phase,
    Seconds,
    Trust,
)
from eph_e2ee.notices import Notices
from eph_e2ee.optouts import OptOuts
from eph_e2ee.outgoing import Outgoing, Sent
from eph_e2ee.peers import Peers
from eph_e2ee.protocol import lifetime, xml
from eph_e2ee.protocol.ephemeral import seconds
from eph_e2ee.questions import Questions
from eph_e2ee.reading import Reading
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault
from eph_e2ee.withheld import Withheld
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.stanzas import address

__all__ = ["Chat", "Options", "seconds"]

PAGE = 200
"""Messages decrypted at once while searching: memory stays independent of the archive."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `attaching.attach` was asked for; see there."""

    default: Seconds | None
    legacy: Legacy
    unread_cap: Seconds | None
    receipts: bool
    carbons: bool
    catch_up: bool
    displayed_sync: bool
    clear_timers: ClearTimers


class Chat(Peers):
    """One account's disappearing messages; `attaching.attach` makes it, `close` ends it.

    JIDs may be given with a resource, which is not looked at; an empty one is a LocalProtocolError,
    and what is no JID a ValueError. A timer that is no timedelta, and a text that is no str, are a
    TypeError. Every coroutine is safe to cancel: a change is made wholly or not at all.
    """

    def __init__(self, account: Account, vault: Vault, clock: Clock, options: Options) -> None:
        self._account = account
        self._vault = vault
        self._clock = clock
        self._options = options
        self._conversations = Conversations(vault, options.default)
        opt_outs = OptOuts(account, vault)
        self._outgoing = Outgoing(
            account,
            vault,
            self._conversations,
            opt_outs,
            clock,
            legacy=options.legacy,
            receipts=options.receipts,
        )
        self._questions = Questions(account, clock, opt_outs)
        super().__init__(account, self._outgoing, opt_outs, self._questions)
        letters = self._letters(opt_outs)
        notices = Notices(account, vault, clock, believing=options.displayed_sync)
        notices.on_bounced = self._outgoing.came_back
        self._incoming = Incoming(account, vault, self._conversations, letters, notices)
        self._incoming.on_message = self._deliver
        self._withheld = Withheld(account, vault, self._incoming, clock, options.unread_cap)
        self._reading = Reading(
            account,
            vault,
            self._outgoing,
            receipts=options.receipts,
            places=options.displayed_sync,
        )
        self._catching_up = CatchingUp(account, vault, self._incoming, notices, clock)
        self._reading.backlog = lambda: self._catching_up.own
        self._withheld.is_left = self._catching_up.tells
        gathering = (self._outgoing, self._catching_up)
        self._expiry = Expiry(vault, gathering, clock, self._expired, account.server)
        lasting = (self._expiry.run(), self._reading.run(), self._withheld.begin())
        self._tasks = [account.start(each) for each in (*lasting, self._withheld.retrying.run())]
        self._closing: asyncio.Task[Erasure] | None = None
        self._listen(notices)

    def _letters(self, opt_outs: OptOuts) -> Letters:
        options = self._options
        return Letters(
            self._account,
            self._conversations,
            opt_outs,
            self._clock,
            unread_cap=options.unread_cap,
            clear_timers=options.clear_timers,
        )

    def _listen(self, notices: Notices) -> None:
        lifecycle = self._account.lifecycle
        lifecycle.on_session = self._session_begun
        if self._options.catch_up:
            lifecycle.on_joined = self._catching_up.joined
            lifecycle.on_available = self._catching_up.refresh
        self._account.listen(self._incoming.accept, notices)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(
        self,
        jid: str,
        body: str | None = None,
        *,
        timer: timedelta | Agreed | None = AGREED,
        elements: Sequence[Element] = (),
    ) -> Message:
        """Send a message, encrypted; it returns once the message is archived and handed over.

        With slixmpp's `xep_0198` it is `UNSENT` until the server acknowledges it. Without, `SENT`
        means handed to slixmpp's stream: what a broken connection loses counts as sent. Close the
        chat before `client.disconnect()`. One that is canceled may stay in the archive, unsent:
        `unsent` has it, to be resent or erased.

        In a room it is for all members, here or not, and everybody in it; those that have no usable
        device are left out, and named by `Message.left_out` and `ephemeral_skipped`.

        Args:
            jid: the peer's account, or a room that was joined with slixmpp's XEP-0045 plugin.
            body: the text; None for a message of elements alone.
            timer: by default the conversation's. Another one becomes the conversation's, as
                XEP-0466 section 3.3 has it; None makes this one message permanent.
            elements: other children of the envelope's content, each with a namespace of its own.

        Raises:
            LocalProtocolError: nothing to send, more than 80 KiB, an element or a timer that cannot
                be sent, or a private message through a room.
            NotSent: no session, no device to encrypt to, or trust undecided. Nothing left.
            VaultError: nothing left, and nothing was half done.
        """
        check_said(body, elements)
        own = timer if timer is None or isinstance(timer, Agreed) else seconds(timer)
        draft = Draft(self._account.conversation(jid), body, tuple(elements), own)
        return self._sent(await self._outgoing.send(draft))

    async def set_timer(self, jid: str, timer: timedelta | None) -> None:
        """Change a conversation's timer at once, without text (XEP-0466 section 3.4); None: off.

        Messages that exist keep their own. Setting what is set sends nothing.

        Raises:
            LocalProtocolError: the timer is out of range.
            NotSent: it stays as it was.
            VaultError: it stays as it was.
        """
        wanted = None if timer is None else seconds(timer)
        peer = self._account.conversation(jid)
        if (await self._conversations.setting(peer)).timer != wanted:
            await self._outgoing.send(Draft(peer, None, timer=wanted))

    async def timer(self, jid: str) -> timedelta | None:
        """The timer of a conversation's next message; None for none.

        Raises:
            VaultError: it cannot be read.
        """
        return delta((await self._conversations.setting(address(jid))).timer)

    async def trust(self, jid: str, device: DeviceId | int, level: Trust | str) -> None:
        """Decide on a device's key, after its fingerprint was compared, or take a decision back.

        Another device of the account with the same key shares it. What was withheld of a device
        that is trusted now is opened, in its order.

        Args:
            jid: its account, perhaps our own.
            device: its id, as `devices` gives it.
            level: "trusted", "distrusted": it gets nothing any more; or "undecided".

        Raises:
            LocalProtocolError: there is no such device, it is this one, or another level.
            NotSent: OMEMO does not run, or has not yet and there is no session in which it could.
            VaultError: nothing was changed; or what was withheld could not be opened, and waits.
        """
        account = address(jid)
        if not self._account.device:
            self._account.check_session()
        await self._account.devices.trust(account, DeviceId(device), level)
        await self._withheld.reopen(account)

    async def history(
        self, jid: str, *, before: int | None = None, limit: int = 50
    ) -> list[Message]:
        """A conversation's messages and tombstones, the newest first.

        Args:
            jid: the peer's account.
            before: only those with a smaller number.
            limit: how many at most.

        Raises:
            VaultError: the archive cannot be read.
        """
        peer = address(jid)
        await self._outgoing.note()
        entries = await self._vault.transact(lambda vault: vault.entries(peer, before, limit))
        return [Message(self, entry) for entry in entries]

    async def search(self, jid: str, text: str, *, limit: int = 50) -> list[Message]:
        """A conversation's messages that contain a text, whatever its case; the newest first.

        Every message is decrypted for it: an index on disk would keep words alive (F5).

        Raises:
            VaultError: the archive cannot be read.
        """
        found: list[Message] = []
        wanted, before = text.casefold(), None
        while len(found) < limit:
            page = await self.history(jid, before=before, limit=PAGE)
            found += [
                message
                for message in page
                if message.body is not None and wanted in message.body.casefold()
            ]
            if len(page) < PAGE:
                break
            before = page[-1].number
        return found[:limit]

    async def unsent(self) -> list[Message]:
        """Messages of ours that may not have left, after a crash; see `Message.resend`.

        Those whose sending was canceled are among them. They stay until they are resent or erased.

        Raises:
            VaultError: the archive cannot be read.
        """
        await self._outgoing.note()
        entries = await self._vault.transact(lambda vault: vault.unsent())
        return [Message(self, entry) for entry in entries]

    async def erase(self, what: Message | str) -> Erasure:
        """Forget a message, or a whole conversation, here and now. The peer's copy is not touched.

        Returns:
            `DESTROYED`, or `PENDING` when the disk refused: it is shown no more, and tried again.

        Raises:
            LocalProtocolError: the message is of another `Chat`; nothing was erased.
            VaultError: not even the intent could be written; nothing was erased.
        """
        if isinstance(what, Message):
            if not what.is_of(self):
                raise LocalProtocolError("the message is of another Chat: erase it there")
            return await what.erase()
        peer = address(what)

        def work(vault: Transaction) -> None:
            vault.erase_conversation(peer)
            self._withheld.forget(vault, peer)

        await self._vault.transact(work)
        return await self._expiry.settle()

    async def close(self) -> Erasure:
        """End every task, handler and feature, and close the vault. It can be called again.

        What has begun goes on if this call is canceled. A handler of questions may call it, too,
        which ends that handler.

        Returns:
            What became of erasures that were still gathered.
        """
        if self._closing is None or _has_failed(self._closing):
            self._closing = asyncio.ensure_future(self._close())
        return await asyncio.shield(self._closing)

    async def _close(self) -> Erasure:
        self._account.stop_listening()
        await self._questions.close()
        await self._catching_up.stop()
        await self._incoming.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._withheld.stop()
        await self._account.detach()
        await self._expiry.note()
        await self._reading.close()
        return await self._vault.close()

    # -- for `Message` -------------------------------------------------------------------------

    async def start_timer(self, entry: Entry) -> Entry:
        """Have a message's own timer run from now, unless it runs already."""
        now = self._clock.now()

        def work(vault: Transaction) -> tuple[bool, Entry]:
            before = vault.standings(entry.conversation, entry.number, 1)
            unread = any(
                each.number == entry.number and each.phase is Phase.UNREAD for each in before
            )
            return unread, vault.apply(entry.number, lifetime.Event.READ, now)

        news, read = await self._vault.transact(work)
        if news:
            self._reading.note_read(read, now)
        return read

    async def erase_entry(self, entry: Entry) -> tuple[Entry, Erasure]:
        """Forget a message; its tombstone, and what became of its keys."""
        await self._vault.transact(lambda vault: vault.erase(entry.number))
        at = int(self._clock.now())
        gone = replace(entry, phase=Phase.GONE, deadline=at, content=None)
        return gone, await self._expiry.settle()

    async def send_again(self, entry: Entry, content: Content) -> Message:
        """Send what the archive holds under the id that it was given first."""
        elements = tuple(xml.read_back(item.encode()) for item in content.elements)
        number, name = entry.number, content.message_id
        draft = Draft(entry.conversation, content.body, elements, entry.timer, name, number)
        return self._sent(await self._outgoing.send(draft))

    def _sent(self, sent: Sent) -> Message:
        if sent.entry is None:
            raise LocalProtocolError("the archive has no copy of the message")
        return Message(self, sent.entry, left_out=sent.left_out)

    def _session_begun(self, new: bool) -> None:  # noqa: FBT001 -- a fact, no switch
        if new:
            options = self._options
            self._catching_up.begin(carbons=options.carbons, archive=options.catch_up)
            self._withheld.retrying.begin(self._catching_up.own.task)
        self._reading.wake()

    def _deliver(self, received: Received) -> None:
        if received.entry is None:
            return
        if received.wants_receipt:
            self._reading.note_received(received.entry)
        message = Message(self, received.entry, received.findings, received.encrypted_with)
        self._account.emit("ephemeral_message", message)

    def _expired(self, expired: Expired) -> None:
        self._account.emit("ephemeral_expired", expired)


def _has_failed(task: asyncio.Task[Erasure]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
