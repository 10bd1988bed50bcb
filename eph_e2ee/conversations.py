"""The timer setting of each conversation, between the vault and the two flows."""

from eph_e2ee.model import BareJid, Seconds
from eph_e2ee.protocol.agreement import Agreement
from eph_e2ee.remembered import Remembered
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault

__all__ = ["Conversations"]


class Conversations:
    """Settings by conversation. Both flows change them under the lock of the OMEMO sessions.

    A conversation without one begins with the account's own default, which anybody's first
    announcement replaces (the seed's Peter).
    """

    def __init__(self, vault: Vault, default: Seconds | None) -> None:
        self._vault = vault
        self._default = default
        self._remembered = Remembered[Agreement]()

    async def setting(self, conversation: BareJid) -> Agreement:
        """The conversation's setting as it stands.

        Raises:
            VaultError: it cannot be read.
        """
        return await self._remembered.get(conversation, lambda: self._read(conversation))

    def change(self, conversation: BareJid, old: Agreement, new: Agreement) -> str | None:
        """Make `new` the setting; what has to be written with the same commit, or None.

        Repetitions alone are not worth a write.
        """
        self._remembered.put(conversation, new)
        return None if new == old or new.lasting == old.lasting else new.to_json()

    def forget(self, conversation: BareJid) -> None:
        """Read the setting again: the commit that held it has failed."""
        self._remembered.forget(conversation)

    @staticmethod
    def write(vault: Transaction, conversation: BareJid, text: str | None) -> None:
        """Write what `change` gave, inside of a work of the vault."""
        if text is not None:
            vault.put_value(_key(conversation), text)

    async def _read(self, conversation: BareJid) -> Agreement:
        text = await self._vault.transact(lambda vault: vault.value(_key(conversation)))
        return Agreement(default=self._default) if text is None else Agreement.from_json(text)


def _key(conversation: BareJid) -> str:
    return f"agreement:{conversation}"
