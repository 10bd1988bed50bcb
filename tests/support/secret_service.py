"""Runs inside a private D-Bus session: a real Secret Service, and a root key in it.

It writes one line for each thing seen; `tests/vault/test_keyringkey.py` says what is expected.
"""

import subprocess
import sys

import keyring
from keyring.backends import SecretService

from eph_e2ee.errors import VaultError
from eph_e2ee.vault.keyringkey import SERVICE, KeyringRootKey
from eph_e2ee.vault.primitives import Secret

KEYS = [Secret(bytes([number]) * 32) for number in range(3)]


def main() -> None:
    """Start the daemon, unlock it with an empty login, use it, and end it."""
    command = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            assert daemon.stdin is not None
            assert daemon.stdout is not None
            daemon.stdin.write(b"login\n")
            daemon.stdin.close()
            daemon.stdout.readline()
            use()
        finally:
            daemon.terminate()


def use() -> None:
    """Store, replace and destroy a root key; each step is seen by a new object."""
    service = SecretService.Keyring()  # type: ignore[no-untyped-call]  # the package has no type
    keyring.set_keyring(service)
    tell("empty", KeyringRootKey("bot").candidates() == ())
    for key in KEYS:
        KeyringRootKey("bot").replace(key)
        found = KeyringRootKey("bot").candidates()
        KeyringRootKey("bot").keep(key)
        items = [keyring.get_password(SERVICE, f"bot {index}") for index in (0, 1)]
        tell("replaced", found == (key,), items.count(None))
    KeyringRootKey("another").replace(KEYS[0])
    KeyringRootKey("bot").destroy()
    tell("destroyed", not KeyringRootKey("bot").exists(), KeyringRootKey("another").exists())


def tell(*seen: object) -> None:
    """Write one line."""
    sys.stdout.write(" ".join(map(str, seen)) + "\n")


if __name__ == "__main__":
    try:
        main()
    except VaultError as error:
        sys.exit(f"{type(error).__name__}: {error}")
