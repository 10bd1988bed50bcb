"""The rows of messages: the database's words for them, the statements, and how content is sealed.

`archive.py` says what happens to a message; here stands what that is in the database.
"""

import functools
import json
from dataclasses import astuple, dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, Select, bindparam, func, select, text, update

from eph_e2ee.errors import VaultDamaged
from eph_e2ee.model import (
    BareJid,
    Content,
    Delivery,
    DeviceId,
    Direction,
    Entry,
    MessageId,
    Phase,
    TimerChange,
    Trust,
)
from eph_e2ee.protocol.lifetime import Event, Lifetime
from eph_e2ee.vault.database import ENDING, NOT_GONE, UNSENT, messages, replays
from eph_e2ee.vault.keys import ROW_FORMAT
from eph_e2ee.vault.paths import Leaf, Region
from eph_e2ee.vault.primitives import Key, open_sealed, pad, seal, unpad

# The database's words for the enums. Their order is the format: only ever append.
DIRECTIONS: Final = (Direction.INCOMING, Direction.OUTGOING)
PHASES: Final = (Phase.UNSENT, Phase.UNREAD, Phase.READ, Phase.RUNNING, Phase.GONE)
DELIVERIES: Final = (
    *(Delivery.UNSENT, Delivery.SENT, Delivery.RECEIVED),
    *(Delivery.DELIVERED, Delivery.DISPLAYED, Delivery.FAILED),
)
DIRECTION_CODES: Final = {value: code for code, value in enumerate(DIRECTIONS)}
PHASE_CODES: Final = {value: code for code, value in enumerate(PHASES)}
DELIVERY_CODES: Final = {value: code for code, value in enumerate(DELIVERIES)}
GONE_CODE: Final = PHASE_CODES[Phase.GONE]

OLD_REST: Final = 3
"""The last fields of a content that was written before trust was kept."""

ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

EMPTY = {"phase": GONE_CODE, "sealed_key": None, "content": None}
"""What makes a row a tombstone."""

FIND_REPLAY = select(replays.c.number).where(replays.c.hash == bindparam("hash"))
READ = select(messages).where(messages.c.number == bindparam("number"))
READ_PAGE = (
    select(messages)
    .where(messages.c.conversation == bindparam("of"), messages.c.number < bindparam("before"))
    .order_by(messages.c.number.desc())
    .limit(bindparam("count"))
)
READ_BETWEEN = (
    select(messages)
    .where(messages.c.number >= bindparam("first"), messages.c.number < bindparam("end"))
    .order_by(messages.c.number)
)
READ_STANDINGS = (
    select(messages.c.number, messages.c.direction, messages.c.phase, messages.c.delivery)
    .where(messages.c.conversation == bindparam("of"), messages.c.number <= bindparam("until"))
    .order_by(messages.c.number.desc())
    .limit(bindparam("count"))
)
SET_DELIVERY = (
    update(messages)
    .where(messages.c.number == bindparam("of"))
    .values(delivery=bindparam("new_delivery"))
)
READ_UNSENT = select(messages).where(text(UNSENT)).order_by(messages.c.number)
MOVE = (
    update(messages)
    .where(messages.c.number == bindparam("of"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                *("phase", "delivery", "deadline"),
                *("region", "epoch", "leaf_group", "sealed_key"),
            )
        }
    )
)
EMPTY_DUE = (
    update(messages)
    .where(messages.c.number == bindparam("of"))
    .values(
        phase=PHASE_CODES[Phase.RUNNING],
        delivery=bindparam("new_delivery"),
        deadline=bindparam("new_deadline"),
        region=Region.EXPIRING.value,
        epoch=bindparam("new_epoch"),
        leaf_group=bindparam("new_deadline"),
        sealed_key=None,
        content=None,
    )
)
ERASE = (
    update(messages)
    .where(messages.c.number == bindparam("of"))
    .values(**EMPTY, deadline=bindparam("at"))
)
READ_ENDING = select(messages).where(messages.c.conversation == bindparam("of"), text(ENDING))
ERASE_CONVERSATION = (
    update(messages)
    .where(messages.c.conversation == bindparam("of"), text(NOT_GONE))
    .values(**EMPTY, deadline=bindparam("at"))
)
EARLIEST = select(func.min(messages.c.deadline)).where(text(ENDING))
LATEST_DUE = (
    select(messages)
    .where(messages.c.deadline <= bindparam("until"), text(ENDING))
    .order_by(messages.c.deadline.desc())
    .limit(1)
)
SWEEP = (
    update(messages)
    .where(
        messages.c.number.in_(
            select(messages.c.number)
            .where(messages.c.deadline <= bindparam("until"), text(ENDING))
            .order_by(messages.c.deadline)
            .limit(bindparam("count"))
        )
    )
    .values(**EMPTY)
    .returning(messages.c.number, messages.c.conversation, messages.c.direction)
)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be kept.

    Attributes:
        conversation: the bare JID of the peer or the room.
        direction: incoming or outgoing.
        lifetime: where it stands, as `protocol.lifetime.created` gave it.
        delivery: how far it came.
        content: what dies with it.
        replay_ids: ids by which a second delivery is recognised, also after it has gone. Only
            keyed hashes of them are kept. The same id of another sender must be another text.
    """

    conversation: BareJid
    direction: Direction
    lifetime: Lifetime
    delivery: Delivery
    content: Content
    replay_ids: tuple[bytes | str, ...] = ()


@functools.cache
def find_replays(count: int) -> Select[tuple[int]]:
    """Return the statement that finds any of so many hashes, the same object each time."""
    return select(replays.c.number).where(replays.c.hash.in_([b""] * count))


class Standing(NamedTuple):
    """Where a message stands, as its row says without being opened."""

    number: int
    direction: Direction
    phase: Phase
    delivery: Delivery


class Gone(NamedTuple):
    """A message whose time was over and whose row has become a tombstone.

    Very many can go at once, and a named tuple is by far the cheapest to make.
    """

    number: int
    conversation: BareJid
    direction: Direction


def new_entry(number: int, message: NewMessage, now: float) -> Entry:
    """Return what a message is from the beginning: gone, when its time is over already (F21)."""
    lifetime = message.lifetime
    overdue = lifetime.deadline is not None and lifetime.deadline <= now
    gone = overdue or lifetime.phase is Phase.GONE
    return Entry(
        number=number,
        conversation=message.conversation,
        direction=message.direction,
        phase=Phase.GONE if gone else lifetime.phase,
        delivery=message.delivery,
        timer=lifetime.timer,
        deadline=lifetime.deadline,
        content=None if gone else message.content,
    )


def standing(row: Row[Any]) -> Standing:
    """Return what a row of `READ_STANDINGS` says."""
    return Standing(
        row.number, DIRECTIONS[row.direction], PHASES[row.phase], DELIVERIES[row.delivery]
    )


def leaf_of(row: Row[Any]) -> Leaf:
    """Return the leaf that seals a row's content key."""
    return Leaf(Region(row.region), row.leaf_group, row.number, row.epoch)


