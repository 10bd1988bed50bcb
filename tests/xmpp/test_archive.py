"""An archive, a page at a time: what is asked, and whatever the server makes of the answer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, fromstring

import pytest

from eph_e2ee.model import BareJid
from eph_e2ee.xmpp.archive import Archive, ArchiveUnavailable, Page, PositionLost
from eph_e2ee.xmpp.arrivals import Arrivals
from eph_e2ee.xmpp.members import Members
from eph_e2ee.xmpp.parcel import MODERN
from tests.support.client import SECONDS
from tests.xmpp.clients import TestClient, World

OWN, PETER = BareJid("rosa@example.org"), BareJid("peter@example.org")
ROOM = BareJid("room@rooms.example.org")
MAM, RSM = "{urn:xmpp:mam:2}", "{http://jabber.org/protocol/rsm}"
DATA = "{jabber:x:data}"
SECRET = f"<encrypted xmlns='{MODERN}'/>"
SET = "<set xmlns='http://jabber.org/protocol/rsm'>{}</set>"


def fin(inside: str = "", attributes: str = "") -> str:
    return f"<fin xmlns='urn:xmpp:mam:2' {attributes}>{inside}</fin>"


class Archiving(World):
    """A server that answers a query as the test says: with results, then with this."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Element] = []
        self.results: list[tuple[str, str]] = []
        self.answer: str | None = fin()
        self.condition: str | None = None
        self.sender: str = OWN

    def asked(self, client: TestClient, iq: Element) -> None:
        self.questions.append(iq)
        query = iq.find(f"{MAM}query")
        assert query is not None
        for name, inside in self.results:
            attributes = f"xmlns='urn:xmpp:mam:2' id='{name}' queryid='{query.get('queryid')}'"
            client.receive(
                f"<message xmlns='jabber:client' from='{self.sender}'><result {attributes}>"
                "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' "
                f"from='{PETER}/x' id='7'>{inside}</message></forwarded></result></message>"
            )
        if self.answer is None:
            return
        answer = Element("{jabber:client}iq", {"id": iq.get("id", ""), "type": "result"})
        answer.set("from", iq.get("to") or OWN)
        if self.condition is not None:
            answer.set("type", "error")
            error = SubElement(answer, "{jabber:client}error", {"type": "cancel"})
            SubElement(error, f"{{urn:ietf:params:xml:ns:xmpp-stanzas}}{self.condition}")
        elif self.answer:
            answer.append(fromstring(self.answer))  # noqa: S314 -- written by the test
        client.receive(answer)


@pytest.fixture
def world() -> Archiving:
    return Archiving()


@pytest.fixture
async def client(world: Archiving) -> TestClient:
    made = world.client("rosa")
    made.bound = True
    return made


@pytest.fixture
def archive(client: TestClient) -> Archive:
    arrivals = Arrivals(client, lambda: OWN, Members(client))
    arrivals.listen(lambda _: None, lambda _jid, _message_id: None)
    return Archive(client, arrivals, lambda: OWN)


async def asked(
    archive: Archive, after: str | None = None, start: datetime | None = None, of: BareJid = OWN
) -> Page:
    async with asyncio.timeout(SECONDS):
        return await archive.page(of, after=after, start=start, size=50)


def traces(client: TestClient) -> tuple[list[str], list[str]]:
    stream: Any = client
    return [each.name for each in stream._XMLStream__handlers], list(client.scheduled_events)


