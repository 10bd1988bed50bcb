"""Which device can read what, from what has been seen of it."""

import pytest

from eph_e2ee.protocol.capability import Answer, Capability, DeviceFacts, assess, is_marked


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        (DeviceFacts(), Answer.NO),
        (DeviceFacts(listed_legacy=True), Answer.NO),
        (DeviceFacts(listed_legacy=True, marked=True), Answer.NO),
        (DeviceFacts(listed=True), Answer.YES),
        (DeviceFacts(listed=True, listed_legacy=True), Answer.UNKNOWN),
        (DeviceFacts(listed=True, listed_legacy=True, marked=True), Answer.YES),
        (DeviceFacts(listed=True, listed_legacy=True, sent_envelope=True), Answer.YES),
        (DeviceFacts(sent_envelope=True), Answer.YES),
    ],
)
def test_a_device_reads_envelopes_only_for_a_reason(facts: DeviceFacts, answer: Answer) -> None:
    """F39, F40: slixmpp-omemo is in both lists and reads none."""
    assert assess(facts).reads_sce is answer


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        (DeviceFacts(), Answer.UNKNOWN),
        (DeviceFacts(listed=True, sent_envelope=True), Answer.UNKNOWN),
        (DeviceFacts(advertised=True), Answer.YES),
        (DeviceFacts(advertised=False), Answer.NO),
        (DeviceFacts(advertised=False, sent_timer=True), Answer.YES),
        (DeviceFacts(marked=True), Answer.YES),
        (DeviceFacts(marked=True, advertised=False), Answer.NO),
        (DeviceFacts(marked=True, advertised=False, sent_timer=True), Answer.YES),
    ],
)
def test_a_device_honours_timers_when_it_says_or_shows_so(
    facts: DeviceFacts, answer: Answer
) -> None:
    assert assess(facts).honours_timers is answer


def test_nothing_known_is_nothing_promised() -> None:
    assert assess(DeviceFacts()) == Capability(Answer.NO, Answer.UNKNOWN)


@pytest.mark.parametrize(
    ("label", "ours"),
    [(None, False), ("", False), ("Kaidan", False), ("eph_e2ee", True), ("bot (eph_e2ee)", True)],
)
def test_our_label(label: str | None, ours: bool) -> None:  # noqa: FBT001 -- a case, no switch
    assert is_marked(label) is ours
