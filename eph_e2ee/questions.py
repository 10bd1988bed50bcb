"""Questions between two devices: IQs whose payload is encrypted (XEP-0420 section 6.2).

An extension point: the protocol that is spoken inside is the application's. One that tells which
software somebody runs, as XEP-0092 does in clear, on the asking and on the answering side:

    answer = await chat.iq("peter@example.org/phone", Element("{urn:example:software}query"))

    async def on_software(question):
        if question.bare not in friends:
            return Refusal("forbidden")
        answer = Element("{urn:example:software}query")
        answer.text = "tea timer 1.0"
        return answer

    chat.on_iq("{urn:example:software}query", on_software)

A question is no message: no archive has it, here or on a server, it has no timer, and what it holds
is kept nowhere. Read `Questions.ask` and `Questions._deal_with` from top to bottom.
Whose handler answers stands in `answering.py`, how IQs look in `xmpp/iqs.py`.

What is promised: nothing ever goes or is believed in clear. An answer counts only if it comes from
the full JID that was asked, if a device has encrypted it that the question was encrypted for, and
if its envelope is addressed from there to us, now. A question is handed over once at most, and
answered once at most, since the ratchet opens it once.

Between two clients of this library the envelope also repeats the header of the IQ (`iqheader.py`),
so that no server can swap the answers to two questions, make a set of a get or an error of a
result, hand a question to another device of the account, or pass a message off as an IQ or an IQ
as a message. Other makes do not write it, and XEP-0420 offers nothing in its place: with them a
server can do all this, though it can neither read nor write what is inside. If it hides the label
by which we know this library (XEP-0384 section 5.3.1), it can pass off a message whose content is
one element of the application's as an IQ, and nothing more.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final, cast
from xml.etree.ElementTree import Element

from eph_e2ee.clock import Clock
from eph_e2ee.errors import (
    EphemeralError,
    IqRefused,
    LocalProtocolError,
    NoAnswer,
    NoEligibleDevices,
    Reason,
    Refusal,
    RemoteProtocolError,
    VaultError,
)
from eph_e2ee.events import Question, Rejection
from eph_e2ee.model import DeviceId, IqKind, MessageId
from eph_e2ee.optouts import OptOuts
from eph_e2ee.protocol import ephemeral, marks, refusals, setting
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.replying import FAILED, Answering, Reply, within
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.gate import Pending
from eph_e2ee.xmpp.iqs import ASKING, IqArrival, SealedIq
from eph_e2ee.xmpp.redaction import contained
from eph_e2ee.xmpp.stanzas import bare

__all__ = ["Questions"]

log = logging.getLogger(__name__)

CLIENT: Final = "{jabber:client}"

MAXIMUM_KNOWN: Final = 1024
"""Full JIDs of which it is remembered which device they are; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What an IQ held, and the device that has encrypted it."""

    content: tuple[Element, ...] = field(repr=False)
    device: DeviceId


class Questions:
    """Asks and answers. Owns a task for each question of others.

    Attributes:
        answering: who answers them.
    """

    def __init__(self, account: Account, clock: Clock, opt_outs: OptOuts) -> None:
        self._account = account
        self._clock = clock
        self._opt_outs = opt_outs
        self._iqs = account.iqs
        self._tasks: set[asyncio.Task[None]] = set()
        self._devices: dict[str, DeviceId] = {}
        self.answering = Answering(clock)
        account.iqs.listen(self._accept)

    async def close(self) -> None:
        """End every task. What is still open is answered by nobody."""
        self._iqs.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- asking --------------------------------------------------------------------------------

    async def ask(
        self, jid: str, element: Element, kind: IqKind, wait: timedelta | float
    ) -> Element | None:
        """Ask, and wait for the answer; see `Chat.iq`."""
        seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
        if kind not in ("get", "set") or seconds <= 0:
            raise LocalProtocolError("a question is a get or a set, and takes some time")
        self._account.check_session()
        header = self._iqs.question(jid, kind)
        _check_payload(element)
        await self._opt_outs.check(bare(header.recipient))
        with self._iqs.awaiting(header) as answer:
            devices = await self._question(header, element)
            if not await within(self._clock, answer, seconds):
                self._devices.pop(header.recipient, None)
                raise NoAnswer("no answer has come in time; the question may have been heard")
            return await self._answer(answer.result(), devices)

    async def _question(self, header: IqHeader, element: Element) -> frozenset[DeviceId]:
        """Send it to the device that the JID is known to be, else to all; to which it was."""
        known = self._devices.get(header.recipient)
        if known is not None:
            try:
                return await self._send(header, [element], known)
            except NoEligibleDevices:
                self._devices.pop(header.recipient, None)
        return await self._send(header, [element], None)

    async def _answer(self, arrival: IqArrival, devices: frozenset[DeviceId]) -> Element | None:
        """The payload of an answer.

        Raises:
            IqRefused: it is an error.
            RemoteProtocolError: it cannot be believed.
        """
        is_error = arrival.header.kind == "error"
        try:
            opened = await self._believed(arrival, devices)
            self._remember(arrival, opened.device)
            if is_error:
                raise _refused(opened.content)
            return _payload(opened.content) if opened.content else None
        except RemoteProtocolError as error:
            broken = error
        self._devices.pop(arrival.header.sender, None)
        outside = arrival.refusal if is_error else None
        if outside is not None:
            raise IqRefused(outside, authenticated=False)
        self._reject(arrival, broken.reason)
        raise broken

    async def _believed(self, arrival: IqArrival, devices: frozenset[DeviceId]) -> _Opened:
        if not arrival.is_encrypted:
            raise RemoteProtocolError(Reason.CLEAR_ANSWER)
        opened = await self._open(arrival)
        if opened.device not in devices:
            raise RemoteProtocolError(Reason.NOT_ASKED)
        return opened

    # -- being asked ---------------------------------------------------------------------------

    def _accept(self, arrival: IqArrival) -> None:
        """Begin to deal with a question; it never raises."""
        if self.answering.has_room(arrival.sender):
            self._own(self._deal_with(arrival))
        else:
            self._iqs.put_off(arrival)

    @contained
    async def _deal_with(self, arrival: IqArrival) -> None:
        """Open a question, have it answered, and send the answer inside of an envelope.

        What does not open is answered as slixmpp answers what it does not know: from outside there
        is no telling why. One that came before is not answered again: servers send stanzas twice
        when a stream is resumed (XEP-0198), and its answer is on the way.
        """
        with self.answering.admitted(arrival.sender):
            await self._account.omemo.running()
            try:
                question = await self._asked(arrival)
            except RemoteProtocolError as error:
                reason = error.reason
            except VaultError:
                reason = Reason.NOT_HEARD
            else:
                await self._reply(arrival, question, await self.answering.answer(question))
                return
            self._reject(arrival, reason)
            if reason is not Reason.DUPLICATE:
                self._decline(arrival)

    async def _asked(self, arrival: IqArrival) -> Question:
        opened = await self._open(arrival)
        self._remember(arrival, opened.device)
        return Question(
            jid=arrival.header.sender,
            bare=arrival.sender,
            device=opened.device,
            kind=cast("IqKind", arrival.header.kind),
            element=_payload(opened.content),
        )

    async def _reply(self, arrival: IqArrival, question: Question, reply: Reply) -> None:
        try:
            try:
                await self._send_reply(arrival, question.device, reply)
            except LocalProtocolError:
                log.error("a handler of questions gave what cannot be sent")  # noqa: TRY400 -- it may quote it
                await self._send_reply(arrival, question.device, FAILED)
        except Exception as error:  # noqa: BLE001 -- somebody waits for an answer, whatever it is
            log.warning("a question was not answered: %s", type(error).__name__)
            self._decline(arrival)

    async def _send_reply(self, arrival: IqArrival, device: DeviceId, reply: Reply) -> None:
        if isinstance(reply, Refusal):
            kind, content = "error", [refusals.write(reply)]
        else:
            kind, content = "result", [] if reply is None else [reply]
            for element in content:
                _check_payload(element)
        await self._send(self._iqs.reply(arrival, kind), content, device)

    def _decline(self, arrival: IqArrival) -> None:
        if self._account.has_session:
            self._iqs.decline(arrival)

    # -- both ----------------------------------------------------------------------------------

    async def _send(
        self, header: IqHeader, content: list[Element], device: DeviceId | None
    ) -> frozenset[DeviceId]:
        """Encrypt under the lock, commit the ratchet, then send; for which devices it was."""
        accounts = frozenset({bare(header.recipient)})
        self._account.check_session()
        await self._account.devices.prepare(accounts)
        seal = partial(self._sealed, header, content, device)
        try:
            pending: Pending[SealedIq, None] = await self._account.begin(seal, _no_rows)
        except NoEligibleDevices:  # lists come one by one, and in any order
            await self._account.devices.prepare(accounts, again=True)
            pending = await self._account.begin(seal, _no_rows)
        await pending.finish()
        self._account.check_session()
        self._iqs.send(header, pending.value)
        return pending.value.devices

    async def _sealed(
        self, header: IqHeader, content: list[Element], device: DeviceId | None
    ) -> SealedIq:
        """Under the lock: no opt-out comes in between; who asks all the same is answered."""
        if header.kind in ASKING:
            await self._opt_outs.check(bare(header.recipient))
        return await self._iqs.seal(header, content, device)

    async def _open(self, arrival: IqArrival) -> _Opened:
        """Decrypt under the lock, commit the ratchet, and verify the envelope.

        Raises:
            RemoteProtocolError: it does not open, or breaks a rule.
            VaultError: nothing was stored, and it can be opened again.
        """
        outcome: _Opened | RemoteProtocolError = RemoteProtocolError(Reason.UNDECRYPTABLE)
        try:
            pending: Pending[Any, None] = await self._account.begin_reading(
                [partial(self._contents, arrival)], _no_rows
            )
            await pending.finish()
            (outcome,) = pending.value
            self._own(_published(pending))
        except EphemeralError:
            raise
        except Exception as error:  # noqa: BLE001 -- the one place where remote input is opened
            # No traceback: it would quote the exception's text.
            log.error("an IQ could not be opened: %s", type(error).__name__)  # noqa: TRY400 -- as said
        if isinstance(outcome, RemoteProtocolError):
            raise outcome
        return outcome

    async def _contents(self, arrival: IqArrival) -> _Opened | RemoteProtocolError:
        """What breaks a rule once it is decrypted is spent all the same: it never opens again."""
        unsealed = await self._iqs.unseal(arrival)
        try:
            content = await self._iqs.open(arrival, unsealed)
        except RemoteProtocolError as error:
            return error
        return _Opened(content, DeviceId(unsealed.device.device_id))

    def _remember(self, arrival: IqArrival, device: DeviceId) -> None:
        """Later questions go to this device alone: the others of its account never see them."""
        self._devices.pop(arrival.header.sender, None)
        if len(self._devices) >= MAXIMUM_KNOWN:
            del self._devices[next(iter(self._devices))]
        self._devices[arrival.header.sender] = device

    def _reject(self, arrival: IqArrival, reason: Reason) -> None:
        message_id = MessageId(arrival.header.iq_id)
        self._account.emit("ephemeral_rejected", Rejection(reason, arrival.sender, message_id))

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._account.start(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _no_rows(_: object) -> Callable[[object], None]:
    """Nothing but the ratchet is written."""
    return lambda _: None


def _is_payload(element: Element) -> bool:
    """Tell a payload from an error, and from what only messages have: a body, a timer, a mark."""
    tests = (refusals.is_error, ephemeral.is_ephemeral, setting.is_setting, marks.is_mark)
    return not element.tag.startswith(CLIENT) and not any(test(element) for test in tests)


def _check_payload(element: Element) -> None:
    if not _is_payload(element):
        raise LocalProtocolError("give a payload of your own: this element belongs to messages")


def _payload(content: tuple[Element, ...]) -> Element:
    """The one child that an IQ has (RFC 6120 section 8.2.3): no timer, no mark beside it.

    Raises:
        RemoteProtocolError: there are several, or none that is a payload.
    """
    if len(content) != 1 or not _is_payload(content[0]):
        raise RemoteProtocolError(Reason.NO_PAYLOAD)
    return content[0]


def _refused(content: tuple[Element, ...]) -> IqRefused:
    inside = refusals.read(content)
    if inside is None:
        # Only its type says that it is an error, and that may be a server's word.
        return IqRefused(Refusal("undefined-condition", "cancel"), authenticated=False)
    return IqRefused(inside)


@contained
async def _published(pending: Pending[Any, None]) -> None:
    """Upload our new bundle after a key exchange; the next start mends a failure."""
    await pending.publish()
