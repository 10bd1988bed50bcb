"""End-to-end encrypted disappearing messages for XMPP bots and clients."""

from typing import TYPE_CHECKING

from eph_e2ee.attaching import attach
from eph_e2ee.chat import Chat
from eph_e2ee.drafts import AGREED
from eph_e2ee.errors import (
    Cause,
    EphemeralError,
    IqRefused,
    LocalError,
    LocalProtocolError,
    NoAnswer,
    NoEligibleDevices,
    NotConnected,
    NotSent,
    OptedOut,
    Reason,
    Refusal,
    RemoteError,
    RemoteProtocolError,
    RoomUnsuitable,
    TrustUndecided,
    VaultError,
)
from eph_e2ee.events import (
    CatchUp,
    ChatState,
    Delivered,
    Expired,
    LeftOut,
    NewDevice,
    OptOut,
    PlainMessage,
    PlainTimerChange,
    Question,
    Rejection,
    Skipped,
    Unsupported,
)
from eph_e2ee.message import Message
from eph_e2ee.model import Delivery, Direction, Erasure, Legacy, Phase, TimerChange, Trust
from eph_e2ee.vault.keyringkey import KeyringRootKey
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.rootkey import FileRootKey, MemoryRootKey
from eph_e2ee.xmpp.devices import Device
from eph_e2ee.xmpp.ephemeral import XEP_0466
from eph_e2ee.xmpp.omemo import XEP_0384, TrustLevel
from eph_e2ee.xmpp.sce import XEP_0420

if not TYPE_CHECKING:  # else every name would look like one of ours to a type checker
    from eph_e2ee.xmpp.outdated import attribute as __getattr__  # noqa: F401 -- Python looks for it (PEP 562)

__version__ = "0.1.0"

__all__ = [
    "AGREED",
    "XEP_0384",
    "XEP_0420",
    "XEP_0466",
    "CatchUp",
    "Cause",
    "Chat",
    "ChatState",
    "Cost",
    "Delivered",
    "Delivery",
    "Device",
    "Direction",
    "EphemeralError",
    "Erasure",
    "Expired",
    "FileRootKey",
    "IqRefused",
    "KeyringRootKey",
    "LeftOut",
    "Legacy",
    "LocalError",
    "LocalProtocolError",
    "MemoryRootKey",
    "Message",
    "NewDevice",
    "NoAnswer",
    "NoEligibleDevices",
    "NotConnected",
    "NotSent",
    "OptOut",
    "OptedOut",
    "PassphraseRootKey",
    "Phase",
    "PlainMessage",
    "PlainTimerChange",
    "Question",
    "Reason",
    "Refusal",
    "Rejection",
    "RemoteError",
    "RemoteProtocolError",
    "RoomUnsuitable",
    "Skipped",
    "TimerChange",
    "Trust",
    "TrustLevel",
    "TrustUndecided",
    "Unsupported",
    "VaultError",
    "attach",
]
