"""A vault in a temporary folder, with a clock that the test moves, on each of its databases."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Final

import pytest

from eph_e2ee.vault.vault import Vault
from tests.support.clock import ManualClock
from tests.support.postgresql import Server, Site
from tests.support.replay import fast_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENGINES: Final = ("sqlite", "postgresql")
"""Every test that takes `folder` or `vault` runs once on each, but for the following."""

SQLITE_ONLY: Final = {
    "test_crash": "its process opens the vault by the folder alone; the same stands for a server "
    "in test_postgresql",
    "test_keyfile": "the keys are in the folder, wherever the database is",
    "test_keyfile_crash": "the same",
    "test_lock": "the lock is in the folder, wherever the database is",
    "test_opening": "it damages the file; a schema is damaged in test_postgresql_opening",
    "test_privatefile": "files only",
    "test_residue": "it reads the file's bytes; those of a server are read in test_postgresql",
    "test_rootkey": "the keys are in the folder, wherever the database is",
    "test_reading_writes_nothing": "it looks at the log's file",
    "test_a_full_disk_fails_the_whole_group_and_leaves_the_vault_usable": "it limits the log's "
    "file; a server's disk is not this process's",
    "test_f2_a_scrub_that_a_reader_stops_says_so": "no other database can be scrubbed",
    "test_the_files_are_private": "it looks at the log's file",
    "test_closing_drains_settles_and_refuses_more": "it names the files",
    "test_a_second_process_is_told_that_the_vault_is_in_use": "its process opens the vault by the "
    "folder alone",
    "test_a_program_that_never_closes_its_vault_still_ends": "the same",
}
"""Modules and tests that look at SQLite's files, or at no database, with the reason."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each database that it can be run on."""
    if "engine" in metafunc.fixturenames:
        names = {metafunc.module.__name__.rpartition(".")[2], metafunc.function.__name__}
        only = not names.isdisjoint(SQLITE_ONLY)
        metafunc.parametrize("engine", ENGINES[:1] if only else ENGINES, indirect=True)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The database that the vault is on."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One PostgreSQL for all tests; without it they fail, they do not skip."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_database(server: Server) -> str:
    """The address of a database that all vaults of these tests share, each with its schema."""
    return server.address(server.make_database())


@pytest.fixture
def site(server: Server) -> Iterator[Site]:
    """A database of the test's own."""
    site = Site(server, server.make_database())
    yield site
    server.drop_database(site.name)


@pytest.fixture
def folder(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where the vault is. Whoever opens it in this test's process does so on the test's engine."""
    if engine == "postgresql":
        address = request.getfixturevalue("shared_database")
        monkeypatch.setattr(Vault, "open", functools.partial(Vault.open, database=address))
    return tmp_path / "vault"


@pytest.fixture
def vault(folder: Path, clock: ManualClock) -> Iterator[Vault]:
    """An open vault, closed at the end if the test has not done so."""
    vault = Vault.open(folder, clock=clock)
    yield vault
    vault.close_sync()


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Write a line of counts where people see it."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return say


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """Where thousands of vaults can be opened in turn."""
    with fast_folders(tmp_path) as folder:
        yield folder