def delivery_after(row: Row[Any], event: Event) -> Delivery:
    """Return how far a message has come once an event has happened to it."""
    delivery = DELIVERIES[row.delivery]
    return Delivery.SENT if event is Event.SENT and delivery is Delivery.UNSENT else delivery


def seal_content(content: Content, key: Key, number: int) -> bytes:
    """Seal what a message holds under its own key, bound to the number of its row."""
    return seal(key, pad(_encode(content)), _kind(number))


def open_content(sealed: bytes, key: Key, number: int) -> Content:
    """Open what `seal_content` made.

    Raises:
        VaultDamaged: it was not made for this row, or was altered.
    """
    return _decode(unpad(open_sealed(key, sealed, _kind(number))))


def _kind(number: int) -> bytes:
    """Return what binds a content to its row, whatever leaf its key is under."""
    return ROW_FORMAT + b"content %d" % number


def _encode(content: Content) -> bytes:
    fields = [
        content.body,
        content.elements,
        content.sender,
        content.device,
        content.message_id,
        content.sent_at,
        content.archive_id,
        None if content.change is None else astuple(content.change),
        content.wants_marker,
        None if content.trust is None else content.trust.value,
    ]
    return ENCODER.encode(fields).encode("utf-8", "surrogatepass")


def _decode(data: bytes) -> Content:
    try:
        body, elements, sender, device, message_id, sent_at, *rest = json.loads(data)
        archive_id, change, wants_marker, trust = rest if len(rest) > OLD_REST else [*rest, None]
        trusted = None if trust is None else Trust(trust)
    except ValueError:
        raise VaultDamaged("a message of the vault cannot be read: restore it") from None
    return Content(
        body=body,
        elements=tuple(elements),
        sender=BareJid(sender),
        device=None if device is None else DeviceId(device),
        message_id=MessageId(message_id),
        sent_at=sent_at,
        archive_id=archive_id,
        change=None if change is None else TimerChange(*change),
        wants_marker=wants_marker,
        trust=trusted,
    )
