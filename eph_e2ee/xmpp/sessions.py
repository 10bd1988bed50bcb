"""python-omemo's session manager behind a gate, and python-omemo's backends with it."""

import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, Protocol, TypeVar, cast

import omemo
from omemo.backend import Backend, DecryptionFailed
from omemo.session import Initiation, Session
from omemo.session_manager import NoSession
from omemo.types import DeviceInformation, DeviceList
from slixmpp_omemo.base_session_manager import BaseSessionManager

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp import crossing, published
from eph_e2ee.xmpp.backends import Legacy, Modern
from eph_e2ee.xmpp.encrypting import asked, encrypt
from eph_e2ee.xmpp.fetching import Fetching
from eph_e2ee.xmpp.forgetting import forget_unlisted
from eph_e2ee.xmpp.gathered import is_of_storage
from eph_e2ee.xmpp.knowing import Knowing
from eph_e2ee.xmpp.latest import Arrived, Latest
from eph_e2ee.xmpp.trust import UNASKED, Trusting, forget_downloads, question, unasked
from eph_e2ee.xmpp.unanswered import Device, Due, Unanswered

__all__ = ["Legacy", "Modern", "Router", "Sessions", "Upkeep"]

log = logging.getLogger(__name__)


class Router(Protocol):
    """Who decides in which namespace a device is addressed."""

    def namespaces(self, device: DeviceInformation) -> frozenset[str]:
        """The OMEMO namespaces in which this device may be sent anything."""


class Upkeep(Protocol):
    """Who sends what sessions need to go on, once the operation that has found it out is over."""

    def answer(self, bare_jid: str) -> None:
        """A device of this account has sent much, and needs an answer with a payload."""

    def missing(self, device: Device) -> None:
        """A device has sent a message in a session that is not here."""


class _Nobody:
    def answer(self, bare_jid: str) -> None:
        """Leave it unanswered."""

    def missing(self, device: Device) -> None:
        """Leave it as it is."""


Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def _alone(method: Method) -> Method:
    """Run a method of the session manager through its gate."""

    @functools.wraps(method)
    async def guarded(self: "Sessions", *args: Any, **kwargs: Any) -> Any:
        return await self.gate.run(lambda: method(self, *args, **kwargs))

    return cast("Method", guarded)


