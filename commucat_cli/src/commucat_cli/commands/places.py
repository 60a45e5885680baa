"""Where each command is. It is imported when it is used, as all of them together take a second or two."""

from importlib import import_module
from typing import Final

import attrs

_COMMANDS: Final = "commucat_cli.commands"
_OPERATOR: Final = f"{_COMMANDS}.operator"


@attrs.frozen
class Place:
    """A function, or a ``typer.Typer`` with commands of its own."""

    module: str
    attribute: str
    hidden: bool = False
    """Works, and is not shown."""

    def load(self) -> object:
        """The function or the group."""
        found: object = getattr(import_module(self.module), self.attribute)
        return found


PLACES: Final[dict[str, Place]] = {
    "login": Place(f"{_COMMANDS}.login", "login"),
    "pair": Place(f"{_COMMANDS}.pair", "pair"),
    "claim": Place(f"{_COMMANDS}.pair", "claim"),
    "send": Place(f"{_COMMANDS}.send", "send"),
    "listen": Place(f"{_COMMANDS}.listen", "listen"),
    "chat": Place(f"{_COMMANDS}.chat", "chat"),
    "call": Place(f"{_COMMANDS}.call", "call"),
    "answer": Place(f"{_COMMANDS}.answer", "answer"),
    "call-compare": Place(f"{_COMMANDS}.call_compare", "call_compare"),
    "call-simulate": Place(f"{_COMMANDS}.call_simulate", "call_simulate"),
    "fingerprint": Place(f"{_COMMANDS}.fingerprint", "fingerprint"),
    "devices": Place(f"{_COMMANDS}.devices", "devices_app"),
    "keys": Place(f"{_COMMANDS}.keys", "keys_app"),
    "friends": Place(f"{_COMMANDS}.friends", "friends_app"),
    "links": Place(f"{_COMMANDS}.links", "links_app"),
    "profile": Place(f"{_COMMANDS}.own_profile", "profile_app"),
    "p2p-assist": Place(f"{_COMMANDS}.p2p", "p2p_assist"),
    "ice-check": Place(f"{_COMMANDS}.p2p", "ice_check"),
    "conformance": Place(f"{_COMMANDS}.conformance", "conformance_app"),
    "migrate": Place(f"{_OPERATOR}.migrate", "migrate"),
    "register-user": Place(f"{_OPERATOR}.accounts", "register_user"),
    "autopair": Place(f"{_OPERATOR}.autopair", "autopair"),
    "rotate-keys": Place(f"{_OPERATOR}.rotate_keys", "rotate_keys"),
    "diagnose": Place(f"{_OPERATOR}.diagnose", "diagnose"),
    "diagnostics": Place(f"{_OPERATOR}.diagnose", "diagnose", hidden=True),
    "doctor": Place(f"{_OPERATOR}.diagnose", "diagnose", hidden=True),
    "backup": Place(f"{_OPERATOR}.backup", "backup"),
    "restore": Place(f"{_OPERATOR}.backup", "restore"),
    "transfer": Place(f"{_OPERATOR}.transfer", "transfer"),
    "ledger": Place(f"{_OPERATOR}.ledger", "ledger_app"),
    "key-history": Place(f"{_OPERATOR}.key_history", "key_history"),
    "secrets": Place(f"{_OPERATOR}.secrets", "secrets_app"),
    "admin-token": Place(f"{_OPERATOR}.admin_token", "admin_token_app"),
    "sessions": Place(f"{_OPERATOR}.sessions", "sessions_app"),
    "queue": Place(f"{_OPERATOR}.queue", "queue_app"),
    "groups": Place(f"{_OPERATOR}.groups", "groups_app"),
    "calls": Place(f"{_OPERATOR}.calls", "calls"),
    "peers": Place(f"{_OPERATOR}.peers", "peers_app"),
    "cleanup": Place(f"{_OPERATOR}.cleanup", "cleanup"),
    "stats": Place(f"{_OPERATOR}.stats", "stats"),
    "bench": Place(f"{_OPERATOR}.bench", "bench_app"),
    "chaos": Place("commucat_cli.chaos.command", "chaos"),
    "completion": Place(f"{_COMMANDS}.manual", "completion"),
    "man": Place(f"{_COMMANDS}.manual", "man"),
}
"""In the order in which help shows them."""
