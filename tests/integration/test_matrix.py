"""The README's table of who can talk to whom, beside what really happens on each server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.matrix import COLUMNS, measured, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Account, Server

pytestmark = pytest.mark.integration

README = Path(__file__).parent.parent.parent / "README.md"
SECTION = "## Who you can talk to"


def told() -> list[str]:
    """The lines of the table as the README has it."""
    _, _, section = README.read_text(encoding="utf-8").partition(f"\n{SECTION}\n")
    lines = section.partition("\n## ")[0].splitlines()
    return [line for line in lines if line.startswith("|")]


@pytest.mark.core
async def test_the_table_of_the_readme_is_what_happens(
    server: Server, account: Callable[[str], Account], tmp_path: Path
) -> None:
    """F31, F39, F40, F41: every cell, and that nothing of ours ever goes in clear.

    `python -m tests.integration.matrix` prints what it should be.
    """
    table = told()
    assert table[0] == f"| {' | '.join(COLUMNS)} |"
    assert written(await measured(server, account, tmp_path)) == table
