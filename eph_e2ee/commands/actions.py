"""What each command does with its options; each returns an exit code."""

import argparse
import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from eph_e2ee.clock import Clock
from eph_e2ee.commands.places import (
    Place,
    address,
    new_place,
    opened,
    place,
    require_room,
    require_vault,
)
from eph_e2ee.commands.showing import complain, moment, progress, show, tell
from eph_e2ee.errors import LocalProtocolError, VaultUnavailable
from eph_e2ee.vault import destroying, exporting, importing, inspection, purging
from eph_e2ee.vault.inspection import Description, Finding
from eph_e2ee.vault.keyringkey import KeyringRootKey
from eph_e2ee.vault.passphrase import PassphraseRootKey
from eph_e2ee.vault.rootkey import FileRootKey
from eph_e2ee.vault.vault import Vault

__all__ = ["destroy", "export_json", "import_json", "info", "purge", "rootkey", "verify"]

DONE: Final = 0
FOUND: Final = 1
REFUSED: Final = 6


def info(options: argparse.Namespace) -> int:
    """Show counts, sizes, generations and deadlines, and no content.

    Opening the vault settles it: what is due is forgotten before anything is counted.
    """
    require_vault(options.folder)
    where = place(options)
    with opened(options, where) as (vault, clock):
        data = _described(inspection.describe(vault), clock)
        data["keys"] |= {"bytes": _size(options.folder, "keys.*"), "root_key": where.kind}
    show(options, data)
    return DONE


def verify(options: argparse.Namespace) -> int:
    """Forget what is due; then see that every record opens, and that none that is gone can.

    Rows that are not as they should be are named by number, 20 of each kind at most.
    """
    require_vault(options.folder)
    with opened(options, place(options)) as (vault, _):
        total = inspection.count_rows(vault)
        with progress(options, "verifying", total) as advance:
            found = inspection.verify(vault, advance)
    data: dict[str, object] = {
        "clean": found.clean,
        "looked_at": {
            "messages": found.messages,
            "values": found.values,
            "conversations": found.conversations,
        },
        "messages_that_do_not_open": _finding(found.unopened_messages),
        "tombstones_that_live": _finding(found.living_tombstones),
        "values_that_do_not_open": {"count": found.unopened_values},
        "conversations_that_do_not_open": _finding(found.unopened_names),
    }
    show(options, data)
    if found.clean:
        return DONE
    complain("something is not as it should be: restore the vault, or erase what is damaged")
    return FOUND


def purge(options: argparse.Namespace) -> int:
    """Forget what is due now, write the database anew, and scrub what it keeps beside it.

    What is due is destroyed in any case. A program that reads the database's file can keep the
    rest from being done; that is told, and gives exit code 6 (F2).
    """
    require_vault(options.folder)
    with opened(options, place(options)) as (vault, _), progress(options, "purging") as advance:
        done = purging.purge(vault, advance)
    show(options, {"due": "destroyed"} | asdict(done))
    if not done.scrubs:
        tell(options, "what a server keeps in logs, replicas and backups is sealed, and stays")
    if done.compacted and (done.scrubbed or not done.scrubs):
        return DONE
    complain(
        "what was due is destroyed, but another program, or the disk, kept the database from "
        "being cleaned: end it and purge again"
    )
    return REFUSED


def rootkey(options: argparse.Namespace) -> int:
    """Keep the root key in another place, or under another passphrase.

    What the old place held opens nothing afterwards. When it was cut short, either place opens
    the vault: repeat it.
    """
    require_vault(options.folder)
    old = place(options)
    new, passphrase = new_place(options)
    with opened(options, old) as (vault, _):
        if isinstance(old.root_key, PassphraseRootKey) and new.kind == old.kind:
            _change_passphrase(vault, old.root_key, passphrase)
        else:
            vault.run_alone_sync(lambda keeper: keeper.change_root_key(new.root_key))
        _drop_leftovers(vault, options.folder, new)
    show(options, {"root_key": new.kind})
    return DONE


def import_json(options: argparse.Namespace) -> int:
    """Take over the OMEMO identity and sessions that slixmpp-omemo kept in a JSON file.

    The file is looked at as a whole first. A vault is made where the folder is missing or empty;
    one that has an OMEMO identity already is refused. What was cut short is finished by repeating
    it.
    """
    exists = require_room(options.folder)
    texts = importing.read_source(options.file)
    where = place(options)
    with opened(options, where) as (vault, _):
        importing.import_identity(vault, texts)
    show(options, {"imported_values": len(texts), "made_vault": not exists})
    # Also with --quiet: nobody may miss it.
    complain(
        f"{options.file} must not be used any more, and no copy of it: two programs that go on "
        "with the same OMEMO sessions break them"
    )
    if options.erase_source:
        _erase_source(options)
    return DONE


