"""What python-omemo kept before 1.0, taken over: committed first, and only then deleted there.

oldmemo's migration deletes account by account what it has stored, and counts on a storage that
keeps each value at once; here values wait for their commit. What is to be deleted is committed with
them: a migration that began again would take what has not been deleted yet for all there is.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import xeddsa
from oldmemo.migrations import LegacyStorage, migrate
from oldmemo.oldmemo import BundleImpl
from omemo.session_manager import BundleDownloadFailed, BundleNotFound
from omemo.storage import Storage
from slixmpp_omemo import TrustLevel
from slixmpp_omemo.xep_0384 import _download_bundle

from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.parcel import OLD
from eph_e2ee.xmpp.published import CheckedPubSub

__all__ = ["KEY", "take_over"]

KEY: Final = "/eph_e2ee/migrated"
"""Where it stands what is to be deleted, from the commit of a migration until that is done."""

DELETIONS: Final = {name for name in vars(LegacyStorage) if name.startswith("delete")}

Deletions = list[list[Any]]
"""Names of methods, each with its arguments."""


async def take_over(legacy: LegacyStorage, gate: Gate, pubsub: Any) -> None:
    """Take over what a legacy storage has, and delete it there; nothing if it has nothing.

    Canceling it is safe: the next call begins again, or goes on with deleting.

    Args:
        legacy: the application's.
        gate: that of the new storage, which nobody uses yet.
        pubsub: slixmpp's XEP-0060.

    Raises:
        Exception: whatever one of the storages raises.
    """
    storage = gate.storage
    bundle = functools.partial(_bundle, CheckedPubSub(pubsub))
    deletions = await gate.run(lambda: _migrated(legacy, storage, bundle))
    for name, *arguments in deletions:
        if name in DELETIONS:
            await getattr(legacy, name)(*arguments)
    if deletions:
        await gate.run(lambda: storage.delete(KEY))


async def _migrated(
    legacy: LegacyStorage,
    storage: Storage,
    bundle: Callable[[str, int], Awaitable[BundleImpl]],
) -> Deletions:
    """Store what there is, and what is to be deleted then."""
    deletions = cast("Deletions", (await storage.load(KEY)).maybe([]))
    if not deletions:
        undecided, distrusted = TrustLevel.UNDECIDED.value, TrustLevel.DISTRUSTED.value
        spared = _Spared(legacy, deletions)
        await migrate(
            cast("LegacyStorage", spared), storage, undecided, undecided, distrusted, bundle
        )
    if deletions:
        # Last, for a storage that is ended while it writes. And once more if it stood there: an
        # earlier commit may have been refused, and this one is not over before all is written.
        await storage.store(KEY, cast("Any", deletions))
    return deletions


class _Spared:
    """A legacy storage from which nothing is deleted yet; otherwise as it is."""

    def __init__(self, legacy: LegacyStorage, deletions: Deletions) -> None:
        self._legacy = legacy
        self._deletions = deletions

    def __getattr__(self, name: str) -> Any:
        if name in DELETIONS:
            return functools.partial(self._note, name)
        return getattr(self._legacy, name)

    async def _note(self, name: str, *arguments: Any) -> None:
        self._deletions.append([name, *arguments])


async def _bundle(pubsub: Any, bare_jid: str, device_id: int) -> BundleImpl:
    """A device's bundle.

    Raises:
        BundleDownloadFailed: there is none, or none that can be used: the one answer that ends no
            migration, but leaves the device out.
    """
    try:
        bundle: Any = await _download_bundle(pubsub, OLD, bare_jid, device_id)
        xeddsa.ed25519_pub_to_curve25519_pub(bundle.identity_key)  # as the migration does with it
    except (BundleNotFound, xeddsa.XEdDSAException):
        pass
    else:
        return cast("BundleImpl", bundle)
    raise BundleDownloadFailed("no bundle that could be used")
