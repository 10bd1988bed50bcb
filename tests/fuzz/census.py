"""How much long-lived objects hold: the sizes of what a chat keeps from one input to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from eph_e2ee.queues import MAXIMUM_WAITING
from eph_e2ee.seen import MAXIMUM_OPEN
from eph_e2ee.vault.keeper import MAXIMUM_NODES
from eph_e2ee.vault.ratchets import MAXIMUM_LIVE
from eph_e2ee.vault.shared import MAXIMUM_NAMES

__all__ = ["LIMITS", "USUAL", "Census"]

OURS: Final = ("eph_e2ee", "omemo", "twomemo", "oldmemo", "doubleratchet", "x3dh", "abc")
"""Packages whose objects are looked into; `abc` is where python-omemo's classes are made."""

USUAL: Final = 1200
"""Entries of one container, where nothing else is said: the largest small limit is 1024."""

LIMITS: Final = {
    "Queues._queues": MAXIMUM_WAITING,
    "Seen._open": MAXIMUM_OPEN,
    "Ratchets._live": MAXIMUM_LIVE // 100,  # which is in bytes
    "Ratchets._parsed": MAXIMUM_LIVE // 100,
    "Shared.by_jid": MAXIMUM_NAMES,
    "Shared.by_number": MAXIMUM_NAMES,
    "KeyTree._nodes": MAXIMUM_NODES,
    "KeyTree._starts": MAXIMUM_NODES,
}
"""Entries of those that may hold more, by their names."""

CONTAINERS: Final = (Mapping, AbstractSet, list, tuple, deque)


class Census:
    """The largest size of each container, by the class that holds it and the attribute's name.

    Attributes:
        sizes: entries, by name.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def take(self, held_now: list[object]) -> None:
        """Count what a chat, or the parts of a plugin, hold now."""
        seen: set[int] = set()
        waiting: list[Any] = list(held_now)
        while waiting:
            held = waiting.pop()
            if id(held) in seen:
                continue
            seen.add(id(held))
            for name, value in _attributes(held):
                if isinstance(value, CONTAINERS):
                    label = f"{type(held).__name__}.{name}"
                    self.sizes[label] = max(self.sizes.get(label, 0), len(value))
                waiting.extend(_inside(value))

    @property
    def excessive(self) -> dict[str, int]:
        """Those above their limits."""
        return {name: size for name, size in self.sizes.items() if size > LIMITS.get(name, USUAL)}


def _attributes(held: object) -> Iterator[tuple[str, Any]]:
    if not type(held).__module__.startswith(OURS):
        return
    yield from vars(held).items() if hasattr(held, "__dict__") else ()
    for kind in type(held).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if isinstance(name, str) and hasattr(held, name):
                yield name, getattr(held, name)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, str | bytes):
        return []
    return list(value) if isinstance(value, CONTAINERS) else [value]
