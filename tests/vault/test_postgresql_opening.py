"""A vault on a PostgreSQL server is made, or found, or found wanting."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import sys
import traceback
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
)
from eph_e2ee.vault.opening import DATABASE, REMOTE
from eph_e2ee.vault.postgresql import SCHEMA_PREFIX
from eph_e2ee.vault.vault import Vault
from tests.vault.making import (
    TEXT,
    adding,
    every_byte,
    texts,
)
from tests.vault.processes import OPEN, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.clock import ManualClock
    from tests.support.postgresql import Site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the keys are."""
    return tmp_path / "vault"


@pytest.fixture
def vault(folder: Path, clock: ManualClock, site: Site) -> Iterator[Vault]:
    """An open vault on the server."""
    vault = Vault.open(folder, clock=clock, database=site.address)
    yield vault
    vault.close_sync()


CRASHES: list[tuple[str, str]] = [
    ("before anything", "opening.PostgreSQL = die"),
    ("before the file of the unfinished", "opening.write_through = die"),
    ("before the schema", "opening.PostgreSQL.create = die"),
    ("within the schema", "postgresql.insert = die"),
    ("before the key file", "opening.KeyFile.create = die"),
    ("before the name", "opening._Home.finish = die"),
    ("after the name", "opening.examine = opening._AtAddress.examine = die"),
]


@pytest.mark.parametrize("patch", [c[1] for c in CRASHES], ids=[c[0] for c in CRASHES])
def test_f44_a_making_that_is_killed_is_ended_by_the_next_opening(
    patch: str, site: Site, folder: Path, clock: ManualClock
) -> None:
    imports = "from eph_e2ee.vault import opening, postgresql\n"
    assert run(imports + patch + OPEN, folder, site.address) == (-signal.SIGKILL, "")
    vault = Vault.open(folder, clock=clock, database=site.address)
    vault.transact_sync(adding())
    vault.close_sync()
    again = Vault.open(folder, clock=clock, database=site.address)
    assert texts(again) == [TEXT]
    again.close_sync()
    assert len(site.schemas()) == 1
    assert not [file for file in every_byte(folder) if "vault" in file and file != REMOTE]


def lost(site: Site, _: Path) -> None:
    (schema,) = site.schemas()
    site.run(f"DROP SCHEMA {schema} CASCADE")


def emptied(_: Site, folder: Path) -> None:
    (folder / REMOTE).write_bytes(b"")


def altered(_: Site, folder: Path) -> None:
    content = (folder / REMOTE).read_text()
    at = content.index(SCHEMA_PREFIX) + len(SCHEMA_PREFIX)
    other = "1" if content[at] == "0" else "0"
    (folder / REMOTE).write_text(content[:at] + other + content[at + 1 :])


def missing(_: Site, folder: Path) -> None:
    (folder / REMOTE).unlink()


@pytest.mark.parametrize("spoil", [lost, emptied, altered, missing])
def test_f44_what_was_lost_is_damage_and_no_byte_is_changed(
    spoil: Callable[[Site, Path], None],
    vault: Vault,
    site: Site,
    folder: Path,
    clock: ManualClock,
) -> None:
    vault.close_sync()
    spoil(site, folder)
    before = every_byte(folder), site.schemas()
    for _ in range(2):
        with pytest.raises(VaultDamaged, match="restore"):
            Vault.open(folder, clock=clock, database=site.address)
    assert (every_byte(folder), site.schemas()) == before


@pytest.mark.parametrize("spoil", [emptied, altered])
def test_f44_a_damaged_name_is_seen_before_any_server_is_asked(
    spoil: Callable[[Site, Path], None], vault: Vault, site: Site, folder: Path, clock: ManualClock
) -> None:
    vault.close_sync()
    spoil(site, folder)
    with pytest.raises(VaultDamaged, match="name of the vault's schema"):
        Vault.open(folder, clock=clock, database=nobody_there(site))


def test_a_vault_is_opened_where_its_database_is(
    vault: Vault, folder: Path, site: Site, clock: ManualClock
) -> None:
    vault.close_sync()
    with pytest.raises(LocalProtocolError, match="with that address"):
        Vault.open(folder, clock=clock)
    local = folder.with_name("local")
    Vault.open(local, clock=clock).close_sync()
    before = every_byte(local)
    with pytest.raises(LocalProtocolError, match="without an address"):
        Vault.open(local, clock=clock, database=site.address)
    assert every_byte(local) == before
    assert DATABASE in before


