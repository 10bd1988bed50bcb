"""A server that carries IQs between clients, and what people ask each other through it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import pytest
from slixmpp import JID

from eph_e2ee import IqRefused, Reason, RemoteProtocolError
from eph_e2ee.protocol.iqheader import IqHeader
from eph_e2ee.xmpp.stanzas import bare
from tests.flows.test_incoming import rejections
from tests.support.client import SECONDS
from tests.xmpp.clients import ERRORS, TestClient, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eph_e2ee.xmpp.iqs import SealedIq
    from tests.flows.conftest import Party, Town

__all__ = [
    "ENCRYPTED",
    "ERROR",
    "NAME",
    "Switchboard",
    "altered",
    "answered",
    "changed",
    "condition",
    "disbelieved",
    "echo",
    "heard",
    "idle",
    "jid",
    "of_another_make",
    "query",
    "question",
    "refused",
    "said",
    "sealed_for",
    "sealed_iq",
    "unauthenticated",
    "written",
]

NAME: Final = "{urn:example:tea}tea"
"""The payload of questions and answers alike."""

LEGACY_LIST: Final = "eu.siacs.conversations.axolotl.devicelist"

ENCRYPTED: Final = "{urn:xmpp:omemo:2}encrypted"
ERROR: Final = "{jabber:client}error"


class Switchboard(World):
    """A server whose clients reach each other by their full JIDs, of which no two are the same.

    Attributes:
        carried: every IQ from client to client, in order, as it was sent.
        rule: what becomes of one; by default it arrives.
        holding: types of IQs that do not arrive.
        held: those that did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.carried: list[Element] = []
        self.rule: Callable[[Element], Sequence[Element]] = lambda iq: [iq]
        self.holding: set[str] = set()
        self.held: list[Element] = []
        self._waiting: asyncio.Queue[Element] = asyncio.Queue()

    def client(self, name: str) -> TestClient:
        """A client with a resource of its own."""
        made = TestClient(self, f"{name}@example.org/{name}-{len(self.clients)}")
        self.clients.append(made)
        return made

    def asked(self, client: TestClient, iq: Element) -> None:
        """Carry what goes to a full JID."""
        if not JID(iq.get("to", "")).resource:
            super().asked(client, iq)
            return
        iq.set("from", client.boundjid.full)
        self.carried.append(iq)
        self._waiting.put_nowait(iq)
        if iq.get("type") in self.holding:
            self.held.append(iq)
            return
        for each in self.rule(fromstring(tostring(iq))):  # noqa: S314 -- made here
            self.hand_over(each)

    def hand_over(self, iq: Element) -> None:
        """Bring an IQ to its recipient, or back with an error."""
        for client in self.clients:
            if client.boundjid.full == iq.get("to") and client.bound and not client.stopped:
                client.receive(fromstring(tostring(iq)))  # noqa: S314 -- made here
                return
        if iq.get("type") in ("get", "set"):
            ends = {"from": iq.get("to", ""), "to": iq.get("from", ""), "id": iq.get("id", "")}
            bounced = Element(iq.tag, {**ends, "type": "error"})
            bounced.extend(iq)  # as ejabberd does: with everything that was sent
            error = SubElement(bounced, ERROR, {"type": "cancel"})
            SubElement(error, f"{ERRORS}service-unavailable")
            self.hand_over(bounced)

    async def next(self) -> Element:
        """The next IQ that was carried; each is returned once."""
        async with asyncio.timeout(SECONDS):
            return await self._waiting.get()


def jid(party: Party) -> str:
    """Somebody's full JID."""
    return party.client.boundjid.full


def query(text: str = "", name: str = NAME) -> Element:
    """A payload."""
    made = Element(name)
    made.text = text
    return made


def condition(iq: Element) -> list[str]:
    """The conditions of the error that stands outside of an envelope."""
    error = iq.find(ERROR)
    return [] if error is None else [child.tag.partition("}")[2] for child in error]


def answered(party: Party, answer: Any = None) -> list[Any]:
    """Have somebody give an answer, which may be an exception; the questions that were heard."""
    heard: list[Any] = []

    async def on_tea(question: Any) -> Any:
        heard.append(question)
        if isinstance(answer, Exception):
            raise answer
        return await answer(question) if callable(answer) else answer

    party.chat.on_iq(NAME, on_tea)
    return heard


