"""One connection to a PostgreSQL database: what it asks for, what it gives back, what may fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import OperationalError

from eph_e2ee.errors import VaultInUse, VaultUnavailable
from eph_e2ee.vault import postgresql
from eph_e2ee.vault.database import Database, translate
from eph_e2ee.vault.postgresql import SCHEMA_PREFIX, PostgreSQL, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgresql import Site

SCHEMA = SCHEMA_PREFIX + "0123456789abcdef"


@pytest.fixture
def remote(site: Site) -> Iterator[PostgreSQL]:
    with PostgreSQL(parse_address(site.address), SCHEMA) as remote:
        remote.create([])
        yield remote


def shown(remote: PostgreSQL, setting: str) -> str:
    with remote.connection.begin():
        value: str = remote.connection.exec_driver_sql(f"SHOW {setting}").scalar_one()
    return value


def test_f3_a_session_is_set_up_also_after_its_connection_was_lost(
    remote: PostgreSQL, site: Site
) -> None:
    """The server's own default is to report commits before they are on the disk."""
    expected = {
        "synchronous_commit": "on",
        "search_path": SCHEMA,
        "client_min_messages": "error",
        "statement_timeout": "1min",
        "lock_timeout": "1s",
        "tcp_keepalives_idle": "15",
        "application_name": "eph_e2ee",
    }
    assert {name: shown(remote, name) for name in expected} == expected
    site.disconnect()
    with pytest.raises(OperationalError):
        shown(remote, "synchronous_commit")
    assert {name: shown(remote, name) for name in expected} == expected
    with pytest.raises(VaultInUse):
        PostgreSQL(parse_address(site.address), SCHEMA)


def test_f3_a_stronger_promise_of_the_server_is_kept(site: Site) -> None:
    site.run(f"ALTER DATABASE {site.name} SET synchronous_commit = remote_apply")
    with PostgreSQL(parse_address(site.address), SCHEMA) as remote:
        assert shown(remote, "synchronous_commit") == "remote_apply"


def test_f3_a_server_that_does_not_obey_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "DURABLE", frozenset({"always"}))
    with pytest.raises(VaultUnavailable, match="synchronous_commit"):
        PostgreSQL(parse_address(site.address), SCHEMA)


def test_a_statement_that_hangs_is_ended_and_the_connection_goes_on(remote: PostgreSQL) -> None:
    """By its own limit; the session's is a minute, which all others need on a busy machine."""
    session = remote._driver.info.backend_pid
    with remote.connection.begin() as transaction:
        remote.connection.exec_driver_sql("SET LOCAL statement_timeout = '20ms'")
        with pytest.raises(OperationalError) as caught:
            remote.connection.exec_driver_sql("SELECT pg_sleep(60)")
        transaction.rollback()
    assert "57014" in str(translate(caught.value))
    assert shown(remote, "statement_timeout") == "1min"
    assert remote._driver.info.backend_pid == session


def test_compacting_without_a_connection_fails_and_the_next_work_connects_anew(
    remote: PostgreSQL, site: Site
) -> None:
    site.disconnect()
    with pytest.raises(VaultUnavailable, match="is lost"):
        remote.compact()
    assert remote.size() > 0
    remote.compact()


def test_closing_gives_the_lock_free(remote: PostgreSQL, site: Site) -> None:
    remote.close()
    with PostgreSQL(parse_address(site.address), SCHEMA) as again:
        again.examine()


def test_the_lock_is_free_before_the_server_has_noticed_the_end_of_the_connection(
    remote: PostgreSQL, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Database, "close", lambda _: None)
        remote.close()
        remote.close()
    with PostgreSQL(parse_address(site.address), SCHEMA) as again:
        again.examine()
    assert not remote.connection.closed
    remote.close()
