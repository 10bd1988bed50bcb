"""A storage in front of another one, which is asked in its own ways.

python-omemo's `Storage` has methods of their own for bytes, lists and other kinds of values, and
applications override them: one keeps bytes as bytes, another knows devices without a label. Whoever
stood in front of such a storage and asked for plain values would not find what it keeps.
"""

from collections.abc import Awaitable
from typing import TypeVar

from omemo.storage import Maybe, PrimitiveTypeT, Storage
from omemo.types import JSONType

__all__ = ["Front"]

Value = TypeVar("Value")


class Front(Storage):
    """A storage that passes on what it is asked, method by method.

    Args:
        behind: the other one.
    """

    def __init__(self, behind: Storage) -> None:
        super().__init__(disable_cache=True)
        self._behind = behind

    def _holds(self, _key: str) -> bool:
        """Whether a value is to be had of `_load`, and not from behind."""
        return False

    async def _answer(self, asked: Awaitable[Value]) -> Value:
        """What the other storage answers."""
        return await asked

    async def _load(self, key: str) -> Maybe[JSONType]:
        return await self._answer(self._behind.load(key))

    async def _store(self, key: str, value: JSONType) -> None:
        await self._answer(self._behind.store(key, value))

    async def _delete(self, key: str) -> None:
        await self._answer(self._behind.delete(key))

    async def store_bytes(self, key: str, value: bytes) -> None:
        """Store bytes."""
        await self._answer(self._behind.store_bytes(key, value))

    async def load_bytes(self, key: str) -> Maybe[bytes]:
        """Load bytes."""
        if self._holds(key):
            return await super().load_bytes(key)
        return await self._answer(self._behind.load_bytes(key))

    async def load_primitive(
        self, key: str, primitive: type[PrimitiveTypeT]
    ) -> Maybe[PrimitiveTypeT]:
        """Load a value of one type."""
        if self._holds(key):
            return await super().load_primitive(key, primitive)
        return await self._answer(self._behind.load_primitive(key, primitive))

    async def load_optional(
        self, key: str, primitive: type[PrimitiveTypeT]
    ) -> Maybe[PrimitiveTypeT | None]:
        """Load a value of one type, or None."""
        if self._holds(key):
            return await super().load_optional(key, primitive)
        return await self._answer(self._behind.load_optional(key, primitive))

    async def load_list(
        self, key: str, primitive: type[PrimitiveTypeT]
    ) -> Maybe[list[PrimitiveTypeT]]:
        """Load a list of values of one type."""
        if self._holds(key):
            return await super().load_list(key, primitive)
        return await self._answer(self._behind.load_list(key, primitive))

    async def load_dict(
        self, key: str, primitive: type[PrimitiveTypeT]
    ) -> Maybe[dict[str, PrimitiveTypeT]]:
        """Load values of one type by their names."""
        if self._holds(key):
            return await super().load_dict(key, primitive)
        return await self._answer(self._behind.load_dict(key, primitive))
