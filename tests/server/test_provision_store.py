"""Which store the configuration means, and what a password in it must not reach."""

import sys
from pathlib import Path

import pytest

from commucat_server.config import ConfigError, ServerConfig, load_config
from commucat_server.provision import migrate_store, open_store, place_of_store, store_status
from commucat_storage import StorageUnavailableError
from databases.postgres_databases import PostgresDatabases

DSN = "postgresql://me:hunter2@db.example/cats"


def config_of(home: Path, **environ: str) -> ServerConfig:
    return load_config(config_path=None, data_dir=None, bind=None, environ=environ, cwd=home)


def test_without_an_address_the_store_is_a_file(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    config.data_dir.mkdir()

    assert place_of_store(config) == str(config.storage.path)
    assert store_status(config).pending == tuple(migrate_store(config))
    assert store_status(config).server is None
    assert config.storage.path.exists()


def test_an_address_selects_postgresql_and_shows_no_password(tmp_path: Path) -> None:
    config = config_of(tmp_path, COMMUCAT_PG_DSN=DSN)

    assert config.storage.postgres_dsn == DSN
    assert "store: PostgreSQL" in config.summary()
    assert place_of_store(config) == "PostgreSQL at db.example, database cats"
    for text in (repr(config), *config.summary(), *config.warnings):
        assert "hunter2" not in text


@pytest.mark.parametrize("value", ["hunter2", "mysql://me:hunter2@x/y", "host=x password=hunter2"])
def test_what_is_no_address_is_refused_unseen(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="must look like postgresql://") as caught:
        config_of(tmp_path, COMMUCAT_PG_DSN=value)

    assert "COMMUCAT_PG_DSN" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_libraries_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, COMMUCAT_PG_DSN=DSN)
    for name in [name for name in sys.modules if name.startswith("commucat_storage.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(StorageUnavailableError, match="needs asyncpg, which is not installed; run: pip"):
        open_store(config)


async def test_a_database_larger_than_the_limit_takes_no_messages(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    dsn = postgres_databases.migrated()
    config = config_of(tmp_path, COMMUCAT_PG_DSN=dsn, COMMUCAT_MAX_DATABASE_BYTES=str(1024**2))

    async with open_store(config) as storage:
        with pytest.raises(StorageUnavailableError, match="as large as it may be"):
            await storage.check()


def test_a_limit_of_the_database_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"COMMUCAT_MAX_DATABASE_BYTES: is for PostgreSQL"):
        config_of(tmp_path, COMMUCAT_MAX_DATABASE_BYTES=str(1024**3))
