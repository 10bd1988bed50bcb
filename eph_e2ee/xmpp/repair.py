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

MOST_OF_ONE: Final = 32
"""Devices of one account that are repaired unasked within a period. People have a handful; whoever
makes up more leaves the others their places."""

MAXIMUM: Final = 1024
"""Devices that are repaired unasked within a period, of all accounts: each costs a message."""


class Repairs:
    """Which devices' sessions were begun anew lately.

    Args:
        now: seconds of a clock that only moves forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._unasked: OrderedDict[Device, float] = OrderedDict()
        self._asked: OrderedDict[Device, float] = OrderedDict()

    def admits(self, device: Device) -> bool:
        """Tell whether a device's session may be begun anew unasked, and take it that it will be.

        A device has once in a period, whoever it is asked by; an account has `MOST_OF_ONE`.
        """
        if self._was_begun(device) or len(self._unasked) >= MAXIMUM:
            return False
        if sum(account == device[1] for _, account, _ in self._unasked) >= MOST_OF_ONE:
            return False
        self._unasked[device] = self._now()
        return True

    def admits_asked(self, device: Device) -> bool:
        """Do the same for people who ask for it, whatever others have used up.

        They ask for devices that are known, of which each account has `forgetting.MAX_KNOWN`.
        """
        if self._was_begun(device):
            return False
        self._asked[device] = self._now()
        return True

    def withdraw(self, device: Device) -> None:
        """Take back that a device's session will be begun anew: it was not."""
        for begun in (self._unasked, self._asked):
            begun.pop(device, None)

    def _was_begun(self, device: Device) -> bool:
        now = self._now()
        for begun in (self._unasked, self._asked):
            while begun and now - next(iter(begun.values())) >= PERIOD:
                begun.popitem(last=False)
        return device in self._unasked or device in self._asked


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
    before = await backend.load_session(bare_jid, device_id)
    if (before is not None) is not standing or not await _welcome(sessions, device):
        return False
    bundle = await sessions.bundle(namespace, bare_jid, device_id)
    content, plain_key = await backend.encrypt_empty()
    session, key = await backend.build_session_active(bare_jid, device_id, bundle, plain_key)
    await sessions.send_empty(session, content, key)
    await crossing.laid_aside(backend, before)
    return True


async def _welcome(sessions: Sessions, device: Device) -> bool:
    namespace, bare_jid, device_id = device
    return any(
        known.device_id == device_id
        and dict(known.active).get(namespace, False)
        and known.trust_level_name != TrustLevel.DISTRUSTED.value
        for known in await sessions.get_device_information(bare_jid)
    )
