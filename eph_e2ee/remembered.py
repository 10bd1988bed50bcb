"""What the vault keeps of conversations, in memory for those that were used last."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from eph_e2ee.model import BareJid

__all__ = ["MAXIMUM", "Remembered"]

MAXIMUM: Final = 1024
"""Conversations whose values are in memory; the others' are a read away."""

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """One value a conversation. What a read gives never takes the place of something newer."""

    def __init__(self) -> None:
        self._values: OrderedDict[BareJid, Value] = OrderedDict()
        self._reading: dict[BareJid, object] = {}

    async def get(self, conversation: BareJid, read: Callable[[], Awaitable[Value]]) -> Value:
        """The value in memory, else the one that `read` gives.

        What was put meanwhile is newer; what was forgotten is read once more.

        Raises:
            Exception: whatever `read` raises.
        """
        while (known := self._values.get(conversation)) is None:
            reading = self._reading.setdefault(conversation, object())
            try:
                value = await read()
            except BaseException:
                self._reading.pop(conversation, None)
                raise
            if self._reading.get(conversation) is reading:
                self.put(conversation, value)
        return known

    def put(self, conversation: BareJid, value: Value) -> None:
        """Make it the value; whoever is reading gets this one."""
        self._reading.pop(conversation, None)
        self._values[conversation] = value
        self._values.move_to_end(conversation)
        if len(self._values) > MAXIMUM:
            self._values.popitem(last=False)

    def forget(self, conversation: BareJid) -> None:
        """Have it read again, also by whoever is reading."""
        self._reading.pop(conversation, None)
        self._values.pop(conversation, None)
