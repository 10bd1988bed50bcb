"""A vault is one account's, and nobody else's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.vault.owner import OWNER, require_owner
from eph_e2ee.vault.ratchets import PREFIX

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault

ROSA, MALLORY = BareJid("rosa@example.org"), BareJid("mallory@example.org")


def owner(vault: Vault) -> str | None:
    return vault.transact_sync(lambda transaction: transaction.value(OWNER))


def put_identity(vault: Vault, account: str) -> None:
    """What python-omemo stores of its own device."""
    own = {"/own_device_id": "7", f"/devices/{account}/7/namespaces": json.dumps(["urn:x"])}
    values = {PREFIX + key: text for key, text in own.items()}
    vault.transact_sync(lambda transaction: transaction.put_values(values))


def test_a_new_vault_is_its_first_accounts(vault: Vault) -> None:
    require_owner(vault, ROSA)
    require_owner(vault, ROSA)
    assert owner(vault) == ROSA
    with pytest.raises(LocalProtocolError, match="another account") as caught:
        require_owner(vault, MALLORY)
    assert "rosa" not in str(caught.value)
    assert owner(vault) == ROSA


def test_a_vault_that_does_not_say_whose_it_is(vault: Vault) -> None:
    """Its OMEMO identity does: one of before, or one that a file was imported into."""
    put_identity(vault, ROSA)
    with pytest.raises(LocalProtocolError, match="another account"):
        require_owner(vault, MALLORY)
    assert owner(vault) is None
    require_owner(vault, ROSA)
    assert owner(vault) == ROSA


def test_what_a_vault_says_is_enough(vault: Vault) -> None:
    """A server may give an account another address than it was asked for, and OMEMO has that."""
    require_owner(vault, ROSA)
    put_identity(vault, BareJid("rosa@other.example.org"))
    require_owner(vault, ROSA)
    assert owner(vault) == ROSA
