"""docs/client-developers.md names the vectors there are, and places in the protocol that exist."""

import json
import re

from project.project_files import ROOT

PAGE = (ROOT / "docs" / "client-developers.md").read_text()


def test_the_table_of_vectors_is_right() -> None:
    listed = {name: int(cases) for name, cases in re.findall(r"^\| `(\w+\.json)` \| (\d+) \|", PAGE, re.M)}
    folder = ROOT / "tests" / "vectors"
    assert listed == {path.name: len(json.loads(path.read_text())["cases"]) for path in folder.glob("*.json")}


def test_every_vector_file_is_told_of_where_it_is_of_use() -> None:
    text = PAGE.split("## Is it right?")[0]
    assert all(f"`{path.name}`" in text for path in (ROOT / "tests" / "vectors").glob("*.json"))


def anchor_of(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_references_to_the_protocol_lead_to_its_sections() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    anchors = {anchor_of(heading) for heading in re.findall(r"^#+ (.+)$", protocol, re.M)}
    wanted = set(re.findall(r"protocol\.md#([\w-]+)", PAGE))
    assert len(wanted) > 10
    assert wanted - anchors == set()


def test_the_small_client_has_the_size_that_is_told() -> None:
    [told] = re.findall(r"in (\d+) lines of plain", PAGE)
    lines = (ROOT / "tests" / "end_to_end" / "spec_client.py").read_text().count("\n")
    assert abs(lines - int(told)) < 40
