"""Proof by a state machine: whatever happens to devices and messages, all end on one timer."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from eph_e2ee.model import BareJid, DeviceId, Seconds
from tests.protocol.modelling import Behaviour, Device
from tests.protocol.proof import DAY, Conversation

HOUR = 3600

EXAMPLES = 1000
"""For each of three machines: 3,000 in the normal run."""

FULL_EXAMPLES = 40_000
"""120,000 in the full one."""

STEPS = 25

SPANS = st.sampled_from((1, 60, HOUR, 6 * HOUR, DAY - 1, 3 * DAY, 40 * DAY))
SKEWS = st.sampled_from((0, 1, -1, HOUR, -HOUR, 5 * HOUR, -5 * HOUR))
DEFAULTS = st.sampled_from((None, None, None, Seconds(7), Seconds(8)))
PLAIN = (Behaviour.ADOPTS, Behaviour.KEEPS, Behaviour.TURNS_OFF)
INDEX = st.integers(0, 5)


class Talk(RuleBasedStateMachine):
    """Devices of up to four accounts, and everything that happens to them."""

    behaviours: tuple[Behaviour, ...] = (Behaviour.SPEAKS, Behaviour.SPEAKS, *PLAIN)
    conversation: Conversation | None = None

    @initialize(data=st.data())
    def begins(self, data: st.DataObject) -> None:
        """2 to 6 devices of 2 to 4 accounts; at least one speaks our tag."""
        count = data.draw(st.integers(2, 6))
        accounts = data.draw(st.integers(2, 4))
        devices, defaults = [], []
        for number in range(count):
            # The first accounts have one each, so that there are at least two.
            account = number if number < 2 else data.draw(st.integers(0, accounts - 1))
            behaviour = data.draw(st.sampled_from(self.behaviours)) if number else Behaviour.SPEAKS
            devices.append(
                Device(
                    BareJid(f"{account}@example.org"),
                    DeviceId(number + 1),
                    behaviour,
                    data.draw(SKEWS),
                )
            )
            defaults.append(data.draw(DEFAULTS) if devices[-1].speaks else None)
        self.count, self.conversation = count, Conversation(devices, defaults)

    @property
    def talk(self) -> Conversation:
        assert self.conversation is not None
        return self.conversation

    @rule(index=INDEX, pick=st.integers(0, 5))
    def changes(self, index: int, pick: int) -> None:
        self.talk.change(index % self.count, pick)

    @rule(index=INDEX, permanent=st.booleans())
    def says(self, index: int, *, permanent: bool) -> None:
        self.talk.say(index % self.count, permanent=permanent)

    @rule(index=INDEX, pick=INDEX, again=st.booleans())
    def arrives(self, index: int, pick: int, *, again: bool) -> None:
        self.talk.arrive(index % self.count, pick, again=again)

    @rule(index=INDEX, pick=INDEX)
    def gets_lost(self, index: int, pick: int) -> None:
        self.talk.lose(index % self.count, pick)

    @rule(index=INDEX)
    def catches_up(self, index: int) -> None:
        self.talk.catch_up(index % self.count)

    @rule(seconds=SPANS)
    def waits(self, seconds: int) -> None:
        self.talk.wait(seconds)

    @rule(index=INDEX)
    def leaves_or_returns(self, index: int) -> None:
        self.talk.leave_or_return(index % self.count)

    @rule(index=INDEX)
    def reads_its_archive_again(self, index: int) -> None:
        self.talk.replay(index % self.count)

    def teardown(self) -> None:
        if self.conversation is not None:
            self.conversation.end()


class TalkOfSpeakers(Talk):
    """All of them speak our tag."""

    behaviours = (Behaviour.SPEAKS,)


class TalkOfAdopters(Talk):
    """Most of them adopt whatever they read."""

    behaviours = (Behaviour.ADOPTS, Behaviour.ADOPTS, Behaviour.SPEAKS)


@pytest.mark.parametrize("machine", [Talk, TalkOfSpeakers, TalkOfAdopters])
def test_f22_to_f27_all_end_on_one_timer_that_somebody_set(
    machine: type[Talk],
    full: bool,  # noqa: FBT001 - a fixture
) -> None:
    """F22, F23, F24, F25, F26, F27, F29: see `modelling` and `proof` for what is checked."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=FULL_EXAMPLES if full else EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
