"""One owner for a vault: a lock that the system takes back when the process ends."""

import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from eph_e2ee.errors import VaultInUse
from eph_e2ee.vault.privatefile import make_private_folder, open_private, reported

__all__ = ["VaultLock"]

_NAME: Final = "lock"

# Where the system's lock belongs to the process (NFS) a second opening in this one would pass.
_held: Final[set[tuple[int, int]]] = set()
_guard: Final = threading.Lock()


class VaultLock:
    """The right to use a vault's folder; `acquire` gives it. A context manager.

    It must not be carried into a forked child: parent and child would both hold it.
    """

    def __init__(self, descriptor: int, identity: tuple[int, int]) -> None:
        self._descriptor: int | None = descriptor
        self._identity = identity

    @classmethod
    def acquire(cls, folder: Path) -> "VaultLock":
        """Make the folder where it is missing, and lock it without waiting.

        Raises:
            VaultInUse: another process, or another part of this one, holds it.
            VaultForeign: the folder or the lock file is another user's, or no folder or file.
            VaultUnavailable: others can enter the folder, or the system refuses.
        """
        make_private_folder(folder)
        path = folder / _NAME
        with _guard, reported(path):
            # Looked up before opening: closing a second descriptor would end such a lock.
            if path.exists() and _identity(path.stat()) in _held:
                raise VaultInUse(f"{folder}: this process has the vault open already; share it")
            descriptor = open_private(path, create=True)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise VaultInUse(
                    f"{folder}: another process has the vault open; end it first"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            identity = _identity(os.fstat(descriptor))
            _held.add(identity)
        return cls(descriptor, identity)

    def release(self) -> None:
        """Give the vault free; releasing twice is harmless."""
        with _guard:
            if self._descriptor is not None:
                _held.discard(self._identity)
                os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
