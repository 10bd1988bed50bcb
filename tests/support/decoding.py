"""Every version of every row that a PostgreSQL server was given, committed or not.

What was committed comes from the server's own write-ahead log, by logical decoding: replicas and
archives of that log have the same. What was sent and perhaps never committed comes from a server
log that has each statement with its parameters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from eph_e2ee.vault.database import conversations, messages, state
from tests.support.carving import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.postgresql import Site

__all__ = ["WITNESSED", "Witness", "sealed"]

WITNESSED: Final = {
    "wal_level": "logical",
    "max_replication_slots": "100",
    "log_line_prefix": "%d ",
}
"""What a server needs for a witness: a log that can be decoded, and lines that name a database."""

TABLES: Final = frozenset({messages.name, conversations.name, state.name})
"""Those with sealed bytes."""

SLOT: Final = "witness"

CHANGE: Final = re.compile(r"table \w+\.(\w+): (?:INSERT|UPDATE): (.*)")
VALUE: Final = re.compile(r"(\w+)\[[a-z ]+\]:('[^']*'|\S+)")
UNCHANGED: Final = "unchanged-toast-datum"
"""What is written of a large value that an update has left alone."""

INSERTED: Final = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES")
UPDATED: Final = re.compile(r"UPDATE (\w+) SET (.*) WHERE \w+\.(number|hash) = \$(\d+)")
"""Of one row: what is written to many at once is without any sealed bytes."""

ASSIGNED: Final = re.compile(r"(\w+)=\$(\d+)")
PARAMETER: Final = re.compile(r"\$(\d+) = ('[^']*'|NULL)")


class Witness:
    """Sees what a database is given from now on, until it is dropped.

    Args:
        site: a database of a server with the settings `WITNESSED`.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._log = site.server.folder / "server.log"
        self._start = self._log.stat().st_size
        self._slot = f"{SLOT}_{site.name}"
        site.run(f"SELECT pg_create_logical_replication_slot('{self._slot}', 'test_decoding')")

    def close(self) -> None:
        """Let the server drop what it kept of its log for this."""
        self._site.run(f"SELECT pg_drop_replication_slot('{self._slot}')")

    def decoded(self) -> list[str]:
        """Return the text of all that was committed; it stays to be read again."""
        found = self._site.run(
            f"SELECT data FROM pg_logical_slot_peek_changes('{self._slot}', NULL, NULL)"  # noqa: S608  a name of our own
        )
        return [line for (line,) in found]

    def committed(self) -> list[Row]:
        """Return every version of every row with sealed bytes that was committed, in order."""
        last: dict[tuple[str, object], dict[str, Any]] = {}
        rows = []
        for index, line in enumerate(self.decoded()):
            found = CHANGE.match(line)
            if found is None or found[1] not in TABLES:
                continue
            values = {name: _value(text) for name, text in VALUE.findall(found[2])}
            key = found[1], next(iter(values.values()))
            values |= {
                name: last[key][name] for name, value in values.items() if value == UNCHANGED
            }
            last[key] = values
            rows.append(Row(found[1], values, index))
        return rows

    def sent(self) -> list[Row]:
        """Return every row that a statement was to write, whatever became of that statement."""
        last: dict[tuple[str, object], dict[str, Any]] = {}
        rows = []
        for index, (statement, parameters) in enumerate(self._statements()):
            found = _written(statement, parameters)
            if found is None or found[0] not in TABLES:
                continue
            table, key, values = found
            values = last.get((table, key), {}) | values
            last[table, key] = values
            rows.append(Row(table, values, index))
        return rows

    def _statements(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the statements that the server's log has of this database."""
        name = self._site.name
        with self._log.open(encoding="utf-8") as log:
            log.seek(self._start)
            statement = ""
            for line in log:
                if line.startswith(f"{name} LOG:  execute "):
                    statement = line.partition(": ")[2]
                elif line.startswith(f"{name} DETAIL:  parameters: ") and statement:
                    yield statement, {at: _value(text) for at, text in PARAMETER.findall(line)}
                    statement = ""


def sealed(rows: Iterable[Row]) -> set[bytes]:
    """Return what the leaves of some messages and values have sealed."""
    columns = ("sealed_key", "sealed")
    return {row.values[name] for row in rows for name in columns if row.values.get(name)}


def _written(
    statement: str, parameters: dict[str, Any]
) -> tuple[str, object, dict[str, Any]] | None:
    """Return the table, the key and the columns that a statement writes; None for any other."""
    if (found := INSERTED.search(statement)) is not None:
        values = dict(zip(found[2].split(", "), parameters.values(), strict=True))
        return found[1], next(iter(values.values())), values
    if (found := UPDATED.search(statement)) is not None:
        key = parameters[found[4]]
        values = {name: parameters[at] for name, at in ASSIGNED.findall(found[2])}
        return found[1], key, {found[3]: key} | values
    return None


def _value(text: str) -> Any:
    """Return a value of a bigint, a smallint or a bytea from the server's text of it."""
    if text in {"null", "NULL"}:
        return None
    text = text.strip("'")
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return int(text) if re.fullmatch(r"-?\d+", text) else text
