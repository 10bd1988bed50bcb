"""XEP-0466 on a client: advertised, and written on messages that nothing encrypts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import fromstring

import pytest
from slixmpp import JID
from slixmpp.stanza import Message

import eph_e2ee
from eph_e2ee import LocalProtocolError
from eph_e2ee.protocol.ephemeral import MAX_TIMER
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.xmpp.account import Account
from eph_e2ee.xmpp.elements import Ephemeral
from tests.xmpp.clients import OurPlugin
from tests.xmpp.test_startup import features, settled, traces

if TYPE_CHECKING:
    from eph_e2ee.vault.vault import Vault
    from tests.xmpp.clients import TestClient, World

NAMESPACE = "urn:xmpp:ephemeral:0"
DAY, WEEK = timedelta(days=1), timedelta(days=7)
PETER = "peter@example.org"
EPHEMERAL = f"{{{NAMESPACE}}}ephemeral"
OPT_OUT = f"{{{NAMESPACE}}}i-want-out"
STORE = "{urn:xmpp:hints}store"
NO_PERMANENT_STORE = "{urn:xmpp:hints}no-permanent-store"
ENCRYPTED = [
    "<encrypted xmlns='urn:xmpp:omemo:2'/>",
    "<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
    "<encrypted xmlns='urn:example:of-the-future'/>",
    "<encryption xmlns='urn:xmpp:eme:0' namespace='urn:xmpp:otr:0'/>",
    "<openpgp xmlns='urn:xmpp:openpgp:0'/>",
    "<x xmlns='jabber:x:encrypted'/>",
    "<e2e xmlns='urn:ietf:params:xml:ns:xmpp-e2e'/>",
    "<envelope xmlns='urn:xmpp:sce:1'/>",
    "<body>?OTRv23?</body>",
]


def timer(value: str) -> str:
    return f"<ephemeral xmlns='{NAMESPACE}' timer='{value}'/>"


def message(client: TestClient, inside: str = "<body>text</body>") -> Message:
    xml = f"<message xmlns='jabber:client' to='{PETER}/x' type='chat'>{inside}</message>"
    return Message(client, xml=fromstring(xml))  # type: ignore[no-untyped-call] # noqa: S314 -- the test's own text


def tags(stanza: Message) -> list[str]:
    return [child.tag for child in stanza.xml]


def enabled(client: TestClient) -> Any:
    return client.plugin.get("xep_0466", None)


@pytest.fixture
def client(world: World) -> TestClient:
    return world.client("rosa")


@pytest.fixture
def plugin(client: TestClient) -> eph_e2ee.XEP_0466:
    made: eph_e2ee.XEP_0466 = client.plug(eph_e2ee.XEP_0466)
    return made


# -- the feature -----------------------------------------------------------------------------------


async def test_the_feature_is_advertised_under_every_resource(client: TestClient) -> None:
    """XEP-0466 section 2, F40: otherwise nobody knows that timers are honoured."""
    client.plug(eph_e2ee.XEP_0466)
    assert NAMESPACE not in await features(client)
    for resource in ("first", "second"):
        client.boundjid = JID(f"rosa@example.org/{resource}")
        client.event("session_bind", client.boundjid)
        await settled()
        assert NAMESPACE in await features(client)


async def test_the_feature_is_withdrawn_everywhere(client: TestClient) -> None:
    """Timers are no longer honoured."""
    client.plug(eph_e2ee.XEP_0466)
    jids = [JID(f"rosa@example.org/{resource}") for resource in ("first", "second")]
    for jid in jids:
        client.boundjid = jid
        client.event("session_bind", jid)
        await settled()
    manager: Any = client.plugin
    manager.disable("xep_0466")
    for jid in jids:
        client.boundjid = jid
        assert NAMESPACE not in await features(client)


async def test_the_end_leaves_everything_as_it_was(client: TestClient, world: World) -> None:
    """STYLE 13. What slixmpp keeps by class serves the process's other clients on."""
    for name in ("xep_0060", "xep_0115"):
        client.register_plugin(name)
    client.event("session_bind", client.boundjid)
    await settled()
    before = await traces(client)
    client.plug(eph_e2ee.XEP_0466)
    client.event("session_bind", client.boundjid)
    await settled()
    during = await traces(client)
    assert all(during[name] != before[name] for name in ("events", "handlers", "features"))
    other = world.client("peter")
    other.plug(eph_e2ee.XEP_0466)
    manager: Any = client.plugin
    manager.disable("xep_0466")
    await settled()
    after = await traces(client)
    assert after.pop("tasks") <= before.pop("tasks")
    assert after == before
    assert message(other, timer("5"))["ephemeral"]["timer"] == 5


