"""Which of our messages the server has taken, where the stream is managed (XEP-0198)."""

from collections.abc import Callable
from typing import Any

from slixmpp import ClientXMPP
from slixmpp.stanza import Message

from eph_e2ee.model import MessageId

__all__ = ["Acks"]

Told = Callable[[MessageId], None]


class Acks:
    """Tells of each message of ours that the server acknowledges; the application has the plugin.

    slixmpp asks for an answer after every fifth stanza alone, so that the last ones of a
    conversation would stay in doubt: here one is asked for behind each message, once for a burst.

    Attributes:
        on_ack: called on the event loop with the id of a message that the server has.
        on_lost: called when the stream ends for good: what was not acknowledged may not have left.
    """

    def __init__(self, client: ClientXMPP) -> None:
        self._client = client
        self._asking = False
        self.on_ack: Told = lambda _: None
        self.on_lost: Callable[[], None] = lambda: None
        client.add_event_handler("stanza_acked", self._acked)
        client.add_event_handler("sm_failed", self._lost)
        client.add_event_handler("session_end", self._lost)
        client.add_event_handler("session_resumed", self._resumed)
        client.add_filter("out_sync", self._leaving)

    def detach(self) -> None:
        """Take the handlers and the filter away again."""
        self._client.del_event_handler("stanza_acked", self._acked)
        self._client.del_event_handler("sm_failed", self._lost)
        self._client.del_event_handler("session_end", self._lost)
        self._client.del_event_handler("session_resumed", self._resumed)
        self._client.del_filter("out_sync", self._leaving)

    @property
    def active(self) -> bool:
        """Whether the server acknowledges what is sent now."""
        plugin: Any = self._client.plugin.get("xep_0198", None)
        return plugin is not None and plugin.enabled_out

    def _acked(self, stanza: Any) -> None:
        if isinstance(stanza, Message):
            self.on_ack(MessageId(stanza["id"]))

    def _lost(self, _: object) -> None:
        self.on_lost()

    def _resumed(self, _: object) -> None:
        """Ask behind what slixmpp sends again, which passes no filter."""
        plugin: Any = self._client.plugin.get("xep_0198", None)
        if plugin is not None:
            self._client.send(plugin.stanza.RequestAck(self._client), use_filters=False)

    def _leaving(self, stanza: Any) -> Any:
        if isinstance(stanza, Message) and self.active and not self._asking:
            self._asking = True
            # Filters run right before the stanza is written: this comes behind it.
            self._client.loop.call_soon(self._ask)
        return stanza

    def _ask(self) -> None:
        self._asking = False
        plugin: Any = self._client.plugin.get("xep_0198", None)
        if plugin is not None and plugin.enabled_out and self._client.is_connected():
            plugin.request_ack()
