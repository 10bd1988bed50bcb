"""The plugin as `attach` configures it: the vault's storage, and its user's trust."""

from typing import Any, ClassVar, cast

from omemo.storage import Storage
from omemo.types import DeviceInformation

from eph_e2ee.events import NewDevice
from eph_e2ee.model import Untrusted
from eph_e2ee.xmpp.deciding import Deciding
from eph_e2ee.xmpp.devices import described
from eph_e2ee.xmpp.gate import Gate
from eph_e2ee.xmpp.omemo import XEP_0384
from eph_e2ee.xmpp.sessions import Legacy, Modern, Sessions

__all__ = ["VaultOmemo"]


class VaultOmemo(XEP_0384):
    """OMEMO with a vault, and with somebody who may decide on devices."""

    adopted = False

    default_config: ClassVar[dict[str, Any]] = {
        **XEP_0384.default_config,
        "storage": None,
        "blind_trust": True,
        "decide": None,
        "untrusted": Untrusted.DELIVER,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        decide = self.config["decide"]
        self._deciding = None if decide is None else Deciding(decide)

    async def ended(self) -> None:
        """Wait, after the plugin's end, until nothing of it runs any more."""
        if self._deciding is not None:
            await self._deciding.close()
        await super().ended()

    @property
    def storage(self) -> Storage:
        """The ratchets of the vault."""
        return cast("Storage", self.config["storage"])

    @property
    def untrusted(self) -> Untrusted:
        """What becomes of messages from devices that are not trusted."""
        return cast("Untrusted", self.config["untrusted"])

    def appeared(self, device: NewDevice) -> None:
        """Tell that an account with a trusted device has another one."""
        self.xmpp.event("ephemeral_new_device", device)

    @property
    def _btbv_enabled(self) -> bool:
        return bool(self.config["blind_trust"])

    async def _prompt_manual_trust(
        self,
        manually_trusted: frozenset[DeviceInformation],
        identifier: str | None,  # noqa: ARG002 -- slixmpp-omemo's signature
    ) -> None:
        """Have the application decide; without a callback the devices stay undecided."""
        if self._deciding is not None:
            await self._deciding.ask(described(self, manually_trusted))

    def _session_manager_class(self, gate: Gate, backends: list[Modern | Legacy]) -> type[Sessions]:
        made = super()._session_manager_class(gate, backends)
        made.policy = self
        return made
