"""The benchmarks run and print both sides; how fast they are is nobody's assertion."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from eph_e2ee.xmpp import devices, fetching
from tests.benchmarks import (
    catching_up,
    end_to_end,
    forgetting,
    groups,
    growth,
    hardened,
    opening,
    storing,
)
from tests.benchmarks.measure import Syncs, Target, Written
from tests.support.client import SECONDS

if TYPE_CHECKING:
    from pathlib import Path

TARGET = re.compile(
    r"^  (.+?) {2,}([0-9.,_]+)x? +target [<>]= [0-9.]+x?: (met|NOT MET)$", re.MULTILINE
)


def targets(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The numbers that were printed, by what they are."""
    found = TARGET.findall(capsys.readouterr().out)
    return {what: float(value.replace("_", "")) for what, value, _ in found}


@pytest.mark.integration
def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end_to_end.main(
        ["--messages", "5", "--file-messages", "5", "--rounds", "1", "--folder", str(tmp_path)]
    )
    printed = targets(capsys)
    assert printed["burst, rate against the JSON file"] > 0
    assert printed["burst, rate against memory"] > 0
    assert printed["one at a time, latency against the JSON file"] > 0
    assert printed["one: bytes written against the JSON file"] > 0
    assert printed["one: database commits, a message and side"] >= 1
    assert printed["burst: empty messages in 1000"] == 0
    assert len(printed) == 9


@pytest.mark.integration
def test_catching_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The file differs from memory in its storage alone, as at `end_to_end`.
    few = ["--messages", "5", "--file-messages", "0", "--rounds", "1"]
    catching_up.main([*few, "--folder", str(tmp_path)])
    assert targets(capsys)["catching up, rate against memory"] > 0


def test_forgetting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--messages", "5", "--rounds", "1", "--cuts", "1"]
    forgetting.main([*few, "--folder", str(tmp_path)])
    printed = targets(capsys)
    assert printed["time of the cut, 5 messages against 1"] > 0
    assert printed["syncs of a cut, at most"] >= 3
    assert printed["clean-up of rows, rate against DELETE"] > 0


def test_storing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storing.main(["--messages", "5", "--rounds", "1", "--folder", str(tmp_path)])
    assert targets(capsys)["storing in batches against plain SQLite"] > 0


def test_opening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opening.main(["--messages", "5", "--rounds", "1", "--folder", str(tmp_path)])
    assert targets(capsys)["opening 5 messages against none"] > 0


def test_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (devices, fetching):  # what stands still here is the machine, and no server
        monkeypatch.setattr(module, "PATIENCE", SECONDS)
    few = ["--devices", "4", "--messages", "3", "--rounds", "1"]
    groups.main([*few, "--folder", str(tmp_path)])
    printed = targets(capsys)
    assert printed["group of 4 devices, time against bare"] > 0
    assert printed["the first message to it, against bare"] > 0


def test_growth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "growth.svg"
    growth.main(
        ["--largest", "1000", "--hostile", "40", "--folder", str(tmp_path), "--svg", str(drawn)]
    )
    assert targets(capsys)["largest key file under the worst erasing, KiB"] >= 4
    root = ET.fromstring(drawn.read_text("utf-8"))  # noqa: S314 -- it is our own
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == len(growth.TITLES)


@pytest.mark.integration
def test_hardened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hardened.main(["--messages", "5", "--rounds", "1", "--folder", str(tmp_path)])
    assert "rate with freed memory wiped, against without: " in capsys.readouterr().out


def test_counters(tmp_path: Path) -> None:
    before = Written.now()
    with (tmp_path / "file").open("wb") as file, Syncs() as syncs:
        file.write(b"x" * 10_000)
        file.flush()
        os.fsync(file.fileno())
    assert syncs.count == 1
    assert (Written.now() - before).handed >= 10_000


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(2.0, True, True), (1.99, True, False), (2.0, False, True), (2.01, False, False)],
)
def test_verdict(value: float, at_least: bool, met: bool) -> None:  # noqa: FBT001 -- a case, no switch
    assert Target("anything", value, 2, at_least).met is met
