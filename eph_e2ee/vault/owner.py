"""Whose a vault is: the account's that was the first to attach with it.

Another one would see its whole history, and python-omemo would look for its own device in vain.
"""

from collections.abc import Callable
from typing import Final

from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.ratchets import PREFIX
from eph_e2ee.vault.vault import Vault

__all__ = ["OWNER", "has_device", "require_owner"]

OWNER: Final = "account"
"""The value that keeps the account's bare JID."""

Read = Callable[[str], str | None]


def require_owner(vault: Vault, account: BareJid) -> None:
    """See that a vault is an account's, and have it keep that where nobody has attached with it.

    Raises:
        LocalProtocolError: it is another account's, by what it keeps or, where it does not say so,
            by its OMEMO identity.
        VaultError: it cannot be read or written.
    """

    def work(transaction: Transaction) -> None:
        owner = transaction.value(OWNER)
        if owner == account:
            return
        if owner is not None or not has_device(
            account, lambda key: transaction.value(PREFIX + key)
        ):
            raise LocalProtocolError(
                "the vault belongs to another account: attach with a folder of its own"
            )
        transaction.put_value(OWNER, account)

    vault.transact_sync(work)


def has_device(account: str, read: Read) -> bool:
    """Tell whether an OMEMO identity, if there is one, can be an account's.

    Args:
        account: its bare JID.
        read: gives the JSON text of a value of python-omemo's, None where there is none.
    """
    device = read("/own_device_id")
    return device is None or read(f"/devices/{account}/{device}/namespaces") is not None
