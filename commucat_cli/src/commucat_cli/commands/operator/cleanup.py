"""``commucat-cli cleanup``: delete what nothing needs any more."""

import time

import attrs

from commucat_cli.commands.operator.on_store import on_store
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import print_values
from commucat_server.config import ServerConfig
from commucat_server.provision import operator_record
from commucat_storage import CleanedUp, Storage

SECRETS_KEPT = 30 * 86_400
"""Seconds for which an expired version of a secret is kept."""


def cleanup(as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None) -> None:
    """Delete expired sessions and codes, old versions of secrets, and rows that nothing refers to.

    Safe beside a running server, which does most of it by itself every minute. Messages are not touched:
    expired ones go when the server tells their senders.

    Prints the number of deleted rows of each kind.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> CleanedUp:
            now = int(time.time())
            cleaned = await storage.clean_up(now=now, secrets_before=now - SECRETS_KEPT)
            counts = {name: count for name, count in attrs.asdict(cleaned).items() if count}
            if counts:
                metadata = {"scope": "server", "event": "cleanup", "rows": counts, "by": "operator"}
                await storage.add_operator_record(operator_record("cleanup", metadata, now))
            return cleaned

        print_values(attrs.asdict(on_store(config, data_dir, work)), as_json=as_json)
        return 0

    finish(command)
