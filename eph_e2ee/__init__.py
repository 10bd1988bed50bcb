"""End-to-end encrypted disappearing messages for XMPP bots and clients."""

from eph_e2ee.attaching import attach
from eph_e2ee.chat import Chat
from eph_e2ee.drafts import AGREED
from eph_e2ee.errors import (
    EphemeralError,
    IqRefused,
    LocalError,
    LocalProtocolError,
    NoAnswer,
    NoEligibleDevices,
    NotConnected,
    NotSent,
    Reason,
    Refusal,
    RemoteError,
    RemoteProtocolError,
    TrustUndecided,
    VaultError,
)
from eph_e2ee.message import Message
from eph_e2ee.model import (
    CatchUp,
    Delivered,
    Delivery,
    Direction,
    Erasure,
    Expired,
    Legacy,
    Phase,
    Question,
    Rejection,
    TimerChange,
    Unsupported,
)
from eph_e2ee.vault.keyringkey import KeyringRootKey
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.rootkey import FileRootKey, MemoryRootKey
from eph_e2ee.xmpp.ephemeral import XEP_0466
from eph_e2ee.xmpp.omemo import XEP_0384
from eph_e2ee.xmpp.sce import XEP_0420

__version__ = "0.1.0"

__all__ = [
    "AGREED",
    "XEP_0384",
    "XEP_0420",
    "XEP_0466",
    "CatchUp",
    "Chat",
    "Cost",
    "Delivered",
    "Delivery",
    "Direction",
    "EphemeralError",
    "Erasure",
    "Expired",
    "FileRootKey",
    "IqRefused",
    "KeyringRootKey",
    "Legacy",
    "LocalError",
    "LocalProtocolError",
    "MemoryRootKey",
    "Message",
    "NoAnswer",
    "NoEligibleDevices",
    "NotConnected",
    "NotSent",
    "PassphraseRootKey",
    "Phase",
    "Question",
    "Reason",
    "Refusal",
    "Rejection",
    "RemoteError",
    "RemoteProtocolError",
    "TimerChange",
    "TrustUndecided",
    "Unsupported",
    "VaultError",
    "attach",
]