def export_json(options: argparse.Namespace) -> int:
    """Move the OMEMO identity and sessions into a JSON file, for slixmpp-omemo's storages.

    The file must not exist. Afterwards the vault cannot be attached to, until the file is imported
    again; its messages stay. What was cut short is finished by repeating it, to the same file.
    """
    require_vault(options.folder)
    with opened(options, place(options)) as (vault, _):
        count = exporting.export_identity(vault, options.file)
    show(options, {"exported_values": count})
    # Also with --quiet: nobody may miss it.
    complain(
        f"{options.file} is in clear, and the only copy of the identity: keep it from others, let "
        "one program alone use it, and make no copy that another could go on with"
    )
    return DONE


def destroy(options: argparse.Namespace) -> int:
    """Destroy the whole vault for good: its root key first, then everything else.

    On a terminal the folder's name is asked for; else --yes is needed. What was cut short is
    finished by repeating it. No passphrase is needed.
    """
    require_vault(options.folder)
    _confirm(options)
    elsewhere = None if options.keyring is None else KeyringRootKey(options.keyring)
    left = destroying.destroy(options.folder, elsewhere=elsewhere, database=address(options))
    show(options, {"destroyed": True, "left": left})
    if left:
        tell(options, f"{options.folder} stays: it has files that are not the vault's")
    return DONE


def _described(found: Description, clock: Clock) -> dict[str, dict[str, object]]:
    messages: dict[str, dict[str, int]] = {}
    for (direction, phase), count in sorted(found.messages.items(), key=str):
        messages.setdefault(direction.value, {})[phase.value] = count
    return {
        "database": {
            "engine": found.engine,
            "format": found.format,
            "bytes": found.database_bytes,
        },
        "keys": {
            "nodes": found.nodes,
            "generation": found.generation,
            "epochs": {region.name.lower(): list(span) for region, span in found.epochs.items()},
        },
        "rows": {
            "conversations": found.conversations,
            "messages": messages,
            "tombstones": found.tombstones,
            "replay_ids": found.replay_ids,
            "values": found.values,
            "intents": found.intents,
        },
        "time": {
            "written_down": moment(found.clock.now),
            "now": moment(clock.now()),
            "leap_in_doubt": clock.doubted,
            "next_deadline": moment(found.next_deadline),
            "oldest_deadline_of_a_tombstone": moment(found.oldest_deadline),
        },
    }


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _finding(found: Finding) -> dict[str, object]:
    return {"count": found.count, "first": found.numbers}


def _change_passphrase(vault: Vault, root_key: PassphraseRootKey, passphrase: str) -> None:
    vault.run_alone_sync(lambda _: root_key.change_passphrase(passphrase))
    _renew(vault)


def _drop_leftovers(vault: Vault, folder: Path, new: Place) -> None:
    """Destroy what a change that was cut short before has left in the folder's other places."""
    others = [
        Place("file", FileRootKey(folder)),
        Place("passphrase", PassphraseRootKey(folder, "not needed to destroy it")),
    ]
    for other in others:
        if other.kind != new.kind and other.root_key.exists():
            _renew(vault)
            other.root_key.destroy()


def _renew(vault: Vault) -> None:
    """Write both slots of the key file under fresh root keys, so that no older one opens any.

    Someone may have a copy of what the old passphrase opens, and with it the root key.
    """
    for _ in range(2):
        vault.run_alone_sync(lambda keeper: keeper.keys.write())


def _erase_source(options: argparse.Namespace) -> None:
    try:
        importing.erase_source(options.file)
    except VaultUnavailable as error:
        raise VaultUnavailable(f"it is imported, but not erased: {error}") from None
    tell(options, "erased as well as can be; file systems and flash may keep old blocks of it")


def _confirm(options: argparse.Namespace) -> None:
    """See whether somebody means it.

    Raises:
        LocalProtocolError: nobody does.
    """
    if options.yes:
        return
    name = options.folder.resolve().name
    if not sys.stdin.isatty():
        raise LocalProtocolError("nothing was destroyed: give --yes if you mean it")
    sys.stderr.write("everything in the vault will be lost. Its folder's name, to go on: ")
    sys.stderr.flush()
    with contextlib.suppress(EOFError):
        if sys.stdin.readline().strip() == name:
            return
    raise LocalProtocolError("nothing was destroyed: that is not its name")
