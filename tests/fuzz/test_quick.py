"""Some inputs for each target in every run; `python -m tests.fuzz` tries millions.

They are the same ones each time, so that a run fails by what has changed, and not by chance; with
`--full` they are others each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.pure import PURE
from tests.fuzz.staged import STAGED
from tests.fuzz.strategies import materials
from tests.fuzz.targets import Stage, target
from tests.fuzz.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES: Final = 100
STAGED_EXAMPLES: Final = 16
"""Each goes through a client, a vault and true sessions."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One scene for all targets that need one."""
    stage = Stage(Watch())
    yield stage
    stage.close()


@pytest.mark.parametrize("name", PURE)
def test_a_peers_bytes_are_taken_or_refused(name: str) -> None:
    """And nothing else: no other exception, no line in a log, no long work."""
    fuzzed = target(name)

    @settings(max_examples=EXAMPLES)
    @given(materials(fuzzed))
    def check(material: bytes) -> None:
        fuzzed.run(material)

    check()


@pytest.mark.parametrize("name", STAGED)
def test_whatever_arrives_nothing_escapes(name: str, stage: Stage) -> None:
    """Nothing is raised, answered with an error, or logged but by the names of classes."""
    fuzzed = target(name, stage)
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(max_examples=STAGED_EXAMPLES, suppress_health_check=health)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        fuzzed.run(data.draw(materials(fuzzed)))

    check()


def test_nothing_is_kept_without_a_limit(stage: Stage) -> None:
    """What the targets before have left in the objects that live as long as the chat."""
    stage.probe()
    assert stage.census.sizes
    assert stage.census.excessive == {}
