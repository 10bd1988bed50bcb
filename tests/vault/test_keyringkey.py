"""The root key in a keyring: never lost at any call that fails, and no keyring is trusted."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from keyring.backends.null import Keyring as NullKeyring
from keyring.errors import KeyringLocked

from eph_e2ee.errors import (
    LocalProtocolError,
    VaultDamaged,
    VaultError,
    VaultForeign,
    VaultTooNew,
    VaultUnavailable,
)
from eph_e2ee.vault.keyringkey import Keyring, KeyringRootKey
from eph_e2ee.vault.primitives import Secret
from tests.support.disk import Crash
from tests.vault.places import FailingKeyring, FileKeyring

OLD, NEW, NEWER = Secret(b"o" * 32), Secret(b"n" * 32), Secret(b"N" * 32)
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items"


@pytest.fixture
def backend(path: Path) -> FileKeyring:
    return FileKeyring(path)


@pytest.fixture
def root_key(backend: FileKeyring) -> KeyringRootKey:
    """A root key that has been stored."""
    root_key = KeyringRootKey("bot", backend=backend)
    root_key.replace(OLD)
    return root_key


@pytest.fixture
def default(backend: FileKeyring) -> Iterator[FileKeyring]:
    """The keyring that the package chooses."""
    before = keyring.get_keyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_by_default_it_is_in_the_keyring_that_the_package_chooses(default: FileKeyring) -> None:
    KeyringRootKey("bot").replace(OLD)
    assert KeyringRootKey("bot").candidates() == (OLD,)
    assert list(default.items()) == ["eph_e2ee/bot 0"]


def test_vaults_of_different_names_do_not_meet(
    backend: FileKeyring, root_key: KeyringRootKey
) -> None:
    other = KeyringRootKey("other", backend=backend)
    assert not other.exists()
    other.replace(NEW)
    other.destroy()
    assert root_key.candidates() == (OLD,)
    with pytest.raises(LocalProtocolError, match="name"):
        KeyringRootKey("", backend=backend)


def test_the_old_item_is_gone_after_a_replacement(
    backend: FileKeyring, root_key: KeyringRootKey
) -> None:
    before = set(backend.items().values())
    root_key.replace(NEW)
    after = set(backend.items().values())
    assert (len(before), len(after)) == (1, 1)
    assert not before & after


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(LocalProtocolError, match=r"eph-e2ee\[keyring\]"):
        KeyringRootKey("bot")


class Forgetful(FileKeyring):
    """A keyring that says nothing and does nothing when it is to delete."""

    def delete_password(self, service: str, username: str) -> None:
        pass


class Altering(FileKeyring):
    """A keyring that keeps the beginning of what it is given."""

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password[:40])


class Locked(FileKeyring):
    """A keyring whose owner does not unlock it."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked(f"sentinel: {service} {username}")


class Broken(FileKeyring):
    """A keyring with an error of its own, which shows what it was given."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise OSError(5, f"sentinel: {service} {username} {password}")


class TestRefusals:
    @pytest.mark.parametrize("kind", [NullKeyring, NoKeyring, Altering, Locked, Broken, Forgetful])
    def test_a_keyring_that_cannot_be_relied_on_is_refused(
        self, kind: Callable[..., Keyring], path: Path
    ) -> None:
        unreliable = kind() if kind in {NullKeyring, NoKeyring} else kind(path)
        root_key = KeyringRootKey("bot", backend=unreliable)
        with pytest.raises(VaultUnavailable, match="keyring") as caught:
            store_both(root_key)
        assert "sentinel" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    def test_a_keyring_that_alters_the_new_key_leaves_the_old_one(
        self, path: Path, root_key: KeyringRootKey
    ) -> None:
        with pytest.raises(VaultUnavailable):
            KeyringRootKey("bot", backend=Altering(path)).replace(NEW)
        assert root_key.candidates() == (OLD,)
        root_key.replace(NEWER)
        assert root_key.candidates() == (NEWER,)

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("eph_e2ee root key 1 bm90IGEga2V5", VaultDamaged),
            ("eph_e2ee root key 1 %%%", VaultDamaged),
            ("eph_e2ee root key 1 ", VaultDamaged),
            ("eph_e2ee root key 2 bm90IGEga2V5", VaultTooNew),
            ("eph_e2ee root key x", VaultForeign),
            ("somebody's password", VaultForeign),
            ("", VaultForeign),
        ],
    )
    def test_what_is_no_root_key_is_left_alone(
        self, backend: FileKeyring, value: str, error: type[VaultError]
    ) -> None:
        """F44: neither damage nor another program's item is an empty place."""
        backend.set_password("eph_e2ee", "bot 0", value)
        root_key = KeyringRootKey("bot", backend=backend)
        assert root_key.exists()
        calls: list[Callable[[], object]] = [
            root_key.candidates,
            lambda: root_key.replace(NEW),
            lambda: root_key.keep(NEW),
        ]
        for call in calls:
            with pytest.raises(error):
                call()
        assert backend.items() == {"eph_e2ee/bot 0": value}

    @pytest.mark.parametrize("at", range(20, 84))
    def test_an_altered_character_is_damage(
        self, backend: FileKeyring, root_key: KeyringRootKey, at: int
    ) -> None:
        value = backend.get_password("eph_e2ee", "bot 0")
        assert value is not None
        assert len(value) == 84
        other = "A" if value[at] != "A" else "B"
        backend.set_password("eph_e2ee", "bot 0", value[:at] + other + value[at + 1 :])
        with pytest.raises(VaultDamaged):
            root_key.candidates()


