"""Every scenario against a real server: it counts rightly; how fast anything is does not matter here."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.bench_builders import FAULTS, percentiles_of
from cli.operator_builders import Operator, operator_in
from commucat_cli.bench.payload import HEADER_LEN
from commucat_cli.bench.report import all as report_all
from commucat_cli.bench.scenarios import Connect, Relay
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, server_process
from project.project_files import ROOT

OPEN = "[server]\nauto_approve_devices = true\n"

COMMON = {
    "scenario",
    "profile",
    "workers",
    "runs",
    "range",
    *FAULTS,
    "acknowledged",
    "refused",
    "clients",
    "warnings",
    "server_limits",
    "environment",
}
SERVER = {"server_rss_kib"}
RELAY = {"seconds", "msg_per_s", "deliveries_per_s", "server_cpu_us_per_msg"} | SERVER
OFFLINE = {
    "seconds",
    "enqueue_per_s",
    "drain_per_s",
    "enqueue_segments_per_s",
    "enqueue_flatness",
    "enqueue_cpu_us_per_msg",
    "drain_cpu_us_per_msg",
    "restart_seconds",
} | SERVER
LATENCY = (
    percentiles_of("delivered_us")
    | percentiles_of("acked_us")
    | percentiles_of("sent_late_us")
    | {"msg_per_s", "server_cpu_us_per_msg"}
    | SERVER
)
CONNECT = (
    percentiles_of("connect_ms")
    | percentiles_of("burst_connect_ms")
    | percentiles_of("before_us")
    | percentiles_of("during_us")
    | {"seconds", "connects_per_s", "server_cpu_ms_per_connect", "burst_seconds"}
    | SERVER
)
IDLE = {"kib_per_session", "rss_before_kib", "rss_after_kib", "alive", "idle_cpu_ms_per_s"}
FANOUT = (
    percentiles_of("last_member_ms")
    | percentiles_of("acked_ms")
    | {"deliveries_per_s", "server_cpu_us_per_delivery"}
    | SERVER
)
FEDERATION = {
    "seconds",
    "msg_per_s",
    "acked_per_s",
    "sending_cpu_us_per_msg",
    "receiving_cpu_us_per_msg",
    "enqueue_per_s",
    "catchup_per_s",
    "catchup_seconds",
} | SERVER
CALLS = (
    percentiles_of("media_ms")
    | percentiles_of("message_us")
    | percentiles_of("message_sent_late_us")
    | {
        "streams",
        "packets_per_s",
        "forwarded_per_s",
        "media_lost",
        "media_repeated",
        "media_refused",
        "media_damaged",
        "sent_late_ms_max",
        "cpu_us_per_forwarded_packet",
        "streams_per_core",
        "most_forwarded_per_s",
        "step_calls",
        "step_forwarded_per_s",
        "step_cpu_us",
        "step_loss",
        "step_media_ms_p99",
        "step_message_us_p99",
    }
    | SERVER
)
CHURN = {
    "fresh_msg_per_s",
    "again_msg_per_s",
    "ratio",
    "cpu_ratio",
    "fresh_cpu_us_per_msg",
    "again_cpu_us_per_msg",
    "connects_per_s",
    "server_cpu_ms_per_connect",
    "rss_before_kib",
    "rss_after_kib",
}


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    return operator_in(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Somebody else's server, for all tests that need no fresh one."""
    with server_process(tmp_path_factory.mktemp("server"), OPEN) as process:
        yield process


@pytest.fixture
def target(server: ServerProcess) -> list[str]:
    return ["--server", server.url, "--tls-ca", str(server.ca_file)]


def measured(operator: Operator, scenario: str, *options: str, **asked: object) -> dict[str, Any]:
    """Run a scenario with options by name; returns its figures, whole."""
    named = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    code, out, err = operator.run("bench", scenario, *named, *options, "--json")
    assert code == 0, out + err
    figures: dict[str, Any] = json.loads(out)
    assert {name: figures[name] for name in asked if name != "stall"} == {
        name: value for name, value in asked.items() if name != "stall"
    }
    assert [figures[fault] for fault in FAULTS] == [0] * len(FAULTS)
    assert list(operator.home.iterdir()) == [], "everything of the run is in a temporary directory"
    return figures


def numbers(figures: dict[str, Any], names: set[str]) -> list[float]:
    """Those that were measured; each must be a number."""
    return [float(figures[name]) for name in names]


def undocumented(names: set[str]) -> set[str]:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    return names - set(re.findall(r"`([a-z][a-z0-9_]*)`", text))


# -- the scenarios --------------------------------------------------------------------------------


