"""The places where a root key can be, and keyrings that keep their items in a file."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from eph_e2ee.vault.keyringkey import KeyringRootKey
from eph_e2ee.vault.passphrase import Passphrase, PassphraseRootKey
from eph_e2ee.vault.primitives import Cost
from eph_e2ee.vault.rootkey import FileRootKey, MemoryRootKey, RootKey
from tests.support.disk import Crash, Disk

__all__ = [
    "KINDS",
    "PASSPHRASE",
    "TINY",
    "FailingKeyring",
    "FileKeyring",
    "is_whole",
    "keyring_file",
    "open_below",
    "place",
    "with_passphrase",
]

T = TypeVar("T")

KINDS = ("file", "passphrase", "keyring", "memory")
PASSPHRASE = "sentinel passphrase"

TINY = Cost(memory_kibibytes=8, passes=1, lanes=1)
"""The least that Argon2 can cost: some microseconds."""


class FileKeyring(KeyringBackend):
    """A keyring that keeps its items in a file, as a desktop's daemon does."""

    priority = 0

    def __init__(self, path: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the package has no type there
        self.path = path

    def items(self) -> dict[str, str]:
        """Everything that it keeps."""
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.items().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._save({**self.items(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        items = self.items()
        del items[f"{service}/{username}"]
        self._save(items)

    def _save(self, items: dict[str, str]) -> None:
        self.path.write_text(json.dumps(items))


class FailingKeyring(FileKeyring):
    """One that fails at one of its calls.

    Args:
        path: where it keeps its items.
        at: the number, from 0, of the call at which it fails.
        late: whether it has done what it was asked to by then.
        crash: whether the process ends there; else the keyring has become locked.
    """

    def __init__(self, path: Path, at: int, *, late: bool, crash: bool) -> None:
        super().__init__(path)
        self.calls = 0
        self._at, self._late, self._crash = at, late, crash

    def get_password(self, service: str, username: str) -> str | None:
        return self._failing(lambda: super(FailingKeyring, self).get_password(service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._failing(lambda: super(FailingKeyring, self).set_password(service, username, password))

    def delete_password(self, service: str, username: str) -> None:
        self._failing(lambda: super(FailingKeyring, self).delete_password(service, username))

    def _failing(self, call: Callable[[], T]) -> T:
        self.calls += 1
        due = self.calls - 1 == self._at
        if due and not self._late:
            self._fail()
        result = call()
        if due:
            self._fail()
        return result

    def _fail(self) -> None:
        raise Crash if self._crash else KeyringLocked("sentinel text of a backend")


def with_passphrase(folder: Path, passphrase: Passphrase = PASSPHRASE) -> PassphraseRootKey:
    """A root key under a passphrase that is quick to try."""
    return PassphraseRootKey(folder, passphrase, cost=TINY)


def place(kind: str, folder: Path, backend: KeyringBackend | None = None) -> RootKey:
    """A root key's place of a kind, as a process that has just begun sees it."""
    match kind:
        case "file":
            return FileRootKey(folder)
        case "passphrase":
            return with_passphrase(folder)
        case "keyring":
            return KeyringRootKey("bot", backend=backend or FileKeyring(keyring_file(folder)))
        case _:
            return MemoryRootKey()


def is_whole(path: Path, disk: Disk, written: int, record: int) -> bool:
    """Whether the second slot has a whole new record after so many bytes of it were written.

    The last ones of its random bytes may be those that were there before.
    """
    there = path.read_bytes()[4096 + written : 4096 + record]
    return there == disk.lost[: len(there)]


def open_below(folder: Path) -> list[Path]:
    """The files below a folder that this process has open; those of others come and go."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            opened.append(descriptor.readlink())
    return [path for path in opened if path.is_relative_to(folder.resolve())]


def keyring_file(folder: Path) -> Path:
    """Where the keyring of a vault's owner keeps its items: not in the vault's folder."""
    return folder.parent / f"{folder.name}.keyring"