def sealed_for(iq: Element) -> dict[str, set[str]]:
    """The devices that an IQ was encrypted for, by account."""
    return {
        group.get("jid", ""): {key.get("rid", "") for key in group}
        for group in iq.iter("{urn:xmpp:omemo:2}keys")
    }


async def sealed_iq(party: Party, header: IqHeader, *content: Element) -> SealedIq:
    """Any content, sealed with the true ratchets for an IQ that may never have been."""
    account = party.chat._account
    await account.audience(bare(header.recipient))
    seal = partial(account.iqs.seal, header, content, None)
    pending = await account.begin(seal, lambda _: lambda _: None)
    await pending.finish()
    return pending.value


def written(header: IqHeader, *children: Element) -> Element:
    """An IQ as it goes over the wire."""
    made = Element(
        "{jabber:client}iq",
        {
            "type": header.kind,
            "id": header.iq_id,
            "from": header.sender,
            "to": header.recipient,
        },
    )
    made.extend(children)
    return made


async def of_another_make(
    town: Town, name: str, monkeypatch: pytest.MonkeyPatch, *, legacy: bool = False
) -> Party:
    """Somebody whose envelopes do not name the IQ they are for, and whose label is not ours.

    With `legacy` it is in the list of legacy OMEMO as well, where no one is taken for a reader.
    """
    with monkeypatch.context() as patch:
        patch.setattr("eph_e2ee.xmpp.startup.LABEL_MARKER", "tea timer")
        party = await town.party(name)
    if not legacy:
        del town.world.items[party.jid, LEGACY_LIST]
    envelopes = party.chat._account.iqs._envelopes
    build = envelopes.build
    monkeypatch.setattr(
        envelopes,
        "build",
        lambda content, *, to, header: build(content, to=to),  # noqa: ARG005 -- the signature of what it stands for
    )
    return party


async def echo(question: Any) -> Element:
    return query(question.element.text)


async def said(rosa: Party, peter: Party, text: str) -> str | None:
    answer = await rosa.chat.iq(jid(peter), query(text))
    return None if answer is None else answer.text


async def disbelieved(rosa: Party, peter: Party) -> Reason:
    """Why an answer was not believed; the application is told in both ways."""
    with pytest.raises(RemoteProtocolError) as caught:
        await rosa.chat.iq(jid(peter), query())
    assert caught.value.__context__ is None
    assert rejections(rosa).pop() is caught.value.reason
    return caught.value.reason


async def refused(rosa: Party, peter: Party) -> IqRefused:
    """The error that a question is answered with."""
    with pytest.raises(IqRefused) as caught:
        await rosa.chat.iq(jid(peter), query())
    return caught.value


async def unauthenticated(rosa: Party, peter: Party) -> str:
    """The condition of an error in clear."""
    error = await refused(rosa, peter)
    assert not error.authenticated
    return error.refusal.condition


def changed(world: Switchboard, kind: str, change: Any) -> None:
    """Have the server change the IQs of a type on their way."""

    def rule(iq: Element) -> list[Element]:
        if iq.get("type") == kind:
            change(iq)
        return [iq]

    world.rule = rule


async def question(rosa: Party, peter: Party, *content: Element, **header: str) -> Element:
    """A question with any content, and perhaps in another IQ than it says, on the wire."""
    inside = IqHeader("get", "q1", jid(rosa), jid(peter))
    iq = await sealed_iq(rosa, inside, *content)
    return written(replace(inside, **header), iq.encrypted)


async def idle(party: Party) -> None:
    """Return once every question is dealt with."""
    async with asyncio.timeout(SECONDS):
        while tasks := set(party.chat._questions._tasks):
            await asyncio.wait(tasks)
        await asyncio.sleep(0)


async def heard(rosa: Party, peter: Party, iq: Element, world: Switchboard) -> Element | None:
    """What somebody answers to an IQ that the server brings; nothing else is on its way."""
    before = len(world.carried)
    peter.client.receive(iq)
    await idle(peter)
    await idle(rosa)
    answers = [each for each in world.carried[before:] if each.get("to") == jid(rosa)]
    assert len(answers) <= 1
    return answers[0] if answers else None


def altered(iq: Element, *, sender: str = "", iq_id: str = "", kind: str = "") -> Element:
    """An IQ with another header, and the same children."""
    changes = {"from": sender, "id": iq_id, "type": kind}
    made = Element(iq.tag, {**iq.attrib, **{key: value for key, value in changes.items() if value}})
    made.extend(iq)
    return made
