"""docs/configuration.md: every key with its variable, its default, and whether a reload takes it."""

import enum
import re
from pathlib import Path

import attrs

from commucat_server.config import Networks
from commucat_server.config.federation_section import ConfiguredPeers
from commucat_server.config.ice_section import TurnServers
from commucat_server.config.keys import SECTIONS
from commucat_server.ops.reload import RELOADED

GUIDE = Path(__file__).parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `([\w.]+)` \| `(\w+)` \| (.+?) \| (yes|restart) \| (.+?) \|$", re.MULTILINE)
IN_THE_DATA_DIRECTORY = {
    "storage.path": "`commucat.db`",
    "ledger.target": "`ledger.jsonl`",
    "uploads.dir": "`uploads`",
    "attachments.dir": "`attachments`",
}


def shown(key: str, default: object) -> str:
    """A default as the guide writes it."""
    if key in IN_THE_DATA_DIRECTORY:
        return IN_THE_DATA_DIRECTORY[key]
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types it as a function
        default = default.factory()  # type: ignore[attr-defined]
    match default:
        case None | Networks() | ConfiguredPeers() | TurnServers():
            return "none"
        case bool():
            return "true" if default else "false"
        case enum.Enum():
            return f"`{default.value}`"
        case tuple():
            return f"`{', '.join(each.value for each in default)}`"
        case float():
            return f"{default:g}"
        case int():
            return str(default)
        case _:
            return f"`{default}`"


def expected() -> dict[str, tuple[str, str, str]]:
    rows = {}
    for section, kind in SECTIONS.items():
        for field in attrs.fields(kind):
            key = f"{section}.{field.name}"
            reloaded = key in RELOADED or section == "security.rate_limit"
            default = shown(key, field.default)
            rows[key] = (field.metadata["env"], default, "yes" if reloaded else "restart")
    return rows


def test_every_key_has_its_row_and_nothing_else_has_one() -> None:
    listed = {
        key: (variable, default, reload)
        for key, variable, default, reload, _ in ROW.findall(GUIDE.read_text())
    }

    assert listed == expected()


def test_reloaded_keys_exist() -> None:
    assert expected().keys() >= RELOADED
