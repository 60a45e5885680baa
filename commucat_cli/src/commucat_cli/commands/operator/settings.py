"""The server's configuration, as a command for operators finds it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from commucat_cli.errors import CliError
from commucat_cli.terminal import warn
from commucat_server.config import ConfigError, ServerConfig, load_config
from commucat_server.provision import ProvisionError
from commucat_server.provision.files import make_private_dir
from commucat_storage import StorageError

ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML configuration file of the server.", show_default=False
    ),
]
DataDirectory: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Data directory of the server.", show_default=False),
]


class OperatorError(CliError):
    """A command for operators cannot do its work; the text is that of the part that failed."""


def load(config: Path | None, data_dir: Path | None, bind: str | None = None) -> ServerConfig:
    """The configuration, found and read exactly as ``commucat-server`` does.

    Raises:
        ConfigError: it cannot be used.
    """
    return load_config(config_path=config, data_dir=data_dir, bind=bind, environ=os.environ, cwd=Path.cwd())


@contextmanager
def explained() -> Iterator[None]:
    """Make errors of the server's parts errors of a command.

    Raises:
        OperatorError: configuration, data directory or store cannot be used.
    """
    try:
        yield
    except (ConfigError, ProvisionError, StorageError) as exc:
        raise OperatorError(str(exc)) from exc


def prepare_store_directory(config: ServerConfig) -> None:
    """Make the data directory when there is none, and say so when a new database is about to be made.

    A code of a database that no server uses opens no door: who forgot ``--data-dir`` shall see it.

    Raises:
        ProvisionError: the directory cannot be made.
    """
    make_private_dir(config.data_dir)
    if config.storage.postgres_dsn is None and not config.storage.path.exists():
        warn(f"there was no database at {config.storage.path}; a new one is made")
