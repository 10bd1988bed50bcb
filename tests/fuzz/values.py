"""What is taken from others and kept: opt-outs, errors, waiting mail, timers in clear, keys."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from omemo.session_manager import BundleDownloadFailed
from omemo.types import SignedLabel
from slixmpp.stanza import Message

from eph_e2ee import withheld
from eph_e2ee.errors import LocalProtocolError, VaultDamaged
from eph_e2ee.model import BareJid
from eph_e2ee.protocol import ephemeral, optout, refusals
from eph_e2ee.xmpp import elements, published
from eph_e2ee.xmpp.screening import screened
from eph_e2ee.xmpp.stanzas import archived, carbon, live
from tests.fuzz import payloads, words
from tests.fuzz.sessions import in_clear
from tests.fuzz.stanzas import message, result
from tests.fuzz.trees import element, expanded, mutated, read, written
from tests.xmpp.clients import Kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.source import Source

__all__ = ["VALUES"]

NOW: Final = 1_750_000_000.0
OWN: Final = BareJid(words.OWN)


def _opt_outs(source: Source) -> bytes:
    return payloads.scrambled(source, optout.State(optout.Phase.BLOCKED, 5).to_json().encode())


def _read_opt_outs(material: bytes) -> None:
    """A state that is read is one that every event leads on from."""
    try:
        state = optout.State.from_json(material.decode("utf-8", "replace"))
    except VaultDamaged:
        return
    assert optout.State.from_json(state.to_json()) == state
    for event in optout.Event:
        stamp = None if event is optout.Event.CONFIRMED else state.stamp + 1
        after = optout.step(state, event, stamp)
        assert optout.step(after, event, stamp) == after


def _errors(source: Source) -> bytes:
    root = element("{jabber:client}iq", *payloads.content(source), *payloads.content(source))
    return written(mutated(source, root))


def _read_errors(material: bytes) -> None:
    """What somebody gives as a reason, or as an error, comes out in known words and sizes."""
    content = list(expanded(read(material)))
    request = optout.read(content)
    if request is not None and request.reason is not None:
        assert 0 < len(request.reason) <= optout.MAX_REASON
    refusal = refusals.read(content)
    if refusal is not None:
        again = refusals.read([refusals.write(refusal)])
        assert again is not None
        assert (again.condition, again.kind) == (refusal.condition, refusal.kind)


def _withheld(source: Source) -> bytes:
    made = message(source) if source.chance(2) else result(source)
    return written(mutated(source, made))


def _read_withheld(material: bytes) -> None:
    """What waits in the vault comes back as it was, but for what no stanza can hold."""
    xml = expanded(read(material))
    stanza: Any = screened(Message(None, xml=xml))  # type: ignore[no-untyped-call]
    for arrival in (live(stanza, OWN), carbon(stanza, OWN), archived(stanza, OWN)):
        if arrival is None:
            continue
        item = withheld._packed(arrival, NOW, None)
        if item is not None:
            kept = withheld._Item(*json.loads(json.dumps(item, ensure_ascii=False)))
            back = withheld._unpacked(kept)
            assert (back.sender, back.recipient) == (arrival.sender, arrival.recipient)
            assert withheld._packed(back, NOW, None) == kept


def _in_clear(source: Source) -> bytes:
    return written(in_clear(source))


def _read_in_clear(material: bytes) -> None:
    """`message["ephemeral"]["timer"]`, read, written and taken away again."""
    elements.register()
    stanza: Any = Message(None, xml=expanded(read(material)))  # type: ignore[no-untyped-call]
    before = len(stanza.xml)
    timer, wanted = stanza["ephemeral"]["timer"], stanza["i_want_out"]
    assert timer is None or 0 <= timer <= ephemeral.MAX_TIMER
    assert wanted in (True, False)
    assert len(stanza.xml) == before
    hidden = elements.is_encrypted(stanza.xml)
    assert not (hidden and (timer is not None or wanted))
    try:
        stanza["ephemeral"]["timer"] = 60
        assert not hidden
        assert stanza["ephemeral"]["timer"] == 60
    except LocalProtocolError:
        assert hidden
    del stanza["ephemeral"]["timer"]


@dataclass
class _Keys:
    identity_key: bytes
    signed_pre_key: bytes
    signed_pre_key_sig: bytes
    pre_keys: frozenset[bytes]


@dataclass
class _Bundle:
    bare_jid: str
    device_id: int
    bundle: _Keys

    @property
    def identity_key(self) -> bytes:
        return self.bundle.identity_key


def _bundle(source: Source) -> bytes:
    keys = [(source.take(4) * 32)[: source.one(SIZES)].hex() for _ in range(3 + source.below(5))]
    ids = [words.number(source) for _ in range(words.count(source))]
    labels = [words.text(source) * source.one((1, 1, 9)) for _ in ids]
    return json.dumps([keys, ids, labels]).encode()


def _read_bundle(material: bytes) -> None:
    """Lists and bundles stay within bounds; what is wrong is refused in python-omemo's manner."""
    keys, ids, labels = json.loads(material)
    raw = [bytes.fromhex(key) for key in keys]
    given = zip(ids, labels, strict=True)
    listed: dict[int, SignedLabel | None] = {
        int(name): SignedLabel(text, raw[2]) for name, text in given if _is_number(name)
    }
    for own in (None, int(words.DEVICE)):
        kept = published.bounded(listed, own)
        assert len(kept) <= published.MAX_DEVICES
        assert all(1 <= device <= published.LARGEST_ID for device in kept)
    bundle = _Bundle(words.PEER, 1, _Keys(raw[0], raw[1], raw[2], frozenset(raw[3:])))
    try:
        asyncio.run(published.check_bundle(Kept(), bundle))
    except BundleDownloadFailed:
        return
    assert len(raw[0]) == published.KEY
    assert len(raw[2]) == published.SIGNATURE
    assert 0 < len(bundle.bundle.pre_keys) <= published.MAX_PRE_KEYS


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 40


SIZES: Final = (32, 32, 32, 64, 64, 33, 31, 0)

VALUES: Final[dict[str, tuple[Callable[[Source], bytes], Callable[[bytes], None]]]] = {
    "optouts": (_opt_outs, _read_opt_outs),
    "errors": (_errors, _read_errors),
    "waiting": (_withheld, _read_withheld),
    "timers": (_in_clear, _read_in_clear),
    "bundles": (_bundle, _read_bundle),
}
"""By name: what makes an input of bytes, and what reads it."""
