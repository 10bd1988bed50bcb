"""The wheel: what a user installs works without the source beside it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import eph_e2ee

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "eph_e2ee"

PROGRAM = """
import sys
from importlib.metadata import metadata, version
from pathlib import Path

target, vault = sys.argv[1], Path(sys.argv[2])
# An editable installation puts its source on the path.
others = [each for each in sys.path if not (Path(each) / "eph_e2ee").is_dir()]
sys.path[:] = [target, *others]
import eph_e2ee
from eph_e2ee.clock import Clock
from eph_e2ee.vault.vault import Vault

assert Path(eph_e2ee.__file__).is_relative_to(target), eph_e2ee.__file__
assert version("eph-e2ee") == eph_e2ee.__version__
for name in eph_e2ee.__all__:
    getattr(eph_e2ee, name)
opened = Vault.open(vault, clock=Clock())
opened.transact_sync(lambda tx: tx.put_value("kept", "sentinel"))
opened.close_sync()
again = Vault.open(vault, clock=Clock())
assert again.transact_sync(lambda tx: tx.value("kept")) == "sentinel"
again.close_sync()
for each in vault.rglob("*"):
    assert not each.is_file() or b"sentinel" not in each.read_bytes()
print(metadata("eph-e2ee")["License-Expression"], eph_e2ee.__version__)
"""


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built with what is installed, or as pip does it by itself."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if _has_hatchling() else []
    pip = [sys.executable, "-m", "pip", "wheel", str(REPOSITORY), "--no-deps", "-q", "-w", "."]
    run(*pip, *isolation, folder=folder)
    (made,) = folder.glob("*.whl")
    return made


def _has_hatchling() -> bool:
    command = [sys.executable, "-c", "import hatchling.build"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    sources = {
        str(path.relative_to(REPOSITORY)) for path in PACKAGE.rglob("*.py") if path.is_file()
    }
    assert names == sources | {"eph_e2ee/py.typed", "eph_e2ee/protocol/setting.xsd"}
    assert licences


def test_the_wheel_works_without_the_source(wheel: Path, tmp_path: Path) -> None:
    target, vault = tmp_path / "installed", tmp_path / "bot.vault"
    pip = [sys.executable, "-m", "pip", "install", str(wheel), "--no-deps", "-q"]
    run(*pip, "--target", str(target), folder=tmp_path)
    printed = run(sys.executable, "-I", "-c", PROGRAM, str(target), str(vault), folder=tmp_path)
    assert printed.split() == ["AGPL-3.0-only", eph_e2ee.__version__]
