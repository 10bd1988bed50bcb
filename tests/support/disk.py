"""A disk that counts, fails or loses power, under the private files of a vault."""

import errno
import os
from pathlib import Path

import pytest

__all__ = ["Crash", "Disk"]


class Crash(BaseException):
    """The process ended here: nothing in it may catch this."""


class Disk:
    """Stands in for `os.pwrite` and `os.fsync` as long as the monkeypatch does.

    It notes the name of whatever was synced, and what each synced file held then.

    Attributes:
        lost: of the write in which the power went, what did not reach the disk.

    Args:
        patch: what undoes it.
        bytes_left: after so many bytes the power goes, in the middle of a write if need be.
        syncs_left: at the sync after so many the power goes.
        failing_sync: the number, from 1, of a sync that reports an I/O error.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *,
        bytes_left: int | None = None,
        syncs_left: int | None = None,
        failing_sync: int | None = None,
    ) -> None:
        self.writes = 0
        self.syncs = 0
        self.lost = b""
        self.synced: list[bytes] = []
        self.synced_names: list[str] = []
        self._bytes_left = bytes_left
        self._syncs_left = syncs_left
        self._failing_sync = failing_sync
        self._pwrite, self._fsync = os.pwrite, os.fsync
        patch.setattr(os, "pwrite", self._write)
        patch.setattr(os, "fsync", self._sync)

    def _write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        self.writes += 1
        allowed = memoryview(data)
        if self._bytes_left is not None:
            allowed = allowed[: self._bytes_left]
            self._bytes_left -= len(allowed)
        written = self._pwrite(descriptor, allowed, offset)
        self.lost = bytes(memoryview(data)[written:])
        if self._bytes_left is not None and self.lost:
            raise Crash
        return written

    def _sync(self, descriptor: int) -> None:
        if self._syncs_left is not None and self.syncs >= self._syncs_left:
            raise Crash
        self.syncs += 1
        if self.syncs == self._failing_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}")
        self.synced_names.append(path.readlink().name)
        if path.is_file():
            self.synced.append(path.read_bytes())
