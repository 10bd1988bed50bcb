"""The demo: it holds on the real thing, and each of its checks fails when its claim is broken."""

import asyncio
import copy
import math
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from examples.rosa_and_peter import actor, checks
from examples.rosa_and_peter.__main__ import report
from examples.rosa_and_peter.checks import CHECKS
from examples.rosa_and_peter.evidence import FIVE_DAYS, Evidence, Look, Seen
from examples.rosa_and_peter.screen import PlainScreen
from examples.rosa_and_peter.story import Pace, play
from examples.rosa_and_peter.traces import PIECE, Broken, forms, traces

pytestmark = pytest.mark.integration

OUTER = b'<ephemeral xmlns="urn:xmpp:ephemeral:0" timer="5"/>'

Doctor = Callable[[Evidence], None]


PATIENCE: Final = 60.0
"""Seconds for an answer, also of a machine that has to do much else or stands still for a while."""

BEAT: Final = 0.1
"""Seconds between two looks at whether the machine stands still."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """One run of the whole demo; nobody changes it.

    Where the machine has stood still, a client may be late by as much more.
    """
    folder, ended = tmp_path_factory.mktemp("demo"), threading.Event()
    with ThreadPoolExecutor(1) as beside, pytest.MonkeyPatch.context() as patch:
        patch.setattr(actor, "PATIENCE", PATIENCE)
        longest = beside.submit(standstill, ended)
        try:
            evidence = asyncio.run(play(folder, PlainScreen(), pace()))
        finally:
            ended.set()
        patch.setattr(checks, "SLACK", checks.SLACK + longest.result())
        yield evidence


def pace() -> Pace:
    """As fast as this machine can: the killed client is to come back before its messages end.

    It has three quarters of the timer for that: three times what its imports take, and some seconds
    in which the machine may stand still.
    """
    begun = time.monotonic()
    imports = [sys.executable, "-c", "import examples.rosa_and_peter.person"]
    subprocess.run(imports, cwd=actor.CHECKOUT, check=True)
    return Pace(timer=14 + math.ceil(4 * (time.monotonic() - begun)))


def standstill(ended: threading.Event) -> float:
    """For how many seconds, at most, this process did not run until it was told to end."""
    longest, before = 0.0, time.time()
    while not ended.wait(BEAT):
        now = time.time()
        longest, before = max(longest, now - before - BEAT), now
    return longest


@pytest.fixture
def evidence(played: Evidence, tmp_path: Path) -> Evidence:
    """What was seen, with files of its own, to be doctored."""
    own = copy.deepcopy(played)
    for name, folders in (("home", own.homes), ("copy", own.copies)):
        for person, folder in folders.items():
            folders[person] = shutil.copytree(folder, tmp_path / f"{name}-{person}")
    return own


def test_everything_holds(played: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    """F12, F14, F20, F31 to F33, F37, from real data."""
    assert report(played, PlainScreen()) == 0
    shown = capsys.readouterr().out
    assert shown.count("ok     ") == len(CHECKS)
    assert "FAILED" not in shown


def test_a_broken_claim_is_shown_and_ends_with_1(
    evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_outer_element(evidence)
    assert report(evidence, PlainScreen()) == 1
    assert "FAILED No timer on the wire" in capsys.readouterr().out


# -- on the wire -------------------------------------------------------------------------------


def leave_outer_element(evidence: Evidence) -> None:
    """F31: as if sending had left the element beside the ciphertext."""
    alter_sent(evidence, b"<origin-id ", OUTER + b"<origin-id ")


def leave_unfinished_stanza(evidence: Evidence) -> None:
    sent = evidence.recordings["Peter"].sent
    record(evidence, "Peter", sent.removesuffix(b"</stream:stream>") + b"<message>" + OUTER[:20])


def leave_other_attribute(evidence: Evidence) -> None:
    alter_sent(evidence, b"<store ", b'<store ephemeral="5" ')


def leave_clear_body(evidence: Evidence) -> None:
    """F39."""
    alter_sent(evidence, b"<origin-id ", b"<body>***</body><origin-id ")


def leave_text_beside_the_keys(evidence: Evidence) -> None:
    alter_sent(evidence, b"<payload>", b"<note>five days</note><payload>")


def leave_base64_text(evidence: Evidence) -> None:
    *_, (_, encoded) = forms(evidence.doomed[0])
    alter_sent(evidence, b"<payload>", b"<payload>" + encoded)


def alter_sent(evidence: Evidence, old: bytes, new: bytes) -> None:
    sent = evidence.recordings["Rosa"].sent
    assert old in sent
    record(evidence, "Rosa", sent.replace(old, new, 1))


def record(evidence: Evidence, person: str, sent: bytes) -> None:
    evidence.recordings[person] = replace(evidence.recordings[person], sent=sent)


# -- on the disk -------------------------------------------------------------------------------


def put_root_keys_back(evidence: Evidence) -> None:
    """As if an erasure had left the root key as it was."""
    for person, home in evidence.homes.items():
        shutil.copy(evidence.copies[person] / "root.key", home / "vault" / "root.key")


def lose_copied_root_keys(evidence: Evidence) -> None:
    """A copy that opens with nothing shows nothing."""
    for folder in evidence.copies.values():
        (folder / "root.key").unlink()


def leave_text_in_log(evidence: Evidence) -> None:
    """F10: a piece of it is enough."""
    append(evidence.homes["Rosa"] / "client.log", evidence.doomed[0][5 : 5 + PIECE].encode())


def leave_text_in_database(evidence: Evidence) -> None:
    append(evidence.homes["Peter"] / "vault" / "vault.db", evidence.first.encode("utf-16-be"))


def leave_ciphertext_in_rows(evidence: Evidence) -> None:
    path = evidence.homes["Peter"] / "vault" / "vault.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE messages SET content = x'00' WHERE phase = 4")


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


# -- in the histories --------------------------------------------------------------------------


def come_early(evidence: Evidence) -> None:
    """F18: also where it has come as late as it may."""
    first = evidence.vanished[0]
    evidence.vanished[0] = replace(first, at=first.at - checks.SLACK - 2)


def come_late(evidence: Evidence) -> None:
    last = evidence.vanished[-1]
    evidence.vanished[-1] = replace(last, at=last.at + checks.SLACK + 2)


def never_come(evidence: Evidence) -> None:
    """F17."""
    evidence.vanished.pop()


def show_after_the_deadline(evidence: Evidence) -> None:
    """F15: the last look that saw the text is moved behind its deadline."""
    text = evidence.doomed[0]
    number, deadline = max(
        (number, seen.deadline)
        for number, look in enumerate(evidence.looks)
        for seen in look.seen
        if seen.body == text and seen.deadline is not None
    )
    move(evidence, number, deadline + 2)


def vanish_before_the_deadline(evidence: Evidence) -> None:
    """The first look that saw a message gone is moved before its deadline."""
    number, deadline = min(
        (number, seen.deadline)
        for number, look in enumerate(evidence.looks)
        for seen in look.seen
        if seen.phase == "gone" and seen.deadline is not None
    )
    move(evidence, number, deadline - 2)


def move(evidence: Evidence, number: int, at: float) -> None:
    """Have a look taken at another time."""
    evidence.looks[number] = replace(evidence.looks[number], asked=at, at=at)


def start_again_after_the_kill(evidence: Evidence) -> None:
    """F20: deadlines that a restart has moved."""

    def later(seen: Seen) -> Seen:
        return seen if seen.deadline is None else replace(seen, deadline=seen.deadline + 2)

    evidence.looks = [
        replace(look, seen=tuple(map(later, look.seen)))
        if look.person == evidence.killed and look.at >= evidence.back_at
        else look
        for look in evidence.looks
    ]


def keep_a_sender(evidence: Evidence) -> None:
    evidence.after["Rosa"] = tuple(
        replace(seen, sender="peter@example.org") for seen in evidence.after["Rosa"]
    )


def change_older_message(evidence: Evidence) -> None:
    evidence.before["Rosa"] = with_timer(evidence.before["Rosa"], evidence.answer, FIVE_DAYS)


def lose_the_timer(evidence: Evidence) -> None:
    """F24."""
    evidence.before["Peter"] = with_timer(evidence.before["Peter"], evidence.accepted, None)


def start_with_a_timer(evidence: Evidence) -> None:
    evidence.before["Rosa"] = with_timer(evidence.before["Rosa"], evidence.first, FIVE_DAYS)


def tell_nobody(evidence: Evidence) -> None:
    evidence.changes = [change for change in evidence.changes if change.new != FIVE_DAYS]


def with_timer(seen: Iterable[Seen], text: str, timer: int | None) -> tuple[Seen, ...]:
    return tuple(replace(each, timer=timer) if each.body == text else each for each in seen)


ON_THE_WIRE = "No timer on the wire, but for the feature that clients advertise"
CIPHERTEXT = "Messages on the wire hold ciphertext and nothing else"
IN_TIME = "Each message disappeared at its deadline, on both sides"
TOMBSTONES = "What is left are tombstones without content"
ON_THE_DISK = "No file of either client holds any of the texts"
COPY = "A copy from before does not open with today's keys"


@pytest.mark.parametrize(
    ("doctor", "claim", "found"),
    [
        (leave_outer_element, ON_THE_WIRE, "a <message/> with the word in clear"),
        (leave_unfinished_stanza, ON_THE_WIRE, "the word . times, advertised"),
        (leave_other_attribute, ON_THE_WIRE, "a <message/> with the word in clear"),
        (leave_outer_element, CIPHERTEXT, "ephemeral in clear"),
        (leave_clear_body, CIPHERTEXT, "body in clear"),
        (leave_text_beside_the_keys, CIPHERTEXT, "holds more than ciphertext"),
        (leave_base64_text, "None of the texts is on the wire, in any form", "as base64"),
        (put_root_keys_back, COPY, "of them open with the copied key file"),
        (put_root_keys_back, "The root keys of that copy are in no file any more", "root.key"),
        (put_root_keys_back, "OMEMO's spent keys do not open either", "overwritten values open"),
        (lose_copied_root_keys, COPY, "not even its own keys open the copy"),
        (leave_text_in_log, ON_THE_DISK, "client.log: text 4 as UTF-8"),
        (leave_text_in_database, ON_THE_DISK, "vault.db: text 1 as UTF-16"),
        (leave_ciphertext_in_rows, TOMBSTONES, "is not empty"),
        (keep_a_sender, TOMBSTONES, "Rosa, message"),
        (come_early, IN_TIME, "s from its deadline"),
        (come_late, IN_TIME, "s from its deadline"),
        (never_come, IN_TIME, "told 0 times"),
        (show_after_the_deadline, IN_TIME, r"still there 2\.00 s after"),
        (vanish_before_the_deadline, IN_TIME, r"gone 2\.00 s before"),
        (start_again_after_the_kill, "The killed client kept the deadlines", "deadline"),
        (start_with_a_timer, "Rosa's first message has no timer, on either side", "5 days"),
        (change_older_message, "Peter's answer lives a week, also after the change", "5 days"),
        (tell_nobody, "Rosa's five days came without text", "Peter was not told"),
        (lose_the_timer, "Peter's next message lives five days", "no timer"),
    ],
)
def test_a_check_fails_when_its_claim_is_broken(
    evidence: Evidence, doctor: Doctor, claim: str, found: str
) -> None:
    check = dict(CHECKS)[claim]
    doctor(evidence)
    with pytest.raises(Broken, match=found):
        check(evidence)


def test_every_form_and_every_piece_is_found() -> None:
    text = "It's under the third flowerpot — <really>"
    for name, form in forms(text):
        assert traces(b"...." + form + b"....", [text]), name
        assert traces(b"...." + form[3 : 3 + PIECE] + b"....", [text]), name
    assert traces(b"It was below the second flowerbed", [text]) == []


def test_a_look_is_of_one_person(played: Evidence) -> None:
    """The looks are those of both, before, while and after one of them was away."""

    def at(person: str) -> list[Look]:
        return [look for look in played.looks if look.person == person]

    assert any(look.at < played.killed_at for look in at("Peter"))
    assert any(look.at > played.back_at for look in at("Peter"))
    assert not any(played.killed_at < look.at < played.back_at for look in at("Peter"))
    assert any(played.killed_at < look.at < played.back_at for look in at("Rosa"))
