"""Servers and peers that do what they must not: nothing of it reaches the application's texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eph_e2ee import Reason
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import envelope
from eph_e2ee.protocol.envelope import Finding
from tests.support.chats import Party, bodies, body, element, fence, meet
from tests.support.client import PLUGINS, Happenings
from tests.support.interference import Interference

if TYPE_CHECKING:
    from tests.integration.conftest import NewParty
    from tests.support.prosody import Prosody
    from tests.support.wire import Wire

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
ENVELOPE = (
    "<envelope xmlns='urn:xmpp:sce:1'><content><body xmlns='jabber:client'>in the open</body>"
    "<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='1'/></content></envelope>"
)


def ephemeral(timer: str) -> str:
    """The XML of a timer, however it is written."""
    return f"<ephemeral xmlns='urn:xmpp:ephemeral:0' timer='{timer}'/>"


def forged(*, sender: str, to: str, text: str) -> bytes:
    """An envelope with any addresses."""
    return envelope.build(
        [body(text)],
        sender=BareJid(sender),
        to=BareJid(to),
        time=datetime.now(UTC),
        random=bytes,
    )


async def test_an_envelope_in_clear_is_dropped(
    party: NewParty, prosody: Prosody, wire: Wire
) -> None:
    """F31, XEP-0420 section 5: nobody sees it, and stream management has counted it."""
    rosa = party("rosa")
    peter = party("peter", address=wire.address, plugins=(*PLUGINS, "xep_0198"))
    await rosa.arrive()
    peter.attach()
    with Happenings(peter.client, "sm_enabled") as managed:
        await peter.arrive()
        await managed.next()
    await meet(rosa, peter)
    await peter.settle()  # his keys are published anew after the first message, which is answered
    plain = Happenings(peter.client, "message")
    management: Any = peter.client.plugin["xep_0198"]
    for text in ("", "<body>and a text outside</body>"):
        handled = management.handled
        prosody.deliver(
            f"<message xmlns='jabber:client' from='{rosa.jid}/x' to='{peter.jid}' id='open'"
            f" type='chat'>{text}{ENVELOPE}</message>"
        )
        rejection = await peter.rejected.next()
        assert (rejection.reason, rejection.sender, rejection.message_id) == (
            Reason.UNENCRYPTED_ENVELOPE,
            rosa.jid,
            "open",
        )
        await peter.ping()
        assert management.handled == handled + 2
    assert await fence(rosa, peter) == []
    assert [each["body"] for each in plain.all if each["body"]] == []
    assert b"in the open" in wire.to_clients.record
    assert "in the open" not in bodies(await peter.history(rosa))
    assert await peter.chat.timer(rosa.jid) is None
    plain.close()
    # The server closes the stream of a client that counts more or less than it has sent.
    place = len(wire.from_clients.record)
    management.send_ack()
    await wire.from_clients.until(b"<a ", start=place)
    await peter.ping()
    assert await fence(rosa, peter) == []


async def test_an_envelope_beside_the_ciphertext_is_dropped(
    pair: tuple[Party, Party], prosody: Prosody
) -> None:
    rosa, peter = pair
    await meet(rosa, peter)
    prosody.interfere(Interference(recipient=peter.jid, times=1, add=[ENVELOPE]))
    await rosa.chat.send(peter.jid, "drowned")
    assert (await peter.rejected.next()).reason is Reason.UNENCRYPTED_ENVELOPE
    assert await fence(rosa, peter) == []


async def test_a_forged_sender_is_rejected(pair: tuple[Party, Party]) -> None:
    """F31: `from` must be who OMEMO says; the ratchet goes on."""
    mallory, peter = pair
    await meet(mallory, peter)
    for who in ("paul@example.org", "example.org", peter.jid):
        plaintext = forged(sender=who, to=peter.jid, text="I am somebody else")
        message_id = await mallory.send_plaintext(peter, plaintext)
        rejection = await peter.rejected.next()
        assert (rejection.reason, rejection.sender, rejection.message_id) == (
            Reason.WRONG_SENDER,
            mallory.jid,
            message_id,
        )
    assert await fence(mallory, peter) == []
    await peter.chat.send(mallory.jid, "go away")
    assert (await mallory.hear()).body == "go away"
    assert "I am somebody else" not in bodies(await peter.history(mallory))


async def test_a_forged_recipient_is_rejected(party: NewParty) -> None:
    """F31: what mallory was told cannot be passed on as if it had been said to peter."""
    mallory, peter, paul = party("mallory"), party("peter"), party("paul")
    for each in (mallory, peter, paul):
        await each.arrive()
    plaintext = forged(sender=mallory.jid, to=paul.jid, text="for paul")
    await mallory.send_plaintext(peter, plaintext)
    assert (await peter.rejected.next()).reason is Reason.WRONG_RECIPIENT
    assert await fence(mallory, peter) == []
    plaintext = forged(sender=mallory.jid, to=paul.jid, text="for paul, again")
    await mallory.send_plaintext(paul, plaintext)
    assert (await paul.hear()).body == "for paul, again"


NO_ENVELOPES = {
    b"just a text": Reason.NOT_XML,
    b"<envelope xmlns='urn:xmpp:sce:1'/>": Reason.CONTENT_COUNT,
    b"<!DOCTYPE a><a/>": Reason.FORBIDDEN_XML,
    b"<body xmlns='jabber:client'>no envelope</body>": Reason.NOT_AN_ENVELOPE,
    b"\xff\xfe": Reason.NOT_XML,
    b"": Reason.NOT_XML,
}


async def test_a_payload_that_is_no_envelope_is_rejected(pair: tuple[Party, Party]) -> None:
    """F42: the peer hears of nothing, and the next message is read."""
    mallory, peter = pair
    errors = Happenings(mallory.client, "message_error")
    for plaintext, reason in NO_ENVELOPES.items():
        await mallory.send_plaintext(peter, plaintext)
        assert (await peter.rejected.next()).reason is reason
    assert await fence(mallory, peter) == []
    assert await fence(peter, mallory) == []
    assert errors.all == []
    errors.close()


async def test_a_forwarded_ciphertext_is_rejected(
    pair: tuple[Party, Party], party: NewParty, prosody: Prosody
) -> None:
    """F31: the server delivers rosa's message as if paul had sent it."""
    rosa, peter = pair
    paul = party("paul")
    await paul.arrive()
    await meet(rosa, peter)
    await meet(paul, peter)
    prosody.interfere(
        Interference(recipient=peter.jid, times=1, claimed_sender=f"{paul.jid}/phone")
    )
    await rosa.chat.send(peter.jid, "signed, paul")
    rejection = await peter.rejected.next()
    assert rejection.sender == paul.jid
    assert rejection.reason in (Reason.UNKNOWN_SENDER, Reason.UNDECRYPTABLE)
    assert await fence(paul, peter) == []
    assert await fence(rosa, peter) == []


