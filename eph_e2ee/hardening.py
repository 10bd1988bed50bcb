"""Process hygiene: what this process can do so that its memory is not kept or read by others.

`harden` is for an application's first lines. `run_hardened` is behind
`python -m eph_e2ee hardened -- COMMAND`: it starts a program whose freed memory is overwritten.

All of it is best effort, and every measure says what became of it. Against somebody who controls
the running process, or the machine, nothing here helps.
"""

import ctypes
import enum
import errno
import functools
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from eph_e2ee.errors import LocalError

__all__ = ["Hardening", "Outcome", "harden", "hardened_environment", "run_hardened", "wipe_stack"]

FREED_BYTE: Final = 0xFF
"""What freed bytes become: no byte of UTF-8. The allocator gives out its complement, zeros."""

TUNABLES: Final = {"glibc.malloc.perturb": str(FREED_BYTE), "glibc.malloc.tcache_count": "0"}
"""glibc overwrites what is freed, save what goes to a thread's cache: so there is no such cache."""

PROBE_SIZES: Final = (48, 400, 4000)
"""Bytes of what is freed to see what becomes of it: one for each way that allocators go."""

PR_SET_DUMPABLE: Final = 4
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
CAP_IPC_LOCK: Final = 14

_MANY_ARGUMENTS: Final = (0,) * 1000
"""ctypes takes 1024 at most, and lays 48 bytes on the stack for each."""


class Outcome(enum.Enum):
    """What became of a measure."""

    DONE = "done"
    UNAVAILABLE = "this system has no such measure"
    REFUSED = "the system refused"
    LIMITED = "the limit of locked memory is too low: `ulimit -l unlimited`, or CAP_IPC_LOCK"
    KEPT = "freed memory keeps what it held: start with `python -m eph_e2ee hardened -- ...`"


@dataclass(frozen=True, slots=True)
class Hardening:
    """What `harden` has reached.

    Attributes:
        core_dumps_off: a crash leaves no image of the memory on the disk. Programs started from
            here inherit it.
        not_dumpable: other processes of the same user cannot read the memory, nor debug it. A
            program that is started anew is dumpable again: each calls `harden` for itself.
        memory_locked: no page is written to the swap space. Done only where nothing limits it:
            under a limit, later allocations would fail.
        freed_memory_wiped: whether freed memory loses its content, as a trial has shown.
    """

    core_dumps_off: Outcome
    not_dumpable: Outcome
    memory_locked: Outcome
    freed_memory_wiped: Outcome


def harden() -> Hardening:
    """Take every measure that this system allows, and report; it never raises.

    It can be repeated. Call it early: what has been swapped out or dumped before stays where it is.
    """
    return Hardening(_end_core_dumps(), _end_dumping(), _lock_memory(), _try_freeing())


