"""What must be true of the evidence. Each check raises `Broken`, or says what it has looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import ParseError

from examples.rosa_and_peter.disk_checks import (
    no_text_on_disk,
    old_root_keys_are_gone,
    ratchets_are_gone,
    rows_are_empty,
    todays_keys_open_nothing_old,
)
from examples.rosa_and_peter.evidence import (
    FIVE_DAYS,
    WEEK,
    Change,
    Evidence,
    Look,
    Seen,
    spoken,
    with_text,
)
from examples.rosa_and_peter.traces import Broken, require
from examples.rosa_and_peter.wire_checks import (
    no_ephemeral_in_clear,
    no_text_in_clear,
    only_ciphertext,
)

SLACK: Final = 3.0
"""Seconds after its deadline by which a message must have disappeared, on a busy machine too."""

DRIFT: Final = 0.1
"""Seconds by which a client's clock, which never goes back, may be ahead of the machine's."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one check came out."""

    claim: str
    holds: bool
    found: str


def examine(evidence: Evidence) -> Iterator[Result]:
    """Carry out every check."""
    for claim, check in CHECKS:
        try:
            found = check(evidence)
        except Broken as broken:
            yield Result(claim, holds=False, found=str(broken))
        except ParseError as error:
            yield Result(claim, holds=False, found=f"the recorded stream is no XML: {error}")
        else:
            yield Result(claim, holds=True, found=found)


def first_has_no_timer(evidence: Evidence) -> str:
    return _timers(evidence, evidence.first, None)


def answer_has_a_week(evidence: Evidence) -> str:
    changes = _told(evidence, "Rosa")
    require(changes[:1] == [Change("Rosa", None, WEEK, "peter@example.org")], f"told: {changes}")
    return f"{_timers(evidence, evidence.answer, WEEK)}; Rosa's client has told her"


def five_days_came_without_text(evidence: Evidence) -> str:
    expected = [
        Change("Peter", WEEK, FIVE_DAYS, "rosa@example.org"),
        Change("Rosa", WEEK, FIVE_DAYS, "rosa@example.org"),
    ]
    for change in expected:
        require(change in _told(evidence, change.person), f"{change.person} was not told of it")
    for person, seen in evidence.before.items():
        require(len(seen) == 3, f"{person} has {len(seen)} messages, not 3")
    return "both clients have told of it; neither history has a message for it"


def accepted_has_five_days(evidence: Evidence) -> str:
    return _timers(evidence, evidence.accepted, FIVE_DAYS)


def everything_disappeared_in_time(evidence: Evidence) -> str:
    """Each text could be read until its deadline and not after it, and the event came in time."""
    late = []
    for person in evidence.homes:
        for text in evidence.doomed:
            life = _life(evidence, person, text)
            for look, seen in life.looks:
                where = f"{person}, message {life.number}"
                require(
                    seen.body is None or look.asked < life.deadline,
                    f"{where}: still there {look.asked - life.deadline:.2f} s after its deadline",
                )
                require(
                    seen.body is not None or look.at > life.deadline - DRIFT,
                    f"{where}: gone {life.deadline - look.at:.2f} s before its deadline",
                )
            told = [
                each.at
                for each in evidence.vanished
                if (each.person, each.number) == (person, life.number)
            ]
            require(len(told) == 1, f"{person}, message {life.number}: told {len(told)} times")
            late.append(told[0] - life.deadline)
            require(
                -DRIFT < late[-1] <= SLACK,
                f"{person}, message {life.number}: told {late[-1]:+.1f} s from its deadline",
            )
    looks = len(evidence.looks)
    return (
        f"{len(late)} copies in {looks} looks at the histories, "
        f"{min(late):.2f} to {max(late):.2f} s after their deadlines"
    )


def the_killed_kept_the_deadline(evidence: Evidence) -> str:
    """A restart neither lengthens nor shortens a life."""
    kept = []
    for text in evidence.doomed:
        life = _life(evidence, evidence.killed, text)
        before = {seen.deadline for look, seen in life.looks if look.at <= evidence.killed_at}
        after = {seen.deadline for look, seen in life.looks if look.at >= evidence.back_at}
        if not before:
            continue
        require(before == after, f"message {life.number}: deadline {before} before, {after} after")
        kept.append(life.deadline - evidence.back_at)
    require(bool(kept), f"{evidence.killed} had nothing to keep")
    require(max(kept) > 0, "the client was back after the end only: nothing is shown by that")
    return (
        f"{len(kept)} deadlines, unchanged by {evidence.back_at - evidence.killed_at:.1f} s of "
        f"absence; {max(kept):.1f} s were left on coming back"
    )


def tombstones_are_empty(evidence: Evidence) -> str:
    count = 0
    for person in evidence.homes:
        for text in evidence.doomed:
            number = _life(evidence, person, text).number
            (seen,) = [each for each in evidence.after[person] if each.number == number]
            empty = seen.body is seen.sender is seen.message_id is None
            require(empty and seen.phase == "gone", f"{person}, message {number}: not empty")
            count += 1
    return f"{count} tombstones without text, sender or id; {rows_are_empty(evidence)}"


CHECKS: Final[tuple[tuple[str, Callable[[Evidence], str]], ...]] = (
    ("Rosa's first message has no timer, on either side", first_has_no_timer),
    ("Peter's answer lives a week, also after the change", answer_has_a_week),
    ("Rosa's five days came without text", five_days_came_without_text),
    ("Peter's next message lives five days", accepted_has_five_days),
    ("No timer on the wire, but for the feature that clients advertise", no_ephemeral_in_clear),
    ("Messages on the wire hold ciphertext and nothing else", only_ciphertext),
    ("None of the texts is on the wire, in any form", no_text_in_clear),
    ("Each message disappeared at its deadline, on both sides", everything_disappeared_in_time),
    ("The killed client kept the deadlines", the_killed_kept_the_deadline),
    ("What is left are tombstones without content", tombstones_are_empty),
    ("No file of either client holds any of the texts", no_text_on_disk),
    ("A copy from before does not open with today's keys", todays_keys_open_nothing_old),
    ("The root keys of that copy are in no file any more", old_root_keys_are_gone),
    ("OMEMO's spent keys do not open either", ratchets_are_gone),
)


@dataclass(frozen=True, slots=True)
class _Life:
    """One person's copy of a message, over all looks at it."""

    number: int
    deadline: float
    looks: list[tuple[Look, Seen]]


def _life(evidence: Evidence, person: str, text: str) -> _Life:
    """Follow one person's copy of a text that was to disappear, from its reading on."""
    looks = [look for look in evidence.looks if look.person == person]
    alive = [found for look in looks if (found := with_text(look.seen, text)) is not None]
    running = [found for found in alive if found.deadline is not None]
    require(bool(running), f"{person} never saw a timer run on one of the messages")
    number, deadline = running[-1].number, running[-1].deadline
    followed = [
        (look, seen)
        for look in looks
        for seen in look.seen
        if seen.number == number and seen.deadline is not None
    ]
    return _Life(number, deadline or 0.0, followed)


def _timers(evidence: Evidence, text: str, expected: int | None) -> str:
    for person, seen in evidence.before.items():
        message = with_text(seen, text)
        require(message is not None, f"{person} does not have it")
        if message is not None:
            require(message.timer == expected, f"{person} has it with {spoken(message.timer)}")
    return f"{spoken(expected)} in both histories"


def _told(evidence: Evidence, person: str) -> list[Change]:
    return [change for change in evidence.changes if change.person == person]
