"""The harness itself: that it would see what it looks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from tests.fuzz import watching
from tests.fuzz.campaign import Campaign, Report
from tests.fuzz.census import USUAL, Census
from tests.fuzz.guided import main
from tests.fuzz.source import Source
from tests.fuzz.targets import NAMES, Stage, Target, target
from tests.fuzz.trees import expanded, read
from tests.fuzz.watching import Found, Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ours = logging.getLogger("eph_e2ee.example")
theirs = logging.getLogger("slixmpp.example")


def watched(deed: Callable[[], Any]) -> str:
    """The signature of what a deed leads to; empty for nothing."""
    try:
        with Watch().watching():
            deed()
    except Found as found:
        return found.signature
    return ""


def raising() -> None:
    raise ValueError("sentinel")


def logging_an_error(log: logging.Logger) -> None:
    try:
        raising()
    except ValueError:
        log.exception("it went wrong")


@pytest.mark.parametrize(
    ("deed", "signature"),
    [
        (raising, "raised ValueError in test_harness.raising"),
        (lambda: theirs.info("%s", "<body>"), "logged slixmpp.example: %s"),
        (lambda: ours.warning("from %s", "a@b"), "logged eph_e2ee.example: from %s"),
        (lambda: logging_an_error(ours), "logged ValueError in test_harness.raising"),
        (lambda: logging_an_error(theirs), "logged ValueError in test_harness.raising"),
        (lambda: ours.warning("not told: %s", "IqError"), ""),
        (lambda: theirs.debug("%s", "<body>"), ""),
        (lambda: None, ""),
    ],
)
def test_what_must_not_happen_is_found(deed: Callable[[], Any], signature: str) -> None:
    assert watched(deed) == signature


def test_an_input_that_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SLOWEST", -1.0)
    assert watched(lambda: None) == "slow"


def test_what_is_made_ready_for_an_input_is_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "process_time", iter([0.0, 1.0, 10.0, 11.0]).__next__)
    watch = Watch()
    with watch.watching(), watch.preparing():
        pass
    assert watch.slowest == 2.0


def test_what_nobody_awaits_is_found() -> None:
    watch = Watch()

    def left() -> None:
        loop = asyncio.new_event_loop()
        watch.unhandled(loop, {"message": "Task exception was never retrieved"})
        loop.close()

    with pytest.raises(Found) as caught, watch.watching():
        left()
    assert caught.value.signature == "asyncio: Task exception was never retrieved"


def test_what_slixmpp_does_by_itself_is_counted() -> None:
    watch = Watch()
    known = next(iter(watching.KNOWN))
    with watch.watching():
        watch.report(Found(known))
    assert watch.known == {known: 1}


def test_a_source_is_all_first_choices_when_it_is_spent() -> None:
    source = Source(b"\x05\x01\x02\x03ab")
    assert (source.byte(), source.below(1000), source.chance(3)) == (5, 0x102, False)
    assert (source.take(255), source.spent) == (b"b", True)
    assert (source.below(9), source.one("xyz"), source.chance(1000)) == (0, "x", False)


@pytest.mark.parametrize("name", NAMES)
def test_the_empty_source_makes_an_input_of_every_target(name: str) -> None:
    assert isinstance(target(name, Stage(Watch())).draw(Source(b"")), bytes)


def test_what_is_large_is_short_in_a_case() -> None:
    case = b"<f:c xmlns:f='eph-e2ee:fuzz'><f:deep levels='99'/><f:wide children='5000'/></f:c>"
    root = expanded(read(case))
    assert (len(list(root[0].iter())), len(root[1])) == (100, 5000)
    many = expanded(read(b"<f:c xmlns:f='eph-e2ee:fuzz'><f:many of='x' children='70'/></f:c>"))
    assert [child.tag for child in many] == ["x"] * 70


def test_a_census_sees_what_grows() -> None:
    class Held:
        __slots__ = ("waiting",)

        def __init__(self) -> None:
            self.waiting = deque(range(USUAL + 1))

    class Holder:
        def __init__(self) -> None:
            self.parts = {"one": Held()}

    Held.__module__ = Holder.__module__ = "eph_e2ee.example"
    census, holder = Census(), Holder()
    census.take([holder])
    assert census.sizes == {"Holder.parts": 1, "Held.waiting": USUAL + 1}
    assert census.excessive == {"Held.waiting": USUAL + 1}


def test_a_campaign_tells_what_it_found_and_keeps_the_input(tmp_path: Path) -> None:
    def take(material: bytes) -> None:
        if material == b"\x01":
            raising()

    campaign = Campaign(Target("envelope", lambda source: source.take(1), take), 8, tmp_path)
    for data in (b"", b"\x01\x01", b"\x01\x02", b"\x01\x01"):
        campaign.one(data)
    report = Report.from_json(campaign.end().to_json())
    assert report.findings == {"raised ValueError in test_harness.raising": 2}
    assert not report.sound
    (kept,) = (path for path in tmp_path.iterdir() if path.suffix != ".txt")
    assert kept.read_bytes() == b"\x01"


def test_a_campaign_without_a_guide_runs_to_its_end(tmp_path: Path) -> None:
    main("stamps", 50, 0, tmp_path, guided=False)
    report = Report.from_json((tmp_path / "stamps.json").read_text())
    assert (report.runs, report.sound, len(report.blocks)) == (50, True, 8)


@pytest.mark.parametrize(
    ("blocks", "growth", "sound"),
    [
        ([(10_000, 0), (20_000, 500), (70_000, 1000)], 10_000, True),
        ([(10_000, 0), (20_000, 500), (70_000, 20_500)], 400_000, False),
        ([(1, 0), (2, 0), (3, 9)], None, True),
        ([], None, True),
    ],
)
def test_what_stays_behind_is_counted_by_the_million(
    blocks: list[tuple[int, int]],
    growth: int | None,
    sound: bool,  # noqa: FBT001 -- a parameter
) -> None:
    report = Report("xml", blocks=blocks)
    assert (report.growth, report.sound) == (growth, sound)
