"""What rooms send back of ours, which nobody encrypts for the sending device.

It is known by its ciphertext: ids are everybody's to copy, and an application may change its own.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import Element

from eph_e2ee.xmpp.parcel import MODERN, OLD

__all__ = ["Reflections"]

MAXIMUM: Final = 256
"""Messages remembered at once: more than an application sends before the first comes back."""

SECONDS: Final = 300.0
"""How long one is remembered. A room sends it back at once; a stream that was cut is resumed within
a few minutes, and brings it then. What takes longer does not come back."""


@dataclass(frozen=True, slots=True)
class _Sent:
    plaintexts: Mapping[str, bytes] = field(repr=False)
    names: frozenset[str] = field(repr=False)
    until: float


class Reflections:
    """The plaintexts of what was last sent to rooms, each until it has come back.

    Args:
        loop: gives the event loop, whose clock it goes by.
    """

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop = loop
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._sent)

    def remember(self, stanza: Element, plaintexts: Mapping[str, bytes]) -> None:
        """Keep what an encrypted stanza holds, by namespace."""
        names = frozenset(_payloads(stanza).values())
        self._next += 1
        self._sent[self._next] = _Sent(dict(plaintexts), names, self._loop().time() + SECONDS)
        self._numbers.update(dict.fromkeys(names, self._next))
        while len(self._sent) > MAXIMUM:
            self._drop(next(iter(self._sent)))
        self._wait()

    def knows(self, stanza: Element) -> bool:
        """Whether a stanza holds something remembered."""
        return any(name in self._numbers for name in _payloads(stanza).values())

    def take(self, stanza: Element) -> tuple[str, bytes] | None:
        """The namespace and the plaintext of a stanza, omemo:2 first; it is forgotten with that."""
        for namespace, name in _payloads(stanza).items():
            number = self._numbers.get(name)
            if number is not None:
                sent = self._drop(number)
                self._wait()
                return namespace, sent.plaintexts[namespace]
        return None

    def forget(self) -> None:
        """Forget everything."""
        self._sent.clear()
        self._numbers.clear()
        self._wait()

    def _drop(self, number: int) -> _Sent:
        sent = self._sent.pop(number)
        for name in sent.names:
            self._numbers.pop(name, None)
        return sent

    def _forget_late(self) -> None:
        now = self._loop().time()
        for number in [number for number, sent in self._sent.items() if sent.until <= now]:
            self._drop(number)
        self._timer = None
        self._wait()

    def _wait(self) -> None:
        """Come back when the oldest one's time is over."""
        if self._timer is not None and not self._sent:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and self._sent:
            oldest = next(iter(self._sent.values()))
            self._timer = self._loop().call_at(oldest.until, self._forget_late)


def _payloads(stanza: Element) -> dict[str, str]:
    """The ciphertexts on a stanza, by namespace."""
    found = {
        namespace: stanza.findtext(f"{{{namespace}}}encrypted/{{{namespace}}}payload")
        for namespace in (MODERN, OLD)
    }
    return {namespace: text.strip() for namespace, text in found.items() if text}