def store_both(root_key: KeyringRootKey) -> None:
    root_key.replace(OLD)
    root_key.replace(NEW)


def every_failure(path: Path) -> Iterator[FailingKeyring]:
    """Keyrings that fail at each call in turn, until one is not called so often."""
    before = path.read_text()
    for late in (False, True):
        for crash in (False, True):
            for at in range(100):
                path.write_text(before)
                failing = FailingKeyring(path, at, late=late, crash=crash)
                yield failing
                if failing.calls <= at:
                    break
            else:
                pytest.fail("it never ends")


class TestFailures:
    def test_replacing_that_fails_at_any_call_loses_no_key(
        self, path: Path, backend: FileKeyring, root_key: KeyringRootKey
    ) -> None:
        """F44: before or after the call was done, with an error or with the process's end."""
        assert root_key.exists()
        calls = 0
        for failing in every_failure(path):
            attempt(failing, lambda key: key.replace(NEW))
            calls += failing.calls
            after = KeyringRootKey("bot", backend=backend)
            found = after.candidates()
            assert found in ((OLD,), (NEW,), (OLD, NEW))
            after.keep(found[-1])
            assert after.candidates() == (found[-1],)
            after.replace(NEWER)
            assert after.candidates() == (NEWER,)
        assert calls > 60

    def test_keeping_that_fails_at_any_call_leaves_the_chosen_key(
        self, path: Path, backend: FileKeyring, root_key: KeyringRootKey
    ) -> None:
        first = backend.items()
        root_key.replace(NEW)
        backend._save({**first, **backend.items()})
        assert root_key.candidates() == (OLD, NEW)
        with pytest.raises(LocalProtocolError, match="keep one"):
            root_key.replace(NEWER)
        for chosen in (OLD, NEW):
            backend._save({**first, **backend.items()})
            for failing in every_failure(path):
                attempt(failing, functools.partial(KeyringRootKey.keep, chosen=chosen))
                assert chosen in KeyringRootKey("bot", backend=backend).candidates()
            assert KeyringRootKey("bot", backend=backend).candidates() == (chosen,)
            root_key.replace(OLD)
            root_key.replace(NEW)

    def test_destroying_that_fails_at_any_call_can_be_repeated(
        self, path: Path, backend: FileKeyring, root_key: KeyringRootKey
    ) -> None:
        assert root_key.exists()
        for failing in every_failure(path):
            attempt(failing, KeyringRootKey.destroy)
            KeyringRootKey("bot", backend=backend).destroy()
            assert backend.items() == {}


def attempt(failing: FailingKeyring, act: Callable[[KeyringRootKey], None]) -> None:
    try:
        act(KeyringRootKey("bot", backend=failing))
    except (Crash, VaultUnavailable):
        return


def test_in_a_real_secret_service_it_is_stored_replaced_and_destroyed(tmp_path: Path) -> None:
    """A private session bus, and a home of its own: nothing of this machine's user is touched."""
    for program in ("dbus-run-session", "gnome-keyring-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    homes = ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    for name in homes:
        (tmp_path / name).mkdir(mode=0o700)
        environment[name] = str(tmp_path / name)
    ended = subprocess.run(
        ["dbus-run-session", "--", sys.executable, "-m", "tests.support.secret_service"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "empty True",
        "replaced True 1",
        "replaced True 1",
        "replaced True 1",
        "destroyed True True",
    ]
