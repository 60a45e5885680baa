"""Every metric that the guide, the dashboard and the alert rules name exists, and the guide names all."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from commucat_server.config.federation_section import ConfiguredPeer
from commucat_server.federation.figures import PeerFigures, peer_figures
from commucat_storage.bus import BusCounters
from server.connect_builders import running_server
from server.metrics_builders import metrics_of, types

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)(?:\{\w+\})?` \| (\w+) \| .+ \|$", re.MULTILINE)
NAME = re.compile(r"\b(?:commucat|process|python)_\w+")
PEER = ConfiguredPeer(domain="b.example", endpoint="https://b.example", public_key=bytes(32))


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        async with running_server(tmp_path_factory.mktemp("metrics")) as server:

            async def peers() -> list[PeerFigures]:
                return await peer_figures(server.storage, [PEER], relay_ttl=1, now=1)

            return await types(metrics_of(server, bus=BusCounters(), federation=peers))

    return trio.run(ask)


def expressions_of(value: Any) -> list[str]:
    """Everything below an ``expr`` or ``query``, wherever it stands."""
    if isinstance(value, dict):
        own = [text for key, text in value.items() if key in ("expr", "query") and isinstance(text, str)]
        return own + [each for item in value.values() for each in expressions_of(item)]
    if isinstance(value, list):
        return [each for item in value for each in expressions_of(item)]
    return []


def unknown(expressions: list[str], families: dict[str, str]) -> set[str]:
    named = {name for text in expressions for name in NAME.findall(text)}
    samples = {name for name, kind in families.items() if kind != "histogram"}
    for name, kind in families.items():
        if kind == "histogram":
            samples |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
    return named - samples


def test_the_guide_names_every_metric_with_its_type_and_no_other(families: dict[str, str]) -> None:
    assert dict(ROW.findall((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))) == families


def test_the_dashboard_shows_what_exists(families: dict[str, str]) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    expressions = expressions_of(dashboard)

    assert len(expressions) > 20
    assert unknown(expressions, families) == set()
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_alerts_watch_what_exists(families: dict[str, str]) -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "commucat-alerts.yml").read_text())
    [group] = rules["groups"]

    assert unknown(expressions_of(rules), families) == set()
    for rule in group["rules"]:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])


def test_a_name_that_does_not_exist_would_be_found(families: dict[str, str]) -> None:
    assert unknown(["rate(commucat_nothing[5m])", "commucat_gc_pause_seconds"], families) == {
        "commucat_nothing",
        "commucat_gc_pause_seconds",
    }