async def test_a_damaged_ciphertext_is_rejected_and_the_true_one_read(
    pair: tuple[Party, Party], prosody: Prosody
) -> None:
    """F36, F43: a failed attempt leaves the ratchet as it was: the same message still opens."""
    rosa, peter = pair
    await meet(rosa, peter)
    prosody.interfere(
        Interference(recipient=peter.jid, times=1, copies=0, hold=True),
    )
    sent = await rosa.chat.send(peter.jid, "genuine")
    await rosa.ping()
    prosody.interfere(
        Interference(recipient=peter.jid, times=1, substitute=[("<payload>", "<payload>AAAA")])
    )
    await rosa.chat.send(peter.jid, "to be damaged")
    assert (await peter.rejected.next()).reason is Reason.UNDECRYPTABLE
    assert prosody.release() == 1
    heard = await peter.hear()
    assert (heard.body, heard.message_id) == ("genuine", sent.message_id)
    assert await fence(rosa, peter) == []


async def test_an_outer_timer_is_ignored_and_reported(
    pair: tuple[Party, Party], prosody: Prosody
) -> None:
    """F31: the server can neither start, shorten nor stop a timer."""
    rosa, peter = pair
    await meet(rosa, peter)
    out = "<i-want-out xmlns='urn:xmpp:ephemeral:0'/>"
    cases: dict[str, timedelta | None] = {"5": None, "1": HOUR, "0": HOUR}
    for timer, inner in cases.items():
        prosody.interfere(Interference(recipient=peter.jid, times=1, add=[ephemeral(timer), out]))
        await rosa.chat.send(peter.jid, "as I said", timer=inner)
        heard = await peter.read()
        assert (heard.body, heard.timer) == ("as I said", inner)
        assert heard.findings == (Finding.OUTER_EPHEMERAL,)
        assert await peter.chat.timer(rosa.jid) == inner
    peter.clock.advance(3599)
    assert peter.expired.all == []
    await rosa.chat.send(peter.jid, "undisturbed")
    assert (await peter.hear()).findings == ()


async def test_an_outer_body_is_ignored(pair: tuple[Party, Party], prosody: Prosody) -> None:
    """F31, XEP-0420 section 6: what is sensitive counts inside alone."""
    rosa, peter = pair
    await meet(rosa, peter)
    prosody.interfere(
        Interference(recipient=peter.jid, times=1, add=["<body>the server's words</body>"])
    )
    await rosa.chat.send(peter.jid, "my words")
    assert (await peter.hear()).body == "my words"
    assert bodies(await peter.history(rosa))[-1:] == ["my words"]


