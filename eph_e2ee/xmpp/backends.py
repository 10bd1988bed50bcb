"""python-omemo's backends behind the gate: what each namespace encrypts with, and keeps."""

from typing import Any

import oldmemo
import twomemo
from omemo.backend import Backend
from omemo.bundle import Bundle
from omemo.message import EncryptedKeyMaterial, PlainKeyMaterial
from omemo.session import Session
from omemo.storage import Storage

from eph_e2ee.xmpp import crossing, published
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.standing import Standing

__all__ = ["Legacy", "Modern"]


class _Backend(Backend):
    """What both backends have in common: they build, load and store sessions with less work."""

    gate: Gate

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)  # type: ignore[arg-type]  # python-omemo's backends take it first
        self._standing = Standing(storage, self.namespace)

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
            super().build_session_active(bare_jid, device_id, bundle, plain_key_material)  # type: ignore[safe-super]
        )

    async def purge_bare_jid(self, bare_jid: str) -> None:
        """Forget every session with an account."""
        for name in crossing.names(bare_jid):
            self._standing.forget(name)
        await crossing.purge(super(), bare_jid)


class Modern(_Backend, twomemo.Twomemo):
    """omemo:2, whose rotation of the signed pre key, a task of python-omemo's, waits its turn."""

    async def rotate_signed_pre_key(self) -> None:
        """Rotate alone, and commit before the new bundle is published."""
        await self.gate.run(super().rotate_signed_pre_key)


class Legacy(_Backend, oldmemo.Oldmemo):
    """Legacy OMEMO; otherwise as `Modern`."""

    async def rotate_signed_pre_key(self) -> None:
        """Rotate alone, and commit before the new bundle is published."""
        await self.gate.run(super().rotate_signed_pre_key)

    async def sign_own_label(self, label: str) -> bytes:  # noqa: ARG002 -- python-omemo's signature
        """No signature: legacy lists carry no labels, but python-omemo asks for one (a bug)."""
        return b""
