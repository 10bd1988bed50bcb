"""A vault for the operator's commands, and how a test runs one in its own process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from eph_e2ee.cli import main
from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock, ManualSource
from tests.vault.making import PETER, add_read, adding, new_message

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from eph_e2ee.vault.rootkey import RootKey

__all__ = ["COMMANDS", "arguments", "identity", "run", "with_vault"]

COMMANDS: Final = ("info", "verify", "purge", "rootkey", "import-json", "export-json", "destroy")


def with_vault(folder: Path, source: ManualSource, root_key: RootKey | None = None) -> None:
    """Make a vault with four messages: unread, running, erased, and one of another conversation."""
    vault = Vault.open(folder, clock=ManualClock(source), root_key=root_key)
    vault.transact_sync(adding())
    vault.transact_sync(lambda transaction: add_read(transaction, message_id="running"))
    number = vault.transact_sync(adding(message_id="erased"))
    vault.transact_sync(lambda transaction: transaction.erase(number))
    vault.transact_sync(lambda transaction: transaction.add(new_message(conversation=PETER)))
    vault.transact_sync(lambda transaction: transaction.put_value("sentinel", "a value"))
    vault.close_sync()


def arguments(command: str, folder: Path) -> list[str]:
    """A command with all that it needs."""
    more = {
        "rootkey": ["--to", "file"],
        "import-json": [str(folder.parent / "bot.json")],
        "export-json": [str(folder.parent / "exported.json")],
        "destroy": ["--yes"],
    }
    return ["vault", command, str(folder), *more.get(command, [])]


def identity(folder: Path) -> Path:
    """A JSON file with the least that is an identity."""
    path = folder.parent / "bot.json"
    values = {
        "/own_device_id": 7,
        "/ikp/is_seed": True,
        "/ikp/key": "A" * 43 + "=",
        "/devices/rosa@example.org/list": [7],
        "/devices/rosa@example.org/7/namespaces": ["urn:xmpp:omemo:2"],
        "/urn:xmpp:omemo:2/x3dh": {},
    }
    path.write_text(json.dumps(values))
    return path


def run(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it wrote."""
    code = main(list(command))
    out, err = capsys.readouterr()
    return code, out, err
