"""ejabberd as the throwaway server, as Debian packages it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from tests.support.server import HOST, PASSWORD, Account, Server, ServerError

if TYPE_CHECKING:
    from tests.support.server import Feature

__all__ = ["Ejabberd"]

INTERFERENCE: Final = Path(__file__).with_name("ejabberd_modules") / "mod_interference.erl"

LIBRARIES: Final = Path("/usr/lib")
"""Debian puts ejabberd into the folder of the machine's architecture below this one."""

LEVELS: Final = {"warn": "warning"}
"""Of the log, where ejabberd's name is not Prosody's."""

MODULES: Final[dict[Feature, str]] = {
    "mam": "mod_mam: {default: always}",
    "carbons": "mod_carboncopy: {}",
}
"""What can be left out."""

# Everything else is as ejabberd has it by itself, but what Debian's own configuration changes.
CONFIGURATION: Final = """\
hosts: ["{domain}"]
loglevel: {log_level}
log_rotate_count: 0
listen:
  - {{module: ejabberd_c2s, ip: "{host}", port: {port}, starttls: false}}
# There is no certificate here, and loopback needs none.
auth_password_format: plain
{settings}
modules:
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_disco: {{}}
  mod_interference: {{}}
  mod_muc:
    hosts: ["{rooms}"]
    default_room_options: {{mam: {archived_rooms}}}
  mod_offline: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_pubsub:
    plugins: [flat, pep]
    force_node_config:
      "eu.siacs.conversations.axolotl.*": {{access_model: open}}
  mod_roster: {{}}
  mod_stream_mgmt: {{resend_on_timeout: if_offline}}
  mod_time: {{}}
{more_modules}
"""

# Without a name a node needs neither a port mapper nor a cookie, and nobody can connect to it.
COMMAND: Final = (
    "-noinput",
    *("-os_mon", "start_cpu_sup", "false", "start_disksup", "false", "start_memsup", "false"),
    *("-ejabberd", "quiet", "true"),
    *("-s", "ejabberd"),
)


class Ejabberd(Server):
    """One ejabberd; `settings` are values in YAML by name."""

    NAME: ClassVar[str] = "ejabberd"
    PAGE: ClassVar[int] = 250

    def stop(self, *, abrupt: bool = False) -> None:
        """End the server by its process id and keep its data; blocks until it has ended.

        ejabberd keeps what it writes in memory for some seconds; here a crash loses none of it.
        """
        if abrupt and self.running:
            # One that did not even start has nothing to lose.
            with contextlib.suppress(ServerError):
                self._command({"do": "sync"})
        super().stop(abrupt=abrupt)

    def register(self, name: str, password: str = PASSWORD) -> Account:
        """Create an account; the server is running."""
        self._command({"do": "register", "name": name, "password": password})
        return Account(f"{name}@{self.domain}", password)

    def unregister(self, account: Account) -> None:
        """Have an account never have been; the server is running, and the account is not online."""
        self._command({"do": "unregister", "name": account.name})

    def befriend(self, one: Account, *others: Account) -> None:
        """Give an account mutual subscriptions; nobody may be online, nor have a roster yet."""
        for other in others:
            for owner, contact in ((one, other), (other, one)):
                self._command({"do": "befriend", "name": owner.name, "contact": contact.jid})

    def _prepare(self, port: int) -> tuple[list[str], dict[str, str]]:
        """Compile our module, write the configuration; the command, and its environment."""
        program, compiler = shutil.which("erl"), shutil.which("erlc")
        application = next(LIBRARIES.glob("*/ejabberd-*/ebin"), None)
        if program is None or compiler is None or application is None:
            raise ServerError("ejabberd is not installed: apt-get install ejabberd")
        environment = os.environ | {
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self._log_file),
            # A dump takes its time, and the log says enough.
            "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_LIBS": str(application.parents[1]),
        }
        if not (self.folder / INTERFERENCE.with_suffix(".beam").name).exists():
            subprocess.run(
                [compiler, "-Werror", "-o", self.folder, INTERFERENCE], env=environment, check=True
            )
        configuration = Path(environment["EJABBERD_CONFIG_PATH"])
        configuration.write_text(self._configuration(port), encoding="utf-8")
        places = ["-pa", str(self.folder), "-mnesia", "dir", json.dumps(str(self.data))]
        return [program, *places, *COMMAND], environment

    def _configuration(self, port: int) -> str:
        """Return the text of the configuration file."""
        wanted = [text for feature, text in MODULES.items() if feature not in self._lacking]
        return CONFIGURATION.format(
            domain=self.domain,
            rooms=self.rooms,
            host=HOST,
            port=port,
            log_level=LEVELS.get(self._log_level, self._log_level),
            archived_rooms=json.dumps("mam" not in self._lacking),
            settings="\n".join(f"{name}: {value}" for name, value in self._settings.items()),
            more_modules="\n".join(f"  {text}" for text in wanted),
        )