async def test_a_malformed_timer_changes_nothing(pair: tuple[Party, Party]) -> None:
    """F30: the message lives under the conversation's timer, and it is reported."""
    rosa, peter = pair
    await peter.chat.set_timer(rosa.jid, HOUR)
    await rosa.changes.next()
    for timer in ("-1", "soon", "", "4294967296", "1.5", "1e3", "0x10"):
        await rosa.send_content(peter, body("when?"), element(ephemeral(timer)))
        heard = await peter.read()
        assert (heard.body, heard.timer) == ("when?", HOUR)
        assert heard.findings == (Finding.MALFORMED_TIMER,)
    assert await peter.chat.timer(rosa.jid) == HOUR
    assert peter.changes.all[1:] == []


async def test_a_timer_of_zero_is_off_and_burns_nothing(pair: tuple[Party, Party]) -> None:
    """F30: on a message with a text it means off, never "burn now"."""
    rosa, peter = pair
    await peter.chat.set_timer(rosa.jid, HOUR)
    await rosa.changes.next()
    await rosa.send_content(peter, body("stay"), element(ephemeral("0")))
    assert [(await peter.changes.next()).new for _ in range(2)] == [3600, None]
    heard = await peter.read()
    assert (heard.body, heard.timer, heard.deadline) == ("stay", None, None)
    peter.clock.advance(1000 * 3600)
    assert await fence(rosa, peter) == []
    assert bodies(await peter.history(rosa))[0] == "stay"
    assert peter.expired.all == []


async def test_of_several_timers_the_shortest_counts(pair: tuple[Party, Party]) -> None:
    """F30: also beside zero, an opt-out, and one that is malformed."""
    rosa, peter = pair
    several = [element(ephemeral(timer)) for timer in ("0", "90", "60", "soon")]
    out = element("<i-want-out xmlns='jabber:client'/>")
    await rosa.send_content(peter, body("when?"), *several, out)
    heard = await peter.hear()
    assert heard.timer == timedelta(seconds=60)
    assert set(heard.findings) == {
        Finding.SEVERAL_EPHEMERALS,
        Finding.MALFORMED_TIMER,
        Finding.CONTRADICTING_OPT_OUT,
    }
    assert await peter.chat.timer(rosa.jid) == timedelta(seconds=60)
    assert heard.elements == ()


async def test_any_form_of_opting_out_is_heard(pair: tuple[Party, Party]) -> None:
    rosa, peter = pair
    outs = (
        "<i-want-out xmlns='urn:xmpp:ephemeral:0'/>",
        "<i-want-out xmlns='jabber:client'/>",
        ephemeral("0"),
    )
    for hours, out in enumerate(outs, 1):
        await peter.chat.set_timer(rosa.jid, hours * HOUR)
        assert (await rosa.changes.next()).new == hours * 3600
        assert (await peter.changes.next()).own
        # Without this, an old client's repeated "off" would be an echo of its last one (F22).
        await rosa.chat.send(peter.jid, "noted")
        assert (await peter.hear()).timer == hours * HOUR
        await rosa.send_content(peter, element(out))
        assert (await peter.changes.next()).new is None
        await peter.chat.send(rosa.jid, "all right")
        assert (await rosa.hear()).timer is None
        assert (await rosa.changes.next()).new is None  # her library learns what her client said


async def test_hints_inside_are_discarded(pair: tuple[Party, Party]) -> None:
    """F34: what only a server may process does not come out of an envelope."""
    rosa, peter = pair
    inside = (
        "<content xmlns='urn:xmpp:sce:1'><body xmlns='jabber:client'>hinted</body>"
        "<no-permanent-store xmlns='urn:xmpp:hints'/>"
        "<stanza-id xmlns='urn:xmpp:sid:0' id='x' by='example.org'/></content>"
    )
    affixes = f"<rpad>x</rpad><to jid='{peter.jid}'/><from jid='{rosa.jid}'/>"
    plaintext = f"<envelope xmlns='urn:xmpp:sce:1'>{inside}{affixes}</envelope>"
    await rosa.send_plaintext(peter, plaintext.encode())
    heard = await peter.hear()
    assert (heard.body, heard.elements) == ("hinted", ())
    assert heard.findings == (Finding.SERVER_PROCESSED,)


async def test_the_servers_word_on_time_cannot_lengthen_a_life(
    pair: tuple[Party, Party], prosody: Prosody
) -> None:
    """F13: a deadline counts from our own reading, whatever the sender's or server's clock says."""
    rosa, peter = pair
    await meet(rosa, peter)
    rosa.clock.suspend(10 * 365 * 86400)
    delay = "<delay xmlns='urn:xmpp:delay' stamp='2040-01-01T00:00:00Z'/>"
    prosody.interfere(Interference(recipient=peter.jid, times=1, add=[delay]))
    await rosa.chat.send(peter.jid, "from the future", timer=HOUR)
    heard = await peter.read()
    assert heard.deadline == peter.source.wall_time + 3600
    assert heard.sent_at is not None
    assert heard.sent_at.timestamp() <= peter.clock.now()
    assert Finding.WRONG_TIME in heard.findings
