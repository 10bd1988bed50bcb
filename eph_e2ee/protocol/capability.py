"""Which device can read what.

A device in the list of `urn:xmpp:omemo:2` need not read envelopes: slixmpp-omemo 2.2 publishes
there, decrypts, and then loses the message. So a device is believed only for a reason.
"""

import enum
from dataclasses import dataclass

__all__ = ["LABEL_MARKER", "Answer", "Capability", "DeviceFacts", "assess", "is_marked"]

LABEL_MARKER = "eph_e2ee"
"""Stands in the label that this library publishes for its device (XEP-0384 section 5.3.1)."""


class Answer(enum.Enum):
    """What is known of an ability."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What has been seen of a device.

    Attributes:
        listed: whether the device list of omemo:2 has it.
        listed_legacy: whether the device list of legacy OMEMO has it.
        sent_envelope: whether it has sent an omemo:2 message whose envelope we read.
        marked: whether its omemo:2 label carries our marker; see `is_marked`.
        sent_timer: whether it has sent an `<ephemeral/>` element in an envelope.
        advertised: what disco says of `urn:xmpp:ephemeral:0`: True when every resource of the
            account has it, and there are as many as devices, False when none has that is online,
            None when it is mixed or not known. Devices and resources cannot be told to belong
            together.
    """

    listed: bool = False
    listed_legacy: bool = False
    sent_envelope: bool = False
    marked: bool = False
    sent_timer: bool = False
    advertised: bool | None = None


@dataclass(frozen=True, slots=True)
class Capability:
    """What a device can do. An unknown `reads_sce` is to be addressed as legacy."""

    reads_sce: Answer
    honours_timers: Answer


def assess(facts: DeviceFacts) -> Capability:
    """Draw the conclusions from what has been seen of a device."""
    return Capability(_reads_sce(facts), _honours_timers(facts))


def is_marked(label: str | None) -> bool:
    """Tell whether a device's label says that it runs this library."""
    return label is not None and LABEL_MARKER in label


def _reads_sce(facts: DeviceFacts) -> Answer:
    if facts.sent_envelope:
        return Answer.YES
    if not facts.listed:
        return Answer.NO
    return Answer.YES if facts.marked or not facts.listed_legacy else Answer.UNKNOWN


def _honours_timers(facts: DeviceFacts) -> Answer:
    if facts.sent_timer or facts.advertised:
        return Answer.YES
    if facts.advertised is False:
        return Answer.NO  # whatever its label: an application need not enable timers
    return Answer.YES if facts.marked else Answer.UNKNOWN