# -- the elements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "seconds", "out"),
    [
        ("", None, False),
        (timer("604800"), 604800, False),
        (timer(" +007 "), 7, False),
        (timer("9") + timer("0") + timer("5") + timer("x"), 5, False),
        (timer("0"), 0, False),
        (timer("-1"), None, False),
        (timer(str(MAX_TIMER + 1)), None, False),
        (f"<ephemeral xmlns='{NAMESPACE}'/>", None, False),
        ("<ephemeral xmlns='urn:example' timer='5'/>", None, False),
        (f"<x xmlns='urn:example'>{timer('5')}</x>", None, False),
        (f"<i-want-out xmlns='{NAMESPACE}'/>", 0, True),
        ("<i-want-out/>", 0, True),
        (timer("0") + "<i-want-out/>", 0, True),
        (timer("5") + "<i-want-out/>", 5, False),
    ],
)
def test_what_a_message_says_is_read(
    inside: str, seconds: int | None, *, out: bool, client: TestClient, plugin: object
) -> None:
    """The lexical rules, direct children alone, the shortest above zero; nothing is changed."""
    assert plugin
    stanza = message(client, inside)
    before = tags(stanza)
    assert stanza["ephemeral"]["timer"] == seconds
    assert stanza["i_want_out"] is out
    assert stanza.values
    assert tags(stanza) == before


def test_what_a_message_says_is_written(client: TestClient, plugin: object) -> None:
    assert plugin
    stanza = message(client, "<body>text</body>" + timer("5") + timer("7"))
    stanza["ephemeral"]["timer"] = MAX_TIMER
    stanza["i_want_out"] = True
    assert [each.get("timer") for each in stanza.xml.findall(EPHEMERAL)] == [str(MAX_TIMER)]
    assert stanza.xml.find(OPT_OUT) is not None
    stanza["i_want_out"] = False
    del stanza["ephemeral"]["timer"]
    assert tags(stanza) == ["{jabber:client}body"]
    stanza["ephemeral"]["timer"] = 5
    del stanza["ephemeral"]
    assert tags(stanza) == ["{jabber:client}body"]
    assert stanza["ephemeral"]["timer"] is None


@pytest.mark.parametrize("seconds", [-1, 0, MAX_TIMER + 1, 1.5, "5", True])
def test_a_timer_that_is_none_is_not_written(
    seconds: Any, client: TestClient, plugin: object
) -> None:
    """F30: also no zero beside a body, which some clients take for "burn now"."""
    assert plugin
    stanza = message(client, "<body>text</body>" + timer("9"))
    with pytest.raises(LocalProtocolError):
        stanza["ephemeral"]["timer"] = seconds
    assert stanza["ephemeral"]["timer"] == 9


def test_a_zero_stands_where_there_is_no_text(client: TestClient, plugin: object) -> None:
    assert plugin
    stanza = message(client, "")
    stanza["ephemeral"]["timer"] = 0
    assert stanza["ephemeral"]["timer"] == 0


def test_an_element_belongs_on_a_message() -> None:
    with pytest.raises(LocalProtocolError):
        Ephemeral()


