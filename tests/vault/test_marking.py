"""What others tell of messages: reads that wait, reads that count, and how far ours have come."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import update

from eph_e2ee.model import Direction, Phase
from eph_e2ee.protocol.lifetime import Event
from eph_e2ee.vault import marking
from eph_e2ee.vault.database import messages
from eph_e2ee.vault.marking import (
    Heard,
    Waiting,
    is_read_until,
    last_read,
    mark_read,
)
from eph_e2ee.vault.records import Records
from tests.vault.making import MINUTE, PETER, ROSA, adding, new_message, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from eph_e2ee.model import Entry
    from eph_e2ee.vault.archive import Transaction
    from eph_e2ee.vault.vault import Vault
    from tests.support.clock import ManualClock


def waits(*reads: tuple[str, float | None], before: bool = False) -> Callable[[Transaction], None]:
    """A work that lets reads wait."""

    def work(vault: Transaction) -> None:
        waiting = Waiting(vault)
        for name, at in reads:
            waiting.add(name, Heard(at, before))
        waiting.write()

    return work


def takes(*names: str) -> Callable[[Transaction], list[float | None]]:
    """A work that asks for the reads of a message with these ids, and for when they were."""
    return lambda vault: [heard.at for heard in takes_all(*names)(vault)]


def takes_all(*names: str) -> Callable[[Transaction], list[Heard]]:
    """A work that asks for the reads of a message with these ids."""

    def work(vault: Transaction) -> list[Heard]:
        waiting = Waiting(vault)
        found = waiting.take(names)
        waiting.write()
        return found

    return work


def arriving(text: str, sent_at: float) -> Callable[[Transaction], int]:
    """A work that adds an unread message; returns its number."""
    message = new_message(text)
    content = replace(message.content, sent_at=sent_at)
    return lambda vault: vault.add(replace(message, content=content)).number


def reads(number: int, at: float, *, before: bool = False) -> Callable[[Transaction], None]:
    return lambda vault: mark_read(vault, number, at, before=before)


def ours(text: str = "ours", *, sent: bool = True) -> Callable[[Transaction], int]:
    """A work that adds a message of ours; returns its number."""

    def work(vault: Transaction) -> int:
        number = vault.add(new_message(text, direction=Direction.OUTGOING)).number
        if sent:
            vault.note_sent(number, vault.now())
        return number

    return work


def entry(vault: Vault, number: int) -> Entry:
    found = vault.transact_sync(lambda tx: tx.entry(number))
    assert found is not None
    return found


def spoil(vault: Vault, number: int) -> None:
    statement = update(messages).where(messages.c.number == number)
    vault.transact_sync(lambda tx: tx.change(statement, {"sealed_key": b"spoiled" * 9}))


# -- reads that wait -------------------------------------------------------------------------------


def test_a_read_waits_for_its_message_also_across_the_end_of_the_process(
    folder: Path, clock: ManualClock
) -> None:
    """F20."""
    vault = opened(folder, clock)
    vault.transact_sync(waits(("one", 1.5), ("two", 2.5)))
    vault.close_sync()
    again = opened(folder, clock)
    assert again.transact_sync(takes("nobody's")) == []
    assert again.transact_sync(takes("another", "one")) == [1.5]
    assert again.transact_sync(takes("one")) == []
    assert again.transact_sync(takes("two")) == [2.5]
    assert again.transact_sync(lambda tx: tx.value(marking.WAITING)) is None
    again.close_sync()


def test_of_two_reads_the_earlier_counts(vault: Vault) -> None:
    vault.transact_sync(waits(("one", 5.0), ("one", 3.0), ("two", 3.0)))
    vault.transact_sync(waits(("one", 9.0), ("two", 1.0)))
    assert vault.transact_sync(takes("one")) == [3.0]
    assert vault.transact_sync(takes("two")) == [1.0]


def test_a_read_whose_time_is_known_counts_before_one_whose_time_is_not(vault: Vault) -> None:
    vault.transact_sync(waits(("one", None), ("two", 5.0), ("three", None)))
    vault.transact_sync(waits(("one", 5.0), ("two", None), ("three", None)))
    assert [vault.transact_sync(takes(each)) for each in ("one", "two", "three")] == [
        [5.0],
        [5.0],
        [None],
    ]


def test_a_read_of_all_before_waits_beside_one_of_a_message_alone(vault: Vault) -> None:
    """F18: nobody has said that those before it were read as early as it was itself."""
    vault.transact_sync(waits(("one", 3.0)))
    vault.transact_sync(waits(("one", 9.0), before=True))
    assert vault.transact_sync(takes_all("one")) == [Heard(3.0), Heard(9.0, before=True)]
    assert vault.transact_sync(lambda tx: tx.value(marking.WAITING)) is None


def test_a_message_with_two_ids_takes_both_reads_along(vault: Vault) -> None:
    vault.transact_sync(waits(("id", 5.0), ("archive", 3.0)))
    assert vault.transact_sync(takes("id", "archive")) == [5.0, 3.0]
    assert vault.transact_sync(lambda tx: tx.value(marking.WAITING)) is None


def test_of_too_many_reads_the_oldest_is_given_up(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "MAXIMUM_WAITING", 3)
    vault.transact_sync(waits(("one", 1.0), ("two", 2.0), ("three", 3.0), ("one", 9.0)))
    vault.transact_sync(waits(("four", 4.0)))
    assert vault.transact_sync(takes("two")) == []
    found = [vault.transact_sync(takes(name)) for name in ("one", "three", "four")]
    assert found == [[1.0], [3.0], [4.0]]


def test_the_list_is_bounded_however_many_reads_come(vault: Vault) -> None:
    bound = marking.MAXIMUM_WAITING
    vault.transact_sync(waits(*((f"{number}", 1.0) for number in range(bound + 7))))
    found = vault.transact_sync(lambda tx: Waiting(tx)._reads)
    assert list(found) == [f"{number}" for number in range(7, bound + 7)]


def test_nothing_is_written_where_nothing_waits(vault: Vault) -> None:
    assert vault.transact_sync(takes("one")) == []
    assert vault.transact_sync(lambda tx: tx.value(marking.WAITING)) is None
    vault.transact_sync(waits(("one", 1.0)))
    assert not vault.unsettled
    assert vault.transact_sync(takes("two")) == []
    assert not vault.unsettled  # the old value would have had to be forgotten


def test_f38_a_damaged_list_stops_no_message(
    vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """F38: it is told, and left as it is until another read waits."""
    for text in ("", "[]", "{", '{"one": "x"}', '{"one": []}', "7"):
        vault.transact_sync(partial(Records.put_value, key=marking.WAITING, text=text))
        caplog.clear()

        def work(tx: Transaction, text: str = text) -> None:
            waiting = Waiting(tx)
            assert waiting.take(["one"]) == []
            waiting.write()
            assert tx.value(marking.WAITING) == text

        vault.transact_sync(work)
        assert "damaged" in caplog.text


# -- reads that count ------------------------------------------------------------------------------


def test_a_read_elsewhere_starts_the_timer_when_it_was_read(
    vault: Vault, clock: ManualClock
) -> None:
    number = vault.transact_sync(adding())
    at = clock.now() - 20
    vault.transact_sync(reads(number, at))
    assert (entry(vault, number).phase, entry(vault, number).deadline) == (
        Phase.RUNNING,
        int(at) + MINUTE,
    )
    vault.transact_sync(reads(number, at + 10))
    assert entry(vault, number).deadline == int(at) + MINUTE
    vault.transact_sync(reads(number, at - 10))
    assert entry(vault, number).deadline == int(at) - 10 + MINUTE


def test_f21_one_that_was_read_long_ago_is_gone_at_once(vault: Vault) -> None:
    number = vault.transact_sync(adding())
    vault.transact_sync(reads(number, 0.0))
    assert (entry(vault, number).phase, entry(vault, number).content) == (Phase.GONE, None)


def test_reads_of_what_cannot_be_read_do_nothing(vault: Vault, clock: ManualClock) -> None:
    """Unknown, gone, erased, and our own."""
    gone, erased = vault.transact_sync(adding("gone")), vault.transact_sync(adding("erased"))
    vault.transact_sync(reads(gone, 0.0))
    vault.transact_sync(lambda tx: tx.erase(erased))
    sent, unsent = vault.transact_sync(ours()), vault.transact_sync(ours(sent=False))
    numbers = (gone, erased, sent, unsent)
    before = [entry(vault, number) for number in numbers]
    for number in (*numbers, 0, 99):
        vault.transact_sync(reads(number, clock.now(), before=True))
    assert [entry(vault, number) for number in numbers] == before
    assert vault.transact_sync(lambda tx: tx.entry(99)) is None


def test_a_marker_covers_the_unread_ones_before_it_and_nothing_else(
    vault: Vault, clock: ManualClock
) -> None:
    """XEP-0333: in its own conversation; F18: what came later was not seen."""
    at = clock.now()
    running, first, second = (vault.transact_sync(adding(each)) for each in ("0", "1", "2"))
    vault.transact_sync(reads(running, at - 30))
    other = vault.transact_sync(lambda tx: tx.add(new_message(conversation=PETER)).number)
    waiting = vault.transact_sync(ours(sent=False))
    marked, later = vault.transact_sync(adding("3")), vault.transact_sync(adding("4"))
    vault.transact_sync(reads(marked, at, before=True))
    found = {number: entry(vault, number) for number in range(1, later + 1)}
    assert found[running].deadline == int(at) - 30 + MINUTE
    assert [found[each].deadline for each in (first, second, marked)] == [int(at) + MINUTE] * 3
    assert [found[each].phase for each in (other, waiting, later)] == [
        Phase.UNREAD,
        Phase.UNSENT,
        Phase.UNREAD,
    ]


def test_a_read_covers_what_it_names_alone(vault: Vault, clock: ManualClock) -> None:
    first, second = vault.transact_sync(adding("1")), vault.transact_sync(adding("2"))
    vault.transact_sync(reads(second, clock.now()))
    assert [entry(vault, number).phase for number in (first, second)] == [
        Phase.UNREAD,
        Phase.RUNNING,
    ]


def test_a_marker_on_one_that_is_gone_still_covers_those_before_it(vault: Vault) -> None:
    first, second = vault.transact_sync(adding("1")), vault.transact_sync(adding("2"))
    vault.transact_sync(lambda tx: tx.erase(second))
    vault.transact_sync(lambda tx: mark_read(tx, second, tx.now(), before=True))
    assert entry(vault, first).phase is Phase.RUNNING


def test_f38_a_damaged_row_stops_no_other(vault: Vault, clock: ManualClock) -> None:
    numbers = [vault.transact_sync(adding(f"{number}")) for number in range(4)]
    spoil(vault, numbers[1])
    spoil(vault, numbers[3])
    vault.transact_sync(reads(numbers[3], clock.now()))
    vault.transact_sync(reads(numbers[2], clock.now(), before=True))
    assert [entry(vault, numbers[each]).phase for each in (0, 2)] == [Phase.RUNNING] * 2


def test_a_marker_looks_back_so_far_and_no_further(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "MAXIMUM_BEFORE", 2)
    numbers = [vault.transact_sync(adding(f"{number}")) for number in range(4)]
    vault.transact_sync(lambda tx: mark_read(tx, numbers[3], tx.now(), before=True))
    phases = [entry(vault, number).phase for number in numbers]
    assert phases == [Phase.UNREAD, *[Phase.RUNNING] * 3]


def test_f18_displayed_up_to_here_is_said_only_if_it_is_true(vault: Vault) -> None:
    numbers = [vault.transact_sync(arriving(f"{number}", number)) for number in range(3)]
    vault.transact_sync(ours(sent=False))
    vault.transact_sync(lambda tx: tx.add(new_message(conversation=PETER)))

    def true(number: int) -> bool:
        return vault.transact_sync(lambda tx: is_read_until(tx, ROSA, number))

    def read(number: int) -> None:
        vault.transact_sync(lambda tx: tx.apply(number, Event.READ, tx.now()))

    read(numbers[1])
    assert [true(number) for number in numbers] == [False, False, False]
    read(numbers[0])
    assert [true(number) for number in numbers] == [True, True, False]
    vault.transact_sync(lambda tx: tx.erase(numbers[2]))
    assert true(numbers[2])
    assert vault.transact_sync(lambda tx: is_read_until(tx, PETER, 99)) is False
    assert vault.transact_sync(lambda tx: is_read_until(tx, PETER, numbers[0])) is False


def test_f18_what_comes_late_may_have_been_sent_before(vault: Vault) -> None:
    """Out of an archive: no marker covers it, and none is said that would."""
    first, last = (vault.transact_sync(arriving(f"{at}", at)) for at in (1, 9))
    late, later = (vault.transact_sync(arriving(f"{at}", at)) for at in (5, 10))
    vault.transact_sync(lambda tx: mark_read(tx, last, tx.now(), before=True))
    phases = [entry(vault, number).phase for number in (first, last, late, later)]
    assert phases == [Phase.RUNNING, Phase.RUNNING, Phase.UNREAD, Phase.UNREAD]
    true = partial(is_read_until, conversation=ROSA)
    assert [vault.transact_sync(partial(true, number=each)) for each in (first, last)] == [
        True,
        False,
    ]
    vault.transact_sync(lambda tx: mark_read(tx, late, tx.now(), before=False))
    assert vault.transact_sync(partial(true, number=last))
    skewed = vault.transact_sync(arriving("by a clock that is ahead", 99))
    marked = vault.transact_sync(arriving("by another one", 11))
    vault.transact_sync(lambda tx: mark_read(tx, marked, tx.now(), before=True))
    assert entry(vault, skewed).phase is Phase.UNREAD


def test_displayed_reaches_as_far_as_it_is_true(vault: Vault) -> None:
    """Messages are read in any order: the one in the way may be read after later ones."""
    numbers = [vault.transact_sync(arriving(f"{number}", number)) for number in range(5)]
    vault.transact_sync(ours())

    def last(number: int) -> int | None:
        return vault.transact_sync(lambda tx: last_read(tx, ROSA, number))

    for each in (1, 2, 4):
        vault.transact_sync(reads(numbers[each], vault.transact_sync(lambda tx: tx.now())))
    assert last(numbers[2]) is None
    vault.transact_sync(lambda tx: mark_read(tx, numbers[0], tx.now(), before=False))
    assert [last(numbers[each]) for each in (0, 1, 2)] == [numbers[2]] * 3
    assert last(numbers[4]) is None
    vault.transact_sync(lambda tx: tx.erase(numbers[3]))
    assert last(numbers[0]) == numbers[4]
    vault.transact_sync(lambda tx: tx.erase(numbers[4]))
    assert last(numbers[0]) == numbers[2]