class Sessions(Trusting, Fetching):
    """What stands between python-omemo's session manager and slixmpp-omemo's part of it.

    `startup.Startup` derives one class per client from this and slixmpp-omemo's own, since
    python-omemo makes the instance itself and passes nothing on.
    """

    backends: ClassVar[dict[str, Backend]]
    router: ClassVar[Router]
    upkeep: ClassVar[Upkeep] = _Nobody()

    STALENESS_MAGIC_NUMBER = 2**31
    """python-omemo answers *every* message of a chain above this; `_answer` does so once (F45)."""

    def __init__(self) -> None:
        super().__init__()
        self._unanswered = Unanswered(self.gate.storage)
        self.knowing = Knowing(self.gate.storage)
        self._latest = Latest()
        self._catching_up = False

    # -- operations, one at a time -------------------------------------------------------------

    @_alone
    async def encrypt(
        self,
        bare_jids: frozenset[str],
        plaintext: dict[str, bytes],
        backend_priority_order: list[str] | None = None,
        identifier: str | None = None,
    ) -> Any:
        """Encrypt as python-omemo does; where no order is asked for see `encrypting.asked`."""
        recipients = frozenset(map(BareJid, bare_jids))
        order = asked(plaintext, backend_priority_order)
        made = await encrypt(self, recipients, plaintext, identifier, strict=True, order=order)
        return made.messages, made.errors

    @_alone
    async def decrypt(self, message: omemo.Message) -> Any:
        """Decrypt as python-omemo does, and answer now and then: see `unanswered.Due`."""
        device = message.namespace, message.bare_jid, message.device_id
        try:
            result = await self._decrypted(message)
        except NoSession:
            if not self._catching_up:
                self.upkeep.missing(device)
            raise
        await self._unanswered.heard(device, payload=not message.content.empty)
        if not self._catching_up:
            await self._answer_if_due(device)
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
        for device in self._unanswered.waiting():
            await self._answer_if_due(device)

    async def note_sent(self, messages: Iterable[omemo.Message]) -> None:
        """Count messages of ours as answers to the devices that they are encrypted for."""
        for message in messages:
            for key, _ in message.keys:
                device = message.namespace, key.bare_jid, key.device_id
                await self._unanswered.answered(device, payload=not message.content.empty)

    async def update_device_list(
        self, namespace: str, bare_jid: str, device_list: DeviceList
    ) -> None:
        """Take a list in as python-omemo does, within bounds: see `published.bounded`.

        One that a newer one has overtaken, while it waited for the lock or for bundles, is left.
        While one is taken in, it returns at once: that goes on with the newest, however many come.
        """
        if self.gate.unit is not None:
            await self._take_in(namespace, bare_jid, device_list)
            return

        async def take_in(newest: Callable[[], DeviceList]) -> None:
            await self.gate.run(lambda: self._take_in(namespace, bare_jid, newest()))

        await self._latest.taken_in(namespace, bare_jid, device_list, take_in)

    async def _take_in(self, namespace: str, bare_jid: str, device_list: DeviceList) -> None:
        """Take one in; slixmpp-omemo asks for both kinds also after one was purged: left, too."""
        kept = self.own_device if bare_jid == self.own_bare_jid else None
        listed = published.bounded(device_list, kept)
        gone = await self._known(bare_jid) - listed.keys()
        self.gate.downloads.forget(*(("bundle", namespace, bare_jid, each) for each in gone))
        try:
            await super().update_device_list(namespace, bare_jid, listed)
        except omemo.UnknownNamespace:
            return
        for device in await forget_unlisted(self, bare_jid):
            await self._unanswered.forget(device)

    @_alone
    async def get_device_information(self, bare_jid: str) -> frozenset[DeviceInformation]:
        """Read what is known as python-omemo does; what was read and has not changed, only once."""
        known = self.knowing.get(bare_jid)
        if known is None:
            self.have_keys(await self._without_keys(bare_jid))
            known = await super().get_device_information(bare_jid)
            self.knowing.keep(bare_jid, known, await self._known(bare_jid))
        return known

    async def _without_keys(self, bare_jid: str) -> dict[tuple[str, int], list[str]]:
        """Where python-omemo looks for the keys of an account's devices, one after the other."""
        looked: dict[tuple[str, int], list[str]] = {}
        for device in await self._known(bare_jid):
            if await self._identity_key(bare_jid, device) is None:
                place = f"/devices/{bare_jid}/{device}/namespaces"
                # Through a set, as there: in the same order.
                known = set((await self.storage.load_list(place, str)).maybe([]))
                looked[bare_jid, device] = list(known)
        return looked

    refresh_device_list = _alone(BaseSessionManager.refresh_device_list)
    refresh_device_lists = _alone(BaseSessionManager.refresh_device_lists)
    clear_device_lists = _alone(BaseSessionManager.clear_device_lists)
    get_own_device_information = _alone(BaseSessionManager.get_own_device_information)
    get_sending_chain_length = _alone(BaseSessionManager.get_sending_chain_length)
    set_own_label = _alone(BaseSessionManager.set_own_label)
    set_trust = _alone(BaseSessionManager.set_trust)
    replace_sessions = _alone(BaseSessionManager.replace_sessions)
    purge_backend = _alone(BaseSessionManager.purge_backend)
    purge_bare_jid = _alone(BaseSessionManager.purge_bare_jid)
    ensure_data_consistency = _alone(BaseSessionManager.ensure_data_consistency)

    async def bundle(self, namespace: str, bare_jid: str, device_id: int) -> omemo.Bundle:
        """The bundle that a device publishes now; inside of an operation that may begin again.

        Raises:
            BundleDownloadFailed, BundleNotFound: it cannot be had, or used.
        """
        self.gate.downloads.forget(("bundle", namespace, bare_jid, device_id))
        return await self._download_bundle(namespace, bare_jid, device_id)

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
            before = await backend.load_session(message.bare_jid, message.device_id)
            result = await super().decrypt(message)
            await crossing.laid_aside(backend, before)
            return result
        try:
            return await super().decrypt(message)
        except DecryptionFailed as failure:
            lost = crossing.is_lost(failure)
            if not lost or not await crossing.changed_places(backend, message):
                raise
        return await super().decrypt(message)

    async def _answer_if_due(self, device: Device) -> None:
        due = self._unanswered.due(device)
        if due is Due.PAYLOAD:
            self._unanswered.asked(device)
            self.upkeep.answer(device[1])
        elif due is Due.EMPTY:
            await self._answer(device)

    async def _answer(self, device: Device) -> None:
        """Send one empty message, so that the sender's ratchet turns (XEP-0384 section 6).

        Nothing is downloaded for it: the message that it answers would have to be opened once more.
        """
        namespace, bare_jid, device_id = device
        await self._unanswered.answered(device, payload=False)
        backend = self.backends[namespace]
        session = await backend.load_session(bare_jid, device_id)
        if session is None:
            return
        content, plain_key = await backend.encrypt_empty()
        key = await backend.encrypt_key_material(session, plain_key)
        await self.send_empty(session, content, key)

    async def send_empty(
        self, session: Session, content: omemo.Content, key: omemo.EncryptedKeyMaterial
    ) -> None:
        """Store a session, and send the empty message that was encrypted in it.

        Args:
            session: as it is after encrypting.
            content: an empty one.
            key: the key material of the message, encrypted.
        """
        await self.backends[session.namespace].store_session(session)
        unconfirmed = session.initiation is Initiation.ACTIVE and not session.confirmed
        keys = frozenset({(key, session.key_exchange if unconfirmed else None)})
        message = omemo.Message(
            session.namespace, self.own_bare_jid, self.own_device, content, keys
        )
        await self._send_message(message, session.bare_jid)

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        """Ask without the lock: people take their time, and may answer from another task.

        Whatever they answer, nobody is asked twice about one key for one message.
        """
        if identifier == UNASKED:
            return
        unit = self.gate.unit
        devices = manually_trusted if unit is None else unasked(unit, manually_trusted)

        async def ask() -> None:
            await self.network._prompt_manual_trust(self, devices, identifier)
            if unit is not None:
                self.gate.downloads.clear()
                forget_downloads(unit)

        if devices:
            await self._fetched(question(devices), ask)

    async def _devices_blindly_trusted(
        self, blindly_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        """Tell after the commit: until then the operation may begin again, and would tell again."""
        unit, named = self.gate.unit, None if identifier == UNASKED else identifier

        async def tell() -> None:
            await self.network._devices_blindly_trusted(self, blindly_trusted, named)

        if unit is None:
            await tell()
        else:
            unit.messages["blindly trusted", blindly_trusted] = tell

    # -- the network, outside the lock and after the commit ------------------------------------
    # python-omemo declares these hooks static, and calls them on the instance: hence the ignored
    # overrides. They need the instance, for its gate.

    async def _later(self, name: tuple[object, ...], upload: Callable[[], Awaitable[None]]) -> None:
        """Have it uploaded after the commit; outside of an operation it is one of its own."""
        unit = self.gate.unit
        if unit is None:
            await self.gate.run(lambda: self._later(name, upload))
        else:
            unit.uploads[name] = upload

    async def _download_bundle(  # type: ignore[override]
        self, namespace: str, bare_jid: str, device_id: int
    ) -> omemo.Bundle:
        patience = self._patience(bare_jid)
        bundle: omemo.Bundle = await self._fetched(
            ("bundle", namespace, bare_jid, device_id),
            lambda: self._downloaded(namespace, bare_jid, device_id, patience),
        )
        await published.check_bundle(self.gate.storage, bundle)
        return bundle

    async def _download_device_list(  # type: ignore[override]
        self, namespace: str, bare_jid: str
    ) -> DeviceList:
        patience = self._patience(bare_jid)

        async def download() -> Arrived:
            listed = await self._listed(namespace, bare_jid, patience)
            return self._latest.came(namespace, bare_jid, listed)

        newest: Arrived = await self._fetched(("devices", namespace, bare_jid), download)
        return newest.listed

    async def _upload_bundle(self, bundle: omemo.Bundle) -> None:  # type: ignore[override]
        """Upload a bundle; outside of an operation, where it may be old, what is kept by then.

        There python-omemo's task, which rotates keys, repeats whatever this failure says.
        """
        if self.gate.unit is None:
            try:
                await self.gate.run(lambda: self._upload_kept(bundle))
            except Exception as error:  # an application's storage raises what it likes
                if not is_of_storage(error):
                    raise
                log.warning("a bundle waits to be uploaded: %s", type(error).__name__)
                raise omemo.BundleUploadFailed("the storage has failed") from None
            return
        await self._later(("bundle", bundle.namespace), lambda: self.network._upload_bundle(bundle))

    async def _upload_kept(self, bundle: omemo.Bundle) -> None:
        backend = self.backends[bundle.namespace]
        await self._upload_bundle(await backend.get_bundle(bundle.bare_jid, bundle.device_id))

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
        if await self.is_shunned(bare_jid, devices):
            return  # not even an answer: to the device it is a message that it skips
        unit.messages[message.namespace, bare_jid, devices] = lambda: self.network._send_message(
            message, bare_jid
        )
