"""What stands in attributes and texts: the values that are right, and those that nobody expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.source import Source

__all__ = [
    "DEVICE",
    "NOW",
    "OWN",
    "PEER",
    "ROOM",
    "SERVER",
    "address",
    "count",
    "name",
    "number",
    "stamp",
    "text",
]

OWN: Final = "peter@example.org"
PEER: Final = "rosa@example.org"
ROOM: Final = "room@rooms.example.org"
SERVER: Final = "example.org"

NOW: Final = "2025-06-15T15:06:41Z"
"""Stands, in what is sealed, for the time at which that happens."""

DEVICE: Final = "27183"
"""Stands for our own device, whose number nobody knows before it runs."""

ADDRESSES: Final = (
    *(PEER, f"{PEER}/rosa", OWN, f"{OWN}/second", f"{OWN}/peter"),
    *(f"{ROOM}/rosa", ROOM, f"{ROOM}/peter", f"{ROOM}/nobody", SERVER),
    *("mallory@example.net/x", "mallory@example.net", "rooms.example.org", "", "PETER@EXAMPLE.ORG"),
)
WRONG_ADDRESSES: Final = (
    *("@", "@@", "@example.org", "a@", "a@b@c", "/x", "a b@example.org", "peter@example.org/"),
    *("x" * 1024 + "@example.org", "a@" + "b" * 1024, "a@example.org/" + "c" * 1024),
    *("\u00e4@\u00e4.example", "a@\u2603.example", "a@xn--.example", "a@-example-.org"),
    *(
        "\u0130@example.org",
        "\u00ad@example.org",
        "\u200f@example.org",
        "a@[::1]",
        "a@[",
        "a@1.2.3",
    ),
    *(
        "a@example.org/\u2028",
        "\U0001f600@example.org",
        "\ufdfa@example.org",
    ),
    *("room@rooms.example.org/", f"{ROOM}/\u00a0", f"{ROOM}/" + "n" * 5000, "a@example.org."),
)
NUMBERS: Final = (
    *("0", "1", "5", "60", "604800", "2147483647", "2147483648", "4294967295", "4294967296"),
    *("-1", "-0", "+5", " 5 ", "007", "1e9", "5.5", "", "NaN", "inf", "0x10", "1_000", "\u0665"),
    *("9" * 17, "9" * 400, "9" * 5000, "-" + "9" * 400, "9007199254740991", "9007199254740992"),
    *("true", "false", "yes", "\u00b2", "\u2460", "1\n", "\t1", "18446744073709551616"),
)
STAMPS: Final = (
    *(NOW, NOW),
    *("2025-06-15T15:06:40.000Z", "2025-06-15T15:06:40Z", "2025-06-15T15:06:40.000+02:00"),
    *("0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00+14:00"),
    *("9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", "2038-01-19T03:14:08Z", "", "now"),
    *("2025-02-30T00:00:00Z", "2025-06-15T24:00:00Z", "2025-06-15T23:59:60Z", "20250615T15:06:40"),
    *("2025-06-15T15:06:40", "2025-06-15T15:06:40.123456789Z", "0000-00-00T00:00:00Z"),
    *("10000-01-01T00:00:00Z", "2025-06-15T15:06:40.000+24:00", "2025-06-15T15:06:40+99:99"),
    *("\u0662025-06-15T15:06:40.000Z", "2025-06-15t15:06:40.000z", "2025-06-15T15:06:40.000-00:00"),
    *("2025-06-15T15:06:40+00:00:00.000001", "-2025-06-15T15:06:40Z", "1" * 3000),
)
NAMES: Final = (
    *("", "7", "a1", "a2", "known", "made 1", "\u00e4\U0001f600", " ", "key x", "x" * 1024),
    *("x" * 1025, "x" * 9000, "'\"<&>", "../..", "%s%n", "{0.__class__}", "\u202e", "\n", "None"),
    *("archive a1", "id rosa@example.org 7", "a1 a2", "\ufffd", "0", "untold reads"),
)
TEXTS: Final = (
    *(
        "text",
        "",
        " ",
        "\u00e4\u00f6\u00fc\U0001f600",
        "\ufffd",
        "A" * 3000,
    ),
    *("%s %d %(x)s {} {0}", "<body>", "]]>", "&amp;", "\r\n\t", "\u202e\u2066", "a\u0300" * 200),
)


def address(source: Source) -> str:
    """A JID, mostly one that means something here; a stranger's, or none at all, now and then."""
    if source.chance(6):
        return f"m{source.below(65536)}@example.net/x"
    return source.one(WRONG_ADDRESSES if source.chance(12) else ADDRESSES)


def number(source: Source) -> str:
    """What stands where a number should."""
    if source.chance(4):
        return str(source.below(65536) * source.below(65536))
    return source.one(NUMBERS)


def stamp(source: Source) -> str:
    """What stands where a time should."""
    return source.one(STAMPS)


def name(source: Source) -> str:
    """An id."""
    if source.chance(4):
        return f"n{source.below(65536)}"
    return source.one(NAMES)


def text(source: Source) -> str:
    """A text, or some bytes' worth of characters that XML allows."""
    if source.chance(3):
        return "".join(chr(0x20 + each * 3) for each in source.take(24))
    return source.one(TEXTS)


def count(source: Source) -> int:
    """How many of something; mostly few, seldom very many."""
    if source.chance(20_000):
        return 2000 + source.below(8000)
    return source.below(200) if source.chance(100) else source.below(4)
