"""What a process does to the files of a folder, call by call, as strace has recorded it.

Recording at the system's border misses nothing that SQLite, Python or a library in between does by
itself. The one exception is memory-mapped writing; only SQLite's -shm is written that way, an
index of page numbers without content that is made anew after a crash. A mapping of any other file,
or a call that this does not know, is an error, so that nothing gets past unseen.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Create",
    "Mark",
    "Operation",
    "Rename",
    "Sync",
    "Truncate",
    "Unlink",
    "Write",
    "call_of",
    "kill_at",
    "read_trace",
    "record",
]


TRACED: Final = (
    "openat,open,creat,close,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,"
    "fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,"
    "mkdirat,link,linkat,symlink,symlinkat,copy_file_range,sendfile,mmap"
)

LONGEST: Final = 64 * 1024 * 1024
"""Bytes of one call's data that strace prints: more than any call here has."""

UNMAPPED: Final = "-shm"
"""How the names of the one kind of file end that may be written through memory."""


@dataclass(frozen=True, slots=True)
class Create:
    """A name appears: a file without content, or a folder."""

    path: str
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes are written."""

    path: str
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file gets another length."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """The disk has a file's content, or a folder's names.

    Attributes:
        path: the file or the folder.
        call: fsync or fdatasync.
    """

    path: str
    call: str = "fsync"


@dataclass(frozen=True, slots=True)
class Rename:
    """A file gets another name."""

    path: str
    new: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name goes."""

    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """The process tells, in the middle of all this, how far it has come."""

    text: str


Operation: TypeAlias = Create | Write | Truncate | Sync | Rename | Unlink | Mark


def record(
    command: Sequence[str], log: Path, environment: Mapping[str, str], seconds: float
) -> None:
    """Run a program and write down what it does.

    Raises:
        AssertionError: it failed; the text is what it wrote to standard error.
    """
    ended = subprocess.run(
        ["strace", "--seccomp-bpf", *_OPTIONS, "-e", f"trace={TRACED}", "-o", str(log), *command],
        env=environment,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]


