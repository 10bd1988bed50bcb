"""The proofs see what they are to see: a rule that lacks one of its parts does not pass them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from eph_e2ee.model import Seconds
from eph_e2ee.protocol import agreement, echo
from eph_e2ee.protocol.agreement import Agreement, Speech
from eph_e2ee.protocol.echo import Verdict
from eph_e2ee.protocol.setting import Tag
from tests.protocol.exhausting import Search, cast
from tests.protocol.modelling import Behaviour, Broken
from tests.protocol.test_agreement_proof import STEPS, Talk

Patch = pytest.MonkeyPatch

SPEAKS, ADOPTS = Behaviour.SPEAKS, Behaviour.ADOPTS

SEARCHES = [
    ((SPEAKS, SPEAKS), 3, 0),
    ((SPEAKS, ADOPTS), 3, 1),
    ((SPEAKS, SPEAKS, ADOPTS), 2, 1),
    ((SPEAKS, ADOPTS, ADOPTS), 2, 1),
]

EXAMPLES = 40_000
"""At most: the first that is caught ends it. Which examples are tried changes with the sources, and
with what else a process has imported; one in a thousand or two shows the subtlest mistake."""


def no_echo(patch: Patch) -> None:
    """Every value that comes without a tag is a change."""
    patch.setattr(echo, "judge", lambda *_: Verdict.CHANGE)


def no_repetition(patch: Patch) -> None:
    """A device that repeats itself is not known by what it has said."""
    judge = echo.judge

    def forgetful(state: Agreement, speech: Speech, stamp: int) -> Verdict:
        heard = tuple(replace(each, announced=False) for each in state.heard)
        return judge(replace(state, heard=heard), speech, stamp)

    patch.setattr(echo, "judge", forgetful)


def no_stamps_among_tags(patch: Patch) -> None:
    """Of two changes at once the account's name decides alone."""
    rank = property(lambda tag: (tag.counter, 0, tag.author, tag.device, tag.timer or 0))
    patch.setattr(Tag, "rank", rank)


def no_stamps_for_plain_clients(patch: Patch) -> None:
    """Of two changes at once the one that is heard of later holds."""
    judge = echo.judge

    def latest(state: Agreement, speech: Speech, stamp: int) -> Verdict:
        verdict = judge(state, speech, stamp)
        return Verdict.CHANGE if verdict is Verdict.LATE else verdict

    patch.setattr(echo, "judge", latest)


def values_only(patch: Patch) -> None:
    """Another value replaces the current one, whatever the tag says."""
    patch.setattr(Tag, "rank", property(lambda tag: tag.timer or 0))


def no_past(patch: Patch) -> None:
    """A message does not tell what was set before."""
    patch.setattr(agreement, "history", lambda _: ((), ()))


def no_count(patch: Patch) -> None:
    """A change has the counter of the setting that it replaces."""
    patch.setattr(agreement, "next_counter", lambda state: state.tag.counter if state.tag else 1)


def later_defaults(patch: Patch) -> None:
    """Of two defaults the later one holds."""
    rank = property(lambda tag: (tag.counter, tag.stamp, tag.author, tag.device, tag.timer or 0))
    patch.setattr(Tag, "rank", rank)


def seen_at_once(patch: Patch) -> None:
    """Whoever says the current value has seen all there is."""
    seen = echo.newest_seen

    def rash(state: Agreement, heard: agreement.Heard, value: Seconds | None, stamp: int) -> int:
        return state.current if value == state.timer else seen(state, heard, value, stamp)

    patch.setattr(echo, "newest_seen", rash)


MUTANTS = [
    no_echo,
    no_repetition,
    no_stamps_among_tags,
    no_stamps_for_plain_clients,
    values_only,
    no_past,
    no_count,
    later_defaults,
    seen_at_once,
]


def prove() -> None:
    for behaviours, changes, words in SEARCHES:
        Search(cast(behaviours, [0] * len(behaviours)), changes=changes, words=words).run()
    run_state_machine_as_test(
        Talk,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            report_multiple_bugs=False,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_lacks_a_part_is_caught(
    mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(Broken):
        prove()