def hardened_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python frees through glibc, which overwrites what is freed.

    All but the last eight bytes of a block, that is: there the allocator's own books overlap it.
    Other tunables of glibc stay as they are.
    """
    given = environment.get("GLIBC_TUNABLES", "").split(":")
    kept = [each for each in given if each and each.partition("=")[0] not in TUNABLES]
    ours = [f"{name}={value}" for name, value in TUNABLES.items()]
    return {
        **environment,
        "PYTHONMALLOC": "malloc",
        # The older name of the same tunable, for a glibc that knows only that.
        "MALLOC_PERTURB_": str(FREED_BYTE),
        "GLIBC_TUNABLES": ":".join(kept + ours),
    }


def run_hardened(command: Sequence[str]) -> NoReturn:
    """Become a program, found on the PATH, without core dumps and with its freed memory wiped.

    It keeps this process's id and files, and its exit code is the program's. Whether freed memory
    really is wiped, the program learns from `harden`: another allocator, or a Python that ignores
    its environment (`-E`, `-I`), is not.

    Args:
        command: the program's name and its arguments.

    Raises:
        LocalError: the C library is not glibc; nothing was started.
        OSError: the program cannot be started.
    """
    if not _is_glibc():
        raise LocalError("freed memory can be wiped on Linux with glibc only; nothing was started")
    _end_core_dumps()
    sys.stdout.flush()
    sys.stderr.flush()
    environment = hardened_environment(os.environ)
    os.execvpe(command[0], list(command), environment)  # noqa: S606  it is what the user asked for


def wipe_stack() -> None:
    """Overwrite what functions have left behind on this thread's stack, 50 kB below the caller.

    Short texts and keys pass there in C, while they are encoded, say, and no allocator knows of it.
    A call with very many arguments needs that much room, and fills it. It takes some 0.1 ms.
    """
    idle = _idle()
    if idle is not None:
        idle(*_MANY_ARGUMENTS)


@functools.cache
def _idle() -> Callable[..., int] | None:
    """A function of C that looks at no argument."""
    return getattr(_c_library(), "getppid", None)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False


def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None


def _end_core_dumps() -> Outcome:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):
        return Outcome.REFUSED
    return Outcome.DONE


def _end_dumping() -> Outcome:
    prctl = getattr(_c_library(), "prctl", None)
    if prctl is None:
        return Outcome.UNAVAILABLE
    return Outcome.DONE if prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 else Outcome.REFUSED


def _lock_memory() -> Outcome:
    """Lock each page once it is used, so that reserved address space costs nothing."""
    mlockall = getattr(_c_library(), "mlockall", None)
    if mlockall is None or not sys.platform.startswith("linux"):
        return Outcome.UNAVAILABLE
    if not (_may_lock() or _has_no_limit()):
        return Outcome.LIMITED
    locked = mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0
    return Outcome.DONE if locked else Outcome.REFUSED


def _has_no_limit() -> bool:
    """Whether locked memory is unlimited, after raising the limit as far as one may."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    except (ValueError, OSError):
        return False
    return hard == resource.RLIM_INFINITY


def _may_lock() -> bool:
    """Whether this process has CAP_IPC_LOCK, which knows no limit."""
    try:
        lines = Path("/proc/self/status").read_bytes().splitlines()
        effective = next(line for line in lines if line.startswith(b"CapEff:"))
        return bool(int(effective.partition(b":")[2], 16) >> CAP_IPC_LOCK & 1)
    except (OSError, ValueError, StopIteration):
        return False


class _Vector(ctypes.Structure):
    """`struct iovec`: a piece of memory."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _try_freeing() -> Outcome:
    """Free objects of random content, and look at the places where they were."""
    read = getattr(_c_library(), "process_vm_readv", None)
    if read is None or sys.implementation.name != "cpython":
        return Outcome.UNAVAILABLE
    outcomes = {_try_freeing_one(read, size) for size in PROBE_SIZES}
    worst = (Outcome.KEPT, Outcome.REFUSED)
    return next((outcome for outcome in worst if outcome in outcomes), Outcome.DONE)


def _try_freeing_one(read: Callable[..., int], size: int) -> Outcome:
    """Free one object, and have the kernel read where it was: a page that is gone does no harm."""
    content = bytearray(os.urandom(size))
    seen = (ctypes.c_char * size)()
    here = ctypes.byref(_Vector(ctypes.addressof(seen), size))
    freed = bytes(content)
    there = ctypes.byref(_Vector(id(freed) + sys.getsizeof(b"") - 1, size))
    process, one, no_flags = ctypes.c_int(os.getpid()), ctypes.c_ulong(1), ctypes.c_ulong(0)
    del freed
    # Nothing may be allocated between these lines that could take the place.
    length = read(process, here, one, there, one, no_flags)
    if length < 0:
        return Outcome.DONE if ctypes.get_errno() == errno.EFAULT else Outcome.REFUSED
    # The allocator keeps its own books at the beginning.
    middle = content[size // 2 : size // 2 + 16]
    return Outcome.KEPT if middle in seen.raw else Outcome.DONE
