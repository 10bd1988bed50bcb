"""What others publish, within bounds: device lists and bundles, before python-omemo takes them.

python-omemo checks their XML. It does not check how many devices and keys there are, how long a
key is, nor that a bundle's identity key is the one that is known and trusted: a server could
answer with a bundle of its own for a device that has no session yet.
"""

from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import omemo
from omemo.session_manager import BundleDownloadFailed, BundleNotFound
from omemo.storage import Storage
from omemo.types import DeviceList, SignedLabel
from slixmpp import JID
from slixmpp_omemo.xep_0384 import _download_bundle
from xeddsa import XEdDSAException

__all__ = [
    "MAX_DEVICES",
    "MAX_KNOWN",
    "MAX_PRE_KEYS",
    "bounded",
    "built",
    "check_bundle",
    "download_bundle",
    "forget_unlisted",
]

Built = TypeVar("Built")

MAX_DEVICES: Final = 64
"""Devices of one list that are looked at. People have a handful; each costs a download once, and a
key in every message."""

MAX_KNOWN: Final = 2 * MAX_DEVICES
"""Devices of an account that are remembered, of both namespaces' lists; when there are more, those
that stand in no list any more are forgotten. Two accounts' bundles are what one operation may
fetch (`gate.MAXIMUM_FETCHES`)."""

MAX_PRE_KEYS: Final = 1000
"""Pre keys of a bundle: clients publish 100. One is used; checking the others takes time."""

LARGEST_ID: Final = 2**31 - 1

LONGEST_LABEL: Final = 256
"""Characters of a device's label: QXmpp recommends at most 53."""

KEY, SIGNATURE = 32, 64
"""Bytes."""


def bounded(listed: DeviceList, own: int | None) -> DeviceList:
    """The first devices of a list, those with ids in the range of XEP-0384 section 5.3.1.

    A label that is too long, or whose signature cannot be one, is left away.

    Args:
        listed: what an account publishes.
        own: our own device where the list is our own account's: it is not cut off.
    """
    valid = {device: _label(label) for device, label in listed.items() if 1 <= device <= LARGEST_ID}
    kept = list(valid)[:MAX_DEVICES]
    if own in valid and own not in kept:
        kept[-1] = own
    return {device: valid[device] for device in kept}


async def forget_unlisted(storage: Storage, bare_jid: str, own: int | None) -> None:
    """Forget devices in no list, if more are known than `MAX_KNOWN`: python-omemo never does."""
    name = f"/devices/{bare_jid}/list"
    known = (await storage.load_list(name, int)).maybe([])
    if len(known) <= MAX_KNOWN:
        return
    remaining = [each for each in known if each == own or await _listed(storage, bare_jid, each)]
    await storage.store(name, list[Any](remaining))
    for device in set(known) - set(remaining):
        for value in ("active", "identity_key", "label", "namespaces"):
            await storage.delete(f"/devices/{bare_jid}/{device}/{value}")


async def check_bundle(storage: Storage, bundle: Any) -> None:
    """Refuse a bundle whose keys are no keys, or not those of the device that is known.

    Args:
        storage: where python-omemo keeps the identity keys of devices.
        bundle: of either backend.

    Raises:
        BundleDownloadFailed: for python-omemo, to leave the device out.
    """
    keys = bundle.bundle
    lengths = {len(key) for key in (bundle.identity_key, keys.signed_pre_key, *keys.pre_keys)}
    signed = len(keys.signed_pre_key_sig) == SIGNATURE
    if lengths != {KEY} or not signed or not 1 <= len(keys.pre_keys) <= MAX_PRE_KEYS:
        raise BundleDownloadFailed("keys of other lengths, none, or too many")
    name = f"/devices/{bundle.bare_jid}/{bundle.device_id}/identity_key"
    known = (await storage.load_bytes(name)).maybe(None)
    if known is not None and known != bundle.identity_key:
        raise BundleDownloadFailed("another identity key than the device has")


async def built(session: Awaitable[Built]) -> Built:
    """Build a session; keys that nobody can agree with are a failure of the exchange alone.

    Raises:
        KeyExchangeFailed: for python-omemo, to leave the device out.
    """
    try:
        return await session
    except XEdDSAException:  # a small order, a signature that is none
        pass
    raise omemo.KeyExchangeFailed("the bundle's keys cannot be used")


async def download_bundle(
    pubsub: Any, namespace: str, bare_jid: str, device_id: int
) -> omemo.Bundle:
    """Download a bundle as slixmpp-omemo does, and read it if it is of a sensible size.

    Raises:
        BundleNotFound: the device has published none.
        BundleDownloadFailed: it could not be had, or cannot be read.
    """
    checking: Any = _Bounded(pubsub, device_id)
    return await _download_bundle(checking, namespace, bare_jid, device_id)


class _Bounded:
    """The part of XEP-0060 that slixmpp-omemo downloads bundles with."""

    def __init__(self, pubsub: Any, device_id: int) -> None:
        self._pubsub = pubsub
        self._device_id = device_id

    async def get_items(self, jid: JID, node: str, **options: Any) -> Any:
        answer = await self._pubsub.get_items(jid, node, **options)
        for item in answer["pubsub"]["items"]:
            if "item_ids" in options and item["id"] != str(self._device_id):
                raise BundleNotFound("the bundle of another device")
            if sum(1 for _ in item.xml.iter()) > MAX_PRE_KEYS + 10:
                raise BundleDownloadFailed("more keys than a bundle has")
        return answer


async def _listed(storage: Storage, bare_jid: str, device: int) -> bool:
    active = await storage.load_dict(f"/devices/{bare_jid}/{device}/active", bool)
    return any(active.maybe({}).values())


def _label(label: SignedLabel | None) -> SignedLabel | None:
    if label is None or len(label.label) > LONGEST_LABEL or len(label.signature) != SIGNATURE:
        return None
    return label
