"""How far devices are trusted, and what that means for reading, answering and telling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import omemo
import pytest
import xeddsa
from omemo.session_manager import NoEligibleDevices, SenderDistrusted, StillUndecided

from eph_e2ee.errors import Reason, RemoteProtocolError
from eph_e2ee.model import Trust, Untrusted
from eph_e2ee.xmpp.parcel import MODERN, OLD
from eph_e2ee.xmpp.trust import LEVELS, UNASKED, grouped, level_of
from tests.xmpp.people import Person, Server, talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from omemo.types import DeviceInformation

    from eph_e2ee.events import NewDevice

    NewPerson = Callable[[str], Awaitable[Person]]


class Noting:
    """A policy that notes who has appeared."""

    def __init__(self, untrusted: Untrusted = Untrusted.DELIVER) -> None:
        self.untrusted = untrusted
        self.told: list[NewDevice] = []

    def appeared(self, device: NewDevice) -> None:
        self.told.append(device)


def governed(person: Person, untrusted: Untrusted = Untrusted.DELIVER) -> Noting:
    """Give an account a policy; each has a class of its own."""
    policy = Noting(untrusted)
    type(person.sessions).policy = policy
    return policy


def by_hand(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(person.sessions), "_btbv_enabled", False)


async def device_of(knower: Person, known: Person) -> DeviceInformation:
    """What one knows of the other's device."""
    devices = await knower.sessions.get_device_information(known.jid)
    found: DeviceInformation = next(each for each in devices if each.device_id == known.device)
    return found


async def decide(knower: Person, known: Person, level: Trust) -> None:
    key = (await device_of(knower, known)).identity_key
    await knower.sessions.set_trust(known.jid, key, LEVELS[level].name)


async def level(knower: Person, known: Person) -> Trust:
    return level_of(await device_of(knower, known))


async def standing(knower: Person, known: Person) -> Trust:
    device = await device_of(knower, known)
    return await knower.gate.run(lambda: knower.sessions.standing(device))


# -- names -----------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_key_that_people_compare() -> None:
    """Whatever its form was: eight groups of eight, of the key in its Curve25519 form."""
    seed = bytes(range(32))
    shown = grouped(xeddsa.seed_to_ed25519_pub(seed))
    assert shown is not None
    groups = shown.split(" ")
    assert [len(group) for group in groups] == [8] * 8
    key = xeddsa.priv_to_curve25519_pub(xeddsa.seed_to_priv(seed))
    assert "".join(groups) == key.hex()
    # X25519 of the seed's SHA-512, as OpenSSL computes it.
    assert shown.startswith("4701d084 88451f54")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32), b"\xff" * 32, bytes(33)])
def test_what_is_no_key_has_no_fingerprint(key: bytes) -> None:
    """F42: a peer has published it."""
    assert grouped(key) is None


def test_every_level_has_its_name_in_slixmpp_omemo() -> None:
    assert set(LEVELS) == set(Trust)
    assert [level.name for level in LEVELS.values()] == [trust.name for trust in LEVELS]


@pytest.mark.parametrize("name", ["", "trusted", "VERIFIED"])
async def test_a_level_that_is_not_ours_decides_nothing(name: str, person: NewPerson) -> None:
    rosa = await person("rosa")
    device = (await device_of(rosa, rosa))._replace(trust_level_name=name)
    assert level_of(device) is Trust.UNDECIDED