def test_relay(operator: Operator) -> None:
    options = {"messages": 300, "size": 100, "window": 50, "warmup": 20, "receivers": 1, "runs": 2}
    figures = measured(operator, "relay", **options)
    assert figures.keys() == COMMON | options.keys() | RELAY
    assert figures["acknowledged"] == 600
    assert min(numbers(figures, RELAY)) > 0
    assert figures["range"].keys() == RELAY
    assert {client["name"] for client in figures["clients"]} == {"sender", "receiver"}
    assert figures["server_limits"]["inbox_rows"] >= 300
    assert figures["environment"].keys() == {
        "commit",
        "python",
        "sqlite",
        "openssl",
        "libraries",
        "machine",
    }


@pytest.mark.parametrize("kill", [False, True])
def test_offline(kill: bool, operator: Operator) -> None:
    options = {"messages": 300, "size": 100, "window": 50, "warmup": 20, "receivers": 1}
    figures = measured(operator, "offline", *(["--kill"] if kill else []), **options)
    assert figures.keys() == COMMON | options.keys() | OFFLINE | {"kill"}
    assert figures["acknowledged"] == 300
    assert (figures["kill"], figures["restart_seconds"] is not None) == (kill, kill)
    assert len(figures["enqueue_segments_per_s"]) == 3, "of two windows each"
    assert min(numbers(figures, OFFLINE - {"enqueue_segments_per_s", "restart_seconds"})) > 0


@pytest.mark.parametrize("scenario", ["relay", "offline"])
def test_each_of_several_receivers_gets_everything(
    scenario: str, operator: Operator, target: list[str]
) -> None:
    measured(operator, scenario, *target, messages=100, receivers=3, warmup=0)


def test_latency(operator: Operator) -> None:
    options = {"rate": 400.0, "duration": 0.5, "size": 100, "warmup": 0.1}
    figures = measured(operator, "latency", **options)
    assert figures.keys() == COMMON | options.keys() | LATENCY
    assert figures["acknowledged"] == 240
    assert min(numbers(figures, LATENCY)) >= 0
    assert figures["delivered_us_p50"] > 0


def test_connect_with_a_burst(operator: Operator) -> None:
    options = {
        "connects": 12,
        "at_once": 3,
        "processes": 2,
        "burst": 6,
        "rate": 100.0,
        "duration": 1.0,
    }
    figures = measured(operator, "connect", **options)
    assert figures.keys() == COMMON | options.keys() | CONNECT
    assert figures["acknowledged"] == 100
    assert min(numbers(figures, CONNECT - percentiles_of("during_us"))) > 0
    assert len(figures["clients"]) == 6


def test_connect_without_a_burst_has_the_same_names(operator: Operator, target: list[str]) -> None:
    figures = measured(operator, "connect", *target, connects=3, at_once=1, processes=2)
    assert len(figures["clients"]) == 1, "one at a time needs one process"
    assert figures.keys() == COMMON | Connect().asked().keys() | CONNECT
    assert figures["burst_seconds"] is figures["during_us_p99"] is None


def test_idle(operator: Operator) -> None:
    options = {"sessions": 5, "settle": 0.0}
    figures = measured(operator, "idle", **options)
    assert figures.keys() == COMMON | options.keys() | IDLE
    assert figures["alive"] == 55, "those of the warm-up included"
    assert figures["rss_after_kib"] > 0


def test_fanout(operator: Operator) -> None:
    options = {"members": 7, "messages": 3, "rate": 20.0, "sustained": 10, "window": 4, "size": 50}
    figures = measured(operator, "fanout", processes=2, **options)
    assert figures.keys() == COMMON | options.keys() | FANOUT | {"route", "processes"}
    assert (figures["acknowledged"], figures["route"]) == (13, False)
    assert min(numbers(figures, FANOUT)) > 0
    assert len(figures["clients"]) == 6


def test_fanout_by_a_route(operator: Operator, target: list[str]) -> None:
    figures = measured(operator, "fanout", "--route", *target, members=3, messages=2, sustained=5)
    assert (figures["acknowledged"], figures["route"]) == (7, True)


def test_federation(operator: Operator) -> None:
    options = {"messages": 200, "size": 50, "window": 50, "warmup": 20, "backlog": 100}
    figures = measured(operator, "federation", **options)
    assert figures.keys() == COMMON | options.keys() | FEDERATION
    assert figures["acknowledged"] == 300
    assert min(numbers(figures, FEDERATION)) > 0
    assert [client["name"] for client in figures["clients"]] == [
        "sender",
        "receiver",
        "sender-catchup",
        "receiver-catchup",
    ]


