"""What time our own server says it is (XEP-0202)."""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final, cast
from xml.etree.ElementTree import Element

from slixmpp import JID, ClientXMPP
from slixmpp.exceptions import XMPPError
from slixmpp.stanza import Iq

__all__ = ["ServerTime"]

log = logging.getLogger(__name__)

ANSWER: Final = 10.0
"""Seconds that the server has for its answer, which it gives without any work."""

TIME: Final = "{urn:xmpp:time}time"
UTC_TIME: Final = f"{TIME}/{{urn:xmpp:time}}utc"

SESSIONS: Final = ("session_bind", "session_resumed")


class ServerTime:
    """Asks our own server for its time, and tells when there is a server to ask.

    slixmpp's own plugin is not used. It would answer everybody who asks for this machine's time, it
    cannot read the form of XEP-0202 (it adds a second Z), and takes an answer without a time for
    the present.

    Args:
        client: the client.
        has_session: whether a stanza can be handed over.

    Attributes:
        on_session: called on the event loop when a session with the server has begun.
    """

    def __init__(self, client: ClientXMPP, has_session: Callable[[], bool]) -> None:
        self._client = client
        self._has_session = has_session
        self.on_session: Callable[[], None] = lambda: None
        for event in SESSIONS:
            client.add_event_handler(event, self._begun)

    def detach(self) -> None:
        """Take the event handlers away again."""
        for event in SESSIONS:
            self._client.del_event_handler(event, self._begun)

    async def server_time(self) -> float | None:
        """Return the server's time in seconds since the epoch; None when it gives none.

        At most `ANSWER` seconds pass. Cancelling is safe.
        """
        if not self._has_session():
            return None
        question = self._question()
        try:
            # slixmpp leaves this method without types.
            answer = cast("Iq", await question.send(timeout=ANSWER))  # type: ignore[no-untyped-call]
        except XMPPError as error:
            log.warning("the server does not say what time it is: %s", type(error).__name__)
            return None
        finally:  # also when it is cancelled, of which slixmpp takes no notice
            self._client.remove_handler(f"IqCallback_{question['id']}")
            self._client.cancel_schedule(f"IqTimeout_{question['id']}")
        return _seconds(answer.xml.findtext(UTC_TIME, ""))

    def _question(self) -> Iq:
        question: Iq = self._client.Iq()
        question["type"], question["to"] = "get", JID(self._client.boundjid.domain)
        question.append(Element(TIME))
        return question

    def _begun(self, _: object) -> None:
        self.on_session()


def _seconds(utc: str) -> float | None:
    """Read a DateTime of XEP-0082. One without its zone would mean this machine's: it is none."""
    try:
        moment = datetime.fromisoformat(utc.strip())
        return None if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None