def kill_at(
    call: str, number: int, command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> bool:
    """Run a program, and kill it when one of its threads begins its nth call of a name.

    What it has done until then is written down as `record` does it.

    Returns:
        False when it came to its end before.

    Raises:
        AssertionError: it failed; the text is what it wrote to standard error.
    """
    # Without --seccomp-bpf, which makes a recording faster, but with which nothing is killed.
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    ended = subprocess.run(
        ["strace", *_OPTIONS, "-e", f"trace={TRACED}", "-e", inject, "-o", str(log), *command],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in (0, -9, 137), ended.stderr.decode()[-4000:]
    return ended.returncode != 0


def call_of(operation: Operation) -> str | None:
    """Return the name of the call that an operation was; None for what changes no file."""
    match operation:
        case Sync(_, call):
            return call
        case Write():
            return "pwrite64"
        case Truncate():
            return "ftruncate"
        case Rename() | Unlink():
            return type(operation).__name__.lower()
    return None


_OPTIONS: Final = (
    *("-f", "-y", "-xx", "-s", str(LONGEST)),
    *("-qq", "-e", "signal=none"),
)


def read_trace(log: Path, root: Path, marks: Path) -> Iterator[Operation]:
    """Yield, in their order, the operations of a record on files below a folder.

    Args:
        log: what `record` wrote.
        root: the folder; the paths of the operations are relative to it.
        marks: the file whose lines are the process's marks.
    """
    reader = _Reader(str(root) + "/", str(marks))
    begun: dict[bytes, bytes] = {}
    with log.open("rb") as file:
        for line in file:
            process, _, call = line.rstrip(b"\n").partition(b" ")
            call = call.lstrip()
            if call.endswith(b"<unfinished ...>"):
                begun[process] = call.removesuffix(b"<unfinished ...>")
                continue
            if (resumed := _RESUMED.match(call)) is not None:
                call = begun.pop(process) + call[resumed.end() :]
            yield from reader.operations(call)


_RESUMED: Final = re.compile(rb"<\.\.\. \w+ resumed>")
_CALL: Final = re.compile(rb"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(.*)$", re.DOTALL)
_FILE: Final = re.compile(rb"(-?\w+)<((?:\\x[0-9a-f]{2})*)>")
_TEXT: Final = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class _Reader:
    """Turns calls into operations; it knows where each open file is being written."""

    def __init__(self, root: str, marks: str) -> None:
        self._root = root
        self._marks = marks
        self._names: set[str] = set()
        self._places: dict[bytes, int] = {}

    def operations(self, call: bytes) -> Iterator[Operation]:
        found = _CALL.match(call)
        if found is None or found[3].startswith((b"-", b"?")):
            return
        name, rest, result = found[1].decode(), found[2], found[3] + found[4]
        for operation in self._read(name, rest, result):
            if isinstance(operation, Create):
                self._names.add(operation.path)
            elif isinstance(operation, Rename):
                self._names.add(operation.new)
            yield operation

    def _read(self, name: str, rest: bytes, result: bytes) -> Iterator[Operation]:
        if name == "openat":
            yield from self._open(rest, result)
        elif name == "write":
            yield from self._write(rest, result)
        elif name in ("pwrite64", "fsync", "fdatasync", "ftruncate"):
            if (path := self._inside(_opened(rest))) is not None:
                yield self._change(name, path, rest, result)
        elif name in ("rename", "unlink", "mkdir"):
            yield from self._rename(name, [text.decode() for text in _texts(rest)])
        elif name == "close":
            self._places.pop(rest.partition(b"<")[0], None)
        else:
            self._refuse(name, rest)

    @staticmethod
    def _change(name: str, path: str, rest: bytes, result: bytes) -> Operation:
        if name in ("fsync", "fdatasync"):
            return Sync(path, name)
        number = int(rest.rpartition(b",")[2])
        if name == "ftruncate":
            return Truncate(path, number)
        return Write(path, number, _text(rest)[: int(result.split()[0])])

    def _open(self, rest: bytes, result: bytes) -> Iterator[Operation]:
        path = self._inside(_opened(result))
        if path is None:
            return
        self._places[result.partition(b"<")[0]] = 0
        if b"O_CREAT" in rest and path not in self._names:
            yield Create(path)
        if b"O_TRUNC" in rest:
            yield Truncate(path, 0)

    def _write(self, rest: bytes, result: bytes) -> Iterator[Operation]:
        opened = _opened(rest)
        if opened == self._marks:
            for line in _text(rest).decode().splitlines():
                yield Mark(line)
        elif (path := self._inside(opened)) is not None:
            number, data = rest.partition(b"<")[0], _text(rest)[: int(result.split()[0])]
            place = self._places.get(number, 0)
            self._places[number] = place + len(data)
            yield Write(path, place, data)

    def _rename(self, name: str, texts: list[str]) -> Iterator[Operation]:
        path = self._inside(texts[0])
        if path is None:
            return
        if name == "mkdir":
            yield Create(path, folder=True)
        elif name == "unlink":
            self._names.discard(path)
            yield Unlink(path)
        else:
            self._names.discard(path)
            yield Rename(path, self._inside(texts[1]) or texts[1])

    def _refuse(self, name: str, rest: bytes) -> None:
        """Raise for what would change a file and is not understood."""
        paths = [
            bytes.fromhex(text.replace(b"\\x", b"").decode()).decode()
            for _, text in _FILE.findall(rest)
        ]
        if name == "mmap" and not (b"MAP_SHARED" in rest and b"PROT_WRITE" in rest):
            return
        paths += [text.decode(errors="replace") for text in _texts(rest)]
        touched = [path for path in map(self._inside, paths) if path is not None]
        if name == "mmap":
            touched = [path for path in touched if not path.endswith(UNMAPPED)]
        assert not touched, f"{name} on {touched} is not understood"

    def _inside(self, path: str) -> str | None:
        """Return a path relative to the root; None outside of it."""
        path = path.removesuffix(" (deleted)")
        if path + "/" == self._root:
            return "."
        return path.removeprefix(self._root) if path.startswith(self._root) else None


def _opened(text: bytes) -> str:
    found = _FILE.match(text)
    return "" if found is None else bytes.fromhex(found[2].replace(b"\\x", b"").decode()).decode()


def _texts(rest: bytes) -> list[bytes]:
    return [bytes.fromhex(found[1].replace(b"\\x", b"").decode()) for found in _TEXT.finditer(rest)]


def _text(rest: bytes) -> bytes:
    found = _TEXT.search(rest)
    assert found is not None, "a call without data"
    assert found[2] is None, "data was cut short"
    return bytes.fromhex(found[1].replace(b"\\x", b"").decode())
