"""The opt-out of OMEMO: a table, whatever comes in whatever order."""

from __future__ import annotations

from itertools import permutations
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import LocalProtocolError, VaultDamaged
from eph_e2ee.protocol import optout
from eph_e2ee.protocol.optout import Event, Phase, Request, State, step

OPEN, BLOCKED = Phase.OPEN, Phase.BLOCKED
OPT_OUT, MESSAGE, CONFIRMED = Event.OPT_OUT, Event.MESSAGE, Event.CONFIRMED


def element(xml: str) -> Element:
    return fromstring(xml)  # noqa: S314 -- written by the test


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<opt-out xmlns='urn:xmpp:omemo:2'/>", None),
        ("<opt-out xmlns='urn:xmpp:omemo:2'><reason/></opt-out>", None),
        ("<opt-out xmlns='urn:xmpp:omemo:2'><reason>\n  because  </reason></opt-out>", "because"),
        ("<o:opt-out xmlns:o='urn:xmpp:omemo:2'><o:reason>x</o:reason></o:opt-out>", "x"),
        ("<opt-out xmlns='urn:xmpp:omemo:2'><reason xmlns='other'>x</reason></opt-out>", None),
    ],
)
def test_an_opt_out_is_read(xml: str, reason: str | None) -> None:
    assert optout.read([Element("{jabber:client}body"), element(xml)]) == Request(reason)


@pytest.mark.parametrize(
    "xml",
    [
        "<opt-out/>",
        "<opt-out xmlns='jabber:client'/>",
        "<opt-out xmlns='urn:xmpp:omemo:1'/>",
        "<optout xmlns='urn:xmpp:omemo:2'/>",
        "<forwarded xmlns='urn:xmpp:forward:0'><opt-out xmlns='urn:xmpp:omemo:2'/></forwarded>",
        "<i-want-out xmlns='urn:xmpp:ephemeral:0'/>",
    ],
)
def test_nothing_else_is_one(xml: str) -> None:
    assert optout.read([element(xml)]) is None


@pytest.mark.parametrize("reason", [None, "because", "x" * optout.MAX_REASON])
def test_what_is_written_is_read(reason: str | None) -> None:
    assert optout.read([optout.write(reason)]) == Request(reason)


def test_a_reason_has_a_limit() -> None:
    with pytest.raises(LocalProtocolError):
        optout.write("x" * (optout.MAX_REASON + 1))
    long = "<opt-out xmlns='urn:xmpp:omemo:2'><reason>" + "x" * 9999 + "</reason></opt-out>"
    assert optout.read([element(long)]) == Request("x" * optout.MAX_REASON)


def test_a_reason_does_not_print() -> None:
    """F10."""
    assert "sentinel" not in repr(Request("sentinel"))


@pytest.mark.parametrize(
    ("before", "event", "stamp", "after"),
    [
        (State(), OPT_OUT, 10, State(BLOCKED, 10)),
        (State(), MESSAGE, 10, State()),
        (State(), CONFIRMED, None, State()),
        (State(BLOCKED, 10), MESSAGE, 11, State(OPEN, 11)),
        (State(BLOCKED, 10), MESSAGE, 10, State(BLOCKED, 10)),
        (State(BLOCKED, 10), MESSAGE, 9, State(BLOCKED, 10)),
        (State(BLOCKED, 10), CONFIRMED, None, State(OPEN, 10)),
        (State(BLOCKED, 10), OPT_OUT, 12, State(BLOCKED, 12)),
        (State(BLOCKED, 10), OPT_OUT, 9, State(BLOCKED, 10)),
        (State(OPEN, 10), OPT_OUT, 9, State(OPEN, 10)),
        (State(OPEN, 10), OPT_OUT, 11, State(BLOCKED, 11)),
        (State(OPEN, 10), MESSAGE, 11, State(OPEN, 10)),
    ],
)
def test_the_table(before: State, event: Event, stamp: int | None, after: State) -> None:
    assert step(before, event, stamp) == after


@given(st.lists(st.tuples(st.sampled_from([OPT_OUT, MESSAGE]), st.integers(1, 5)), max_size=4))
def test_the_last_word_blocks_in_whatever_order_it_comes(words: list[tuple[Event, int]]) -> None:
    """F26: an archive gives old words late; the newest opt-out holds unless something is newer."""
    opt_outs = [stamp for event, stamp in words if event is OPT_OUT]
    messages = [stamp for event, stamp in words if event is MESSAGE]
    for order in permutations(words):
        state = State()
        for event, stamp in order:
            state = step(state, event, stamp)
        if opt_outs and max(opt_outs) >= max(messages, default=0):
            assert state == State(BLOCKED, max(opt_outs))
        if not opt_outs:
            assert state == State()


@given(st.sampled_from(list(Phase)), st.integers(0, 2**63))
def test_a_state_is_kept_as_it_is(phase: Phase, stamp: int) -> None:
    state = State(phase, stamp)
    assert State.from_json(state.to_json()) == state


@pytest.mark.parametrize("text", ["", "{}", "[]", '["open"]', '["shut", 1]', '["open", null]'])
def test_a_damaged_state_is_an_error(text: str) -> None:
    with pytest.raises(VaultDamaged):
        State.from_json(text)
