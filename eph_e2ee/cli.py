"""The eph-e2ee command: data to standard output, talk to standard error.

Exit codes:
  0    done
  1    it could not be done; standard error says why, and what to do
  2    the command line is wrong
  125  `hardened` could not harden; nothing was run
  126  the program cannot be started
  127  the program is not there
A program that `hardened` has started ends with an exit code of its own, and the commands of
`vault` have more: `eph-e2ee vault --help` tells them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from eph_e2ee.commands.vault import register_vault
from eph_e2ee.errors import EphemeralError, LocalError
from eph_e2ee.hardening import run_hardened

__all__ = ["REGISTRATIONS", "Subcommands", "main"]

PROGRAM: Final = "eph-e2ee"

FAILED: Final = 1
CANNOT_HARDEN: Final = 125
CANNOT_START: Final = 126
NOT_FOUND: Final = 127

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  it has no public name
"""What a registration adds to. It sets `run`, a function of the options that returns a code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: those of this process by default.

    Raises:
        SystemExit: the command line is wrong, or it asked for help.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except EphemeralError as error:
        return _failed(str(error), FAILED)
    except KeyboardInterrupt:
        return FAILED


def _parser() -> argparse.ArgumentParser:
    summary, _, codes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=summary,
        epilog=codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    for register in REGISTRATIONS:
        register(subcommands)
    return parser


def _register_hardened(subcommands: Subcommands) -> None:
    parser = subcommands.add_parser(
        "hardened",
        usage=f"{PROGRAM} hardened -- COMMAND [ARGUMENT ...]",
        help="run a program whose freed memory is wiped (Linux with glibc)",
        description="Run a program without core dumps and with its freed memory wiped. "
        "Linux with glibc only: elsewhere nothing is run.",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=lambda options: _run_hardened(parser, options.command))


def _run_hardened(parser: argparse.ArgumentParser, given: list[str]) -> int:
    command = given[1:] if given[:1] == ["--"] else given
    if not command:
        parser.error("which program?")
    try:
        run_hardened(command)
    except LocalError as error:
        return _failed(str(error), CANNOT_HARDEN)
    except FileNotFoundError:
        return _failed(f"{command[0]}: no such program", NOT_FOUND)
    except OSError as error:
        return _failed(f"{command[0]}: {error.strerror}", CANNOT_START)


def _failed(why: str, code: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {why}\n")
    return code


REGISTRATIONS: Final[tuple[Callable[[Subcommands], None], ...]] = (
    _register_hardened,
    register_vault,
)
"""Each adds its commands; those of another module are named here too."""
