"""Times of our own elements: one form only, read without an error and written without a loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eph_e2ee.protocol import stamps

LAST = 253_402_300_799_999
"""The end of the year 9999, in milliseconds since the epoch."""

FIRST = -62_135_596_800_000
"""The beginning of the year 1."""


@given(st.integers(FIRST, LAST))
def test_what_is_written_reads_the_same(moment: int) -> None:
    assert stamps.read(stamps.write(moment)) == moment


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_795_631_400_125, "2026-11-25T18:30:00.125Z"),
        (2**31 * 1000, "2038-01-19T03:14:08.000Z"),
        (FIRST, "0001-01-01T00:00:00.000Z"),
        (LAST, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_the_form(moment: int, text: str) -> None:
    """F16: the end of 32 bits is a day like any other."""
    assert stamps.write(moment) == text
    assert stamps.read(text) == moment


@pytest.mark.parametrize("moment", [LAST + 1, FIRST - 1, 2**70, -(2**70)])
def test_a_time_beyond_the_calendar_is_not_written(moment: int) -> None:
    with pytest.raises(OverflowError):
        stamps.write(moment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-25",
        "2026-11-25T18:30:00Z",
        "2026-11-25T18:30:00.125",
        "2026-11-25T18:30:00.125+00:00",
        "2026-11-25T18:30:00.1250Z",
        "2026-11-25 18:30:00.125Z",
        " 2026-11-25T18:30:00.125Z",
        "2026-11-25T18:30:00.125Z\n",
        "2026-11-25t18:30:00.125z",
        "2026-13-25T18:30:00.125Z",
        "2026-02-30T18:30:00.125Z",
        "2026-11-25T25:30:00.125Z",
        "2026-11-25T18:30:60.125Z",
        "0000-01-01T00:00:00.000Z",
        "-026-11-25T18:30:00.125Z",
        "٢٠٢٦-11-25T18:30:00.125Z",
    ],
)
def test_what_no_device_of_ours_writes_is_no_time(text: str) -> None:
    assert stamps.read(text) is None


@given(
    st.text(max_size=30)
    | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z", fullmatch=True)
)
def test_any_text_is_a_time_or_none(text: str) -> None:
    moment = stamps.read(text)
    assert moment is None or FIRST <= moment <= LAST
