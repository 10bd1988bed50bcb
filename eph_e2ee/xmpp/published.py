"""What others publish, within bounds: device lists and bundles, before python-omemo takes them.

python-omemo checks their XML. It does not check how many devices and keys there are, how long a
key is, nor that a bundle's identity key is the one that is known and trusted: a server could
answer with a bundle of its own for a device that has no session yet.
"""

from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import omemo
from omemo.session_manager import BundleDownloadFailed
from omemo.storage import Storage
from omemo.types import DeviceList, SignedLabel
from slixmpp import JID
from xeddsa import XEdDSAException

__all__ = [
    "MAX_DEVICES",
    "MAX_PRE_KEYS",
    "CheckedClient",
    "CheckedPubSub",
    "bounded",
    "built",
    "check_bundle",
]

Built = TypeVar("Built")

MAX_DEVICES: Final = 64
"""Devices of one list that are looked at. People have a handful; each costs a download once, and a
key in every message."""

MAX_PRE_KEYS: Final = 1000
"""Pre keys of a bundle: clients publish 100. One is used; checking the others takes time."""

MAX_ELEMENTS: Final = MAX_PRE_KEYS + 10
"""XML elements of an item, before python-omemo's schemas are asked: 20 µs each."""

CURRENT: Final = "current"
"""What XEP-0384 calls the one item of a list; others call it what they like."""

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


class CheckedClient:
    """A client for slixmpp-omemo, which sees its PubSub through `CheckedPubSub`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getitem__(self, name: str) -> Any:
        return CheckedPubSub(self._client.plugin[name])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class CheckedPubSub:
    """XEP-0060, whose items are looked at before they are parsed; otherwise as it is."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pubsub, name)

    async def get_items(self, jid: JID, node: str, **options: Any) -> Any:
        """Ask for items; of several lists, whatever was asked for, the one called "current".

        Raises:
            OMEMOException: they are not those that were asked for, or too large.
        """
        answer = await self._pubsub.get_items(jid, node, **options)
        items = list(answer["pubsub"]["items"])
        wanted = options.get("item_ids")
        if wanted is None and len(items) > 1 and any(item["id"] == CURRENT for item in items):
            return await self._pubsub.get_items(jid, node, item_ids=[CURRENT])
        if wanted is not None and any(item["id"] not in wanted for item in items):
            raise omemo.OMEMOException("items that nobody has asked for")
        if sum(1 for item in items for _ in item.xml.iter()) > MAX_ELEMENTS:
            raise omemo.OMEMOException("more than a list or a bundle holds")
        return answer


def _label(label: SignedLabel | None) -> SignedLabel | None:
    if label is None or len(label.label) > LONGEST_LABEL or len(label.signature) != SIGNATURE:
        return None
    return label
