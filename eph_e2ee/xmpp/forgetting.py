"""Devices that no list has any more: forgotten with all that belongs to them, which stays else.

python-omemo forgets no device, and no session. Whoever cycles devices, a stranger or a server,
would have a vault grow for ever.

Those that somebody has decided on stay. One of them is what ends blind trust for an account; if a
server could have it forgotten by lists of made-up devices, the next device of its own would be
trusted blindly. There are as many as people decide on.
"""

import base64
from typing import TYPE_CHECKING, Any, Final

from omemo.storage import Storage

from eph_e2ee.vault.exporting import DEVICE, SESSION
from eph_e2ee.xmpp.crossing import ASIDE
from eph_e2ee.xmpp.published import MAX_DEVICES
from eph_e2ee.xmpp.unanswered import Device

if TYPE_CHECKING:
    from eph_e2ee.xmpp.sessions import Sessions

__all__ = ["MAX_KNOWN", "forget_unlisted"]

MAX_KNOWN: Final = 2 * MAX_DEVICES
"""Devices of an account that are remembered, of both namespaces' lists; when there are more, those
that stand in no list any more are forgotten. Two accounts' bundles are what one operation may
fetch (`gate.MAXIMUM_FETCHES`)."""


async def forget_unlisted(sessions: "Sessions", bare_jid: str) -> frozenset[Device]:
    """Forget an account's devices that are in no list, if more are known than `MAX_KNOWN`.

    Not this very device, nor one that somebody has decided on. One that returns is a new device,
    with a new session. Only inside of an operation.

    Returns:
        The devices whose sessions were forgotten.
    """
    storage, name = sessions.storage, f"/devices/{bare_jid}/list"
    known = (await storage.load_list(name, int)).maybe([])
    if len(known) <= MAX_KNOWN:
        return frozenset()
    kept = [each for each in known if await _stays(sessions, bare_jid, each)]
    await storage.store(name, list[Any](kept))
    keys = {await _key(storage, bare_jid, each) for each in kept}
    for device in set(known) - set(kept):
        key = await _key(storage, bare_jid, device)
        if key not in keys:
            await storage.delete(f"/trust/{bare_jid}/{key}")
        for value in DEVICE:
            await storage.delete(f"/devices/{bare_jid}/{device}/{value}")
    forgotten: set[Device] = set()
    for namespace in sessions.backends:
        for account in (bare_jid, bare_jid + ASIDE):
            gone = await _forget_sessions(storage, f"/{namespace}", account, kept)
            forgotten |= {(namespace, bare_jid, device) for device in gone}
    return frozenset(forgotten)


async def _stays(sessions: "Sessions", bare_jid: str, device: int) -> bool:
    if bare_jid == sessions.own_bare_jid and device == sessions.own_device:
        return True
    active = await sessions.storage.load_dict(f"/devices/{bare_jid}/{device}/active", bool)
    return any(active.maybe({}).values()) or await sessions.is_decided(bare_jid, device)


async def _key(storage: Storage, bare_jid: str, device: int) -> str:
    """A device's identity key, as python-omemo names its trust; empty where it is not known."""
    key = await storage.load_bytes(f"/devices/{bare_jid}/{device}/identity_key")
    return base64.urlsafe_b64encode(key.maybe(b"")).decode()


async def _forget_sessions(
    storage: Storage, place: str, account: str, kept: list[int]
) -> frozenset[int]:
    """Forget an account's sessions with other devices than these, where python-omemo keeps them."""
    name, accounts = f"{place}/{account}/device_ids", f"{place}/bare_jids"
    stored = (await storage.load_list(name, int)).maybe([])
    gone = frozenset(stored) - frozenset(kept)
    for device in gone:
        for value in SESSION:
            await storage.delete(f"{place}/{account}/{device}/{value}")
    if gone:
        await storage.store(name, [each for each in stored if each not in gone])
    if gone and gone == frozenset(stored):
        named = (await storage.load_list(accounts, str)).maybe([])
        await storage.delete(name)
        await storage.store(accounts, [each for each in named if each != account])
    return gone