# -- standing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "blindly", "manually"),
    [
        (Trust.TRUSTED, Trust.TRUSTED, Trust.TRUSTED),
        (Trust.BLINDLY_TRUSTED, Trust.BLINDLY_TRUSTED, Trust.UNDECIDED),
        (Trust.UNDECIDED, Trust.BLINDLY_TRUSTED, Trust.UNDECIDED),
        (Trust.DISTRUSTED, Trust.DISTRUSTED, Trust.DISTRUSTED),
    ],
)
async def test_how_far_a_lone_device_is_trusted(
    level: Trust,
    blindly: Trust,
    manually: Trust,
    person: NewPerson,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    await decide(rosa, peter, level)
    assert await standing(rosa, peter) is blindly
    by_hand(rosa, monkeypatch)
    assert await standing(rosa, peter) is manually


@pytest.mark.parametrize("level", [Trust.TRUSTED, Trust.DISTRUSTED])
async def test_one_decision_ends_blind_trust_for_the_account(
    level: Trust, person: NewPerson
) -> None:
    """And a device that was trusted blindly before keeps that."""
    rosa, peter = await person("rosa"), await person("peter")
    tablet, watch = await person("peter"), await person("peter")
    await rosa.knows(peter)
    await decide(rosa, watch, Trust.BLINDLY_TRUSTED)
    assert await standing(rosa, tablet) is Trust.BLINDLY_TRUSTED
    await decide(rosa, peter, level)
    assert await standing(rosa, tablet) is Trust.UNDECIDED
    assert await standing(rosa, watch) is Trust.BLINDLY_TRUSTED


# -- reading ---------------------------------------------------------------------------------------


@pytest.fixture
async def pair(person: NewPerson) -> tuple[Person, Person]:
    """Two accounts with a session that both have confirmed."""
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    return rosa, peter


async def test_without_a_policy_distrust_is_slixmpp_omemos(pair: tuple[Person, Person]) -> None:
    rosa, peter = pair
    await decide(peter, rosa, Trust.DISTRUSTED)
    with pytest.raises(SenderDistrusted):
        await peter.decrypt(await rosa.encrypt(peter, b"text"))


@pytest.mark.parametrize("level", Trust)
async def test_a_message_of_any_device_is_opened_to_be_delivered(
    level: Trust, pair: tuple[Person, Person]
) -> None:
    rosa, peter = pair
    governed(peter)
    await decide(peter, rosa, level)
    assert await peter.decrypt(await rosa.encrypt(peter, b"text")) == b"text"


@pytest.mark.parametrize(
    ("level", "reason"),
    [(Trust.UNDECIDED, Reason.UNDECIDED), (Trust.DISTRUSTED, Reason.DISTRUSTED)],
)
async def test_what_is_withheld_spends_no_key(
    level: Trust,
    reason: Reason,
    pair: tuple[Person, Person],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that nothing is lost: later it opens, and so does what came after it."""
    rosa, peter = pair
    governed(peter, Untrusted.WITHHOLD)
    by_hand(peter, monkeypatch)
    await decide(peter, rosa, level)
    messages = [await rosa.encrypt(peter, text) for text in (b"first", b"second")]
    for message in messages:
        with pytest.raises(RemoteProtocolError) as caught:
            await peter.decrypt(message)
        assert caught.value.reason is reason
    await decide(peter, rosa, Trust.TRUSTED)
    assert [await peter.decrypt(message) for message in messages] == [b"first", b"second"]


async def test_blind_trust_withholds_nothing(person: NewPerson) -> None:
    """Before a first message to a device nobody has decided on it, and nobody need."""
    rosa, peter = await person("rosa"), await person("peter")
    governed(peter, Untrusted.WITHHOLD)
    await rosa.knows(peter)
    assert await peter.decrypt(await rosa.encrypt(peter, b"text")) == b"text"


async def test_withheld_key_exchanges_build_nothing(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No session, no pre key spent, no answer; and later it opens."""
    rosa, peter = await person("rosa"), await person("peter")
    governed(peter, Untrusted.WITHHOLD)
    by_hand(peter, monkeypatch)
    await rosa.knows(peter)
    await peter.knows(rosa)
    message = await rosa.encrypt(peter, b"text")
    bundle = server.bundles[MODERN, peter.jid, peter.device]
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            await peter.decrypt(message)
    assert server.bundles[MODERN, peter.jid, peter.device] is bundle
    assert server.sent == []
    await decide(peter, rosa, Trust.TRUSTED)
    assert await peter.decrypt(message) == b"text"


# -- sending ---------------------------------------------------------------------------------------


async def test_a_distrusted_device_gets_nothing_not_even_an_answer(
    person: NewPerson, server: Server
) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    governed(peter)
    await rosa.knows(peter)
    await peter.knows(rosa)
    await decide(peter, rosa, Trust.DISTRUSTED)
    for _ in range(60):  # more than may stay unanswered
        assert await peter.decrypt(await rosa.encrypt(peter, b"text")) == b"text"
    assert server.sent == []
    with pytest.raises(NoEligibleDevices):
        await peter.encrypt(rosa, b"text")


async def test_an_undecided_device_gets_its_answer(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds nothing, and the sender's ratchet turns."""
    rosa, peter = await person("rosa"), await person("peter")
    governed(peter)
    by_hand(peter, monkeypatch)
    await rosa.knows(peter)
    await peter.decrypt(await rosa.encrypt(peter, b"text"))
    assert [recipient for _, recipient in server.sent] == [rosa.jid]


async def test_blind_trust_is_told_of_once_though_an_operation_begins_again(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who is trusted blindly, and one whose device has to be decided on."""
    rosa, peter = await person("rosa"), await person("peter")
    anna, tablet = await person("anna"), await person("anna")
    await rosa.knows(peter, anna)
    await decide(rosa, anna, Trust.TRUSTED)
    prompt = Prompt(rosa, monkeypatch)
    prompt.decides = [tablet.device]
    monkeypatch.setattr(type(rosa.sessions), "_btbv_enabled", True)
    told: list[Any] = []

    async def note(_: Any, devices: frozenset[DeviceInformation], identifier: str | None) -> None:
        told.append(([device.device_id for device in devices], identifier))
        assert await level(rosa, peter) is Trust.BLINDLY_TRUSTED

    network: Any = type(rosa.sessions).network
    monkeypatch.setattr(network, "_devices_blindly_trusted", note)
    both = frozenset({peter.jid, anna.jid})
    await rosa.sessions.encrypt(both, {MODERN: b"text"}, [MODERN], "for two")
    assert prompt.asked == [[tablet.device]]
    assert told == [([peter.device], "for two")]
    assert server.sent == []


@pytest.mark.parametrize("blindly", [True, False])
async def test_what_nobody_has_asked_for_asks_nobody(
    blindly: bool,  # noqa: FBT001 -- a parameter of the test
    person: NewPerson,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the application has a plugin of its own, which knows nothing of our identifier."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    prompt = Prompt(rosa, monkeypatch)
    monkeypatch.setattr(type(rosa.sessions), "_btbv_enabled", blindly)
    told: list[str | None] = []

    async def note(_: Any, __: Any, identifier: str | None) -> None:
        told.append(identifier)

    network: Any = type(rosa.sessions).network
    monkeypatch.setattr(network, "_devices_blindly_trusted", note)
    sealing = rosa.sessions.encrypt(frozenset({peter.jid}), {MODERN: b"text"}, [MODERN], UNASKED)
    if blindly:
        await sealing
    else:
        with pytest.raises(StillUndecided):
            await sealing
    assert (prompt.asked, told) == ([], [None] * blindly)


class Prompt:
    """Somebody who decides, and is watched at it."""

    def __init__(self, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        self.person = person
        self.asked: list[list[int]] = []
        self.decides: list[int] = []
        self.failing = False
        by_hand(person, monkeypatch)
        network: Any = type(person.sessions).network
        monkeypatch.setattr(network, "_prompt_manual_trust", self._asked)

    async def _asked(
        self, sessions: Any, devices: frozenset[DeviceInformation], _: str | None
    ) -> None:
        self.asked.append(sorted(device.device_id for device in devices))
        if self.failing:
            raise omemo.session_manager.TrustDecisionFailed("sentinel")
        for device in devices:
            if device.device_id in self.decides:
                await sessions.set_trust(device.bare_jid, device.identity_key, "TRUSTED")


async def test_who_decides_on_one_is_not_asked_about_the_other_again(
    person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    rosa, peter, tablet = await person("rosa"), await person("peter"), await person("peter")
    await rosa.knows(peter)
    prompt = Prompt(rosa, monkeypatch)
    prompt.decides = [peter.device]
    with pytest.raises(StillUndecided):
        await rosa.encrypt(peter, b"text")
    assert prompt.asked == [sorted([peter.device, tablet.device])]


async def test_a_decision_that_fails_ends_the_message(
    person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    prompt = Prompt(rosa, monkeypatch)
    prompt.failing = True
    with pytest.raises(omemo.session_manager.TrustDecisionFailed):
        await rosa.encrypt(peter, b"text")
    assert len(prompt.asked) == 1


async def test_bundles_are_fetched_again_after_a_decision(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken days, and their keys may be spent."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.knows(peter)
    prompt = Prompt(rosa, monkeypatch)
    prompt.decides = [peter.device]
    server.downloads.clear()
    await rosa.encrypt(peter, b"text")
    bundles = [name for name in server.downloads if name == (MODERN, peter.jid, peter.device)]
    assert len(bundles) == 1
    assert len(prompt.asked) == 1


async def test_keys_that_have_grown_old_while_people_decided_are_not_used(
    person: NewPerson, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that had to be fetched before anybody could be asked is fetched once more."""
    rosa, peter = await person("rosa"), await person("peter")
    await rosa.sessions.update_device_list(OLD, peter.jid, {peter.device: None})
    rosa.route = lambda _: frozenset({OLD})
    prompt = Prompt(rosa, monkeypatch)
    prompt.decides = [peter.device]
    server.downloads.clear()
    await rosa.sessions.encrypt(frozenset({peter.jid}), {OLD: b"text"}, [OLD])
    assert prompt.asked == [[peter.device]]
    assert server.downloads.count((OLD, peter.jid, peter.device)) == 2
