"""Recorded ciphertexts, every earlier file, and at the end the keys: no spent message opens (F12).

With the usual JSON storage, 44 of 100 read messages opened again from carved files.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import omemo
import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite as sqlite_dialect

from eph_e2ee.errors import VaultError
from eph_e2ee.vault.database import state
from eph_e2ee.vault.primitives import unpad
from eph_e2ee.vault.ratchets import PREFIX, Ratchets
from eph_e2ee.vault.vault import Vault
from tests.support.carving import Row
from tests.support.clock import ManualClock
from tests.vault.checking import all_keys, opened_by
from tests.xmpp.people import Person, Server, talk

if TYPE_CHECKING:
    from pathlib import Path

    from eph_e2ee.vault.archive import Transaction

MESSAGES = 9


@dataclass
class Recording:
    """What somebody has who was there all the time.

    Attributes:
        ciphertexts: all that came for the one whose disk is taken.
        copies: their files before each of these, and after the last; the last keys are final.
        names: of the values, which python-omemo gives everybody alike.
    """

    ciphertexts: list[omemo.Message] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


@pytest.fixture
def server() -> Server:
    """What both have published."""
    return Server()


@pytest.fixture
async def recording(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """A talk of two, the disk of the second of whom is copied all the time, and then taken."""
    made, put = Recording(), Ratchets._put

    def noting(self: Ratchets, key: str, text: str | None) -> None:
        made.names.add(key)
        put(self, key, text)

    monkeypatch.setattr(Ratchets, "_put", noting)
    rosa = Person(server, "rosa@example.org", tmp_path / "rosa")
    peter = Person(server, "peter@example.org", tmp_path / "peter")
    await rosa.start()
    await peter.start()
    await talk(rosa, peter)
    for number in range(MESSAGES):
        made.copies.append(shutil.copytree(tmp_path / "peter", tmp_path / f"copy-{number}"))
        made.ciphertexts.append(await rosa.encrypt(peter, b"text"))
        assert await peter.decrypt(made.ciphertexts[-1]) == b"text"
        await peter.vault.settle()
        if number % 3 == 2:
            assert await rosa.decrypt(await peter.encrypt(rosa, b"answer")) == b"answer"
    await rosa.stop()
    await peter.stop()
    made.copies.append(tmp_path / "peter")
    return made


def values_in(database: Path, keys_of: Path, names: set[str]) -> dict[str, str]:
    """Every value in a copy of the database that the keys in another copy open."""
    query = str(select(state).compile(dialect=sqlite_dialect.dialect()))
    with closing(sqlite3.connect(f"file:{database / 'vault.db'}?mode=ro", uri=True)) as connection:
        columns = [column.name for column in state.columns]
        rows = [
            Row(state.name, dict(zip(columns, values, strict=True)), 0)
            for values in connection.execute(query)
        ]
    found: dict[str, str] = {}
    home, place = keys_of.parent / f"keys-of-{keys_of.name}", keys_of.name
    shutil.copytree(keys_of, home / "vault", dirs_exist_ok=True)
    for keys in all_keys(home, ["vault"]):
        hashes = {keys.hash("state", PREFIX + name): name for name in names}
        for row, plaintext in opened_by(keys, rows):
            if (name := hashes.get(row.values["hash"])) is not None:
                found[name] = unpad(plaintext).decode()
    assert found or place.startswith("copy")
    return found


def _put(values: dict[str, str | None], transaction: Transaction) -> None:
    transaction.put_values(values)


async def opened_with(
    values: dict[str, str], ciphertexts: list[omemo.Message], server: Server, folder: Path
) -> int:
    """How many of the messages an OMEMO opens that finds these values in its storage.

    It begins anew with each of them, since opening one spends what it was opened with.
    """
    opened = 0
    for number, ciphertext in enumerate(ciphertexts):
        place = folder / str(number)
        vault = Vault.open(place, clock=ManualClock())
        stored: dict[str, str | None] = {PREFIX + name: text for name, text in values.items()}
        vault.transact_sync(partial(_put, stored))
        vault.close_sync()
        attacker = Person(server, "peter@example.org", place)
        await attacker.start()
        with suppress(omemo.OMEMOException):
            opened += await attacker.decrypt(ciphertext) == b"text"
        await attacker.stop()
    return opened


async def test_f12_no_earlier_state_of_the_disk_opens_a_spent_message(
    recording: Recording, server: Server, tmp_path: Path
) -> None:
    final = recording.copies[-1]
    last = values_in(final, final, recording.names)
    for number, copy in enumerate(recording.copies):
        values = last | values_in(copy, final, recording.names)
        assert values == last, f"a spent value of copy {number} opens"
    assert await opened_with(last, recording.ciphertexts, server, tmp_path / "attack") == 0


async def test_f11_f12_a_database_put_back_opens_no_spent_message_with_the_last_keys(
    recording: Recording, server: Server, tmp_path: Path
) -> None:
    """With the keys of its own time it does: each copy opens the message that came next."""
    opened = []
    for number, ciphertext in enumerate(recording.ciphertexts):
        copy, final = recording.copies[number], recording.copies[-1]
        for place, keys in ((f"own-{number}", copy), (f"last-{number}", final)):
            put_back(tmp_path / place, copy, keys)
            opened.append(await opens(tmp_path / place, ciphertext, server))
    assert opened == [True, False] * MESSAGES


def put_back(folder: Path, database: Path, keys: Path) -> None:
    """Make a vault of the database of one copy and the keys of another."""
    shutil.copytree(database, folder)
    for path in keys.glob("*key*"):
        shutil.copy(path, folder)


async def opens(folder: Path, ciphertext: omemo.Message, server: Server) -> bool:
    """Whether the one whose vault this is reads a message."""
    person = Person(server, "peter@example.org", folder)
    try:
        await person.start()
        return await person.decrypt(ciphertext) == b"text"
    except (omemo.OMEMOException, VaultError):
        return False
    finally:
        if hasattr(person, "sessions"):
            await person.stop()
        else:
            await person.vault.close()


async def test_f12_with_a_storage_that_keeps_old_states_they_do_open(
    recording: Recording, server: Server, tmp_path: Path
) -> None:
    """So the attacker of these tests knows how: the same values, never forgotten."""
    first = recording.copies[0]
    values = values_in(first, first, recording.names)
    opened = await opened_with(values, recording.ciphertexts, server, tmp_path / "attack")
    assert opened >= 3
