"""The plugin as `attach` configures it: its storage is the vault's."""

from typing import Any, ClassVar, cast

from omemo.storage import Storage
from omemo.types import DeviceInformation

from eph_e2ee.xmpp.omemo import XEP_0384

__all__ = ["VaultOmemo"]


class VaultOmemo(XEP_0384):
    """OMEMO with a vault."""

    default_config: ClassVar[dict[str, Any]] = {
        **XEP_0384.default_config,
        "storage": None,
        "blind_trust": True,
    }

    @property
    def storage(self) -> Storage:
        """The ratchets of the vault."""
        return cast("Storage", self.config["storage"])

    @property
    def _btbv_enabled(self) -> bool:
        return bool(self.config["blind_trust"])

    async def _prompt_manual_trust(
        self, manually_trusted: frozenset[DeviceInformation], identifier: str | None
    ) -> None:
        """Decide nothing: the send ends with `TrustUndecided`, and the application decides."""
