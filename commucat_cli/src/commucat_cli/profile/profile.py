"""A profile directory: who a device is, which server it uses, what it has shown."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from commucat_cli.errors import ProfileError
from commucat_cli.profile.files import check_private, sync_directory
from commucat_cli.profile.keys import FILE_NAME as KEYS_NAME
from commucat_cli.profile.keys import ProfileKeys, load_keys, save_keys
from commucat_cli.profile.state import Account, ProfileState, open_state

TLS_CA_NAME = "tls-ca.pem"
LOCK_NAME = "lock"
ROTATION_LOCK_NAME = "rotation.lock"
_OWN_NAMES = frozenset(
    {
        LOCK_NAME,
        ROTATION_LOCK_NAME,
        TLS_CA_NAME,
        "undecryptable",
        "profile.db",
        "profile.db-wal",
        "profile.db-shm",
    }
)


@attrs.define(kw_only=True)
class Profile:
    """An open profile."""

    directory: Path = attrs.field(on_setattr=attrs.setters.frozen)
    keys: ProfileKeys
    """As they were last read: another command may change the device's key."""
    state: ProfileState = attrs.field(on_setattr=attrs.setters.frozen)

    def reload_keys(self) -> ProfileKeys:
        """Read the keys again.

        Raises:
            ProfileError: the file is gone, damaged, or open to others.
        """
        keys = load_keys(self.directory)
        if keys is None:
            raise ProfileError(f"{self.directory / KEYS_NAME} is gone; restore it from a backup")
        self.keys = keys
        return keys

    @contextmanager
    def changing_keys(self) -> Iterator[None]:
        """Keep other commands from changing the device's key.

        Raises:
            ProfileError: one does so already.
        """
        with _locked(self.directory, ROTATION_LOCK_NAME, "devices rotate"):
            self.reload_keys()
            yield

    def save_keys(self, keys: ProfileKeys) -> None:
        """Write the keys; for those who hold :meth:`changing_keys`."""
        save_keys(self.directory, keys)
        self.keys = keys

    def account(self) -> Account:
        """The account of a completed login.

        Raises:
            ProfileError: no login was completed.
        """
        account = self.state.account()
        if account is None or account.user_id is None:
            raise ProfileError(
                f"the login of profile {self.directory} was never completed; "
                f"repeat: commucat-cli login --server URL --handle NAME --profile {self.directory}"
            )
        return account

    @contextmanager
    def reading_inbox(self) -> Iterator[None]:
        """Keep other commands from reading the same inbox.

        Raises:
            ProfileError: one does so already.
        """
        with _locked(self.directory):
            yield


@contextmanager
def open_profile(directory: Path) -> Iterator[Profile]:
    """Open a profile whose login was completed.

    Raises:
        ProfileError: it is missing, incomplete, damaged, or not private.
    """
    _check_directory(directory)
    keys = load_keys(directory)
    if keys is None:
        raise ProfileError(
            f"{directory} is no profile ({KEYS_NAME} is missing); log in first: {_login(directory)}"
        )
    try:
        with open_state(directory, create=False) as state:
            profile = Profile(directory=directory, keys=keys, state=state)
            profile.account()
            yield profile
    except FileNotFoundError:
        raise ProfileError(f"profile {directory} is incomplete; log in again: {_login(directory)}") from None


@contextmanager
def open_profile_for_login(directory: Path) -> Iterator[Profile]:
    """Open or create a profile; its keys are on the disk when this yields.

    A login that was interrupted is repeated with the same keys, so that the server does not
    see another device.

    Raises:
        ProfileError: the directory is in use, not private, damaged or holds something else.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
        sync_directory(directory.parent)
    except FileExistsError:
        pass
    except OSError as exc:
        raise ProfileError(f"cannot create the profile {directory}: {exc.strerror}") from exc
    _check_directory(directory)
    keys = load_keys(directory)
    if keys is None:
        _check_nothing_else(directory)
    with _locked(directory):
        keys = load_keys(directory)
        if keys is None:
            keys = ProfileKeys.generate()
            save_keys(directory, keys)
        with open_state(directory, create=True) as state:
            yield Profile(directory=directory, keys=keys, state=state)


def _login(directory: Path) -> str:
    return f"commucat-cli login --server URL --handle NAME --profile {directory}"


def _check_directory(directory: Path) -> None:
    try:
        status = directory.stat()
    except FileNotFoundError:
        raise ProfileError(f"there is no profile {directory}; log in first: {_login(directory)}") from None
    except OSError as exc:
        raise ProfileError(f"cannot open the profile {directory}: {exc.strerror}") from exc
    if not directory.is_dir():
        raise ProfileError(f"{directory} is no directory; a profile is one")
    check_private(directory, status, "chmod 700")


def _check_nothing_else(directory: Path) -> None:
    """A typing error such as ``--profile ~`` must not scatter keys over a home directory."""
    try:
        others = [
            name for name in os.listdir(directory) if name not in _OWN_NAMES and name != f".{KEYS_NAME}.new"
        ]
    except OSError as exc:
        raise ProfileError(f"cannot read the profile {directory}: {exc.strerror}") from exc
    if others:
        raise ProfileError(f"{directory} holds other files and no profile; name a new or empty directory")


@contextmanager
def _locked(directory: Path, name: str = LOCK_NAME, who: str = "listen, chat or login") -> Iterator[None]:
    path = directory / name
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ProfileError(f"cannot open {path}: {exc.strerror}") from exc
    try:
        try:
            # Released by the system when the process ends, however it ends.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProfileError(
                f"another commucat-cli ({who}) uses profile {directory}; stop it first"
            ) from None
        yield
    finally:
        os.close(fd)
