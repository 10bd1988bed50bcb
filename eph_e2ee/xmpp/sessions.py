"""python-omemo's session manager behind a gate, and python-omemo's backends with it."""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Protocol, TypeVar, cast

import oldmemo
import omemo
import twomemo
from omemo.backend import Backend, DecryptionFailed
from omemo.session import Initiation
from omemo.types import DeviceInformation, DeviceList, TrustLevel
from slixmpp_omemo.base_session_manager import BaseSessionManager

from eph_e2ee.xmpp import crossing
from eph_e2ee.xmpp.gate import Absent, Gate

__all__ = ["Legacy", "Modern", "Router", "Sessions"]

MODERN: str = twomemo.twomemo.NAMESPACE

HEARTBEAT = 53
"""Messages of a device that may stay unanswered (XEP-0384 section 4.3: an empty one at 53)."""


class Router(Protocol):
    """Who decides in which namespace a device is addressed."""

    def namespaces(self, device: DeviceInformation) -> frozenset[str]:
        """The OMEMO namespaces in which this device may be sent anything."""


Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def _alone(method: Method) -> Method:
    """Run a method of the session manager through its gate."""

    @functools.wraps(method)
    async def guarded(self: "Sessions", *args: Any, **kwargs: Any) -> Any:
        return await self.gate.run(lambda: method(self, *args, **kwargs))

    return cast("Method", guarded)


