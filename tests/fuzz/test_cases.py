"""What was found once: each input that led to something, with the reason why it did.

The name of a file is the target's, and what it is about. A case of XML tells its reason itself; one
of bytes does in `REASONS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import fromstring

import pytest

from tests.fuzz.targets import NAMES, Stage, target
from tests.fuzz.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parent / "cases"
CASES: Final = sorted(path.name for path in FOLDER.iterdir())

REASONS: Final[dict[str, str]] = {
    "optouts.deeper-than-json-is-read": "A damaged opt-out of the vault raised RecursionError.",
}
"""Of cases of bytes, by the file's name."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One scene for all of them."""
    stage = Stage(Watch())
    yield stage
    stage.close()


@pytest.mark.parametrize("name", CASES)
def test_it_happens_no_more(name: str, stage: Stage) -> None:
    target(name.partition(".")[0], stage).run((FOLDER / name).read_bytes())


@pytest.mark.parametrize("name", CASES)
def test_a_case_tells_its_reason(name: str) -> None:
    assert name.partition(".")[0] in NAMES
    if name.endswith(".xml"):
        assert fromstring((FOLDER / name).read_bytes()).get("reason")  # noqa: S314 -- ours
    else:
        assert REASONS[name]


def test_what_is_alive_stays_alive(stage: Stage) -> None:
    """After all of them, somebody else's message arrives as ever."""
    stage.probe()
