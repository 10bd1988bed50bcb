"""XEP-0466, Ephemeral Messages, as a plugin of slixmpp."""

from typing import Any, ClassVar

from slixmpp import JID
from slixmpp.plugins.base import BasePlugin

from eph_e2ee.protocol import ephemeral
from eph_e2ee.xmpp.features import Features

__all__ = ["XEP_0466"]


class XEP_0466(BasePlugin):  # noqa: N801 -- slixmpp's way to name plugins
    """Tells others that this client honours timers (XEP-0466 section 2: MUST advertise).

    The element itself is read and written inside the envelope alone, by `protocol.ephemeral`: an
    outer one on an encrypted message is the server's word, not the peer's.
    """

    name = "xep_0466"
    description = "XEP-0466: Ephemeral Messages"
    dependencies: ClassVar[set[str]] = {"xep_0030", "xep_0115"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._features = Features(self.xmpp, ephemeral.NAMESPACE)

    def session_bind(self, jid: JID) -> None:
        """Advertise the feature for the resource that was bound."""
        self._features.advertise(jid)

    def plugin_end(self) -> None:
        """Advertise no more: timers are no longer honoured."""
        self._features.withdraw()
