"""The rows in any page that SQLite ever wrote: to the database, and to its write-ahead log.

Every row stood in some leaf page of its table when it was written, so that reading all versions
of all pages finds each version of each row. What is not looked through: free blocks and gaps
within pages (they hold copies of cells that stood in an earlier version of a page, F4), pages of
indexes (they hold no sealed bytes), and the rollback journal (there is one only while the empty
database is made).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from eph_e2ee.vault.database import conversations, messages, state
from eph_e2ee.vault.opening import DATABASE, UNFINISHED
from tests.support.trace import Operation, Sync, Write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Table

__all__ = ["Carver", "Row", "carve"]

DATABASES: Final = (DATABASE, UNFINISHED)
LOGS: Final = tuple(f"{name}-wal" for name in DATABASES)
PAGE: Final = 4096
WAL_HEADER: Final = 32
FRAME_HEADER: Final = 24
DATABASE_HEADER: Final = 100
LEAF: Final = 0x0D
TABLES: Final[tuple[Table, ...]] = (messages, conversations, state)


@dataclass(frozen=True, slots=True)
class Row:
    """One version of one row.

    Attributes:
        table: the table's name.
        values: by column.
        written: how many operations there were before its page was complete.
    """

    table: str
    values: dict[str, Any] = field(repr=False)
    written: int


def carve(operations: Iterable[Operation]) -> list[Row]:
    """Return every version of every row with sealed bytes, in the order of their writing."""
    carver = Carver()
    return [row for operation in operations for row in carver.feed(operation)]


class Carver:
    """Reads along with the writes."""

    def __init__(self) -> None:
        self._pages: dict[int, bytes] = {}
        self._frames: dict[tuple[str, int], int] = {}
        self._fresh: list[tuple[int, bytes]] = []
        self._seen: set[bytes] = set()
        self._count = 0

    def feed(self, operation: Operation) -> Iterator[Row]:
        """Take one operation; yield the rows that are complete with it."""
        self._count += 1
        if isinstance(operation, Write):
            self._write(operation)
        elif isinstance(operation, Sync) and self._fresh:
            # Overflow pages may be written after the leaf page that names them.
            yield from self.complete()

    def complete(self) -> Iterator[Row]:
        """Yield the rows of the pages written since the last sync."""
        for number, page in self._fresh:
            yield from self._rows(number, page)
        self._fresh.clear()

    def in_flight(self) -> list[Row]:
        """Return the rows of pages that no sync has followed yet."""
        seen = self._seen.copy()
        rows = [row for number, page in self._fresh for row in self._rows(number, page)]
        self._seen = seen
        return rows

    def _write(self, write: Write) -> None:
        name = write.path.rpartition("/")[2]
        if name in LOGS:
            self._write_log(write)
        elif name in DATABASES:
            assert len(write.data) == PAGE, "a database is written in pages"
            self._keep(write.offset // PAGE + 1, write.data)

    def _write_log(self, write: Write) -> None:
        if write.offset == 0:
            assert len(write.data) == WAL_HEADER
        elif len(write.data) == FRAME_HEADER:
            number = int.from_bytes(write.data[:4], "big")
            self._frames[write.path, write.offset + FRAME_HEADER] = number
        else:
            assert len(write.data) == PAGE, "a log is written in headers and pages"
            self._keep(self._frames[write.path, write.offset], write.data)

    def _keep(self, number: int, page: bytes) -> None:
        self._pages[number] = page
        self._fresh.append((number, page))

    def _rows(self, number: int, page: bytes) -> Iterator[Row]:
        header = DATABASE_HEADER if number == 1 else 0
        if page[header] != LEAF:
            return
        count = int.from_bytes(page[header + 3 : header + 5], "big")
        for index in range(count):
            at = header + 8 + 2 * index
            row = self._cell(page, int.from_bytes(page[at : at + 2], "big"))
            if row is not None:
                yield row

    def _cell(self, page: bytes, at: int) -> Row | None:
        size, start = _varint(page, at)
        number, start = _varint(page, start)
        local = _local(size)
        end = start + local + (4 if local < size else 0)
        if (cell := page[at:end]) in self._seen:
            return None
        payload = page[start : start + local]
        if local < size:
            payload = self._overflow(payload, page[start + local : end], size)
        if len(payload) < size:
            return None
        self._seen.add(cell)
        return _row(payload, number, self._count)

    def _overflow(self, payload: bytes, first: bytes, size: int) -> bytes:
        parts, left = [payload], size - len(payload)
        following = int.from_bytes(first, "big")
        while left > 0 and following in self._pages:
            page = self._pages[following]
            parts.append(page[4 : 4 + left])
            left -= PAGE - 4
            following = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def _local(size: int) -> int:
    """Return how much of a payload stands in the leaf page itself (SQLite file format, 1.6)."""
    if size <= PAGE - 35:
        return size
    least = (PAGE - 12) * 32 // 255 - 23
    wanted = least + (size - least) % (PAGE - 4)
    return wanted if wanted <= PAGE - 35 else least


def _row(payload: bytes, number: int, written: int) -> Row | None:
    values = _values(payload)
    for table in TABLES:
        names = [column.name for column in table.columns]
        if len(names) == len(values):
            row = dict(zip(names, values, strict=True))
            if names[0] == "number":
                row["number"] = number
            return Row(table.name, row, written)
    return None


def _values(payload: bytes) -> list[Any]:
    end, at = _varint(payload, 0)
    kinds, place = [], end
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Any] = []
    for kind in kinds:
        size = _size(kind)
        values.append(_value(kind, payload[place : place + size]))
        place += size
    return values


def _size(kind: int) -> int:
    return (kind - 12) // 2 if kind >= 12 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind]


def _value(kind: int, data: bytes) -> Any:
    if kind == 0:
        return None
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(data, "big", signed=True) if kind < 12 else data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9
