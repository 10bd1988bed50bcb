"""Sessions that are out of step: which are begun anew, when, and how.

A device without a session for what it has received begins one and tells the sender by an empty
message (XEP-0384 section 6), once. A session that stands is another matter: "Clients MUST NOT react
to decryption errors by initiating new sessions automatically and without user interaction"
(section 8). Anybody on the way can damage a message, so that whoever reacted would go on for ever.
There the application asks for it, after a restored backup for example.

No loop: whoever gets the empty message has the new session and begins none. If both sides begin at
once, the sessions cross, and `crossing` lets both agree on one.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from slixmpp_omemo import TrustLevel

from eph_e2ee.xmpp import crossing
from eph_e2ee.xmpp.sessions import Sessions
from eph_e2ee.xmpp.unanswered import Device

__all__ = ["MAXIMUM", "PERIOD", "Repairs", "begin_anew"]

PERIOD: Final = 3600.0
"""Seconds in which a device's session is begun anew at most once. Each costs it a pre key."""

MAXIMUM: Final = 1024
"""Devices that are remembered. While so many were repaired within a period, no other one is."""


class Repairs:
    """Which devices' sessions were begun anew lately.

    Args:
        now: seconds of a clock that only moves forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begun: OrderedDict[Device, float] = OrderedDict()

    def admits(self, device: Device) -> bool:
        """Tell whether a device's session may be begun anew, and take it that it will be."""
        now = self._now()
        while self._begun and now - next(iter(self._begun.values())) >= PERIOD:
            self._begun.popitem(last=False)
        if device in self._begun or len(self._begun) >= MAXIMUM:
            return False
        self._begun[device] = now
        return True

    def withdraw(self, device: Device) -> None:
        """Take back that a device's session will be begun anew: it was not."""
        self._begun.pop(device, None)


async def begin_anew(sessions: Sessions, device: Device, *, standing: bool) -> bool:
    """Begin a session with a device in place of the one that stands, which is laid aside.

    Only inside of an operation; the message that tells the device of it waits for the commit. That
    goes to devices that nobody trusts yet as well: it carries nothing (XEP-0384 section 8).

    Args:
        sessions: where.
        device: with whom.
        standing: whether there has to be a session, or must be none.

    Returns:
        Whether it was begun: not with a device that is unknown, distrusted or in no list.

    Raises:
        OMEMOException: its bundle cannot be had, or its keys cannot be used.
    """
    namespace, bare_jid, device_id = device
    backend = sessions.backends[namespace]
    present = await backend.load_session(bare_jid, device_id) is not None
    if present is not standing or not await _welcome(sessions, device):
        return False
    bundle = await sessions.bundle(namespace, bare_jid, device_id)
    content, plain_key = await backend.encrypt_empty()
    session, key = await backend.build_session_active(bare_jid, device_id, bundle, plain_key)
    await crossing.laid_aside(backend, bare_jid, device_id)
    await sessions.send_empty(session, content, key)
    return True


async def _welcome(sessions: Sessions, device: Device) -> bool:
    namespace, bare_jid, device_id = device
    return any(
        known.device_id == device_id
        and dict(known.active).get(namespace, False)
        and known.trust_level_name != TrustLevel.DISTRUSTED.value
        for known in await sessions.get_device_information(bare_jid)
    )
