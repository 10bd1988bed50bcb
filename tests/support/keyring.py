"""A desktop's keyring, for tests without a desktop."""

from __future__ import annotations

__all__ = ["Keyring"]


class Keyring:
    """A keyring that is a dictionary."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.items.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.items[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.items[service, username]
