"""Process hygiene: what `harden` reaches and reports, and what `hardened` runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from eph_e2ee import cli
from eph_e2ee.hardening import Hardening, Outcome, harden, hardened_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REPORT: Final = """
import json, dataclasses
from eph_e2ee.hardening import harden
first, second = harden(), harden()
assert first == second
print(json.dumps({name: value.name for name, value in dataclasses.asdict(first).items()}))
"""

UNDER_A_LIMIT: Final = """
import os, resource
from eph_e2ee.hardening import Outcome, harden
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
if os.geteuid() == 0:
    os.setuid(65534)  # a user without capabilities
assert harden().memory_locked is Outcome.LIMITED
assert len(bytearray(50_000_000)) == 50_000_000
print("went on")
"""

VICTIM: Final = """
import ctypes, os, sys
from eph_e2ee.hardening import harden
if os.geteuid() == 0:
    os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # changing the user has made it undumpable already
if sys.argv[1] == "harden":
    harden()
print("ready", flush=True)
sys.stdin.read()
"""

THIEF: Final = """
import os, sys
if os.geteuid() == 0:
    os.setuid(65534)
try:
    open(f"/proc/{sys.argv[1]}/mem", "rb").close()
    print("read")
except PermissionError:
    print("refused")
"""

FREE_TO_LOOK: Final = ("", "0")
"""What Yama says where any process of the same user may be debugged."""


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program and return what it prints; it must end well."""
    done = subprocess.run(
        command,
        env=None if environment is None else {**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def eph_e2ee(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "eph_e2ee", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def reported(*command: str, **environment: str) -> dict[str, str]:
    """What `harden` reports in a process that is started so."""
    start = command or (sys.executable,)
    report: dict[str, str] = json.loads(run(*start, "-c", REPORT, environment=environment))
    return report


def test_what_is_freed_is_wiped_under_hardened_only() -> None:
    plain = reported(PYTHONMALLOC="", MALLOC_PERTURB_="", GLIBC_TUNABLES="")
    hardened = reported(sys.executable, "-m", "eph_e2ee", "hardened", "--", sys.executable)
    assert plain["freed_memory_wiped"] == "KEPT"
    assert hardened["freed_memory_wiped"] == "DONE"
    for report in (plain, hardened):
        assert (report["core_dumps_off"], report["not_dumpable"]) == ("DONE", "DONE")


@pytest.mark.parametrize("missing", ["PYTHONMALLOC", "GLIBC_TUNABLES"])
def test_no_setting_is_enough_without_the_others(missing: str) -> None:
    environment = hardened_environment({}) | {missing: ""}
    assert reported(**environment)["freed_memory_wiped"] == "KEPT"


def test_a_python_that_ignores_its_environment_is_found_out() -> None:
    command = (sys.executable, "-m", "eph_e2ee", "hardened", "--", sys.executable, "-E")
    assert reported(*command)["freed_memory_wiped"] == "KEPT"


def test_memory_is_locked_only_where_nothing_limits_it() -> None:
    assert run(sys.executable, "-c", UNDER_A_LIMIT) == "went on\n"


def test_locked_memory_is_what_the_kernel_says() -> None:
    program = (
        "from eph_e2ee.hardening import harden; from pathlib import Path\n"
        "locked = harden().memory_locked.name\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(locked, status.partition('VmLck:')[2].split()[0])"
    )
    outcome, kilobytes = run(sys.executable, "-c", program).split()
    assert (outcome == "DONE") is (int(kilobytes) > 0)


@pytest.mark.parametrize("first", ["harden", "wait"])
def test_a_process_of_the_same_user_cannot_read_the_memory(first: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        outcome = run(sys.executable, "-c", THIEF, str(victim.pid)).strip()
        victim.communicate()
    if first == "harden":
        assert outcome == "refused"
    elif ptrace_scope() in FREE_TO_LOOK:
        assert outcome == "read"


def ptrace_scope() -> str:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as scope:  # noqa: PTH123  a device
            return scope.read().strip()
    except OSError:
        return ""


def test_a_system_that_refuses_everything_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr("resource.setrlimit", refuse)
    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert harden() == Hardening(Outcome.REFUSED, *[Outcome.UNAVAILABLE] * 3)


def test_other_settings_stay_in_the_environment() -> None:
    given = {
        "PATH": "/bin",
        "PYTHONMALLOC": "debug",
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=7:glibc.malloc.check=1",
    }
    before = dict(given)
    made = hardened_environment(given)
    assert given == before
    assert made == {
        "PATH": "/bin",
        "PYTHONMALLOC": "malloc",
        "MALLOC_PERTURB_": "255",
        "GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.perturb=255:"
        "glibc.malloc.tcache_count=0",
    }
    assert hardened_environment(made) == made


def test_the_program_gets_its_arguments_and_answers_for_itself() -> None:
    shell = 'ulimit -c; printf "%s\\n" "$@"; exit 7'
    done = eph_e2ee("hardened", "--", "sh", "-c", shell, "sh", "--", "-h", "two words")
    assert (done.returncode, done.stdout) == (7, "0\n--\n-h\ntwo words\n")
    assert done.stderr == ""


def test_the_program_takes_the_place_of_the_command() -> None:
    command = [sys.executable, "-m", "eph_e2ee", "hardened", "sh", "-c", "echo $$"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        printed, _ = process.communicate(timeout=60)
    assert int(printed) == process.pid


def test_what_cannot_be_started_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    for command, code in ((str(text), 126), (str(tmp_path / "nothing"), 127)):
        done = eph_e2ee("hardened", "--", command)
        assert (done.returncode, done.stdout) == (code, "")
        assert command in done.stderr


@pytest.mark.parametrize("arguments", [[], ["hardened"], ["hardened", "--"], ["soften"]])
def test_a_wrong_command_line_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert "usage" in told.err


def test_another_c_library_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.confstr", lambda _: None)
    assert cli.main(["hardened", "--", "true"]) == 125
    told = capsys.readouterr()
    assert "glibc" in told.err
    assert "nothing was started" in told.err
    assert told.out == ""


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "125", "126", "127"):
        assert f"\n  {code}" in printed
