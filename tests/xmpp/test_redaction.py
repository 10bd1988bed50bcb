"""Nothing of a message, a key or a peer's XML in a log, whoever writes it."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eph_e2ee.xmpp.redaction import LEAKING, contained, withhold
from tests.xmpp.people import talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.xmpp.people import Person

NEIGHBOURS = ("omemo", "twomemo", "oldmemo", "doubleratchet", "x3dh", "xeddsa", "slixmpp_omemo")
SENTINEL = "sentinel plaintext"


def sources(package: str) -> Iterator[Path]:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    yield from Path(found.origin).parent.rglob("*.py")


def module_name(package: str, path: Path) -> str:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    parts = path.relative_to(Path(found.origin).parent.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def log_tags(tree: ast.Module) -> dict[str, str]:
    """The text of each class's LOG_TAG."""
    return {
        owner.name: str(ast.literal_eval(line.value))
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for line in owner.body
        if isinstance(line, ast.Assign)
        and [target.id for target in line.targets if isinstance(target, ast.Name)] == ["LOG_TAG"]
    }


def loggers(package: str) -> set[str]:
    """The names that a package's sources give to `getLogger`."""
    names: set[str] = set()
    for path in sources(package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tags = log_tags(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("getLogger"):
                continue
            text = ast.unparse(node.args[0]) if node.args else "root"
            if text == "__name__":
                names.add(module_name(package, path))
            elif text.endswith(".LOG_TAG"):
                names.add(tags.get(text.split(".")[0], text))
            else:
                names.add(text.strip("'\""))
    return names


@pytest.fixture
def leaking() -> Iterator[logging.Logger]:
    """One of the neighbours' loggers, left with the filters that it had."""
    logger = logging.getLogger(LEAKING[0])
    before = list(logger.filters)
    yield logger
    logger.filters[:] = before


def test_every_logger_of_the_neighbours_is_known() -> None:
    """F10: a new one in a later version has to be looked at."""
    assert set().union(*map(loggers, NEIGHBOURS)) == set(LEAKING)


def callers(*functions: str) -> set[str]:
    """The neighbours' modules, but for their commands, that call one of some functions."""
    return {
        path.stem
        for package in NEIGHBOURS
        for path in sources(package)
        if path.stem not in {"cli", "__main__"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in functions
    }


def test_nobody_of_them_prints() -> None:
    assert callers("print", "traceback.print_exc", "sys.stderr.write") == set()
    # "More than 1000 message keys skipped": it holds a number, and no filter sees it.
    assert callers("warnings.warn") == {"diffie_hellman_ratchet"}


@pytest.mark.parametrize("name", LEAKING)
def test_errors_say_nothing_and_the_rest_is_dropped(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    withhold()
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger(name)
    logger.debug(SENTINEL)
    assert caplog.records == []
    try:
        raise ValueError(SENTINEL)  # noqa: TRY301 -- what a neighbour's code does
    except ValueError:
        logger.warning("%s", SENTINEL, exc_info=True, stack_info=True)
        logger.exception(SENTINEL)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert SENTINEL not in caplog.text
    assert not any(SENTINEL in repr(vars(record)) for record in caplog.records)


def test_withholding_twice_filters_once(leaking: logging.Logger) -> None:
    withhold()
    before = len(leaking.filters)
    withhold()
    assert len(leaking.filters) == before


def test_other_loggers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    withhold()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("an application").debug("its own text")
    assert "its own text" in caplog.text


async def test_what_passes_through_real_sessions_is_in_no_log(
    person: Callable[[str], Awaitable[Person]], caplog: pytest.LogCaptureFixture
) -> None:
    """F10: python-omemo writes each plaintext at DEBUG."""
    withhold()
    caplog.set_level(logging.DEBUG)
    rosa, peter = await person("rosa"), await person("peter")
    await talk(rosa, peter)
    assert await peter.decrypt(await rosa.encrypt(peter, SENTINEL.encode())) == SENTINEL.encode()
    texts = [repr(vars(record)) for record in caplog.records]
    assert not any("sentinel" in text or "good morning" in text for text in texts)
    omemos = [record for record in caplog.records if "omemo" in record.name]
    assert all(record.levelno >= logging.INFO for record in omemos)


# -- handlers --------------------------------------------------------------------------------------


async def test_an_exception_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    """F42: slixmpp would answer the sender with it."""

    @contained
    async def handler(text: str) -> None:
        raise ValueError(text)

    await handler(SENTINEL)
    (record,) = caplog.records
    assert "ValueError" in record.getMessage()
    assert "handler" in record.getMessage()
    assert SENTINEL not in repr(vars(record))
    assert SENTINEL not in caplog.text


async def test_cancellation_passes() -> None:
    @contained
    async def handler() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_what_works_goes_on_working(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    @contained
    async def handler(*numbers: int) -> None:
        """Its own docstring."""
        done.extend(numbers)

    await handler(1, 2)
    assert done == [1, 2]
    assert handler.__doc__ == "Its own docstring."
    assert asyncio.iscoroutinefunction(handler)
    assert caplog.records == []
