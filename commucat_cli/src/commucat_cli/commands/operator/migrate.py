"""``commucat-cli migrate``."""

from commucat_cli.commands.operator.settings import (
    ConfigFile,
    DataDirectory,
    explained,
    load,
    prepare_store_directory,
)
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import print_values
from commucat_cli.terminal import print_now
from commucat_server.provision import migrate_store, store_status


def migrate(as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None) -> None:
    """Bring the database to the newest schema.

    Prints applied=NAME for each migration that was applied, then schema_version=N. A server does the
    same when it starts; doing it beforehand shows whether it would succeed.
    """

    def command() -> int:
        with explained():
            settings = load(config, data_dir)
            prepare_store_directory(settings)
            applied = migrate_store(settings)
            version = store_status(settings).schema_version
        if as_json:
            print_values({"applied": list(applied), "schema_version": version}, as_json=True)
            return 0
        for name in applied:
            print_now(f"applied={name}")
        print_now(f"schema_version={version}")
        return 0

    finish(command)