def test_calls(operator: Operator) -> None:
    options = {
        "calls": 2,
        "parties": 3,
        "seconds": 1.0,
        "rate": 20.0,
        "size": 60,
        "messages": 20.0,
        "overload": 3,
        "step_seconds": 0.5,
        "processes": 2,
    }
    figures = measured(operator, "calls", **options)
    assert figures.keys() == COMMON | options.keys() | CALLS
    assert figures["acknowledged"] == 20 + 10
    assert figures["streams"] == 2 * 3 * 2
    assert figures["media_refused"] == figures["media_damaged"] == figures["media_repeated"] == 0
    # Voice may be dropped on a busy machine, but not most of it.
    assert figures["media_lost"] < 2 * 3 * 2 * 20 / 2
    assert figures["step_calls"] in ([2, 3], [2])
    assert figures["media_ms_p50"] > 0
    assert figures["streams_per_core"] > 0
    names = [client["name"] for client in figures["clients"]]
    assert names[:4] == ["sender", "receiver", "party-1", "party-2"]


def test_churn(operator: Operator) -> None:
    options = {"connects": 20, "at_once": 4, "processes": 2, "messages": 200, "size": 50, "window": 20}
    figures = measured(operator, "churn", warmup=10, rounds=2, **options)
    assert figures.keys() == COMMON | options.keys() | CHURN | {"warmup", "rounds"}
    assert figures["acknowledged"] == 1000, "one before, then two on either server"
    assert min(numbers(figures, CHURN)) > 0


def test_every_figure_is_explained() -> None:
    produced = COMMON | RELAY | OFFLINE | LATENCY | CONNECT | IDLE | FANOUT | FEDERATION | CALLS | CHURN
    percentiles = [name for name in produced if re.search(r"_(p\d+(_\d)?|max)$", name)]
    stems = {re.sub(r"_(p\d+(_\d)?|max)$", "", name) for name in percentiles}
    assert undocumented((produced - set(percentiles)) | stems) == set()
    assert undocumented({"no_such_figure"}) == {"no_such_figure"}


def test_all_writes_a_report(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of the scenarios: each is run by a test of its own above.
    monkeypatch.setattr(report_all, "QUICK", (Relay(messages=50, warmup=0),))
    for number in (1, 2):
        code, out, err = operator.run("bench", "all", "--quick", "--runs", "1", "--out", "results")
        assert code == 0, out + err
        assert "| A. relay 1 to 1 |" in out
        assert len(list(operator.home.glob("results/*"))) == number, "nothing is overwritten"
    folder = min(operator.home.glob("results/*"))
    results = json.loads((folder / "results.json").read_text())
    assert results.keys() == {"relay"}
    assert results["relay"]["lost"] == 0
    assert "| A. relay 1 to 1 |" in (folder / "README.md").read_text()


def test_a_report_that_cannot_be_written_is_one_line(operator: Operator) -> None:
    (operator.home / "results").write_text("a file")
    code, out, err = operator.run("bench", "all", "--quick", "--out", "results")
    assert (code, out) == (1, "")
    assert err.startswith("error: cannot make results/")
    assert err.count("\n") == 1


# -- servers --------------------------------------------------------------------------------------


def test_a_server_that_runs_already_is_used(
    operator: Operator, server: ServerProcess, target: list[str]
) -> None:
    code, out, err = operator.run("bench", "relay", "--messages", "100", "--warmup", "0", *target)
    assert code == 0, out + err
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (shown["lost"], shown["duplicates"]) == ("0", "0")
    assert (shown["server_cpu_us_per_msg"], shown["server_limits"]) == ("unknown", "unknown")
    assert server.running


@pytest.mark.parametrize("kill", [False, True])
def test_an_own_server_of_two_workers_on_postgresql(
    kill: bool, operator: Operator, postgres_databases: PostgresDatabases
) -> None:
    dsn = postgres_databases.empty()
    options = ["--messages", "200", "--warmup", "0", "--profile", "postgres", "--workers", "2", "--json"]
    scenario = ["offline", "--kill"] if kill else ["relay"]

    code, out, err = operator.run("bench", *scenario, *options, "--dsn", dsn)

    assert code == 0, out + err
    figures = json.loads(out)
    assert (figures["profile"], figures["workers"], figures["lost"]) == ("postgres", 2, 0)
    assert figures["acknowledged"] == 200
    assert figures["server_rss_kib"] > 3 * 30_000, "the parent and two workers"
    assert dsn not in out
    assert run_sql(dsn, "SELECT count(*) FROM pg_database WHERE datname LIKE 'commucat_scratch%'") == "0"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "2"], "several need --profile postgres"),
        (["--profile", "postgres"], "is needed with --profile postgres"),
        (["--profile", "postgres", "--dsn", "postgresql://me@127.0.0.1:1/x"], "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_used_is_told(options: list[str], told: str, operator: Operator) -> None:
    code, out, err = operator.run("bench", "relay", "--messages", "10", *options)

    assert code in (1, 2)
    assert told in err + out
    assert "Traceback" not in err


def test_messages_that_a_full_inbox_refuses_are_lost(
    operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    few = f"{OPEN}[limits]\ninbox_rows = 40\n"
    with server_process(tmp_path_factory.mktemp("small"), few) as server:
        target = ["--server", server.url, "--tls-ca", str(server.ca_file)]
        code, out, err = operator.run(
            "bench", "offline", "--messages", "100", "--warmup", "0", "--stall", "1", "--json", *target
        )
    assert code == 1
    assert "nothing arrived for 1 s" in err
    figures = json.loads(out)
    assert (figures["acknowledged"], figures["refused"], figures["lost"]) == (40, 60, 60)


def test_a_server_that_is_not_there_is_one_line(operator: Operator, server: ServerProcess) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        code, out, err = operator.run("bench", "relay", "--server", url, "--tls-ca", str(server.ca_file))
    assert (code, out) == (1, "")
    assert err.startswith("error: the receiver ended: cannot connect to ")
    assert err.count("\n") == 1


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process(kind: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "commucat-cli"), "bench", "relay", "--messages", "10000000", "--size", "16"],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
    )
    with process:
        wait_until(lambda: process.poll() is not None or bool(list(tmp_path.glob("*/sender.log"))))
        assert process.poll() is None
        started = processes_in(tmp_path)
        assert len(started) >= 3, "the command itself, server and receiver"
        process.send_signal(kind)
        assert process.wait(DEADLINE) == (143 if kind is signal.SIGTERM else -signal.SIGKILL)
    if kind is signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []
        assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    else:
        # Nobody is left to wait for them: each notices by itself.
        wait_until(lambda: not processes_in(tmp_path))


