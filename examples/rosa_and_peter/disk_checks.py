"""What must be true of the files of both clients."""

from typing import Final

from sqlalchemy import select

from eph_e2ee.vault.database import messages, state
from examples.rosa_and_peter.evidence import Evidence
from examples.rosa_and_peter.thief import Loot, contents, plunder, root_keys, rows
from examples.rosa_and_peter.traces import Broken, require, traces

VAULT: Final = "vault"


def no_text_on_disk(evidence: Evidence) -> str:
    """Also not of the texts that are still alive: they are sealed. Also not in the logs."""
    files = size = 0
    for person, home in evidence.homes.items():
        held = contents(home)
        names = {path.name for path in held}
        require("client.log" in names and "vault.db" in names, f"{person}: a file is missing")
        for path, content in held.items():
            found = traces(content, evidence.texts)
            require(not found, f"{person}, {path.name}: {', '.join(found)}")
            files, size = files + 1, size + len(content)
    return f"{files} files, {size:,} bytes: databases, keys, and logs at the most talkative level"


def todays_keys_open_nothing_old(evidence: Evidence) -> str:
    """A copied database, with each key file there is, and the root key as it is now.

    The copied root key opens the copy: a check that could not fail would show nothing.
    """
    opened_before = alive = 0
    for person, copy in evidence.copies.items():
        now = evidence.homes[person] / VAULT
        before = plunder(copy, key_file=copy, root_key=copy)
        doomed = before.bodies.intersection(evidence.doomed)
        require(bool(doomed), f"{person}: not even its own keys open the copy")
        for key_file, name in ((copy, "copied"), (now, "present")):
            loot = plunder(copy, key_file=key_file, root_key=now)
            old = loot.bodies.intersection(evidence.doomed)
            require(not old, f"{person}: {len(old)} of them open with the {name} key file")
        # What has not been forgotten must still open, or the keys would simply be wrong.
        kept = loot.bodies.intersection(evidence.texts)
        require(len(kept) == 3, f"{person}: {len(kept)} of the 3 living messages open")
        opened_before, alive = opened_before + len(doomed), alive + len(kept)
    return (
        f"with the copied keys {opened_before} of {opened_before} opened; with today's none, "
        f"while all {alive} that still live do"
    )


def old_root_keys_are_gone(evidence: Evidence) -> str:
    files = 0
    for person, copy in evidence.copies.items():
        keys = root_keys(copy)
        require(bool(keys), f"{person}: the copy has no root key")
        for path, content in contents(evidence.homes[person]).items():
            for key in keys:
                require(key not in content, f"{person}: {path.name} still holds an old root key")
            files += 1
    return f"{files} files searched for the 32 bytes of each"


def ratchets_are_gone(evidence: Evidence) -> str:
    """Values of OMEMO's state that were overwritten since the copy was taken."""
    spent = 0
    for person, copy in evidence.copies.items():
        now = evidence.homes[person] / VAULT
        current = {(row.hash, row.sequence) for row in rows(now, select(state))}
        before = plunder(copy, key_file=copy, root_key=copy).values
        overwritten = before - current
        require(bool(overwritten), f"{person}: nothing was overwritten since")
        for key_file in (copy, now):
            loot = plunder(copy, key_file=key_file, root_key=now)
            open_still = _open_still(loot, overwritten)
            require(not open_still, f"{person}: {open_still} overwritten values open")
        spent += len(overwritten)
    return f"{spent} values were overwritten since the copy; none opens with today's keys"


def rows_are_empty(evidence: Evidence) -> str:
    """The database's own rows of what has disappeared hold neither a key nor a ciphertext."""
    count = 0
    for person, home in evidence.homes.items():
        gone = {each.number for each in evidence.vanished if each.person == person}
        for row in rows(home / VAULT, select(messages).where(messages.c.number.in_(gone))):
            if row.content is not None or row.sealed_key is not None:
                raise Broken(f"{person}: row {row.number} is not empty")
            count += 1
    require(count > 0, "there are no rows")
    return f"{count} empty rows"


def _open_still(loot: Loot, overwritten: set[tuple[bytes, int]]) -> int:
    return len(loot.values & overwritten)
