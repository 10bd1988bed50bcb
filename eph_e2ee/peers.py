"""What a chat does about peers beside messages: devices, questions, wishes, broken sessions."""

from datetime import timedelta
from xml.etree.ElementTree import Element

from eph_e2ee.errors import Cause, NoEligibleDevices
from eph_e2ee.model import DeviceId, IqKind
from eph_e2ee.optouts import OptOuts
from eph_e2ee.outgoing import Outgoing
from eph_e2ee.protocol import optout
from eph_e2ee.protocol.capability import Capability
from eph_e2ee.questions import Questions
from eph_e2ee.replying import Answerer
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.devices import Device
from eph_e2ee.xmpp.stanzas import address

__all__ = ["Peers"]


class Peers:
    """The part of `chat.Chat` that is not about messages."""

    def __init__(
        self, account: Account, outgoing: Outgoing, opt_outs: OptOuts, questions: Questions
    ) -> None:
        self._account = account
        self._outgoing = outgoing
        self._opt_outs = opt_outs
        self._questions = questions

    async def capabilities(self, jid: str) -> dict[DeviceId, Capability]:
        """What each device of an account can read and do, as far as it is known.

        Raises:
            NotSent: there is no session with the server, or it did not answer.
        """
        peer = address(jid)
        self._account.check_session()
        return await self._account.devices.capabilities(peer)

    async def devices(self, jid: str) -> list[Device]:
        """Every device of an account whose key is known, also inactive ones, by their ids.

        Our own account's, too; `Device.fingerprint` is what people compare.

        Raises:
            NotSent: there is no session with the server, or it did not answer.
        """
        peer = address(jid)
        self._account.check_session()
        return await self._account.devices.known(peer)

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
        peer = address(jid)
        self._account.check_session()
        return await self._account.omemo.repair(peer)

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
        peer = address(jid)
        if not await self._outgoing.signal(peer, [optout.write(reason)]):
            raise NoEligibleDevices(frozenset({peer}), frozenset({Cause.LEGACY}))

    async def confirm_opt_out(self, jid: str) -> None:
        """Say that somebody knows of a peer's opt-out: sending is possible again, encrypted.

        The event `ephemeral_opt_out` tells of one; until this is called, or the peer has written
        encrypted once more, whatever is sent to it raises `OptedOut`.

        Raises:
            VaultError: sending stays blocked.
        """
        await self._opt_outs.confirm(address(jid))

    async def opted_out(self, jid: str) -> bool:
        """Whether a peer has opted out and that is not confirmed.

        Raises:
            VaultError: it cannot be read; sending is blocked as well.
        """
        return await self._opt_outs.blocked(address(jid))

    async def iq(
        self,
        jid: str,
        element: Element,
        *,
        kind: IqKind = "get",
        timeout: timedelta | float = 30.0,  # noqa: ASYNC109 -- by our own clock
    ) -> Element | None:
        """Ask a device something in an encrypted IQ, and return what it answers; see `questions`.

        Only devices that read envelopes are asked. As long as nothing has been heard from a full
        JID, a question to it is encrypted for all of its account's: those that it does not reach
        can skip a thousand between two messages, and no more. Canceling it is safe: the question
        may have been heard, and its answer is not waited for.

        Args:
            jid: the full JID of the device.
            element: the payload, with a namespace of its own.
            kind: whether to know something ("get") or to have something done ("set").
            timeout: how long to wait, in seconds, once the question has left.

        Returns:
            The payload of the answer; None for a result that has none.

        Raises:
            LocalProtocolError: no full JID, or an element that cannot be sent.
            NotSent: nothing left: no session, nobody to encrypt to, too many open questions, or the
                peer has opted out.
            VaultError: nothing left, or the answer could not be opened.
            IqRefused: the answer is an error.
            NoAnswer: none came in time.
            RemoteProtocolError: the answer cannot be believed: it is in clear, or breaks a rule.
        """
        return await self._questions.ask(jid, element, kind, timeout)

    def on_iq(self, name: str, handler: Answerer) -> None:
        """Answer encrypted IQs with a payload of this name, `{namespace}local`; see `questions`.

        The handler is a coroutine function, or a plain one that returns at once. It gets a
        `Question` of anybody who can encrypt to us, also a stranger, and returns an element, None,
        or a `Refusal`; what it raises is answered with "internal-server-error". It is cancelled
        after a minute, and at the chat's end. Any answer, like those that slixmpp gives by itself,
        shows that we are online.

        Raises:
            LocalProtocolError: the name has no namespace, or has a handler already.
        """
        self._questions.answering.register(name, handler)

    def off_iq(self, name: str) -> None:
        """Answer no more questions with such a payload."""
        self._questions.answering.unregister(name)
