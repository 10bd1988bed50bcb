"""Sessions as they stand in the storage: parsed once, and written where they have changed.

python-omemo parses ten values each time that it loads a session, and writes twelve each time that
it stores one, of which a message changes two at most. Nothing here is taken for granted about what
has become of the storage meanwhile (an operation was discarded, another session was stored): all of
it is good only while the storage has, at this moment, the very texts that it was made from.
"""

import base64
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from omemo.session import Session
from omemo.storage import Storage

__all__ = ["MAXIMUM", "Standing", "Texts"]

MAXIMUM: Final = 1024
"""Sessions that are kept parsed, some 7 kB each. A room with more devices has them parsed for each
message."""

Place = tuple[str, int]
"""The name that sessions are stored under, which is a bare JID or made of one, and a device."""


@runtime_checkable
class Texts(Protocol):
    """A storage that has its values as JSON text at hand."""

    def holds(self, texts: Mapping[str, str | None]) -> bool:
        """Tell whether these are the values of these keys; not where one would have to be read."""

    def texts(self, keys: Iterable[str]) -> dict[str, str | None] | None:
        """The values of keys; None where one would have to be read."""

    def put_text(self, key: str, text: str) -> None:
        """Store a value that is JSON text already."""


@dataclass(slots=True)
class _Record:
    """What never changes of a session, as it is stored.

    Attributes:
        parts: its own values.
        lists: those that only have to name it, as they last did.
    """

    parts: dict[str, str | None] = field(repr=False)
    lists: dict[str, str | None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A session, with every value of its own that it was stored as."""

    session: Any = field(repr=False)
    parts: dict[str, str | None] = field(repr=False)
    state: dict[str, str | None] = field(repr=False)


class Standing:
    """The sessions of one backend that stand in its storage.

    A ratchet is kept here only as it was last stored: it leaves when it is loaded, when it is about
    to turn, and when another one is stored in its place.

    Args:
        storage: with one that is not `Texts` everything is left to python-omemo.
        namespace: the backend's.
    """

    def __init__(self, storage: Storage, namespace: str) -> None:
        self._storage: Texts | None = storage if isinstance(storage, Texts) else None
        self._namespace = namespace
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self._places: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()
        self._records: WeakKeyDictionary[Session, _Record] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Standing: {len(self._kept)} sessions>"

    def take(self, bare_jid: str, device_id: int) -> Session | None:
        """Take the session out that stands in a place; None where it has to be loaded."""
        kept = self._drop((bare_jid, device_id))
        if kept is None or self._storage is None:
            return None
        if self._storage.holds(kept.state) and self._storage.holds(kept.parts):
            session: Session = kept.session
            return session
        return None

    def store(self, session: Any) -> bool:
        """Store what has changed of a session.

        Returns:
            Whether it is stored now. Where not, the rest of it does not stand in the storage: it
            has to be stored wholly.
        """
        storage, record = self._storage, self._record(session)
        if storage is None or record is None:
            return False
        place = self._path(session)
        state: dict[str, str | None] = {
            f"{place}/double_ratchet": session.double_ratchet.model.model_dump_json(),
            f"{place}/confirmed": "true" if session.confirmed else "false",
        }
        for key, text in state.items():
            storage.put_text(key, str(text))
        self._keep(_Kept(session, record.parts, state))
        return True

    def turns(self, session: Any) -> None:
        """Forget a session whose ratchet is about to turn, under whatever name it is kept."""
        place = self._places.get(session.double_ratchet)
        if place is not None:
            self._drop(place)

    def forget(self, bare_jid: str) -> None:
        """Forget all sessions that are stored under a name."""
        for place in [place for place in self._kept if place[0] == bare_jid]:
            self._drop(place)

    def _keep(self, kept: _Kept) -> None:
        session = kept.session
        place = session.bare_jid, session.device_id
        self.turns(session)
        self._drop(place)
        self._kept[place] = kept
        self._places[session.double_ratchet] = place
        if len(self._kept) > MAXIMUM:
            self._drop(next(iter(self._kept)))

    def _drop(self, place: Place) -> _Kept | None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            self._places.pop(kept.session.double_ratchet, None)
        return kept

    def _record(self, session: Any) -> _Record | None:
        """What never changes of a session, if all of it stands in the storage."""
        storage = self._storage
        if storage is None:
            return None
        record = self._records.get(session)
        if record is None:
            record = self._records[session] = _Record(self._parts(session), {})
        if not storage.holds(record.parts):
            return None
        if not record.lists or not storage.holds(record.lists):
            record.lists = self._lists(storage, session)
        return record if record.lists else None

    def _parts(self, session: Any) -> dict[str, str | None]:
        exchange, header = session.key_exchange, session.key_exchange.header
        parts = {
            "initiation": session.initiation.name,
            "key_exchange/identity_key": _encoded(header.identity_key),
            "key_exchange/ephemeral_key": _encoded(header.ephemeral_key),
            "key_exchange/signed_pre_key": _encoded(header.signed_pre_key),
            "key_exchange/signed_pre_key_id": exchange.signed_pre_key_id,
            "key_exchange/pre_key": _encoded(header.pre_key),
            "key_exchange/pre_key_id": exchange.pre_key_id,
            "associated_data": _encoded(session.associated_data),
        }
        place = self._path(session)
        return {f"{place}/{name}": json.dumps(value) for name, value in parts.items()}

    def _lists(self, storage: Texts, session: Session) -> dict[str, str | None]:
        """The lists that name all sessions; empty where one of them does not name this one."""
        names = {
            f"/{self._namespace}/bare_jids": session.bare_jid,
            f"/{self._namespace}/{session.bare_jid}/device_ids": session.device_id,
        }
        texts = storage.texts(names)
        if texts is None:
            return {}
        listed = all(names[key] in json.loads(text or "[]") for key, text in texts.items())
        return texts if listed else {}

    def _path(self, session: Session) -> str:
        return f"/{self._namespace}/{session.bare_jid}/{session.device_id}"


def _encoded(key: bytes) -> str:
    """Bytes as python-omemo's storage has them."""
    return base64.urlsafe_b64encode(key).decode("ascii")
