"""What was downloaded lately need not be downloaded again, for a short time."""

from __future__ import annotations

import pytest

from eph_e2ee.xmpp import downloads as module
from eph_e2ee.xmpp.downloads import FRESH, Downloads


class Clock:
    """Seconds that a test sets.

    Attributes:
        now: these.
    """

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def downloads(clock: Clock) -> Downloads:
    return Downloads(clock)


def test_a_download_is_kept_for_a_short_time(clock: Clock, downloads: Downloads) -> None:
    downloads.keep(("bundle", 1), "one")
    clock.now += FRESH / 2
    downloads.keep(("bundle", 2), "two")
    clock.now += FRESH / 2 - 1
    assert downloads.get(("bundle", 1)) == "one"
    clock.now += 1
    assert downloads.get(("bundle", 1)) is None
    assert downloads.get(("bundle", 2)) == "two"


def test_a_newer_download_counts_from_its_own_time(clock: Clock, downloads: Downloads) -> None:
    for name in ("one", "other"):
        downloads.keep((name,), "old")
    clock.now += FRESH - 1
    downloads.keep(("one",), "new")
    clock.now += 1
    assert downloads.get(("other",)) is None
    assert downloads.get(("one",)) == "new"


def test_what_is_forgotten_is_downloaded_again(downloads: Downloads) -> None:
    for number in range(3):
        downloads.keep((number,), number)
    downloads.forget((0,), (2,), ("never there",))
    assert [downloads.get((number,)) for number in range(3)] == [None, 1, None]
    downloads.clear()
    assert downloads.get((1,)) is None


def test_the_number_of_downloads_is_bounded(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAXIMUM", 2)
    for number in range(3):
        downloads.keep((number,), number)
    assert [downloads.get((number,)) for number in range(3)] == [None, 1, 2]
