"""python-omemo's backends behind the gate: what each namespace encrypts with, and keeps."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, TypeVar

import oldmemo
import twomemo
from omemo.backend import Backend
from omemo.bundle import Bundle
from omemo.message import EncryptedKeyMaterial, PlainKeyMaterial
from omemo.session import Session
from omemo.storage import Maybe, Storage

from eph_e2ee.xmpp import crossing, published
from eph_e2ee.xmpp.fronting import Front
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.gathered import is_of_storage
from eph_e2ee.xmpp.standing import Standing

__all__ = ["Legacy", "Modern"]

log = logging.getLogger(__name__)

Value = TypeVar("Value")

RETRY: Final = 60.0
"""Seconds until the storage is asked again: as long as python-omemo waits for a server."""


class _Beginning(Front):
    """A storage as it is needed to begin sessions: without our own pre keys.

    python-omemo derives the public keys of all of them, twice for each session that it begins, and
    uses none. Whatever is stored goes where it belongs.
    """

    def __init__(self, storage: Storage, namespace: str) -> None:
        super().__init__(storage)
        self._state = f"/{namespace}/x3dh"

    async def _load(self, key: str) -> Maybe[Any]:
        loaded = await super()._load(key)
        return loaded.fmap(_without_pre_keys) if key == self._state else loaded


def _without_pre_keys(state: Any) -> Any:
    known = isinstance(state, dict) and isinstance(state.get("pre_keys"), list)
    return {**state, "pre_keys": []} if known else state


class _Backend(Backend):
    """What both backends have in common: they build, load and store sessions with less work."""

    gate: Gate
    beginning: ClassVar[type[Any]]
    """python-omemo's own backend, which begins sessions."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)  # type: ignore[arg-type]  # python-omemo's backends take it first
        self._standing = Standing(storage, self.namespace)
        self._beginning = self.beginning(_Beginning(storage, self.namespace))

    # mypy sees abstract methods above; one of python-omemo's backends always stands there: hence
    # the ignored `safe-super`.

    async def load_session(self, bare_jid: str, device_id: int) -> Any:
        """The session with a device; what was loaded before of it is not to be used any more."""
        session = self._standing.take(bare_jid, device_id)
        if session is not None:
            return session
        return await super().load_session(bare_jid, device_id)  # type: ignore[safe-super]

    async def store_session(self, session: Session) -> None:
        """Store a session: what has changed of it, or all of it."""
        if not self._standing.store(session):
            await super().store_session(session)  # type: ignore[safe-super]
            self._standing.store(session)

    async def encrypt_key_material(
        self, session: Session, plain_key_material: PlainKeyMaterial
    ) -> Any:
        """Encrypt in a session, which has to be stored then."""
        self._standing.turns(session)
        return await super().encrypt_key_material(session, plain_key_material)  # type: ignore[safe-super]

    async def decrypt_key_material(
        self, session: Session, encrypted_key_material: EncryptedKeyMaterial
    ) -> Any:
        """Decrypt in a session, which has to be stored then."""
        self._standing.turns(session)
        return await super().decrypt_key_material(session, encrypted_key_material)  # type: ignore[safe-super]

    async def build_session_active(
        self,
        bare_jid: str,
        device_id: int,
        bundle: Bundle,
        plain_key_material: PlainKeyMaterial,
    ) -> Any:
        """Begin a session, or leave the device out whose published keys are no good."""
        self.gate.downloads.forget(("bundle", bundle.namespace, bare_jid, device_id))
        return await published.built(
            self._beginning.build_session_active(bare_jid, device_id, bundle, plain_key_material)
        )

    async def purge_bare_jid(self, bare_jid: str) -> None:
        """Forget every session with an account."""
        for name in crossing.names(bare_jid):
            self._standing.forget(name)
        await crossing.purge(super(), bare_jid)

    # -- what python-omemo's task asks for, which rotates the signed pre key -------------------

    async def signed_pre_key_age(self) -> int:
        """Seconds since the last rotation."""
        return await self._in_turn(super().signed_pre_key_age)  # type: ignore[safe-super]

    async def rotate_signed_pre_key(self) -> None:
        """Rotate alone, and commit before the new bundle is published."""
        await self._in_turn(super().rotate_signed_pre_key)  # type: ignore[safe-super]

    async def get_bundle(self, bare_jid: str, device_id: int) -> Any:
        """Our own bundle; uploading it waits for the commit of what is in it."""
        return await self._in_turn(functools.partial(super().get_bundle, bare_jid, device_id))  # type: ignore[safe-super]

    async def _in_turn(self, step: Callable[[], Awaitable[Value]]) -> Value:
        """Do it alone, and again until the storage can: an error would end the task for good."""
        if self.gate.unit is not None:
            return await step()
        while True:
            try:
                return await self.gate.run(step)
            except Exception as error:  # an application's storage raises what it likes
                if not is_of_storage(error):
                    raise
                log.warning("keys wait to be rotated: %s", type(error).__name__)
            await asyncio.sleep(RETRY)


class Modern(_Backend, twomemo.Twomemo):
    """omemo:2."""

    beginning = twomemo.Twomemo


class Legacy(_Backend, oldmemo.Oldmemo):
    """Legacy OMEMO; otherwise as `Modern`."""

    beginning = oldmemo.Oldmemo

    async def sign_own_label(self, label: str) -> bytes:  # noqa: ARG002 -- python-omemo's signature
        """No signature: legacy lists carry no labels, but python-omemo asks for one (a bug)."""
        return b""
