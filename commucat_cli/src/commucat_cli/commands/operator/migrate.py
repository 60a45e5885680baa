"""``commucat-cli migrate``."""

from commucat_cli.commands.operator.settings import (
    ConfigFile,
    DataDirectory,
    explained,
    load,
    prepare_store_directory,
)
from commucat_cli.commands.outcome import finish
from commucat_cli.terminal import print_now
from commucat_server.provision import migrate_store, store_status


def migrate(config: ConfigFile = None, data_dir: DataDirectory = None) -> None:
    """Bring the database to the newest schema.

    Prints applied=NAME for each migration that was applied, then schema_version=N. A server does the
    same when it starts; doing it beforehand shows whether it would succeed.
    """

    def command() -> int:
        with explained():
            settings = load(config, data_dir)
            prepare_store_directory(settings)
            for name in migrate_store(settings):
                print_now(f"applied={name}")
            print_now(f"schema_version={store_status(settings).schema_version}")
        return 0

    finish(command)
