"""What rows are made of: codes that never change, and contents that come back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    MessageId,
    Seconds,
    TimerChange,
    Trust,
)
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault.primitives import pad, random_key, seal
from eph_e2ee.vault.rows import (
    DELIVERIES,
    DELIVERY_CODES,
    DIRECTIONS,
    PHASES,
    _kind,
    delivery_after,
    open_content,
    seal_content,
)
from tests.vault.making import PETER, ROSA

TIMERS = st.none() | st.integers(1, 2**32 - 1).map(Seconds)
DEVICES = st.none() | st.integers(1, 2**31 - 1).map(DeviceId)
CHANGES = st.builds(
    TimerChange,
    conversation=st.text().map(BareJid),
    old=TIMERS,
    new=TIMERS,
    author=st.sampled_from([ROSA, PETER]),
    device=DEVICES,
    own=st.booleans(),
    here=st.booleans(),
    authenticated=st.booleans(),
)
CONTENTS = st.builds(
    Content,
    body=st.none() | st.text(),
    elements=st.lists(st.text(), max_size=3).map(tuple),
    sender=st.sampled_from([ROSA, PETER]),
    device=DEVICES,
    message_id=st.text().map(MessageId),
    sent_at=st.floats(allow_nan=False, allow_infinity=False),
    archive_id=st.none() | st.text(),
    change=st.none() | CHANGES,
    wants_marker=st.booleans(),
    trust=st.none() | st.sampled_from(Trust),
)


def test_the_codes_of_the_format_never_change() -> None:
    assert [value.value for value in PHASES] == ["unsent", "unread", "read", "running", "gone"]
    assert [value.value for value in DIRECTIONS] == ["incoming", "outgoing"]
    assert [value.value for value in DELIVERIES] == [
        "unsent",
        "sent",
        "received",
        "delivered",
        "displayed",
        "failed",
    ]
    assert [value.value for value in Trust] == [
        "trusted",
        "blindly trusted",
        "undecided",
        "distrusted",
    ]
    assert set(DELIVERY_CODES) == set(Delivery)
    assert set(DIRECTIONS) == set(Direction)


@given(CONTENTS)
def test_any_content_survives_sealing(content: Content) -> None:
    """Also what our archive calls it, and the change that a line of the history tells of."""
    key = random_key()
    sealed = seal_content(content, key, 3)
    assert open_content(sealed, key, 3) == content
    with pytest.raises(VaultDamaged):
        open_content(sealed, key, 4)


@pytest.mark.parametrize("data", [b"", b"[]", b"[1,2,3]", b"{}", b"text"])
def test_what_is_no_content_is_damaged(data: bytes) -> None:
    key = random_key()
    with pytest.raises(VaultDamaged):
        open_content(seal(key, pad(data), _kind(3)), key, 3)


BEFORE_TRUST = '["text",[],"rosa@example.org",7,"id",1.5,null,null,true'


def test_a_content_from_before_trust_was_kept() -> None:
    key = random_key()
    content = open_content(seal(key, pad(f"{BEFORE_TRUST}]".encode()), _kind(3)), key, 3)
    assert (content.body, content.wants_marker, content.trust) == ("text", True, None)


@pytest.mark.parametrize("more", [',"VERIFIED"', ',"trusted",1', ",7"])
def test_a_trust_that_is_none_is_damaged(more: str) -> None:
    key = random_key()
    with pytest.raises(VaultDamaged):
        open_content(seal(key, pad(f"{BEFORE_TRUST}{more}]".encode()), _kind(3)), key, 3)


class Row:
    """What `delivery_after` looks at."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = DELIVERY_CODES[delivery]


@pytest.mark.parametrize("before", Delivery)
def test_only_sending_brings_a_message_on_its_way(before: Delivery) -> None:
    """F17: not the end of a process; and what is known of it since, also a failure, stays so."""
    row: object = Row(before)
    for event in Event:
        sent = event is Event.SENT and before is Delivery.UNSENT
        wanted = Delivery.SENT if sent else before
        assert delivery_after(row, event) is wanted  # type: ignore[arg-type]
