"""What a disk holds after a crash at any moment of a recorded run.

A killed process leaves all that it had written: `Disk.written`. When the power fails, only what
was synced is sure: of each file its content at the last sync, with any of the later writes, in any
choice, and each of them whole or torn; of each folder its names at its last sync, and any beginning
of the later changes. That is less than today's file systems keep, never more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from tests.support.trace import Create, Mark, Operation, Rename, Sync, Truncate, Unlink, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Contents", "Disk", "fast_folders", "materialise", "torn"]

MEMORY: Final = Path("/dev/shm")  # noqa: S108  a folder of our own within it
"""Where Linux keeps files in memory."""

Contents: TypeAlias = dict[str, bytes | None]
"""By path what a file holds; None is a folder."""

Change: TypeAlias = Write | Truncate


@dataclass(slots=True, eq=False)
class _File:
    """A file: what was written, what is synced of it, and the changes in between."""

    folder: bool = False
    content: bytes = b""
    synced: bytes = b""
    pending: list[Change] = field(default_factory=list)

    def change(self, change: Change) -> None:
        self.content = applied(self.content, change)
        self.pending.append(change)

    def sync(self) -> None:
        self.synced = self.content
        self.pending.clear()

    def surviving(self, chosen: Sequence[Change]) -> bytes:
        content = self.synced
        for change in chosen:
            content = applied(content, change)
        return content


class Disk:
    """A disk that operations are played to, one after another."""

    def __init__(self) -> None:
        self._names: dict[str, _File] = {".": _File(folder=True)}
        self._synced_names: dict[str, _File] = dict(self._names)
        # Each with the file that it is about: a name may stand for another one by now.
        self._renamings: list[tuple[Operation, _File]] = []

    def play(self, operation: Operation) -> None:
        """Do what the process did."""
        match operation:
            case Write(path) | Truncate(path):
                self._names[path].change(operation)
            case Create(path, folder):
                self._rename(operation, _File(folder=folder))
            case Rename(path) | Unlink(path):
                self._rename(operation, self._names[path])
            case Sync(path):
                self._sync(path)
            case Mark():
                pass

    @property
    def unsynced(self) -> bool:
        """Whether a loss of power may lose anything."""
        return bool(self._renamings) or any(file.pending for file in self._names.values())

    def written(self) -> Contents:
        """Return all that was written: what a killed process leaves."""
        return {path: _whole(file, file.content) for path, file in self._names.items()}

    def power_lost(
        self, choose: Callable[[Sequence[Change]], Sequence[Change]], names: float = 0.0
    ) -> Contents:
        """Return what a loss of power leaves.

        Args:
            choose: picks those of a file's changes since its last sync that survive.
            names: what part of the changes of names since the last sync survive, 0 to 1.
        """
        surviving = dict(self._synced_names)
        for operation, file in self._renamings[: round(names * len(self._renamings))]:
            _rename(surviving, operation, file)
        return {
            path: _whole(file, file.surviving(choose(file.pending)))
            for path, file in surviving.items()
            if path == "." or _parent(path) in surviving
        }

    def _rename(self, operation: Operation, file: _File) -> None:
        _rename(self._names, operation, file)
        self._renamings.append((operation, file))

    def _sync(self, path: str) -> None:
        file = self._names[path]
        if not file.folder:
            file.sync()
            return
        within = [each for each in self._renamings if _parent(_path(each[0])) == path]
        for operation, each in within:
            _rename(self._synced_names, operation, each)
        self._renamings = [each for each in self._renamings if each not in within]


@contextmanager
def fast_folders(otherwise: Path) -> Iterator[Path]:
    """Give a folder in memory, if the machine has one, and remove it at the end.

    Args:
        otherwise: a folder on a disk, for a machine that has none.
    """
    if not os.access(MEMORY, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def torn(content: bytes, write: Write, length: int) -> bytes:
    """Return a file's content when only the first bytes of a write have reached it."""
    return applied(content, Write(write.path, write.offset, write.data[:length]))


def applied(content: bytes, change: Change) -> bytes:
    """Return a file's content after a change."""
    if isinstance(change, Truncate):
        return content[: change.size].ljust(change.size, b"\0")
    end = change.offset + len(change.data)
    return content[: change.offset].ljust(change.offset, b"\0") + change.data + content[end:]


def materialise(contents: Contents, root: Path) -> None:
    """Make files of it in a folder, in place of all that is there; -shm is SQLite's to make."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, content in contents.items():
        if content is None:
            (root / path).mkdir(mode=0o700, exist_ok=True)
    for path, content in contents.items():
        if content is not None and not path.endswith("-shm"):
            (root / path).write_bytes(content)
            (root / path).chmod(0o600)


def _path(operation: Operation) -> str:
    assert isinstance(operation, Create | Rename | Unlink)
    return operation.path


def _rename(names: dict[str, _File], operation: Operation, file: _File) -> None:
    match operation:
        case Create(path):
            names[path] = file
        case Rename(path, new):
            names.pop(path, None)
            names[new] = file
        case Unlink(path):
            names.pop(path, None)


def _whole(file: _File, content: bytes) -> bytes | None:
    return None if file.folder else content


def _parent(path: str) -> str:
    return str(Path(path).parent)
