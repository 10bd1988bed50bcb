"""A server that answers as a case says, and otherwise as it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement

from tests.flows.archiving import Shelves
from tests.fuzz import words

if TYPE_CHECKING:
    from tests.xmpp.clients import TestClient

__all__ = ["Hostile"]

PATIENCE: Final = 20
"""Answers of a case's in one go: a server that never ends an archive is asked for ever."""

KINDS: Final = {
    "{urn:xmpp:mam:2}query": "archive",
    "{urn:xmpp:carbons:2}enable": "carbons",
    "{urn:xmpp:time}time": "time",
    "{http://jabber.org/protocol/disco#info}query": "disco",
    "{http://jabber.org/protocol/muc#admin}query": "members",
    "{urn:xmpp:omemo:2}encrypted": "question",
}
"""Kinds of questions that a case can answer, beside what is fetched from a node; "any" is every."""


MEMBER: Final = {
    "owner": words.PEER,
    "admin": "clara@example.org",
    "member": words.OWN,
}
"""Who belongs to the room, and as what."""


class Hostile(Shelves):
    """A server with archives.

    Attributes:
        victim: whose questions are answered as a case says.
        heard: all IQs of the victim's, until somebody has looked at them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.victim: TestClient | None = None
        self.heard: list[Element] = []
        self._answers: dict[str, Element] = {}
        self._given = 0

    def begin(self) -> None:
        """Answer as it should be again."""
        self._answers.clear()
        self._given = 0
        # What a test would look at.
        self.requests.clear()
        self.asked_after.clear()

    def prepare(self, answer: Element) -> None:
        """Answer the next questions of a kind so."""
        self._answers[answer.get("to", "")] = answer

    def asked(self, client: TestClient, iq: Element) -> None:
        """Answer a question; what is itself an answer gets none."""
        if client is self.victim:
            self.heard.append(iq)
        if iq.get("type") not in ("get", "set"):
            return
        kind = _kind(iq)
        prepared = self._answers.get(kind, self._answers.get("any"))
        if client is not self.victim or prepared is None or self._given >= PATIENCE:
            if iq.get("to") == words.ROOM and kind in ("disco", "members"):
                _room(client, iq)
            else:
                super().asked(client, iq)
            return
        self._given += 1
        answer = Element("{jabber:client}iq", {"to": client.boundjid.full})
        answer.set("from", prepared.get("from", iq.get("to") or client.boundjid.bare))
        answer.set("id", prepared.get("id", iq.get("id", "")))
        answer.set("type", prepared.get("type", "result"))
        for child in prepared:
            if child.tag != "{jabber:client}message":
                answer.append(child)
                continue
            for result in child.iter("{urn:xmpp:mam:2}result"):
                if result.get("queryid") == "?":
                    result.set("queryid", iq[0].get("queryid", "") if len(iq) else "")
            client.receive(child)
        client.receive(answer)


def _room(client: TestClient, iq: Element) -> None:
    """A room that shows everybody's JIDs, with one member of each kind."""
    answer = Element("{jabber:client}iq", {"to": client.boundjid.full, "type": "result"})
    answer.set("from", words.ROOM)
    answer.set("id", iq.get("id", ""))
    namespace = iq[0].tag.partition("}")[0] + "}"
    query = SubElement(answer, iq[0].tag)
    SubElement(query, f"{namespace}feature", {"var": "muc_nonanonymous"})
    for item in iq[0]:
        affiliation = item.get("affiliation", "")
        SubElement(query, item.tag, {"affiliation": affiliation, "jid": MEMBER[affiliation]})
    client.receive(answer)


def _kind(iq: Element) -> str:
    if not len(iq):
        return "any"
    kind = KINDS.get(iq[0].tag)
    if kind is not None:
        return kind
    nodes = [verb.get("node", "") for verb in iq[0] if verb.tag.endswith("}items")]
    if not nodes:
        return "any"
    if "bundles" in nodes[0]:
        return "bundle"
    return "displayed" if nodes[0].endswith("displayed:0") else "devices"
