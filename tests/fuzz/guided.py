"""The process that runs one campaign: guided by coverage where atheris is installed.

Nothing of the library is imported before it can be instrumented.

    python -m tests.fuzz.guided NAME RUNS SEED FOLDER guided|unguided
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.campaign import Campaign

__all__ = ["mutated"]

LONGEST: Final = 512
"""Bytes of choices for one input."""

SEEDS: Final = 64
"""Inputs that a campaign begins with."""

KEPT: Final = 4096
"""Inputs that an unguided campaign makes others of."""

PATIENCE: Final = 300
"""Seconds after which libFuzzer takes an input for one that hangs."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same choices with some of them changed, left out, repeated or put in."""
    for _ in range(chance.randrange(1, 5)):
        at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 16))
        part = chance.choice((b"", chance.randbytes(length), data[at : at + length] * 2))
        data = data[:at] + part + data[at + chance.choice((0, length)) :]
    return data


def _campaign(name: str, runs: int, folder: Path) -> Campaign:
    from tests.fuzz.campaign import Campaign  # noqa: PLC0415 -- instrumented by now
    from tests.fuzz.targets import target  # noqa: PLC0415 -- the same

    return Campaign(target(name), runs, folder)


def _unguided(campaign: Campaign, seed: int) -> None:
    """Inputs at random, and some that were made of earlier ones."""
    chance = random.Random(seed)  # noqa: S311 -- to be repeated
    earlier = [b""]
    while not campaign.over:
        data = chance.randbytes(chance.randrange(200))
        if chance.randrange(2):
            data = mutated(chance.choice(earlier), chance)
        elif len(earlier) < KEPT:
            earlier.append(data)
        campaign.one(data[:LONGEST])


def _guided(name: str, runs: int, seed: int, folder: Path) -> None:
    import atheris  # noqa: PLC0415 -- of a dependency group of its own

    with atheris.instrument_imports(include=["eph_e2ee"]):
        campaign = _campaign(name, runs, folder)

    def one(data: bytes) -> None:
        campaign.one(data)
        if campaign.over:
            _report(campaign, folder)
            os._exit(0)  # libFuzzer would go on, or skip what is to be closed

    def mutate(data: bytes, most: int, number: int) -> bytes:
        chance = random.Random(number)  # noqa: S311 -- libFuzzer's choice
        changed = mutated(data, chance) if chance.randrange(2) else atheris.Mutate(data, most)
        return bytes(changed[:most])

    options = (f"-seed={seed + 1}", f"-max_len={LONGEST}", f"-timeout={PATIENCE}")
    rest = ("-rss_limit_mb=0", f"-artifact_prefix={folder}/", str(_corpus(name, seed, folder)))
    atheris.Setup([sys.argv[0], *options, *rest], one, custom_mutator=mutate)
    atheris.Fuzz()


def _corpus(name: str, seed: int, folder: Path) -> Path:
    chance = random.Random(seed)  # noqa: S311 -- to be repeated
    corpus = folder / f"{name}.corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(SEEDS):
        (corpus / f"seed{number}").write_bytes(chance.randbytes(chance.randrange(200)))
    return corpus


def _report(campaign: Campaign, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report = campaign.end()
    (folder / f"{report.target}.json").write_text(report.to_json(), encoding="utf-8")


def main(name: str, runs: int, seed: int, folder: Path, *, guided: bool) -> None:
    """Run a campaign to its end, and write its report to the folder."""
    if guided and importlib.util.find_spec("atheris") is not None:
        _guided(name, runs, seed, folder)
    campaign = _campaign(name, runs, folder)
    _unguided(campaign, seed)
    _report(campaign, folder)


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
        guided=sys.argv[5] == "guided",
    )
