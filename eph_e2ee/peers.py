"""What a chat does about peers themselves: what they want, and whether their sessions work."""

from eph_e2ee.errors import NoEligibleDevices
from eph_e2ee.model import DeviceId
from eph_e2ee.optouts import OptOuts
from eph_e2ee.outgoing import Outgoing
from eph_e2ee.protocol import optout
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.stanzas import bare

__all__ = ["Peers"]


class Peers:
    """The part of `chat.Chat` that is not about messages."""

    def __init__(self, account: Account, outgoing: Outgoing, opt_outs: OptOuts) -> None:
        self._account = account
        self._outgoing = outgoing
        self._opt_outs = opt_outs

    async def repair(self, jid: str) -> frozenset[DeviceId]:
        """Begin new OMEMO sessions with an account's devices, because messages do not open.

        As after a backup was restored, here or there: `ephemeral_rejected` says `UNDECRYPTABLE`.
        It is never done unasked, since whoever damages messages would cause it (XEP-0384 section
        8); only what comes in a session that is not here at all begins one, by itself.

        Returns:
            The devices that have been told of a new session: each once an hour at most.

        Raises:
            NotSent: no session with the server, or it did not answer.
            VaultError: nothing of the last device's was half done.
        """
        self._account.check_session()
        return await self._account.omemo.repair(bare(jid))

    async def opt_out(self, jid: str, reason: str | None = None) -> None:
        """Tell a peer that we want no OMEMO, but plain text (XEP-0384 section 5.7).

        Its clients send nothing more before their user has agreed. What is sent with this library
        is encrypted all the same, and takes the opt-out back.

        Args:
            jid: the peer's account.
            reason: for people, at most 1000 characters; the peer's client may keep it.

        Raises:
            LocalProtocolError: the reason is too long.
            NotSent: no session, nobody who would understand it, or the peer has itself opted out.
            VaultError: nothing left.
        """
        peer = bare(jid)
        if not await self._outgoing.signal(peer, [optout.write(reason)]):
            raise NoEligibleDevices(frozenset({peer}))

    async def confirm_opt_out(self, jid: str) -> None:
        """Say that somebody knows of a peer's opt-out: sending is possible again, encrypted.

        The event `ephemeral_opt_out` tells of one; until this is called, or the peer has written
        encrypted once more, whatever is sent to it raises `OptedOut`.

        Raises:
            VaultError: sending stays blocked.
        """
        await self._opt_outs.confirm(bare(jid))

    async def opted_out(self, jid: str) -> bool:
        """Whether a peer has opted out and that is not confirmed.

        Raises:
            VaultError: it cannot be read; sending is blocked as well.
        """
        return await self._opt_outs.blocked(bare(jid))