@pytest.mark.parametrize("secret", ENCRYPTED)
def test_nothing_in_clear_beside_what_is_encrypted(
    secret: str, client: TestClient, plugin: eph_e2ee.XEP_0466
) -> None:
    """F31, F32, F33: neither believed nor written."""
    stanza = message(client, secret + timer("5") + f"<i-want-out xmlns='{NAMESPACE}'/>")
    before = tags(stanza)
    assert stanza["ephemeral"]["timer"] is None
    assert stanza["i_want_out"] is False
    with pytest.raises(LocalProtocolError):
        stanza["ephemeral"]["timer"] = 7
    with pytest.raises(LocalProtocolError):
        stanza["i_want_out"] = True
    with pytest.raises(LocalProtocolError):
        plugin.set_timer(stanza, DAY)
    with pytest.raises(LocalProtocolError):
        plugin.include_timer(message(client, f"<body>text</body>{secret}"))
    assert tags(stanza) == before
    assert plugin.timer(PETER) is None


# -- writing, with hints ---------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
def test_archives_are_asked_to_keep_nothing_if_wanted(client: TestClient, *, wanted: bool) -> None:
    """XEP-0466 section 3: MAY. Off, if nobody asks for it."""
    plugin = client.plug(eph_e2ee.XEP_0466, no_permanent_store=wanted)
    stanza = message(client)
    plugin.set_timer(stanza, DAY)
    assert (NO_PERMANENT_STORE in tags(stanza)) is wanted
    plugin.set_timer(stanza, WEEK)
    assert tags(stanza).count(NO_PERMANENT_STORE) == wanted
    assert stanza["ephemeral"]["timer"] == 604800
    assert STORE not in tags(stanza)


def test_hints_never_contradict_each_other(client: TestClient) -> None:
    """F34."""
    plugin = client.plug(eph_e2ee.XEP_0466, no_permanent_store=True)
    stored = message(client, "<body>text</body><store xmlns='urn:xmpp:hints'/>")
    plugin.set_timer(stored, DAY)
    assert NO_PERMANENT_STORE not in tags(stored)
    hints = "<store xmlns='urn:xmpp:hints'/><no-permanent-store xmlns='urn:xmpp:hints'/>"
    change = message(client, f"{hints}<no-store xmlns='urn:xmpp:hints'/>")
    plugin.set_timer(change, DAY)
    assert sorted(tags(change)) == sorted([EPHEMERAL, STORE])
    for sent in (plugin.change(PETER, WEEK), plugin.change(PETER, None)):
        assert tags(sent).count(STORE) == 1
        assert NO_PERMANENT_STORE not in tags(sent)


def test_a_change_is_sent_at_once(client: TestClient, plugin: eph_e2ee.XEP_0466) -> None:
    """XEP-0466 section 3.4: no body, the element, a store hint (MUST)."""
    plugin.change(f"{PETER}/x", DAY)
    (sent,) = client.sent
    assert (sent["to"], sent["type"]) == (PETER, "chat")
    assert tags(sent) == [EPHEMERAL, STORE]
    assert sent["ephemeral"]["timer"] == 86400
    assert plugin.timer(PETER) == DAY


def test_turning_timers_off_is_said_in_two_ways(
    client: TestClient, plugin: eph_e2ee.XEP_0466
) -> None:
    plugin.change(PETER, WEEK)
    off = plugin.change(PETER, None)
    assert tags(off) == [EPHEMERAL, OPT_OUT, STORE]
    assert (off["ephemeral"]["timer"], off["i_want_out"]) == (0, True)
    assert plugin.timer(PETER) is None
    assert len(client.sent) == 2


def test_messages_carry_the_conversations_timer(
    client: TestClient, plugin: eph_e2ee.XEP_0466
) -> None:
    """XEP-0466 section 3.3; and nothing where there is none."""
    stanza = message(client)
    plugin.include_timer(stanza)
    assert tags(stanza) == ["{jabber:client}body"]
    plugin.set_timer(message(client), DAY)
    plugin.include_timer(stanza)
    assert stanza["ephemeral"]["timer"] == 86400
    with pytest.raises(LocalProtocolError):
        plugin.include_timer(message(client, ""))


@pytest.mark.parametrize("wrong", [timedelta(0), -DAY, timedelta(seconds=1.5), 50000 * DAY])
def test_wrong_timers_are_refused(
    wrong: timedelta, client: TestClient, plugin: eph_e2ee.XEP_0466
) -> None:
    stanza = message(client)
    with pytest.raises(LocalProtocolError):
        plugin.set_timer(stanza, wrong)
    with pytest.raises(LocalProtocolError):
        plugin.change(PETER, wrong)
    assert tags(stanza) == ["{jabber:client}body"]
    assert (client.sent, plugin.timer(PETER)) == ([], None)


