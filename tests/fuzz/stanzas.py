"""What a server hands over: messages, presences and IQs of every kind that is looked at here."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from eph_e2ee.xmpp.displayed import NODE as DISPLAYED
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.startup import DEVICE_LIST_NODES
from tests.fuzz import words
from tests.fuzz.trees import FUZZ, bloated, element, mutated

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from tests.fuzz.source import Source

__all__ = [
    "CHILDREN",
    "PUBSUB",
    "bundle",
    "delay",
    "devices",
    "encrypted",
    "envelope",
    "fin",
    "iq",
    "items",
    "message",
    "presence",
    "result",
    "stanza",
]

BUNDLES: Final = "eu.siacs.conversations.axolotl.bundles:1"
CARBONS: Final = "{urn:xmpp:carbons:2}"
CLIENT: Final = "{jabber:client}"
EVENT: Final = "{http://jabber.org/protocol/pubsub#event}"
FORWARD: Final = "{urn:xmpp:forward:0}"
MAM: Final = "{urn:xmpp:mam:2}"
MUC: Final = "{http://jabber.org/protocol/muc#user}"
PUBSUB: Final = "{http://jabber.org/protocol/pubsub}"
SID: Final = "{urn:xmpp:sid:0}"
SM: Final = "{urn:xmpp:sm:3}"
XSI: Final = "{http://www.w3.org/2001/XMLSchema-instance}"

KINDS: Final = ("chat", "", "normal", "headline", "groupchat", "error", "get", "result", "\u00e4")


def stanza(source: Source) -> Element:
    """Anything."""
    make = source.one((message, message, message, presence, iq, managed))
    return mutated(source, make(source))


def message(source: Source) -> Element:
    """A message with some children."""
    made = element(f"{CLIENT}message", to=words.address(source), id=words.name(source))
    made.set("from", words.address(source))
    made.set("type", source.one(KINDS))
    for _ in range(1 + source.below(3)):
        made.append(source.one(CHILDREN)(source))
    return made


def presence(source: Source) -> Element:
    """A presence, of a room or not."""
    made = element(f"{CLIENT}presence", to=words.address(source))
    made.set("from", words.address(source))
    kind = source.one(("", "unavailable", "subscribe", "subscribed", "unsubscribed", "error"))
    if kind:
        made.set("type", kind)
    for _ in range(source.below(4)):
        made.append(source.one((_user, _caps, _error, delay, _show, _strange))(source))
    return made


def iq(source: Source) -> Element:
    """A question, or an answer that nobody has asked for."""
    made = element(f"{CLIENT}iq", to=words.address(source), id=words.name(source))
    made.set("from", words.address(source))
    made.set("type", source.one(("get", "set", "result", "error", "\u00e4")))
    made.append(source.one(QUESTIONS)(source))
    return made


def managed(source: Source) -> Element:
    """What stands beside stanzas in a managed stream (XEP-0198)."""
    return element(f"{SM}{source.one(('a', 'r'))}", h=words.number(source))


def result(source: Source, query: str | None = None) -> Element:
    """A result of an archive; `query` names the query."""
    inside = message(source)
    if source.chance(3):
        inside.set("type", "groupchat")
    forwarded = element(f"{FORWARD}forwarded", delay(source), inside)
    named = words.name(source) if query is None else query
    return element(f"{MAM}result", forwarded, queryid=named, id=words.name(source))


def devices(source: Source) -> Element:
    """A device list of either namespace."""
    modern = source.chance(2)
    made = element(f"{{{MODERN}}}devices" if modern else f"{{{OLD}}}list")
    for _ in range(words.count(source)):
        device = element(f"{{{MODERN}}}device" if modern else f"{{{OLD}}}device")
        device.set("id", words.number(source))
        if source.chance(2):
            device.set("label", words.text(source))
            device.set("labelsig", _base64(source))
        made.append(device)
    return made


def items(source: Source, namespace: str, node: str | None = None) -> Element:
    """What a node holds, or says that it does."""
    made = element(f"{namespace}items")
    made.set("node", source.one((*DEVICE_LIST_NODES, DISPLAYED, BUNDLES)) if node is None else node)
    if source.chance(400):
        made.append(element(f"{FUZZ}many", of=f"{namespace}item", children="3000"))
    for _ in range(words.count(source)):
        kind = "retract" if source.chance(8) else "item"
        item = element(f"{namespace}{kind}", id=words.address(source))
        if not source.chance(8):
            item.append(source.one((devices, devices, bundle, _displayed, _strange))(source))
        made.append(item)
    return made


def bundle(source: Source) -> Element:
    """A bundle of either namespace, with keys that mostly are none."""
    if source.chance(2):
        keys = [_named(f"{{{MODERN}}}pk", "id", source) for _ in range(words.count(source))]
        return element(
            f"{{{MODERN}}}bundle",
            _named(f"{{{MODERN}}}spk", "id", source),
            element(f"{{{MODERN}}}spks", text=_base64(source)),
            element(f"{{{MODERN}}}ik", text=_base64(source)),
            element(f"{{{MODERN}}}prekeys", *keys),
        )
    keys = [
        _named(f"{{{OLD}}}preKeyPublic", "preKeyId", source) for _ in range(words.count(source))
    ]
    return element(
        f"{{{OLD}}}bundle",
        _named(f"{{{OLD}}}signedPreKeyPublic", "signedPreKeyId", source),
        element(f"{{{OLD}}}signedPreKeySignature", text=_base64(source)),
        element(f"{{{OLD}}}identityKey", text=_base64(source)),
        element(f"{{{OLD}}}prekeys", *keys),
    )


def envelope(source: Source) -> Element:
    """An envelope that nobody has encrypted."""
    content = element("{urn:xmpp:sce:1}content", _body(source))
    return element("{urn:xmpp:sce:1}envelope", content)


def encrypted(source: Source) -> Element:
    """What looks like OMEMO and opens for nobody."""
    namespace = source.one((MODERN, OLD))
    keys = [_key(source, namespace) for _ in range(words.count(source))]
    if namespace == MODERN:
        groups = element(f"{{{MODERN}}}keys", *keys, jid=source.one((words.OWN, words.PEER, "")))
        header = element(f"{{{MODERN}}}header", groups, sid=words.number(source))
    else:
        iv = element(f"{{{OLD}}}iv", text=_base64(source))
        header = element(f"{{{OLD}}}header", *keys, iv, sid=words.number(source))
    made = element(f"{{{namespace}}}encrypted", header)
    if not source.chance(4):
        made.append(element(f"{{{namespace}}}payload", text=_base64(source)))
    if source.chance(16):
        made.set(f"{XSI}schemaLocation", f"{namespace} file:///dev/stdin")
    return made


def _key(source: Source, namespace: str) -> Element:
    own = source.chance(2)
    key = element(f"{{{namespace}}}key", text=_base64(source))
    key.set("rid", words.DEVICE if own else words.number(source))
    if source.chance(3):
        marked = "kex" if namespace == MODERN else "prekey"
        key.set(marked, source.one(("true", "false", "1", "0", "TRUE", "")))
    return key


def _base64(source: Source) -> str:
    if source.chance(6):
        return words.text(source)
    data = source.take(100)
    if source.chance(2):
        data = (data * 34)[: source.one((16, 32, 33, 64, 100))]
    return base64.b64encode(data).decode()


def _named(tag: str, attribute: str, source: Source) -> Element:
    made = element(tag, text=_base64(source))
    made.set(attribute, words.number(source))
    return made


def _carbon(source: Source) -> Element:
    inside = element(f"{FORWARD}forwarded", message(source))
    if source.chance(2):
        inside.append(delay(source))
    return element(f"{CARBONS}{source.one(('sent', 'received', 'private'))}", inside)


def _event(source: Source) -> Element:
    if source.chance(8):
        kind = source.one(("purge", "delete", "configuration", "subscription", "collection"))
        return element(f"{EVENT}event", element(f"{EVENT}{kind}", node=DEVICE_LIST_NODES[0]))
    return element(f"{EVENT}event", items(source, EVENT))


def _displayed(source: Source) -> Element:
    stanza_id = element(f"{SID}stanza-id", id=words.name(source), by=words.address(source))
    return element(f"{{{DISPLAYED}}}displayed", stanza_id)


def delay(source: Source) -> Element:
    made = element("{urn:xmpp:delay}delay", stamp=words.stamp(source))
    made.set("from", words.address(source))
    return made


def _stanza_id(source: Source) -> Element:
    return element(f"{SID}stanza-id", id=words.name(source), by=words.address(source))


def _origin_id(source: Source) -> Element:
    return element(f"{SID}origin-id", id=words.name(source))


def _body(source: Source) -> Element:
    return element(f"{CLIENT}body", text=words.text(source))


def _show(source: Source) -> Element:
    return element(f"{CLIENT}{source.one(('show', 'status', 'priority'))}", text=words.text(source))


def _ephemeral(source: Source) -> Element:
    if source.chance(4):
        return element("{jabber:client}i-want-out")
    return element("{urn:xmpp:ephemeral:0}ephemeral", timer=words.number(source))


def _receipt(source: Source) -> Element:
    tag = source.one(("{urn:xmpp:receipts}received", "{urn:xmpp:chat-markers:0}displayed"))
    return element(tag, id=words.name(source))


def _error(source: Source) -> Element:
    condition = source.one(("item-not-found", "service-unavailable", "gone", "x"))
    inside = element(f"{{urn:ietf:params:xml:ns:xmpp-stanzas}}{condition}")
    made = element(f"{CLIENT}error", inside, by=words.address(source), code=words.number(source))
    made.set("type", source.one(("cancel", "wait", "auth", "modify", "continue", "", "\u00e4")))
    return made


def _user(source: Source) -> Element:
    made = element(f"{MUC}x")
    for _ in range(1 + source.below(3)):
        made.append(source.one((_item, _status, _invitation))(source))
    return made


def _item(source: Source) -> Element:
    made = element(f"{MUC}item", jid=words.address(source), nick=words.text(source))
    made.set("affiliation", source.one(("member", "owner", "none", "outcast", "", "\u00e4")))
    made.set("role", source.one(("participant", "none", "moderator", "")))
    return made


def _status(source: Source) -> Element:
    return element(
        f"{MUC}status", code=source.one(("110", "100", "303", "104", "x", "", "9" * 5000))
    )


def _invitation(source: Source) -> Element:
    made = element(f"{MUC}{source.one(('invite', 'decline', 'destroy'))}", to=words.address(source))
    made.set("from", words.address(source))
    return made


def _caps(source: Source) -> Element:
    made = element("{http://jabber.org/protocol/caps}c", ver=words.name(source))
    made.set("hash", source.one(("sha-1", "sha-256", "", "md5", "\u00e4")))
    made.set("node", words.text(source))
    return made


def _form(source: Source) -> Element:
    field = element("{jabber:x:data}field", var=words.name(source))
    field.set("type", source.one(("hidden", "boolean", "jid-multi", "list-multi", "x", "")))
    field.append(element("{jabber:x:data}value", text=words.text(source)))
    return element("{jabber:x:data}x", field, type="result")


def _strange(source: Source) -> Element:
    if source.chance(60):
        return bloated(source)
    inside = element("{urn:example}inner", text=words.text(source))
    return element(f"{{urn:example}}{source.one(('x', 'y', 'z'))}", inside, id=words.name(source))


def _eme(source: Source) -> Element:
    return element("{urn:xmpp:eme:0}encryption", namespace=source.one((MODERN, OLD, "", "x")))


def _hint(source: Source) -> Element:
    return element(f"{{urn:xmpp:hints}}{source.one(('store', 'no-store', 'x'))}")


def _roster(source: Source) -> Element:
    item = element("{jabber:iq:roster}item", jid=words.address(source))
    item.set("subscription", source.one(("both", "none", "remove", "to", "\u00e4")))
    return element("{jabber:iq:roster}query", item, ver=words.name(source))


def _info(source: Source) -> Element:
    namespace = f"http://jabber.org/protocol/disco#{source.one(('info', 'items'))}"
    made = element(f"{{{namespace}}}query", node=words.name(source))
    if source.chance(2):
        identity = element(f"{{{namespace}}}identity", category=words.text(source), type=".")
        feature = element(f"{{{namespace}}}feature", var=words.text(source))
        made.extend((identity, feature, _form(source)))
    return made


def _pubsub(source: Source) -> Element:
    return element(f"{PUBSUB}pubsub", items(source, PUBSUB))


def fin(source: Source) -> Element:
    return element(f"{MAM}fin", complete=source.one(("true", "false", "", "\u00e4")))


def _bare(source: Source) -> Element:
    tags = ("{urn:xmpp:time}time", "{urn:xmpp:ping}ping", "{jabber:iq:version}query")
    return element(source.one(tags), text=words.text(source))


def _jingle(source: Source) -> Element:
    return element("{urn:xmpp:jingle:1}jingle", sid=words.name(source), action=words.name(source))


CHILDREN: Final[tuple[Callable[[Source], Element], ...]] = (
    *(encrypted, encrypted, _carbon, _carbon, result, result, _event, _event, _event),
    *(delay, _stanza_id, _origin_id, _body, _ephemeral, _receipt, _error, _user, _strange),
    *(_eme, _hint, envelope, _form, fin, _caps, _pubsub, _show),
)

QUESTIONS: Final[tuple[Callable[[Source], Element], ...]] = (
    *(_roster, _info, _pubsub, fin, _bare, _jingle, _error, _strange, envelope, _form),
    *(encrypted, result),
)
