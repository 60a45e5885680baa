"""Commands that work on the store of a server, which may be running."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from commucat_cli.commands.operator.settings import OperatorError, explained, load
from commucat_cli.commands.outcome import run_interruptibly
from commucat_server.config import ServerConfig
from commucat_server.provision import open_store, place_of_store, store_status
from commucat_storage import Storage, User

T = TypeVar("T")


def on_store(
    config: Path | None, data_dir: Path | None, work: Callable[[Storage, ServerConfig], Awaitable[T]]
) -> T:
    """Open the store, which must exist, and do ``work`` with it.

    Both stores can be used beside a running server: every change is a transaction, which the server
    notices.

    Raises:
        OperatorError: configuration or store cannot be used, or the work says no.
    """
    with explained():
        settings = load(config, data_dir)
        path = settings.storage.path
        if settings.storage.postgres_dsn is None and not path.exists():
            raise OperatorError(
                f"there is no database at {path}; name the server's --data-dir or --config, or start it once"
            )

        refuse_older_schema(settings)

        async def run() -> T:
            async with open_store(settings) as storage:
                return await work(storage, settings)

        return run_interruptibly(run)


def refuse_older_schema(settings: ServerConfig) -> None:
    """Leave the schema to who replaces the server: one of an older version may be running on it.

    Raises:
        OperatorError, StorageError: it is older than this program's, or cannot be read.
    """
    pending = store_status(settings).pending
    if pending:
        raise OperatorError(
            f"{place_of_store(settings)} has an older schema ({len(pending)} steps behind); stop the server "
            "of the older version, and run first: commucat-cli migrate"
        )


async def check_device(storage: Storage, device: str | None) -> None:
    """Make sure that the device is there which the operator has named, if any.

    Raises:
        OperatorError: it is not.
    """
    if device is not None and await storage.load_device(device) is None:
        raise OperatorError(f"there is no device {device}")


async def user_of(storage: Storage, settings: ServerConfig, *, user: str | None, handle: str | None) -> User:
    """The user that the operator has named by exactly one of both.

    Raises:
        OperatorError: there is none.
    """
    if user is not None:
        found = await storage.load_user(user)
    else:
        assert handle is not None, "the command has asked for one of both"
        found = await storage.load_user_by_handle(handle, settings.server.domain)
    if found is None:
        raise OperatorError(
            f"there is no user {user or handle} in {settings.server.domain}; "
            "create one with: commucat-cli register-user"
        )
    return found
