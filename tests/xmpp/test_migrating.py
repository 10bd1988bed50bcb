"""Storages of python-omemo before 1.0: what they have is lost nowhere on the way."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import xeddsa
from oldmemo import Oldmemo
from oldmemo.migrations import LegacyStorage
from oldmemo.oldmemo import BundleImpl
from omemo.session_manager import BundleDownloadFailed, BundleNotFound

from eph_e2ee.xmpp import migrating
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.migrating import KEY, take_over
from eph_e2ee.xmpp.parcel import OLD
from tests.xmpp.clients import Kept, OurPlugin, World, plugged

if TYPE_CHECKING:
    from omemo.types import JSONType

ME, FRIEND = "me@example.org", "friend@example.org"
DEVICE = 4711


class Full(Kept):
    """A storage on a disk that may be full."""

    full = False

    async def _store(self, key: str, value: JSONType) -> None:
        if self.full:
            raise OSError("no space left")
        await super()._store(key, value)


class Old(LegacyStorage):
    """A storage of an account with one friend, whose devices are distrusted.

    Attributes:
        failing: a method that fails.
    """

    def __init__(self, state: Any, keys: dict[int, bytes]) -> None:
        self.own: Any = {"own_bare_jid": ME, "own_device_id": DEVICE}
        self.state: Any = state
        self.jids: list[str] | None = [FRIEND, ME]
        self.devices = {FRIEND: list(keys), ME: [DEVICE]}
        self.keys = dict(keys)
        self.failing = ""

    @property
    def left(self) -> list[Any]:
        """What has not been deleted."""
        kept = (self.own, self.state, self.jids, self.devices, self.keys)
        return [each for each in kept if each]

    def _delete(self, method: str) -> None:
        if method == self.failing:
            raise OSError("cannot be written")

    async def loadOwnData(self) -> Any:  # noqa: N802 -- oldmemo's name
        return self.own

    async def deleteOwnData(self) -> None:  # noqa: N802 -- the same
        self._delete("deleteOwnData")
        self.own = None

    async def loadState(self) -> Any:  # noqa: N802 -- the same
        return self.state

    async def deleteState(self) -> None:  # noqa: N802 -- the same
        self._delete("deleteState")
        self.state = None

    async def loadSession(self, bare_jid: str, device_id: int) -> Any:  # noqa: ARG002, N802 -- the same
        return None

    async def deleteSession(self, bare_jid: str, device_id: int) -> None:  # noqa: N802 -- the same
        """There is none."""

    async def loadActiveDevices(self, bare_jid: str) -> list[int] | None:  # noqa: N802 -- the same
        return self.devices.get(bare_jid)

    async def loadInactiveDevices(self, bare_jid: str) -> Any:  # noqa: ARG002, N802 -- the same
        return None

    async def deleteActiveDevices(self, bare_jid: str) -> None:  # noqa: N802 -- the same
        self._delete("deleteActiveDevices")
        self.devices.pop(bare_jid, None)

    async def deleteInactiveDevices(self, bare_jid: str) -> None:  # noqa: N802 -- the same
        """There are none."""

    async def loadTrust(self, bare_jid: str, device_id: int) -> Any:  # noqa: ARG002, N802 -- the same
        if device_id not in self.keys:
            return None
        key = xeddsa.ed25519_pub_to_curve25519_pub(self.keys[device_id])
        return {"trusted": False, "key": base64.b64encode(key).decode()}

    async def deleteTrust(self, bare_jid: str, device_id: int) -> None:  # noqa: ARG002, N802 -- the same
        self._delete("deleteTrust")
        self.keys.pop(device_id, None)

    async def listJIDs(self) -> list[str] | None:  # noqa: N802 -- the same
        return self.jids

    async def deleteJIDList(self) -> None:  # noqa: N802 -- the same
        self._delete("deleteJIDList")
        self.jids = None


@pytest.fixture
async def state() -> Any:
    """Keys as they were kept then."""
    store = Kept()
    await Oldmemo(store).get_bundle(ME, DEVICE)
    keys = store.values[f"/{OLD}/x3dh"]
    mapped = {"super": keys, "spk_id": 1, "spk_pub": None, "otpk_ids": {}, "otpk_id_counter": 0}
    return {"super": mapped, "bound_otpks": {}}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """What the server has of the friend's devices: bundles, or exceptions."""
    bundles: dict[int, Any] = {}

    async def download(_: object, namespace: str, jid: str, device: int) -> Any:
        assert (namespace, jid) == (OLD, FRIEND)
        if isinstance(bundles[device], Exception):
            raise bundles[device]
        return bundles[device]

    monkeypatch.setattr(migrating, "_download_bundle", download)
    return bundles


