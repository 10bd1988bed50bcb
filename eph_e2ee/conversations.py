"""The timer setting of each conversation, between the vault and the two flows."""

from collections import OrderedDict

from eph_e2ee.model import BareJid, Seconds
from eph_e2ee.protocol.agreement import Agreement
from eph_e2ee.vault.archive import Transaction
from eph_e2ee.vault.vault import Vault

__all__ = ["Conversations"]

MAXIMUM_REMEMBERED = 1024
"""Settings kept in memory; the others are a read away."""


class Conversations:
    """Settings by conversation. Both flows use it under the lock of the OMEMO sessions.

    A conversation without one begins with the account's own default, which anybody's first
    announcement replaces (the seed's Peter).
    """

    def __init__(self, vault: Vault, default: Seconds | None) -> None:
        self._vault = vault
        self._default = default
        self._remembered: OrderedDict[BareJid, Agreement] = OrderedDict()

    async def setting(self, conversation: BareJid) -> Agreement:
        """The conversation's setting as it stands.

        Raises:
            VaultError: it cannot be read.
        """
        known = self._remembered.get(conversation)
        if known is None:
            text = await self._vault.transact(lambda vault: vault.value(_key(conversation)))
            known = Agreement(default=self._default) if text is None else Agreement.from_json(text)
            self._remember(conversation, known)
        return known

    def change(self, conversation: BareJid, old: Agreement, new: Agreement) -> str | None:
        """Make `new` the setting; what has to be written with the same commit, or None.

        Repetitions alone are not worth a write.
        """
        self._remember(conversation, new)
        return None if new == old or new.lasting == old.lasting else new.to_json()

    def forget(self, conversation: BareJid) -> None:
        """Read the setting again: the commit that held it has failed."""
        self._remembered.pop(conversation, None)

    @staticmethod
    def write(vault: Transaction, conversation: BareJid, text: str | None) -> None:
        """Write what `change` gave, inside of a work of the vault."""
        if text is not None:
            vault.put_value(_key(conversation), text)

    def _remember(self, conversation: BareJid, setting: Agreement) -> None:
        self._remembered[conversation] = setting
        self._remembered.move_to_end(conversation)
        if len(self._remembered) > MAXIMUM_REMEMBERED:
            self._remembered.popitem(last=False)


def _key(conversation: BareJid) -> str:
    return f"agreement:{conversation}"
