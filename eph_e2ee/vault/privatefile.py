"""Small files that only their owner may read, written in place and through to the disk.

Every write of the root key and of the key file passes `write_through`.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from eph_e2ee.errors import VaultForeign, VaultUnavailable

__all__ = [
    "make_private_folder",
    "open_private",
    "private_file",
    "read_private",
    "reported",
    "sync_folder",
    "write_through",
]

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_NO_FILE: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO})
"""What opening a symbolic link, a folder or a socket gives."""

LARGEST_FILE: Final = 256 * 1024 * 1024
"""Bytes that a private file has at most: millions of scattered records; more is not ours."""


def make_private_folder(folder: Path) -> None:
    """Make sure that the vault's folder exists and that nobody else can enter it.

    A missing or empty folder gets mode 0700. One with something in it is not changed.

    Raises:
        VaultForeign: it is no folder, or another user's.
        VaultUnavailable: others can enter it, or the system refuses.
    """
    with reported(folder):
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER_MODE, parents=True)
            sync_folder(folder.parent)
        found = folder.stat()
        _require(stat.S_ISDIR(found.st_mode), folder, "is not a folder")
        _require(found.st_uid == os.geteuid(), folder, "belongs to another user")
        if not found.st_mode & _OTHERS:
            return
        if any(folder.iterdir()):
            raise VaultUnavailable(f"{folder}: others can enter this folder; set its mode to 0700")
        folder.chmod(_FOLDER_MODE)


def open_private(path: Path, *, create: bool = False) -> int:
    """Open a private file for reading and writing, and return its descriptor.

    Args:
        path: the file itself; a symbolic link is refused.
        create: make it, empty and with mode 0600, when it is missing.

    Raises:
        FileNotFoundError: it is missing and `create` is not set.
        VaultForeign: a symbolic link, no regular file, or another user's.
        VaultUnavailable: others can read it, or the system refuses.
    """
    with _reported_unless_missing(path):
        descriptor = os.open(path, _FLAGS | (os.O_CREAT if create else 0), _FILE_MODE)
        try:
            _inspect(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


@contextmanager
def private_file(path: Path, *, create: bool = False) -> Iterator[int]:
    """Do `open_private` for the length of a block, and report every refusal in it.

    Raises:
        FileNotFoundError: it is missing and `create` is not set.
        VaultForeign: a symbolic link, no regular file, or another user's.
        VaultUnavailable: others can read it, or the system refuses.
    """
    descriptor = open_private(path, create=create)
    try:
        with reported(path):
            yield descriptor
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes | None:
    """Return everything in a private file, or None when it is missing.

    Raises:
        VaultForeign: a symbolic link, no regular file, another user's, or larger than any of ours.
        VaultUnavailable: others can read it, or the system refuses.
    """
    try:
        with private_file(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_through(descriptor: int, offset: int, data: bytes | bytearray) -> None:
    """Overwrite bytes in place and return once the disk has them: one fsync.

    Raises:
        OSError: the system refuses; what the disk has now is not known.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return once the disk has the names in a folder: one fsync.

    Raises:
        OSError: the system refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn what the system refuses into our error.

    Raises:
        VaultUnavailable: with the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise VaultUnavailable(f"{path}: {error.strerror or error}") from error


@contextmanager
def _reported_unless_missing(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _NO_FILE:
            raise VaultForeign(f"{path}: no regular file; choose another path") from None
        raise VaultUnavailable(f"{path}: {error.strerror or error}") from error


def _inspect(path: Path, found: os.stat_result) -> None:
    _require(stat.S_ISREG(found.st_mode), path, "is not a regular file")
    _require(found.st_uid == os.geteuid(), path, "belongs to another user")
    _require(found.st_size <= LARGEST_FILE, path, "is larger than any file of a vault")
    if found.st_mode & _OTHERS:
        raise VaultUnavailable(f"{path}: others can read this file; set its mode to 0600")


def _require(condition: bool, path: Path, complaint: str) -> None:  # noqa: FBT001  # a predicate
    if not condition:
        raise VaultForeign(f"{path}: {complaint}; choose another path for the vault")