async def test_the_question(archive: Archive, world: Archiving) -> None:
    """XEP-0313 section 4: from an id on, or from a time on, never both."""
    await asked(archive, after="a9")
    await asked(archive, start=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    first, second = (iq.find(f"{MAM}query") for iq in world.questions)
    assert first is not None
    assert second is not None
    assert first.get("queryid") == world.questions[0].get("id")
    assert (first.findtext(f"{RSM}set/{RSM}after"), first.findtext(f"{RSM}set/{RSM}max")) == (
        "a9",
        "50",
    )
    assert first.find(f"{DATA}x") is None
    assert second.find(f"{RSM}set/{RSM}after") is None
    form = second.find(f"{DATA}x")
    assert form is not None
    assert {field.get("var"): field.findtext(f"{DATA}value") for field in form} == {
        "FORM_TYPE": "urn:xmpp:mam:2",
        "start": "2026-01-02T03:04:05Z",
    }
    assert [iq.get("to") for iq in world.questions] == [None, None]


async def test_a_page(archive: Archive, world: Archiving) -> None:
    world.results = [("a1", SECRET), ("a2", "<body>in clear</body>"), ("a3", SECRET)]
    world.answer = fin(SET.format("<first>a1</first><last>a3</last><count>9</count>"))
    page = await asked(archive)
    assert [each.archive_id for each in page.arrivals] == ["a1", "a3"]
    assert (page.fetched, page.last, page.total, page.complete) == (3, "a3", 9, False)
    assert "arrivals" not in repr(page)


@pytest.mark.parametrize(
    ("answer", "results", "expected"),
    [
        (fin(), 2, (2, "a2", None, False)),
        (fin(SET.format("")), 2, (2, "a2", None, False)),
        (fin(SET.format("<last/>")), 2, (2, "a2", None, False)),
        (fin(SET.format("<last>a7</last>")), 2, (2, "a7", None, False)),
        (fin("", "complete='true'"), 2, (2, "a2", None, True)),
        (fin("", "complete='false'"), 2, (2, "a2", None, False)),
        (fin("", "complete='sentinel'"), 2, (2, "a2", None, False)),
        (fin(), 0, (0, None, None, True)),
        (fin("", "complete='false'"), 0, (0, None, None, True)),
        (fin("<set xmlns='urn:example'><last>a7</last></set>"), 0, (0, None, None, True)),
    ],
)
async def test_an_answer_that_says_less(
    answer: str, results: int, expected: tuple[Any, ...], archive: Archive, world: Archiving
) -> None:
    """It ends in any case: an empty page is the last one."""
    world.results = [(f"a{number + 1}", SECRET) for number in range(results)]
    world.answer = answer
    page = await asked(archive)
    assert (page.fetched, page.last, page.total, page.complete) == expected


@pytest.mark.parametrize(
    ("results", "answer"),
    [
        (["a9"], fin()),
        (["a1", ""], fin()),
        (["a1"], fin(SET.format("<last>a9</last>"))),
    ],
)
async def test_an_archive_that_does_not_go_on_is_not_asked_for_ever(
    results: list[str], answer: str, archive: Archive, world: Archiving
) -> None:
    """It ignores where to begin, or does not name what it gives."""
    world.results, world.answer = [(name, SECRET) for name in results], answer
    with pytest.raises(ArchiveUnavailable):
        await asked(archive, after="a9")
    world.answer = answer.replace("<fin ", "<fin complete='true' ")
    assert (await asked(archive, after="a9")).complete


@pytest.mark.parametrize(
    ("count", "total"),
    [
        ("0", 0),
        ("5000", 5000),
        ("", None),
        ("-1", None),
        ("1e9", None),
        ("5 000", None),
        ("sentinel", None),
        ("9" * 5000, None),
        ("\u0665", None),
    ],
)
async def test_a_count_that_is_no_number_is_none(
    count: str, total: int | None, archive: Archive, world: Archiving
) -> None:
    world.answer = fin(SET.format(f"<count>{count}</count>"))
    assert (await asked(archive)).total == total


@pytest.mark.parametrize("sender", [PETER, "example.org", f"{PETER}/x", "@"])
async def test_results_of_somebody_elses_are_no_part_of_a_page(
    sender: str, archive: Archive, world: Archiving, client: TestClient
) -> None:
    """Although they know the query's id; the page that they would fill is an empty one."""
    world.sender, world.results = sender, [("a1", SECRET)]
    page = await asked(archive)
    assert (page.arrivals, page.fetched, page.last, page.complete) == ((), 0, None, True)
    assert client.sent == []


@pytest.mark.parametrize(
    ("condition", "error"),
    [
        ("item-not-found", PositionLost),
        ("feature-not-implemented", ArchiveUnavailable),
        ("service-unavailable", ArchiveUnavailable),
        ("forbidden", ArchiveUnavailable),
    ],
)
async def test_a_refusal(
    condition: str, error: type[Exception], archive: Archive, world: Archiving
) -> None:
    world.condition = condition
    with pytest.raises(ArchiveUnavailable) as caught:
        await asked(archive, after="a9")
    assert type(caught.value) is error
    assert caught.value.__context__ is None


@pytest.mark.parametrize("answer", ["", "<fin xmlns='urn:xmpp:mam:1'/>", "<x xmlns='y'/>"])
async def test_an_answer_without_an_end_is_no_archive(
    answer: str, archive: Archive, world: Archiving
) -> None:
    world.answer = answer
    with pytest.raises(ArchiveUnavailable):
        await asked(archive)


@pytest.mark.parametrize("ends", ["cancelled", "answered", "refused"])
async def test_a_question_leaves_nothing_behind(
    ends: str, archive: Archive, world: Archiving, client: TestClient
) -> None:
    """STYLE 13: also when nobody waits for the answer any more, which then is nobody's."""
    before = traces(client)
    world.answer = None if ends == "cancelled" else fin()
    world.condition = "forbidden" if ends == "refused" else None
    task = asyncio.create_task(asked(archive))
    while not world.questions:  # noqa: ASYNC110 -- a state
        await asyncio.sleep(0)
    if ends == "cancelled":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert traces(client) == before
    assert archive._arrivals._pages == {}


async def test_questions_do_not_mix(archive: Archive, world: Archiving) -> None:
    """The next page is asked for while one is dealt with."""
    world.results = [("a1", SECRET)]
    pages = await asyncio.gather(*(asked(archive, after=f"{number}") for number in range(3)))
    assert [page.fetched for page in pages] == [1, 1, 1]
    assert len({question.get("id") for question in world.questions}) == 3


async def test_a_room_is_asked_itself(archive: Archive, world: Archiving) -> None:
    world.sender, world.results = ROOM, [("a1", "<body>in clear</body>")]
    page = await asked(archive, of=ROOM)
    assert [iq.get("to") for iq in world.questions] == [ROOM]
    assert (page.fetched, page.last) == (1, "a1")


async def test_a_page_without_an_end_goes_on_where_it_was_cut_off(
    archive: Archive, world: Archiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F42: whatever an archive gives, no more of it is kept in memory, and none is passed over."""
    monkeypatch.setattr("eph_e2ee.xmpp.arrivals.MAXIMUM_RESULTS", 3)
    monkeypatch.setattr("eph_e2ee.xmpp.archive.MAXIMUM_RESULTS", 3)
    world.results = [(f"a{number}", SECRET) for number in range(9)]
    world.answer = fin(SET.format("<last>a8</last>"), "complete='true'")
    page = await asked(archive)
    assert (page.fetched, page.last, page.complete) == (3, "a2", False)
    assert len(page.arrivals) == 3
