"""The house as DESIGN.md section 1 draws it: who imports whom, how large, and what is public."""

import ast
import functools
import io
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import eph_e2ee

ROOT = Path(eph_e2ee.__file__).parent
REPOSITORY = Path(__file__).parent.parent
MODULES = sorted(ROOT.rglob("*.py"))
SOURCES = sorted(
    path for folder in ("tests", "examples") for path in (REPOSITORY / folder).rglob("*.py")
)

FLOORS = [
    {"errors"},
    {"clock", "hardening"},
    {"model"},
    {"events", "remembered"},
    {"protocol"},
    {"vault"},
    {"xmpp"},
    {"clear", "replying", "conversations", "drafts", "halves", "optouts", "queues", "seen"}
    | {"unacknowledged"},
    {"letters"},
    {"filing", "notices", "warnings"},
    {"incoming", "outgoing", "expiry", "questions"},
    {"backlog"},
    {"peers", "reading", "catchup", "retrying"},
    {"withheld"},
    {"message"},
    {"chat"},
    {"attaching"},
    {"__init__"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""The rooms from the ground up; a room knows only what lies on a floor below."""

IMPURE = {
    *("asyncio", "concurrent", "contextvars", "threading", "multiprocessing", "queue"),
    *("time", "random", "secrets", "uuid", "logging", "warnings"),
    *("os", "io", "pathlib", "socket", "ssl", "sqlite3", "subprocess", "tempfile"),
    *("slixmpp", "slixmpp_omemo", "omemo", "twomemo", "oldmemo", "cryptography", "sqlalchemy"),
}
"""What `protocol/` must not know."""

XMPP = {"slixmpp", "slixmpp_omemo", "omemo", "twomemo", "oldmemo"}

MAX_FILE = 400
MAX_FUNCTION = 40


def room(path: Path) -> str:
    """The folder or, on the ground, the module."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module, or name in a module, that a file imports, with its full path."""
    package = path.relative_to(ROOT.parent).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_known(path: Path) -> Iterator[str]:
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "eph_e2ee":
            known = parts[1] if len(parts) > 1 else "__init__"
            yield known if any(known in rooms for rooms in FLOORS) else "__init__"


def outside(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of_code(path: Path) -> set[int]:
    """The numbers of the lines that hold code: no comment, no empty line, no docstring."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    with io.BytesIO(path.read_bytes()) as source:
        for token in tokenize.tokenize(source.readline):
            if token.type not in skipped | {tokenize.ENCODING, tokenize.ENDMARKER}:
                lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else path.name


def of_each(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Have a check be one test for all these files; which one fails stands in the error's notes."""

    def made(check: Callable[[Path], None]) -> Callable[[], None]:
        def each() -> None:
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    error.add_note(named(path))
                    raise

        return each

    return made


every_module = of_each(MODULES)
every_source = of_each(MODULES + SOURCES)


@every_module
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for known in rooms_known(path):
        assert known == here or floor(known) < floor(here), f"{here} must not know {known}"


@every_module
def test_only_the_primitives_know_cryptography(path: Path) -> None:
    if path != ROOT / "vault" / "primitives.py":
        assert "cryptography" not in outside(path)


@every_module
def test_only_the_rim_knows_xmpp(path: Path) -> None:
    if path == ROOT / "vault" / "ratchets.py":
        foreign = {name for name in imports(path) if name.split(".")[0] in XMPP}
        # The interface that it implements, and the type of that interface's values.
        assert {name.rpartition(".")[0] for name in foreign} <= {"omemo.storage", "omemo.types"}
    elif room(path) != "xmpp":
        assert not outside(path) & XMPP


@of_each(sorted((ROOT / "protocol").rglob("*.py")))
def test_the_protocol_is_pure(path: Path) -> None:
    assert not outside(path) & IMPURE
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today", "getLogger"}
        if isinstance(node, ast.Name):
            assert node.id not in {"print", "open", "input"}


@every_source
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE


@every_source
def test_functions_are_small(path: Path) -> None:
    code = lines_of_code(path)
    for function in functions(path):
        size = len(code & set(range(function.lineno, (function.end_lineno or 0) + 1)))
        assert size <= MAX_FUNCTION, f"{function.name} has {size} lines of code"


@every_module
def test_functions_take_few_positional_parameters(path: Path) -> None:
    for function in functions(path):
        parameters = [*function.args.posonlyargs, *function.args.args]
        own = [parameter for parameter in parameters if parameter.arg not in {"self", "cls"}]
        assert len(own) <= 5, function.name


@every_module
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(tree(path))


def test_every_room_is_on_a_floor() -> None:
    assert {room(path) for path in MODULES} <= set().union(*FLOORS)


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that ruff keeps (RUF022)."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


def test_what_is_public_is_sorted_and_importable() -> None:
    names = list(eph_e2ee.__all__)
    assert names == sorted(set(names), key=rank)
    for name in names:
        assert getattr(eph_e2ee, name) is not None