@pytest.fixture
async def old(state: Any, published: dict[int, Any]) -> Old:
    """A legacy storage that knows one device."""
    bundle = published[99] = await Oldmemo(Kept()).get_bundle(FRIEND, 99)
    return Old(state, {99: bundle.identity_key})


def check_taken_over(kept: Kept, old: Old) -> None:
    """Everything is in the new storage, and nothing left in the old one."""
    assert old.left == []
    assert kept.values["/own_device_id"] == DEVICE
    assert kept.values[f"/devices/{FRIEND}/list"] == [99]
    levels = [value for key, value in kept.values.items() if key.startswith(f"/trust/{FRIEND}")]
    assert levels == ["DISTRUSTED"]
    assert KEY not in kept.values


async def test_nothing_is_deleted_before_everything_is_written(old: Old) -> None:
    """Also not by the next attempt, which sees what waits to be written."""
    kept = Full()
    gate = Gate(kept)
    kept.full = True
    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            await take_over(old, gate, None)
        assert len(old.left) == 5
    kept.full = False
    await take_over(old, gate, None)
    check_taken_over(kept, old)


@pytest.mark.parametrize(
    "method",
    ["deleteActiveDevices", "deleteTrust", "deleteJIDList", "deleteState", "deleteOwnData"],
)
async def test_deleting_goes_on_where_it_ended(method: str, old: Old) -> None:
    """To migrate what is left would be to write over what is there."""
    kept = Kept()
    old.failing = method
    with pytest.raises(OSError, match="cannot be written"):
        await take_over(old, Gate(kept), None)
    old.failing = ""
    await take_over(old, Gate(kept), None)
    check_taken_over(kept, old)


async def test_a_storage_that_has_nothing_costs_no_writing(old: Old) -> None:
    kept = Kept()
    old.own = None
    await take_over(old, Gate(kept), None)
    assert kept.values == {}


async def unusable() -> BundleImpl:
    """A bundle with y = -1 for an identity key, which is a point of order two."""
    made = await Oldmemo(Kept()).get_bundle(FRIEND, 7)
    keys = made.bundle._replace(identity_key=(2**255 - 20).to_bytes(32, "little"))
    return BundleImpl(FRIEND, 7, keys, made.signed_pre_key_id, made.pre_key_ids)


@pytest.mark.parametrize("answer", ["none", "failure", "no key"])
async def test_a_device_without_a_bundle_ends_no_migration(
    answer: str, old: Old, published: dict[int, Any]
) -> None:
    """Anybody can have published none: the others are taken over all the same."""
    answers: dict[str, Any] = {
        "none": BundleNotFound("there is none"),
        "failure": BundleDownloadFailed("the server is busy"),
        "no key": await unusable(),
    }
    published[7] = answers[answer]
    old.devices[FRIEND].append(7)
    old.keys[7] = old.keys[99]
    kept = Kept()
    await take_over(old, Gate(kept), None)
    check_taken_over(kept, old)


async def test_a_plugin_takes_over_before_it_starts(old: Old) -> None:
    class Adopted(OurPlugin):
        @property
        def legacy_storage(self) -> LegacyStorage:
            return old

    world = World()
    _, plugin = await plugged(world, "me", Adopted)
    assert plugin.own_device == DEVICE
    check_taken_over(plugin.kept, old)
    await world.end()