@pytest.mark.parametrize("scenario", ["relay", "offline"])
def test_a_server_that_dies_is_one_line(scenario: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "commucat-cli"), "bench", scenario, "--messages", "1000000", "--warmup", "0"],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_until(lambda: process.poll() is not None or bool(list(tmp_path.glob("*/sender.log"))))
        for pid in processes_in(tmp_path):
            if b"commucat_server.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGKILL)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: the ")
    assert err.count("\n") == 1
    assert "defect" not in err
    assert list(tmp_path.iterdir()) == []


def wait_until(condition: Any) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


def processes_in(folder: Path) -> list[str]:
    everybody = [path.name for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in everybody if str(folder) in working_directory(pid)]


def working_directory(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["relay", "--messages", "0"],
        ["relay", "--size", str(HEADER_LEN - 1)],
        ["relay", "--runs", "0"],
        ["offline", "--window", "0"],
        ["offline", "--kill", "--server", "https://example.org"],
        ["relay", "--receivers", "501"],
        ["relay", "--tls-ca", "file.pem"],
        ["relay", "--server", "http://example.org"],
        ["latency", "--rate", "0"],
        ["latency", "--rate", "nan"],
        ["relay", "--stall", "inf"],
        ["latency", "--rate", "100000", "--duration", "3600"],
        ["connect", "--processes", "65"],
        ["idle", "--server", "https://example.org"],
        ["idle", "--sessions", "0"],
        ["federation", "--server", "https://example.org"],
        ["federation", "--messages", "0"],
        ["federation", "--backlog", "-1"],
        ["fanout", "--members", "5000"],
        ["relay", "--messages", "10000000", "--size", "1000000"],
        ["offline", "--messages", "100000", "--size", "1000000"],
        ["latency", "--size", "1000000", "--rate", "1000", "--duration", "100"],
        ["latency", "--rate", "0.02", "--duration", "100"],
        ["latency", "--rate", "0.5", "--duration", "1", "--warmup", "1"],
        ["relay", "--stall", "1e10"],
        ["relay", "--dsn", "postgresql://localhost/nothing"],
        ["connect", "--burst", "1", "--rate", "100000", "--duration", "3600"],
        ["calls", "--parties", "2", "--rate", "1", "--seconds", "3600", "--messages", "10000"],
        ["calls", "--parties", "1"],
        ["calls", "--seconds", "nan"],
        ["calls", "--calls", "100", "--seconds", "3600"],
        ["calls", "--calls", "100", "--parties", "64", "--seconds", "1", "--processes", "1"],
        ["churn", "--connects", "0"],
        ["all", "--runs", "0"],
        ["sideways"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], operator: Operator) -> None:
    assert operator.run("bench", *arguments)[0] == 2