@pytest.mark.parametrize("wrong", [5, 0, 2.5, "7d", True])
def test_a_timer_is_a_timedelta(wrong: Any, client: TestClient, plugin: eph_e2ee.XEP_0466) -> None:
    stanza = message(client)
    with pytest.raises(TypeError, match="give a timer as a timedelta"):
        plugin.set_timer(stanza, wrong)
    with pytest.raises(TypeError, match="give a timer as a timedelta"):
        plugin.change(PETER, wrong)
    assert (client.sent, plugin.timer(PETER)) == ([], None)


def test_a_message_without_an_address_belongs_to_no_conversation(
    client: TestClient, plugin: eph_e2ee.XEP_0466
) -> None:
    stanza = message(client)
    del stanza["to"]
    with pytest.raises(LocalProtocolError):
        plugin.set_timer(stanza, DAY)


@pytest.mark.parametrize("jid", ["", None])
def test_a_change_for_nobody(jid: Any, client: TestClient, plugin: eph_e2ee.XEP_0466) -> None:
    """The server would get it."""
    with pytest.raises(LocalProtocolError, match="an address is missing"):
        plugin.change(jid, DAY)
    with pytest.raises(LocalProtocolError, match="an address is missing"):
        plugin.timer(jid)
    assert client.sent == []


# -- beside encryption -----------------------------------------------------------------------------


async def test_an_attached_client_writes_nothing_in_clear(client: TestClient, vault: Vault) -> None:
    """F32, F33; and the application's own plugin stays as it was, before and after."""
    own: Any = client.plug(eph_e2ee.XEP_0466, no_permanent_store=True)
    account = Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 0.0)
    assert enabled(client) is own
    stanza = message(client)
    with pytest.raises(LocalProtocolError):
        own.set_timer(stanza, DAY)
    with pytest.raises(LocalProtocolError):
        own.include_timer(stanza)
    with pytest.raises(LocalProtocolError):
        stanza["ephemeral"]["timer"] = 5
    with pytest.raises(LocalProtocolError):
        own.change(PETER, None)
    assert (client.sent, tags(stanza)) == ([], ["{jabber:client}body"])
    await account.detach()
    assert enabled(client) is own
    own.change(PETER, DAY)
    own.set_timer(stanza, DAY)
    assert len(client.sent) == 1


async def test_a_plugin_that_the_application_took_away_is_not_missed(
    client: TestClient, vault: Vault
) -> None:
    account = Account.attached(client, Ratchets(vault), blind_trust=True, now=lambda: 0.0)
    manager: Any = client.plugin
    manager.disable("xep_0466")
    await account.detach()
    assert "xep_0384" not in client.plugin


async def test_beside_omemo_a_timer_goes_into_the_envelope(world: World) -> None:
    """F32, F33: of the stanza nothing is left in clear, and no change is sent beside it."""
    rosa, peter = world.client("rosa"), world.client("peter")
    plain = rosa.plug(eph_e2ee.XEP_0466)
    sealing, opening = rosa.plug(OurPlugin), peter.plug(OurPlugin)
    for each in (rosa, peter):
        await each.bind()
    with pytest.raises(LocalProtocolError):
        plain.change(PETER, DAY)
    stanza: Any = rosa.make_message(mto=JID(PETER), mbody="text", mtype="chat")
    stanza["ephemeral"]["timer"] = 5
    sealed, _ = await sealing.encrypt_message(stanza, JID(PETER))
    assert sealed.xml.find(EPHEMERAL) is None
    arrived = world.carry(sealed, rosa, peter)
    arrived.xml.append(fromstring(timer("7")))  # noqa: S314 -- the test's own text
    assert arrived["ephemeral"]["timer"] is None
    opened, _ = await opening.decrypt_message(arrived)
    assert opened["ephemeral"]["timer"] == 5
