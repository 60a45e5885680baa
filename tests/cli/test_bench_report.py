"""The page and the plots of a report over all scenarios."""

import sys
from pathlib import Path
from typing import Any

import pytest

from commucat_cli.bench.report.all import FULL, QUICK
from commucat_cli.bench.report.markdown import comparison, page
from commucat_cli.bench.report.plots import PlotsUnavailableError, draw
from commucat_cli.bench.report.references import REFERENCES

QUIET: dict[str, Any] = dict.fromkeys(("lost", "duplicates", "out_of_order", "damaged", "unanswered"), 0) | {
    "warnings": [],
    "range": {},
    "environment": {
        "commit": "abc1234",
        "python": "3.11.7",
        "sqlite": "3.40.1",
        "openssl": "OpenSSL 3",
        "machine": {
            "cpus": 2,
            "cpu_model": None,
            "kernel": "6",
            "load_average": 0.1,
            "idle_driver": None,
            "may_keep_awake": True,
        },
    },
}
RELAY = QUIET | {
    "msg_per_s": 25_000.0,
    "server_cpu_us_per_msg": 50.0,
    "range": {"msg_per_s": [19_000.0, 31_000.0]},
}


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells}


def test_figures_stand_beside_targets_and_peers() -> None:
    table = rows(comparison({"relay": RELAY}))
    assert table["A. relay 1 to 1"][:5] == [
        "≥ 20,000 msg/s",
        "25,000",
        "19,000 to 31,000",
        "yes",
        "11,000 (8,000)",
    ]
    assert table["A. server CPU per message"][:4] == ["≤ 45 µs", "50", "", "**no**"]
    assert len(table) == 4, "head, line, and what was measured: no row without a figure"


def test_a_figure_is_scaled_to_the_unit_of_its_target() -> None:
    latency = QUIET | {"delivered_us_p50": 900.0, "delivered_us_p99": 5001.0}
    table = rows(comparison({"latency": latency}))
    assert table["B. delivered, p50"][1:4] == ["0.9", "", "yes"]
    assert table["B. delivered, p99"][1:4] == ["5", "", "**no**"]


def test_loss_and_warnings_are_on_the_page() -> None:
    bad = RELAY | {"lost": 3, "warnings": ["client-bound: sender"]}
    text = page({"relay": bad}, command="commucat-cli bench all", plots=["targets.png"], small=True)
    assert "- relay: **3 lost**" in text
    assert "- relay: client-bound: sender" in text
    assert "![targets](targets.png)" in text
    assert "cannot be set beside the targets" in text
    assert "small" not in page({"relay": RELAY}, command="x", plots=[], small=False)


def test_every_target_has_a_scenario_that_is_measured() -> None:
    measured = [{plan.name for plan in plans} for plans in (FULL, QUICK)]
    assert [{reference.result for reference in REFERENCES}] * 2 == measured


def test_plots_are_pictures(tmp_path: Path) -> None:
    offline = QUIET | {"messages": 100, "enqueue_segments_per_s": [10.0, 9.0], "enqueue_per_s": 9.5}
    names = draw({"relay": RELAY, "offline": offline}, tmp_path)
    assert names == ["targets.png", "enqueue.png"], "no latency was measured"
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_without_matplotlib_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotsUnavailableError, match=r"-m pip install 'matplotlib>=3\.9'"):
        draw({"relay": RELAY}, tmp_path)
    assert list(tmp_path.iterdir()) == []