class Sessions(BaseSessionManager):
    """What stands between python-omemo's session manager and slixmpp-omemo's part of it.

    `startup.Startup` derives one class per client from this and slixmpp-omemo's own, since
    python-omemo makes the instance itself and passes nothing on.
    """

    gate: ClassVar[Gate]
    backends: ClassVar[dict[str, Backend]]
    router: ClassVar[Router]
    own_bare_jid: ClassVar[str]
    network: ClassVar[type[BaseSessionManager]]

    STALENESS_MAGIC_NUMBER = 2**31
    """python-omemo answers *every* message of a chain above this; `_answer` does so once (F45)."""

    def __init__(self) -> None:
        super().__init__()
        self._unanswered: Counter[tuple[str, str, int]] = Counter()
        self._catching_up = False
        self._routing = False
        self.routed: dict[str, frozenset[DeviceInformation]] = {}
        """What is known of the devices of each account that the last envelope was encrypted for."""

    # -- operations, one at a time -------------------------------------------------------------

    @_alone
    async def encrypt(
        self,
        bare_jids: frozenset[str],
        plaintext: dict[str, bytes],
        backend_priority_order: list[str] | None = None,
        identifier: str | None = None,
    ) -> Any:
        """Encrypt as python-omemo does, each device in the namespace that `router` gives it."""
        self._routing = MODERN in plaintext
        self.routed.clear()
        try:
            messages, errors = await super().encrypt(
                bare_jids, plaintext, backend_priority_order, identifier
            )
        finally:
            self._routing = False
        for message in messages:
            for key, _ in message.keys:
                del self._unanswered[message.namespace, key.bare_jid, key.device_id]
        return messages, errors

    @_alone
    async def decrypt(self, message: omemo.Message) -> Any:
        """Decrypt as python-omemo does, with at most one empty answer in `HEARTBEAT` messages."""
        result = await self._decrypted(message)
        device: DeviceInformation = result[1]
        counted = (message.namespace, device.bare_jid, device.device_id)
        self._unanswered[counted] += 1
        if self._unanswered[counted] >= HEARTBEAT and not self._catching_up:
            await self._answer(*counted)
        return result

    def before_history_sync(self) -> None:
        """Begin to read an archive: answers wait for its end, and each device gets one at most."""
        self._catching_up = True
        super().before_history_sync()

    @_alone
    async def after_history_sync(self) -> None:
        """End it, and send the answers that have waited."""
        self._catching_up = False
        await super().after_history_sync()
        waiting = [each for each, count in self._unanswered.items() if count >= HEARTBEAT]
        for counted in waiting:
            await self._answer(*counted)

    update_device_list = _alone(BaseSessionManager.update_device_list)
    refresh_device_list = _alone(BaseSessionManager.refresh_device_list)
    refresh_device_lists = _alone(BaseSessionManager.refresh_device_lists)
    clear_device_lists = _alone(BaseSessionManager.clear_device_lists)
    get_device_information = _alone(BaseSessionManager.get_device_information)
    get_own_device_information = _alone(BaseSessionManager.get_own_device_information)
    get_sending_chain_length = _alone(BaseSessionManager.get_sending_chain_length)
    set_own_label = _alone(BaseSessionManager.set_own_label)
    set_trust = _alone(BaseSessionManager.set_trust)
    replace_sessions = _alone(BaseSessionManager.replace_sessions)
    purge_backend = _alone(BaseSessionManager.purge_backend)
    purge_bare_jid = _alone(BaseSessionManager.purge_bare_jid)
    ensure_data_consistency = _alone(BaseSessionManager.ensure_data_consistency)

    @_alone
    async def trusts(self, device: DeviceInformation) -> bool:
        """Tell whether a device may be told anything; it is decided as it is when encrypting."""
        if await self._evaluate_custom_trust_level(device) is TrustLevel.UNDECIDED:
            await self._make_trust_decision(frozenset({device}), None)
            devices = await self.get_device_information(device.bare_jid)
            device = next((each for each in devices if each.device_id == device.device_id), device)
        return await self._evaluate_custom_trust_level(device) is TrustLevel.TRUSTED

    # -- ratchets ------------------------------------------------------------------------------

    async def _decrypted(self, message: omemo.Message) -> Any:
        """Decrypt in the session that stands, or in the one that a crossing has laid aside."""
        backend = self.backends[message.namespace]
        if await crossing.settled(backend, message):
            # A sender repeats its key exchange until our first answer arrives; python-omemo would
            # answer each.
            keys = frozenset((key, None) for key, _ in message.keys)
            message = message._replace(keys=keys)
        if any(exchange is not None for _, exchange in message.keys):
            await crossing.kept_aside(backend, message)
            return await super().decrypt(message)
        try:
            return await super().decrypt(message)
        except DecryptionFailed as failure:
            lost = crossing.is_lost(failure)
            if not lost or not await crossing.changed_places(backend, message):
                raise
        return await super().decrypt(message)

    async def _answer(self, namespace: str, bare_jid: str, device_id: int) -> None:
        """Send one empty message, so that the sender's ratchet turns (XEP-0384 section 4.3).

        Nothing is downloaded for it: the message that it answers is open, and a storage without
        commits could not open it again.
        """
        del self._unanswered[namespace, bare_jid, device_id]
        backend = self.backends[namespace]
        session = await backend.load_session(bare_jid, device_id)
        if session is None:
            return
        # Private, but asking for it in public would look up every device of ours.
        own: int = self._SessionManager__own_device_id  # type: ignore[attr-defined]
        content, plain_key = await backend.encrypt_empty()
        key = await backend.encrypt_key_material(session, plain_key)
        await backend.store_session(session)
        unconfirmed = session.initiation is Initiation.ACTIVE and not session.confirmed
        exchange = session.key_exchange if unconfirmed else None
        await self._send_message(
            omemo.Message(
                backend.namespace,
                self.own_bare_jid,
                own,
                content,
                frozenset({(key, exchange)}),
            ),
            bare_jid,
        )

    async def _SessionManager__get_device_information(self, bare_jid: str) -> Any:  # noqa: N802
        """Leave each device, while encrypting, only the namespaces that it can read.

        python-omemo offers no hook for a choice by device. A test holds the name, which no type
        checker knows.
        """
        inherited = super()._SessionManager__get_device_information  # type: ignore[misc]
        devices, bundles = await inherited(bare_jid)
        if not self._routing:
            return devices, bundles
        self.routed[bare_jid] = devices
        routed = (
            device._replace(namespaces=device.namespaces & self.router.namespaces(device))
            for device in devices
        )
        return frozenset(routed), bundles

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        """Ask without the lock: people take their time, and may answer from another task."""
        await self._fetched(
            ("trust", manually_trusted),
            lambda: self.network._prompt_manual_trust(self, manually_trusted, identifier),
        )

    # -- the network, outside the lock and after the commit ------------------------------------
    # python-omemo declares these hooks static, and calls them on the instance: hence the ignored
    # overrides. They need the instance, for its gate.

    async def _fetched(self, name: tuple[object, ...], fetch: Callable[[], Awaitable[Any]]) -> Any:
        unit = self.gate.unit
        if unit is None:
            return await fetch()
        if name not in unit.fetched:
            raise Absent(name, fetch)
        outcome = unit.fetched[name]
        if isinstance(outcome, omemo.OMEMOException):
            raise outcome
        return outcome

    async def _later(self, name: tuple[object, ...], upload: Callable[[], Awaitable[None]]) -> None:
        unit = self.gate.unit
        if unit is None:
            await upload()
        else:
            unit.uploads[name] = upload

    async def _download_bundle(  # type: ignore[override]
        self, namespace: str, bare_jid: str, device_id: int
    ) -> omemo.Bundle:
        bundle: omemo.Bundle = await self._fetched(
            ("bundle", namespace, bare_jid, device_id),
            lambda: self.network._download_bundle(namespace, bare_jid, device_id),
        )
        return bundle

    async def _download_device_list(  # type: ignore[override]
        self, namespace: str, bare_jid: str
    ) -> DeviceList:
        listed: DeviceList = await self._fetched(
            ("devices", namespace, bare_jid),
            lambda: self.network._download_device_list(namespace, bare_jid),
        )
        return listed

    async def _upload_bundle(self, bundle: omemo.Bundle) -> None:  # type: ignore[override]
        await self._later(("bundle", bundle.namespace), lambda: self.network._upload_bundle(bundle))

    async def _delete_bundle(self, namespace: str, device_id: int) -> None:  # type: ignore[override]
        await self._later(
            ("bundle", namespace), lambda: self.network._delete_bundle(namespace, device_id)
        )

    async def _upload_device_list(  # type: ignore[override]
        self, namespace: str, device_list: DeviceList
    ) -> None:
        listed = dict(device_list)
        await self._later(
            ("devices", namespace), lambda: self.network._upload_device_list(namespace, listed)
        )

    async def _send_message(self, message: omemo.Message, bare_jid: str) -> None:  # type: ignore[override]
        unit = self.gate.unit
        if unit is None:
            await self.network._send_message(message, bare_jid)
            return
        devices = frozenset(key.device_id for key, _ in message.keys)
        unit.messages[message.namespace, bare_jid, devices] = lambda: self.network._send_message(
            message, bare_jid
        )


class Modern(twomemo.Twomemo):
    """omemo:2, whose rotation of the signed pre key, a task of python-omemo's, waits its turn."""

    gate: Gate

    async def rotate_signed_pre_key(self) -> None:
        """Rotate alone, and commit before the new bundle is published."""
        await self.gate.run(super().rotate_signed_pre_key)

    async def purge_bare_jid(self, bare_jid: str) -> None:
        """Forget every session with an account."""
        await crossing.purge(super(), bare_jid)


class Legacy(oldmemo.Oldmemo):
    """Legacy OMEMO; otherwise as `Modern`."""

    gate: Gate

    async def rotate_signed_pre_key(self) -> None:
        """Rotate alone, and commit before the new bundle is published."""
        await self.gate.run(super().rotate_signed_pre_key)

    async def purge_bare_jid(self, bare_jid: str) -> None:
        """Forget every session with an account."""
        await crossing.purge(super(), bare_jid)

    async def sign_own_label(self, label: str) -> bytes:  # noqa: ARG002 -- python-omemo's signature
        """No signature: legacy lists carry no labels, but python-omemo asks for one (a bug)."""
        return b""
