"""Look after a vault while nobody uses it. What is due is forgotten first, but by destroy.

Data goes to standard output, talk to standard error.

Exit codes:
  0    done
  1    verify: a record does not open, or one that is gone can still be opened
  2    the command line is wrong, or the vault is not one that this can be done to
  3    the vault is in use
  4    no vault, something else, a newer version's, or the wrong root key
  5    damaged: the vault, or the file to import
  6    the disk, the database or the root key's place refused; or, purge: something
       stood in the way of compacting or scrubbing: what was due is destroyed all the same
  7    a fault of this program; standard error says where
  130  interrupted: what was begun can be repeated
"""

import argparse
import functools
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eph_e2ee.commands import actions
from eph_e2ee.commands.places import Places, add_options
from eph_e2ee.commands.showing import complain
from eph_e2ee.errors import (
    LocalError,
    LocalProtocolError,
    VaultDamaged,
    VaultForeign,
    VaultInUse,
    VaultTooNew,
    VaultUnavailable,
    WrongRootKey,
)

__all__ = ["register_vault"]

CODES: Final[tuple[tuple[type[LocalError], int], ...]] = (
    (LocalProtocolError, 2),
    (VaultInUse, 3),
    (VaultForeign, 4),
    (VaultTooNew, 4),
    (WrongRootKey, 4),
    (VaultDamaged, 5),
    (VaultUnavailable, 6),
)

FAULT: Final = 7
INTERRUPTED: Final = 130

Command = Callable[[argparse.Namespace], int]

COMMANDS: Final[dict[str, tuple[Command, str]]] = {
    "info": (actions.info, "counts, sizes, deadlines; no content"),
    "verify": (actions.verify, "does every record open, and none that is gone?"),
    "purge": (actions.purge, "forget what is due, and clean up after it"),
    "rootkey": (actions.rootkey, "keep the root key in another place"),
    "import-json": (actions.import_json, "take over a JSON file of slixmpp-omemo's"),
    "export-json": (actions.export_json, "give the OMEMO identity back to a JSON file"),
    "destroy": (actions.destroy, "destroy the whole vault for good"),
}
"""Each command with what the help says of it in a line; its docstring is the rest."""


def register_vault(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `vault` and its commands to the command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = subcommands.add_parser(
        "vault",
        help="look after a vault while nobody uses it",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _, _, codes = rest.partition("\n\n")
    for name, (run, told) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=told,
            description=inspect.getdoc(run),
            epilog=codes,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(command)
        if name in OWN_OPTIONS:
            OWN_OPTIONS[name](command)
        command.set_defaults(run=functools.partial(_guarded, run))


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("--to", choices=Places, required=True, help="the new place")
    command.add_argument(
        "--new-passphrase-file", metavar="PATH", help="as --passphrase-file, for the new one"
    )
    command.add_argument("--new-keyring", metavar="NAME", help="as --keyring, for the new one")


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="the JSON file")
    command.add_argument(
        "--erase-source",
        action="store_true",
        help="overwrite and remove the file afterwards, as well as that can be done",
    )


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="the JSON file, which is made")


def _add_consent(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask")


OWN_OPTIONS: Final[dict[str, Callable[[argparse.ArgumentParser], None]]] = {
    "rootkey": _add_places,
    "import-json": _add_source,
    "export-json": _add_target,
    "destroy": _add_consent,
}
"""What adds the options that a command has beside those of all."""


def _guarded(run: Command, options: argparse.Namespace) -> int:
    """Run a command; turn whatever it raises into a line and an exit code."""
    try:
        return run(options)
    except LocalError as error:
        complain(str(error))
        return next((code for kind, code in CODES if isinstance(error, kind)), FAULT)
    except KeyboardInterrupt:
        complain("interrupted: what was begun can be repeated")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  its text may quote what nobody may see
        complain(f"{type(error).__name__} {_place(error)}; its text is withheld")
        return FAULT


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {last.name}, {Path(last.filename).name}:{last.lineno}"
