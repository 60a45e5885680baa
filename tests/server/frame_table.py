"""The table "Every frame type" of docs/protocol.md, as data."""

import re

import attrs

from commucat_proto import FrameType
from project.project_files import ROOT

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


@attrs.frozen
class Row:
    """What the table says about one type."""

    name: str
    client_states: str
    server_states: str
    kind: str
    ack: frozenset[str]
    """Members that every Ack has; empty: there is no Ack."""
    ack_perhaps: frozenset[str]
    errors: frozenset[str]


def section(heading: str) -> str:
    """The text of docs/protocol.md below a heading, up to the next one of any level."""
    _, found, rest = PROTOCOL.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def cells_of(text: str) -> list[list[str]]:
    """Rows of the tables in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for index, row in enumerate(rows)
        if row[1] != "---" and (index + 1 == len(rows) or rows[index + 1][1] != "---")
    ]


def words(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`([a-z_]+)`", cell))


def read_table() -> dict[FrameType, Row]:
    table: dict[FrameType, Row] = {}
    for head, client, server, kind, _, ack, errors in cells_of(section("### Every frame type")):
        code, name = head.split()
        sure, _, perhaps = ack.partition("perhaps")
        table[FrameType(int(code, 16))] = Row(
            name, client, server, kind, words(sure), words(perhaps), words(errors)
        )
    return table