@pytest.mark.parametrize(
    "address",
    [
        "",
        "vault",
        "sqlite:///vault.db",
        "mysql://u@h/d",
        "postgresql+psycopg2://u@h/d",
        "http://h/",
    ],
)
def test_an_address_that_is_no_postgresqls_is_refused_before_anything_is_made(
    address: str, folder: Path, clock: ManualClock
) -> None:
    with pytest.raises(LocalProtocolError, match="postgresql://"):
        Vault.open(folder, clock=clock, database=address)
    assert not folder.exists()


def test_every_way_to_write_the_address_is_taken(
    folder: Path, clock: ManualClock, site: Site
) -> None:
    with_driver = site.address.replace("postgresql:", "postgresql+psycopg:")
    for address in (site.address, with_driver, make_url(site.address)):
        Vault.open(folder, clock=clock, database=address).close_sync()
    assert len(site.schemas()) == 1


def test_a_missing_driver_is_named(
    folder: Path, clock: ManualClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LocalProtocolError, match=r"eph-e2ee\[postgres\]"):
        Vault.open(folder, clock=clock, database=site.address)


def wrong_password(site: Site) -> str:
    return site.server.address(site.name, password="sentinel-password")


def no_such_database(site: Site) -> str:
    return site.server.address("missing")


def nobody_there(_: Site) -> str:
    return "postgresql://u:sentinel-password@127.0.0.1:1/name"


@pytest.mark.parametrize("wrong", [wrong_password, no_such_database, nobody_there])
def test_f10_a_wrong_address_is_unavailable_and_no_text_has_the_password(
    wrong: Callable[[Site], str],
    folder: Path,
    clock: ManualClock,
    site: Site,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(VaultUnavailable, match="cannot be reached") as caught:
        Vault.open(folder, clock=clock, database=wrong(site))
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "sentinel-password" not in told
    assert site.server.password not in told
    # Nothing is left that would stand in the way of the right address, or of none.
    assert sorted(every_byte(folder)) == ["lock"]
    Vault.open(folder, clock=clock, database=site.address).close_sync()


def test_f10_the_folder_has_neither_address_nor_password(
    vault: Vault, folder: Path, site: Site
) -> None:
    vault.transact_sync(adding())
    content = b"".join(every_byte(folder).values())
    for word in (site.server.password, site.name, "127.0.0.1"):
        assert word.encode() not in content
    # As a word: five digits in a row often stand in the name of a schema.
    assert not re.search(rb"\b%d\b" % site.server.port, content)


@pytest.mark.parametrize(
    ("value", "error"), [("1", VaultForeign), ("99", VaultTooNew), ("x", VaultDamaged)]
)
def test_f44_another_format_has_its_own_error(
    value: str, error: type[Exception], folder: Path, clock: ManualClock, site: Site
) -> None:
    Vault.open(folder, clock=clock, database=site.address).close_sync()
    (schema,) = site.schemas()
    change = f"UPDATE {schema}.meta SET value = '{value}' WHERE name = 'format'"  # noqa: S608  ours
    site.run(change)
    with pytest.raises(error):
        Vault.open(folder, clock=clock, database=site.address)


def test_f44_a_schema_of_another_vault_is_refused(
    vault: Vault, folder: Path, clock: ManualClock, site: Site
) -> None:
    vault.close_sync()
    other = folder.with_name("other")
    Vault.open(other, clock=clock, database=site.address).close_sync()
    shutil.copy(other / REMOTE, folder / REMOTE)
    with pytest.raises(VaultDamaged, match="different vaults"):
        Vault.open(folder, clock=clock, database=site.address)


@pytest.mark.parametrize("begun_at", ["the server", "the folder"])
def test_f44_a_making_is_not_ended_as_one_of_another_kind(
    begun_at: str, folder: Path, clock: ManualClock, site: Site
) -> None:
    address = site.address if begun_at == "the server" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eph_e2ee.vault.opening._Home.finish", lambda _: None)
        with pytest.raises(VaultError):
            Vault.open(folder, clock=clock, database=address)
    before = every_byte(folder)
    with pytest.raises(VaultDamaged):
        Vault.open(folder, clock=clock, database=None if address else site.address)
    assert every_byte(folder) == before
    Vault.open(folder, clock=clock, database=address).close_sync()
