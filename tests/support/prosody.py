"""Prosody as the throwaway server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from tests.support.server import HOST, PASSWORD, Account, Server, ServerError

if TYPE_CHECKING:
    from tests.support.server import Feature

__all__ = ["HOST", "PASSWORD", "Account", "Prosody"]

MODULES_FOLDER: Final = Path(__file__).with_name("prosody_modules")

MODULES: Final[dict[Feature, str]] = {"mam": "mam", "carbons": "carbons"}
"""What can be left out."""

CONFIGURATION: Final = """\
{root}
data_path = "{data}"
plugin_paths = {{ "{modules}" }}
certificates = "{data}"
log = {{ {log_level} = "{log}" }}
interfaces = {{ "{host}" }}
c2s_ports = {{ {port} }}
interference_port = {port}
modules_enabled = {{
    "roster", "saslauth", "disco", "pep", "ping", "smacks", "offline", "blocklist",
    "posix", "time", "interference"{more_modules}
}}
modules_disabled = {{ "s2s", "tls" }}
-- There is no certificate here, and loopback needs none.
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
storage = "internal"
default_archive_policy = true
archive_expires_after = "never"
-- A benchmark's messages must not start to push each other out.
storage_archive_item_limit = 10000000
{settings}
VirtualHost "{domain}"
Component "rooms.{domain}" "muc"
modules_enabled = {{ "muc_mam" }}
restrict_room_creation = false
"""


class Prosody(Server):
    """One Prosody; `settings` are Lua source by name."""

    NAME: ClassVar[str] = "Prosody"
    PAGE: ClassVar[int] = 50

    def register(self, name: str, password: str = PASSWORD) -> Account:
        """Create an account, running or not; the name is of lower-case letters, digits and `-`."""
        self._write("accounts", name, f"return {{ password = {json.dumps(password)} }};\n")
        return Account(f"{name}@{self.domain}", password)

    def unregister(self, account: Account) -> None:
        """Have an account never have been; it is not online."""
        self._file("accounts", account.name).unlink()

    def forget_archive(self, account: Account) -> None:
        """Lose all that an account's archive holds; the server is not running."""
        self._file("archive", account.name).with_suffix(".list").unlink()

    def befriend(self, one: Account, *others: Account) -> None:
        """Give an account mutual subscriptions; nobody may be online, nor have a roster yet."""
        for owner, contacts in ((one, others), *((other, (one,)) for other in others)):
            entries = "".join(
                f'[{json.dumps(contact.jid)}] = {{ subscription = "both"; groups = {{}}; }}; '
                for contact in contacts
            )
            roster = f"return {{ [false] = {{ version = 1 }}; {entries}}};\n"
            self._write("roster", owner.name, roster)

    def _file(self, store: str, name: str) -> Path:
        """Where Prosody's internal storage has what belongs to an account."""
        return self.data / _storage_name(self.domain) / store / f"{_storage_name(name)}.dat"

    def _write(self, store: str, name: str, content: str) -> None:
        """Write one file of Prosody's internal storage, whole at once."""
        file = self._file(store, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"{name}.new")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(file)

    def _prepare(self, port: int) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; the command that starts the server, and its environment."""
        program = shutil.which("prosody")
        if program is None:
            raise ServerError("Prosody is not installed: apt-get install prosody")
        configuration = self.folder / "prosody.cfg.lua"
        configuration.write_text(self._configuration(port), encoding="utf-8")
        return [program, "-F", "--config", str(configuration)], dict(os.environ)

    def _configuration(self, port: int) -> str:
        """Return the text of the configuration file."""
        return CONFIGURATION.format(
            # As root without this option it would switch to a user who may not read the folder.
            root="run_as_root = true" if os.geteuid() == 0 else "",
            data=self.data,
            modules=MODULES_FOLDER,
            log=self._log_file,
            log_level=self._log_level,
            host=HOST,
            port=port,
            domain=self.domain,
            more_modules="".join(
                f', "{name}"' for feature, name in MODULES.items() if feature not in self._lacking
            ),
            settings="\n".join(f"{name} = {value}" for name, value in self._settings.items()),
        )


def _storage_name(text: str) -> str:
    """Return a file name as Prosody's internal storage spells it: `%2e` for a point."""
    return "".join(c if c.isascii() and c.isalnum() else f"%{ord(c):02x}" for c in text)
